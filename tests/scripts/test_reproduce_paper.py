"""scripts/reproduce_paper.py reports the findings of the stored records."""

import runpy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ntk_select.benchmark import Store

SCRIPTS = Path(__file__).parents[2] / "scripts"
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPTS / "reproduce_paper.py"), run_name="reproduce_paper")


def by_hand(store, shots):
    """(gain of LFC's first three, gain of three random experts), one per task: means over seeds, each probe sample by itself, all choices of three."""
    judged = {"magnetic_tile": "balanced_accuracy"}
    truths = [row for row in store.read("truth").to_pylist() if row["role"] == "truth" and row["images_per_class"] == shots]
    scores = [row for row in store.read("score").to_pylist() if row["score"] == "lfc" and row["images_per_class"] == shots]
    gains, at_random = [], []
    for task in {row["task"] for row in truths}:
        rows = [row for row in truths if row["task"] == task]
        accuracy = {
            name: np.mean([row[judged.get(task, "accuracy")] for row in rows if row["expert"] == name]) for name in {r["expert"] for r in rows}
        }
        of_samples = []
        for seed in {row["seed"] for row in scores if row["task"] == task}:
            value = {row["expert"]: row["value"] for row in scores if (row["task"], row["seed"]) == (task, seed)}
            first = sorted(accuracy, key=lambda name, value=value: -value[name])[:3]
            of_samples.append(max(accuracy[name] for name in first) - accuracy["cifar10-resnet_small"])
        gains.append(np.mean(of_samples))
        at_random.append(np.mean([max(three) for three in combinations(accuracy.values(), 3)]) - accuracy["cifar10-resnet_small"])
    return 100 * np.array(gains), 100 * np.array(at_random)


def test_findings_are_those_of_the_raw_rows(script, monkeypatch):
    """Gains of LFC's first three and of three experts at random; the text of the results says their difference."""
    monkeypatch.setitem(script["findings"].__globals__, "SCORES", ("lfc",))  # the baselines are there in any case
    store = Store(script["RECORDS"])
    table = script["findings"](script["RECORDS"])
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    text = (script["RECORDS"].parent / "benchmark.md").read_text(encoding="utf-8")
    for shots, difference in ((5, "-2.2 ["), (20, "0.6 [")):
        gains, at_random = by_hand(store, shots)
        for name, values in (("lfc", gains), ("random order (exact)", at_random)):
            row = next(row for row in cells if row[:2] == (str(shots), name))
            assert row[2] == str(len(values))
            assert float(row[3].split(" ")[0]) == pytest.approx(values.mean(), abs=0.051)
        assert difference == f"{(gains - at_random).mean():.1f} ["
        assert difference in text


def test_what_is_named_is_written(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(script["main"].__globals__, "findings", lambda _: "the findings")  # tested above
    script["main"](out=tmp_path, only=("table_4", "figure_8"))
    assert {file.name for file in tmp_path.iterdir()} == {"table_4.csv", "figure_8.png", "figure_8.svg", "figure_8.csv"}
    out = capsys.readouterr().out
    assert "the findings" in out
    assert "wrote 4 files" in out
