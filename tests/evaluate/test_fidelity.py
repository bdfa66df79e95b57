"""Fidelity is the share of differences in accuracy that a regression on differences in score explains."""

from itertools import combinations, permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError


def by_pairs(scores, accuracies):
    """Least squares through the origin over all pairs, with NumPy's solver."""
    pairs = list(combinations(range(len(scores)), 2))
    of_scores = np.array([scores[i] - scores[j] for i, j in pairs])
    of_accuracies = np.array([accuracies[i] - accuracies[j] for i, j in pairs])
    (slope,), *_ = np.linalg.lstsq(of_scores[:, None], of_accuracies, rcond=None)
    left = of_accuracies - slope * of_scores
    return np.sign(slope) * (1 - left @ left / (of_accuracies @ of_accuracies))


@pytest.mark.parametrize("e", [3, 6, 25])
def test_it_is_the_signed_share_of_a_regression_over_all_pairs(e, rng):
    for skill in (-0.3, 0.0, 0.1, 0.5):
        accuracies = rng.random(e)
        scores = skill * accuracies + 0.1 * rng.normal(size=e)
        assert ev.fidelity(scores, accuracies) == pytest.approx(by_pairs(scores, accuracies), abs=1e-12)


def test_it_is_the_signed_square_of_scipys_correlation_also_with_ties(experts):
    r = scipy.stats.pearsonr(*experts).statistic
    assert ev.fidelity(*experts) == pytest.approx(r * abs(r))
    assert ev.fidelity(-experts[0], experts[1]) == pytest.approx(-r * abs(r))


def test_a_perfect_order_out_of_proportion_has_less_than_one():
    accuracies = np.linspace(0.1, 0.9, 12)
    assert ev.fidelity(3 * accuracies - 7, accuracies) == pytest.approx(1)
    assert ev.fidelity(-accuracies, accuracies) == pytest.approx(-1)
    curved = np.exp(10 * accuracies)
    assert ev.spearman(curved, accuracies) == pytest.approx(1)
    assert ev.fidelity(curved, accuracies) < 0.7


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_scale_shift_and_the_order_of_the_experts_do_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    scores, accuracies, order = rng.integers(6, size=7).astype(float), rng.integers(5, size=7) / 4, rng.permutation(7)
    value = ev.fidelity(scores, accuracies)
    np.testing.assert_allclose(ev.fidelity((scores * scale + shift)[order], accuracies[order]), value, atol=1e-9)
    assert np.isnan(value) or -1 <= value <= 1


def test_over_all_orders_its_size_is_one_over_e_minus_one(rng):
    accuracies = rng.random(6)
    values = [ev.fidelity(np.array(order, float), accuracies) for order in permutations(range(6))]
    assert np.mean(np.abs(values)) == pytest.approx(1 / 5)
    assert np.mean(values) == pytest.approx(0, abs=0.02)


def test_experts_without_a_score_are_left_out_and_there_is_no_value_for_two_or_a_constant_side(experts):
    scores, accuracies = experts
    known, nan = np.arange(20) % 3 > 0, np.nan
    assert ev.fidelity(np.where(known, scores, nan), accuracies) == ev.fidelity(scores[known], accuracies[known])
    assert np.isnan(ev.fidelity([1, 2, nan], [0.1, 0.2, 0.3]))
    assert np.isnan(ev.fidelity([1, 1, 1], [0.1, 0.2, 0.3]))
    assert np.isnan(ev.fidelity([1, 2, 3], [0.1, 0.1, 0.1]))


def test_it_is_a_measure_of_targets(rng):
    targets = [ev.Target(f"t{i}", rng.normal(size=(2, 8)), rng.random((3, 8))) for i in range(4)]
    expected = np.mean([by_pairs(scores, target.accuracies.mean(axis=0)) for target in targets for scores in target.scores])
    assert ev.interval("fidelity", targets).value == pytest.approx(expected)
    assert ev.paired("fidelity", targets, targets).difference.value == 0
    grouped = ev.within_groups(ev.fidelity, targets[0].scores[0], targets[0].mean_accuracies(), list("aaaabbbb"))
    halves = [by_pairs(targets[0].scores[0][half], targets[0].mean_accuracies()[half]) for half in (slice(4), slice(4, 8))]
    assert grouped == pytest.approx(np.mean(halves))


def test_other_inputs_are_refused(rng):
    targets = [ev.Target("t", rng.random(5), rng.random(5))]
    with pytest.raises(ConfigError, match="'fidelity' has no known expectation"):
        ev.against_random("fidelity", targets)
    with pytest.raises(ConfigError, match="fidelity has no option 'k'"):
        ev.interval("fidelity", targets, k=3)
    with pytest.raises(ConfigError, match="accuracies contain 30"):
        ev.fidelity([1, 2, 3], [10, 20, 30][::-1])
    with pytest.raises(ConfigError, match="scores are for 2 experts, and accuracies for 3"):
        ev.fidelity([1, 2], [0.1, 0.2, 0.3])
