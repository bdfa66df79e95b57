"""scripts/reproduce_prop1.py and the benchmarks of the dynamics measure what they state, and nothing twice."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from ntk_select.errors import ConfigError

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(Path(name).name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script():
    return load("reproduce_prop1")


def test_rank_correlations_are_scipys_and_their_intervals_cover_the_true_value(script):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 30), rng.integers(0, 8, 30)
    assert script.spearman(a, b)[0] == pytest.approx(spearmanr(a, b).statistic)
    # Two normal variables of correlation r have Spearman's (6 / pi) arcsin(r / 2).
    expected, covered = 6 / np.pi * np.arcsin(0.35), 0
    for _ in range(100):
        x = rng.normal(size=40)
        _, low, high = script.spearman(x, 0.7 * x + np.sqrt(1 - 0.49) * rng.normal(size=40), resamples=400)
        covered += low <= expected <= high
    assert 85 <= covered <= 100


def cell(task, speed, fall, own=False):
    error = 1.0 - fall
    names = ("lfc", "lgc", "lgc_network", "generalization", "generalization_per_scale", "linear_test_error", "test_error")
    return {
        "task": task,
        "own_source": own,
        "speed": speed,
        "speed_per_scale": speed,
        "common": {"loss": [1.0, 1.0 - fall / 2, 1.0 - fall]},
        **dict.fromkeys(names, error),
    }


def test_an_answer_is_for_one_task_and_without_experts_of_its_own_source(script):
    cells = [cell("a", place, place / 10) for place in range(6)] + [cell("b", -place, place / 10) for place in range(6)]
    cells += [cell("a", 100, 0.0, own=True), cell("c", 1, 0.1)]
    rows = {(row["question"], row["task"]): row for row in script.answer(cells, script.Protocol())}
    speed = "dY'TdY (eq. 3): real fall of the loss in 50 steps"
    assert rows[speed, "a"]["value"] == pytest.approx(1)
    assert rows[speed, "b"]["value"] == pytest.approx(-1)
    assert rows[speed, "a"]["experts"] == 6
    assert not [key for key in rows if key[1] == "c"]


def test_a_training_that_overflowed_fell_least(script):
    lost = cell("a", 1, 0.5)
    lost["common"]["loss"][-1] = None
    assert script.fall(lost, -1) == -np.inf


def test_an_unknown_expert_is_refused(script, tmp_path):
    with pytest.raises(ConfigError, match="--only: there is no expert 'neu_steel-resnet' in the zoo. Did you mean 'neu_steel-resnet_small"):
        script.main(only=("neu_steel-resnet",), out=tmp_path)


def test_a_task_that_cannot_be_measured_is_refused(script, tmp_path):
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "bare.npz", images=images, labels=labels)
    with pytest.raises(ConfigError, match="has no test images, which this comparison needs"):
        script.measure("neu_steel-resnet_small", f"npz:{tmp_path}/bare.npz", script.Protocol())
    np.savez(tmp_path / "few.npz", images=images, labels=labels, test_images=images, test_labels=labels)
    with pytest.raises(ConfigError, match="has no images left to choose the learning rate on"):
        script.measure("neu_steel-resnet_small", f"npz:{tmp_path}/few.npz", script.Protocol())


def test_what_overflowed_is_none_in_the_table(script):
    cells = [{"runs": {"3": {"times": [0.0, 1.0], "loss_error": [0.0, None]}}}]
    assert script.where_it_holds(cells, "loss_error") == {"3": {1: None}}


@pytest.mark.slow
def test_it_measures_a_cell_once_and_writes_answers_and_a_figure(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    protocol = script.Protocol(per_class=2, test=20, held_out=10, shares=(1e-4, 0.5), steps=(1, 3), fine_tuning_lrs=(0.001,), epochs=6)
    options = {"protocol": protocol, "only": ("fashion_mnist-resnet_small",), "out": tmp_path}
    script.main(**options)
    record = json.loads(next((tmp_path / "cells").iterdir()).read_text())
    small, large = record["runs"]["0.0001"], record["runs"]["0.5"]
    assert small["loss_error"][1] < 1e-3 < large["loss_error"][1]
    assert small["agreement"][-1] == 1
    assert record["bound_holds"]
    assert record["common"]["loss"][0] - record["common"]["loss"][1] == pytest.approx(protocol.common_lr * record["speed"], rel=0.2)
    assert (tmp_path / "prop1.png").read_bytes().startswith(b"\x89PNG")
    assert "Equation 5 held in 1 of 1 cells." in capsys.readouterr().out
    monkeypatch.setattr(script, "measure", lambda *_: pytest.fail("measured again"))
    script.main(**options)


@pytest.mark.slow
def test_one_step_is_predicted_better_the_smaller_it_is(capsys):
    pytest.importorskip("sklearn")
    script = load("benchmarks/one_step_error")
    script.main(only=("fashion_mnist-resnet_small",), per_class=1, shares=(1e-1, 1e-3, 1e-5))
    slope = float(capsys.readouterr().out.split("median ")[1].split(",")[0])
    assert 1.3 < slope < 2.3


@pytest.mark.slow
def test_both_methods_for_a_curve_are_measured(capsys):
    pytest.importorskip("sklearn")
    load("benchmarks/dynamics").main(sizes=(20,), steps=5)
    out = capsys.readouterr().out
    assert "matrix-free" in out
    difference = float(out.split("matrix-free")[-1].split("│")[-2])
    assert difference < 1e-4
