"""Are the values of a selection the exact means over all tie-breakings?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError
from ntk_select.evaluate.order import chance_of_best


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
    with pytest.raises(ConfigError, match=f"k is {k!r}, and there are 3 experts. Allowed: a whole number, 1 to 3"):
        measure([1, 2, 3], [0.1, 0.2, 0.3], k=k)


def test_another_reference_or_tolerance_is_refused():
    with pytest.raises(ConfigError, match=r"reference is 70. Allowed: an accuracy, 0 to 1"):
        ev.top_k_gain([1, 2, 3], [0.1, 0.2, 0.3], reference=70)
    with pytest.raises(ConfigError, match=r"tolerance is -0.1. Allowed: a finite number, 0 or more"):
        ev.trials_to_best([1, 2, 3], [0.1, 0.2, 0.3], tolerance=-0.1)
