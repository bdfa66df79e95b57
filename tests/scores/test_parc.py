"""PARC equals its definition, and so do its largest value and its area under the curve."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.scores.parc import parc


def problem(rng, n=60, d=50, classes=4, noise=2.0):
    labels = np.arange(n) % classes
    return rng.normal(size=(classes, d))[labels] + noise * rng.normal(size=(n, d)), labels


def principal(rows, components):
    """Principal components from the eigenvectors of the covariance; in each, the image that is furthest out is positive."""
    axes = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :components]
    found = rows @ axes
    for k in range(components):
        if found[np.abs(found[:, k]).argmax(), k] < 0:
            found[:, k] *= -1
    return found


def distances(features, labels, components):
    """Those of the features and of the one-hot labels, over all pairs."""
    rows = StandardScaler().fit_transform(features)
    if components is not None:
        rows = principal(rows, components)
    upper = np.triu_indices(len(labels), 1)
    return (1 - np.corrcoef(rows))[upper], (1 - np.corrcoef(np.eye(labels.max() + 1)[labels]))[upper]


@pytest.mark.parametrize(("n", "d", "components"), [(60, 50, 32), (40, 90, 32), (40, 90, 5), (60, 20, None), (20, 60, None)])
def test_parc_is_the_rank_correlation_of_features_and_one_hot_labels(rng, n, d, components):
    features, labels = problem(rng, n, d)
    ours, theirs = distances(features, labels, components)
    found = parc(features, labels, components=components)
    assert found.value == pytest.approx(100 * scipy.stats.spearmanr(ours, theirs.round(6)).statistic, abs=1e-9)
    assert found.details["auc"] == pytest.approx(roc_auc_score(theirs > 0.5, ours), abs=1e-12)


@pytest.mark.parametrize(("d", "components"), [(50, 32), (20, None)])
def test_thirty_two_components_are_kept_unless_there_are_fewer_features(rng, d, components):
    features, labels = problem(rng, d=d)
    ours, theirs = distances(features, labels, components)
    assert parc(features, labels).value == pytest.approx(100 * scipy.stats.spearmanr(ours, theirs.round(6)).statistic, abs=1e-9)


def test_the_area_under_the_curve_gives_the_score_where_ties_are_rare(rng):
    features, labels = problem(rng)
    found = parc(features, labels)
    share = (labels[:, None] == labels)[np.triu_indices(60, 1)].mean()
    assert found.value == pytest.approx(100 * (2 * found.details["auc"] - 1) * np.sqrt(3 * share * (1 - share)), rel=1e-4)


def test_the_largest_value_for_a_hundred_classes_is_seventeen(rng):
    features, labels = problem(rng, n=1000, d=100, classes=100, noise=0.01)
    found = parc(features, labels, components=None)
    assert found.details["auc"] == pytest.approx(1, abs=1e-3)
    assert found.details["largest"] == pytest.approx(17, abs=0.7)
    share = 9 / 999
    assert found.details["largest"] == pytest.approx(100 * np.sqrt(3 * share * (1 - share)), rel=1e-3)
    assert found.value == pytest.approx(found.details["largest"], abs=0.1)


@pytest.mark.parametrize("classes", [4, 7])
def test_collapsed_classes_equally_far_apart_are_ranked_as_the_labels_rank_them(classes):
    """Both sides know two distances only, so that the rank correlation is 1."""
    labels = np.arange(5 * classes) % classes
    found = parc(np.eye(classes)[labels], labels)
    assert found.value == pytest.approx(100, abs=1e-9)
    assert found.details == pytest.approx({"auc": 1, "largest": 100}, abs=1e-9)


def test_two_features_have_two_distances_and_many_ties(rng):
    labels = np.arange(30) % 3
    features = rng.normal(size=(3, 2))[labels] + rng.normal(size=(30, 2))
    side = np.sign(np.diff(StandardScaler().fit_transform(features), axis=1)[:, 0])
    upper = np.triu_indices(30, 1)
    expected = scipy.stats.spearmanr((side[:, None] != side)[upper], (labels[:, None] != labels)[upper]).statistic
    assert parc(features, labels).value == pytest.approx(100 * expected, abs=1e-9)


def test_scales_and_shifts_of_features_names_of_classes_and_order_play_no_part(rng):
    features, labels = problem(rng)
    value = parc(features, labels).value
    order = rng.permutation(60)
    assert parc(features * rng.uniform(0.1, 50, 50) + 3 * rng.normal(size=50), labels).value == pytest.approx(value, abs=1e-6)
    assert parc(features[order], labels[order]).value == pytest.approx(value, abs=1e-9)
    assert parc(features, np.array([40, -7, 900, 3])[labels]).value == pytest.approx(value, abs=1e-9)
    assert parc(np.hstack([features, np.full((60, 2), 0.1)]), labels).value == pytest.approx(value, abs=1e-6)
    assert parc(features.astype(np.float32), labels).value == pytest.approx(value, abs=0.02)


def test_noise_has_an_area_of_one_half_and_shuffled_labels_score_lower(rng):
    features, labels = problem(rng)
    found = [parc(rng.normal(size=(60, 20)), labels) for _ in range(60)]
    assert np.mean([one.details["auc"] for one in found]) == pytest.approx(0.5, abs=0.005)
    assert np.mean([one.value for one in found]) == pytest.approx(0, abs=0.5)
    assert parc(features, labels).value > max(parc(features, rng.permutation(labels)).value for _ in range(50))


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(4, 45), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans())
def test_values_lie_in_range(seed, d, layout, few):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 12, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    found = parc(rng.normal(size=(len(labels), d)), labels, components=3 if few else 32)
    assert abs(found.value) <= found.details["largest"] + 1e-9 <= 100 + 1e-9
    assert 0 <= found.details["auc"] <= 1


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "message"),
    [
        (np.arange(4.0)[:, None] * [1, 0] + 0.1, np.arange(4) % 2, {}, UndefinedScoreError, "One feature alone"),
        (np.array([[1.0, 2], [0, 0], [-1, 2], [0, -4]]), np.arange(4) % 2, {}, UndefinedScoreError, "Image 1 has the same value"),
        (np.eye(5), np.arange(5) % 2, {}, UndefinedScoreError, "equally far apart"),
        (np.eye(4), np.arange(4) % 2, {"components": 1}, ConfigError, "components=1 must be at least 2, or None"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(features, labels, options, error, message):
    with pytest.raises(error, match=message):
        parc(features, labels, **options)
