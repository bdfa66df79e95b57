"""Shared decompositions reproduce the features, are cut at the numerical rank, and are computed once."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.domain_similarity import domain_similarity
from ntk_select.scores.features import Features, as_features, checked_classes, class_means, labelled, one_hot
from ntk_select.scores.gbc import gbc
from ntk_select.scores.generalization import generalization_features
from ntk_select.scores.hscore import hscore, hscore_shrinkage
from ntk_select.scores.logme import logme
from ntk_select.scores.nleep import nleep
from ntk_select.scores.transrate import transrate

OF_FEATURES = [gbc, generalization_features, hscore, hscore_shrinkage, logme, nleep, transrate]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 40))
@example(0, 300, 5)
def test_both_decompositions_restore_the_array_with_orthonormal_vectors_and_fixed_signs(seed, n, d):
    array = np.random.default_rng(seed).normal(size=(n, d)) + 3
    features = Features(array)
    assert (len(features), features.width) == (n, d)
    for found, whole, rank in ((features.plain_svd, array, min(n, d)), (features.svd, array - array.mean(0), min(n - 1, d))):
        left, values, right = found
        assert left.shape == (n, rank)
        assert right.shape == (rank, d)
        np.testing.assert_allclose(left @ np.diag(values) @ right, whole, atol=1e-10)
        np.testing.assert_allclose(left.T @ left, np.eye(rank), atol=1e-12)
        np.testing.assert_allclose(right @ right.T, np.eye(rank), atol=1e-12)
        np.testing.assert_allclose(found.coordinates, whole @ right.T, atol=1e-10)
        assert (np.diff(values) <= 0).all()
        assert (left.max(0, initial=-1) >= -left.min(0, initial=1) - 1e-12).all()


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 50)])
def test_coordinates_are_the_principal_components_of_scikit_learn(rng, n, d):
    array = rng.normal(size=(n, d)) * rng.uniform(0.1, 2, d)
    expected = PCA(min(n - 1, d), svd_solver="full").fit_transform(array)
    found = Features(array).svd.coordinates
    np.testing.assert_allclose(found * np.sign((found * expected).sum(0)), expected, atol=1e-9)


def test_the_order_of_the_images_changes_no_direction(rng):
    array, order = rng.normal(size=(20, 7)), rng.permutation(20)
    np.testing.assert_allclose(Features(array[order]).svd.right, Features(array).svd.right, atol=1e-10)
    np.testing.assert_allclose(Features(array[order]).svd.left, Features(array).svd.left[order], atol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_the_rank_is_that_of_the_features_and_not_of_rounding(rng, shift):
    low = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 10))
    assert len(Features(low + shift).svd.values) == 3
    assert len(Features(low).plain_svd.values) == 3
    assert len(Features(1e-9 * low).svd.values) == 3


def test_what_came_in_single_precision_is_known_to_single_precision_only(rng):
    low = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 10))).astype(np.float32)
    assert np.linalg.matrix_rank(low.astype(np.float64)) == 10
    assert len(Features(low).svd.values) == 3
    assert Features(low).array.dtype == np.float64
    assert len(Features(np.arange(12).reshape(4, 3)).plain_svd.values) == 2


def test_each_decomposition_is_computed_once_whatever_scores_ask_for_it(separable, monkeypatch):
    calls, real = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *args, **options: calls.append(args) or real(*args, **options))
    features = Features(separable.features)
    assert as_features(features) is features
    assert not calls
    for score in OF_FEATURES:
        score(features, separable.labels)
    assert len(calls) == 2  # centred, and for LogME plain


@pytest.mark.parametrize("score", OF_FEATURES)
def test_every_score_takes_features_for_the_array_and_leaves_it_as_it_was(separable, score):
    before = separable.features.copy()
    value = float(score(separable.features, separable.labels))
    assert float(score(Features(separable.features), separable.labels)) == value
    assert (separable.features == before).all()


def test_domain_similarity_takes_features_for_both_arrays(separable):
    means = Features(np.eye(8)[:3])
    found = domain_similarity(means, [9, 9, 9], Features(separable.features), separable.labels)
    assert found == domain_similarity(means.array, [9, 9, 9], *separable)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_class_means_and_one_hot_are_the_loops(seed, counts):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    rows = rng.normal(size=(len(labels), 3))
    expected = [rows[labels == label].mean(0) for label in range(len(counts))]
    np.testing.assert_allclose(class_means(rows, labels, np.array(counts)), expected, atol=1e-13)
    hot = one_hot(labels, len(counts))
    assert (hot.argmax(1) == labels).all()
    assert (hot.sum(1) == 1).all()
    assert hot.sum(0).tolist() == counts


def test_labels_are_renumbered_and_absent_ids_leave_no_class():
    ids, counts = checked_classes(np.array([7, -2, 7, 1000, -2, 7]), 6, "rows")
    assert ids.tolist() == [1, 0, 1, 2, 0, 1]
    assert counts.tolist() == [2, 3, 1]
    found = labelled(np.eye(6), np.array([7, -2, 7, 1000, -2, 7]))
    assert found.labels.tolist() == ids.tolist()
    assert found.counts.tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.empty((0, 3)), r"shape \(0, 3\)"),
        (np.empty((3, 0)), r"shape \(3, 0\)"),
        (np.array([[1.0, np.nan]]), "NaN or infinity"),
        (np.array([[1.0, -np.inf]]), "NaN or infinity"),
    ],
)
def test_what_is_no_finite_table_is_refused(array, message):
    with pytest.raises(TaskError, match=message):
        Features(array)


@pytest.mark.parametrize(
    ("array", "labels", "error", "message"),
    [
        (np.ones((4, 2)), [0, 0, 1, 1], UndefinedScoreError, "constant over all images"),
        (np.zeros((4, 2)), [0, 0, 1, 1], UndefinedScoreError, "constant over all images"),
        (1 + 1e-8 * np.eye(4), [0, 0, 1, 1], UndefinedScoreError, "constant over all images"),
        (np.full((4, 2), 0.1, np.float32), [0, 0, 1, 1], UndefinedScoreError, "constant over all images"),
        (np.eye(4), [3, 3, 3, 3], UndefinedScoreError, "of one class"),
        (np.eye(4), [0, 1, 2, 3], UndefinedScoreError, "Every class has one image only"),
        (np.eye(4), [0, 0, 1], TaskError, "4 rows of features for 3 labels"),
        (np.eye(4), [0.0, 0, 1, 1], TaskError, "row of integers"),
        (np.eye(4), [[0, 0, 1, 1]], TaskError, "row of integers"),
    ],
)
def test_samples_without_a_score_are_refused(array, labels, error, message):
    with pytest.raises(error, match=message):
        labelled(array, np.array(labels))


@pytest.mark.parametrize("score", [gbc, hscore, hscore_shrinkage, nleep, transrate])
def test_features_that_vary_by_less_than_single_precision_tells_are_constant(rng, score):
    array = (1000 + 1e-3 * rng.normal(size=(200, 20))).astype(np.float32)
    assert len(Features(array).svd.values) == 0
    with pytest.raises(UndefinedScoreError, match="constant over all images"):
        score(array, np.arange(200) % 4)
