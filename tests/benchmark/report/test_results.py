"""Results are what config, cards and records say at present: ground truth, source overlap, scores of other packages, failures, versions."""

import json
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import EntryPoint
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from ntk_select.benchmark import run
from ntk_select.benchmark.report.costs import scoring, units
from ntk_select.benchmark.report.figures import caption, data, why_not
from ntk_select.benchmark.report.results import most_seeds, read_results, values_of
from ntk_select.benchmark.report.summary import measured
from ntk_select.benchmark.report.tables import content
from ntk_select.benchmark.report.words import unfinished, what_is_missing, what_it_does_not_show, what_it_is
from ntk_select.benchmark.report.write import figure_csv
from ntk_select.benchmark.store import Store
from ntk_select.errors import ConfigError
from ntk_select.scores import Score
from ntk_select.scores import table as score_table


def _behind(terms):
    values = np.array([each["a"] for each in terms])
    return values - values.max()


GAP = Score(lambda features, labels: {"a": 0.0}, ("features", "labels"), True, "nowhere", "0 or less", combine=_behind)
"""A score of another package, which compares the zoo: how far behind the first an expert is."""


@pytest.fixture(scope="module")
def marked(made):
    """Experts trained on a task's source are measured, and marked in their rows."""
    return made.world('own_source = "mark"\n' + made.CONFIG)


def seen(made, *sources):
    return {name for name, facts in made.EXPERTS.items() if set(sources) & set(facts.seen)}


def test_source_overlap_is_that_of_the_present_config(made, marked):
    more = made.with_config(marked, marked.config_text.replace('uri = "cars"', 'uri = "cars"\nsource = ["textures"]'))
    less = made.with_config(marked, marked.config_text.replace('source = ["letters"]', ""))
    everybody = set(made.EXPERTS)
    for results, cars, greek in ((marked, set(), seen(made, "letters")), (more, seen(made, "textures"), seen(made, "letters")), (less, set(), set())):
        for task, own in (("cars", cars), ("greek", greek)):
            truth = results.ground_truth(task, 5)
            assert {name for name in everybody if results.source_overlap(name, task)} == own
            assert set(truth.experts) == everybody - own
            assert truth.missing == ()
            (target,) = [each for each in results.targets("lfc", 5) if each.name == task]
            assert np.isfinite(target.scores).all()
            assert target.scores.shape[1] == len(truth.experts)
            marks = {row["expert"] for row in made.rows_of(results, "truth") if row["task"] == task and row["mark"] == "*"}
            assert marks == own
            assert made.one(made.rows_of(results, "table_4"), task=task)["compared"] == len(everybody - own)
    assert not marked.source_overlap("untrained:net_a", "greek")


def test_failed_cells_with_source_overlap_are_not_missing_from_comparisons(made, marked):
    own = seen(made, "letters")
    some = made.without(marked, lambda row: row["task"] != "greek" or row["expert"] not in own)
    assert some.ground_truth("greek", 5).missing == ()
    assert not any(sentence.startswith("greek") for sentence in what_is_missing(some))


def test_costs_leave_out_experts_trained_on_the_source(whole, made):
    results = whole
    more = made.with_config(results, results.config_text.replace('uri = "cars"', 'uri = "cars"\nsource = ["textures"]'))
    both = [scoring(each, "cars", 5) for each in (results, more)]
    passes = {name: made.PASSES[facts.architecture][0] for name, facts in made.EXPERTS.items()}
    left = sum(value for name, value in passes.items() if name not in seen(made, "textures"))
    seconds = [units(each, "cars", 5)["seconds"] for each in (results, more)]
    forward = [each.loc["lfc", "forward"] * unit for each, unit in zip(both, seconds, strict=True)]
    assert forward == pytest.approx([sum(passes.values()), left])


@pytest.fixture
def with_plugin(whole, monkeypatch):
    """LEEP is a score of another package, whose rows hold terms."""

    def load(entry):
        return GAP if entry.name == "gap" else pytest.fail("another one was loaded")

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(score_table, "entry_points", lambda group: [EntryPoint("gap", "a:b", group)])
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
        expected = [terms[name] - max(terms.values()) for name in results.ground_truth("birds", 20).experts]
        assert target.scores[draw] == pytest.approx(expected)
    spearman, before = (measured(each, "spearman", 20, scores=[name])[name].value for each, name in ((results, "gap"), (whole, "leep")))
    assert spearman == pytest.approx(before)
    assert content(results, "unavailable").rows == []


