"""Correlations equal those of SciPy, including ties and groups, and are NaN where they are undefined."""

from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError
from ntk_select.evaluate.correlations import rank_correlation

SCIPY = {
    "pearson": scipy.stats.pearsonr,
    "spearman": scipy.stats.spearmanr,
    "kendall": scipy.stats.kendalltau,
    "weighted_tau": scipy.stats.weightedtau,
}
correlations = pytest.mark.parametrize("name", SCIPY)


@correlations
@pytest.mark.parametrize("decimals", [0, 1, 15], ids=["many ties", "some ties", "no ties"])
def test_a_correlation_is_scipys(name, decimals, rng):
    for e in (3, 8, 40):
        scores, accuracies = rng.normal(size=e).round(decimals), rng.random(e).round(decimals + 1)
        scores[0], accuracies[:2] = 9, (0, 1)
        assert getattr(ev, name)(scores, accuracies) == pytest.approx(SCIPY[name](scores, accuracies).statistic, abs=1e-12)


@correlations
def test_experts_without_a_score_are_left_out(name, experts):
    scores, accuracies = experts
    measure, known = getattr(ev, name), np.arange(20) % 3 > 0
    assert measure(np.where(known, scores, np.nan), accuracies) == measure(scores[known], accuracies[known])


@correlations
def test_there_is_no_value_for_two_experts_or_a_constant_side(name):
    measure, nan = getattr(ev, name), np.nan
    assert np.isnan(measure([1, 2, nan, nan], [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(measure([1, 1, 1, nan], [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(measure([1, 2, 3, nan], [0.3, 0.3, 0.3, 0.4]))
    assert np.isnan(measure([nan] * 4, [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(measure([1.0], [0.5]))


@correlations
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_scale_shift_and_the_order_of_the_experts_do_not_matter(name, seed, scale, shift):
    rng = np.random.default_rng(seed)
    scores, accuracies, order = rng.integers(6, size=7).astype(float), rng.integers(5, size=7) / 4, rng.permutation(7)
    measure = getattr(ev, name)
    value = measure(scores, accuracies)
    np.testing.assert_allclose(measure((scores * scale + shift)[order], accuracies[order]), value, atol=1e-9)
    assert np.isnan(value) or -1 <= value <= 1


@correlations
def test_the_right_order_has_one_and_the_reverse_minus_one(name):
    accuracies = np.linspace(0.2, 0.8, 6)
    assert getattr(ev, name)(accuracies, accuracies) == pytest.approx(1)
    assert getattr(ev, name)(-accuracies, accuracies) == pytest.approx(-1)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(4, 60), st.integers(2, 9))
def test_rank_correlation_of_any_vectors_is_that_of_scipy_with_ties(seed, m, levels):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels, m), rng.integers(0, levels, m)
    a[:2], b[:2] = (0, 1), (0, 1)
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert -1 <= rank_correlation(a, b) <= 1


def test_rank_correlation_is_nan_for_a_constant_side_and_for_nothing():
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5)))
    assert np.isnan(rank_correlation(np.array([]), np.array([])))


def test_weighted_tau_punishes_a_mistake_among_the_best_more():
    accuracies = np.linspace(0.2, 0.9, 8)
    best, worst = accuracies.copy(), accuracies.copy()
    best[[-1, -2]], worst[[0, 1]] = best[[-2, -1]], worst[[1, 0]]
    assert ev.weighted_tau(best, accuracies) < ev.weighted_tau(worst, accuracies)
    assert ev.kendall(best, accuracies) == ev.kendall(worst, accuracies)


@pytest.mark.parametrize(
    ("scores", "accuracies", "sentence"),
    [
        ([1, 2, np.inf], [0.1, 0.2, 0.3], r"scores contain infinite values. Allowed: finite numbers, and NaN"),
        ([1, 2, 3], [0.1, 0.2, 95], r"accuracies contain 95. Allowed: 0 to 1 \(divide percentages by 100\)"),
        ([1, 2, 3], [0.1, 0.2, np.nan], r"accuracies contain nan"),
        ([1, 2], [0.1, 0.2, 0.3], r"scores are for 2 experts, and accuracies for 3"),
        ([[1, 2, 3]], [0.1, 0.2, 0.3], r"scores have the shape \(1, 3\). Allowed: one number per expert"),
        ([], [], r"accuracies have the shape \(0,\)"),
        (["a", "b", "c"], [0.1, 0.2, 0.3], r"scores are not an array of numbers"),
    ],
)
@pytest.mark.parametrize("measure", [ev.spearman, ev.pearson, ev.regret, ev.trials_to_best])
def test_other_inputs_are_refused(measure, scores, accuracies, sentence):
    with pytest.raises(ConfigError, match=sentence):
        measure(scores, accuracies)


GROUPS = ("a",) * 8 + ("b",) * 6 + ("c",) * 4 + ("d",) * 2


def test_within_groups_is_the_weighted_mean_of_scipys_correlations(experts):
    scores, accuracies = experts
    parts = [slice(0, 8), slice(8, 14), slice(14, 18)]
    for name, other in {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}.items():
        expected = np.average([other(scores[part], accuracies[part]).statistic for part in parts], weights=[8, 6, 4])
        assert ev.within_groups(name, scores, accuracies, GROUPS) == pytest.approx(expected)
        assert ev.within_groups(getattr(ev, name), scores, accuracies, GROUPS) == pytest.approx(expected)


def test_groups_are_weighted_by_experts_with_a_score_and_undefined_ones_are_left_out():
    scores = np.array([1, 2, 3, np.nan, 1, 1, 1, 5, 1, 2, 3, 4])
    accuracies = np.array([0.1, 0.2, 0.3, 0.9, 0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1])
    assert ev.within_groups("spearman", scores, accuracies, list("aaaabbbdcccc")) == pytest.approx((3 * 1 + 4 * -1) / 7)
    assert np.isnan(ev.within_groups("spearman", scores, accuracies, list("aabbccddeeff")))


def test_shifting_one_group_changes_what_is_across_and_not_what_is_within(experts):
    scores, accuracies = experts
    shifted = scores + 100 * (np.array(GROUPS) == "c")
    assert ev.within_groups("pearson", shifted, accuracies, GROUPS) == pytest.approx(ev.within_groups("pearson", scores, accuracies, GROUPS))
    assert ev.across_groups(shifted, accuracies, GROUPS) != ev.across_groups(scores, accuracies, GROUPS)


def test_a_score_of_the_group_alone_has_no_value_within_and_all_its_value_across():
    accuracies = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
    scores = np.array([0, 0, 0, 1, 1, 1])
    assert np.isnan(ev.within_groups("spearman", scores, accuracies, list("aaabbb")))
    assert ev.across_groups(scores, accuracies, list("aaabbb")) == 1
    assert ev.across_groups(-scores, accuracies, list("aaabbb")) == -1
    assert ev.across_groups(np.tile(scores[2:5], 2), accuracies, list("aaabbb")) == pytest.approx(0)


def test_across_groups_counts_pairs_by_brute_force(experts, rng):
    scores, accuracies = experts
    scores = np.where(rng.random(20) < 0.2, np.nan, scores)
    right = wrong = pairs = 0
    for i, j in combinations(range(20), 2):
        if GROUPS[i] != GROUPS[j] and accuracies[i] != accuracies[j] and not np.isnan(scores[i] + scores[j]):
            pairs += 1
            product = (scores[i] - scores[j]) * (accuracies[i] - accuracies[j])
            right, wrong = right + (product > 0), wrong + (product < 0)
    assert ev.across_groups(scores, accuracies, GROUPS) == pytest.approx((right - wrong) / pairs)


def test_with_a_group_for_each_expert_it_is_somers_d(experts):
    scores, accuracies = experts
    assert ev.across_groups(scores, accuracies, range(20)) == pytest.approx(scipy.stats.somersd(accuracies, scores).statistic)
    assert np.isnan(ev.across_groups(scores, accuracies, ["one"] * 20))


def test_shuffled_scores_have_no_value_within_or_across(experts, rng):
    scores, accuracies = experts
    shuffled = [rng.permutation(scores) for _ in range(400)]
    assert np.mean([ev.within_groups("spearman", s, accuracies, GROUPS) for s in shuffled]) == pytest.approx(0, abs=0.06)
    assert np.mean([ev.across_groups(s, accuracies, GROUPS) for s in shuffled]) == pytest.approx(0, abs=0.05)


def test_other_groups_and_measures_are_refused(experts):
    with pytest.raises(ConfigError, match=r"groups has the length 2, and there are 20 experts"):
        ev.within_groups("spearman", *experts, ["a", "b"])
    with pytest.raises(ConfigError, match=r"Try: the group of each, as in \('resnet', 'densenet'\)"):
        ev.across_groups(*experts, "a" * 20)
    with pytest.raises(ConfigError, match="'kendal' is not a correlation. Did you mean 'kendall'"):
        ev.within_groups("kendal", *experts, GROUPS)
