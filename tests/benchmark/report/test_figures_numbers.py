"""The numbers of the figures are those of the raw records: everything is recomputed from them by brute force."""

from dataclasses import replace
from itertools import combinations
from statistics import mean, stdev

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr, weightedtau

from ntk_select.benchmark.report.figures import SPEARMAN, caption, data, in_order
from ntk_select.benchmark.report.summary import BEST, RANDOM, baselines, measured, of_targets, usable_targets
from ntk_select.benchmark.report.words import multi_domain, single_domain
from ntk_select.evaluate.bootstrap import Interval

REFERENCE = "photos-net_a"
TASKS = ("birds", "planes", "cars", "greek")


def accuracies(results, task, shots, expert, role="truth"):
    rows = [row for row in results.finetunings if (row["task"], row["images_per_class"], row["expert"], row["role"]) == (task, shots, expert, role)]
    return [row["accuracy"] for row in sorted(rows, key=lambda row: row["seed"])]


def experts(results, task, shots, kind=None):
    found = {row["expert"] for row in results.finetunings if (row["task"], row["images_per_class"], row["role"]) == (task, shots, "truth")}
    return sorted(name for name in found if kind is None or ("@" in name) == (kind == "multi"))


def score(results, name, task, expert, images, seed):
    (value,) = (
        row["value"]
        for row in results.scores
        if (row["score"], row["task"], row["expert"], row["images_per_class"], row["seed"]) == (name, task, expert, images, seed)
    )
    return value


def order(results, name, task, names, images, seed):
    return sorted(names, key=lambda expert: -score(results, name, task, expert, images, seed))


def row_of(rows, **wanted):
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row


def test_figure_1_has_the_best_of_all_and_the_best_of_the_first_three_of_lfc(whole):
    rows = data(whole, "figure_1")
    for task in TASKS:
        for shots in (5, 20):
            means = {name: mean(accuracies(whole, task, shots, name)) for name in experts(whole, task, shots)}
            best = row_of(rows, panel="a", target=task, shots=shots, what="zoo: best expert (brute force)")
            assert best["expert"] == max(means, key=means.get)
            assert best["accuracy_percent"] == pytest.approx(100 * max(means.values()))
            assert best["sd_percent"] == pytest.approx(100 * stdev(accuracies(whole, task, shots, best["expert"])))
            of_draws = [max(means[name] for name in order(whole, "lfc", task, means, shots, seed)[:3]) for seed in (0, 1)]
            chosen = row_of(rows, panel="b", target=task, shots=shots, what="zoo: best of LFC's first three")
            assert chosen["accuracy_percent"] == pytest.approx(100 * mean(of_draws))


def test_figure_1_has_untrained_networks_those_of_the_reference_and_the_wide_search(whole):
    rows = data(whole, "figure_1")
    for what, expert, role in (
        ("untrained", "untrained:net_b", "untrained"),
        ("reference's source", "photos-net_b", "truth"),
        ("reference", REFERENCE, "truth"),
        ("reference, wide search", REFERENCE, "search"),
    ):
        row = row_of(rows, target="cars", shots=5, what=what, expert=expert)
        assert row["accuracy_percent"] == pytest.approx(100 * mean(accuracies(whole, "cars", 5, expert, role)))
        assert row["sd_percent"] == pytest.approx(100 * stdev(accuracies(whole, "cars", 5, expert, role)))
    assert {row["expert"] for row in rows if row["what"] == "reference's source"} == {"photos-net_a", "photos-net_b"}


def test_figure_1_compares_networks_with_the_seeds_of_the_zoo_and_experts_trained_from_scratch_on_the_source_alone(made, whole):
    begun = whole.experts["textures-net_a-from-photos"]
    other = replace(whole, experts={**whole.experts, begun.name: replace(begun, source="photos")})
    assert {row["expert"] for row in data(other, "figure_1") if row["what"] == "reference's source"} == {"photos-net_a", "photos-net_b"}
    some = made.without(whole, lambda row: row["role"] != "truth" or row["seed"] == 0 or row["expert"] == REFERENCE)
    row = row_of(data(some, "figure_1"), target="cars", shots=5, what="untrained", expert="untrained:net_b")
    assert (row["seeds"], row["sd_percent"]) == (1, None)
    assert row["accuracy_percent"] == pytest.approx(100 * accuracies(whole, "cars", 5, "untrained:net_b", "untrained")[0])


def test_figure_2_has_the_gain_of_every_single_domain_expert_without_source_overlap(whole):
    rows = data(whole, "figure_2")
    for task in TASKS:
        for shots in (5, 20):
            here = [row for row in rows if (row["target"], row["shots"]) == (task, shots)]
            assert sorted([*(row["expert"] for row in here), REFERENCE]) == experts(whole, task, shots, "single")
            for row in here:
                pairs = zip(accuracies(whole, task, shots, row["expert"]), accuracies(whole, task, shots, REFERENCE), strict=True)
                over = [100 * (one - other) for one, other in pairs]
                assert (row["gain_points"], row["sd_points"]) == pytest.approx((mean(over), stdev(over)))
    assert not any("letters" in row["expert"] for row in rows if row["target"] == "greek")


