"""Tables and sentences hold what is on record, whatever part of it exists; numbers are recomputed by loops over raw rows and by SciPy."""

import csv
import io
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from ntk_select.benchmark.report.columns import Column
from ntk_select.benchmark.report.costs import printed, scoring, training_costs
from ntk_select.benchmark.report.summary import BEST, RANDOM, baselines, measured
from ntk_select.benchmark.report.tables import TABLES, content
from ntk_select.benchmark.report.words import what_is_missing, what_it_does_not_show, what_it_is, what_was_found
from ntk_select.evaluate import Interval, holm


@pytest.fixture(scope="module")
def results(whole):
    return whole


def test_a_row_has_as_many_cells_as_there_are_columns_and_comes_back_from_its_file(results):
    for name in TABLES:
        table = content(results, name)
        assert table.rows or name in ("unavailable", "failures", "forecast"), name
        header, *lines = csv.reader(io.StringIO(table.csv().decode()))
        assert len(set(header)) == len(header) == sum(3 if column.interval else 1 for column in table.columns)
        assert len(lines) == len(table.rows)
        for line, row in zip(lines, table.rows, strict=True):
            assert len(row) == len(table.columns)
            known = dict(zip(header, line, strict=True))
            for column, cell in zip(table.columns, row, strict=True):
                if column.number and column.plain(cell) is not None and known[column.name] != "all":
                    assert float(known[column.name]) == column.plain(cell)


def test_accuracies_on_own_sources_are_by_architecture_start_and_source(results, made):
    row = made.one(made.rows_of(results, "table_1"), architecture="net_b", start="photos")
    assert row["letters"] == pytest.approx(100 * results.experts["letters-net_b-from-photos"].source_accuracy)
    assert row["photos"] is None
    assert not any("@" in str(cell) for row in made.rows_of(results, "table_1") for cell in row.values())


@pytest.fixture(scope="module")
def like_the_papers(results):
    """With experts of the paper's sources and architectures, 91 % accuracy each."""
    start = {"architecture": "resnet101", "source_accuracy": 0.91, "initialised_from": "imagenet-resnet101"}
    other = next(iter(results.experts.values()))
    facts = [
        replace(other, name="imagenet-resnet101", source="imagenet", **start | {"initialised_from": None}),
        replace(other, name="food101-resnet101-from-imagenet", source="food101", **start),
        replace(other, name="food101-resnet50", source="food101", **start | {"architecture": "resnet50"}),
        replace(other, name="photos-resnet101", source="photos", **start),
        replace(other, name="multi_bn-resnet101@food101", source="food101", **start),
        replace(other, name="multi_bn-resnet101@photos", source="photos", **start),
        replace(other, name="adapters-resnet101@imagenet", source="imagenet", **start),
    ]
    skipped = [{"expert": each.name, "task": "birds", "reason": "own source"} for each in facts]
    return replace(results, experts={each.name: each for each in facts}, skipped=skipped)


def test_the_papers_accuracies_are_next_to_those_of_the_same_source_architecture_and_start(like_the_papers, results, made):
    rows = made.rows_of(like_the_papers, "table_1")
    row = made.one(rows, architecture="resnet101", start="imagenet")
    assert (row["food101"], row["paper_food101"]) == (pytest.approx(91), 87.95)
    assert row["paper_imagenet"] is None  # no expert of ImageNet starts from ImageNet
    row = made.one(rows, architecture="resnet101", start="scratch")
    assert (row["imagenet"], row["paper_imagenet"], row["paper_food101"]) == (pytest.approx(91), 77.54, 79.20)
    assert made.one(rows, architecture="resnet50", start="imagenet")["paper_food101"] is None
    titles = {column.name: column.title for column in content(like_the_papers, "table_1").columns}
    assert titles["paper_food101"] == "paper: food101 (%)"
    assert "paper_photos" not in titles
    assert not any(column.name.startswith("paper") for column in content(results, "table_1").columns)


def test_the_papers_multi_domain_accuracies_are_next_to_those_of_the_same_kind_and_source(like_the_papers, results, made):
    rows = {row["multi_domain"]: row for row in made.rows_of(like_the_papers, "table_2")}

    def printed(name):
        return rows[name]["paper_multi_domain"], rows[name]["paper_single_domain"]

    assert printed("multi_bn-resnet101@food101") == (87.92, 87.95)
    assert printed("adapters-resnet101@imagenet") == (58.9, 77.54)
    assert printed("multi_bn-resnet101@photos") == (None, None)
    assert rows["multi_bn-resnet101@food101"]["multi_domain_accuracy"] == pytest.approx(91)
    assert {row["paper_multi_domain"] for row in made.rows_of(results, "table_2")} == {None}


