"""NLEEP equals LEEP of a Gaussian mixture on principal components, with its invariances."""

import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from ntk_select.errors import ConfigError, MissingDependencyError, UndefinedScoreError
from ntk_select.scores.nleep import COVARIANCES, nleep


def definition(features, labels, clusters, covariance, seed=0):
    """Scikit-learn's own components, the largest entry positive, in units of the first's deviation, in its order."""
    rows = PCA(0.8, svd_solver="full").fit_transform(features)
    rows = rows * np.sign(rows[np.abs(rows).argmax(0), np.arange(rows.shape[1])]) / rows[:, 0].std()
    order = rows[:, 0].argsort()
    theta = GaussianMixture(clusters, covariance_type=covariance, random_state=seed).fit(rows[order]).predict_proba(rows[order])
    total = 0.0
    for label, row in zip(labels[order], theta, strict=True):
        total += np.log(sum(p * theta[labels[order] == label, z].sum() / theta[:, z].sum() for z, p in enumerate(row)))
    return total / len(labels)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(("n", "d"), [(60, 8), (40, 90)])
def test_nleep_is_leep_of_responsibilities_by_scikit_learn(rng, covariance, n, d):
    labels = np.arange(n) % 3
    features = rng.normal(size=(n, d)) * rng.uniform(0.1, 2, d) + rng.normal(size=(3, d))[labels]
    found = nleep(features, labels, clusters=6, covariance=covariance, seed=3)
    assert found.value == pytest.approx(definition(features, labels, 6, covariance, seed=3), abs=1e-8)
    assert found.details["converged"] == 1


def test_five_clusters_a_class_unless_told_otherwise(separable):
    assert nleep(*separable).value == pytest.approx(definition(*separable, 20, "diag"), abs=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_cluster_knows_nothing_and_far_clusters_say_what_share_of_them_is_of_each_class(rng, covariance):
    labels = np.repeat([0, 1, 2], [24, 12, 12])
    features = 100 * np.eye(3)[labels] + rng.normal(size=(48, 3))
    entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
    assert nleep(features, labels, clusters=1, covariance=covariance).value == pytest.approx(-entropy, abs=1e-12)
    assert nleep(features, labels, clusters=3, covariance=covariance).value == pytest.approx(0, abs=1e-9)
    mixed = np.repeat([0, 1, 1], [24, 12, 12])
    mixed[:6] = 1  # a quarter of the first cluster
    expected = 0.5 * (0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert nleep(features, mixed, clusters=3, covariance=covariance).value == pytest.approx(expected, abs=1e-9)


def test_collapsed_classes_score_zero_with_more_clusters_than_points():
    labels = np.arange(80) % 4
    assert nleep(np.eye(4)[labels], labels).value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_order_names_shifts_scales_and_rotations_play_no_part(separable, rng, covariance):
    features, labels = separable
    order = rng.permutation(60)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    value = nleep(features, labels, clusters=8, covariance=covariance).value
    for changed, names in (
        (features[order], labels[order]),
        (features, np.array([9, -4, 30, 2])[labels]),
        (1e-3 * features, labels),
        (1e4 * features + 7, labels),
        (features @ rotation, labels),
    ):
        assert nleep(changed, names, clusters=8, covariance=covariance).value == pytest.approx(value, abs=1e-8)


def test_directions_beyond_the_energy_kept_play_no_part(rng):
    labels = np.arange(40) % 2
    large, small = rng.normal(size=(40, 1)), 0.1 * rng.normal(size=(40, 1))
    large, small = large - large.mean(), small - small.mean()
    small = small - large * (large * small).sum() / (large**2).sum()
    alone = nleep(large, labels, clusters=4).value
    assert nleep(np.hstack([large, small]), labels, clusters=4).value == pytest.approx(alone, abs=1e-9)


def test_the_seed_alone_decides_and_single_precision_agrees(separable, noise):
    assert nleep(*noise, clusters=8, seed=1) == nleep(*noise, clusters=8, seed=1)
    assert len({nleep(*noise, clusters=8, seed=seed).value for seed in range(4)}) > 1
    single = nleep(separable.features.astype(np.float32), separable.labels, clusters=8).value
    assert single == pytest.approx(definition(*separable, 8, "diag"), abs=1e-4)


def test_shuffled_labels_score_lower(separable, noise, rng):
    features, labels = separable
    value = nleep(features, labels, clusters=8).value
    assert value > max(nleep(features, rng.permutation(labels), clusters=8).value for _ in range(10)) + 0.5
    assert value > nleep(*noise, clusters=8).value + 0.5


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 12), min_size=2, max_size=4).filter(lambda c: max(c) > 1),
    st.integers(1, 40),
    st.sampled_from(COVARIANCES),
)
@example(0, [300, 1], 5, "diag")
@example(0, [2, 1, 1, 1], 50, "full")
def test_minus_label_entropy_bounds_it_from_below_and_zero_from_above(seed, counts, d, covariance):
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(seed).normal(size=(len(labels), d))
    found = nleep(features, labels, clusters=max(1, len(labels) // 5), covariance=covariance)
    shares = np.array(counts) / len(labels)
    assert (shares * np.log(shares)).sum() - 1e-12 <= found.value <= 0


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "message"),
    [
        (np.eye(39), np.arange(39) % 4, {}, UndefinedScoreError, r"39 images are too few for a mixture of 20 clusters.*\(40\)"),
        (np.eye(9), np.arange(9) % 4, {"clusters": 5}, UndefinedScoreError, r"two per cluster are needed \(10\)"),
        (np.eye(20), np.arange(20) % 2, {"covariance": "diga"}, ConfigError, "Did you mean 'diag'"),
        (np.eye(20), np.arange(20) % 2, {"clusters": 0}, ConfigError, "clusters=0 must be at least 1"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(features, labels, options, error, message):
    with pytest.raises(error, match=message):
        nleep(features, labels, **options)


def test_without_scikit_learn_it_says_what_to_install(separable, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(MissingDependencyError, match="NLEEP needs the package scikit-learn.*pip install scikit-learn"):
        nleep(*separable)