def test_figure_3_has_the_domains_without_source_overlap_and_the_best_single_domain_expert(whole):
    rows = data(whole, "figure_3")
    assert {row["target"] for row in rows} == {"birds", "planes", "cars"}
    for task in ("birds", "planes", "cars"):
        single = {name: mean(accuracies(whole, task, 5, name)) for name in experts(whole, task, 5, "single")}
        best = row_of(rows, target=task, shots=5, what="best single-domain expert")
        assert best["expert"] == max(single, key=single.get)
        assert best["gain_points"] == pytest.approx(100 * (max(single.values()) - single[REFERENCE]))
        assert sorted(row["expert"] for row in rows if (row["target"], row["shots"], row["what"]) == (task, 5, "domain")) == experts(
            whole, task, 5, "multi"
        )


@pytest.mark.parametrize(("figure", "kind", "tasks"), [("figure_4", "single", TASKS), ("figure_5", "multi", TASKS[:3])])
@pytest.mark.parametrize("k", [1, 3])
def test_gains_of_scores_of_a_random_order_and_of_the_best_are_those_of_the_records(whole, figure, kind, tasks, k):
    rows = data(whole, figure)
    for shots in (5, 20):
        lfc, random, best = [], [], []
        for task in tasks:
            means = {name: mean(accuracies(whole, task, shots, name)) for name in experts(whole, task, shots, kind)}
            reference = mean(accuracies(whole, task, shots, REFERENCE))
            lfc.append(mean(max(means[name] for name in order(whole, "lfc", task, means, shots, seed)[:k]) for seed in (0, 1)) - reference)
            random.append(mean(max(some) for some in combinations(means.values(), k)) - reference)
            best.append(max(means.values()) - reference)
        for name, expected in (("lfc", lfc), (RANDOM, random), (BEST, best)):
            row = row_of(rows, shots=shots, measure=f"top_{k}_gain_points", score=name)
            assert row["value"] == pytest.approx(100 * mean(expected))
            assert row["targets"] == len(tasks)
            assert row["target"] is None


def test_scores_are_ordered_by_the_paper_then_by_the_number_of_targets_and_the_mean():
    values = {"b": (0.5, 4), "a": (0.9, 1), "lgc": (0.1, 4), "c": (0.7, 4), RANDOM: (0.0, 4), "lfc": (0.0, 4), "static_leaderboard": (0.2, 4)}
    rows = [{"score": name, "value": value, "targets": targets, "measure": "spearman"} for name, (value, targets) in values.items()]
    assert in_order(rows, SPEARMAN) == [RANDOM, "static_leaderboard", "lfc", "lgc", "c", "b", "a"]


def test_the_static_leaderboard_ranks_by_the_other_targets_alone(whole):
    gains = []
    for task in TASKS:
        here = experts(whole, task, 20, "single")
        above = {name: [] for name in here}
        for other in set(TASKS) - {task}:
            means = {name: mean(accuracies(whole, other, 20, name)) for name in experts(whole, other, 20, "single")}
            for name in set(here) & set(means):
                above[name].append(means[name] - mean(means.values()))
        first = max(here, key=lambda name: mean(above[name]))
        gains.append(mean(accuracies(whole, task, 20, first)) - mean(accuracies(whole, task, 20, REFERENCE)))
    row = row_of(data(whole, "figure_4"), shots=20, measure="top_1_gain_points", score="static_leaderboard")
    assert row["value"] == pytest.approx(100 * mean(gains))


def test_few_targets_are_shown_separately(made, whole):
    some = made.without(whole, lambda row: row["task"] in ("birds", "cars"))
    rows = data(some, "figure_5")
    assert {row["target"] for row in rows} == {"birds", "cars"}
    assert "Fewer than 3 targets, shown separately (birds, cars)." in caption(some, "figure_5")
    means = {name: mean(accuracies(some, "cars", 5, name)) for name in experts(some, "cars", 5, "multi")}
    best = row_of(rows, target="cars", shots=5, measure="top_1_gain_points", score=BEST)
    assert best["value"] == pytest.approx(100 * (max(means.values()) - mean(accuracies(some, "cars", 5, REFERENCE))))


def test_figure_6_has_the_trials_and_the_correlations_of_the_records(whole):
    rows = data(whole, "figure_6")
    for shots in (5, 20):
        found = {"trials_to_best": [], "spearman": [], "kendall": [], "weighted_tau": []}
        for task in TASKS:
            means = {name: mean(accuracies(whole, task, shots, name)) for name in experts(whole, task, shots, "single")}
            for seed in (0, 1):
                values = [score(whole, "hscore", task, name, shots, seed) for name in means]
                tried = order(whole, "hscore", task, means, shots, seed)
                found["trials_to_best"].append(1 + tried.index(max(means, key=means.get)))
                for name, function in (("spearman", spearmanr), ("kendall", kendalltau), ("weighted_tau", weightedtau)):
                    found[name].append(function(values, list(means.values())).statistic)
        for name, values in found.items():
            row = row_of(rows, shots=shots, measure=name, score="hscore")
            assert row["value"] == pytest.approx(mean(values))
            assert row["low"] < row["value"] < row["high"]
        counts = [len(experts(whole, task, shots, "single")) for task in TASKS]
        assert row_of(rows, shots=shots, measure="trials_to_best", score=RANDOM)["value"] == pytest.approx(mean((n + 1) / 2 for n in counts))


