"""The consensus is the mean share of the ranked experts that an expert exceeds."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError

NAN = np.nan


def by_counting(scores):
    """For every expert and score: experts below, and half of those that are equal, itself included."""
    found = []
    for expert in range(len(scores[0])):
        shares = []
        for row in scores:
            ranked = [value for value in row if not np.isnan(value)]
            if not np.isnan(row[expert]):
                shares.append((sum(value < row[expert] for value in ranked) + sum(value == row[expert] for value in ranked) / 2) / len(ranked))
        found.append(np.mean(shares) if shares else NAN)
    return found


values = st.sampled_from([-1.0, 0.0, 0.5, 2.5, NAN])
matrices = st.tuples(st.integers(1, 4), st.integers(1, 6)).flatmap(
    lambda shape: st.lists(st.lists(values, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]).map(np.array)
)


@given(matrices)
def test_it_is_found_by_counting_with_ties_and_gaps(scores):
    np.testing.assert_allclose(ev.consensus(scores), by_counting(scores))


def test_a_case_by_hand():
    found = ev.consensus([[1, 2, 3, 4], [40, 30, 30, NAN], [NAN, NAN, NAN, NAN]])
    np.testing.assert_allclose(found, [(1 / 8 + 5 / 6) / 2, (3 / 8 + 1 / 3) / 2, (5 / 8 + 1 / 3) / 2, 7 / 8])


def test_one_score_keeps_its_order_and_increasing_functions_change_nothing(rng):
    scores = rng.normal(size=(3, 9))
    assert np.argsort(ev.consensus(scores[:1])).tolist() == np.argsort(scores[0]).tolist()
    moved = np.stack([np.exp(scores[0]), 1000 + scores[1] ** 3, scores[2] / 7])
    np.testing.assert_array_equal(ev.consensus(moved), ev.consensus(scores))
    np.testing.assert_allclose(ev.consensus(-scores), 1 - ev.consensus(scores))
    order = rng.permutation(9)
    np.testing.assert_allclose(ev.consensus(scores[[2, 0, 1]][:, order]), ev.consensus(scores)[order])


def test_a_score_that_is_equal_for_all_and_one_without_values_change_no_order(rng):
    scores = rng.normal(size=(2, 7))
    alone, with_both = ev.consensus(scores), ev.consensus(np.vstack([scores, np.ones(7), np.full(7, NAN)]))
    np.testing.assert_allclose(with_both, (2 * alone + 0.5) / 3)


def test_a_score_of_few_experts_favours_none_of_them(rng):
    """The mean over the experts that have a score is one half, whether they are all or three."""
    scores = rng.normal(size=(1, 10))
    assert ev.consensus(scores).mean() == pytest.approx(0.5)
    scores[0, 3:] = NAN
    assert np.nanmean(ev.consensus(scores)) == pytest.approx(0.5)


def test_experts_with_the_same_ranks_by_other_scores_tie():
    """Six experts are first, second and third in all six orders of three scores."""
    scores = np.array(list(permutations([1, 2, 3]))).T
    assert len(set(((rankdata(scores, axis=1) - 0.5) / 6).mean(axis=0))) > 1
    assert len(set(ev.consensus(scores))) == 1


def test_experts_without_any_score_have_none():
    np.testing.assert_array_equal(np.isnan(ev.consensus([[1, NAN, 2], [NAN, NAN, 1]])), [False, True, False])
    assert np.isnan(ev.consensus([[NAN, NAN]])).all()


def test_several_noisy_scores_are_better_together_than_each_and_shuffled_ones_are_not(rng):
    together, alone, shuffled = [], [], []
    for _ in range(100):
        accuracies = rng.random(20)
        scores = accuracies + 0.4 * rng.normal(size=(4, 20))
        together.append(ev.spearman(ev.consensus(scores), accuracies))
        alone.append(np.mean([ev.spearman(row, accuracies) for row in scores]))
        shuffled.append(ev.spearman(ev.consensus(rng.permuted(scores, axis=1)), accuracies))
    assert np.mean(together) > np.mean(alone) + 0.1
    assert np.mean(shuffled) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([1, 2, 3], r"scores have the shape \(3,\). Allowed: \(scores, experts\), at least one of each. Try: numpy.stack\(\[lfc, leep\]\)"),
        ([[[1, 2]]], r"scores have the shape \(1, 1, 2\)"),
        (np.zeros((0, 3)), r"scores have the shape \(0, 3\)"),
        (np.zeros((2, 0)), r"scores have the shape \(2, 0\)"),
        ([[1, np.inf]], "scores contain infinite values"),
        ([["a", "b"]], "scores are not an array of numbers"),
    ],
)
def test_other_scores_are_refused(scores, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ev.consensus(scores)
