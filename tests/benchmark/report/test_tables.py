"""Do tables and sentences hold what is on record, whatever part of it is there?"""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from ntk_select.benchmark.report.tables import TABLES, Column, csv_bytes
from ntk_select.benchmark.report.tables.in_words import what_is_missing, what_it_does_not_show, what_it_is, what_was_found
from ntk_select.evaluate import Interval


@pytest.fixture(scope="module")
def results(paid):
    return paid


def test_a_row_has_as_many_cells_as_there_are_columns_and_comes_back_from_its_file(results):
    for name, table in TABLES.items():
        content = table.content(results)
        assert content.rows or name == "unavailable" or name == "failures", name
        header, *lines = csv.reader(io.StringIO(csv_bytes(content).decode()))
        assert len(set(header)) == len(header) == sum(3 if column.interval else 1 for column in content.columns)
        assert len(lines) == len(content.rows)
        for line, row in zip(lines, content.rows, strict=True):
            assert len(row) == len(content.columns)
            known = dict(zip(header, line, strict=True))
            for column, cell in zip(content.columns, row, strict=True):
                if column.number and column.plain(cell) is not None and known[column.name] != "all":
                    assert float(known[column.name]) == column.plain(cell)


def test_accuracies_on_own_sources_stand_by_architecture_start_and_source(results, numbers):
    row = numbers.one(numbers.rows_of(results, "table_1"), architecture="net_b", start="photos")
    assert row["letters"] == pytest.approx(100 * results.experts["letters-net_b-from-photos"].source_accuracy)
    assert row["photos"] is None
    assert not any("@" in str(cell) for row in numbers.rows_of(results, "table_1") for cell in row.values())


@pytest.fixture(scope="module")
def like_the_papers(results):
    """With experts of the paper's sources and architectures: 91 % accuracy each."""
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


def test_the_papers_accuracies_stand_beside_those_of_the_same_source_architecture_and_start(like_the_papers, results, numbers):
    rows = numbers.rows_of(like_the_papers, "table_1")
    row = numbers.one(rows, architecture="resnet101", start="imagenet")
    assert (row["food101"], row["paper_food101"]) == (pytest.approx(91), 87.95)
    assert row["paper_imagenet"] is None  # no expert of ImageNet starts from ImageNet
    row = numbers.one(rows, architecture="resnet101", start="scratch")
    assert (row["imagenet"], row["paper_imagenet"], row["paper_food101"]) == (pytest.approx(91), 77.54, 79.20)
    assert numbers.one(rows, architecture="resnet50", start="imagenet")["paper_food101"] is None
    titles = {column.name: column.title for column in TABLES["table_1"].content(like_the_papers).columns}
    assert titles["paper_food101"] == "paper: food101 (%)"
    assert "paper_photos" not in titles
    assert not any(column.name.startswith("paper") for column in TABLES["table_1"].content(results).columns)


def test_the_papers_multi_domain_accuracies_stand_beside_those_of_the_same_kind_and_source(like_the_papers, results, numbers):
    rows = {row["multi_domain"]: row for row in numbers.rows_of(like_the_papers, "table_2")}

    def printed(name):
        return rows[name]["paper_multi_domain"], rows[name]["paper_single_domain"]

    assert printed("multi_bn-resnet101@food101") == (87.92, 87.95)
    assert printed("adapters-resnet101@imagenet") == (58.9, 77.54)
    assert printed("multi_bn-resnet101@photos") == (None, None)
    assert rows["multi_bn-resnet101@food101"]["multi_domain_accuracy"] == pytest.approx(91)
    assert {row["paper_multi_domain"] for row in numbers.rows_of(results, "table_2")} == {None}


def test_the_reference_table_holds_all_of_the_papers_tables_1_and_2(results, numbers):
    rows = numbers.rows_of(results, "paper")
    assert [row["source"] for row in rows][::7] == ["resisc45", "places365"]
    known = [value for row in rows for name, value in row.items() if name != "source" and value is not None]
    assert len(known) == 30 + 6 + 24  # experts, accuracies reported by others, domains of three networks
    food = numbers.one(rows, source="food101")
    assert (food["densenet169_scratch"], food["resnet101_imagenet"], food["reported"], food["shared"]) == (82.38, 87.95, 86.99, 48.12)
    imagenet = numbers.one(rows, source="imagenet")
    assert (imagenet["densenet169_imagenet"], imagenet["resnet101_imagenet"], imagenet["multi_bn"]) == (None, None, 69.03)
    assert all("paper" in column.title or "others" in column.title for column in TABLES["paper"].content(results).columns[1:])


def test_a_multi_domain_expert_stands_beside_the_single_domain_one_of_the_same_start(results, numbers):
    rows = numbers.rows_of(results, "table_2")
    assert {row["source"]: row["single_domain"] for row in rows} == {
        "photos": "photos-net_a",
        "textures": "textures-net_a-from-photos",
        "letters": "letters-net_a-from-photos",
    }
    for row in rows:
        both = (results.experts[row[kind]].source_accuracy for kind in ("multi_domain", "single_domain"))
        assert row["difference_points"] == pytest.approx(100 * (next(both) - next(both)))