def test_values_are_signed_so_that_higher_is_better_and_experts_without_terms_have_none(with_plugin, whole):
    results, _ = with_plugin
    lower = [{**row, "value": -row["value"], "higher_is_better": False} if row["score"] == "lfc" else row for row in whole.scores]
    turned = replace(whole, scores=lower)
    for a, b in zip(whole.targets("lfc", 5), turned.targets("lfc", 5), strict=True):
        assert np.array_equal(a.scores, b.scores)
    rows = [{**row, "higher_is_better": False} if row["score"] == "gap" else row for row in results.scores]
    rows = [{**row, "terms": None} if (row["score"], row["expert"]) == ("gap", "letters-net_b") else row for row in rows]
    before, after = (each.targets("gap", 20)[0] for each in (results, replace(results, scores=rows)))
    place = results.ground_truth("birds", 20).experts.index("letters-net_b")
    assert np.isnan(after.scores[:, place]).all()
    others = np.arange(after.scores.shape[1]) != place
    differences = np.diff(after.scores[:, others]), np.diff(before.scores[:, others])
    assert differences[0] == pytest.approx(-differences[1])


def test_a_score_whose_package_is_gone_has_no_value_and_no_cost(with_plugin, monkeypatch, made):
    results, _ = with_plugin
    paid = made.without(results, lambda row: row["task"] == "birds")
    assert scoring(paid, "birds", 20).loc["gap", "forward"] > 0
    monkeypatch.setattr(score_table, "entry_points", lambda group: [])
    gone = replace(paid)
    assert gone.targets("gap", 20) == []
    assert any("gap" in sentence for sentence in content(gone, "scores").missing)
    assert "gap" not in scoring(gone, "birds", 20).index
    assert gone.targets("lfc", 20)


def test_a_score_whose_package_is_broken_affects_no_other_score(with_plugin, monkeypatch):
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


def test_failures_are_those_of_requested_cells_without_a_record(folder):
    store = Store(folder)
    done, waiting, *_ = cells = store.cells()
    store.record_file(waiting).unlink()
    for cell in (done, waiting, replace(waiting, seed=77)):
        store.put_failure(cell, "no memory")
    results = read_results(folder)
    assert list(results.failures) == [waiting.key]
    assert [row[-1] for row in content(results, "failures").rows] == ["no memory"]
    assert f"{len(cells) - 1} of {len(cells)} synthetic measurements are done." in what_is_missing(results)


def test_a_folder_in_which_nothing_was_measured_is_refused(folder):
    for record in (folder / "records").glob("*/*/*"):
        record.unlink()
    with pytest.raises(ConfigError, match=r"Nothing has been measured in '.*out' yet. Try: ntk-select bench run CONFIG --out .*out"):
        read_results(folder)


def test_warnings_of_the_manifest_are_listed_under_what_is_missing(folder):
    assert read_results(folder).warnings == []
    manifest = json.loads((folder / "bench.json").read_text())
    for warnings in (None, ["No expert names the source 'birds'."]):
        manifest.pop("warnings", None)
        (folder / "bench.json").write_text(json.dumps({**manifest, **({} if warnings is None else {"warnings": warnings})}))
        assert what_is_missing(read_results(folder))[1:] == (warnings or [])


def test_probe_samples_are_those_of_scores(made, folder):
    text = made.CONFIG.replace("probe_seeds = [0, 1]", "probe_seeds = [0, 1, 2]").replace("finetune_seeds = [0, 1]", "finetune_seeds = [5]")
    assert "1 seed, 3 probe samples" in what_it_is(made.world(text))[0]
    assert "3 seeds, 3 probe samples" in what_it_is(read_results(folder))[0]


def test_that_seeds_and_probe_samples_share_images_is_said_once_and_not_of_synthetic_numbers(whole, folder):
    assert sum("share images" in sentence for sentence in what_it_does_not_show(whole)) == 1
    assert not any("share images" in sentence for sentence in what_it_does_not_show(read_results(folder)))