def test_figure_7_takes_the_scores_of_each_number_of_images_with_the_most_shots(whole):
    rows = data(whole, "figure_7")
    for images in (5, 10, 20):
        found = []
        for task in TASKS:
            means = {name: mean(accuracies(whole, task, 20, name)) for name in experts(whole, task, 20, "single")}
            for seed in (0, 1):
                found.append(spearmanr([score(whole, "lfc", task, name, images, seed) for name in means], list(means.values())).statistic)
        assert row_of(rows, images_per_class=images, measure="spearman", score="lfc")["value"] == pytest.approx(mean(found))
    assert {row["shots"] for row in rows} == {20}


def test_figure_8_has_the_means_of_the_kernel_within_and_between_classes(whole):
    rows = data(whole, "figure_8")
    assert len(rows) == len(whole.kernels) == 4
    raw = next(row for row in whole.kernels if (row["expert"], row["epochs"]) == (REFERENCE, 5))
    size, within, between = len(raw["labels"]), [], []
    for one in range(size):
        for other in range(size):
            if one != other:
                (within if raw["labels"][one] == raw["labels"][other] else between).append(raw["kernel"][one * size + other])
    row = row_of(rows, expert=REFERENCE, epochs=5)
    assert (row["within_classes"], row["between_classes"]) == pytest.approx((mean(within), mean(between)))
    assert (row["lfc"], row["accuracy_percent"]) == (raw["lfc"], 50.0)


@pytest.mark.parametrize("count", [4, pytest.param(10, marks=pytest.mark.nightly)])
def test_a_score_that_knows_the_accuracies_beats_a_random_order_and_one_that_knows_nothing_does_not(made, count):
    text = made.CONFIG.replace("shots = [5, 20]", "shots = [20]")
    worlds_of = {signal: [made.world(text, seed=seed, signal=signal) for seed in range(count)] for signal in (0.9, 0.0)}

    def over_random(signal, measure, **options):
        options |= {"among": single_domain}
        return [
            measured(each, measure, 20, scores=["lfc"], **options)["lfc"].value - baselines(each, measure, 20, **options)[RANDOM].value
            for each in worlds_of[signal]
        ]

    for measure, options in (("top_k_gain", {"k": 1}), ("spearman", {})):
        knowing, knowing_nothing = (over_random(signal, measure, **options) for signal in (0.9, 0.0))
        assert min(knowing) > 0
        assert abs(mean(knowing_nothing)) < 3 * stdev(knowing_nothing) / len(knowing_nothing) ** 0.5


def test_targets_with_fewer_experts_than_requested_are_left_out(whole):
    names = [target.name for target in usable_targets(whole, "lfc", "top_k_gain", 5, among=single_domain, k=7)]
    assert names == ["birds", "planes", "cars"]
    assert not measured(whole, "top_k_gain", 5, among=single_domain, k=11)
    assert not baselines(whole, "top_k_gain", 5, among=multi_domain, k=4)


def test_a_target_needs_three_experts_to_choose_from_next_to_the_reference(made, whole):
    def usable(*missing):
        some = made.without(whole, lambda row: row["expert"] not in missing)
        return [target.name for target in usable_targets(some, "lfc", "top_k_gain", 5, among=multi_domain, k=1)]

    assert usable() == ["birds", "planes", "cars"]
    assert usable("many-net_a@letters") == []


def test_a_static_leaderboard_needs_another_target(made, whole):
    for tasks in (("birds",), ("birds", "cars")):
        some = made.without(whole, lambda row, tasks=tasks: row["task"] in tasks)
        assert [target.name for target in some.targets("static_leaderboard", 5)] == (list(tasks) if len(tasks) > 1 else [])


def test_an_interval_has_no_ends_if_one_target_alone_has_a_value():
    for targets, undefined, shown in ((3, 0, True), (3, 1, True), (3, 2, False), (1, 0, False)):
        found = of_targets(Interval(0.5, 0.4, 0.6, 1000, undefined), targets)
        assert found.value == 0.5
        assert np.isfinite([found.low, found.high]).tolist() == [shown, shown], (targets, undefined)
    assert of_targets(None, 3) is None


def test_a_measure_is_computed_once(whole):
    found, again = (measured(whole, "kendall", 5, among=single_domain, scores=["lfc"])["lfc"] for _ in range(2))
    assert isinstance(found, Interval)
    assert found is again
    assert measured(whole, "kendall", 5, among=single_domain, scores=["lfc"], task="cars")["lfc"].value != found.value


def test_measures_of_groups_have_no_random_order(whole):
    assert set(baselines(whole, "within_groups", 5)) == {BEST}
    assert np.isfinite(measured(whole, "across_groups", 5, scores=["lfc"])["lfc"].value)