def test_the_reference_table_holds_all_of_the_papers_tables_1_and_2(results, made):
    rows = made.rows_of(results, "paper")
    assert [row["source"] for row in rows][::7] == ["resisc45", "places365"]
    known = [value for row in rows for name, value in row.items() if name != "source" and value is not None]
    assert len(known) == 30 + 6 + 24  # experts, accuracies reported by others, domains of three networks
    food = made.one(rows, source="food101")
    assert (food["densenet169_scratch"], food["resnet101_imagenet"], food["reported"], food["shared"]) == (82.38, 87.95, 86.99, 48.12)
    imagenet = made.one(rows, source="imagenet")
    assert (imagenet["densenet169_imagenet"], imagenet["resnet101_imagenet"], imagenet["multi_bn"]) == (None, None, 69.03)
    assert all("paper" in column.title or "others" in column.title for column in content(results, "paper").columns[1:])


def test_a_multi_domain_expert_is_compared_with_the_single_domain_one_of_the_same_start(results, made):
    rows = made.rows_of(results, "table_2")
    assert {row["source"]: row["single_domain"] for row in rows} == {
        "photos": "photos-net_a",
        "textures": "textures-net_a-from-photos",
        "letters": "letters-net_a-from-photos",
    }
    for row in rows:
        both = (results.experts[row[kind]].source_accuracy for kind in ("multi_domain", "single_domain"))
        assert row["difference_points"] == pytest.approx(100 * (next(both) - next(both)))


def test_all_accuracies_are_means_of_seeds_with_what_is_missing_and_why(results, made):
    pair = {"task": "birds", "expert": "textures-net_b"}
    key = next(
        r["key"]
        for r in results.finetunings
        if r["task"] == "cars" and r["expert"] == "textures-net_b" and r["seed"] == 1 and r["images_per_class"] == 5
    )
    some = made.without(results, lambda row: row["key"] != key)
    failed = {"kind": "truth", "expert": "textures-net_b", "task": "cars", "images": 5, "seed": 1, "error": "the weights hold NaN"}
    some = replace(some, failures={key: failed}, skipped=[{"expert": "letters-net_a", "task": "greek", "reason": "own source (letters)"}])
    rows = made.rows_of(some, "truth")
    values = [
        100 * r["accuracy"]
        for r in results.finetunings
        if r["role"] == "truth" and r["images_per_class"] == 20 and all(r[k] == v for k, v in pair.items())
    ]
    row = made.one(rows, shots=20, role="expert", **pair)
    assert (row["accuracy"], row["deviation"], row["why"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), None)
    assert made.one(rows, task="cars", expert="textures-net_b", shots=5, role="expert")["why"] == "failed: the weights hold NaN"
    left = made.one(rows, task="greek", expert="letters-net_a", shots=5, role="expert")
    assert (left["accuracy"], left["why"]) == (None, "own source (letters)")
    assert made.rows_of(some, "failures")[0]["error"] == "the weights hold NaN"


def test_an_expert_with_source_overlap_is_marked_and_used_nowhere_else(made):
    marked = made.with_costs(made.world(made.CONFIG.replace('reference = "photos-net_a"', 'reference = "photos-net_a"\nown_source = "mark"', 1)))
    row = made.one(made.rows_of(marked, "truth"), task="greek", expert="letters-net_a", shots=5, role="expert")
    assert row["mark"] == "*"
    assert row["accuracy"] is not None
    compared = made.one(made.rows_of(marked, "table_4"), task="greek")["compared"]
    assert compared == len([facts for facts in marked.experts.values() if "letters" not in facts.seen])


