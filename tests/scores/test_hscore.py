"""The H-score equals the trace of its definition, is saturated for few images, and its shrinkage version is not."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from ntk_select.scores import SCORES
from ntk_select.scores.features import Features
from ntk_select.scores.hscore import hscore, hscore_shrinkage, ledoit_wolf

COUNTS = st.lists(st.integers(1, 20), min_size=2, max_size=4).filter(lambda c: max(c) > 1)


def class_means(features, labels):
    return np.array([features[labels == label].mean(0) for label in labels])


def by_pseudoinverse(features, labels):
    return np.trace(np.linalg.pinv(np.cov(features.T), rcond=1e-10, hermitian=True) @ np.cov(class_means(features, labels).T))


def by_ledoit_wolf(features, labels):
    fitted = LedoitWolf().fit(features)
    return (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ np.cov(class_means(features, labels).T))


def sample(rng, n, d, counts=(3, 2, 1), lift=1.0):
    labels = rng.permutation(np.repeat(np.arange(len(counts)), np.ceil(n * np.array(counts) / sum(counts)).astype(int))[:n])
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d) + lift * rng.normal(size=(len(counts), d))[labels], labels


@pytest.mark.parametrize(("n", "d"), [(60, 7), (23, 20)])
def test_hscore_is_the_trace_by_pseudoinverse(rng, n, d):
    features, labels = sample(rng, n, d)
    assert hscore(features, labels).value == pytest.approx(by_pseudoinverse(features, labels), abs=1e-9)
    repeated = np.hstack([features[:, :5], features[:, :5], np.zeros((n, 2))])
    assert hscore(repeated, labels).value == pytest.approx(by_pseudoinverse(features[:, :5], labels), abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (23, 20), (20, 90)])
def test_shrunk_hscore_is_the_trace_by_scikit_learn(rng, n, d):
    features, labels = sample(rng, n, d)
    found, fitted = hscore_shrinkage(features, labels), LedoitWolf().fit(features)
    assert found.value == pytest.approx(by_ledoit_wolf(features, labels), abs=1e-9)
    assert found.details["shrinkage"] == pytest.approx(fitted.shrinkage_, abs=1e-10)
    intensity, mean = ledoit_wolf(Features(features))
    assert (intensity, mean) == pytest.approx((fitted.shrinkage_, np.trace(np.cov(features.T, bias=True)) / d), abs=1e-10)


def test_invertible_maps_shifts_order_and_names_play_no_part_in_the_hscore(rng):
    features, labels = sample(rng, 40, 6)
    value, order = hscore(features, labels).value, rng.permutation(40)
    assert hscore(features @ rng.normal(size=(6, 6)) + 5, labels).value == pytest.approx(value, abs=1e-8)
    assert hscore(features * np.logspace(-4, 4, 6), labels).value == pytest.approx(value, abs=1e-8)
    assert hscore(features[order], np.array([50, -7, 3])[labels[order]]).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 50)])
def test_scales_rotations_shifts_order_and_names_play_no_part_with_shrinkage(rng, n, d):
    features, labels = sample(rng, n, d)
    value, order = hscore_shrinkage(features, labels).value, rng.permutation(n)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert hscore_shrinkage(1e3 * features @ rotation + 5, labels).value == pytest.approx(value, abs=1e-9)
    assert hscore_shrinkage(1e-3 * features[order], np.array([50, -7, 3])[labels[order]]).value == pytest.approx(value, abs=1e-9)


def test_collapsed_classes_score_c_minus_one_and_equal_means_zero(rng):
    labels = np.repeat(np.arange(4), 5)
    assert hscore(np.eye(4)[labels], labels).value == pytest.approx(3, abs=1e-12)
    for _ in range(30):
        assert 3 - 1e-9 <= hscore(np.eye(4)[labels] @ rng.normal(size=(4, 7)), labels).value <= 3
    spread = np.tile([-2.0, -1, 0, 1, 2], 4)[:, None]  # the same in every class
    assert hscore(spread, labels).value == pytest.approx(0, abs=1e-12)
    assert hscore_shrinkage(spread, labels).value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("counts", [(3, 3), (2, 2, 2), (3, 2, 1), (5, 1)])
def test_by_chance_is_the_mean_over_all_ways_to_deal_out_the_labels(rng, counts):
    features = rng.normal(size=(6, 2)) ** 3
    deals = sorted(set(permutations(np.repeat(np.arange(len(counts)), counts).tolist())))
    found = [hscore(features, np.array(deal)) for deal in deals]
    assert np.mean([one.value for one in found]) == pytest.approx(2 * (len(counts) - 1) / 5, abs=1e-12)
    assert found[0].details["by_chance"] == pytest.approx(2 * (len(counts) - 1) / 5, abs=1e-14)


@pytest.mark.parametrize("score", [hscore, hscore_shrinkage])
def test_shuffled_labels_score_lower(separable, noise, rng, score):
    features, labels = separable
    assert score(features, labels).value > max(score(features, rng.permutation(labels)).value for _ in range(50)) + 1
    assert score(features, labels).value > score(*noise).value + 1


@settings(max_examples=40)
@given(st.integers(0, 2**31), COUNTS, st.integers(1, 40))
@example(0, [300, 1], 5)
@example(0, [2, 1, 1, 1], 30)
def test_values_lie_in_their_range(seed, counts, d):
    labels = np.repeat(np.arange(len(counts)), counts)
    n, c = len(labels), len(counts)
    features = np.random.default_rng(seed).normal(size=(n, d))
    shrunk = hscore_shrinkage(features, labels)
    assert 0 <= shrunk.value <= (c - 1) * n / (n - 1) + 1e-12
    assert 0 <= shrunk.details["shrinkage"] <= 1
    found = SCORES["hscore"](features=features, labels=labels)
    assert 0 <= found.value <= min(d, c - 1)
    assert (f"{n} images span all directions of their features" in found.remark) == (n <= d + 1)
    assert (f"more than {d + 1} images" in found.remark) == (n <= d + 1)


def test_where_images_span_all_directions_the_trace_is_c_minus_one_whatever_the_features(rng):
    """Public code returns that number, or more: it ranks nothing. Shrinkage tells good features from noise there."""
    good, labels = sample(rng, 30, 60, counts=(1, 1, 1), lift=3)
    bad = rng.normal(size=good.shape)
    assert by_pseudoinverse(good, labels) == pytest.approx(2, abs=1e-8)
    assert by_pseudoinverse(bad, labels) == pytest.approx(2, abs=1e-8)
    for features in (good, bad, good[:, :29]):
        found = SCORES["hscore"](features=features, labels=labels)
        assert (found.value, found.details["by_chance"], found.by_chance) == (2, 2, {"value": 2})
        assert "where the H-score is 2 for every expert" in found.remark
    assert hscore(good[:, :28], labels).details["by_chance"] == pytest.approx(28 * 2 / 29)
    assert hscore_shrinkage(good, labels).value > 2 * hscore_shrinkage(bad, labels).value


def test_single_precision_agrees(separable):
    features, labels = separable
    single = features.astype(np.float32)
    assert hscore(single, labels).value == pytest.approx(by_pseudoinverse(features, labels), abs=1e-5)
    assert hscore_shrinkage(single, labels).value == pytest.approx(by_ledoit_wolf(features, labels), abs=1e-5)
