"""Runs arrive in MLflow and in Weights & Biases as they were logged, and what cannot be used is refused in a sentence."""

import shutil
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, MissingDependencyError
from ntk_select.training import tracking
from ntk_select.training.tracking import Guarded, guarded, mlflow_tracker, wandb_tracker

PARAMS = {"expert": "ash", "shots": None, "learning_rates": [0.1, 0.01], "nesterov": True, "milestones": ()}


@pytest.fixture
def uri(tmp_path):
    return f"file:{tmp_path / 'runs'}"


@pytest.fixture
def tiny():
    """A linear expert, and images whose class is the bright pixel."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 12)
    images = rng.integers(0, 120, (24, 4, 4, 3), dtype=np.uint8)
    images[np.arange(24), 0, labels] += 100
    task = ns.Task("dots", images, labels, ("left", "right"), images[::3], labels[::3])
    params = {"head": {"kernel": np.zeros((48, 2)), "bias": np.zeros(2)}}

    def flat(_variables, x):
        return x.reshape(len(x), -1)

    def logits(variables, x):
        return flat(variables, x) @ variables["params"]["head"]["kernel"] + variables["params"]["head"]["bias"]

    expert = ns.Expert("tiny", logits, params, features_fn=flat, head=("head",), preprocess=ns.Preprocess(size=4))
    return SimpleNamespace(expert=expert, task=task)


def runs_of(client, experiment="ntk_select"):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def history(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def test_a_fine_tuning_is_read_back_from_mlflow(mlflow, uri, tiny):
    recipe = ns.Recipe(epochs=3, batch_size=6)
    tracker = mlflow_tracker(uri, "my experiment")
    found = ns.finetune(tiny.expert, tiny.task, learning_rates=(0.3, 1e-5), extend=False, recipe=recipe, seed=4, workers=2, track=tracker)
    (run,) = runs_of(client := mlflow(uri), "my experiment")
    assert (run.info.run_name, run.info.status) == ("tiny on dots, seed 4", "FINISHED")
    assert run.data.params == {
        **{"expert": "tiny", "task": "dots", "shots": "full", "learning_rates": "0.3, 1e-05", "choose": "validation", "search": "grid"},
        **{"extend": "False", "seed": "4", "sample_seed": "4", "epochs": "3", "milestones": "1, 2", "batch_size": "6", "momentum": "0.9"},
        **{"nesterov": "True", "weight_decay": "0.0001", "augment": "crop_flip", "batch_norm": "train", "head": "random", "precision": "float32"},
    }
    for trial in found.trials:
        assert history(client, run, f"training_loss_by_rate/{trial.learning_rate:g}") == list(enumerate(trial.losses, 1))
        assert run.data.metrics[f"validation_accuracy_by_rate/{trial.learning_rate:g}"] == trial.accuracy
    assert history(client, run, "loss") == list(enumerate(found.losses, 1))
    for name in ("accuracy", "balanced_accuracy", "test_loss", "learning_rate"):
        assert run.data.metrics[name] == getattr(found, name)


@pytest.mark.parametrize("named", [True, False])
def test_the_name_alone_uses_the_variables_of_mlflow(mlflow, uri, monkeypatch, named):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if named:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the variable")
    with guarded("mlflow").run("a run", {}) as log:
        log({"x": 1.0}, None)
    (run,) = runs_of(mlflow(uri), "of the variable" if named else "ntk_select")
    assert (run.info.run_name, run.data.metrics) == ("a run", {"x": 1.0})


def test_parameters_and_metrics_of_any_kind_and_name_reach_mlflow(mlflow, tmp_path):
    tracker = mlflow_tracker(tmp_path / "runs")
    with Guarded(tracker).run("r" * 300, {**PARAMS, "what=ever?": "long " * 100}) as log:
        log({"a=b+c(d)": 1.0, "unknown": None}, 3)
        log({"nan": float("nan"), "whole": 2}, None)
    (run,) = runs_of(client := mlflow(str(tmp_path / "runs")))
    texts = {"expert": "ash", "shots": "None", "learning_rates": "0.1, 0.01", "nesterov": "True", "milestones": "", "what_ever_": "long " * 100}
    assert {name: value.rstrip() for name, value in run.data.params.items()} == {name: value.rstrip() for name, value in texts.items()}
    assert history(client, run, "a_b_c_d_") == [(3, 1.0)]
    assert (run.data.metrics["whole"], str(run.data.metrics["nan"]), "unknown" in run.data.metrics) == (2.0, "nan", False)


def test_a_run_that_raises_has_failed_in_mlflow_for_the_reason_that_is_told(mlflow, uri):
    with pytest.raises(ConfigError), guarded(mlflow_tracker(uri)).run("r", PARAMS):
        raise ConfigError("by nothing" + 10_000 * "!")
    (run,) = runs_of(mlflow(uri))
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == ("by nothing" + 10_000 * "!")[:5000]


def test_an_experiment_that_another_process_creates_meanwhile_is_used(mlflow, uri, monkeypatch):
    look, looked = mlflow.get_experiment_by_name, []

    def late(self, name):
        looked.append(name)
        return None if len(looked) == 1 else look(self, name)

    mlflow(uri).create_experiment("ntk_select")
    monkeypatch.setattr(mlflow, "get_experiment_by_name", late)
    with guarded(mlflow_tracker(uri)).run("r", PARAMS):
        pass
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert len(runs_of(mlflow(uri))) == 1


def test_training_survives_that_the_folder_of_mlflow_disappears(mlflow, uri, tiny, tmp_path):
    def remove(done, _total, _name):
        if done == 2:
            shutil.rmtree(tmp_path / "runs")

    options = {"learning_rates": 0.3, "recipe": ns.Recipe(epochs=4, batch_size=6)}
    with pytest.warns(UserWarning, match=r"Tracking ended \(.*\)\. The computation continues without it\.") as warned:
        found = ns.finetune(tiny.expert, tiny.task, track=mlflow_tracker(uri), progress=remove, **options)
    assert len(warned) == 1
    assert found.losses == ns.finetune(tiny.expert, tiny.task, **options).losses


def test_a_server_that_goes_away_is_a_warning(mlflow, leaving_server):
    tracker = guarded(mlflow_tracker(leaving_server))
    with pytest.warns(UserWarning, match="Tracking ended"), tracker.run("r", PARAMS) as log:
        log({"x": 1.0}, 1)
    assert not tracker.active


def test_a_server_that_does_not_answer_is_refused_at_once(mlflow, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    with pytest.raises(ConfigError, match=r"'ntk_select' at the tracking URI 'http://127.0.0.1:9': ConnectionError: .*refused.* address of a server"):
        mlflow_tracker("http://127.0.0.1:9")  # the port at which nobody answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of SQLAlchemy
def test_a_run_is_read_back_from_a_database(mlflow, tmp_path):
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    with guarded(mlflow_tracker(uri)).run("r", PARAMS) as log:
        log({"loss_by_rate/0.1": 0.5}, 1)
        log({"loss_by_rate/0.1": 0.25}, 2)
    (run,) = runs_of(client := mlflow(uri))
    assert history(client, run, "loss_by_rate/0.1") == [(1, 0.5), (2, 0.25)]
    with pytest.raises(
        ConfigError,
        match=r"MLflow cannot open the experiment 'ntk_select' at the tracking URI 'sqlite:///.*runs.db/runs.db': .*Try: uri \(--track-uri\) sqlite",
    ):
        mlflow_tracker(f"{uri}/runs.db")


def test_folders_that_mlflow_does_not_accept_are_refused_with_what_it_accepts(mlflow, uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    words = rf"^MLflow cannot open the experiment 'ntk_select' at the tracking URI '{uri}': .* only if MLFLOW_ALLOW_FILE_STORE is true\. Try: that, or uri \(--track-uri\) sqlite:"
    with pytest.raises(ConfigError, match=words):
        mlflow_tracker(uri)


def test_a_uri_that_mlflow_does_not_know_is_refused(mlflow, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"MLflow cannot open the experiment 'ntk_select' at the tracking URI 'ftp://somewhere': .*unsupported URI.*Try: uri \(--track-uri\)",
    ):
        mlflow_tracker("ftp://somewhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"at the tracking URI '.*file/runs': NotADirectoryError"):
        mlflow_tracker(tmp_path / "file" / "runs")


def test_a_name_that_mlflow_does_not_accept_is_refused(mlflow, uri):
    with pytest.raises(
        ConfigError, match=rf"MLflow cannot open the experiment '(long ){{500}}' at the tracking URI '{uri}': .*exceeds the maximum length"
    ):
        mlflow_tracker(uri, 500 * "long ")


def test_without_a_uri_the_error_names_the_default(mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://somewhere")
    with pytest.raises(ConfigError, match="MLflow cannot open the experiment 'ntk_select' at its default tracking URI: .*unsupported URI"):
        guarded("mlflow")


def test_a_database_without_its_package_names_the_package(mlflow, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in [name for name in sys.modules if name.startswith("mlflow.store.tracking.sqlalchemy")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"at the tracking URI 'sqlite:///nowhere.db': .*sqlalchemy.*Try: pip install mlflow, or the address"):
        mlflow_tracker("sqlite:///nowhere.db")


class FakeWandb:
    """The calls of wandb that the tracker uses, with its rule that the step must not decrease."""

    def __init__(self):
        self.runs = []

    def init(self, *, project, name, config, reinit):
        assert reinit == "create_new"
        run = SimpleNamespace(project=project, name=name, config=config, summary={}, rows=[], axes={}, code=None)
        run.define_metric = lambda metric, step_metric=None: run.axes.update({metric: step_metric})
        run.log = run.rows.append
        run.finish = lambda exit_code: setattr(run, "code", exit_code)
        self.runs.append(run)
        return run


@pytest.fixture
def fake_wandb(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    return fake


def test_wandb_is_given_epochs_as_the_axis_and_totals_as_the_summary(fake_wandb):
    with guarded("wandb").run("ash on dots", PARAMS) as log:
        log({"loss_by_rate/0.1": 0.5}, 2)
        log({"loss_by_rate/0.2": 0.7, "unknown": None}, 1)
        log({"accuracy": 1}, None)
    with pytest.raises(ZeroDivisionError), guarded(wandb_tracker("mine")).run("b", {}):
        raise ZeroDivisionError("by nothing")
    good, bad = fake_wandb.runs
    assert (good.project, good.name, good.config, good.code) == ("ntk_select", "ash on dots", PARAMS, 0)
    assert good.rows == [{"loss_by_rate/0.1": 0.5, "epoch": 2}, {"loss_by_rate/0.2": 0.7, "epoch": 1}]
    assert (good.summary, good.axes) == ({"accuracy": 1.0}, {"epoch": None, "*": "epoch"})
    assert (bad.project, bad.summary, bad.code) == ("mine", {"error": "ZeroDivisionError: by nothing"}, 1)


def test_the_project_may_be_that_of_the_variable(fake_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "of the variable")
    with guarded("wandb").run("a", {}):
        pass
    assert fake_wandb.runs[0].project == "of the variable"


def records_of(path):
    """The records of a file of wandb's offline mode: the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of the block
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of wandb and what it imports
def test_wandb_itself_takes_what_is_logged(tmp_path, monkeypatch, tiny):
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, value)
    wandb = pytest.importorskip("wandb")
    options = {"learning_rates": (0.3, 0.1), "extend": False, "recipe": ns.Recipe(epochs=3, batch_size=6), "workers": 2}
    found = ns.finetune(tiny.expert, tiny.task, track="wandb", **options)
    wandb.teardown()  # waits until everything is written
    (path,) = tmp_path.rglob("*.wandb")
    curves = {}
    for record in records_of(path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for name in row.keys() & {"loss", "training_loss_by_rate/0.3", "training_loss_by_rate/0.1"}:
                curves.setdefault(name, {})[int(row["epoch"])] = float(row[name])
    expected = {"loss": found.losses, **{f"training_loss_by_rate/{trial.learning_rate:g}": trial.losses for trial in found.trials}}
    assert curves == {name: dict(enumerate(losses, 1)) for name, losses in expected.items()}


@pytest.mark.parametrize(("name", "package", "module"), [("mlflow", "mlflow-skinny", "mlflow"), ("wandb", "wandb", "wandb")])
def test_a_missing_package_is_named(monkeypatch, name, package, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDependencyError, match=rf"^track='{name}' needs the package {package}, which is not installed. Try: pip install {package}"
    ):
        guarded(name)


class OnlyStarts:
    def start(self, name, params):
        pass


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("mlfow", r"^track='mlfow' is unknown\. Did you mean 'mlflow'\? Allowed: mlflow, wandb\.$"),
        (3, r"track= must be 'mlflow', 'wandb', an object .* or None; given: int\. Try: track='mlflow' \(--track mlflow\)$"),
        (True, "given: bool"),
        (OnlyStarts(), "given: OnlyStarts"),
        (Guarded, "given: the class Guarded"),
        (print, "given: builtin_function_or_method"),
    ],
)
def test_what_is_no_tracker_is_refused(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        guarded(given)


def test_no_tracker_is_no_work_and_a_guarded_one_is_guarded_once():
    nothing = guarded(None)
    assert not nothing.active
    with nothing.run("a", {}) as log:
        log({"x": 1}, None)
    assert guarded(nothing) is nothing


def test_every_tracker_that_can_be_named_is_tested_here():
    assert set(tracking.TRACKERS) == {"mlflow", "wandb"}