@pytest.mark.parametrize("kept", ["scores", "fine-tunings", "one task", "nothing but kernels", "one expert", "one seed"])
def test_every_table_and_sentence_is_defined_on_parts_of_the_records(results, made, kept):
    parts = {
        "scores": replace(results, finetunings=[], kernels=[]),
        "fine-tunings": replace(results, scores=[], kernels=[]),
        "one task": made.without(results, lambda row: row["task"] == "cars"),
        "nothing but kernels": replace(results, finetunings=[], scores=[]),
        "one expert": made.without(results, lambda row: row["expert"] == "photos-net_a"),
        "one seed": made.without(results, lambda row: row["seed"] == 0 and row["images_per_class"] == 5),
    }
    some = parts[kept]
    for name in TABLES:
        table = content(some, name)
        assert table.rows or table.missing, name
        assert table.csv().count(b"\n") >= 1 + len(table.rows)
    for sentences in (what_it_is, what_is_missing, what_was_found, what_it_does_not_show):
        assert all(sentence.endswith(".") for sentence in sentences(some))
    assert not what_is_missing(some)[0].startswith("Nothing")


def test_sentences_say_the_numbers_of_the_tables(results, made):
    row = made.one(made.rows_of(results, "scores"), score="lgc", shots=20)
    sentence = next(each for each in what_was_found(results) if "LGC" in each and "With 20" in each)
    for name, decimals in (("top_3_gain_points", 1), ("trials_to_best", 1), ("spearman", 2)):
        assert Column(name, "", decimals, interval=True).shown(row[name]) in sentence
    assert what_is_missing(results) == ["Nothing: every measurement that the config requests is done."]
    assert "4 targets" in what_it_does_not_show(results)[0]
    assert "2 seeds" in " ".join(what_it_is(results))


def test_limits_are_stated_by_the_number_of_targets(results, made):
    for tasks, sentence in (
        (["cars"], "1 target says little about another task; there are no intervals."),
        (["cars", "birds"], "2 targets say little about another task: intervals over so few are too narrow."),
    ):
        some = made.without(results, lambda row, tasks=tasks: row["task"] in tasks)
        assert what_it_does_not_show(some)[0] == sentence


def test_an_unfinished_target_is_named(results, made):
    some = made.without(results, lambda row: row["task"] != "cars" or row["expert"] in list(results.experts)[:5])
    absent = len(results.experts) - 5
    assert any(f"Unfinished: cars, 5 images per class ({absent} of " in sentence for sentence in what_is_missing(some))


@pytest.mark.parametrize(
    ("column", "cell", "text"),
    [
        (Column("a", "a"), None, "-"),
        (Column("a", "a", nothing=""), None, ""),
        (Column("a", "a", 2), float("nan"), "-"),
        (Column("a", "a", 2), -0.001, "0.00"),
        (Column("a", "a", 0), 12345, "12\u2009345"),
        (Column("a", "a", 1, interval=True), Interval(1.0, -0.04, 2.0, 1000), "1.0 [0.0, 2.0]"),
        (Column("a", "a", 0), "all", "all"),
    ],
)
def test_a_cell_is_shown_as_a_reader_expects(column, cell, text):
    assert column.shown(cell) == text


def test_a_score_without_any_value_is_named_and_not_passed_off_as_a_random_order(results, made):
    birds = made.without(results, lambda row: row["task"] == "birds")
    rows = [
        {**row, "value": None, "unavailable": "too few images"} if row["score"] == "leep" and row["images_per_class"] == 5 else row
        for row in birds.scores
    ]
    without = replace(birds, scores=rows)
    assert {row["shots"] for row in made.rows_of(without, "scores") if row["score"] == "leep"} == {20}
    assert any("leep" in sentence for sentence in content(without, "scores").missing)
    row = made.one(made.rows_of(without, "unavailable"), score="leep")
    assert row["without"] == row["of"] == sum(each["score"] == "leep" and each["images_per_class"] == 5 for each in rows)
    assert "too few images" in row["example"]


@pytest.mark.parametrize("shots", [5, 20])
def test_gains_trials_and_correlations_of_the_main_table_are_those_of_the_raw_rows(results, shots, made):
    rows, expected = made.rows_of(results, "scores"), {"gain": [], "trials": [], "spearman": [], "kendall": [], "hit": []}
    for task, (names, accuracies) in made.raw(results, shots).items():
        over = accuracies[names.index("photos-net_a")]
        by_draw = {key: [] for key in expected}
        for values in made.draws(results, "lfc", task, shots, names):
            order = np.argsort(-values)
            by_draw["gain"].append(100 * (accuracies[order[:3]].max() - over))
            by_draw["trials"].append(1 + list(order).index(accuracies.argmax()))
            by_draw["spearman"].append(spearmanr(values, accuracies)[0])
            by_draw["kendall"].append(kendalltau(values, accuracies)[0])
            by_draw["hit"].append(accuracies.argmax() in order[:3])
        for key in expected:
            expected[key].append(np.mean(by_draw[key]))
    found = made.one(rows, score="lfc", shots=shots)
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


