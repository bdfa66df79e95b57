"""Domain Similarity equals the exponential of the cheapest transport between class means; small classes are left out."""

import math
import sys

import numpy as np
import pytest
import scipy.optimize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ntk_select.errors import ConfigError, MissingDependencyError, TaskError, UndefinedScoreError
from ntk_select.scores.domain_similarity import domain_similarity, domain_similarity_own


def by_linear_program(source, source_counts, means, counts):
    """Least sum of flow times Euclidean distance; rows and columns of the flow sum to the shares of images."""
    s, c = len(source), len(means)
    cost = [math.dist(a, b) for a in source for b in means]
    rows, columns = np.kron(np.eye(s), np.ones(c)), np.kron(np.ones(s), np.eye(c))
    shares = np.concatenate([np.array(source_counts) / sum(source_counts), np.array(counts) / sum(counts)])
    return scipy.optimize.linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=shares, method="highs").fun


def task(rng, counts, d, spread=3.0):
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    features = rng.normal(size=(len(labels), d)) + spread * rng.normal(size=(len(counts), d))[labels]
    return features, labels, np.array([features[labels == label].mean(0) for label in range(len(counts))])


@pytest.mark.parametrize(("counts", "d", "sources"), [((20, 7, 5), 4, 6), ((6, 5), 40, 9), ((5, 9, 30, 12), 3, 1)])
@pytest.mark.parametrize("gamma", [0.01, 0.5])
def test_it_is_the_transport_by_linear_programming(rng, counts, d, sources, gamma):
    features, labels, means = task(rng, counts, d)
    source, sizes = 2 * rng.normal(size=(sources, d)), rng.integers(5, 500, sources)
    distance = by_linear_program(source, sizes, means, counts)
    found = domain_similarity(source, sizes, features, labels, gamma=gamma)
    assert found.details["distance"] == pytest.approx(distance, abs=1e-8)
    assert found.value == pytest.approx(math.exp(-gamma * distance), abs=1e-9)
    trained = rng.integers(5, 900, len(counts))
    weighed = domain_similarity(source, sizes, features, labels, trained, gamma=gamma)
    assert weighed.details["distance"] == pytest.approx(by_linear_program(source, sizes, means, trained), abs=1e-8)


def test_the_own_extractor_is_the_same_transport(rng):
    features, labels, means = task(rng, (8, 6), 5)
    source = rng.normal(size=(4, 5))
    expected = math.exp(-0.01 * by_linear_program(source, [9, 5, 70, 6], means, [30, 10]))
    assert domain_similarity_own(source, [9, 5, 70, 6], features, labels, [30, 10]).value == pytest.approx(expected, abs=1e-9)


def test_classes_with_few_images_are_left_out_on_either_side(rng):
    features, labels, means = task(rng, (9, 4, 7), 3)
    source = rng.normal(size=(3, 3))
    expected = by_linear_program(source[[0, 2]], [5, 60], means[[0, 2]], [9, 7])
    assert domain_similarity(source, [5, 4, 60], features, labels).details["distance"] == pytest.approx(expected, abs=1e-8)
    everyone = by_linear_program(source, [5, 4, 60], means, [9, 4, 7])
    assert domain_similarity(source, [5, 4, 60], features, labels, min_images=1).details["distance"] == pytest.approx(everyone, abs=1e-8)
    by_training_images = by_linear_program(source[[0, 2]], [5, 60], means[1:], [50, 40])
    found = domain_similarity(source, [5, 4, 60], features, labels, [3, 50, 40])
    assert found.details["distance"] == pytest.approx(by_training_images, abs=1e-8)


def test_identical_means_score_one_and_a_shift_its_length(rng):
    features, labels, means = task(rng, (6, 12), 4)
    assert domain_similarity(means, [6, 12], features, labels).value == pytest.approx(1, abs=1e-12)
    away = domain_similarity(means + np.array([3, 0, 4, 0]), [60, 120], features, labels)
    assert away.details["distance"] == pytest.approx(5, abs=1e-9)
    assert away.value == pytest.approx(math.exp(-0.05), abs=1e-11)


