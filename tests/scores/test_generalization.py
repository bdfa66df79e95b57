"""The score equals Y' (Theta + r)^-1 Y / n in units of the mean eigenvalue, and depends on the labels."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.generalization import generalization, generalization_features


def by_inverse(kernel, labels):
    n = len(labels)
    inverse = np.linalg.inv(kernel / (np.trace(kernel) / n) + 1e-4 * np.eye(n))
    return sum(float((labels == label) @ inverse @ (labels == label)) for label in np.unique(labels)) / n


@pytest.mark.parametrize(("n", "d"), [(40, 6), (30, 30), (20, 90)])
def test_it_is_the_definition_by_inversion(rng, n, d):
    labels = rng.permutation(np.arange(n) % 3)
    features = rng.normal(size=(n, d)) + rng.normal(size=(3, d))[labels]
    expected = by_inverse(features @ features.T, labels)
    found = generalization(features @ features.T, labels)
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert found.details["bound"] == pytest.approx(np.sqrt(2 * expected), rel=1e-8)
    assert generalization_features(features, labels).value == pytest.approx(expected, rel=1e-8)


def test_scale_order_and_names_play_no_part(rng):
    labels, factor = np.arange(20) % 3, rng.normal(size=(20, 30))
    kernel, order = factor @ factor.T, rng.permutation(20)
    value = generalization(kernel, labels).value
    assert generalization(1e8 * kernel, labels).value == pytest.approx(value, rel=1e-9)
    assert generalization(1e-8 * kernel, labels).value == pytest.approx(value, rel=1e-9)
    assert generalization(kernel[np.ix_(order, order)], np.array([31, -2, 8])[labels[order]]).value == pytest.approx(value, rel=1e-9)
    rotation = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    assert generalization_features(5 * factor @ rotation, labels).value == pytest.approx(value, rel=1e-8)


def test_the_kernel_of_the_labels_the_identity_and_a_kernel_blind_to_them_have_known_scores(rng):
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    same = (labels[:, None] == labels).astype(float)
    by_hand = (6 / 6.0001 + 3 / 3.0001 + 1 / 1.0001) / 10
    assert generalization(same, labels).value == pytest.approx(by_hand, rel=1e-12)
    assert generalization(7 * np.eye(10), labels).value == pytest.approx(1 / 1.0001, rel=1e-12)
    blind = rng.normal(size=(10, 4))
    blind -= np.array([blind[labels == label].mean(0) for label in labels])
    assert generalization(blind @ blind.T, labels).value == pytest.approx(1e4, rel=1e-9)
    assert generalization_features(blind, labels).value == pytest.approx(1e4, rel=1e-9)


def test_shuffled_labels_score_worse_which_is_higher(separable, noise, rng):
    features, labels = separable
    kernel = features @ features.T
    assert generalization(kernel, labels).value < min(generalization(kernel, rng.permutation(labels)).value for _ in range(50)) - 1000
    assert generalization_features(features, labels).value < generalization_features(*noise).value - 1000


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 20), min_size=2, max_size=4).filter(lambda c: max(c) > 1), st.integers(1, 40))
@example(0, [300, 1], 5)
@example(0, [2, 1, 1, 1], 30)
def test_values_lie_between_zero_and_ten_thousand(seed, counts, d):
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(seed).normal(size=(len(labels), d))
    value = generalization_features(features, labels).value
    assert 0 < value <= 1e4
    assert value == pytest.approx(by_inverse(features @ features.T, labels), rel=1e-6)


def test_single_precision_agrees(separable, rng):
    """The ridge magnifies the rounding of the kernel ten thousandfold at most."""
    features, labels = separable
    expected = by_inverse(features @ features.T, labels)
    assert generalization_features(features.astype(np.float32), labels).value == pytest.approx(expected, rel=1e-5)
    assert generalization((features @ features.T).astype(np.float32), labels).value == pytest.approx(expected, rel=1e-3)
    full = rng.normal(size=(60, 200))
    assert generalization((full @ full.T).astype(np.float32), labels).value == pytest.approx(by_inverse(full @ full.T, labels), rel=1e-4)


@pytest.mark.parametrize(
    ("kernel", "labels", "error", "message"),
    [
        (np.zeros((4, 4)), [0, 0, 1, 1], UndefinedScoreError, "trace zero"),
        (np.full((4, 4), 0.3), [0, 0, 1, 1], UndefinedScoreError, "constant over all pairs"),
        (np.eye(4), [2, 2, 2, 2], UndefinedScoreError, "of one class"),
        (np.eye(4), [0, 1, 2, 3], UndefinedScoreError, "one image only"),
        (np.eye(4), [0, 0, 1], TaskError, "4 rows of the kernel for 3 labels"),
        (np.eye(4)[:, :3], [0, 0, 1, 1], TaskError, r"shape \(4, 3\) for 4 labels; it must be \(4, 4\)"),
        (np.ones(4), [0, 0, 1, 1], TaskError, r"shape \(4,\) for 4 labels"),
        (np.eye(4), [0.0, 0, 1, 1], TaskError, "row of integers"),
    ],
)
def test_undefined_and_malformed_kernels_are_refused(kernel, labels, error, message):
    with pytest.raises(error, match=message):
        generalization(kernel, np.array(labels))


@pytest.mark.parametrize("where", [(0, 0), (0, 1)])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite_is_refused_as_such(where, number):
    kernel = np.eye(4)
    kernel[where] = kernel[where[::-1]] = number
    with pytest.raises(TaskError, match="kernel holds NaN or infinity"):
        generalization(kernel, np.array([0, 0, 1, 1]))


def test_what_is_no_kernel_is_refused(rng):
    kernel = np.eye(4)
    kernel[0, 1] = 0.5
    with pytest.raises(ValueError, match="not symmetric"):
        generalization(kernel, np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="not positive semi-definite"):
        generalization(np.diag([3.0, 1, 1, -1]), np.array([0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (np.zeros((4, 3)), [0, 0, 1, 1], UndefinedScoreError, "constant over all images"),
        (np.eye(4), [0, 0, 0, 0], UndefinedScoreError, "of one class"),
        (np.eye(4), [0, 0, 1], TaskError, "for 3 labels"),
        (np.full((4, 2), np.nan), [0, 0, 1, 1], TaskError, "NaN or infinity"),
    ],
)
def test_undefined_and_malformed_features_are_refused(features, labels, error, message):
    with pytest.raises(error, match=message):
        generalization_features(features, np.array(labels))
