"""Does the script that reproduces the paper say of the kept records what they hold?"""

import runpy
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


def test_findings_are_those_of_the_raw_rows(script):
    """The gain of LFC's first three, by hand: shots of 20, means over seeds, draws one by one."""
    store, judged = Store(script["RECORDS"]), {"magnetic_tile": "balanced_accuracy"}
    truths = [row for row in store.read("truth").to_pylist() if row["role"] == "truth" and row["images_per_class"] == 20]
    scores = [row for row in store.read("score").to_pylist() if row["score"] == "lfc" and row["images_per_class"] == 20]
    gains = []
    for task in {row["task"] for row in truths}:
        rows = [row for row in truths if row["task"] == task]
        accuracy = {
            name: np.mean([row[judged.get(task, "accuracy")] for row in rows if row["expert"] == name]) for name in {r["expert"] for r in rows}
        }
        of_draws = []
        for seed in {row["seed"] for row in scores if row["task"] == task}:
            value = {row["expert"]: row["value"] for row in scores if (row["task"], row["seed"]) == (task, seed)}
            first = sorted(accuracy, key=lambda name, value=value: -value[name])[:3]
            of_draws.append(max(accuracy[name] for name in first) - accuracy["cifar10-resnet_small"])
        gains.append(np.mean(of_draws))
    table = script["findings"](script["RECORDS"])
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    told = next(row for row in cells if row[:2] == ("20", "lfc"))
    assert told[2] == str(len(gains))
    assert float(told[3].split(" ")[0]) == pytest.approx(100 * np.mean(gains), abs=0.051)


def test_what_is_named_is_written(script, tmp_path, capsys):
    script["main"](out=tmp_path, only=("table_4", "figure_8"))
    assert {file.name for file in tmp_path.iterdir()} == {"table_4.csv", "figure_8.png", "figure_8.svg", "figure_8.csv"}
    assert "wrote 4 files" in capsys.readouterr().out
