"""Intervals equal those of a plain bootstrap, and have their nominal coverage."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError
from ntk_select.evaluate.bootstrap import multisets


def benchmark(rng, t=6, d=3, s=3, e=10, skill=1.0, **fields):
    found = []
    for place in range(t):
        true = rng.random(e)
        accuracies = np.clip(true + 0.1 * rng.normal(size=(s, e)), 0, 1)
        found.append(ev.Target(f"t{place}", skill * true + 0.3 * rng.normal(size=(d, e)), accuracies, **fields))
    return found


def plain(measure, targets, rng, resamples, over):
    """The bootstrap as its definition reads, without tables."""

    def pick(n, axis):
        return rng.integers(n, size=n) if axis in over else np.arange(n)

    replicates = []
    for _ in range(resamples):
        values = []
        for place in pick(len(targets), "targets"):
            target = targets[place]
            accuracies = target.accuracies[pick(len(target.accuracies), "seeds")].mean(axis=0)
            values.append(np.mean([measure(target.scores[draw], accuracies) for draw in pick(len(target.scores), "draws")]))
        replicates.append(np.mean(values))
    return replicates


def test_the_value_is_the_mean_over_targets_of_the_mean_over_draws(rng):
    targets = benchmark(rng)
    expected = np.mean([np.mean([ev.spearman(s, t.accuracies.mean(axis=0)) for s in t.scores]) for t in targets])
    assert ev.interval("spearman", targets).value == pytest.approx(expected)


@pytest.mark.parametrize(
    "over",
    [("targets",), ("draws",), ("seeds",), pytest.param(("draws", "seeds"), marks=pytest.mark.nightly), ("targets", "draws", "seeds")],
    ids=str,
)
def test_the_ends_are_those_of_a_plain_bootstrap(over, rng):
    targets = benchmark(rng, t=4, d=3, s=3, e=8)
    found = ev.interval("pearson", targets, resamples=8000, level=0.8, over=over)
    replicates = plain(ev.pearson, targets, rng, 1500, over)
    low, high = np.quantile(replicates, [0.1, 0.9])
    error = 0.15 * np.std(replicates)
    assert found.low == pytest.approx(low, abs=error)
    assert found.high == pytest.approx(high, abs=error)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_multisets_have_the_chances_of_resampling(seeds, rng):
    counts, chances = multisets(seeds, rng)
    exact = Counter(tuple(np.bincount(row, minlength=seeds)) for row in product(range(seeds), repeat=seeds))
    found = {tuple(row): chance for row, chance in zip(counts, chances, strict=True)}
    assert found == pytest.approx({row: count / seeds**seeds for row, count in exact.items()})


def test_of_many_seeds_two_hundred_multisets_are_sampled(rng):
    counts, chances = multisets(6, rng)
    assert counts.shape == (200, 6)
    assert (counts.sum(axis=1) == 6).all()
    assert chances.sum() == pytest.approx(1)
    found = ev.interval(lambda scores, accuracies, target: accuracies[0], benchmark(rng, t=1, d=1, s=8), over=("seeds",))
    assert found.low < found.value < found.high


def test_it_holds_the_truth_as_often_as_it_says(rng):
    def first_score(scores, accuracies, target):
        return scores[0]

    held = 0
    for _ in range(200):
        effects = 0.3 + rng.normal(size=12)
        targets = [ev.Target("t", [[effect + 0.5 * rng.normal()] for _ in range(3)], [[0.5]]) for effect in effects]
        found = ev.interval(first_score, targets, resamples=300)
        held += found.low <= 0.3 <= found.high
    assert 0.85 <= held / 200 <= 0.99


def test_without_resampled_targets_the_interval_is_too_narrow_for_other_targets(rng):
    """The negative control of the coverage, and what the docstring warns of."""
    targets = benchmark(rng, t=8, d=2, s=1)
    everything, noise, seeds = (ev.interval("spearman", targets, over=over) for over in (("targets", "draws"), ("draws",), ("seeds",)))
    assert noise.high - noise.low < everything.high - everything.low
    assert seeds.low == seeds.high == pytest.approx(seeds.value)


def test_a_useless_score_has_an_interval_around_zero_and_a_good_one_above(rng):
    useless, good = (ev.interval("kendall", benchmark(rng, t=20, skill=skill)) for skill in (0.0, 1.0))
    assert useless.low < 0 < useless.high
    assert good.low > 0


def test_targets_without_a_value_are_left_out_and_counted(rng):
    targets = benchmark(rng, t=5)
    flat = ev.Target("flat", np.ones((3, 10)), targets[0].accuracies)
    some = ev.Target("some", np.vstack([np.ones(10), targets[0].scores[:2]]), targets[0].accuracies)
    found = ev.interval("spearman", [*targets, flat, some])
    values = [ev.interval("spearman", [target]).value for target in (*targets, some)]
    assert found.value == pytest.approx(np.mean(values))
    assert found.undefined == 1
    nothing = ev.interval("spearman", [flat])
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert nothing.undefined == 1


def test_measures_by_name_take_reference_and_groups_from_the_target(rng):
    groups = ("a",) * 5 + ("b",) * 5
    targets = benchmark(rng, t=3, d=1, s=1, reference=4, groups=groups)
    pairs = [(t.scores[0], t.accuracies[0]) for t in targets]
    expected = {
        "top_k_gain": (np.mean([ev.top_k_gain(s, a, a[4], k=2) for s, a in pairs]), {"k": 2}),
        "regret": (np.mean([ev.regret(s, a, k=2) for s, a in pairs]), {"k": 2}),
        "hit_rate": (np.mean([ev.hit_rate(s, a, 2, 0.1) for s, a in pairs]), {"k": 2, "tolerance": 0.1}),
        "across_groups": (np.mean([ev.across_groups(s, a, groups) for s, a in pairs]), {}),
        "within_groups": (np.mean([ev.within_groups("kendall", s, a, groups) for s, a in pairs]), {"measure": "kendall"}),
    }
    for name, (value, options) in expected.items():
        assert ev.interval(name, targets, **options).value == pytest.approx(value)
    by_default = np.mean([ev.within_groups("spearman", s, a, groups) for s, a in pairs])
    assert ev.interval("within_groups", targets).value == pytest.approx(by_default)
    own = partial(lambda k, scores, accuracies, target: ev.top_k_gain(scores, accuracies, accuracies[target.reference], k), 2)
    assert ev.interval(own, targets) == ev.interval("top_k_gain", targets, k=2)


def test_groups_of_another_kind_are_given_by_replace(rng):
    """Such as groups of similar size instead of architectures; groups of fewer than three do not count."""
    sizes = ("small",) * 4 + ("middle",) * 2 + ("large",) * 4
    targets = benchmark(rng, t=3, d=1, s=1, groups=("a", "b") * 5)
    resized = [replace(target, groups=sizes) for target in targets]
    expected = [np.mean([ev.spearman(t.scores[0, part], t.accuracies[0, part]) for part in (slice(4), slice(6, 10))]) for t in targets]
    assert ev.interval("within_groups", resized).value == pytest.approx(np.mean(expected))
    assert ev.interval("within_groups", targets).value != pytest.approx(np.mean(expected))


def test_equal_seeds_give_equal_intervals(rng):
    targets = benchmark(rng)
    assert ev.interval("spearman", targets, seed=5) == ev.interval("spearman", targets, seed=5)
    assert ev.interval("spearman", targets, seed=5) != ev.interval("spearman", targets, seed=6)


def test_it_is_printed_with_as_many_digits_as_it_knows():
    assert str(ev.Interval(0.4123, 0.12, 0.661, 1000)) == "0.41 [0.12, 0.66]"
    assert str(ev.Interval(0.01234, 0.00411, 0.0199, 1000)) == "0.012 [0.004, 0.020]"
    assert str(ev.Interval(-0.0, -0.5, 0.5, 1000)) == "0.00 [-0.50, 0.50]"
    assert str(ev.Interval(3.0, 3.0, 3.0, 1000)) == "3.00 [3.00, 3.00]"
    assert str(ev.Interval(*[float("nan")] * 3, 1000, 1)) == "nan [nan, nan]"


@pytest.mark.parametrize(
    ("measure", "options", "sentence"),
    [
        ("spearmann", {}, "'spearmann' is not a measure. Did you mean 'spearman'"),
        ("regret", {"kk": 2}, "regret has no option 'kk'. Did you mean 'k'"),
        ("spearman", {"k": 2}, r"spearman has no option 'k'. Allowed: \(none\)"),
        ("top_k_gain", {"reference": 0.5}, "top_k_gain has no option 'reference'. Allowed: k"),
        (lambda *_: 0.0, {"k": 2}, r"Options \(k\) require a measure given by name"),
        ("top_k_gain", {}, r"top_k_gain needs the reference of every target, and target 't0' has none"),
        ("within_groups", {}, r"within_groups needs the groups of every target, .* Try: Target\(..., groups=...\)"),
        ("across_groups", {}, "across_groups needs the groups"),
        ("regret", {"k": 11}, "k=11 must be a whole number from 1 to 10"),
        ("spearman", {"resamples": 10}, "resamples=10 must be a whole number, 100 or more"),
        ("spearman", {"level": 95}, "level=95 must be between 0 and 1"),
        ("spearman", {"seed": -1}, "seed=-1 must be a whole number, 0 or more"),
        ("spearman", {"over": "targets"}, r"over='targets' must be one or more of targets, draws, seeds, as \('targets',\)"),
        ("spearman", {"over": ()}, r"over=\(\)"),
        ("spearman", {"over": ("target",)}, "over contains 'target'. Did you mean 'targets'"),
    ],
)
def test_other_measures_and_settings_are_refused(measure, options, sentence, rng):
    with pytest.raises(ConfigError, match=sentence):
        ev.interval(measure, benchmark(rng, t=2), **options)


def test_what_is_no_target_is_refused(rng):
    with pytest.raises(ConfigError, match="targets has 0 entries. Allowed: at least one"):
        ev.interval("spearman", [])
    with pytest.raises(ConfigError, match=r"each made by evaluate.Target\(...\)"):
        ev.interval("spearman", [*benchmark(rng, t=1), "birds"])