def test_all_accuracies_are_means_of_seeds_with_what_is_missing_and_why(results, made, numbers):
    pair = {"task": "birds", "expert": "textures-net_b"}
    key = next(
        r["key"] for r in results.truths if r["task"] == "cars" and r["expert"] == "textures-net_b" and r["seed"] == 1 and r["images_per_class"] == 5
    )
    some = made.without(results, lambda row: row["key"] != key)
    failed = {"kind": "truth", "expert": "textures-net_b", "task": "cars", "images": 5, "seed": 1, "error": "the weights hold NaN"}
    some = replace(some, failures={key: failed}, skipped=[{"expert": "letters-net_a", "task": "greek", "reason": "own source (letters)"}])
    rows = numbers.rows_of(some, "truth")
    values = [
        100 * r["accuracy"]
        for r in results.truths
        if r["role"] == "truth" and r["images_per_class"] == 20 and all(r[k] == v for k, v in pair.items())
    ]
    row = numbers.one(rows, shots=20, role="expert", **pair)
    assert (row["accuracy"], row["deviation"], row["why"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), None)
    assert numbers.one(rows, task="cars", expert="textures-net_b", shots=5, role="expert")["why"] == "failed: the weights hold NaN"
    left = numbers.one(rows, task="greek", expert="letters-net_a", shots=5, role="expert")
    assert (left["accuracy"], left["why"]) == (None, "own source (letters)")
    assert numbers.rows_of(some, "failures")[0]["error"] == "the weights hold NaN"


def test_an_expert_on_its_own_source_is_marked_and_counts_nowhere_else(made, numbers):
    marked = numbers.with_costs(made.world(made.CONFIG.replace('reference = "photos-net_a"', 'reference = "photos-net_a"\nown_source = "mark"', 1)))
    row = numbers.one(numbers.rows_of(marked, "truth"), task="greek", expert="letters-net_a", shots=5, role="expert")
    assert row["mark"] == "*"
    assert row["accuracy"] is not None
    strangers = numbers.one(numbers.rows_of(marked, "table_4"), task="greek")["strangers"]
    assert strangers == len([facts for facts in marked.experts.values() if "letters" not in facts.seen])


@pytest.mark.parametrize("kept", ["scores", "truths", "one task", "nothing but kernels", "one expert", "one seed"])
def test_every_table_and_sentence_can_be_had_of_parts_of_the_records(results, made, kept):
    parts = {
        "scores": replace(results, truths=[], kernels=[]),
        "truths": replace(results, scores=[], kernels=[]),
        "one task": made.without(results, lambda row: row["task"] == "cars"),
        "nothing but kernels": replace(results, truths=[], scores=[]),
        "one expert": made.without(results, lambda row: row["expert"] == "photos-net_a"),
        "one seed": made.without(results, lambda row: row["seed"] == 0 and row["images_per_class"] == 5),
    }
    some = parts[kept]
    for name, table in TABLES.items():
        content = table.content(some)
        assert content.rows or content.missing, name
        csv_bytes(content)
    for sentences in (what_it_is, what_is_missing, what_was_found, what_it_does_not_show):
        assert all(sentence.endswith(".") for sentence in sentences(some))
    assert not what_is_missing(some)[0].startswith("Nothing")


def test_sentences_say_the_numbers_of_the_tables(results, numbers):
    row = numbers.one(numbers.rows_of(results, "scores"), score="lgc", shots=20)
    sentence = next(each for each in what_was_found(results) if "LGC" in each and "With 20" in each)
    for name, decimals in (("top_3_gain_points", 1), ("trials_to_best", 1), ("spearman", 2)):
        assert Column(name, "", decimals, interval=True).shown(row[name]) in sentence
    assert what_is_missing(results) == ["Nothing: every measurement that the config asks for is there."]
    assert "4 targets" in what_it_does_not_show(results)[0]
    assert "2 seeds" in " ".join(what_it_is(results))


def test_an_unfinished_target_is_named(results, made):
    some = made.without(results, lambda row: row["task"] != "cars" or row["expert"] in list(results.experts)[:5])
    assert any("cars with 5 images per class has accuracies of 5 of" in sentence for sentence in what_is_missing(some))


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


def test_a_score_without_any_value_is_named_and_not_passed_off_as_a_random_order(results, numbers):
    rows = [
        {**row, "value": None, "unavailable": "too few images"} if row["score"] == "leep" and row["images_per_class"] == 5 else row
        for row in results.scores
    ]
    without = replace(results, scores=rows)
    assert {row["shots"] for row in numbers.rows_of(without, "scores") if row["score"] == "leep"} == {20}
    assert any("leep" in sentence for sentence in TABLES["scores"].content(without).missing)
    row = numbers.one(numbers.rows_of(without, "unavailable"), score="leep")
    assert row["without"] == row["of"] == sum(each["score"] == "leep" and each["images_per_class"] == 5 for each in rows)
    assert "too few images" in row["example"]
