"""Does the static leaderboard look at the other targets only?"""

import numpy as np
import pytest

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError


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
    with pytest.raises(ConfigError, match="accuracies_by_target hold 70"):
        ev.leave_one_out([[0.1, 70]])
