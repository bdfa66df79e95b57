"""Targets are checked when they are made, and averages over seeds keep ties."""

from itertools import permutations

import numpy as np
import pytest

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError

SCORES, ACCURACIES = np.array([[1.0, 2.0, np.nan]]), np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]])


def test_the_mean_over_seeds_counts_each_as_often_as_said():
    target = ev.Target("birds", SCORES, ACCURACIES)
    np.testing.assert_allclose(target.mean_accuracies(), [0.2, 0.3, 0.4])
    np.testing.assert_allclose(target.mean_accuracies(np.array([0, 2])), [0.3, 0.4, 0.5])


def test_the_same_accuracies_in_another_order_of_seeds_tie():
    accuracies = np.array(list(permutations([0.1, 0.2, 0.7, 0.33]))).T
    assert len(set(accuracies.mean(axis=0))) > 1
    assert len(set(ev.Target("birds", np.zeros((1, 24)), accuracies).mean_accuracies())) == 1


def test_a_vector_is_one_seed_and_one_draw():
    short, whole = ev.Target("birds", [3, 1, 2], [0.1, 0.2, 0.4], 0), ev.Target("birds", [[3, 1, 2]], [[0.1, 0.2, 0.4]], 0)
    assert short.scores.tolist() == whole.scores.tolist()
    assert short.accuracies.tolist() == whole.accuracies.tolist()
    assert ev.interval("top_k_gain", [short], k=2).value == pytest.approx(0.4 - 0.1)


def test_a_target_keeps_its_own_numbers():
    scores = SCORES.copy()
    target = ev.Target("birds", scores, ACCURACIES, 0, ["a", "b", "c"], [1, 2, 3], 4)
    scores[0, 0] = 9
    assert target.scores[0, 0] == 1
    assert target.groups == ("a", "b", "c")
    assert target.costs.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        target.accuracies[0, 0] = 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"scores": SCORES[None]},
            r"Target 'birds': scores have the shape \(1, 1, 3\). Allowed: \(probe samples, experts\), or \(experts,\) for one of the probe samples",
        ),
        ({"accuracies": ACCURACIES[:0]}, r"accuracies have the shape \(0, 3\). Allowed: \(seeds, experts\)"),
        ({"accuracies": []}, r"accuracies have the shape \(0,\)"),
        ({"accuracies": 0.5}, r"accuracies have the shape \(\)"),
        ({"accuracies": ACCURACIES[0, :2]}, r"scores are for 3 experts, and accuracies for 2"),
        ({"accuracies": 100 * ACCURACIES}, r"accuracies contain 10. Allowed: 0 to 1"),
        ({"accuracies": np.where(ACCURACIES > 0.4, np.nan, ACCURACIES)}, r"accuracies contain nan"),
        ({"scores": SCORES[:, :2]}, r"scores are for 2 experts, and accuracies for 3"),
        ({"scores": SCORES * np.inf}, r"scores contain infinite values"),
        ({"scores": "none"}, r"scores are not an array of numbers"),
        ({"reference": 3}, r"reference=3 must be the index of an expert, 0 to 2, or None"),
        ({"reference": True}, r"reference=True"),
        ({"reference": 0.7}, r"reference=0.7"),
        ({"groups": ("a", "b")}, r"groups has the length 2, and there are 3 experts"),
        ({"costs": [1, 2]}, r"costs are for 2 experts"),
        ({"costs": [1, 2, -3]}, r"costs contain a number that is negative"),
        ({"scoring_cost": -1}, r"scoring_cost=-1"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ev.Target(**{"name": "birds", "scores": SCORES, "accuracies": ACCURACIES, **fields})
