"""The ceiling is the correlation of the expected accuracies, as it is known in closed form and from simulated fine-tunings."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError


def measured(rng, experts, seeds, reliability):
    """Expected accuracies of experts, and accuracies over seeds, of which this share of the variance is not noise; 0.4 to 0.6 nearly all."""
    true = rng.normal(size=experts)
    noise = rng.normal(size=(seeds, experts))
    return true, np.clip(0.5 + 0.05 * (np.sqrt(reliability) * true + np.sqrt(1 - reliability) * noise), 0, 1)


def of_normal_variables(r):
    """Spearman's correlation of normal variables whose Pearson correlation is r."""
    return 6 / np.pi * np.arcsin(r / 2)


@pytest.mark.parametrize("reliability", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_many_experts_it_is_the_closed_form_for_normal_variables(seeds, reliability, rng):
    """Within 0.02: ranks instead of values in the formula are worth up to 0.009, and of 100,000 experts the standard error is up to 0.004."""
    _, accuracies = measured(rng, 100_000, seeds, reliability)
    of_mean = seeds * reliability / (1 + (seeds - 1) * reliability)
    assert ev.noise_ceiling(accuracies) == pytest.approx(of_normal_variables(np.sqrt(of_mean)), abs=0.02)


def test_a_score_that_knows_the_expected_accuracies_reaches_it_and_no_more(rng):
    """Accuracies that are skewed, as those of many poor experts and few good ones."""
    true = 0.2 + 0.6 * rng.beta(1, 3, size=20_000)
    accuracies = rng.binomial(400, true, size=(3, 20_000)) / 400
    assert ev.noise_ceiling(accuracies) == pytest.approx(spearmanr(true, accuracies.mean(axis=0)).statistic, abs=0.01)


def test_over_targets_with_few_experts_it_is_on_average_what_a_perfect_score_has(rng):
    targets = []
    for i in range(300):
        true, accuracies = measured(rng, 24, 2, 0.7)
        targets.append(ev.Target(f"t{i}", true, accuracies))
    found = ev.ceiling(targets, resamples=100)
    assert found.value == pytest.approx(ev.interval("spearman", targets, resamples=100).value, abs=0.02)
    assert found.high - found.low < 0.03


def test_the_formula_of_two_seeds_by_hand():
    """One pair of neighbours of five is exchanged: r = 1 - 6 * 2 / (5 * 24) = 0.9."""
    accuracies = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.1, 0.3, 0.4, 0.5]])
    assert ev.noise_ceiling(accuracies) == pytest.approx(np.sqrt(2 * 0.9 / 1.9))


def test_of_several_seeds_it_takes_the_mean_over_pairs(rng):
    accuracies = measured(rng, 9, 4, 0.6)[1]
    r = np.mean([spearmanr(a, b).statistic for a, b in combinations(accuracies, 2)])
    assert ev.noise_ceiling(accuracies) == pytest.approx(np.sqrt(4 * r / (1 + 3 * r)))


def test_seeds_that_agree_have_one_and_noise_alone_none(rng):
    one = rng.random(12)
    assert ev.noise_ceiling([one, one]) == pytest.approx(1)
    assert ev.noise_ceiling([one, 1 - one]) == 0
    assert ev.noise_ceiling(rng.random((5, 20_000))) < 0.2


def test_the_order_of_seeds_and_experts_and_the_scale_do_not_matter(rng):
    accuracies = measured(rng, 10, 3, 0.5)[1]
    value = ev.noise_ceiling(accuracies)
    assert 0 < value < 1
    assert ev.noise_ceiling(accuracies[[2, 0, 1]][:, rng.permutation(10)]) == pytest.approx(value)
    assert ev.noise_ceiling(norm.cdf(20 * (accuracies - 0.5))) == pytest.approx(value)


def test_there_is_none_of_one_seed_two_experts_or_equal_accuracies():
    assert np.isnan(ev.noise_ceiling([0.1, 0.2, 0.3]))
    assert np.isnan(ev.noise_ceiling([[0.1, 0.2], [0.1, 0.2]]))
    assert np.isnan(ev.noise_ceiling([[0.1, 0.2, 0.3], [0.2, 0.2, 0.2], [0.1, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        (np.zeros((2, 3, 1)), r"accuracies have the shape \(2, 3, 1\). Allowed: \(seeds, experts\)"),
        ([], r"accuracies have the shape \(0,\)"),
        ([[0.1, 0.2, 30]] * 2, "accuracies contain 30. Allowed: 0 to 1"),
        ([[0.1, 0.2, np.nan]] * 2, "accuracies contain nan"),
        (["many"], "accuracies are not an array of numbers"),
    ],
)
def test_other_accuracies_are_refused(accuracies, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ev.noise_ceiling(accuracies)


# Over targets


def benchmark(rng, clusters, seeds=3, experts=9):
    return [ev.Target(f"t{i}", rng.normal(size=(2, experts)), measured(rng, experts, seeds, 0.6)[1], 0, cluster=c) for i, c in enumerate(clusters)]


def test_over_targets_it_is_their_mean_with_an_interval_over_clusters(rng):
    targets = benchmark(rng, ["a", "a", "b", "c", "d", "d"])
    values = np.array([ev.noise_ceiling(target.accuracies) for target in targets])
    members = [[0, 1], [2], [3], [4, 5]]
    drawn = [values[np.concatenate([members[c] for c in rng.integers(4, size=4)])].mean() for _ in range(4000)]
    found = ev.ceiling(targets, resamples=4000, level=0.8)
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.1, 0.9]), abs=0.15 * np.std(drawn))
    assert (found.resamples, found.level, found.undefined) == (4000, 0.8, 0)
    assert ev.ceiling(targets, seed=1) == ev.ceiling(targets, seed=1)
    assert ev.ceiling(targets, seed=1, level=0.4) != ev.ceiling(targets, seed=2, level=0.4)


