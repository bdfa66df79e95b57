"""Cells hold the numbers that ranking and fine-tuning give directly."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.benchmark import Store, run
from ntk_select.data import load_task
from ntk_select.models import fresh_expert, open_zoo
from ntk_select.scores import SCORES, ScoreResult, Terms
from ntk_select.scores.lfc import lfc
from ntk_select.tasks.probe_sample import probe_sample
from ntk_select.tasks.task import ChosenImages
from ntk_select.training.finetuning import Recipe, finetune
from ntk_select.training.reference import trained_reference

SCORE_NAMES = ("lfc", "lgc", "leep", "num_params", "rsa", "dds", "etran", "random", "source_accuracy")
RECIPE = {"epochs": 2, "batch_size": 4, "augment": "none"}
CONFIG = """
zoo = ["{zoo}"]
reference = "ash"
scores = {scores}
shots = [4]
per_class = [3]
probe_seeds = [1]
finetune_seeds = [1]
learning_rates = [0.01, 0.1]
{more}
source_overlap = "{source_overlap}"
[recipe]
epochs = 2
batch_size = 4
augment = "none"
[tasks.things]
uri = "npz:{data}/things.npz"
source = ["trees"]
[tasks.others]
uri = "npz:{data}/things.npz"
recipe = { epochs = 1 }
[kernels]
experts = ["ash"]
tasks = ["things"]
epochs = [0, 1]
per_class = 2
shots = 3
learning_rate = 0.05
"""

pytestmark = pytest.mark.usefixtures("quickly")


def config_text(zoo, *, scores=SCORE_NAMES, source_overlap="skip", more="") -> str:
    text = CONFIG
    for name, value in {"zoo": str(zoo), "source_overlap": source_overlap, "more": more, "scores": json.dumps(list(scores))}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


@pytest.fixture(scope="module", autouse=True)
def short_references():
    """The network of RSA and DDS is trained for four steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntk_select.training.reference.EPOCHS", 2)
        patch.setattr("ntk_select.training.reference.MIN_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def out(zoo, data, tmp_path_factory):
    """The records of a benchmark of three experts, all of which were trained on trees."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "real.toml").write_text(config_text(zoo))
    summary = run(folder / "real.toml", folder / "out", data=data)
    assert summary.failed == {}
    return folder / "out"


@pytest.fixture(scope="module")
def experts(zoo):
    return {name: load() for name, load in open_zoo([str(zoo)]).items()}


@pytest.fixture(scope="module")
def task(data):
    return load_task(f"npz:{data}/things.npz")


def rows(out, kind: str, **wanted) -> list[dict]:
    return [row for row in Store(out).read(kind).to_pylist() if all(row[name] == value for name, value in wanted.items())]


def known(task: ns.Task, name: str, shots: int, seed: int) -> ns.Task:
    """The task with `shots` training images per class."""
    places = probe_sample(task, per_class=shots, seed=seed).indices
    return replace(task, name=name, images=ChosenImages(task.images, places), labels=task.labels[places])


def test_experts_that_overlap_with_the_source_are_skipped_with_the_reason(out):
    assert {row["expert"] for row in rows(out, "score", task="others")} == {"ash", "elm", "oak"}
    assert rows(out, "score", task="things") == []  # `oak` started from an expert of trees
    assert rows(out, "truth", task="things") == []
    skipped = {(entry["expert"], entry["task"]): entry["reason"] for entry in Store(out).manifest()["skipped"]}
    assert skipped == {(name, "things"): "source overlap (trees)" for name in ("ash", "elm", "oak")}


def test_scores_are_those_of_a_ranking_without_intervals(out, experts, task):
    mine = replace(task, name="others")
    reference = trained_reference(known(task, "others", 4, 1), "tiny", seed=1)
    ranking = ns.rank(list(experts.values()), mine, SCORE_NAMES, per_class=3, seed=1, resamples=0, reference=reference)
    terms = {}
    for row in ranking.experts:
        mine = {each["score"]: each for each in rows(out, "score", expert=row.name)}
        assert tuple(mine) == SCORE_NAMES
        for name, outcome in row.scores.items():
            found = mine[name]
            assert found["images"] == 6
            assert found["higher_is_better"] == SCORES[name].higher_is_better
            if name == "etran":
                terms[row.name] = json.loads(found["terms"])
            elif isinstance(outcome, ScoreResult):
                assert (found["value"], found["unavailable"]) == (outcome.value, None)
            else:
                assert (found["value"], found["unavailable"]) == (None, outcome.reason)
    compared = SCORES["etran"].combined([Terms(terms[row.name]) for row in ranking.experts])
    assert [outcome.value for outcome in compared] == [row.scores["etran"].value for row in ranking.experts]
    assert {row["score"] for row in rows(out, "score") if row["unavailable"]} == {"source_accuracy"}


def test_the_network_of_rsa_is_trained_on_the_shots_alone(out, experts, task):
    """Fine-tuning uses four of twelve images per class; a network that saw all of them gives other numbers."""
    of_all = trained_reference(replace(task, name="others"), "tiny", seed=1)
    ranking = ns.rank(list(experts.values()), replace(task, name="others"), ["rsa"], per_class=3, seed=1, resamples=0, reference=of_all)
    for row in ranking.experts:
        (found,) = rows(out, "score", expert=row.name, score="rsa")
        assert found["value"] != row.scores["rsa"].value


def test_ground_truth_is_the_result_of_fine_tuning(out, experts, task):
    recipe = Recipe(epochs=1, batch_size=4, augment="none")
    for name, expert in experts.items():
        (found,) = rows(out, "truth", expert=name, task="others")
        result = finetune(expert, replace(task, name="others"), shots=4, learning_rates=[0.01, 0.1], extend=False, recipe=recipe, seed=1)
        wanted = result.to_dict()
        for field in (
            "accuracy",
            "balanced_accuracy",
            "test_loss",
            "learning_rate",
            "losses",
            "images",
            "flops",
            "train_images",
            "test_images",
            "choose",
        ):
            assert found[field] == wanted[field], field
        assert [(each["learning_rate"], each["accuracy"], each["loss"]) for each in found["trials"]] == [
            (each.learning_rate, each.accuracy, each.loss) for each in result.trials
        ]
        assert (found["epochs"], found["images_per_class"], found["seed"], found["role"]) == (1, 4, 1, "truth")


def test_a_kernel_before_fine_tuning_is_that_of_the_expert(out, experts, task):
    expert, sample = experts["ash"], probe_sample(task, per_class=2, seed=0)
    features = np.asarray(expert.features_fn(expert.variables, expert.preprocess(sample.images)), np.float64)
    (found,) = rows(out, "kernel", expert="ash", epochs=0)
    kernel = np.array(found["kernel"]).reshape(4, 4)
    exact = features @ features.T
    np.testing.assert_allclose(kernel, exact / np.abs(exact).max(), rtol=1e-3)  # kept with half the digits
    np.testing.assert_array_equal(found["labels"], sample.labels)
    assert found["class_names"] == ["dark", "bright"]
    np.testing.assert_allclose(found["lfc"], float(lfc(features, sample.labels)), rtol=1e-5)
    assert found["accuracy"] is None


def test_a_kernel_after_some_epochs_is_that_of_a_recipe_that_stops_there(out, experts, task):
    begun = Recipe(**{**RECIPE, "epochs": 1}, milestones=Recipe(**RECIPE).decays)
    result = finetune(experts["ash"], replace(task, name="things"), shots=3, learning_rates=[0.05], recipe=begun, seed=0)
    sample = probe_sample(task, per_class=2, seed=0)
    features = np.asarray(result.tuned.features_fn(result.tuned.variables, result.tuned.preprocess(sample.images)), np.float64)
    (found,) = rows(out, "kernel", expert="ash", epochs=1)
    np.testing.assert_allclose(found["lfc"], float(lfc(features, sample.labels)), rtol=1e-4)
    assert found["accuracy"] == result.accuracy


def test_every_row_has_its_origin(out):
    for kind in ("score", "truth", "kernel"):
        for row in rows(out, kind):
            assert row["kind"] == kind
            assert row["device"] == "cpu"
            assert row["jax_version"]
            assert row["cell_seconds"] > 0
    (row,) = rows(out, "score", expert="oak", score="lfc")
    assert (row["source"], row["architecture"], row["own_source"]) == ("shapes", "resnet18", False)


@pytest.fixture
def broken_zoo(zoo, tmp_path):
    """The zoo with the weights of `elm` cut short."""
    folder = Path(shutil.copytree(zoo, tmp_path / "zoo"))
    weights = next(file for file in (folder / "elm").iterdir() if file.suffix != ".json")
    weights.write_bytes(weights.read_bytes()[:100])
    return folder


def test_an_expert_that_cannot_be_loaded_costs_its_own_cells_alone(broken_zoo, data, tmp_path, out, numbers):
    (tmp_path / "real.toml").write_text(config_text(broken_zoo, scores=["lfc"]))
    summary = run(tmp_path / "real.toml", tmp_path / "out", data=data)
    failures = Store(tmp_path / "out").failures().values()
    assert {(each["expert"], each["kind"]) for each in failures} == {("elm", "score"), ("elm", "truth")}
    assert (summary.now, len(summary.failed)) == (summary.cells - 2, 2)
    mine, theirs = numbers(tmp_path / "out"), numbers(out)
    assert {where for where in mine if where[0] == "truth"} == {where for where in theirs if where[0] == "truth" and theirs[where]["expert"] != "elm"}
    assert all(mine[where] == theirs[where] for where in mine if where[0] != "score")


@pytest.mark.slow
def test_marked_source_overlaps_and_untrained_networks_are_measured(zoo, data, tmp_path, experts, task):
    name = "untrained:resnet_small"
    (tmp_path / "real.toml").write_text(config_text(zoo, scores=["lfc"], source_overlap="mark", more='untrained = ["resnet_small"]'))
    out = tmp_path / "out"
    assert run(tmp_path / "real.toml", out, data=data).failed == {}
    marked = {(row["expert"], row["task"]): row["own_source"] for row in rows(out, "score")}
    assert marked == {(name, task): task == "things" for name in ("ash", "elm", "oak") for task in ("things", "others")}
    fresh = fresh_expert(name, "resnet_small", num_classes=2, preprocess=experts["ash"].preprocess, seed=1)
    result = finetune(fresh, replace(task, name="things"), shots=4, learning_rates=[0.01, 0.1], recipe=Recipe(**RECIPE), seed=1)
    (found,) = rows(out, "truth", expert=name, task="things")
    assert (found["accuracy"], found["test_loss"], found["role"]) == (result.accuracy, result.test_loss, "untrained")
    assert (found["architecture"], found["own_source"]) == ("resnet_small", False)


@pytest.mark.slow
def test_failing_cells_in_other_processes_are_recorded_and_the_others_are_measured(broken_zoo, data, tmp_path):
    (tmp_path / "real.toml").write_text(config_text(broken_zoo, scores=["lfc"]))
    summary = run(tmp_path / "real.toml", tmp_path / "out", executor="processes", workers=2, data=data)
    assert {each["expert"] for each in Store(tmp_path / "out").failures().values()} == {"elm"}
    assert (summary.now, len(summary.failed)) == (summary.cells - 2, 2)


@pytest.mark.slow
def test_real_cells_that_are_killed_and_resumed_hold_the_same_numbers(zoo, data, tmp_path, begin, numbers):
    config = tmp_path / "real.toml"
    config.write_text("checkpoints = true\n" + config_text(zoo, scores=["lfc", "lgc"]))
    assert begin(config, tmp_path / "undisturbed", data=data).ended() == 0
    cells = len(Store(tmp_path / "undisturbed").cells())
    for records in (1, 3, 4, 6):
        running = begin(config, tmp_path / "out", data=data)
        running.until(records)
        running.kill()
    assert 0 < len(Store(tmp_path / "out").done()) < cells
    assert begin(config, tmp_path / "out", data=data).ended() == 0
    assert numbers(tmp_path / "out") == numbers(tmp_path / "undisturbed")
    assert len(Store(tmp_path / "out").done()) == cells
