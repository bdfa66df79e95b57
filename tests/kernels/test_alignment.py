"""`kernel_label_correlation` equals the Pearson correlation of explicit matrices."""

import numpy as np
import pytest

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.kernels.alignment import feature_kernel, kernel_label_correlation, label_kernel

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])


@pytest.fixture
def features(rng):
    return rng.normal(size=(len(LABELS), 5)) + np.eye(5)[LABELS % 5]


def test_label_kernel_is_plus_and_minus_one():
    expected = [[1 if a == b else -1 for b in LABELS] for a in LABELS]
    np.testing.assert_array_equal(label_kernel(LABELS), expected)


def test_feature_kernel_is_the_loop_over_inner_products(features):
    expected = [[sum(a * b) for b in features] for a in features]
    np.testing.assert_allclose(feature_kernel(features), expected, rtol=1e-12)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_correlation_is_numpy_corrcoef_of_the_entries(features, diagonal, center, normalize):
    kernel = features @ features.T
    expected = kernel
    if center:
        hat = np.eye(len(LABELS)) - 1 / len(LABELS)
        expected = hat @ kernel @ hat
    if normalize:
        expected = np.array([[expected[i, j] / np.sqrt(expected[i, i] * expected[j, j]) for j in range(len(LABELS))] for i in range(len(LABELS))])
    keep = np.ones_like(kernel, bool) if diagonal else ~np.eye(len(LABELS), dtype=bool)
    target = label_kernel(LABELS)
    expected = np.corrcoef(expected[keep], target[keep])[0, 1]
    got = kernel_label_correlation(kernel, LABELS, diagonal=diagonal, center=center, normalize=normalize)
    assert got == pytest.approx(expected, abs=1e-12)


def test_frobenius_norm_not_spectral(features):
    """The spectral reading of eq. 8, found in public copies, gives another number."""
    kernel, target = features @ features.T, label_kernel(LABELS)
    centred, wanted = kernel - kernel.mean(), target - target.mean()
    spectral = (centred * wanted).sum() / np.linalg.norm(centred, 2) / np.linalg.norm(wanted, 2)
    assert abs(kernel_label_correlation(kernel, LABELS) - spectral) > 0.01


def test_label_kernel_correlates_perfectly_with_itself():
    assert kernel_label_correlation(label_kernel(LABELS), LABELS) == pytest.approx(1, abs=1e-12)
    assert kernel_label_correlation(-label_kernel(LABELS), LABELS) == pytest.approx(-1, abs=1e-12)


def test_renaming_classes_and_scaling_change_nothing(features):
    kernel = feature_kernel(features)
    value = kernel_label_correlation(kernel, LABELS)
    assert kernel_label_correlation(3.7 * kernel, np.array([7, -2, 100, 5])[LABELS]) == pytest.approx(value, abs=1e-12)


def test_off_diagonal_score_is_centred_under_label_permutation(features):
    rng = np.random.default_rng(1)
    kernel = feature_kernel(features)
    draws = [kernel_label_correlation(kernel, rng.permutation(LABELS), diagonal=False) for _ in range(4000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))


@pytest.mark.parametrize(
    ("kernel", "labels", "options", "error", "message"),
    [
        (np.eye(3), np.zeros(3, int), {}, UndefinedScoreError, "one class"),
        (np.ones((3, 3)), np.array([0, 1, 1]), {}, UndefinedScoreError, "constant"),
        (np.zeros((3, 3)), np.array([0, 1, 1]), {}, UndefinedScoreError, "constant"),
        (np.eye(3), np.arange(3), {"diagonal": False}, UndefinedScoreError, "No two examples"),
        (np.diag([1.0, 0.0, 1.0]), np.array([0, 1, 1]), {"normalize": True}, UndefinedScoreError, "norm zero"),
        (np.eye(4), np.array([0, 1, 1]), {}, TaskError, r"\(4, 4\) for 3 labels"),
        (np.full((2, 2), np.nan), np.array([0, 1]), {}, TaskError, "NaN"),
        (np.eye(2), np.array([0.0, 1.0]), {}, TaskError, "integers"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(kernel, labels, options, error, message):
    with pytest.raises(error, match=message):
        kernel_label_correlation(kernel, labels, **options)


def test_features_that_are_not_a_finite_matrix_are_refused():
    with pytest.raises(TaskError, match="one row per example"):
        feature_kernel(np.zeros(3))
    with pytest.raises(TaskError, match="NaN"):
        feature_kernel(np.array([[np.inf, 1.0]]))
