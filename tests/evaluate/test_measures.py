"""The expectation of a random order is the mean over all orders."""

from itertools import permutations

import numpy as np
import pytest

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError

CASES = [[0.1, 0.2, 0.4, 0.8], [0.3, 0.3, 0.3, 0.7, 0.1], [0.5, 0.5, 0.2, 0.9, 0.9, 0.9], [0.2, 0.2, 0.6]]
OPTIONS = {
    "hit_rate": {"k": 2, "tolerance": 0.25},
    "kendall": {},
    "pearson": {},
    "regret": {"k": 2},
    "spearman": {},
    "top_k_accuracy": {"k": 3},
    "top_k_gain": {"k": 2, "reference": 0.4},
    "trials_to_best": {"tolerance": 0.25},
    "weighted_tau": {},
}


@pytest.mark.parametrize("accuracies", CASES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_the_expectation_is_the_mean_over_all_orders(name, accuracies):
    measure, options = getattr(ev, name), OPTIONS[name]
    values = [measure(np.array(order, float), accuracies, **options) for order in permutations(range(len(accuracies)))]
    assert ev.random_expectation(name, accuracies, **options) == pytest.approx(np.mean(values), abs=1e-12)


def test_the_figures_of_the_paper_come_out():
    thirty, eight = np.linspace(0, 1, 30), np.linspace(0, 1, 8)
    assert ev.random_expectation("trials_to_best", thirty) == pytest.approx(15.5)
    assert ev.random_expectation("trials_to_best", eight) == pytest.approx(4.5)
    assert ev.random_expectation("hit_rate", thirty, k=3) == pytest.approx(0.1)
    assert ev.random_expectation("hit_rate", eight, k=3) == pytest.approx(0.375)


@pytest.mark.parametrize("levels", [2, 5, 12])
def test_of_many_experts_with_ties_weighted_tau_is_that_of_shuffled_scores(levels, rng):
    accuracies = rng.integers(levels, size=20) / levels
    values = [ev.weighted_tau(rng.permutation(20), accuracies) for _ in range(3000)]
    assert ev.random_expectation("weighted_tau", accuracies) == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(3000))


def test_ties_among_the_best_lift_weighted_tau_alone():
    tied = [0.9] * 6 + np.linspace(0.1, 0.8, 24).tolist()
    assert ev.random_expectation("weighted_tau", tied) > 0.05
    assert ev.random_expectation("weighted_tau", np.linspace(0, 1, 30)) == 0
    assert ev.random_expectation("kendall", tied) == 0


@pytest.mark.parametrize("name", ["kendall", "pearson", "spearman", "weighted_tau"])
def test_a_correlation_that_has_no_value_has_no_expectation(name):
    assert np.isnan(ev.random_expectation(name, [0.1, 0.2]))
    assert np.isnan(ev.random_expectation(name, [0.1, 0.1, 0.1]))


def test_other_measures_and_options_are_refused():
    with pytest.raises(ConfigError, match="'spearmann' has no known expectation. Did you mean 'spearman'"):
        ev.random_expectation("spearmann", [0.1, 0.2, 0.3])
    with pytest.raises(ConfigError, match="regret has no option 'tolerance'. Allowed: k"):
        ev.random_expectation("regret", [0.1, 0.2, 0.3], tolerance=0.1)
    with pytest.raises(ConfigError, match="top_k_gain needs the accuracy of the reference expert. Try: reference=0.7"):
        ev.random_expectation("top_k_gain", [0.1, 0.2, 0.3])
    with pytest.raises(ConfigError, match="accuracies contain 30"):
        ev.random_expectation("regret", [10, 20, 30][::-1])
