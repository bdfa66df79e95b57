"""Do the measures by group see what is within groups, and what is between them, and nothing else?"""

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError

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
    with pytest.raises(ConfigError, match=r"Give the group of each, as \('resnet', 'densenet'\)"):
        ev.across_groups(*experts, "a" * 20)
    with pytest.raises(ConfigError, match="'kendal' is no correlation. Did you mean 'kendall'"):
        ev.within_groups("kendal", *experts, GROUPS)
