"""LogME equals the largest evidence of a Bayesian linear model, also with fewer images than features."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from ntk_select.scores.logme import NOISE, logme


def by_density(features, labels, noise=NOISE):
    """Mean over classes of the largest log N(y; 0, F F' / a + I / b) / n. A residual of NOISE adds -b NOISE / 2."""
    n, found = len(labels), []
    gram = features @ features.T / np.trace(features @ features.T) * n
    for label in np.unique(labels):
        target = (labels == label).astype(float)

        def negative(logs, target=target):
            a, b = np.exp(np.clip(logs, -30, 30))
            return 0.5 * b * noise - multivariate_normal(np.zeros(n), gram / a + np.eye(n) / b).logpdf(target)

        starts = [(0.0, 0.0), (3.0, 3.0), (0.0, 5.0), (8.0, 1.0)]
        options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 2000}
        found.append(max(-scipy.optimize.minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts) / n)
    return np.mean(found)


def released_fixed_point(features, labels):
    """As published: (d / 2) log a, though only min(n, d) directions enter the determinant."""
    (n, d), found = features.shape, []
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    sigma = values**2
    for label in np.unique(labels):
        target = (labels == label).astype(float)
        squares, a, b = (left.T @ target) ** 2, 1.0, 1.0
        outside = target @ target - squares.sum()
        for _ in range(11):
            t = a / b
            weights, residual = (sigma * squares / (t + sigma) ** 2).sum(), (squares / (1 + sigma / t) ** 2).sum() + outside
            gamma = (sigma / (sigma + t)).sum()
            a, b = gamma / (weights + 1e-5), (n - gamma) / (residual + 1e-5)
        determinant = np.log(a + b * sigma).sum()
        found.append((d * np.log(a) + n * np.log(b) - determinant - b * residual - a * weights - n * np.log(2 * np.pi)) / (2 * n))
    return np.mean(found)


def sample(rng, n, d, lift=1.0):
    labels = np.arange(n) % 3
    return np.maximum(rng.normal(size=(n, d)) * rng.uniform(0.2, 2, d) + lift * rng.normal(size=(3, d))[labels], 0), labels


@pytest.mark.parametrize(("n", "d", "lift"), [(30, 5, 1.0), (24, 24, 0.5), (18, 40, 0.7), (30, 6, 0.0)])
def test_logme_is_the_largest_evidence(rng, n, d, lift):
    features, labels = sample(rng, n, d, lift)
    assert logme(features, labels) == pytest.approx(by_density(features, labels), abs=1e-8)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (24, 24), (18, 40)])
def test_the_noise_floor_changes_nothing_that_is_seen(rng, n, d):
    """Where n is below d the evidence is often largest without any noise, and is exact all the same."""
    features, labels = sample(rng, n, d, 0.7)
    assert logme(features, labels) == pytest.approx(by_density(features, labels, noise=0), abs=1e-5)


def test_with_fewer_images_than_features_it_is_not_the_released_formula(rng):
    features, labels = sample(rng, 20, 80)
    exact = by_density(features, labels)
    assert logme(features, labels) == pytest.approx(exact, abs=1e-6)
    assert abs(released_fixed_point(features, labels) - exact) > 1
    wide = np.hstack([features, np.zeros((20, 400))])
    assert logme(wide, labels) == pytest.approx(exact, abs=1e-6)
    assert abs(released_fixed_point(wide, labels) - released_fixed_point(features, labels)) > 1


def test_with_more_images_it_agrees_with_the_released_formula_near_its_fixed_point(rng):
    features, labels = sample(rng, 200, 5)
    assert logme(features, labels) == pytest.approx(released_fixed_point(features, labels), abs=1e-4)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 50)])
def test_scales_rotations_order_and_names_play_no_part(rng, n, d):
    features, labels = sample(rng, n, d)
    value, order = logme(features, labels), rng.permutation(n)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert logme(1e-4 * features @ rotation, labels) == pytest.approx(value, abs=1e-9)
    assert logme(1e5 * features[order], np.array([80, -2, 4])[labels[order]]) == pytest.approx(value, abs=1e-9)


def test_features_orthogonal_to_all_classes_have_the_evidence_of_noise_alone(rng):
    labels = np.repeat([0, 1, 2], [10, 5, 5])
    features = rng.normal(size=(20, 4))
    features -= np.array([features[labels == label].mean(0) for label in labels])
    variances = (np.array([10, 5, 5]) + NOISE) / 20
    assert logme(features, labels) == pytest.approx((-0.5 * np.log(2 * np.pi * np.e * variances)).mean(), abs=1e-9)


def test_labels_that_are_exactly_linear_have_finite_evidence_above_all_other(separable):
    exact = logme(np.eye(4)[separable.labels], separable.labels)
    assert np.isfinite(exact)
    assert exact > logme(*separable) + 1


def test_shuffled_labels_score_lower(separable, noise, rng):
    features, labels = separable
    assert logme(features, labels) > max(logme(features, rng.permutation(labels)) for _ in range(20)) + 0.2
    assert logme(features, labels) > logme(*noise) + 0.2


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 12), min_size=2, max_size=4).filter(lambda c: max(c) > 1), st.integers(1, 40))
@example(0, [300, 1], 5)
@example(0, [2, 1, 1, 1], 30)
def test_no_grid_of_precisions_finds_more_evidence_and_none_is_below_that_of_noise_alone(seed, counts, d):
    labels = np.repeat(np.arange(len(counts)), counts)
    n, features = len(labels), np.random.default_rng(seed).normal(size=(len(labels), d)) + 1
    values, vectors = np.linalg.eigh(features @ features.T)
    value, alone, best = logme(features, labels), 0.0, 0.0
    for label in range(len(counts)):
        squares = (vectors.T @ (labels == label)) ** 2
        variances = np.maximum(values, 0) / np.logspace(-3, 6, 40)[:, None, None] + np.logspace(-4, 1, 40)[:, None]
        evidence = -0.5 * (np.log(2 * np.pi * variances) + squares / variances).sum(-1) - 0.5 * NOISE / np.logspace(-4, 1, 40)
        best += evidence.max() / n / len(counts)
        alone -= 0.5 * np.log(2 * np.pi * np.e * (counts[label] + NOISE) / n) / len(counts)
    assert value >= best - 1e-9
    assert value >= alone - 1e-9


def test_single_precision_agrees_and_an_id_without_images_is_no_class(rng):
    features, labels = sample(rng, 30, 5)
    assert logme(features.astype(np.float32), 2 * labels) == pytest.approx(by_density(features, labels), abs=1e-6)
