"""Values of a selection are the exact means over all tie-breakings; the leaderboard uses other targets only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError
from ntk_select.evaluate.selection import chance_of_best


def by_brute_force(orders, accuracies, k, tolerance):
    """Mean over orders of: best of the first k, place of the first good one, whether one is among the first k."""
    good = {i for i, a in enumerate(accuracies) if a >= max(accuracies) - tolerance - 1e-12}
    rows = []
    for order in orders:
        place = next(p for p, expert in enumerate(order, 1) if expert in good)
        rows.append((max(accuracies[i] for i in order[:k]), place, float(place <= k)))
    return np.mean(rows, axis=0)


@given(data=st.data())
@settings(max_examples=150)
def test_every_measure_is_the_mean_over_all_tie_breakings(data, tied, tie_breakings):
    scores, accuracies = data.draw(tied)
    k, tolerance = data.draw(st.integers(1, len(scores))), data.draw(st.sampled_from([0.0, 0.1, 0.4]))
    best, trials, hit = by_brute_force(tie_breakings(scores), accuracies, k, tolerance)
    assert ev.top_k_accuracy(scores, accuracies, k) == pytest.approx(best, abs=1e-12)
    assert ev.top_k_gain(scores, accuracies, 0.3, k) == pytest.approx(best - 0.3, abs=1e-12)
    assert ev.regret(scores, accuracies, k) == pytest.approx(accuracies.max() - best, abs=1e-12)
    assert ev.trials_to_best(scores, accuracies, tolerance) == pytest.approx(trials, abs=1e-12)
    assert ev.hit_rate(scores, accuracies, k, tolerance) == pytest.approx(hit, abs=1e-12)


@given(data=st.data())
def test_ranges_hold_exactly_and_more_trials_never_hurt(data, tied):
    scores, accuracies = data.draw(tied)
    e = len(scores)
    best = [ev.top_k_accuracy(scores, accuracies, k) for k in range(1, e + 1)]
    assert (np.diff(best) >= -1e-15).all()
    assert best[-1] == accuracies.max()
    assert all(0 <= ev.regret(scores, accuracies, k) <= 1 and 0 <= ev.hit_rate(scores, accuracies, k) <= 1 for k in range(1, e + 1))
    assert 1 <= ev.trials_to_best(scores, accuracies) <= e


@given(data=st.data())
def test_only_the_order_of_the_scores_counts(data, tied):
    scores, accuracies = data.draw(tied)
    order = np.array(data.draw(st.permutations(range(len(scores)))))
    other = np.exp(scores)[order]
    assert ev.top_k_accuracy(other, accuracies[order], 1) == pytest.approx(ev.top_k_accuracy(scores, accuracies, 1), abs=1e-12)
    assert ev.trials_to_best(other, accuracies[order]) == pytest.approx(ev.trials_to_best(scores, accuracies), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 1), (5, 2), (5, 5), (300, 7)])
def test_the_chance_to_be_the_largest_is_a_ratio_of_binomials(n, m):
    from math import comb

    np.testing.assert_allclose(chance_of_best(n, m), [comb(i - 1, m - 1) / comb(n, m) for i in range(1, n + 1)], rtol=1e-12, atol=0)


def test_a_case_by_hand():
    scores, accuracies = [3, 2, 2, np.nan], [0.5, 0.6, 0.9, 1.0]
    assert ev.top_k_accuracy(scores, accuracies, 1) == 0.5
    assert ev.top_k_accuracy(scores, accuracies, 2) == pytest.approx(0.75)
    assert ev.top_k_gain(scores, accuracies, reference=0.7) == pytest.approx(0.2)
    assert ev.regret(scores, accuracies) == 0.5
    assert ev.trials_to_best(scores, accuracies) == 4
    assert ev.trials_to_best(scores, accuracies, tolerance=0.1) == 2.5
    assert ev.hit_rate(scores, accuracies, k=2, tolerance=0.1) == 0.5


def test_rounding_does_not_make_the_tolerance_miss_an_expert():
    assert 0.3 - 0.1 > 0.2 - 1e-16
    assert ev.trials_to_best([1.0, 0.0], [0.7, 0.8], tolerance=0.1) == 1
    assert ev.trials_to_best([1.0, 0.0], [0.1 + 0.2, 0.3]) == 1
    assert ev.trials_to_best([1.0, 0.0], [0.3, 0.1 + 0.2]) == 1


def test_shuffled_scores_are_worth_a_random_choice_and_the_true_order_is_worth_more(experts, rng):
    _, accuracies = experts
    for name, options in {"top_k_accuracy": {"k": 3}, "regret": {}, "trials_to_best": {}, "hit_rate": {"k": 4}}.items():
        measure = getattr(ev, name)
        shuffled = [measure(rng.permutation(20), accuracies, **options) for _ in range(600)]
        error = 4 * np.std(shuffled) / np.sqrt(600)
        expected = ev.random_expectation(name, accuracies, **options)
        assert np.mean(shuffled) == pytest.approx(expected, abs=error)
        true = measure(accuracies, accuracies, **options)
        assert (true - expected) * (-1 if name in ("regret", "trials_to_best") else 1) > error


@pytest.mark.parametrize("k", [0, 4, 1.5, True, "2"])
@pytest.mark.parametrize("measure", [ev.top_k_accuracy, ev.regret, ev.hit_rate])
def test_another_k_is_refused(measure, k):
    with pytest.raises(ConfigError, match=f"k={k!r} must be a whole number from 1 to 3"):
        measure([1, 2, 3], [0.1, 0.2, 0.3], k=k)


def test_another_reference_or_tolerance_is_refused():
    with pytest.raises(ConfigError, match=r"reference=70 must be an accuracy, 0 to 1"):
        ev.top_k_gain([1, 2, 3], [0.1, 0.2, 0.3], reference=70)
    with pytest.raises(ConfigError, match=r"tolerance=-0.1 must be a finite number, 0 or more"):
        ev.trials_to_best([1, 2, 3], [0.1, 0.2, 0.3], tolerance=-0.1)


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
    with pytest.raises(ConfigError, match="costs contain a number that is negative, infinite or NaN"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], 0.2, costs)


def test_other_costs_and_references_are_refused():
    with pytest.raises(ConfigError, match="costs are for 2 experts, and accuracies for 3"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], 0.2, [1, 2])
    with pytest.raises(ConfigError, match="scoring_cost=-1"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], 0.2, [1, 2, 3], scoring_cost=-1)
    with pytest.raises(ConfigError, match="reference=nan"):
        ev.gain_against_cost([1, 2, 3], [0.1, 0.2, 0.3], float("nan"), [1, 2, 3])


@pytest.fixture
def accuracies(rng):
    return np.where(rng.random((6, 9)) < 0.3, np.nan, rng.random((6, 9)))


def test_it_is_the_mean_over_other_targets_by_brute_force(accuracies):
    found = ev.leave_one_out(accuracies)
    for target in range(6):
        for expert in range(9):
            others = [accuracies[t, expert] - np.nanmean(accuracies[t]) for t in range(6) if t != target and np.isfinite(accuracies[t, expert])]
            assert found[target, expert] == pytest.approx(np.mean(others) if others else np.nan, nan_ok=True)


@pytest.mark.parametrize("row", [np.linspace(0, 1, 9), np.full(9, np.nan)], ids=["other accuracies", "none"])
def test_row_i_of_the_input_never_touches_row_i_of_the_scores(accuracies, row):
    changed = accuracies.copy()
    changed[2] = row
    np.testing.assert_array_equal(ev.leave_one_out(changed)[2], ev.leave_one_out(accuracies)[2])
    assert not np.array_equal(ev.leave_one_out(changed)[0], ev.leave_one_out(accuracies)[0], equal_nan=True)


def test_easy_targets_do_not_count_more():
    table = np.array([[0.1, 0.3], [0.6, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(ev.leave_one_out(table)[2], [-0.1, 0.1])


def test_an_expert_measured_on_no_other_target_has_no_score():
    assert np.isnan(ev.leave_one_out(np.array([[0.1, 0.3, 0.2]]))).all()
    assert np.isnan(ev.leave_one_out(np.array([[0.1, 0.3], [np.nan, 0.8]]))[0, 0])


def test_it_orders_experts_that_win_everywhere_and_is_blind_where_none_do(rng):
    always = np.clip(np.linspace(0.2, 0.8, 20) + 0.02 * rng.normal(size=(40, 20)), 0, 1)
    never = rng.random((40, 20))
    skill = {name: np.mean(list(map(ev.spearman, ev.leave_one_out(table), table))) for name, table in (("always", always), ("never", never))}
    assert skill["always"] > 0.95
    assert abs(skill["never"]) < 0.15


def test_other_tables_are_refused():
    with pytest.raises(ConfigError, match=r"accuracies_by_target has the shape \(3,\). Allowed: \(targets, experts\)"):
        ev.leave_one_out([0.1, 0.2, 0.3])
    with pytest.raises(ConfigError, match="accuracies_by_target contain 70"):
        ev.leave_one_out([[0.1, 70]])
