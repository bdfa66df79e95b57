"""Are results what config, cards and records say now: own sources, scores of other packages, failures, versions?"""

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from tomllib import loads

import numpy as np
import pytest

from ntk_select.benchmark import run
from ntk_select.benchmark.config import parsed
from ntk_select.benchmark.report.figures import data
from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.tables import TABLES
from ntk_select.benchmark.report.tables.costs import scoring
from ntk_select.benchmark.report.tables.in_words import what_is_missing, what_it_does_not_show, what_it_is
from ntk_select.benchmark.store import Store
from ntk_select.scores import Score, installed


def _behind(terms):
    values = np.array([each["a"] for each in terms])
    return values - values.max()


GAP = Score(lambda features, labels: {"a": 0.0}, ("features", "labels"), True, "nowhere", "0 or less", combine=_behind)
"""A score of another package, which compares the zoo: how far behind the first an expert is."""


@pytest.fixture(scope="module")
def marked(made):
    """Experts on their own source are measured, and say so in their rows."""
    return made.world('own_source = "mark"\n' + made.CONFIG)


def edited(results, text):
    return replace(results, config=parsed(loads(text), Path("edited.toml")), config_text=text)


def seen(made, *sources):
    return {name for name, facts in made.EXPERTS.items() if set(sources) & set(facts.seen)}


def test_own_sources_are_those_of_the_config_as_it_is_now(made, marked, numbers):
    more = edited(marked, marked.config_text.replace('uri = "cars"', 'uri = "cars"\nsource = ["textures"]'))
    less = edited(marked, marked.config_text.replace('source = ["letters"]', ""))
    everybody = set(made.EXPERTS)
    for results, cars, greek in ((marked, set(), seen(made, "letters")), (more, seen(made, "textures"), seen(made, "letters")), (less, set(), set())):
        for task, own in (("cars", cars), ("greek", greek)):
            truth = results.truth(task, 5)
            assert {name for name in everybody if results.own_source(name, task)} == own
            assert set(truth.experts) == everybody - own
            assert truth.missing == ()
            (target,) = [each for each in results.targets("lfc", 5) if each.name == task]
            assert np.isfinite(target.scores).all()
            assert target.scores.shape[1] == len(truth.experts)
            marks = {row["expert"] for row in numbers.rows_of(results, "truth") if row["task"] == task and row["mark"] == "*"}
            assert marks == own
            assert numbers.one(numbers.rows_of(results, "table_4"), task=task)["strangers"] == len(everybody - own)
    assert not marked.own_source("untrained:net_a", "greek")


def test_cells_on_own_sources_that_failed_are_not_missing_from_what_is_compared(made, marked):
    own = seen(made, "letters")
    some = made.without(marked, lambda row: row["task"] != "greek" or row["expert"] not in own)
    assert some.truth("greek", 5).missing == ()
    assert not any(sentence.startswith("greek") for sentence in what_is_missing(some))


def test_costs_leave_out_experts_on_their_own_source(made, numbers):
    results = numbers.with_costs(made.world())
    more = edited(results, results.config_text.replace('uri = "cars"', 'uri = "cars"\nsource = ["textures"]'))
    both = [scoring(each, "cars", 5) for each in (results, more)]
    passes = {name: numbers.PASSES[facts.architecture][0] for name, facts in made.EXPERTS.items()}
    left = sum(value for name, value in passes.items() if name not in seen(made, "textures"))
    assert [each.forward for each in both] == pytest.approx([sum(passes.values()), left])


@pytest.fixture
def with_plugin(whole, monkeypatch):
    """LEEP is a score of another package, whose rows hold terms."""

    def load(entry):
        return GAP if entry.name == "gap" else pytest.fail("another one was loaded")

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(installed, "entry_points", lambda group: [EntryPoint("gap", "a:b", group)])
    rows = [{**row, "score": "gap", "value": None, "terms": json.dumps({"a": row["value"]})} for row in whole.scores if row["score"] == "leep"]
    others = [row for row in whole.scores if row["score"] != "leep"]
    return replace(whole, scores=[*others, *rows]), rows


