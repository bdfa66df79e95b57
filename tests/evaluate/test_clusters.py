"""Targets of one cluster are resampled together and change their signs together."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.stats

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError
from ntk_select.evaluate.bootstrap import Settings, clusters_of, replicates, tables
from ntk_select.evaluate.comparison import sign_flip

TARGETS_ONLY = Settings(20_000, 0.95, 0, ("targets",))


def first_score(scores, accuracies, target):
    return scores[0]


def valued(values, clusters):
    """Targets on which `first_score` has these values, rows being probe samples."""
    return [
        ev.Target(f"t{i}", np.reshape(value, (-1, 1)), [0.5], cluster=cluster)
        for i, (value, cluster) in enumerate(zip(values, clusters, strict=True))
    ]


def benchmark(rng, clusters, skill=1.0, d=3, s=2, e=8):
    found = []
    for place, cluster in enumerate(clusters):
        true = rng.random(e)
        accuracies = np.clip(true + 0.1 * rng.normal(size=(s, e)), 0, 1)
        found.append(ev.Target(f"t{place}", skill * true + 0.3 * rng.normal(size=(d, e)), accuracies, reference=0, cluster=cluster))
    return found


def effects(rng, clusters, size, mean=0.0):
    """Values of `size` targets in each of so many clusters: a common part of variance 1 and an own one of variance 0.25."""
    return mean + rng.normal(size=(clusters, 1)) + 0.5 * rng.normal(size=(clusters, size))


def test_clusters_are_numbered_and_a_target_without_one_is_its_own():
    assert clusters_of(valued(range(6), ["a", None, "b", "a", None, "b"])) == [0, 1, 2, 0, 3, 2]
    assert clusters_of(valued(range(3), [None] * 3)) == [0, 1, 2]


def test_with_every_target_its_own_cluster_the_targets_are_drawn_one_by_one(rng):
    values = rng.normal(size=7)
    chosen = np.random.default_rng([5, 2]).integers(7, size=(400, 7))
    for clusters in ([None] * 7, list("abcdefg")):
        found = ev.interval(first_score, valued(values, clusters), resamples=400, seed=5, over=("targets",))
        assert [found.low, found.high] == np.quantile(values[chosen].mean(axis=1), [(1 - 0.95) / 2, 1 - (1 - 0.95) / 2]).tolist()
        assert found.value == values.mean()


@pytest.mark.parametrize("over", [("targets",), ("draws", "seeds"), ("targets", "draws", "seeds")], ids=str)
def test_a_name_for_every_target_changes_nothing(over, rng):
    a, b = benchmark(rng, [None] * 6), benchmark(rng, [None] * 6)
    b = [replace(other, accuracies=target.accuracies) for target, other in zip(a, b, strict=True)]
    named_a, named_b = ([replace(target, cluster=target.name) for target in side] for side in (a, b))
    assert ev.interval("spearman", named_a, over=over) == ev.interval("spearman", a, over=over)
    assert ev.paired("spearman", named_a, named_b, over=over) == ev.paired("spearman", a, b, over=over)
    assert ev.against_random("top_k_gain", named_a, over=over) == ev.against_random("top_k_gain", a, over=over)


def test_a_replicate_is_the_mean_over_all_targets_of_as_many_clusters_as_there_are():
    """All 27 choices of three clusters with three, one and two targets, apart from each other in the order of the targets."""
    values, clusters = np.array([0.1, 2.0, 0.7, 30.0, 0.4, 90.0]), ["a", "b", "a", "c", "a", "c"]
    members = [[0, 2, 4], [1], [3, 5]]
    choices = product(range(3), repeat=3)
    exact = Counter(round(float(values[np.concatenate([members[c] for c in chosen])].mean()), 9) for chosen in choices)
    drawn = replicates(tables(first_score, valued(values, clusters), TARGETS_ONLY), TARGETS_ONLY)
    found = Counter(round(float(value), 9) for value in drawn)
    assert found.keys() == exact.keys()
    for value, times in exact.items():
        assert found[value] / len(drawn) == pytest.approx(times / 27, abs=4 * np.sqrt(times / 27 / len(drawn)))
    assert ev.interval(first_score, valued(values, clusters)).value == pytest.approx(values.mean())


@pytest.mark.parametrize("over", [("draws", "seeds"), ("targets", "draws", "seeds")], ids=str)
def test_the_ends_are_those_of_a_plain_cluster_bootstrap(over, rng):
    targets = benchmark(rng, ["a", "b", "a", "c", "a"])
    members = [[targets[0], targets[2], targets[4]], [targets[1]], [targets[3]]]

    def pick(n, axis):
        return rng.integers(n, size=n) if axis in over else np.arange(n)

    drawn = []
    for _ in range(1500):
        values = []
        for cluster in pick(3, "targets"):
            for target in members[cluster]:
                accuracies = target.accuracies[pick(2, "seeds")].mean(axis=0)
                values.append(np.mean([ev.pearson(target.scores[draw], accuracies) for draw in pick(3, "draws")]))
        drawn.append(np.mean(values))
    found = ev.interval("pearson", targets, resamples=8000, level=0.8, over=over)
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.1, 0.9]), abs=0.15 * np.std(drawn))


def test_copies_of_every_target_in_its_cluster_are_no_new_targets(rng):
    targets = benchmark(rng, list("abcdef"))
    copies = [replace(target, name=f"{target.name} {i}") for target in targets for i in range(3)]
    once, thrice = (ev.against_random("spearman", each, over=("targets",)) for each in (targets, copies))
    assert [thrice.difference.value, thrice.difference.low, thrice.difference.high] == pytest.approx(
        [once.difference.value, once.difference.low, once.difference.high]
    )
    assert (thrice.share, thrice.p_value) == (once.share, once.p_value)
    alone = ev.against_random("spearman", [replace(target, cluster=None) for target in copies], over=("targets",))
    assert alone.difference.high - alone.difference.low < 0.8 * (once.difference.high - once.difference.low)
    assert alone.p_value < once.p_value


def test_one_cluster_has_no_interval_and_no_small_p_value(rng):
    found = ev.against_random("spearman", benchmark(rng, ["one"] * 8), over=("targets",))
    assert found.difference.low == found.difference.high == pytest.approx(found.difference.value)
    assert found.p_value == 1


def test_intervals_of_clusters_hold_the_truth_and_those_that_ignore_them_do_not(rng):
    names = np.repeat([f"c{i}" for i in range(20)], 3).tolist()
    held = {True: 0, False: 0}
    for _ in range(120):
        values = effects(rng, 20, 3, mean=0.3).ravel()
        for clustered in held:
            found = ev.interval(first_score, valued(values, names if clustered else [None] * 60), resamples=200, over=("targets",))
            held[clustered] += found.low <= 0.3 <= found.high
    assert 0.87 <= held[True] / 120 <= 0.99
    assert held[False] / 120 < 0.83


def test_undefined_targets_are_left_out_of_their_cluster_and_counted(rng):
    targets = benchmark(rng, ["a", "a", "b", "c", "c"])
    flat = replace(targets[1], name="flat", scores=np.ones((3, 8)))
    found, rest = ev.interval("spearman", [*targets, flat]), ev.interval("spearman", targets)
    assert found.undefined == 1
    assert found.value == rest.value
    assert ev.interval("spearman", [*targets, flat], over=("targets",)) == replace(ev.interval("spearman", targets, over=("targets",)), undefined=1)
    assert ev.against_random("spearman", [*targets, flat]).p_value == ev.against_random("spearman", targets).p_value


# The sign-flip test


@pytest.mark.parametrize("clusters", [[0, 0, 1, 2, 2, 2], [4, 1, 4, 1, 4, 9], [0, 1, 2, 3, 4, 5]], ids=str)
def test_the_p_value_is_that_of_all_joint_signs(clusters, rng):
    for _ in range(20):
        differences = rng.normal(size=6).round(1) + 0.3
        names = sorted(set(clusters))
        flipped = [
            abs(np.mean([dict(zip(names, signs, strict=True))[cluster] * each for cluster, each in zip(clusters, differences, strict=True)]))
            for signs in product([1, -1], repeat=len(names))
        ]
        exact = np.mean(np.array(flipped) >= abs(differences.mean()) - 1e-9)
        assert sign_flip(differences, np.array(clusters)) == exact


def test_it_is_scipys_exact_permutation_test_of_the_sums_of_the_clusters(rng):
    differences, clusters = rng.normal(size=25) + 0.3, np.arange(25) % 10
    sums = np.array([differences[clusters == c].sum() for c in range(10)])
    other = scipy.stats.permutation_test((sums,), lambda x: abs(np.sum(x)), permutation_type="samples", n_resamples=np.inf, alternative="greater")
    assert sign_flip(differences, clusters) == pytest.approx(other.pvalue)


def test_many_clusters_take_random_signs_close_to_the_exact_value(rng):
    differences, clusters = rng.normal(size=32) + 0.3, np.arange(32) // 2
    sums = differences.reshape(16, 2).sum(axis=1)
    exact = np.mean(np.abs((1 - 2 * (np.arange(2**16)[:, None] >> np.arange(16) & 1)) @ sums) >= abs(sums.sum()) - 1e-9)
    assert sign_flip(differences, clusters, seed=1) == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000))


def test_fourteen_clusters_of_many_targets_are_exact():
    assert sign_flip(np.ones(140), np.arange(140) % 14) == 2 / 2**14
    assert sign_flip(np.ones(140), np.arange(140) % 5) == 2 / 2**5


def test_clusters_without_a_known_difference_do_not_count():
    differences = np.array([1.0, np.nan, 2.0, np.nan, np.nan, 3.0])
    assert sign_flip(differences, np.array([0, 0, 1, 2, 2, 3])) == 2 / 2**3
    assert sign_flip(np.r_[np.ones(14), np.full(6, np.nan)], np.arange(20)) == 2 / 2**14
    assert np.isnan(sign_flip(np.full(3, np.nan), np.array([0, 0, 1])))


def test_dependent_targets_reject_as_often_as_they_may_and_too_often_if_taken_for_independent(rng):
    clusters = np.repeat(np.arange(8), 4)
    together, apart = np.transpose([(sign_flip(x, clusters), sign_flip(x)) for x in (effects(rng, 8, 4).ravel() for _ in range(200))])
    assert np.mean(together <= 0.1) < 0.16
    assert np.mean(apart <= 0.1) > 0.25


# What is refused


@pytest.mark.parametrize("cluster", [3, "", ("cifar10",)])
def test_a_cluster_is_a_name(cluster):
    with pytest.raises(ConfigError, match=r"Target 'birds': cluster=.* must be a name, or None for a cluster of its own. Try: cluster='cifar10'"):
        ev.Target("birds", [1, 2, 3], [0.1, 0.2, 0.3], cluster=cluster)


def test_both_scores_need_the_same_clusters(rng):
    targets = benchmark(rng, ["a", "a", "b"])
    others = [*targets[:2], replace(targets[2], cluster=None)]
    with pytest.raises(ConfigError, match="Target 't2' has the clusters 'b' and None. Both scores need the same clusters of targets"):
        ev.paired("spearman", targets, others)
