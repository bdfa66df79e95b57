"""SFDA equals a discriminant analysis of all features, written out, before and after the mixing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntk_select.scores import SCORES
from ntk_select.scores.sfda import sfda


def problem(rng, n=48, d=10, classes=4, noise=1.0):
    """More features than images lie in six directions: any labels fit otherwise."""
    labels, k = np.arange(n) % (classes + 1) % classes, d if d < n else 6
    rows = rng.normal(size=(classes, k))[labels] + noise * rng.normal(size=(n, k))
    return (rows if k == d else rows @ rng.normal(size=(k, d))) + 3, labels


def covariance_within(x, labels):
    total = np.zeros((x.shape[1], x.shape[1]))
    for label in np.unique(labels):
        own = x[labels == label]
        for row in own:
            total += np.outer(row - own.mean(axis=0), row - own.mean(axis=0)) / len(x)
    return total


def analysis(x, labels, amount):
    """Posteriors with the covariance shrunk towards its mean variance over all features."""
    d = x.shape[1]
    covariance = covariance_within(x, labels)
    inverse = np.linalg.inv((1 - amount) * covariance + amount * np.trace(covariance) / d * np.eye(d))
    logits = np.zeros((len(x), labels.max() + 1))
    for c in range(labels.max() + 1):
        mean = x[labels == c].mean(axis=0)
        logits[:, c] = x @ inverse @ mean - 0.5 * mean @ inverse @ mean + math.log((labels == c).mean())
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def definition(features, labels):
    x = features - features.mean(axis=0)
    x = x / math.sqrt(np.mean((x**2).sum(axis=1)))
    n, classes = len(x), labels.max() + 1
    amount = max(math.exp(-5 * np.linalg.norm(covariance_within(x, labels), 2)), 1e-10)
    first = analysis(x, labels, amount)
    mixed = np.zeros_like(x)
    for i in range(n):
        q = math.exp(first[i, labels[i]]) / sum(math.exp(p) for p in first[i])
        others = np.mean([x[labels == c].mean(axis=0) for c in range(classes) if c != labels[i]], axis=0)
        mixed[i] = q * x[i] + (1 - q) * others
    second = analysis(mixed, labels, amount)
    return np.mean([second[i, labels[i]] for i in range(n)]), np.mean([first[i, labels[i]] for i in range(n)])


@pytest.mark.parametrize("shape", [(48, 10), (20, 60)])
@pytest.mark.parametrize("classes", [2, 4])
def test_sfda_is_its_definition_over_all_features(rng, shape, classes):
    features, labels = problem(rng, *shape, classes)
    value, before = definition(features, labels)
    assert sfda(features, labels).value == pytest.approx(value, abs=1e-8)
    assert sfda(features, labels).details["before_mixing"] == pytest.approx(before, abs=1e-8)


def test_the_first_analysis_is_that_of_sklearn(rng):
    features, labels = problem(rng)
    x = features - features.mean(axis=0)
    x /= np.sqrt(np.mean((x**2).sum(axis=1)))
    amount = np.exp(-5 * np.linalg.norm(covariance_within(x, labels), 2))
    found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=amount).fit(x, labels).predict_proba(x)
    assert sfda(features, labels).details["before_mixing"] == pytest.approx(found[np.arange(48), labels].mean(), abs=1e-8)


@pytest.mark.parametrize("shape", [(48, 10), (20, 60)])
def test_scale_rotation_shift_names_and_order_play_no_part(rng, shape):
    features, labels = problem(rng, *shape)
    value = sfda(features, labels).value
    rotation = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))[0]
    order = rng.permutation(shape[0])
    for factor in (1e-5, 40, 1e6):
        assert sfda(factor * features @ rotation, labels).value == pytest.approx(value, abs=1e-7)
    assert sfda(features + 100, labels).value == pytest.approx(value, abs=1e-7)
    assert sfda(features[order], labels[order]).value == pytest.approx(value, abs=1e-7)
    assert sfda(features, np.array([8, -1, 55, 3])[labels]).value == pytest.approx(value, abs=1e-7)
    assert sfda(features.astype(np.float32), labels).value == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 5])
def test_collapsed_classes_score_one_at_any_scale(rng, classes):
    labels = np.arange(30) % classes
    for features in (np.eye(classes)[labels], 1e5 * rng.normal(size=(classes, 40))[labels]):
        assert sfda(features, labels).value == pytest.approx(1, abs=1e-9)
        assert sfda(features, labels).details["before_mixing"] == pytest.approx(1, abs=1e-9)


def test_noise_scores_near_chance_with_many_images_and_shuffled_labels_lower(rng):
    labels = np.arange(2000) % 4
    assert sfda(rng.normal(size=(2000, 5)), labels).details["before_mixing"] == pytest.approx(0.25, abs=0.01)
    features, labels = problem(rng)
    shuffled = [sfda(features, rng.permutation(labels)) for _ in range(50)]
    assert sfda(features, labels).value > max(one.value for one in shuffled)
    assert sfda(features, labels).details["before_mixing"] > max(one.details["before_mixing"] for one in shuffled)


@settings(max_examples=35)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans())
def test_values_lie_in_range(seed, d, layout, collapsed):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 8, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    features = rng.normal(size=(4, d))[labels] if collapsed else rng.normal(size=(len(labels), d))
    if np.linalg.matrix_rank(features - features.mean(axis=0)) >= len(labels) - len(np.unique(labels)):
        saturated = SCORES["sfda"](features=features, labels=labels)
        assert "any labels can be fitted" in saturated.remark
        assert 0 <= saturated.by_chance["value"] <= 1
    found = sfda(features, labels)
    assert 0 <= found.value <= 1
    assert 0 <= found.details["before_mixing"] <= 1