def test_a_score_of_another_package_that_compares_the_zoo_is_compared(with_plugin, whole):
    results, rows = with_plugin
    (target,) = [each for each in results.targets("gap", 20) if each.name == "birds"]
    for draw, seed in enumerate((0, 1)):
        terms = {
            row["expert"]: json.loads(row["terms"])["a"] for row in rows if (row["task"], row["images_per_class"], row["seed"]) == ("birds", 20, seed)
        }
        expected = [terms[name] - max(terms.values()) for name in results.truth("birds", 20).experts]
        assert target.scores[draw] == pytest.approx(expected)
    spearman = {row["score"]: row["value"] for row in data(results, "figure_6") if (row["measure"], row["shots"]) == ("spearman", 20)}
    before = {row["score"]: row["value"] for row in data(whole, "figure_6") if (row["measure"], row["shots"]) == ("spearman", 20)}
    assert spearman["gap"] == pytest.approx(before["leep"])


def test_a_score_whose_package_is_gone_has_no_value_and_no_cost(with_plugin, numbers, monkeypatch):
    results, _ = with_plugin
    paid = numbers.with_costs(results)
    assert scoring(paid, "birds", 20).of("gap").forward > 0
    monkeypatch.setattr(installed, "entry_points", lambda group: [])
    gone = replace(paid)
    assert gone.targets("gap", 20) == []
    assert any("gap" in sentence for sentence in TABLES["scores"].content(gone).missing)
    assert scoring(gone, "birds", 20).of("gap") is None
    assert gone.targets("lfc", 20)


def test_a_score_whose_package_is_broken_costs_nobody_else(with_plugin, monkeypatch):
    def load(entry):
        raise ImportError("no module named a")

    monkeypatch.setattr(EntryPoint, "load", load)
    results = replace(with_plugin[0])
    assert results.targets("gap", 20) == []
    assert results.targets("lfc", 20)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "try.toml").write_text("finetune_seeds = [0, 1, 2]\n[synthetic]\nexperts = 4\ntasks = 3\nscores = 2\n")
    run(tmp_path / "try.toml", tmp_path / "out")
    return tmp_path / "out"


def test_failures_are_those_of_cells_that_are_asked_for_and_have_no_record(folder):
    store = Store(folder)
    done, waiting, *_ = cells = store.cells()
    store.record_file(waiting).unlink()
    for cell in (done, waiting, replace(waiting, seed=77)):
        store.put_failure(cell, "no memory")
    results = read_results(folder)
    assert list(results.failures) == [waiting.key]
    assert [row[-1] for row in TABLES["failures"].content(results).rows] == ["no memory"]
    assert f"{len(cells) - 1} of {len(cells)} made-up measurements are there." in what_is_missing(results)


def test_warnings_of_the_manifest_stand_under_what_is_missing(folder):
    assert read_results(folder).warnings == []
    manifest = json.loads((folder / "bench.json").read_text())
    for warnings in (None, ["No expert names the source 'birds'."]):
        manifest.pop("warnings", None)
        (folder / "bench.json").write_text(json.dumps({**manifest, **({} if warnings is None else {"warnings": warnings})}))
        assert what_is_missing(read_results(folder))[1:] == (warnings or [])


def test_draws_are_those_of_scores(made, folder):
    text = made.CONFIG.replace("probe_seeds = [0, 1]", "probe_seeds = [0, 1, 2]").replace("finetune_seeds = [0, 1]", "finetune_seeds = [5]")
    assert "1 seed, 3 draws of the images" in what_it_is(made.world(text))[0]
    assert "3 seeds, 3 draws" in what_it_is(read_results(folder))[0]


def test_that_seeds_and_draws_share_images_is_said_once_and_not_of_made_up_numbers(whole, folder):
    assert sum("share images" in sentence for sentence in what_it_does_not_show(whole)) == 1
    assert not any("share images" in sentence for sentence in what_it_does_not_show(read_results(folder)))


def test_versions_are_all_those_of_the_records(folder, whole):
    results = read_results(folder)
    rows = [{**row, "jax_version": "0.0.1" if place else row["jax_version"]} for place, row in enumerate(results.truths)]
    found = replace(results, truths=rows).measured_with
    assert found["jax"] == ("0.0.1", results.versions["jax"])
    assert found["numpy"] == (results.versions["numpy"],)
    assert found["device"] == ("cpu",)
    assert whole.measured_with == {}
