"""Are gains, correlations, costs and differences those of the raw rows? Each is recomputed by loops and by SciPy."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from ntk_select.benchmark.report.summary import BEST, RANDOM, baselines, measured
from ntk_select.benchmark.report.tables import TABLES, Column, table_3
from ntk_select.benchmark.report.tables.costs import training_costs
from ntk_select.evaluate import holm

TRAINED, READING = 50, 7.0
PASSES = {"net_a": (0.2, 0.05), "net_b": (0.5, 0.11)}
"""Seconds of forward and backward by architecture, once compiled."""


def with_costs(results):
    """The same with operations and seconds: a fine-tuning is 3.4 trainings; first passes also compile, and the first expert reads."""
    facts = results.experts
    first = {facts[name].architecture: name for name in reversed(facts)}
    truths = []
    for place, row in enumerate(results.truths):
        one = {"net_a": 2e9, "net_b": 3e9}[row["architecture"]] * row["images_per_class"]
        seconds = 3.4 * one / 1e9 * (1 + 0.01 * (place % 3))
        truths.append(
            {
                **row,
                "train_images": TRAINED,
                "epochs": 4,
                "images": 3.4 * 4 * TRAINED,
                "flops": 3.4 * one,
                "train_seconds": seconds,
                "images_per_second": 3.4 * 4 * TRAINED / seconds,
                "learning_rate": 0.01,
            }
        )
    scores = []
    for row in results.scores:
        forward, backward = PASSES[row["architecture"]]
        compiling = 9 * (row["expert"] == first[row["architecture"]])
        reading = READING if row["expert"] == next(iter(facts)) else 0.01
        times = {"preprocess_seconds": reading, "forward_seconds": forward + compiling, "backward_seconds": backward + compiling}
        scores.append({**row, **times, "score_seconds": 0.001, "shared_seconds": 30.0 * (row["expert"] == "photos-net_a")})
    cards = {name: replace(each, source_accuracy=0.5 + 0.01 * place, parameters=1000 + place) for place, (name, each) in enumerate(facts.items())}
    return replace(results, truths=truths, scores=scores, experts=cards)


@pytest.fixture(scope="module")
def results(paid):
    return paid


def rows_of(results, name):
    content = TABLES[name].content(results)
    return [dict(zip((column.name for column in content.columns), row, strict=True)) for row in content.rows]


def one(rows, **wanted):
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def raw(results, shots):
    """task -> experts, mean accuracies over seeds; by loops over rows."""
    found = {}
    for task in results.tasks:
        rows = [r for r in results.truths if (r["role"], r["task"], r["images_per_class"], r["own_source"]) == ("truth", task, shots, False)]
        names = list(dict.fromkeys(r["expert"] for r in rows))
        found[task] = names, np.array([np.mean([r["accuracy"] for r in rows if r["expert"] == name]) for name in names])
    return found


def draws(results, score, task, shots, names):
    """One row a draw, in the order of the names."""
    values = {
        (r["seed"], r["expert"]): r["value"]
        for r in results.scores
        if (r["score"], r["task"], r["images_per_class"]) == (score, task, shots) and not r["own_source"]
    }
    return [np.array([values[seed, name] for name in names]) for seed in sorted({seed for seed, _ in values})]


@pytest.mark.parametrize("shots", [5, 20])
def test_gains_trials_and_correlations_of_the_main_table_are_those_of_the_raw_rows(results, shots):
    rows, expected = rows_of(results, "scores"), {"gain": [], "trials": [], "spearman": [], "kendall": [], "hit": []}
    for task, (names, accuracies) in raw(results, shots).items():
        over = accuracies[names.index("photos-net_a")]
        by_draw = {key: [] for key in expected}
        for values in draws(results, "lfc", task, shots, names):
            order = np.argsort(-values)
            by_draw["gain"].append(100 * (accuracies[order[:3]].max() - over))
            by_draw["trials"].append(1 + list(order).index(accuracies.argmax()))
            by_draw["spearman"].append(spearmanr(values, accuracies)[0])
            by_draw["kendall"].append(kendalltau(values, accuracies)[0])
            by_draw["hit"].append(accuracies.argmax() in order[:3])
        for key in expected:
            expected[key].append(np.mean(by_draw[key]))
    found = one(rows, score="lfc", shots=shots)
    for key, column in {
        "gain": "top_3_gain_points",
        "trials": "trials_to_best",
        "spearman": "spearman",
        "kendall": "kendall",
        "hit": "hit_rate_of_3",
    }.items():
        assert found[column].value == pytest.approx(np.mean(expected[key]))
        assert found[column].low <= found[column].value <= found[column].high
    assert found["targets"] == 4
    assert found["with_value"] == 100


def test_a_random_order_and_the_best_possible_enclose_what_is_known(results):
    for shots in (5, 20):
        sizes = [len(names) for names, _ in raw(results, shots).values()]
        random, best = (one(rows_of(results, "scores"), score=name, shots=shots) for name in (RANDOM, BEST))
        assert random["trials_to_best"].value == pytest.approx(np.mean([(size + 1) / 2 for size in sizes]))
        assert random["spearman"].value == 0
        assert best["trials_to_best"].value == 1
        assert best["top_3_gain_points"].value == pytest.approx(best["top_1_gain_points"].value)


def test_a_score_that_knows_nothing_is_no_better_than_a_random_order(results, made):
    known, nothing = (one(rows_of(each, "scores"), score="lfc", shots=20)["spearman"] for each in (results, made.world(signal=0.0)))
    assert known.low > 0.3
    assert nothing.value < known.low


def test_of_one_target_there_is_a_mean_and_no_interval(results, made):
    rows = rows_of(made.without(results, lambda row: row["task"] == "birds"), "scores")
    cell = one(rows, score="lfc", shots=20)["spearman"]
    assert math.isfinite(cell.value)
    assert math.isnan(cell.low)
    assert Column("spearman", "", 2, interval=True).shown(cell) == f"{cell.value:.2f}"


def test_costs_are_in_trainings_of_the_reference_and_split_by_step(results):
    rows, shots = rows_of(results, "table_3"), 20
    brute, tops, forwards, backwards, readings, shared = [], [], [], [], [], []
    for task, (names, _) in raw(results, shots).items():
        costs = np.array([{"net_a": 1.0, "net_b": 1.5}[results.experts[name].architecture] * 3.4 for name in names])
        brute.append(costs.sum())
        tops.append(np.mean([costs[np.argsort(-values)[:3]].sum() for values in draws(results, "lfc", task, shots, names)]))
        reference = [
            r for r in results.truths if (r["task"], r["expert"], r["role"], r["images_per_class"]) == (task, "photos-net_a", "truth", shots)
        ]
        unit = np.mean([r["train_seconds"] for r in reference]) / 3.4
        kinds = [results.experts[name].architecture for name in names]
        forwards.append(sum(PASSES[kind][0] for kind in kinds) / unit)
        readings.append(READING / unit)
        shared.append(30 / unit)
        backwards.append(sum(PASSES[kind][1] for kind in kinds) / unit)
    lfc, lgc, rsa = (one(rows, score=name, shots=shots) for name in ("lfc", "lgc", "rsa"))
    assert one(rows, score="brute force", shots=shots)["operations"] == pytest.approx(np.mean(brute))
    assert lfc["operations"] == pytest.approx(np.mean(tops))
    assert lfc["forward"] == lgc["forward"] == pytest.approx(np.mean(forwards))
    assert lfc["backward"] == lfc["shared"] == 0
    assert lgc["backward"] == pytest.approx(np.mean(backwards))
    assert lfc["reading"] == rsa["reading"] == pytest.approx(np.mean(readings))
    assert rsa["shared"] == pytest.approx(np.mean(shared))
    assert rsa["scoring"] == pytest.approx(rsa["reading"] + rsa["forward"] + rsa["score_alone"] + rsa["shared"])
    assert one(rows, score=RANDOM, shots=shots)["reading"] == 0
    assert not [row for row in rows if row["score"] == "random"]
    assert lfc["total"] == pytest.approx(lfc["seconds"] + lfc["scoring"])
    assert one(rows, score=RANDOM, shots=shots)["forward"] == 0


def test_a_training_that_was_taken_up_again_costs_what_it_would_have_and_without_a_speed_it_does_not_count(results):
    half = [{**row, "train_seconds": row["train_seconds"] / (2 if row["seed"] else 1)} for row in results.truths]
    assert rows_of(replace(results, truths=half), "table_3") == rows_of(results, "table_3")
    slow = [{**row, "images_per_second": row["images_per_second"] / (2 if row["seed"] else 1)} for row in results.truths]
    assert rows_of(replace(results, truths=slow), "table_3") != rows_of(results, "table_3")
    alone = [{**row, "images_per_second": None if row["seed"] else row["images_per_second"]} for row in results.truths]
    for expert, units in training_costs(replace(results, truths=alone), "birds", 5, seconds=True).items():
        rows = [
            row
            for row in results.truths
            if (row["task"], row["images_per_class"], row["seed"], row["role"]) == ("birds", 5, 0, "truth")
            and row["expert"] in (expert, "photos-net_a")
        ]
        mine, theirs = (next(row["train_seconds"] for row in rows if row["expert"] == name) for name in (expert, "photos-net_a"))
        assert units == pytest.approx(3.4 * mine / theirs)
    none = replace(results, truths=[{**row, "images_per_second": None} for row in results.truths])
    row = one(rows_of(none, "table_3"), score="lfc", shots=5)
    assert (row["seconds"], row["forward"], row["total"]) == (None, None, None)
    assert row["operations"] is not None


def test_a_reference_network_that_another_worker_trained_again_is_paid_once(results):
    again = [{**row, "shared_seconds": 29.0 if row["expert"] == "letters-net_b" else row["shared_seconds"]} for row in results.scores]
    assert rows_of(replace(results, scores=again), "table_3") == rows_of(results, "table_3")
    dearer = [{**row, "shared_seconds": 2 * row["shared_seconds"]} for row in results.scores]
    first, second = (one(rows_of(each, "table_3"), score="rsa", shots=5)["shared"] for each in (results, replace(results, scores=dearer)))
    assert second == pytest.approx(2 * first)


def test_without_a_reference_there_is_no_unit_of_cost_and_no_gain(results, made):
    alone = made.without(results, lambda row: row["expert"] != "photos-net_a")
    content = TABLES["table_3"].content(alone)
    assert not content.rows
    assert "no unit of cost" in content.missing[0]
    assert one(rows_of(alone, "scores"), score="lfc", shots=20)["top_3_gain_points"] is None
    assert any("reference" in sentence for sentence in TABLES["scores"].content(alone).missing)


def test_the_gain_grows_with_what_is_tried_and_is_that_of_the_raw_rows(results):
    rows = [row for row in rows_of(results, "budget") if row["shots"] == 20]
    for name in ("lfc", "lgc", RANDOM):
        gains = [row["gain_points"].value for row in rows if row["score"] == name]
        assert gains == sorted(gains)
        assert gains[0] >= 0
    expected = [
        np.maximum(accuracies, accuracies[names.index("photos-net_a")]).mean() - accuracies[names.index("photos-net_a")]
        for names, accuracies in raw(results, 20).values()
    ]
    assert one(rows, score=RANDOM, trials=1)["gain_points"].value == pytest.approx(100 * np.mean(expected))


def test_differences_of_pairs_are_those_of_the_means_and_p_values_are_corrected_a_family(results):
    rows, means = rows_of(results, "paired"), rows_of(results, "scores")
    row = one(rows, score="lfc", other="lgc", shots=5, measure="Spearman")
    lfc, lgc = (one(means, score=name, shots=5)["spearman"].value for name in ("lfc", "lgc"))
    assert row["difference"].value == pytest.approx(lfc - lgc)
    family = [row for row in rows if (row["score"], row["shots"], row["measure"]) == ("lfc", 5, "Spearman")]
    assert [row["other"] for row in family][-1] == RANDOM
    assert len(family) == len(results.score_names)
    assert [row["p_holm"] for row in family] == pytest.approx(list(holm(np.array([row["p"] for row in family]))))
    assert all(row["p"] >= 2 / 2**4 for row in rows)


def expected_gain(accuracies, over):
    """The gain of the best of three experts, mean over all choices of three: by enumeration."""
    return 100 * np.mean([max(chosen) - over for chosen in combinations(accuracies, 3)])


@pytest.mark.parametrize("shots", [5, 20])
def test_a_score_is_compared_with_the_exact_expectation_of_a_random_order_and_not_with_a_drawn_one(results, shots):
    differences = []
    for task, (names, accuracies) in raw(results, shots).items():
        over = accuracies[names.index("photos-net_a")]
        gains = [100 * (accuracies[np.argsort(-values)[:3]].max() - over) for values in draws(results, "lfc", task, shots, names)]
        differences.append(np.mean(gains) - expected_gain(accuracies, over))
    row = one(rows_of(results, "paired"), score="lfc", other=RANDOM, shots=shots, measure="gain of the best of 3 (points)")
    assert row["difference"].value == pytest.approx(np.mean(differences))
    assert row["difference"].low <= row["difference"].value <= row["difference"].high
    spearman = one(rows_of(results, "paired"), score="lfc", other=RANDOM, shots=shots, measure="Spearman")["difference"]
    assert spearman.value == pytest.approx(one(rows_of(results, "scores"), score="lfc", shots=shots)["spearman"].value)


def test_records_of_the_score_random_change_no_number_and_stand_nowhere(results):
    drawn = np.random.default_rng(1)
    other = replace(results, scores=[{**row, "value": drawn.random()} if row["score"] == "random" else row for row in results.scores])
    assert any(row["score"] == "random" for row in results.scores)
    for name in ("paired", "table_3"):
        rows = rows_of(other, name)
        assert repr(rows) == repr(rows_of(results, name)), name
        assert not any("random" in (row["score"], row.get("other")) for row in rows), name
    assert "random" not in results.score_names


def test_who_asks_for_the_score_random_by_name_gets_the_exact_expectation(results):
    for measure, options in (("top_k_gain", {"k": 3}), ("trials_to_best", {}), ("spearman", {})):
        (asked,) = measured(results, measure, 20, scores=["random"], **options).values()
        assert asked == baselines(results, measure, 20, **options)[RANDOM]


@pytest.mark.parametrize(("shots", "images"), [(None, None), (20, 20)])
def test_the_papers_costs_stand_beside_the_measured_ones_of_the_same_score_and_images(results, shots, images):
    printed = (
        {"lfc": (5.15, 0.41), "lgc": (3.89, 8.65), "leep": (5.01, 0.02)}
        if shots is None
        else {"lfc": (4.35, 1.09), "lgc": (3.40, 15.26), "leep": (3.85, 0.03)}
    )
    for score, costs in printed.items():
        assert table_3.printed(score, images) == costs
    assert table_3.printed("brute force", images) == ((48.17 if shots is None else 41.67), None)
    for score in ("rsa", RANDOM, "static_leaderboard"):
        assert table_3.printed(score, images) == (None, None)
    rows = rows_of(results, "table_3")
    if shots is not None:
        row = one(rows, score="lgc", shots=20)
        assert (row["paper_tried"], row["paper_scoring"]) == (3.40, 15.26)
        assert row["operations"] != row["paper_tried"]
    assert all(row["paper_tried"] is None for row in rows if row["shots"] == 5)