def test_the_random_order_and_the_best_possible_have_known_values(results, made):
    for shots in (5, 20):
        sizes = [len(names) for names, _ in made.raw(results, shots).values()]
        random, best = (made.one(made.rows_of(results, "scores"), score=name, shots=shots) for name in (RANDOM, BEST))
        assert random["trials_to_best"].value == pytest.approx(np.mean([(size + 1) / 2 for size in sizes]))
        assert random["spearman"].value == 0
        assert best["trials_to_best"].value == 1
        assert best["top_3_gain_points"].value == pytest.approx(best["top_1_gain_points"].value)


def test_a_score_that_knows_nothing_is_no_better_than_a_random_order(results, made):
    known, nothing = (measured(each, "spearman", 20, scores=["lfc"])["lfc"] for each in (results, made.world(signal=0.0)))
    assert known.low > 0.3
    assert nothing.value < known.low


def test_one_target_alone_has_a_mean_and_no_interval(results, made):
    rows = made.rows_of(made.without(results, lambda row: row["task"] == "birds"), "scores")
    cell = made.one(rows, score="lfc", shots=20)["spearman"]
    assert math.isfinite(cell.value)
    assert math.isnan(cell.low)
    assert Column("spearman", "", 2, interval=True).shown(cell) == f"{cell.value:.2f}"


def test_a_gain_on_one_target_alone_has_no_interval_where_other_measures_have_one(results, made):
    some = made.without(results, lambda row: row["images_per_class"] == 20 and (row["task"] == "birds" or row["expert"] != "photos-net_a"))
    row = made.one(made.rows_of(some, "scores"), score="lfc", shots=20)
    assert row["targets"] == 4
    assert math.isfinite(row["spearman"].low)
    assert math.isfinite(row["top_3_gain_points"].value)
    assert math.isnan(row["top_3_gain_points"].low)


def test_costs_are_in_trainings_of_the_reference_and_split_by_step(results, made):
    rows, shots = made.rows_of(results, "table_3"), 20
    brute, tops, forwards, backwards, readings, shared = [], [], [], [], [], []
    for task, (names, _) in made.raw(results, shots).items():
        costs = np.array([{"net_a": 1.0, "net_b": 1.5}[results.experts[name].architecture] * 3.4 for name in names])
        brute.append(costs.sum())
        tops.append(np.mean([costs[np.argsort(-values)[:3]].sum() for values in made.draws(results, "lfc", task, shots, names)]))
        reference = [
            r for r in results.finetunings if (r["task"], r["expert"], r["role"], r["images_per_class"]) == (task, "photos-net_a", "truth", shots)
        ]
        unit = np.mean([r["train_seconds"] for r in reference]) / 3.4
        kinds = [results.experts[name].architecture for name in names]
        forwards.append(sum(made.PASSES[kind][0] for kind in kinds) / unit)
        readings.append(made.READING / unit)
        shared.append(30 / unit)
        backwards.append(sum(made.PASSES[kind][1] for kind in kinds) / unit)
    lfc, lgc, rsa = (made.one(rows, score=name, shots=shots) for name in ("lfc", "lgc", "rsa"))
    assert made.one(rows, score="brute force", shots=shots)["operations"] == pytest.approx(np.mean(brute))
    assert lfc["operations"] == pytest.approx(np.mean(tops))
    assert lfc["forward"] == lgc["forward"] == pytest.approx(np.mean(forwards))
    assert lfc["backward"] == lfc["shared"] == 0
    assert lgc["backward"] == pytest.approx(np.mean(backwards))
    assert lfc["reading"] == rsa["reading"] == pytest.approx(np.mean(readings))
    assert rsa["shared"] == pytest.approx(np.mean(shared))
    assert rsa["scoring"] == pytest.approx(rsa["reading"] + rsa["forward"] + rsa["score_alone"] + rsa["shared"])
    assert made.one(rows, score=RANDOM, shots=shots)["reading"] == 0
    assert not [row for row in rows if row["score"] == "random"]
    assert lfc["total"] == pytest.approx(lfc["seconds"] + lfc["scoring"])
    assert made.one(rows, score=RANDOM, shots=shots)["forward"] == 0


