"""scripts/benchmarks/check_accelerator.py: what is right passes, what is wrong is off and fails, and what was not compared is said."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("check_accelerator")


@pytest.fixture
def part(script):
    """part("compare"): a module of the package."""
    return lambda name: importlib.import_module(f"accelerator.{name}")


@pytest.fixture
def here(script, part, monkeypatch):
    """Parts run in this process, on the CPU; those of kernels are the tiny layers alone."""
    measure, kernels = part("measure"), part("kernels")

    def layers(setting):
        for name, layer in kernels.tiny_layers().items():
            yield kernels._of_layer(setting, name, *layer)

    def run(name, setting, folder, limit):
        with jax.enable_x64(setting.dtype == "float64"):
            measure.measure(name, setting, folder)

    monkeypatch.setitem(measure.PARTS, "kernels", layers)
    monkeypatch.setattr(script, "in_process_of_its_own", run)
    monkeypatch.setattr(script, "_output", lambda *_: json.dumps(["cpu", "cpu", 1]))
    return script


def test_a_cpu_alone_passes_and_says_what_was_not_compared(here, tmp_path, capsys):
    assert here.main(["--tiny", "--only", "kernels", "--out", str(tmp_path / "check.json")]) == 0
    says = capsys.readouterr().out
    assert "Comparisons with an accelerator were not made: there is only a CPU, which would be compared with itself." in says
    assert "Nothing is off. Checks: 2 ok; no accelerator was compared" in says
    record = json.loads((tmp_path / "check.json").read_text())
    assert record["right"] is True
    assert list(record["devices"]) == ["CPU"]
    for row in record["rows"]:
        verdicts = {title: verdict["verdict"] for title, verdict in row["comparisons"].items()}
        assert verdicts == {
            "accelerator with CPU, float32": "not made",
            "accelerator with CPU, float64": "not made",
            "CPU, float32 with float64": "ok",
        }
        assert row["laws"]["verdict"] == row["repeat"]["verdict"] == row["verdict"] == "ok"
        assert set(row["times"]) == {"CPU float32", "CPU float64"}
        assert 0 < row["comparisons"]["CPU, float32 with float64"]["off"] < 2e-6  # not the same run twice
    page = (tmp_path / "check.md").read_text()
    assert page.startswith("# Checks on a CPU alone\n")
    assert page.count("\n| kernels | ") == 2 + 4 + 2  # verdicts, times, memory


def test_rounded_products_are_off_and_exit_with_1(here, tmp_path, capsys):
    assert here.main(["--tiny", "--control", "--only", "kernels", "--no-float64", "--out", str(tmp_path / "check.json")]) == 1
    says = capsys.readouterr().out
    assert "Accelerator: the CPU, rounded to TF32: a negative control." in says
    assert "OFF: kernels, conv 3 x 3, 4 to 6, accelerator with CPU, float32: " in says
    assert "SOME RESULTS ARE WRONG. Checks: 2 OFF; " in says
    (row, _) = json.loads((tmp_path / "check.json").read_text())["rows"]
    found = row["comparisons"]["accelerator with CPU, float32"]
    assert 5e-5 < found["off"] < 5e-3  # 2^-11 = 5e-4 is the largest rounding of TF32
    assert row["laws"]["verdict"] == "ok"  # rounded weights are other weights, with a kernel of their own


def test_a_check_that_fails_or_does_not_fit_leaves_the_others(here, part, monkeypatch, capsys):
    check = part("check").Check

    def checks(_setting):
        yield check("raises", lambda: {"x": 1 / 0}, {"x": (1e-5, 1e-10)})
        yield check("large", lambda: {"x": np.ones(2)}, {"x": (1e-5, 1e-10)}, bytes=1e18)
        yield check("drawn", lambda: {"x": np.ones(2)}, {"x": (1e-5, 1e-10)}, drawn=True)
        yield check("timed", dict, flops=1e9, bytes=0)

    monkeypatch.setitem(part("measure").PARTS, "kernels", checks)
    assert here.main(["--only", "kernels"]) == 1
    says = capsys.readouterr().out
    assert "FAILED: kernels, raises, CPU, float32 with float64: CPU float32: ZeroDivisionError: division by zero." in says
    assert "skipped: kernels, large, CPU, float32 with float64: needs 1000000000.0 GB, the device has " in says
    assert "not made: kernels, drawn, CPU, float32 with float64: its random numbers depend on the type." in says
    assert "SOME RESULTS ARE WRONG. Checks: 1 FAILED, 1 skipped, 1 ok, 1 timed only; " in says


def test_an_accelerator_is_compared_in_the_types_it_has(here, monkeypatch, capsys):
    monkeypatch.setattr(here, "_output", lambda *_: json.dumps(["TPU v9", "tpu", 4]))
    made = []
    monkeypatch.setattr(
        here, "in_process_of_its_own", lambda name, setting, folder, limit: made.append((setting.accelerator, setting.dtype)) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        here.main(["--only", "ranking"])
    assert made == [(True, "float32")]

    def failing(*_):
        raise here.ChildError("ended with status 1: no TPU.")

    monkeypatch.setattr(here, "in_process_of_its_own", failing)
    assert here.main(["--only", "ranking"]) == 1
    says = capsys.readouterr().out
    assert "Accelerator: TPU v9 (tpu, 4 of them; one is used)" in says
    assert "FAILED: ranking, ranking, accelerator with CPU, float32: accelerator float32: ended with status 1: no TPU." in says
    cell = here.Accelerator()._part("ranking", "", "tpu")["accelerator", "float64"]
    assert cell.missing == "no float64 on this device (tpu)"
    assert not cell.failed
    assert here.Accelerator()._part("speed", "", "gpu")["CPU", "float32"].missing == "speed is measured on the accelerator alone"


def run_of(compare, values, **row):
    made = {"name": "ranking", "again": 1.0, "first": 2.0, "compiling": 1.0, "laws": {}, "repeat": {"lfc": 0.0}, "drawn": False}
    made |= {"allowed": {"lfc": [1e-3, 1e-9]}, "order": {"places": "lfc"}} | row
    return compare.Run((made,), {f"0/{name}": np.array(value) for name, value in values.items()}, {"peak_bytes": None})


@pytest.mark.parametrize(
    ("values", "row", "verdict", "what"),
    [
        ({"lfc": [0.3, 0.2, 0.1], "places": [1, 2, 3]}, {}, "ok", "lfc"),
        ({"lfc": [0.3, 0.2, 0.101], "places": [1, 2, 3]}, {}, "OFF", "lfc"),
        ({"lfc": [0.3, 0.2, np.nan], "places": [1, 2, 3]}, {}, "OFF", "lfc"),
        ({"lfc": [0.3, 0.2, 0.1], "places": [1, 3, 2]}, {}, "OFF", "pairs in another order by lfc"),
    ],
)
def test_values_and_order(part, values, row, verdict, what):
    compare = part("compare")
    names = [(role, dtype) for dtype in ("float32", "float64") for role in ("accelerator", "CPU")]
    runs = dict.fromkeys(names, compare.Run(missing="left out"))
    runs["accelerator", "float32"] = run_of(compare, values, **row)
    runs["CPU", "float32"] = run_of(compare, {"lfc": [0.3, 0.2, 0.1], "places": [1, 2, 3]})
    (found,) = compare.rows_of("ranking", runs)
    assert (found.comparisons["accelerator with CPU, float32"].verdict, found.comparisons["accelerator with CPU, float32"].what) == (verdict, what)
    assert found.verdict == verdict
    assert found.comparisons["CPU, float32 with float64"].verdict == "not made"


@pytest.mark.parametrize("wrong", [{"laws": {"a = b": [1e-2, 1e-3]}}, {"repeat": {"lfc": 1e-2}}])
def test_a_broken_identity_or_an_unrepeatable_number_is_off(part, wrong):
    compare, report = part("compare"), part("report")
    values = {"lfc": [0.3, 0.2], "places": [1, 2]}
    names = [(role, dtype) for dtype in ("float32", "float64") for role in ("accelerator", "CPU")]
    rows = compare.rows_of("ranking", {name: run_of(compare, values, **wrong) for name in names})
    assert rows[0].verdict == "OFF"
    assert not report.right(rows)


def test_close_values_may_change_places(part):
    misplaced = part("check").misplaced
    assert misplaced([1, 2, 3], [1, 2, 3], [0.5, 0.3, 0.1], 1e-3) == 0
    assert misplaced([1, 3, 2], [1, 2, 3], [0.5, 0.1001, 0.1], 1e-3) == 0
    assert misplaced([1, 3, 2], [1, 2, 3], [0.5, 0.2, 0.1], 1e-3) == 1
    assert misplaced([3, 2, 1], [1, 2, 3], [0.5, 0.2, 0.1], 1e-3) == 3


def test_distances(part):
    distance = part("check").distance
    assert distance([3.0, 4.1], [3.0, 4.0]) == pytest.approx(0.1 / 5)
    assert distance([0.0], [0.0]) == 0
    assert [distance(*pair) for pair in (([1.0], [0.0]), ([1.0], [1.0, 1.0]), ([np.nan], [1.0]), ([1.0], [np.inf]))] == [np.inf] * 4


def test_tf32_has_ten_bits(part):
    to_tf32 = part("setting").to_tf32
    given = np.array([1.0, 1 + 2.0**-10, 1 + 2.0**-12, -(1 + 3 * 2.0**-12), 0.0, 3.0], np.float32)
    np.testing.assert_array_equal(to_tf32(given), np.array([1.0, 1 + 2.0**-10, 1.0, -(1 + 2.0**-10), 0.0, 3.0], np.float32))


def test_a_process_that_fails_or_hangs(script):
    with pytest.raises(script.ChildError, match="ended with status 1: no device. Try: --only one part"):
        script._output([sys.executable, "-c", "raise SystemExit('no device')"], {}, 60)
    with pytest.raises(script.ChildError, match=r"took longer than 0\.1 s\. Try: --limit 0\.2"):
        script._output([sys.executable, "-c", "import time; time.sleep(60)"], {}, 0.1)


def test_the_command_knows_all_parts(script, part):
    assert tuple(part("measure").PARTS) == script.PARTS


@pytest.mark.slow
def test_all_parts_on_a_cpu(tmp_path):
    pytest.importorskip("sklearn")
    command = [sys.executable, str(BENCHMARKS / "check_accelerator.py"), "--tiny"]
    done = subprocess.run([*command, "--out", str(tmp_path / "check.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    record = json.loads((tmp_path / "check.json").read_text())
    assert {row["part"] for row in record["rows"]} == {"kernels", "sketches", "ranking", "forecast", "dynamics", "fine-tuning"}
    verdicts = {(row["part"], row["check"]): row["comparisons"]["CPU, float32 with float64"]["verdict"] for row in record["rows"]}
    drawn = {("forecast", "fashion_mnist-resnet_small"), ("fine-tuning", "ns.finetune, 1 epoch")}
    assert {check for check, verdict in verdicts.items() if verdict != "ok"} == drawn
    assert {verdicts[check] for check in drawn} == {"not made"}
    done = subprocess.run([*command, "--control", "--no-float64", "--only", "ranking", "dynamics"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "OFF: ranking, " in done.stdout
    assert "OFF: dynamics, " in done.stdout
