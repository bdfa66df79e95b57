"""Comparisons of two scores are paired, and p-values are those of exact permutation tests and of Holm."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import scipy.stats

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError
from ntk_select.evaluate.comparison import sign_flip


@pytest.fixture
def benchmark(rng):
    """The targets with a score of this skill: the same tasks and accuracies for every score."""
    true = rng.random((8, 12))
    accuracies = np.clip(true[:, None] + 0.1 * rng.normal(size=(8, 3, 12)), 0, 1)

    def of(skill, draws=4):
        scores = skill * true[:, None] + 0.3 * rng.normal(size=(8, draws, 12))
        return [ev.Target(f"t{i}", scores[i], accuracies[i], reference=0) for i in range(8)]

    return of


def test_the_difference_is_of_the_means_and_turns_with_the_order(benchmark):
    a, b = benchmark(1.0), benchmark(0.2)
    found, turned = ev.paired("spearman", a, b), ev.paired("spearman", b, a)
    assert found.difference.value == pytest.approx(ev.interval("spearman", a).value - ev.interval("spearman", b).value)
    assert turned.difference.low == pytest.approx(-found.difference.high)
    assert turned.share == pytest.approx(1 - found.share)
    assert turned.p_value == found.p_value


def test_a_clear_difference_is_seen_and_a_score_against_itself_is_equal(benchmark):
    a = benchmark(1.0)
    clear, same = ev.paired("spearman", a, benchmark(0.0)), ev.paired("spearman", a, a)
    assert clear.difference.low > 0
    assert clear.share == 1
    assert clear.p_value < 0.02
    assert (same.difference.value, same.difference.low, same.difference.high) == (0, 0, 0)
    assert (same.share, same.p_value) == (0.5, 1)


def test_two_useless_scores_are_not_told_apart_too_often(benchmark):
    p = [ev.paired("kendall", benchmark(0.0, 1), benchmark(0.0, 1), resamples=100).p_value for _ in range(100)]
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_pairs_make_the_interval_narrower_than_two_alone(benchmark):
    a = benchmark(1.0)
    b = [replace(target, scores=target.scores - 0.05 * np.arange(12)) for target in a]
    apart = [ev.interval("pearson", targets) for targets in (a, b)]
    together = ev.paired("pearson", a, b).difference
    assert together.high - together.low < np.hypot(*(i.high - i.low for i in apart))


def test_one_draw_is_compared_with_every_draw_of_the_other(benchmark):
    a, b = benchmark(1.0), benchmark(0.5, draws=1)
    repeated = [replace(target, scores=np.repeat(target.scores, 4, axis=0)) for target in b]
    assert ev.paired("top_k_gain", a, b, k=2) == ev.paired("top_k_gain", a, repeated, k=2)
    assert ev.paired("top_k_gain", b, a, k=2).difference.value == pytest.approx(-ev.paired("top_k_gain", a, b, k=2).difference.value)


def test_a_target_where_one_side_has_no_value_is_left_out(benchmark):
    a, b = benchmark(1.0), benchmark(0.5)
    b[3] = replace(b[3], scores=np.ones((4, 12)))
    found = ev.paired("spearman", a, b)
    assert found.difference.undefined == 1
    rest = ev.paired("spearman", a[:3] + a[4:], b[:3] + b[4:])
    assert found.difference.value == pytest.approx(rest.difference.value)
    assert found.p_value == rest.p_value
    nothing = ev.paired("spearman", a[3:4], b[3:4])
    assert np.isnan([nothing.share, nothing.p_value]).all()


@pytest.mark.parametrize("t", [2, 7, 10])
def test_the_p_value_is_scipys_exact_permutation_test(t, rng):
    differences = rng.normal(size=t).round(1) + 0.3
    other = scipy.stats.permutation_test(
        (differences,), lambda x: abs(np.mean(x)), permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert sign_flip(differences) == pytest.approx(other.pvalue)


def test_many_targets_take_random_signs_close_to_the_exact_value(rng):
    differences = rng.normal(size=16) + 0.4
    exact = np.abs((1 - 2 * (np.arange(2**16)[:, None] >> np.arange(16) & 1)) @ differences) >= abs(differences.sum()) - 1e-9
    assert sign_flip(differences, seed=1) == pytest.approx(exact.mean(), abs=4 * np.sqrt(exact.mean() / 10_000))
    assert sign_flip(np.ones(30)) == pytest.approx(1 / 10_001)


def test_five_targets_never_reach_five_percent():
    assert sign_flip(np.arange(1.0, 6)) == 2 / 2**5
    assert sign_flip(np.array([0.3])) == 1


def test_it_is_printed_in_one_line():
    assert str(ev.Paired(ev.Interval(0.1, 0.02, 0.2, 1000), 0.973, 0.0312)) == "0.10 [0.02, 0.20], larger in 97 % of the replicates, p = 0.031"


def test_targets_that_are_not_the_same_are_refused(benchmark):
    a = benchmark(1.0)
    with pytest.raises(ConfigError, match="One score has 8 targets and the other 7"):
        ev.paired("spearman", a, a[:7])
    with pytest.raises(ConfigError, match="Target 't0' is paired with 't1' of other name or accuracies"):
        ev.paired("spearman", a, a[1:] + a[:1])
    with pytest.raises(ConfigError, match="Target 't0' is paired with 't0' of other"):
        ev.paired("spearman", a, [replace(target, accuracies=target.accuracies / 2) for target in a])
    with pytest.raises(ConfigError, match="Target 't0' has 4 and 3 probe samples. Both scores need the same number"):
        ev.paired("spearman", a, benchmark(1.0, draws=3))


def mean_of_all_orders(measure, target, **options):
    """Over all orders of the experts of a target, by enumeration."""
    accuracies = target.mean_accuracies()
    given = {"reference": accuracies[target.reference]} if measure == "top_k_gain" else {}
    values = [getattr(ev, measure)(np.array(order, float), accuracies, **options, **given) for order in permutations(range(len(accuracies)))]
    return np.mean(values)


@pytest.mark.parametrize(
    ("measure", "options"), [("top_k_gain", {"k": 3}), ("trials_to_best", {}), ("regret", {}), ("spearman", {}), ("weighted_tau", {})]
)
def test_a_random_order_is_compared_by_the_mean_over_all_orders(rng, measure, options):
    """With ties among the accuracies, and an expert without a score."""
    scores = rng.normal(size=(3, 2, 5))
    targets = [ev.Target(f"t{i}", scores[i], np.round(rng.random((2, 5)), 1), reference=1) for i in range(3)]
    found = ev.against_random(measure, targets, **options)
    expected = [mean_of_all_orders(measure, target, **options) for target in targets]
    assert found.difference.value == pytest.approx(ev.interval(measure, targets, **options).value - np.mean(expected))
    assert found.difference.low <= found.difference.value <= found.difference.high
    signs = sign_flip(np.array([ev.interval(measure, [target], **options).value for target in targets]) - expected)
    assert found.p_value == pytest.approx(signs)


def test_a_score_that_is_a_random_order_differs_from_the_expectation_by_nothing_on_average(rng):
    accuracies = rng.random(9)
    drawn = [ev.Target(f"t{i}", rng.permutation(9).astype(float), accuracies, reference=0) for i in range(400)]
    found = ev.against_random("top_k_gain", drawn, k=3, resamples=200)
    assert found.difference.low < 0 < found.difference.high
    assert found.difference.high - found.difference.low < 0.05
    tied = [replace(target, scores=np.zeros(9)) for target in drawn[:5]]
    assert ev.against_random("top_k_gain", tied, k=3).difference.value == pytest.approx(0, abs=1e-15)


def test_a_correlation_with_random_is_of_the_experts_that_have_a_score(rng):
    scores, accuracies = np.array([[1.0, 2, 3, np.nan, np.nan]]), np.array([[0.1, 0.3, 0.3, 0.3, 0.9]])
    known = ev.random_expectation("weighted_tau", accuracies[0, :3])
    found = ev.against_random("weighted_tau", [ev.Target("t", scores, accuracies)])
    assert found.difference.value == pytest.approx(ev.weighted_tau(scores[0], accuracies[0]) - known)
    alone = ev.Target("t", np.full((1, 5), np.nan), accuracies)
    assert np.isnan(ev.against_random("spearman", [alone]).difference.value)


def test_what_has_no_expectation_is_refused(rng):
    targets = [ev.Target("t", rng.random(5), rng.random(5), groups=("a", "a", "b", "b", "b"))]
    with pytest.raises(ConfigError, match="'within_groups' has no known expectation"):
        ev.against_random("within_groups", targets)
    with pytest.raises(ConfigError, match="top_k_gain needs the reference of every target, and target 't' has none"):
        ev.against_random("top_k_gain", targets)
    with pytest.raises(ConfigError, match="spearman has no option 'k'"):
        ev.against_random("spearman", targets, k=3)


def test_a_case_by_hand():
    np.testing.assert_allclose(ev.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(ev.holm([0.6, 0.7]), [1, 1])


def test_what_is_rejected_is_what_the_step_down_rule_rejects(rng):
    for _ in range(50):
        p, level = rng.random(7) ** 4, 0.1
        rejected = np.zeros(7, bool)
        for step, test in enumerate(np.argsort(p)):
            if p[test] > level / (7 - step):
                break
            rejected[test] = True
        np.testing.assert_array_equal(ev.holm(p) <= level, rejected)


def test_nan_stays_and_is_not_counted():
    np.testing.assert_allclose(ev.holm([0.02, np.nan, 0.01]), [0.02, np.nan, 0.02])
    assert np.isnan(ev.holm([np.nan])).all()
    assert ev.holm([]).shape == (0,)


def test_false_rejections_anywhere_stay_rare(rng):
    p = rng.random((2000, 10))
    assert np.mean([ev.holm(row).min() <= 0.05 for row in p]) < 0.065
    assert np.mean(p.min(axis=1) <= 0.05) > 0.3


@pytest.mark.parametrize("p", [[0.1, 1.2], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ConfigError, match="p_values are not a vector of numbers from 0 to 1"):
        ev.holm(p)