def test_a_resumed_training_costs_what_a_whole_one_does_and_without_a_speed_it_is_left_out(results, made):
    def costs(change, name="seconds"):
        return training_costs(replace(results, finetunings=[row | change(row) for row in results.finetunings]), "birds", 5)[name]

    usual = training_costs(results, "birds", 5)["seconds"]
    assert costs(lambda row: {"train_seconds": row["train_seconds"] / (2 if row["seed"] else 1)}).equals(usual)
    assert not costs(lambda row: {"images_per_second": row["images_per_second"] / (2 if row["seed"] else 1)}).equals(usual)
    alone = costs(lambda row: {"images_per_second": None if row["seed"] else row["images_per_second"]})
    assert len(alone) == len(made.EXPERTS)
    assert alone.equals(costs(lambda row: {"images_per_second": 0.0 if row["seed"] else row["images_per_second"]}))
    for expert, units in alone.items():
        key = ("birds", 5, 0, "truth")
        rows = [row for row in results.finetunings if (row["task"], row["images_per_class"], row["seed"], row["role"]) == key]
        mine, theirs = (next(row["train_seconds"] for row in rows if row["expert"] == name) for name in (expert, "photos-net_a"))
        assert units == pytest.approx(3.4 * mine / theirs)
    none = replace(
        made.without(results, lambda row: (row["task"], row["images_per_class"]) == ("birds", 5)),
        finetunings=[{**row, "images_per_second": None} for row in results.finetunings if (row["task"], row["images_per_class"]) == ("birds", 5)],
    )
    row = made.one(made.rows_of(none, "table_3"), score="lfc", shots=5)
    assert (row["seconds"], row["forward"], row["total"]) == (None, None, None)
    assert row["operations"] is not None


def test_a_reference_network_that_another_worker_trained_again_is_charged_once(results):
    def shared(change):
        return scoring(replace(results, scores=[row | change(row) for row in results.scores]), "birds", 5)

    usual = scoring(results, "birds", 5)
    assert usual.loc["rsa", "shared"] > 0
    assert usual.loc["lfc", "shared"] == 0
    assert shared(lambda row: {"shared_seconds": 29.0} if row["expert"] == "letters-net_b" else {}).equals(usual)
    assert shared(lambda row: {"shared_seconds": 2 * row["shared_seconds"]}).loc["rsa", "shared"] == pytest.approx(2 * usual.loc["rsa", "shared"])


def test_a_score_pays_for_the_images_and_passes_that_it_needs(results):
    names = {"hscore": "domain_similarity", "logme": "num_params"}
    other = replace(results, scores=[{**row, "score": names.get(row["score"], row["score"])} for row in results.scores])
    found, usual = scoring(other, "birds", 5), scoring(results, "birds", 5).loc["lfc"]
    similarity, parameters = found.loc["domain_similarity"], found.loc["num_params"]
    assert similarity["reading"] == usual["reading"] > 0
    assert similarity["forward"] == similarity["backward"] == 0
    assert math.isnan(similarity["shared"])
    assert similarity["scoring"] == pytest.approx(similarity["reading"] + similarity["score_alone"])
    assert parameters.drop(["score_alone", "scoring"]).tolist() == [0.0] * 4
    assert parameters["scoring"] == parameters["score_alone"] == usual["score_alone"] > 0


def test_without_a_reference_there_is_no_unit_of_cost_and_no_gain(results, made):
    alone = made.without(results, lambda row: row["expert"] != "photos-net_a" and row["task"] == "birds" and row["images_per_class"] == 20)
    table = content(alone, "table_3")
    assert not table.rows
    assert "no unit of cost" in table.missing[0]
    assert made.one(made.rows_of(alone, "scores"), score="lfc", shots=20)["top_3_gain_points"] is None
    assert any("reference" in sentence for sentence in content(alone, "scores").missing)


def test_the_gain_grows_with_what_is_tried_and_is_that_of_the_raw_rows(results, made):
    rows = [row for row in made.rows_of(results, "budget") if row["shots"] == 20]
    for name in ("lfc", "lgc", RANDOM):
        gains = [row["gain_points"].value for row in rows if row["score"] == name]
        assert gains == sorted(gains)
        assert gains[0] >= 0
    expected = [
        np.maximum(accuracies, accuracies[names.index("photos-net_a")]).mean() - accuracies[names.index("photos-net_a")]
        for names, accuracies in made.raw(results, 20).values()
    ]
    assert made.one(rows, score=RANDOM, trials=1)["gain_points"].value == pytest.approx(100 * np.mean(expected))


