"""A benchmark logs every cell that it finishes once, with the numbers of its record."""

import pytest

from ntk_select.benchmark import Store, measure, run
from ntk_select.errors import ConfigError, DataError, ModelError
from ntk_select.training.tracking import mlflow_tracker

REAL = """
zoo = ["{zoo}"]
scores = ["lfc", "logme", "leep"]
per_class = [4]
probe_seeds = [0]
finetune_seeds = [0]
shots = [4]
learning_rates = [0.05, 0.01]
recipe = {{ epochs = 2, batch_size = 4, augment = "none" }}
[tasks.things]
uri = "npz:{{data}}/things.npz"
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def tools(loaded):
    return loaded("training/recording.py")


@pytest.fixture
def recording(tools):
    return tools.Recording()


def by_key(recording):
    found = {run["params"]["key"]: run for run in recording.runs}
    assert len(found) == len(recording.runs)
    return found


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_every_cell_is_one_run_with_the_numbers_of_its_record(synthetic, out, recording, tools, executor):
    run(synthetic(), out, executor=executor, workers=2, track=recording)
    cells, found, rows = Store(out).cells(), by_key(recording), Store(out).read("synthetic").to_pylist()
    assert found.keys() == {cell.key for cell in cells}
    for cell in cells:
        tracked, (row,) = found[cell.key], [row for row in rows if row["key"] == cell.key]
        assert tracked["name"] == f"{cell.expert} on {cell.task}, synthetic, seed 0"
        known = {"benchmark": "synthetic", "kind": "synthetic", "role": "", "expert": cell.expert, "task": cell.task, "seed": 0}
        assert tracked["params"] == {"key": cell.key, "images_per_class": 20, **known}
        scores = {score["score"]: score["value"] for score in row["scores"]}
        assert tools.totals(tracked) == {"accuracy": row["accuracy"], "cell_seconds": row["cell_seconds"], **scores}
        assert tracked["ends"] == [None]


def test_cells_that_were_done_before_are_not_logged_again(synthetic, out, recording):
    run(synthetic(experts=2), out)
    run(synthetic(experts=3), out, track=recording)
    assert {tracked["params"]["expert"] for tracked in recording.runs} == {"expert002"}
    run(synthetic(experts=3), out, track=recording)
    assert len(recording.runs) == 3


def test_a_cell_that_fails_is_a_failed_run_and_a_further_one_when_it_succeeds(synthetic, out, recording, monkeypatch, tools):
    real = measure.measured

    def measured(bench, cell):
        if cell.expert == "expert001":
            raise ModelError("It has no head.")
        return real(bench, cell)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "measured", measured)
        run(synthetic(), out, track=recording)
    failed = [tracked for tracked in recording.runs if tracked["ends"] != [None]]
    assert [(tracked["params"]["expert"], tracked["ends"], tracked["points"]) for tracked in failed] == 3 * [("expert001", ["It has no head."], [])]
    run(synthetic(), out, track=recording)
    assert [(tracked["params"]["expert"], tracked["ends"]) for tracked in recording.runs[12:]] == 3 * [("expert001", [None])]
    assert all("accuracy" in tools.totals(tracked) for tracked in recording.runs[12:])


@pytest.fixture(scope="module")
def measured(zoo, data, tmp_path_factory, loaded, quickly):
    """The store and the runs of a benchmark of the small experts."""
    place, recording = tmp_path_factory.mktemp("tracked"), loaded("training/recording.py").Recording()
    config = place / "real.toml"
    config.write_text(
        REAL.format(zoo=zoo) + '[kernels]\nexperts = ["ash"]\ntasks = ["things"]\nepochs = [0, 1]\nper_class = 3\nshots = 4\nlearning_rate = 0.05\n'
    )
    summary = run(config, place / "out", data=data, track=recording)
    assert summary.failed == {}
    return Store(place / "out"), by_key(recording)


def test_scores_are_metrics_by_name(measured, tools):
    store, found = measured
    rows = store.read("score").to_pylist()
    assert {row["score"] for row in rows} == {"lfc", "logme", "leep"}
    for key in {row["key"] for row in rows}:
        mine = [row for row in rows if row["key"] == key]
        assert tools.totals(found[key]) == {**{row["score"]: row["value"] for row in mine}, "cell_seconds": mine[0]["cell_seconds"]}
        assert found[key]["params"]["kind"] == "score"


def test_fine_tunings_are_logged_as_finetune_logs_them(measured, tools):
    store, found = measured
    rows = store.read("truth").to_pylist()
    assert len(rows) == 3
    for row in rows:
        tracked, totals = found[row["key"]], tools.totals(found[row["key"]])
        assert tools.curve(tracked, "loss") == tuple(row["losses"])
        for name in ("accuracy", "balanced_accuracy", "test_loss", "learning_rate", "images", "flops", "train_seconds", "cell_seconds"):
            assert totals[name] == row[name], name
        for trial in row["trials"]:
            assert totals[f"validation_accuracy_by_rate/{trial['learning_rate']:g}"] == trial["accuracy"]
            assert totals[f"validation_loss_by_rate/{trial['learning_rate']:g}"] == trial["loss"]
        assert not [name for name in totals if name.startswith("diverged")]
        params = {"role": "truth", "images_per_class": 4, "learning_rates": [0.05, 0.01], "epochs": 2, "augment": "none", "architecture": "resnet18"}
        assert params.items() <= tracked["params"].items()


def test_feature_kernels_are_logged_by_their_correlation(measured, tools):
    store, found = measured
    rows = store.read("kernel").to_pylist()
    assert {row["epochs"] for row in rows} == {0, 1}
    for row in rows:
        known = {name: row[name] for name in ("lfc", "accuracy", "epochs", "cell_seconds") if row[name] is not None}
        assert tools.totals(found[row["key"]]) == known


def test_a_record_that_cannot_be_read_yet_is_told_and_the_benchmark_continues(synthetic, out, recording, monkeypatch):
    def unread(_store, cell):
        raise DataError("stale")

    monkeypatch.setattr(Store, "record", unread)
    assert run(synthetic(), out, track=recording).now == 12
    assert [tracked["ends"] for tracked in recording.runs] == 12 * [["The cell is done, and its record cannot be read yet: stale"]]


@pytest.mark.parametrize("method", ["start", "log", "end"])
def test_a_tracker_that_fails_costs_no_cell_and_warns_once(synthetic, out, monkeypatch, recording, numbers, tmp_path, method):
    def away(*_):
        raise ConnectionError("The server is away.")

    monkeypatch.setattr(recording, method, away, raising=True)
    with pytest.warns(UserWarning, match=r"Tracking ended \(ConnectionError: The server is away.\)") as warned:
        assert run(synthetic(), out, track=recording).now == 12
    assert len(warned) == 1
    assert len(recording.runs) == (0 if method == "start" else 1)
    run(synthetic(), tmp_path / "untracked")
    assert numbers(out) == numbers(tmp_path / "untracked")


def test_a_folder_that_can_no_longer_be_written_is_no_run(synthetic, out, recording, monkeypatch):
    def full(*_):
        raise OSError(28, "full")

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(ConfigError, match="no space is left"):
        run(synthetic(), out, track=recording)
    assert recording.runs == []


def test_what_is_no_tracker_is_refused_before_anything_is_written(synthetic, out):
    with pytest.raises(ConfigError, match="track='mlfow' is unknown"):
        run(synthetic(), out, track="mlfow")
    assert not out.exists()


def test_cells_are_read_back_from_mlflow(synthetic, out, mlflow, tmp_path):
    uri = f"file:{tmp_path / 'runs'}"
    run(synthetic(), out, track=mlflow_tracker(uri, "benchmarks"))
    client = mlflow(uri)
    found = {each.data.params["key"]: each for each in client.search_runs([client.get_experiment_by_name("benchmarks").experiment_id])}
    rows = Store(out).read("synthetic").to_pylist()
    assert found.keys() == {row["key"] for row in rows}
    for row in rows:
        assert found[row["key"]].data.metrics["accuracy"] == row["accuracy"]
        assert found[row["key"]].info.status == "FINISHED"
