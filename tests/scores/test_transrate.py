"""TransRate equals the difference of coding rates of its definition, with classes weighted by their images."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ntk_select.errors import ConfigError
from ntk_select.scores import SCORES
from ntk_select.scores.transrate import transrate


def rate(rows, distortion):
    sign, value = np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / (len(rows) * distortion))
    assert sign == 1
    return value / 2


def definition(features, labels, distortion=1e-4, normalize=False, weighed=True):
    rows = features - features.mean(0)
    if normalize:
        rows = rows / np.sqrt((rows**2).sum(1).mean())
    classes = np.unique(labels)
    weights = [(labels == label).mean() if weighed else 1 / len(classes) for label in classes]
    parts = [rate(rows[labels == label], distortion) for label in classes]
    return rate(rows, distortion) - sum(weight * part for weight, part in zip(weights, parts, strict=True))


def sample(rng, n, d):
    labels = rng.permutation(np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3]))
    return rng.normal(size=(n, d)) * rng.uniform(0.1, 2, d) + rng.normal(size=(3, d))[labels], labels


@pytest.mark.parametrize(("n", "d"), [(60, 7), (24, 24), (20, 70)])
@pytest.mark.parametrize("distortion", [1e-4, 0.01, 3.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_transrate_is_the_definition(rng, n, d, distortion, normalize):
    features, labels = sample(rng, n, d)
    found = transrate(features, labels, distortion=distortion, normalize=normalize)
    assert found == pytest.approx(definition(features, labels, distortion, normalize), abs=1e-8)


def test_features_of_low_rank_and_the_default_distortion_are_the_definition(rng):
    features, labels = sample(rng, 40, 4)
    low = np.hstack([features @ rng.normal(size=(4, 6)), np.zeros((40, 3))])
    assert transrate(low, labels) == pytest.approx(definition(low, labels), abs=1e-8)


def test_classes_count_by_their_images(rng):
    """Public code takes the plain mean over the classes, which on unbalanced classes is another number, and may be negative."""
    labels = np.repeat(np.arange(11), [300] + [3] * 10)
    features = rng.normal(size=(330, 1)) * np.where(labels == 0, 0.1, 5.0)[:, None]
    assert transrate(features, labels) == pytest.approx(definition(features, labels), abs=1e-9)
    assert definition(features, labels, weighed=False) < 0 < transrate(features, labels)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 50)])
def test_rotations_shifts_order_and_names_play_no_part_and_with_normalize_nor_do_scales(rng, n, d):
    features, labels = sample(rng, n, d)
    order, rotation = rng.permutation(n), np.linalg.qr(rng.normal(size=(d, d)))[0]
    value, unit = transrate(features, labels), transrate(features, labels, normalize=True)
    assert transrate(features @ rotation + 5, labels) == pytest.approx(value, abs=1e-8)
    assert transrate(features[order], np.array([44, -6, 2])[labels[order]]) == pytest.approx(value, abs=1e-9)
    assert transrate(1e3 * features @ rotation - 7, labels, normalize=True) == pytest.approx(unit, abs=1e-8)
    assert transrate(1e-3 * features, labels, normalize=True) == pytest.approx(unit, abs=1e-8)
    assert transrate(0.01 * features, labels) < value < transrate(100 * features, labels) + 1e-9


def test_of_two_classes_of_like_size_the_distance_cancels_and_a_remark_says_so(rng):
    """Centred by the mean of all, both classes are coded with the distance between them: however far, by definition it is next to nothing."""
    labels = np.repeat([0, 1], 500)
    for distance in (0, 5, 20):
        features = rng.normal(size=(1000, 4)) + distance * labels[:, None]
        assert definition(features, labels) < 0.02
        found = SCORES["transrate"](features=features, labels=labels)
        assert found.value == pytest.approx(definition(features, labels), abs=1e-9)
        assert "two classes of similar size (500 and 500 images)" in found.remark
        assert found.by_chance["value"] >= 0
    unlike = np.repeat([0, 1], [200, 800])
    assert SCORES["transrate"](features=rng.normal(size=(1000, 4)), labels=unlike).remark == ""
    near, far = (rng.normal(size=(1000, 4)) + distance * unlike[:, None] for distance in (0, 20))
    assert transrate(far, unlike) > transrate(near, unlike) + 0.1


def test_classes_on_axes_of_their_own_have_a_known_rate_and_classes_of_equal_scatter_none(rng):
    across = np.zeros((60, 3))
    for c in range(3):
        across[20 * c : 20 * (c + 1), c] = np.tile([1.0, -1.0], 10)
    expected = 1.5 * np.log(1 + 1 / 3 / 0.01) - 0.5 * np.log(1 + 1 / 0.01)
    assert transrate(across, np.repeat([3, 8, 1], 20), distortion=0.01) == pytest.approx(expected, abs=1e-12)
    for _ in range(30):
        assert 0 <= transrate(np.tile(rng.normal(size=(9, 4)), (3, 1)), np.repeat([0, 1, 2], 9)) < 1e-12


@pytest.mark.parametrize("normalize", [False, True])
def test_shuffled_labels_score_lower(separable, noise, rng, normalize):
    features, labels = separable
    value = transrate(features, labels, normalize=normalize)
    assert value > max(transrate(features, rng.permutation(labels), normalize=normalize) for _ in range(50)) + 0.3
    assert value > transrate(*noise, normalize=normalize) + 0.3


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 20), min_size=2, max_size=4).filter(lambda c: max(c) > 1), st.integers(1, 40), st.floats(-6, 3))
@example(0, [300, 1], 5, -4.0)
@example(0, [2, 1, 1, 1], 30, -4.0)
def test_it_is_never_negative_nor_above_the_rate_of_all_features(seed, counts, d, exponent):
    labels = np.repeat(np.arange(len(counts)), counts)
    assume(len(counts) > 2 or max(counts) > 1.5 * min(counts))
    features = np.random.default_rng(seed).normal(size=(len(labels), d)) + 1
    value = transrate(features, labels, distortion=10**exponent)
    assert 0 <= value <= rate(features - features.mean(0), 10**exponent) + 1e-8
    assert value == pytest.approx(definition(features, labels, 10**exponent), abs=1e-6)


def test_single_precision_agrees(separable):
    features, labels = separable
    assert transrate(features.astype(np.float32), labels) == pytest.approx(definition(features, labels), abs=1e-5)


@pytest.mark.parametrize("distortion", [0, -1.0, math.inf, math.nan])
def test_a_distortion_that_is_not_positive_is_refused(separable, distortion):
    with pytest.raises(ConfigError, match="distortion=.* must be a positive number"):
        transrate(*separable, distortion=distortion)
