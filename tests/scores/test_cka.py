"""CKA equals the cosine of the centred kernels, and the unbiased version has mean 0 for unrelated kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.kernels.alignment import label_kernel
from ntk_select.scores.cka import cka, cka_features_gradient, cka_gradient, kernel_alignment


def problem(rng, n=30, d=8, classes=4):
    labels = np.arange(n) % (classes + 1) % classes
    return rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)), labels


def hsic(a, b):
    h = np.eye(len(a)) - np.ones_like(a) / len(a)
    return np.trace(h @ a @ h @ h @ b @ h)


def unbiased_hsic(a, b):
    """Song et al. 2012, eq. 5, but for a factor that cancels."""
    n, one = len(a), np.ones(len(a))
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    return np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ a @ b @ one)


def definition(a, b, product=hsic):
    return product(a, b) / np.sqrt(product(a, a) * product(b, b))


@pytest.mark.parametrize("d", [5, 60])
def test_alignment_is_the_cosine_of_centred_kernels(rng, d):
    features, labels = problem(rng, d=d)
    other = rng.normal(size=(30, 7)) + features[:, :1]
    a, b = features @ features.T, other @ other.T
    assert kernel_alignment(a, b) == pytest.approx(definition(a, b), abs=1e-12)
    assert kernel_alignment(a, b, unbiased=True) == pytest.approx(definition(a, b, unbiased_hsic), abs=1e-12)
    assert cka(features, labels) == pytest.approx(definition(a, np.eye(4)[labels] @ np.eye(4)[labels].T), abs=1e-12)
    assert cka_gradient(b, labels) == pytest.approx(definition(b, label_kernel(labels)), abs=1e-12)
    assert cka_features_gradient(features, b) == pytest.approx(definition(a, b), abs=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_kernel_is_like_its_multiples_and_the_scale_shift_and_order_play_no_part(rng, unbiased):
    (features, _), other = problem(rng), rng.normal(size=(30, 4))
    a, b = features @ features.T, other @ other.T
    value, order = kernel_alignment(a, b, unbiased=unbiased), rng.permutation(30)
    assert kernel_alignment(a, 7 * a, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    assert kernel_alignment(1e-8 * a, 1e5 * b, unbiased=unbiased) == pytest.approx(value, abs=1e-12)
    assert kernel_alignment(b, a, unbiased=unbiased) == pytest.approx(value, abs=1e-12)
    assert kernel_alignment(a[order][:, order], b[order][:, order], unbiased=unbiased) == pytest.approx(value, abs=1e-12)
    shifted = features + 5
    assert kernel_alignment(shifted @ shifted.T, b, unbiased=unbiased) == pytest.approx(value, abs=1e-10)
    assert kernel_alignment(a.astype(np.float32), b.astype(np.float32), unbiased=unbiased) == pytest.approx(value, abs=1e-5)


def test_features_may_be_scaled_rotated_and_shifted_and_classes_renamed(rng):
    features, labels = problem(rng)
    rotation, value = np.linalg.qr(rng.normal(size=(8, 8)))[0], cka(features, labels)
    order = rng.permutation(30)
    assert cka(1e4 * features @ rotation, labels) == pytest.approx(value, abs=1e-10)
    assert cka(1e-4 * features + 3, labels) == pytest.approx(value, abs=1e-9)
    assert cka(features[order], np.array([5, -9, 44, 2])[labels[order]]) == pytest.approx(value, abs=1e-12)
    assert cka(features.astype(np.float32), labels) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("shift", [10, 1000, 20_000])
def test_a_shift_of_the_features_leaves_the_alignment_with_gradients(rng, shift):
    features, _ = problem(rng)
    half = rng.normal(size=(30, 50))
    assert cka_features_gradient(features + shift, half @ half.T) == pytest.approx(cka_features_gradient(features, half @ half.T), abs=1e-6)


def test_one_hot_features_score_one(rng):
    for labels in (np.arange(30) % 3, np.array([0] * 20 + [1, 2, 2, 3, 3, 3])):
        one_hot = np.eye(4)[labels]
        # The label kernel holds inner products of one-hot labels, so that these features are the labels.
        assert cka(5 * one_hot + 2, labels) == pytest.approx(1, abs=1e-12)
        assert cka_gradient(one_hot @ one_hot.T, labels) == pytest.approx(1, abs=1e-12)
        assert cka_features_gradient(one_hot, label_kernel(labels)) == pytest.approx(1, abs=1e-12)


def test_unrelated_features_have_no_unbiased_alignment_but_a_biased_one(rng):
    found = {True: [], False: []}
    for _ in range(200):
        a, b = rng.normal(size=(12, 40)), rng.normal(size=(12, 30))
        for unbiased, values in found.items():
            values.append(kernel_alignment(a @ a.T, b @ b.T, unbiased=unbiased))
    assert abs(np.mean(found[True])) < 4 * np.std(found[True]) / np.sqrt(200)
    assert np.mean(found[False]) > 0.6


def test_shuffled_labels_score_lower(rng):
    features, labels = problem(rng)
    kernel = features @ features.T
    assert cka(features, labels) > max(cka(features, rng.permutation(labels)) for _ in range(50))
    assert cka_gradient(kernel, labels) > max(cka_gradient(kernel, rng.permutation(labels)) for _ in range(50))


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans())
def test_values_lie_in_range(seed, d, layout, collapsed):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 8, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    features = rng.normal(size=(4, d))[labels] if collapsed else rng.normal(size=(len(labels), d))
    kernel = features @ features.T
    assert 0 <= cka(features, labels) <= 1
    assert cka(features, labels) == pytest.approx(cka_gradient(kernel, labels), abs=1e-7)
    if layout != "300:1":
        assert -1 <= kernel_alignment(kernel, label_kernel(labels), unbiased=True) <= 1


def test_two_classes_one_of_a_single_image_have_no_unbiased_alignment(rng):
    """Every pair is a sum of two images' terms, which centring takes away; only the diagonal, left out here, tells more."""
    features, labels = rng.normal(size=(301, 3)), np.array([0] * 300 + [1])
    assert cka_gradient(features @ features.T, labels) == pytest.approx(cka(features, labels), abs=1e-10)
    with pytest.raises(UndefinedScoreError, match="alignment is undefined"):
        kernel_alignment(features @ features.T, label_kernel(labels), unbiased=True)


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (np.eye(4), np.zeros(4, int), UndefinedScoreError, "one class"),
        (np.eye(4), np.arange(4), UndefinedScoreError, "one image only"),
        (np.full((4, 3), 0.1), np.arange(4) % 2, UndefinedScoreError, "constant|same for all images"),
        (np.eye(4), np.arange(3), TaskError, "4 rows of .* for 3 labels"),
        (np.eye(4) / np.nan, np.arange(4) % 2, TaskError, "NaN or infinity"),
    ],
)
def test_undefined_and_malformed_labels_and_features_are_refused(features, labels, error, message):
    for refused in (lambda: cka(features, labels), lambda: cka_gradient(features @ features.T, labels)):
        with pytest.raises(error, match=message):
            refused()


def test_undefined_and_malformed_kernels_are_refused():
    for a, b in ((np.eye(4), np.eye(5)), (np.eye(4)[:3], np.eye(4)), (np.eye(4), np.ones(4)), (np.ones((4, 4, 4)), np.eye(4))):
        with pytest.raises(TaskError, match="both must be"):
            kernel_alignment(a, b)
    for unbiased, constant in ((False, np.full((5, 5), 0.1)), (True, np.eye(5)), (True, np.full((5, 5), 0.1))):
        with pytest.raises(UndefinedScoreError, match="the same for all images"):
            kernel_alignment(constant, np.diag(np.arange(5.0)) + np.arange(5) * np.arange(5)[:, None], unbiased=unbiased)
    with pytest.raises(UndefinedScoreError, match="3 images are too few for the unbiased alignment; 4 are needed"):
        kernel_alignment(np.eye(3), np.eye(3), unbiased=True)
