"""`--track` logs what `finetune` and `bench run` do, and is refused in a sentence before anything is computed."""

import json
import re
import warnings

import pytest

from ntk_select.cli import main

pytestmark = pytest.mark.usefixtures("quickly")
MADE_UP = "finetune_seeds = [0]\n[synthetic]\nexperts = 2\ntasks = 2\n"


@pytest.fixture
def uri(tmp_path):
    return f"file:{tmp_path / 'runs'}"


@pytest.fixture
def runs(mlflow, uri):
    """The runs that MLflow has now."""

    def read():
        client = mlflow(uri)
        return client.search_runs([client.get_experiment_by_name("ntk_select").experiment_id])

    return read


@pytest.fixture(scope="module")
def finetuning(write_zoo, write_task):
    """A fine-tuning of a small network for two epochs."""
    place = ["--zoo", write_zoo("ash"), "--expert", "ash", "--task", write_task(tested=True)]
    return ["finetune", *place, "--epochs", "2", "--batch-size", "4", "--shots", "6", "--lr", "0.05", "--checkpoints", "None"]


@pytest.fixture
def tuned(finetuning):
    """tuned("--track", "mlflow") fine-tunes a small network."""
    return lambda *options: main([*finetuning, *options])


def test_each_fine_tuning_is_a_run(tuned, runs, uri, capsys):
    assert tuned("--track", "mlflow", "--track-uri", uri, "--seeds", "3,4", "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    found = {run.info.run_name: run for run in runs()}
    assert found.keys() == {f"ash on bright things, seed {seed}" for seed in (3, 4)}
    for result in results:
        run = found[f"ash on bright things, seed {result['seed']}"]
        assert (run.info.status, run.data.metrics["accuracy"], run.data.metrics["loss"]) == ("FINISHED", result["accuracy"], result["losses"][-1])
        assert run.data.params["epochs"] == "2"


def test_the_command_that_is_advised_next_does_not_track_again(tuned, mlflow, uri, capsys):
    assert tuned("--track", "mlflow", "--track-uri", uri) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next")]
    assert "--save-model my_zoo" in line
    assert "--track" not in line


def test_each_cell_of_a_benchmark_is_a_run(runs, uri, tmp_path, capsys):
    (config := tmp_path / "made_up.toml").write_text(MADE_UP)
    for _ in range(2):  # the second run measures nothing
        assert main(["bench", "run", str(config), "--out", str(tmp_path / "out"), "--track", "mlflow", "--track-uri", uri]) == 0
    assert "4 cells: 4 were done" in capsys.readouterr().out
    assert len(runs()) == 4
    assert {run.data.params["benchmark"] for run in runs()} == {"made_up"}


def test_a_server_that_goes_away_is_told_once_and_everything_is_computed(mlflow, leaving_server, tuned, capsys):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert tuned("--track", "mlflow", "--track-uri", leaving_server, "--seeds", "0,1", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 2
    assert len([each for each in told if "Tracking ended" in str(each.message)]) == 1


MISTAKES = {
    "an unknown tracker": (("--track", "neptune"), "Invalid choice"),
    "an address of nothing": (("--track-uri", "http://127.0.0.1:9"), r"--track-uri 'http://127.0.0.1:9' is for MLflow. Try: --track mlflow"),
    "an address of the other": (("--track", "wandb", "--track-uri", "x"), "WANDB_BASE_URL for Weights & Biases"),
    "a server that is away": (("--track", "mlflow", "--track-uri", "http://127.0.0.1:9"), "http://127.0.0.1:9.*refused"),
    "an address that MLflow does not know": (
        ("--track", "mlflow", "--track-uri", "ftp://x"),
        r"MLflow cannot open the experiment 'ntk_select' at the tracking URI 'ftp://x'",
    ),
}


@pytest.mark.parametrize(("options", "words"), MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("command", ["finetune", "bench"])
def test_mistakes_are_refused_before_anything_is_computed(mlflow, tuned, tmp_path, capsys, command, options, words):
    (config := tmp_path / "made_up.toml").write_text(MADE_UP)
    out = str(tmp_path / "out")
    try:
        status = tuned("--out", out, *options) if command == "finetune" else main(["bench", "run", str(config), "--out", out, *options])
    except SystemExit as left:  # words that tyro refuses
        status = left.code
    shown = capsys.readouterr()
    assert status == 2
    assert re.search(words, shown.out + shown.err, re.DOTALL)
    assert not (tmp_path / "out").exists()
