"""LEEP and NCE equal the conditional likelihood and entropy of their definitions."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.leep import entropy, leep, nce


def head(rng, labels, sources, concentration=1.0, skill=0.0):
    """Softmax rows; with skill, the source class numbered as the label is likelier."""
    probs = rng.dirichlet(np.full(sources, concentration), size=len(labels)) + 1e-9
    probs[np.arange(len(labels)), labels % sources] += skill
    return probs / probs.sum(axis=1, keepdims=True)


def leep_by_loops(probs, labels):
    joint, total = {}, 0.0
    for row, label in zip(probs, labels, strict=True):
        for z, p in enumerate(row):
            joint[label, z] = joint.get((label, z), 0.0) + p / len(labels)
    for row, label in zip(probs, labels, strict=True):
        marginals = [sum(joint[other, z] for other in set(labels)) for z in range(len(row))]
        total += np.log(sum(joint[label, z] / marginal * p for z, (marginal, p) in enumerate(zip(marginals, row, strict=True)) if marginal))
    return total / len(labels)


def nce_by_mutual_information(probs, labels):
    counts = np.bincount(labels)[np.unique(labels)] / len(labels)
    return mutual_info_score(labels, probs.argmax(1)) + (counts * np.log(counts)).sum()


@pytest.mark.parametrize(("counts", "sources"), [((10, 10, 10), 7), ((30, 5, 1), 12), ((3, 2, 1), 40)])
def test_leep_is_the_definition_and_nce_information_minus_entropy(rng, counts, sources):
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    probs = head(rng, labels, sources, 0.3, 0.4)
    assert leep(probs, labels).value == pytest.approx(leep_by_loops(probs, labels), abs=1e-12)
    assert nce(probs, labels).value == pytest.approx(nce_by_mutual_information(probs, labels), abs=1e-12)


@pytest.mark.parametrize("score", [leep, nce])
def test_names_of_labels_order_of_images_and_of_source_classes_play_no_part(rng, score):
    labels = rng.integers(0, 3, 25)
    probs = head(rng, labels, 6, 0.5, 0.5)
    order, sources = rng.permutation(25), rng.permutation(6)
    renamed = np.array([70, -3, 12])[labels]
    value = score(probs, labels).value
    assert score(probs, renamed).value == pytest.approx(value, abs=1e-13)
    assert score(probs[order], labels[order]).value == pytest.approx(value, abs=1e-13)
    assert score(probs[:, sources], labels).value == pytest.approx(value, abs=1e-13)


@pytest.mark.parametrize("score", [leep, nce])
def test_a_head_that_knows_all_scores_zero_and_one_that_knows_nothing_minus_the_entropy(score):
    labels = np.array([0, 0, 0, 1, 1, 2])
    entropy_by_hand = 0.5 * np.log(2) + np.log(3) / 3 + np.log(6) / 6
    assert score(np.eye(3)[labels], labels).value == 0
    ignorant = score(np.full((6, 4), 0.25), labels)
    assert ignorant.value == pytest.approx(-entropy_by_hand, abs=1e-14)
    assert ignorant.details["label_entropy"] == pytest.approx(entropy_by_hand, abs=1e-14)
    assert score(np.tile([0.7, 0.2, 0.1], (6, 1)), labels).value == pytest.approx(-entropy_by_hand, abs=1e-14)


def test_a_perfect_head_over_many_source_classes_is_not_above_zero(rng):
    labels = np.arange(40) % 2
    for _ in range(50):
        probs = rng.dirichlet(np.ones(10), size=40) * (np.arange(10) % 2 == labels[:, None])
        assert -1e-15 <= leep(probs / probs.sum(1, keepdims=True), labels).value <= 0


def test_entropy_of_equal_classes_is_the_logarithm_of_their_number():
    assert entropy(np.full(7, 3)) == pytest.approx(np.log(7), abs=1e-14)


@pytest.mark.parametrize("score", [leep, nce])
def test_shuffled_labels_score_lower(rng, score):
    labels = np.repeat(np.arange(4), 25)
    probs = head(rng, labels, 6, 1.0, 1.0)
    assert score(probs, labels).value > max(score(probs, rng.permutation(labels)).value for _ in range(30)) + 0.2


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 30), min_size=2, max_size=5).filter(lambda c: max(c) > 1), st.integers(1, 60))
@example(0, [300, 1], 5)
@example(0, [2, 1, 1, 1], 50)
def test_minus_label_entropy_bounds_nce_and_leep_from_below_and_zero_from_above(seed, counts, sources):
    """LEEP is at least -H(Y | Z) of the soft joint by Jensen, and that at least -H(Y)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    probs = head(rng, labels, sources, 0.2, rng.random())
    floor = -entropy(np.array(counts))
    places = probs.argmax(axis=1)
    alone = np.mean([np.sum(places == place) == 1 for place in places])
    own = np.mean([np.sum(row**2 / np.maximum(probs.sum(0), 1e-300)) for row in probs])
    for score, share in ((leep, own), (nce, alone)):
        if share > 0.5:
            with pytest.raises(UndefinedScoreError, match=r"too few images for so many source classes.*larger per_class"):
                score(probs, labels)
        else:
            assert floor - 1e-12 <= score(probs, labels).value <= 0
    assume(own <= 0.5)
    joint = np.array([probs[labels == c].sum(0) for c in range(len(counts))]) / len(labels)
    soft = (joint * np.log(joint / joint.sum(0))).sum()
    assert leep(probs, labels).value >= soft - 1e-12


