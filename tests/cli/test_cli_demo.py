"""`ntk-select demo` ranks the embedded experts for digits, fine-tunes the right ones, and prints measured accuracies next to the ranking."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.cli import main
from ntk_select.cli.demo import SHOTS, TOP
from ntk_select.cli.finetune import REFERENCE
from ntk_select.data import load_task
from ntk_select.errors import ConfigError
from ntk_select.models import open_zoo
from ntk_select.training import finetuning
from ntk_select.training.finetuning.result import FinetuneResult, Trial

pytest.importorskip("sklearn")


def result_of(name, accuracy, **options):
    """A result as fine-tuning would return it."""
    recipe = options.get("recipe", ns.Recipe())
    return FinetuneResult(
        name, "digits", SHOTS, 0, 0, 200, 360, 0.01, "validation", accuracy, accuracy, {"0": accuracy}, 0.5, (2.0, 1.0),
        (Trial(0.01, accuracy, 0.5, (2.0, 1.0)),), 600, {"read": 0.1, "train": 1.0}, 600.0, 1e9, 1.25, recipe, None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranking():
    """Of some of the embedded experts, the reference among them, in an order of no meaning."""
    experts = open_zoo(["builtin"])
    some = dict.fromkeys([*list(experts)[:5], REFERENCE])
    return ns.rank({name: experts[name] for name in some}, load_task("digits"), per_class=3, scores=("random",), resamples=20)


@pytest.fixture
def demo(ranking, monkeypatch, tmp_path, capsys):
    """demo("--json") with a ranking and fine-tunings that are at hand: exit status, stdout, stderr, and what was asked for."""
    asked, order = [], [row.name for row in ranking.experts]
    monkeypatch.setattr("ntk_select.ranking.record.ranking_figure", lambda *_: b"a figure")
    monkeypatch.setattr(FinetuneResult, "report", lambda self, path: path)  # drawing takes most of the time

    def ranked(experts, task, **options):
        asked.append(("rank", sorted(experts), task.name, {key: options[key] for key in options if key != "progress"}))
        return ranking

    def tuned(expert, task, **options):
        asked.append((expert.name, task.name, options["shots"], options["recipe"], options["reference"].name))
        return result_of(expert.name, 0.9 - 0.1 * order.index(expert.name), recipe=options["recipe"])

    monkeypatch.setattr("ntk_select.ranking.rank", ranked)
    monkeypatch.setattr(finetuning, "finetune", tuned)

    def run(*options):
        asked.clear()
        capsys.readouterr()
        status = main(["demo", "--out", str(tmp_path / "demo"), *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return SimpleNamespace(status=status, out=captured.out, err=captured.err, asked=list(asked), folder=tmp_path / "demo", order=order)

    return run


def chosen(order):
    return list(dict.fromkeys([*order[:TOP], REFERENCE, order[-1]]))


def test_the_whole_embedded_zoo_is_ranked_for_digits_and_the_ends_are_fine_tuned_on_the_same_images(demo):
    found = demo("--json")
    first, *rest = found.asked
    assert first == ("rank", sorted(open_zoo(["builtin"])), "digits", {"per_class": SHOTS})
    assert [asked[0] for asked in rest] == chosen(found.order)
    assert {asked[1:] for asked in rest} == {("digits", SHOTS, ns.Recipe(augment="crop"), REFERENCE)}


def test_json_has_the_ranking_and_the_fine_tunings(demo, ranking):
    found = demo("--json")
    record = json.loads(found.out)
    assert found.status == 0
    assert {key: value for key, value in record.items() if key != "fine_tuned"} == json.loads(json.dumps(ranking.to_dict()))
    assert [result["expert"] for result in record["fine_tuned"]] == chosen(found.order)
    assert all({"accuracy", "cost", "learning_rate", "per_class", "recipe", "trials"} <= set(result) for result in record["fine_tuned"])
    assert "{" not in found.err


def test_the_table_lies_the_truth_beside_the_ranking_in_its_order(demo):
    found = demo()
    base = 0.9 - 0.1 * found.order.index(REFERENCE)
    table = found.out.partition("Fine-tuned on")[2]
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    places = sorted(found.order.index(name) for name in chosen(found.order))
    for line, place in zip(lines, places, strict=True):
        name, accuracy = found.order[place], 0.9 - 0.1 * place
        marked = name + (" (reference)" if name == REFERENCE else "")
        assert line[:5] == [str(place + 1), marked, "-", f"{100 * accuracy:.1f} %", f"{100 * (accuracy - base):+.1f}"]
    assert (
        f"The first of the ranking reaches 90.0 %, the reference {100 * base:.1f} %; the best of these {len(lines)} is {found.order[0]}." in found.out
    )


def test_best_rates_at_the_end_of_the_grid_are_told(demo, monkeypatch):
    assert "the largest or smallest of the three" not in demo().out
    tuned = finetuning.finetune
    monkeypatch.setattr(finetuning, "finetune", lambda *given, **options: replace(tuned(*given, **options), edge="largest"))
    count = len(chosen(demo().order))
    assert (
        f"For {count} of these {count} the best rate is the largest or smallest of the three: ntk-select finetune also tries rates beyond."
        in demo().out
    )


def test_out_holds_the_ranking_and_each_fine_tuning(demo):
    found = demo("--json")
    names = {path.name for path in found.folder.iterdir()}
    assert {"ranking.json", *chosen(found.order)} <= names
    record = json.loads(found.out)
    for result in record["fine_tuned"]:
        assert json.loads((found.folder / result["expert"] / "result.json").read_text()) == result


@pytest.mark.parametrize("as_json", [True, False])
def test_without_fine_tuning_only_the_ranking_is_made(demo, as_json):
    found = demo("--no-finetune", *["--json"][: int(as_json)])
    assert found.status == 0
    assert [asked[0] for asked in found.asked] == ["rank"]
    assert {"ranking.json"} <= {path.name for path in found.folder.iterdir()}
    if as_json:
        assert json.loads(found.out)["fine_tuned"] == []
    else:
        assert "Fine-tuned on" not in found.out
        assert "ntk-select rank --task folder:my_images" in found.out


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(demo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = demo("--out", str(tmp_path / "file" / "demo"))
    assert (found.status, found.out, found.asked) == (2, "", [])
    assert "ntk-select: --out '" in found.err


def test_on_a_full_disk_everything_is_printed_all_the_same_and_the_status_says_so(demo, monkeypatch):
    def refuse(record, _):
        raise ConfigError(f"{type(record).__name__} cannot be written: No space left on device.")

    monkeypatch.setattr(ns.Ranking, "save", refuse)
    monkeypatch.setattr(FinetuneResult, "save", refuse)
    found = demo()
    assert found.status == 1
    assert "Fine-tuned on" in found.out
    assert "The ranking could not be saved: Ranking cannot be written: No space left on device." in found.err
    assert found.err.count("The fine-tuning of ") == len(chosen(found.order))


@pytest.mark.slow
def test_the_demo_fine_tunes_experts_to_more_than_half_right(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ntk_select.cli.demo.TOP", 0)  # the reference and the last: less than a minute
    status = main(["demo", "--json", "--out", str(tmp_path)])
    record = json.loads(capsys.readouterr().out)
    order, found = [expert["name"] for expert in record["experts"]], record["fine_tuned"]
    assert status == 0
    assert [result["expert"] for result in found] == list(dict.fromkeys([REFERENCE, order[-1]]))
    for result in found:
        assert result["accuracy"] > 0.5
        assert result["accuracy"] == pytest.approx(np.mean(list(result["per_class"].values())), abs=0.05)
        assert (result["train_images"], result["recipe"]["epochs"], len(result["trials"])) == (10 * SHOTS, 30, 3)
        assert result["cost"] > 0
