"""The terms of ETran equal their definitions and are weighted within the zoo."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntk_select.scores import SCORES, Unavailable
from ntk_select.scores.etran import etran_terms


def problem(rng, n=60, d=8, classes=4, noise=1.0):
    labels, k = np.arange(n) % (classes + 1) % classes, d if d < n else 6
    rows = rng.normal(size=(classes, k))[labels] + noise * rng.normal(size=(n, k))
    return rows if k == d else rows @ rng.normal(size=(k, d)), labels


def energy(features):
    """log sum exp of every image, in a loop; mean over the lowest half per cent."""
    energies = sorted(math.log(sum(math.exp(value) for value in row)) for row in features)
    lowest = energies[: max(1, math.floor(len(energies) / 200))]
    return sum(lowest) / len(lowest)


def analysis(features, labels):
    """Posterior of sklearn's analysis of all features, scaled to mean squared distance 1."""
    x = features - features.mean(axis=0)
    x = x / np.sqrt(np.mean((x**2).sum(axis=1)))
    pooled = sum((labels == c).mean() * np.cov(x[labels == c].T, bias=True) for c in np.unique(labels))
    amount = np.exp(-5 * np.linalg.norm(pooled, 2))
    found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=amount).fit(x, labels).predict_proba(x)
    return found[np.arange(len(x)), labels].mean()


@pytest.mark.parametrize("shape", [(60, 8), (30, 50), (999, 5), (1000, 5)])
def test_the_terms_are_the_energy_and_the_analysis_of_sklearn(rng, shape):
    features, labels = problem(rng, *shape)
    assert etran_terms(features, labels) == pytest.approx({"energy": energy(features), "lda": analysis(features, labels)}, abs=1e-8)


def test_large_features_do_not_overflow(rng):
    features, labels = problem(rng)
    assert etran_terms(1e4 * features, labels)["energy"] == pytest.approx(1e4 * features.max(axis=1).min(), abs=math.log(8))
    assert etran_terms(features + 5000, labels)["energy"] == pytest.approx(energy(features) + 5000, abs=1e-6)


def test_the_analysis_forgets_scale_rotation_shift_names_and_order(rng):
    features, labels = problem(rng)
    terms = etran_terms(features, labels)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    order = rng.permutation(60)
    assert etran_terms(300 * features @ rotation + 9, labels)["lda"] == pytest.approx(terms["lda"], abs=1e-8)
    assert etran_terms(features[order], np.array([9, -4, 70, 2])[labels[order]]) == pytest.approx(terms, abs=1e-8)
    assert etran_terms(features.astype(np.float32), labels) == pytest.approx(terms, abs=1e-4)


def test_collapsed_classes_have_posterior_one_and_shuffled_labels_a_lower_one(rng):
    labels = np.arange(24) % 4
    assert etran_terms(np.eye(4)[labels], labels) == pytest.approx({"energy": math.log(math.e + 3), "lda": 1}, abs=1e-9)
    features, labels = problem(rng)
    assert etran_terms(features, labels)["lda"] > max(etran_terms(features, rng.permutation(labels))["lda"] for _ in range(50))


def zoo(rng, scales=(1.0, 3.0, 0.3, 2.0)):
    """Experts on the same 60 images, fewer than the 200 below which public code has no energy."""
    labels = np.arange(60) % 3
    return [{"features": scale * (rng.normal(size=(3, 6))[labels] + rng.normal(size=(60, 6))), "labels": labels} for scale in scales]


def test_values_are_weighed_and_stretched_within_the_zoo(rng):
    inputs = zoo(rng)
    energies = np.array([energy(one["features"]) for one in inputs])
    posteriors = np.array([analysis(one["features"], one["labels"]) for one in inputs])
    expected = 0.15 * (energies - min(energies)) / (max(energies) - min(energies))
    expected += 0.85 * (posteriors - min(posteriors)) / (max(posteriors) - min(posteriors))
    found = SCORES["etran"].over(inputs)
    np.testing.assert_allclose([one.value for one in found], expected, atol=1e-7)
    assert [one.details["energy"] for one in found] == pytest.approx(list(energies), abs=1e-9)


def test_an_expert_alone_has_no_score_and_one_without_features_takes_none_from_the_others(rng):
    inputs = zoo(rng)
    alone = SCORES["etran"](**inputs[0])
    assert isinstance(alone, Unavailable)
    assert "at least two" in alone.reason
    lacking = [inputs[0], {"labels": inputs[0]["labels"]}, *inputs[1:], {**inputs[0], "features": np.ones((60, 6))}]
    found = SCORES["etran"].over(lacking)
    assert "features" in found[1].reason
    assert "constant" in found[5].reason
    others = SCORES["etran"].over(inputs)
    assert [found[0], *found[2:5]] == others


def test_experts_that_are_all_equal_cannot_be_compared(rng):
    found = SCORES["etran"].over([zoo(rng)[0]] * 3)
    assert all("do not differ" in one.reason for one in found)


def test_a_term_in_which_experts_agree_says_nothing(rng):
    """A shift moves the energy alone."""
    one = zoo(rng)[0]
    shifted = SCORES["etran"].over([one, {**one, "features": one["features"] + 2}, {**one, "features": one["features"] + 1}])
    assert [result.value for result in shifted] == pytest.approx([0, 0.15, 0.075], abs=1e-7)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 30), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans())
def test_values_lie_in_range(seed, d, layout, collapsed):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 8, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    means = [rng.normal(size=(4, d))[labels] + (0 if collapsed else rng.normal(size=(len(labels), d))) for _ in range(4)]
    found = SCORES["etran"].over([{"features": features, "labels": labels} for features in means])
    if np.linalg.matrix_rank(means[0] - means[0].mean(axis=0)) >= len(labels) - len(np.unique(labels)):
        assert all("any labels can be fitted" in one.remark for one in found)
        assert all(0 <= one.by_chance["lda"] <= 1 for one in found)
    assert all(0 <= one.value <= 1 for one in found)
    assert all(0 <= one.details["lda"] <= 1 for one in found)
