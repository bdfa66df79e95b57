"""The shrunk covariance and the posteriors equal those of scikit-learn and of the definitions."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntk_select.scores.discriminant import of_own_class, posteriors, shrinkage_by_norm, shrunk, unit_rows, within
from ntk_select.scores.features import Features


def problem(rng, n=40, d=6):
    labels = np.sort(np.arange(n) % 5 % 3)
    return rng.normal(size=(3, d))[labels] + rng.normal(size=(n, d)), labels, np.bincount(labels)


@pytest.mark.parametrize("shape", [(40, 6), (15, 40)])
def test_unit_rows_keep_all_distances_but_for_one_scale(rng, shape):
    features = rng.normal(size=shape) + 7
    rows, centred = unit_rows(Features(features)), features - features.mean(axis=0)
    assert rows.shape[1] == min(shape[0] - 1, shape[1])
    np.testing.assert_allclose(rows @ rows.T, centred @ centred.T / np.mean((centred**2).sum(axis=1)), atol=1e-12)
    assert np.mean((rows**2).sum(axis=1)) == pytest.approx(1, abs=1e-12)


def test_within_is_the_mean_of_the_classes_covariances_by_share(rng):
    rows, labels, counts = problem(rng)
    expected = sum(counts[c] / 40 * np.cov(rows[labels == c].T, bias=True) for c in range(3))
    np.testing.assert_allclose(within(rows, labels, counts), expected, atol=1e-12)


def test_a_class_with_one_image_adds_no_variance(rng):
    rows = rng.normal(size=(5, 3))
    np.testing.assert_allclose(within(rows, np.array([0, 0, 0, 0, 1]), np.array([4, 1])), 0.8 * np.cov(rows[:4].T, bias=True), atol=1e-12)


def test_shrinkage_is_the_exponential_of_the_spectral_norm(rng):
    half = rng.normal(size=(5, 5))
    for covariance in (0.02 * half @ half.T, 100 * half @ half.T, np.zeros((3, 3))):
        assert shrinkage_by_norm(covariance) == pytest.approx(max(math.exp(-5 * np.linalg.norm(covariance, 2)), 1e-10), rel=1e-9)


def test_the_mean_variance_is_over_all_features_also_those_that_do_not_vary():
    covariance = np.diag([3.0, 1.0])
    np.testing.assert_allclose(shrunk(covariance, 0.25, 5.0, 2), np.diag([2.75, 1.25]), atol=1e-12)
    np.testing.assert_allclose(shrunk(covariance, 0.25, 5.0, 8), np.diag([2.375, 0.875]), atol=1e-12)


def test_without_variance_within_the_classes_a_trace_of_it_is_left():
    found = np.diag(shrunk(np.zeros((3, 3)), 1.0, 6.0, 3))
    assert (found > 0).all()
    assert (found < 1e-8).all()


@pytest.mark.parametrize(("n", "d"), [(40, 6), (15, 40)])
@pytest.mark.parametrize("amount", [0.01, 0.4, 1.0])
def test_posteriors_are_those_of_sklearn(rng, n, d, amount):
    rows, labels, counts = problem(rng, n, d)
    covariance = within(rows, labels, counts)
    found = posteriors(rows, labels, counts, shrunk(covariance, amount, 1.0, d))
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=amount).fit(rows, labels)
    np.testing.assert_allclose(found, oracle.predict_proba(rows), atol=1e-8)


def test_posteriors_follow_bayes_rule_with_gaussian_densities(rng):
    rows, labels, counts = problem(rng)
    covariance = within(rows, labels, counts) + 0.1 * np.eye(6)
    joint = np.stack(
        [counts[c] / 40 * scipy.stats.multivariate_normal(rows[labels == c].mean(axis=0), covariance).pdf(rows) for c in range(3)], axis=1
    )
    found = posteriors(rows, labels, counts, covariance)
    np.testing.assert_allclose(found, joint / joint.sum(axis=1, keepdims=True), atol=1e-10)
    np.testing.assert_array_equal(of_own_class(found, labels), [found[i, label] for i, label in enumerate(labels)])
