"""The terms of NCTI equal their definitions and are compared within the zoo."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntk_select.scores import SCORES, Unavailable
from ntk_select.scores.ncti import ncti_terms


def problem(rng, n=60, d=8, classes=4, scale=0.3):
    labels, k = np.arange(n) % (classes + 1) % classes, d if d < n else 6
    rows = scale * (rng.normal(size=(classes, k))[labels] + rng.normal(size=(n, k)))
    return (rows if k == d else rows @ np.linalg.qr(rng.normal(size=(d, k)))[0].T) + 2, labels


def definition(features, labels):
    n, classes = len(labels), labels.max() + 1
    x = PCA(min(64, np.linalg.matrix_rank(features - features.mean(axis=0))), svd_solver="full").fit_transform(features)
    k = x.shape[1]
    amount = max(math.exp(-np.var(x, axis=0, ddof=1)[:32].sum()), 1e-10)
    means = np.array([x[labels == c].mean(axis=0) for c in range(classes)])
    inside = sum(np.outer(row - means[label], row - means[label]) for row, label in zip(x, labels, strict=True)) / n
    shrunk = (1 - amount) * inside + amount * np.trace(inside) / k * np.eye(k)
    between = sum((labels == c).mean() * np.outer(means[c], means[c]) for c in range(classes))
    # Axes on which the shrunk covariance is the identity: whiten, then the principal axes of the whitened means.
    values, vectors = np.linalg.eigh(shrunk)
    whiten = vectors / np.sqrt(values)
    axes = whiten @ np.linalg.eigh(whiten.T @ between @ whiten)[1][:, ::-1][:, : min(classes - 1, k)]
    logits = np.array([[row @ np.linalg.solve(shrunk, m) - 0.5 * m @ np.linalg.solve(shrunk, m) for m in means] for row in x])
    joint = np.exp(logits - logits.max(axis=1, keepdims=True)) * np.bincount(labels) / n
    found = joint / joint.sum(axis=1, keepdims=True)
    return {
        "nuclear": np.linalg.norm(x @ axes, "nuc"),
        "posterior": found[np.arange(n), labels].mean(),
        "collapse": math.log(sum(np.linalg.norm(found[labels == c], "nuc") for c in range(classes))),
    }


@pytest.mark.parametrize("shape", [(60, 8), (25, 60), (150, 90)])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_terms_are_their_definitions(rng, shape, classes):
    features, labels = problem(rng, *shape, classes, scale=0.2)
    assert ncti_terms(features, labels) == pytest.approx(definition(features, labels), abs=1e-7)


def test_the_axes_are_those_of_sklearn_where_nothing_is_shrunk(rng):
    features, labels = problem(rng, scale=10)
    oracle = LinearDiscriminantAnalysis(solver="eigen").fit(features, labels)
    terms = ncti_terms(features, labels)
    x = (features - features.mean(axis=0)) @ oracle.scalings_[:, :3]
    assert terms["nuclear"] == pytest.approx(np.linalg.norm(x, "nuc"), rel=1e-7)
    assert terms["posterior"] == pytest.approx(oracle.predict_proba(features)[np.arange(60), labels].mean(), abs=1e-7)


@pytest.mark.parametrize("shape", [(60, 8), (25, 60)])
def test_rotation_shift_names_and_order_play_no_part(rng, shape):
    features, labels = problem(rng, *shape)
    terms = ncti_terms(features, labels)
    rotation, order = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))[0], rng.permutation(shape[0])
    assert ncti_terms(features @ rotation + 20, labels) == pytest.approx(terms, abs=1e-7)
    assert ncti_terms(features[order], np.array([7, -3, 90, 4])[labels[order]]) == pytest.approx(terms, abs=1e-7)
    assert ncti_terms(features.astype(np.float32), labels) == pytest.approx(terms, rel=1e-3)


def test_collapsed_classes_have_posterior_one_and_the_least_collapse_term(rng):
    labels = np.arange(24) % 4
    terms = ncti_terms(rng.normal(size=(4, 9))[labels], labels)
    # Six images of a class with the same answer: one singular value, the square root of six.
    assert terms["posterior"] == pytest.approx(1, abs=1e-9)
    assert terms["collapse"] == pytest.approx(math.log(4 * math.sqrt(6)), abs=1e-6)


def test_shuffled_labels_have_lower_posteriors_and_a_lower_nuclear_norm_of_the_means(rng):
    features, labels = problem(rng)
    terms, shuffled = ncti_terms(features, labels), [ncti_terms(features, rng.permutation(labels)) for _ in range(50)]
    assert terms["posterior"] > max(one["posterior"] for one in shuffled)
    assert terms["nuclear"] > max(one["nuclear"] for one in shuffled)


def zoo(rng):
    labels = np.arange(40) % 3
    return [{"features": rng.normal(size=(3, 6))[labels] * signal + rng.normal(size=(40, 6)), "labels": labels} for signal in (0, 2, 0.5, 1)]


def test_values_are_sums_of_stretched_terms_with_the_collapse_taken_off(rng):
    inputs = zoo(rng)
    expected = np.zeros(4)
    for name, sign in (("nuclear", 1), ("posterior", 1), ("collapse", -1)):
        term = np.array([definition(one["features"], one["labels"])[name] for one in inputs])
        expected += sign * (term - min(term)) / (max(term) - min(term))
    found = SCORES["ncti"].over(inputs)
    np.testing.assert_allclose([one.value for one in found], expected, atol=1e-6)
    assert np.argmax([one.value for one in found]) == 1


def test_an_expert_alone_has_no_score_equal_ones_neither_and_a_missing_one_takes_none_away(rng):
    inputs = zoo(rng)
    assert isinstance(SCORES["ncti"](**inputs[0]), Unavailable)
    assert "at least two" in SCORES["ncti"](**inputs[0]).reason
    assert all("do not differ" in one.reason for one in SCORES["ncti"].over([inputs[1]] * 3))
    found = SCORES["ncti"].over([inputs[0], {**inputs[0], "features": np.ones((40, 6))}, *inputs[1:]])
    assert "constant" in found[1].reason
    assert [found[0], *found[2:]] == SCORES["ncti"].over(inputs)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 90), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans())
def test_values_lie_in_range(seed, d, layout, collapsed):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 8, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    experts = [rng.normal(size=(4, d))[labels] + (0 if collapsed else rng.normal(size=(len(labels), d))) for _ in range(3)]
    found = SCORES["ncti"].over([{"features": features, "labels": labels} for features in experts])
    if min(64, np.linalg.matrix_rank(experts[0] - experts[0].mean(axis=0))) >= len(labels) - len(np.unique(labels)):
        assert all("any labels can be fitted" in one.remark and set(one.by_chance) == {*one.details, "value"} for one in found)
    assert all(-1 <= one.value <= 2 for one in found)
    assert all(0 <= one.details["posterior"] <= 1 and one.details["nuclear"] >= 0 for one in found)