def test_seeds_are_not_resampled_because_one_that_is_drawn_twice_agrees_with_itself(rng):
    (target,) = benchmark(rng, [None])
    found = ev.ceiling([target])
    assert found.low == found.value == found.high
    resampled = [ev.noise_ceiling(target.accuracies[rng.integers(3, size=3)]) for _ in range(300)]
    assert np.mean(resampled) > found.value + 0.02


def test_it_is_of_the_experts_that_the_score_has(rng):
    (target,) = benchmark(rng, [None])
    scores = target.scores.copy()
    scores[:, 4:] = np.nan
    scores[1, 2] = np.nan
    few = replace(target, scores=scores)
    expected = np.mean([ev.noise_ceiling(target.accuracies[:, columns]) for columns in ([0, 1, 2, 3], [0, 1, 3])])
    assert ev.ceiling([few]).value == pytest.approx(expected)


def test_targets_with_one_seed_or_without_scores_have_no_value_and_are_counted(rng):
    targets = benchmark(rng, [None] * 3)
    single = replace(targets[0], accuracies=targets[0].accuracies[:1])
    unscored = replace(targets[0], scores=np.full(9, np.nan))
    found = ev.ceiling([*targets, single, unscored])
    assert found.value == pytest.approx(ev.ceiling(targets).value)
    assert found.undefined == 2
    assert np.isnan(ev.ceiling([single]).value)


def test_settings_are_checked_as_those_of_an_interval(rng):
    with pytest.raises(ConfigError, match="targets has 0 entries"):
        ev.ceiling([])
    with pytest.raises(ConfigError, match="level=95 must be between 0 and 1"):
        ev.ceiling(benchmark(rng, [None]), level=95)
    with pytest.raises(ConfigError, match="'noise_ceiling' is not a measure"):
        ev.interval("noise_ceiling", benchmark(rng, [None]))


# Another fine-tuning as the score


def test_each_seed_is_judged_by_the_mean_of_the_others(rng):
    target = ev.Target("birds", rng.normal(size=(2, 6)), rng.random((3, 6)), 2, tuple("aabbcc"), np.arange(6), 7.0)
    found = ev.other_seed(target)
    assert len(found) == 3
    for own, each in enumerate(found):
        others = [seed for seed in range(3) if seed != own]
        np.testing.assert_allclose(each.scores, target.accuracies[others].mean(axis=0)[None])
        np.testing.assert_array_equal(each.accuracies, target.accuracies[own][None])
        assert (each.name, each.reference, each.groups, each.scoring_cost, each.cluster) == ("birds", 2, target.groups, 7.0, "birds")
        np.testing.assert_array_equal(each.costs, target.costs)
    assert {each.cluster for each in ev.other_seed(replace(target, cluster="animals"))} == {"animals"}


@pytest.mark.parametrize(("measure", "options"), [("trials_to_best", {}), ("top_k_gain", {"k": 2}), ("spearman", {})])
def test_its_value_is_the_mean_over_all_choices_of_the_seed(measure, options, rng):
    targets = benchmark(rng, [None] * 4)
    again = [each for target in targets for each in ev.other_seed(target)]
    expected = []
    for target in targets:
        for own in range(3):
            accuracies = target.accuracies[own]
            score = np.delete(target.accuracies, own, axis=0).mean(axis=0)
            given = {"reference": accuracies[0]} if measure == "top_k_gain" else {}
            expected.append(getattr(ev, measure)(score, accuracies, **options, **given))
    found = ev.interval(measure, again, **options)
    assert found.value == pytest.approx(np.mean(expected))
    by_target = np.reshape(expected, (4, 3)).mean(axis=1)
    drawn = by_target[np.random.default_rng([0, 2]).integers(4, size=(1000, 4))].mean(axis=1)
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist())


def test_fine_tuning_without_noise_selects_the_best_at_once_and_noise_alone_selects_at_random(rng):
    accuracies = rng.permuted(np.linspace(0.1, 0.9, 12))
    clear = ev.other_seed(ev.Target("clear", np.zeros(12), [accuracies] * 2))
    assert ev.interval("trials_to_best", clear).value == 1
    noise = [each for i in range(300) for each in ev.other_seed(ev.Target(f"t{i}", np.zeros(12), rng.random((2, 12))))]
    assert ev.interval("trials_to_best", noise, resamples=100).value == pytest.approx(6.5, abs=0.8)


def test_a_score_is_compared_with_it_on_the_same_single_accuracies(rng):
    targets = benchmark(rng, [None] * 5)
    again = [each for target in targets for each in ev.other_seed(target)]
    own = [replace(each, scores=target.scores) for target in targets for each in ev.other_seed(target)]
    found = ev.paired("spearman", again, own)
    assert found.difference.value == pytest.approx(ev.interval("spearman", again).value - ev.interval("spearman", own).value)
    assert found.p_value >= 2 / 2**5


def test_experts_without_a_score_have_none():
    target = ev.Target("birds", [[1, np.nan, 3, np.nan], [1, 2, 3, np.nan]], [[0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4]])
    np.testing.assert_array_equal(np.isnan(ev.other_seed(target)[0].scores), [[False, False, False, True]])


def test_one_seed_has_no_other():
    with pytest.raises(ConfigError, match=r"Target 'birds' has one fine-tuning seed. Required: two or more. Try: leave it out"):
        ev.other_seed(ev.Target("birds", [1, 2, 3], [0.1, 0.2, 0.3]))
