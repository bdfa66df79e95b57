"""The probes equal explicit loops that leave one image out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.scores.probes import STRENGTHS, knn, linear_probe
from ntk_select.scores.table import SCORES


def problem(rng, n=50, d=6, classes=4, noise=1.0):
    labels = np.arange(n) % (classes + 1) % classes
    return rng.normal(size=(classes, d))[labels] + noise * rng.normal(size=(n, d)), labels


def shared(votes):
    """An answer for every class, 1 divided among those with most votes."""
    best = votes >= votes.max() - 1e-9
    return best / best.sum()


def accuracies(answers, labels):
    right = np.array([answers[i][label] for i, label in enumerate(labels)])
    return right.mean(), np.mean([right[labels == c].mean() for c in np.unique(labels)])


def neighbours_in_loops(features, labels, k):
    """Exact for whole numbers: places among the k are handed out distance by distance, the last ones shared."""
    answers = []
    for i in range(len(labels)):
        squares = ((features - features[i]) ** 2).sum(axis=1)
        votes, left = np.zeros(labels.max() + 1), float(k)
        for distance in np.unique(np.delete(squares, i)):
            there = [j for j in range(len(labels)) if j != i and squares[j] == distance]
            for j in there:
                votes[labels[j]] += min(1.0, left / len(there))
            left = max(0.0, left - len(there))
        answers.append(shared(votes))
    return accuracies(answers, labels)


def refits(features, labels):
    """Ridge with a free bias, fitted anew without each image: at every strength its error, then the accuracies at the best.

    Answers are given with the classes' shares among all images, the error is that of the fits as they are.
    """
    targets = np.eye(labels.max() + 1)[labels]
    centred = features - features.mean(axis=0)
    spectrum = np.linalg.eigvalsh(centred @ centred.T)
    unit = spectrum[spectrum > 1e-9 * spectrum.max()].mean()
    best = (np.inf, None)
    for strength in np.logspace(-6, 3, 28):
        predicted = np.zeros_like(targets)
        for i in range(len(labels)):
            rows, goals = np.delete(features, i, axis=0), np.delete(targets, i, axis=0)
            x, y = rows - rows.mean(axis=0), goals - goals.mean(axis=0)
            weights = np.linalg.solve(x.T @ x + strength * unit * np.eye(x.shape[1]), x.T @ y)
            predicted[i] = goals.mean(axis=0) + (features[i] - rows.mean(axis=0)) @ weights
        error = np.mean((predicted - targets) ** 2)
        if error < best[0]:
            shares = targets.mean(axis=0) - np.array([np.delete(targets, i, axis=0).mean(axis=0) for i in range(len(labels))])
            best = error, (*accuracies([shared(row) for row in predicted + shares], labels), strength)
    return best[1]


@pytest.mark.parametrize("shape", [(50, 6), (20, 60)])
@pytest.mark.parametrize("k", [1, 5])
def test_nearest_neighbours_are_those_of_loops_with_all_ties_shared(rng, shape, k):
    for high in (2, 4, 1000):
        features, labels = rng.integers(0, high, shape), problem(rng, shape[0])[1]
        found = knn(features, labels, neighbours=k)
        assert (found.value, found.details["balanced"]) == pytest.approx(neighbours_in_loops(features, labels, k), abs=1e-12)
        assert found.details["majority"] == np.bincount(labels).max() / shape[0]


@pytest.mark.parametrize(("name", "k"), [("knn", 1), ("knn5", 5)])
def test_nearest_neighbours_without_ties_are_those_of_sklearn(rng, name, k):
    features, labels = problem(rng, classes=2)
    answers = cross_val_predict(KNeighborsClassifier(k), features, labels, cv=LeaveOneOut())
    assert SCORES[name](features=features, labels=labels).value == pytest.approx((answers == labels).mean(), abs=1e-12)


def test_images_tied_for_the_last_place_share_it_and_classes_tied_for_most_votes_the_answer():
    """Image 0 has two equal neighbours, of classes 0 and 1: half right. Images 1 and 2 are copies of each other: wrong."""
    found = knn(np.array([[0.0], [1.0], [1.0]]), np.array([0, 0, 1]))
    assert found.value == pytest.approx(0.5 / 3)
    assert found.details == pytest.approx({"balanced": 0.125, "majority": 2 / 3})


@pytest.mark.parametrize("shape", [(40, 6), (16, 25)])
@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_the_linear_probe_is_what_refits_without_each_image_say(rng, shape, noise):
    features, labels = problem(rng, *shape, classes=3, noise=noise)
    value, balanced, ridge = refits(features, labels)
    found = linear_probe(features, labels)
    assert (found.value, found.details["balanced"]) == pytest.approx((value, balanced), abs=1e-12)
    assert found.details["ridge"] == pytest.approx(ridge, rel=1e-12)
    assert found.details["majority"] == np.bincount(labels).max() / shape[0]


@pytest.mark.parametrize("probe", [knn, lambda f, y: knn(f, y, neighbours=5), linear_probe])
@pytest.mark.parametrize("copies", [False, True])
def test_scale_rotation_shift_names_and_order_play_no_part(rng, probe, copies):
    features, labels = problem(rng)
    if copies:
        features[25:] = features[:25]
    value = probe(features, labels).value
    rotation, order = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.permutation(50)
    assert probe(1e5 * features @ rotation, labels).value == pytest.approx(value, abs=1e-12)
    assert probe(1e-5 * features + 1, labels).value == pytest.approx(value, abs=1e-12)
    assert probe(features[order], np.array([4, -1, 30, 2])[labels[order]]).value == pytest.approx(value, abs=1e-12)
    if not copies:
        assert probe(features.astype(np.float32), labels).value == pytest.approx(value, abs=0.021)  # one image


@pytest.mark.parametrize("probe", [knn, linear_probe])
def test_collapsed_classes_are_told_apart_and_shuffled_labels_are_not(rng, probe):
    labels = np.arange(24) % 4
    assert probe(np.eye(4)[labels], labels).value == pytest.approx(1, abs=1e-12)
    features, labels = problem(rng)
    assert probe(features, labels).value > max(probe(features, rng.permutation(labels)).value for _ in range(30))


@pytest.mark.parametrize("probe", [knn, linear_probe])
def test_noise_is_answered_at_chance(rng, probe):
    """Four classes of equal size; four standard errors of 2000 answers are 0.04."""
    labels = np.arange(500) % 4
    assert np.mean([probe(rng.normal(size=(500, 4)), labels).value for _ in range(4)]) == pytest.approx(0.25, abs=0.04)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans())
def test_values_lie_in_range(seed, d, layout, collapsed):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 8, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    features = rng.normal(size=(4, d))[labels] if collapsed else rng.normal(size=(len(labels), d))
    for found in (knn(features, labels), knn(features, labels, neighbours=5), linear_probe(features, labels)):
        assert 0 <= found.value <= 1
        assert 0 <= found.details["balanced"] <= 1
        assert found.details["majority"] == np.bincount(labels).max() / len(labels)
    assert found.details["ridge"] in STRENGTHS


def test_neighbours_must_be_there():
    with pytest.raises(ConfigError, match="neighbours=0 must be at least 1"):
        knn(np.eye(4), np.arange(4) % 2, neighbours=0)
    with pytest.raises(UndefinedScoreError, match="4 images have no 4 neighbours each"):
        knn(np.eye(4), np.arange(4) % 2, neighbours=4)