def test_order_names_of_classes_rotations_and_common_shifts_play_no_part(rng):
    features, labels, _ = task(rng, (8, 6, 11), 5)
    source, sizes = rng.normal(size=(7, 5)), rng.integers(5, 90, 7)
    value = domain_similarity(source, sizes, features, labels, gamma=0.3).value
    order, sources, rotation = rng.permutation(25), rng.permutation(7), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    for found in (
        domain_similarity(source, sizes, features[order], np.array([20, -5, 9])[labels[order]], gamma=0.3),
        domain_similarity(source[sources], 3 * sizes[sources], features, labels, gamma=0.3),
        domain_similarity(source @ rotation + 7, sizes, features @ rotation + 7, labels, gamma=0.3),
        domain_similarity(10 * source, sizes, 10 * features, labels, gamma=0.03),
    ):
        assert found.value == pytest.approx(value, abs=1e-9)


def test_shuffled_labels_score_lower(separable, rng):
    features, labels = separable
    means = np.array([features[labels == label].mean(0) for label in range(4)])
    shuffled = [domain_similarity(means, [15] * 4, features, rng.permutation(labels)).value for _ in range(30)]
    assert domain_similarity(means, [15] * 4, features, labels).value > max(shuffled) + 0.01


@settings(max_examples=25)
@given(
    st.integers(0, 2**31), st.lists(st.integers(1, 12), min_size=1, max_size=4).filter(lambda c: max(c) > 4), st.integers(1, 40), st.integers(1, 8)
)
@example(0, [300, 1], 5, 3)
def test_it_lies_between_zero_and_one(seed, counts, d, sources):
    rng = np.random.default_rng(seed)
    features, labels, _ = task(rng, counts, d)
    found = domain_similarity(rng.normal(size=(sources, d)), rng.integers(5, 100, sources), features, labels)
    assert 0 < found.value <= 1
    assert found.details["distance"] >= 0


def test_single_precision_agrees(rng):
    features, labels, means = task(rng, (20, 7, 5), 6)
    source, sizes = rng.normal(size=(4, 6)), [5, 10, 20, 40]
    found = domain_similarity(source.astype(np.float32), sizes, features.astype(np.float32), labels)
    assert found.details["distance"] == pytest.approx(by_linear_program(source, sizes, means, [20, 7, 5]), abs=1e-5)


GOOD = {"source_means": np.eye(3), "source_counts": np.full(3, 9), "domain_features": np.tile(np.eye(3), (5, 1)), "labels": np.arange(15) % 3}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"gamma": 0.0}, ConfigError, "gamma=0.0 must be above 0"),
        ({"gamma": math.nan}, ConfigError, "gamma=nan must be above 0"),
        ({"min_images": 0}, ConfigError, "min_images=0 at least 1"),
        ({"source_counts": np.full(3, 4)}, UndefinedScoreError, "Every class of the source has fewer than 5 images"),
        ({"class_counts": np.full(3, 4)}, UndefinedScoreError, "Every class of the task has fewer than 5 images"),
        ({"source_counts": np.full(2, 9)}, TaskError, r"source_counts have shape \(2,\), not \(3,\)"),
        ({"class_counts": np.full(4, 9)}, TaskError, r"class_counts have shape \(4,\), not \(3,\)"),
        ({"source_means": np.eye(4)[:3]}, TaskError, r"domain_features have shape \(15, 3\), not \(15, 4\)"),
        ({"labels": np.arange(14) % 3}, TaskError, r"not \(14, 3\)"),
        ({"labels": np.arange(15) / 3}, TaskError, "row of integers"),
        ({"source_means": np.full((3, 3), np.nan)}, TaskError, "NaN or infinity"),
        ({"domain_features": np.full((15, 3), np.inf)}, TaskError, "NaN or infinity"),
        ({"source_counts": np.array([9.0, np.inf, 9])}, TaskError, "NaN or infinity"),
        ({"source_counts": np.array([9.0, np.nan, 9])}, TaskError, "NaN or infinity"),
        ({"class_counts": np.array([9.0, np.nan, 9])}, TaskError, "NaN or infinity"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(changed, error, message):
    with pytest.raises(error, match=message):
        domain_similarity(**{**GOOD, **changed})


def test_without_pot_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingDependencyError, match="Domain Similarity needs the package POT.*pip install POT"):
        domain_similarity(**GOOD)
