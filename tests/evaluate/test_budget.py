"""Is the budget curve the mean over all tie-breakings of costs and gains?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError


@given(data=st.data())
def test_the_curve_is_the_mean_over_all_tie_breakings(data, tied, tie_breakings):
    scores, accuracies = data.draw(tied)
    costs = np.array([1.0, 2.0, 4.0, 8.0, 16.0])[: len(scores)]
    reference = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    orders = tie_breakings(scores)
    spent = np.mean([np.cumsum([0.5, *costs[order]]) for order in orders], axis=0)
    gains = np.mean([np.maximum.accumulate([reference, *accuracies[order]]) - reference for order in orders], axis=0)
    found = ev.gain_against_cost(scores, accuracies, reference, costs, scoring_cost=0.5)
    np.testing.assert_allclose(found[0], spent, atol=1e-12)
    np.testing.assert_allclose(found[1], gains, atol=1e-12)
    assert all((np.diff(side) >= 0).all() for side in found)


def test_the_reference_stays_available():
    spent, gains = ev.gain_against_cost([3, 2, 1], [0.5, 0.75, 0.25], 0.5, [2, 3, 4], scoring_cost=1)
    np.testing.assert_array_equal(spent, [1, 3, 6, 10])
    np.testing.assert_array_equal(gains, [0, 0, 0.25, 0.25])


def test_shuffled_scores_gain_later_than_the_true_order(experts, rng):
    _, accuracies = experts
    one = np.ones(20)
    _, chance = ev.gain_against_cost(np.zeros(20), accuracies, 0.5, one)
    shuffled = np.mean([ev.gain_against_cost(rng.permutation(20), accuracies, 0.5, one)[1] for _ in range(500)], axis=0)
    np.testing.assert_allclose(shuffled, chance, atol=0.01)
    assert (ev.gain_against_cost(accuracies, accuracies, 0.5, one)[1][1:-1] > chance[1:-1]).all()


@pytest.mark.parametrize("costs", [[1, 2, -1], [1, 2, np.nan], [1, 2, np.inf]])
def test_impossible_costs_are_refused(costs):
    with pytest.raises(ConfigError, match="costs hold a number that is negative, infinite or NaN"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], 0.2, costs)


def test_other_costs_and_references_are_refused():
    with pytest.raises(ConfigError, match="costs are for 2 experts, and accuracies for 3"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], 0.2, [1, 2])
    with pytest.raises(ConfigError, match="scoring_cost is -1"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], 0.2, [1, 2, 3], scoring_cost=-1)
    with pytest.raises(ConfigError, match="reference is nan"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], float("nan"), [1, 2, 3])
