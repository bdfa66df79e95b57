"""The closed form of LFC equals its definition and depends on the labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel

from ntk_select.errors import ConfigError, TaskError, UndefinedScoreError
from ntk_select.kernels.alignment import kernel_label_correlation, label_kernel
from ntk_select.scores.lfc import KERNELS, lfc


def definition(features, labels, kernel="dot", diagonal=True, center=False, normalize=False):
    if center:
        features = features - features.mean(0)
    if kernel == "correlation":
        gram = np.corrcoef(features)
    elif kernel == "cosine" or normalize:
        unit = features / np.linalg.norm(features, axis=1)[:, None]
        gram = unit @ unit.T
    else:
        gram = features @ features.T
    if kernel == "rbf":
        rows = unit if normalize else features
        distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
        gram = rbf_kernel(rows, gamma=1 / np.median(distances[np.triu_indices(len(rows), 1)]))
    keep = np.ones_like(gram, bool) if diagonal else ~np.eye(len(gram), dtype=bool)
    return np.corrcoef(gram[keep], label_kernel(labels)[keep])[0, 1]


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "options", [{}, {"diagonal": False}, {"center": True}, {"normalize": True}, {"diagonal": False, "center": True, "normalize": True}]
)
def test_closed_form_is_the_definition(rng, shape, kernel, options):
    labels = np.arange(shape[0]) % 3
    features = np.maximum(rng.normal(size=shape) + rng.normal(size=(3, shape[1]))[labels], 0)
    assert lfc(features, labels, kernel=kernel, **options) == pytest.approx(definition(features, labels, kernel, **options), abs=1e-11)


def test_paper_size_agrees_in_float64_and_float32(rng):
    labels = np.repeat(np.arange(10), 25)
    features = np.maximum(rng.normal(size=(250, 512)) + 0.3 * rng.normal(size=(10, 512))[labels], 0)
    expected = definition(features, labels)
    assert lfc(features, labels) == pytest.approx(expected, abs=1e-12)
    assert lfc(features.astype(np.float32), labels) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 30), st.integers(1, 30), st.integers(2, 4))
def test_value_lies_in_range_and_survives_permutation_scaling_and_rotation(seed, n, d, c):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(c), rng.integers(0, c, n - c)]) if n > c else np.arange(n) % 2
    features = rng.normal(size=(n, d))
    value = lfc(features, labels)
    order = rng.permutation(n)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert -1 <= value <= 1
    assert lfc(features[order], labels[order]) == pytest.approx(value, abs=1e-9)
    assert lfc(5.0 * features @ rotation, labels + 3) == pytest.approx(value, abs=1e-9)


def test_collapsed_features_score_one_and_shuffled_labels_score_lower(rng):
    labels = np.repeat(np.arange(4), 10)
    assert lfc(np.eye(4)[labels], labels) == pytest.approx(1, abs=1e-12)
    features = np.eye(4)[labels] + 0.3 * rng.normal(size=(40, 4))
    shuffled = [lfc(features, rng.permutation(labels), diagonal=False) for _ in range(50)]
    assert lfc(features, labels, diagonal=False) > max(shuffled)


def test_not_the_centred_alignment(rng):
    """LFC is not invariant to a shift of the features; CKA is. Centring makes it so."""
    labels, features = np.arange(20) % 2, rng.normal(size=(20, 6))
    assert abs(lfc(features + 5, labels) - lfc(features, labels)) > 0.01
    assert lfc(features + 5, labels, center=True) == pytest.approx(lfc(features, labels, center=True), abs=1e-10)


def test_a_class_with_one_example_only_adds_its_diagonal_entry(rng):
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    features = rng.normal(size=(7, 3))
    assert lfc(features, labels) == pytest.approx(kernel_label_correlation(features @ features.T, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "message"),
    [
        (np.ones((4, 3)), np.arange(4) % 2, {}, UndefinedScoreError, "constant"),
        (np.eye(4), np.zeros(4, int), {}, UndefinedScoreError, "one class"),
        (np.eye(4), np.arange(3), {}, TaskError, "4 rows of features for 3 labels"),
        (np.eye(4), np.arange(4) % 2, {"kernel": "rfb"}, ConfigError, "Did you mean 'rbf'"),
        (np.array([[0.0, 0], [1, 0], [0, 1]]), np.array([0, 1, 1]), {"normalize": True}, UndefinedScoreError, "norm zero"),
        (np.array([[1.0], [1], [1], [1], [2]]), np.array([0, 1, 1, 0, 1]), {"kernel": "rbf"}, UndefinedScoreError, "no width"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(features, labels, options, error, message):
    with pytest.raises(error, match=message):
        lfc(features, labels, **options)