def test_versions_are_all_those_of_the_records(folder, whole):
    results = read_results(folder)
    rows = [{**row, "jax_version": "0.0.1" if place else row["jax_version"]} for place, row in enumerate(results.finetunings)]
    found = replace(results, finetunings=rows).measured_with
    assert found["jax"] == ("0.0.1", results.versions["jax"])
    assert found["numpy"] == (results.versions["numpy"],)
    assert found["device"] == ("cpu",)
    assert whole.measured_with == {}


def test_the_synthetic_benchmark_has_a_record_for_every_cell_of_its_config(whole, made):
    keys = [row["key"] for rows in (whole.finetunings, whole.scores, whole.kernels) for row in rows]
    assert set(keys) == {cell.key for cell in whole.cells}
    assert {row["role"] for row in whole.finetunings} == {"truth", "untrained", "search"}
    assert whole.shots == (5, 20)
    assert len(whole.ground_truth("birds", 5).experts) == len(made.EXPERTS)
    assert not any("letters" in name or "@" in name for name in whole.ground_truth("greek", 5).experts)
    some = made.without(whole, lambda row: row["task"] == "cars")
    assert some.ground_truth("birds", 5) is None
    assert some.ground_truth("cars", 5) is not None


def test_all_images_come_last_and_are_called_all(made):
    results = made.world(made.CONFIG.replace("shots = [5, 20]", 'shots = ["full", 5]').replace("per_class = [5, 10, 20]", 'per_class = ["all", 5]'))
    assert results.shots == (5, None)
    truth = results.ground_truth("birds", None)
    rows = [row for row in results.finetunings if (row["task"], row["images_per_class"], row["role"]) == ("birds", None, "truth")]
    assert dict(zip(truth.experts, truth.means, strict=True)) == pytest.approx(
        {name: np.mean([row["accuracy"] for row in rows if row["expert"] == name]) for name in made.EXPERTS}
    )
    probe = results.config.probe_of(None)
    values = {
        (row["expert"], row["seed"]): row["value"]
        for row in results.scores
        if (row["score"], row["task"], row["images_per_class"]) == ("lfc", "birds", probe)
    }
    target = results.targets("lfc", None)[0]
    assert target.scores.tolist() == [[values[name, seed] for name in truth.experts] for seed in (0, 1)]
    shown = [row["shots"] for row in made.rows_of(results, "truth") if row["task"] == "birds"]
    assert shown == sorted(shown, key=str)
    assert set(shown) == {5, "all"}
    assert b",all," in figure_csv(results, "figure_2")
    assert [row["images_per_class"] for row in data(results, "figure_7") if (row["score"], row["measure"]) == ("lfc", "spearman")] == [5, "all"]
    assert "fine-tuned on all images" in caption(results, "figure_7")
    assert "with 5 and all images per class" in what_it_is(results)[0]


def tried(experts_of, reference):
    """Every choice of seeds, the best first."""
    least = Fraction(9, 10) * max(map(len, experts_of.values()))
    choices = [some for count in range(1, 1 + len(experts_of)) for some in combinations(sorted(experts_of), count)]
    common = {some: set.intersection(*(experts_of[seed] for seed in some)) for some in choices}
    allowed = [some for some in choices if len(common[some]) >= least]
    return max(allowed, key=lambda some: (reference in common[some], len(some), len(common[some]), [-seed for seed in some]))


