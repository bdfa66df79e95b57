"""GBC equals the overlap of Gaussians, by numerical integration, in the first principal components."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from ntk_select.errors import ConfigError
from ntk_select.scores import SCORES
from ntk_select.scores.gbc import COMPONENTS, COVARIANCES, gbc


def overlap_in_one_dimension(m, v, mean, variance):
    """Integral of sqrt(p q) by the trapezoid rule, which converges exponentially for it."""
    low, high = min(m, mean) - 12 * np.sqrt(max(v, variance)), max(m, mean) + 12 * np.sqrt(max(v, variance))
    x = np.linspace(low, high, 1 + int(min(4e5, 12 * (high - low) / np.sqrt(min(v, variance)))))
    p = np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    q = np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return np.sqrt(p * q).sum() * (x[1] - x[0])


def by_integrals(features, labels, covariance="diagonal"):
    rows = PCA(min(COMPONENTS, np.linalg.matrix_rank(features - features.mean(axis=0))), svd_solver="full").fit_transform(features)
    groups = [rows[labels == label] for label in np.unique(labels)]
    apart = np.concatenate([group - group.mean(0) for group in groups if len(group) > 1])
    variances = [group.var(0) if len(group) > 1 else (apart**2).mean(0) for group in groups]
    if covariance == "spherical":
        variances = [np.full(len(variance), variance.mean()) for variance in variances]
    variances = [np.maximum(variance, 1e-4 * (rows**2).mean()) for variance in variances]
    total = 0.0
    for i, first in enumerate(groups):
        for j, second in enumerate(groups):
            if i != j:
                pairs = zip(first.mean(0), variances[i], second.mean(0), variances[j], strict=True)
                total -= np.prod([overlap_in_one_dimension(*pair) for pair in pairs])
    return total


def sample(rng, n, d, lift=1.0):
    """More features than images lie in three directions: any labels fit otherwise."""
    labels, k = rng.permutation(np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])), d if d < n else 3
    spread = np.array([0.5, 1.0, 2.0])[labels][:, None]
    rows = rng.normal(size=(n, k)) * rng.uniform(0.3, 2, k) * spread + lift * rng.normal(size=(3, k))[labels]
    return rows if k == d else rows @ rng.normal(size=(k, d)), labels


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(("n", "d"), [(60, 4), (12, 30), (90, 80)])
def test_gbc_is_minus_the_overlap_by_integration(rng, covariance, n, d):
    """Public code sums one logarithm in place of d where the covariance is spherical; these integrals do not."""
    features, labels = sample(rng, n, d, 0.3)
    expected = by_integrals(features, labels, covariance)
    assert expected < -1e-4
    assert gbc(features, labels, covariance=covariance) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_class_of_one_image_takes_the_pooled_variances(rng, covariance):
    features, labels = sample(rng, 20, 3)
    labels[0] = 3
    assert gbc(features, labels, covariance=covariance) == pytest.approx(by_integrals(features, labels, covariance), rel=1e-7)


def test_variances_have_a_floor(rng):
    labels = np.repeat([0, 1], 10)
    features = np.stack([1e-3 * np.where(labels, 1.0, -1.0), np.tile(np.linspace(-1, 1, 10), 2)], axis=1)
    floor = 1e-4 * (features**2).mean()
    assert gbc(features, labels) == pytest.approx(-2 * np.exp(-((2e-3) ** 2) / (8 * floor)), rel=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 50)])
def test_scales_rotations_shifts_order_and_names_play_no_part(rng, covariance, n, d):
    features, labels = sample(rng, n, d)
    order, rotation = rng.permutation(n), np.linalg.qr(rng.normal(size=(d, d)))[0]
    value = gbc(features, labels, covariance=covariance)
    assert gbc(1e3 * features @ rotation + 7, labels, covariance=covariance) == pytest.approx(value, abs=1e-9)
    assert gbc(1e-3 * features[order], np.array([44, -6, 2])[labels[order]], covariance=covariance) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_far_classes_score_zero_and_identical_ones_their_number_of_ordered_pairs(rng, covariance):
    features, labels = rng.normal(size=(12, 5)), np.repeat(np.arange(4), 12)
    assert gbc(np.tile(features, (4, 1)), labels, covariance=covariance) == pytest.approx(-12, abs=1e-9)
    far = np.tile(features, (4, 1)) + 1e4 * np.eye(5)[labels]
    assert gbc(far, labels, covariance=covariance) == pytest.approx(0, abs=1e-12)
    assert gbc(np.eye(4)[labels], labels, covariance=covariance) == pytest.approx(0, abs=1e-12)


def test_components_beyond_the_first_64_play_no_part(rng):
    labels = np.repeat(np.arange(2), 50)
    rows = np.linalg.qr(np.hstack([np.ones((100, 1)), rng.normal(size=(100, 80))]))[0][:, 1:] * np.linspace(80, 1, 80)
    assert gbc(rows, labels) == pytest.approx(gbc(rows[:, :64], labels), rel=1e-9)
    assert gbc(rows, labels) != pytest.approx(gbc(rows[:, :63], labels), rel=1e-4)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_shuffled_labels_score_lower(separable, noise, rng, covariance):
    features, labels = separable
    value = gbc(features, labels, covariance=covariance)
    assert value > max(gbc(features, rng.permutation(labels), covariance=covariance) for _ in range(50)) + 1
    assert value > gbc(*noise, covariance=covariance) + 1


@settings(max_examples=40)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 20), min_size=2, max_size=5).filter(lambda c: max(c) > 1),
    st.integers(1, 40),
    st.sampled_from(COVARIANCES),
)
@example(0, [300, 1], 5, "diagonal")
@example(0, [2, 1, 1, 1], 30, "spherical")
def test_it_lies_between_minus_the_number_of_ordered_pairs_and_zero(seed, counts, d, covariance):
    labels, c = np.repeat(np.arange(len(counts)), counts), len(counts)
    features = np.random.default_rng(seed).normal(size=(len(labels), d))
    if min(d, len(labels) - 1) >= len(labels) - c:
        assert "any labels can be fitted" in SCORES["gbc"](features=features, labels=labels).remark
    assert -c * (c - 1) <= gbc(features, labels, covariance=covariance) <= 0


def test_single_precision_agrees(separable):
    assert gbc(separable.features.astype(np.float32), separable.labels) == pytest.approx(by_integrals(*separable), abs=1e-5)


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "message"),
    [
        (np.eye(6), np.arange(6) % 2, {"covariance": "full"}, ConfigError, "covariance='full' is unknown.*Allowed: diagonal, spherical"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(features, labels, options, error, message):
    with pytest.raises(error, match=message):
        gbc(features, labels, **options)