def test_single_precision_agrees(rng):
    labels = rng.integers(0, 5, 60)
    probs = head(rng, labels, 12, 0.5, 0.5)
    assert leep(probs.astype(np.float32), labels).value == pytest.approx(leep_by_loops(probs, labels), abs=1e-6)
    assert nce(probs.astype(np.float32), labels).value == pytest.approx(nce_by_mutual_information(probs, labels), abs=1e-12)
    assert leep(1.0005 * probs, labels).value == pytest.approx(leep_by_loops(probs, labels), abs=1e-12)


def test_a_source_class_without_mass_plays_no_part(rng):
    """Public code divides zero by zero here."""
    labels = rng.integers(0, 3, 20)
    probs = head(rng, labels, 4, 1.0, 0.5)
    wide = np.insert(probs, [0, 2, 4], 0.0, axis=1)
    assert leep(wide, labels).value == pytest.approx(leep_by_loops(probs, labels), abs=1e-13)
    assert nce(wide, labels).value == pytest.approx(nce_by_mutual_information(probs, labels), abs=1e-13)


def test_a_label_that_the_head_finds_nearly_impossible_stays_finite():
    probs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1e-300]])
    assert leep(probs, [0, 0, 1, 1]).value == pytest.approx((2 * np.log(2 / 3) + np.log(1 / 3)) / 4, abs=1e-12)


def test_nce_is_not_smoothed():
    """Public code adds 1e-5 to every cell of the table: with 50 classes, 1000 source classes and a perfect head it finds -1.3."""
    labels = np.repeat(np.arange(50), 2)
    probs = np.eye(1000)[labels * 20]
    table = np.full((50, 1000), 1e-5)
    table[np.arange(50), np.arange(50) * 20] += 1 / 50
    assert (table * np.log(table / table.sum(0))).sum() < -1
    assert nce(probs, labels).value == 0


def test_images_alone_in_their_source_class_are_reported():
    probs = np.eye(4)[[0, 0, 0, 1, 2]]
    assert nce(probs, np.array([0, 1, 0, 1, 0])).details["alone"] == pytest.approx(2 / 5)
    assert nce(probs, np.array([0, 1, 0, 1, 0])).value == pytest.approx((2 * np.log(2 / 3) + np.log(1 / 3)) / 5, abs=1e-15)


@pytest.mark.parametrize("score", [leep, nce])
def test_labels_learnt_by_heart_are_no_score(rng, score):
    """Twenty images, each alone among a thousand source classes: any labels would get the highest score there is."""
    probs = np.full((20, 1000), 1e-6)
    probs[np.arange(20), rng.permutation(1000)[:20]] = 1
    with pytest.raises(UndefinedScoreError, match="any labels would fit"):
        score(probs / probs.sum(axis=1, keepdims=True), rng.integers(0, 2, 20))


@pytest.mark.parametrize("score", [leep, nce])
@pytest.mark.parametrize(
    ("probs", "labels", "error", "message"),
    [
        (np.full(4, 0.5), [0, 0, 1, 1], TaskError, r"shape \(4,\).*one row per example"),
        (np.empty((4, 0)), [0, 0, 1, 1], TaskError, r"shape \(4, 0\)"),
        (np.array([[np.nan, 1], [0, 1]]), [0, 0], TaskError, "NaN or infinity"),
        (np.array([[3.0, 1], [-1, 1]]), [0, 0], TaskError, r"must be probabilities.*jax.nn.softmax"),
        (np.array([[1.5, -0.5], [0, 1]]), [0, 0], TaskError, "must be probabilities"),
        (np.full((4, 2), 0.51), [0, 0, 1, 1], TaskError, r"row sums from 1.02 to 1.02"),
        (np.full((4, 2), 0.5), [0, 0, 1], TaskError, "4 rows of source_probs for 3 labels"),
        (np.full((4, 2), 0.5), [0.0, 0, 1, 1], TaskError, "row of integers"),
        (np.full((4, 2), 0.5), [5, 5, 5, 5], UndefinedScoreError, "of one class"),
        (np.full((4, 2), 0.5), [0, 1, 2, 3], UndefinedScoreError, "one image only"),
    ],
)
def test_malformed_and_undefined_inputs_are_refused(score, probs, labels, error, message):
    with pytest.raises(error, match=message):
        score(probs, np.array(labels))