def test_the_seeds_are_the_best_of_all_choices():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        names = [f"expert{place}" for place in range(rng.integers(1, 25))]
        experts_of = {
            int(s): {name for name in names if rng.random() > rng.choice([0, 0.05, 0.1, 0.5])} for s in rng.permutation(6)[: rng.integers(1, 7)]
        }
        experts_of[9] = set(names[: len(names) // 2 + 1])
        for reference in (names[0], None):
            assert most_seeds(experts_of, reference) == tried(experts_of, reference), (seed, reference)


def lost(made, whole, *cells):
    """Without fine-tunings, each a task, images per class, expert and seed."""
    return made.without(whole, lambda row: (row["task"], row["images_per_class"], row["expert"], row["seed"]) not in cells)


def test_one_failed_cell_loses_one_expert_and_no_seed(made, whole):
    truth = lost(made, whole, ("birds", 5, "letters-net_b", 1)).ground_truth("birds", 5)
    assert (truth.seeds, truth.dropped, truth.missing) == ((0, 1), (), ("letters-net_b",))
    assert truth.experts == tuple(name for name in made.EXPERTS if name != "letters-net_b")
    for place, name in enumerate(truth.experts):
        rows = [r for r in whole.finetunings if (r["task"], r["images_per_class"], r["expert"], r["role"]) == ("birds", 5, name, "truth")]
        assert truth.accuracies[:, place].tolist() == [row["accuracy"] for row in sorted(rows, key=lambda row: row["seed"])]


def test_a_seed_that_has_only_begun_loses_no_expert(made, whole):
    cells = [("birds", 5, name, 1) for name in list(made.EXPERTS)[3:]]
    some = lost(made, whole, *cells, ("birds", 5, "letters-net_b", 0))
    truth = some.ground_truth("birds", 5)
    assert (truth.seeds, truth.dropped, truth.missing) == ((0,), (1,), ("letters-net_b",))
    assert unfinished(some) == ["birds, 5 images per class (1 of 13 experts missing: letters-net_b; seed 1 left out, with too few experts)"]
    assert f"Unfinished: {unfinished(some)[0]}." in what_is_missing(some)


def test_a_seed_is_dropped_rather_than_the_reference(made, whole):
    some = lost(made, whole, ("birds", 5, "photos-net_a", 1))
    truth = some.ground_truth("birds", 5)
    assert (truth.seeds, truth.dropped, truth.missing) == ((0,), (1,), ())
    assert some.targets("lfc", 5)[0].reference == truth.experts.index("photos-net_a")


def test_nothing_is_missing_of_whole_results(whole):
    for shots in whole.shots:
        for task in whole.task_names:
            truth = whole.ground_truth(task, shots)
            assert (truth.missing, truth.dropped) == ((), ())


def test_probe_samples_with_nine_tenths_of_the_experts_are_used_and_others_are_not():
    experts = [f"expert{place}" for place in range(20)]
    full = pd.Series(np.arange(20.0), experts)
    draws = {0: full, 1: full[2:], 2: full[3:], 3: pd.concat([full, pd.Series({"nobody": 1.0})]), 4: full[:0]}
    values = values_of(draws, experts)
    assert len(values) == 3
    for row, draw in zip(values, (0, 1, 3), strict=True):
        assert [None if np.isnan(value) else value for value in row] == [draws[draw].get(name) for name in experts]
    assert values_of({0: pd.Series({"nobody": 1.0})}, experts) is None
    assert values_of({0: full * np.nan}, experts) is None


CHOSEN = ["photos-net_a", "textures-net_a", "letters-net_a"]


@pytest.fixture(scope="module")
def few(made):
    return made.world(f"experts = {CHOSEN}\n" + made.CONFIG)


def test_experts_sources_and_architectures_are_those_of_the_run(few, made):
    assert len(few.experts) == len(made.EXPERTS) > len(CHOSEN)
    assert what_it_is(few)[0].startswith("3 experts, 4 target tasks")
    assert "3 experts come from 3 sources and 1 architecture;" in " ".join(what_it_does_not_show(few))
    assert "made_up: 3 experts," in caption(few, "figure_2")
    assert why_not(few, "figure_3") == "No multi-domain expert takes part."


def test_tables_have_the_experts_of_the_run_and_those_that_were_left_out(few, made):
    assert [row["expert"] for row in made.rows_of(few, "experts")] == CHOSEN
    assert [(row["architecture"], row["start"]) for row in made.rows_of(few, "table_1")] == [("net_a", "scratch")]
    assert made.rows_of(few, "table_2") == []
    left_out = replace(few, skipped=[{"expert": "letters-net_b", "task": "greek", "reason": "own source (letters)"}])
    assert [row["expert"] for row in made.rows_of(left_out, "experts")] == [*CHOSEN, "letters-net_b"]
    assert what_it_is(left_out)[0].startswith("3 experts,")


def test_experts_of_figures_alone_are_not_counted(made):
    world = made.world('experts = ["photos-net_a", "textures-net_a"]\n' + made.CONFIG)  # letters-net_a has a kernel
    assert what_it_is(world)[0].startswith("2 experts,")