def test_differences_of_pairs_are_those_of_the_means_and_p_values_are_corrected_per_family(results, made):
    rows, means = made.rows_of(results, "paired"), made.rows_of(results, "scores")
    row = made.one(rows, score="lfc", other="lgc", shots=5, measure="Spearman")
    lfc, lgc = (made.one(means, score=name, shots=5)["spearman"].value for name in ("lfc", "lgc"))
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
def test_a_score_is_compared_with_the_exact_expectation_of_a_random_order_and_not_with_a_drawn_one(results, shots, made):
    differences = []
    for task, (names, accuracies) in made.raw(results, shots).items():
        over = accuracies[names.index("photos-net_a")]
        gains = [100 * (accuracies[np.argsort(-values)[:3]].max() - over) for values in made.draws(results, "lfc", task, shots, names)]
        differences.append(np.mean(gains) - expected_gain(accuracies, over))
    row = made.one(made.rows_of(results, "paired"), score="lfc", other=RANDOM, shots=shots, measure="gain of the best of 3 (points)")
    assert row["difference"].value == pytest.approx(np.mean(differences))
    assert row["difference"].low <= row["difference"].value <= row["difference"].high
    spearman = made.one(made.rows_of(results, "paired"), score="lfc", other=RANDOM, shots=shots, measure="Spearman")["difference"]
    assert spearman.value == pytest.approx(made.one(made.rows_of(results, "scores"), score="lfc", shots=shots)["spearman"].value)


def test_records_of_the_score_random_change_no_number_and_are_shown_nowhere(results, made):
    results = made.without(results, lambda row: row["task"] in ("birds", "greek") and row["images_per_class"] == 20)
    drawn = np.random.default_rng(1)
    other = replace(results, scores=[{**row, "value": drawn.random()} if row["score"] == "random" else row for row in results.scores])
    assert any(row["score"] == "random" for row in results.scores)
    for name in ("paired", "table_3"):
        rows = made.rows_of(other, name)
        assert repr(rows) == repr(made.rows_of(results, name)), name
        assert not any("random" in (row["score"], row.get("other")) for row in rows), name
    assert "random" not in results.score_names


def test_the_score_random_by_name_is_the_exact_expectation(results):
    for measure, options in (("top_k_gain", {"k": 3}), ("trials_to_best", {}), ("spearman", {})):
        (asked,) = measured(results, measure, 20, scores=["random"], **options).values()
        assert asked == baselines(results, measure, 20, **options)[RANDOM]


def test_the_papers_costs_are_next_to_the_measured_ones_of_the_same_score_and_images(results, made):
    of_all = {"lfc": (5.15, 0.41), "lgc": (3.89, 8.65), "leep": (5.01, 0.02), "brute force": (48.17, None)}
    of_20 = {"lfc": (4.35, 1.09), "lgc": (3.40, 15.26), "leep": (3.85, 0.03), "brute force": (41.67, None)}
    unprinted = dict.fromkeys(("rsa", RANDOM, "static_leaderboard"), (None, None))
    for shots, costs in ((None, of_all | unprinted), (20, of_20 | unprinted), (5, dict.fromkeys(of_20, (None, None)))):
        for score, cost in costs.items():
            assert printed(score, shots) == cost, (score, shots)
    rows = made.rows_of(results, "table_3")
    row = made.one(rows, score="lgc", shots=20)
    assert (row["paper_tried"], row["paper_scoring"]) == (3.40, 15.26)
    assert row["operations"] != row["paper_tried"]
    assert all(row["paper_tried"] is None for row in rows if row["shots"] == 5)


@pytest.mark.parametrize("advice", ["Try", "Type"])
def test_advice_on_options_that_a_benchmark_lacks_is_left_out(whole, made, advice):
    reason = f"No accuracy on another task was given. {advice}: rank(..., measured={{expert: {{task: accuracy}}}}), or --measured FILE.json"
    rows = [{**row, "value": None, "unavailable": reason} if row["score"] == "random" else row for row in whole.scores]
    example = made.one(made.rows_of(replace(whole, scores=rows), "unavailable"), score="random", images=5)["example"]
    assert example.endswith(": No accuracy on another task was given.")
