"""`ntk-select bench` runs, plans, shows, reports and packs what the config describes, and rejects invalid input in one sentence."""

import importlib
import json
import os
import time
from pathlib import Path

import pytest

from ntk_select.benchmark import Store
from ntk_select.benchmark.plan import ESTIMATED, MEASURED, NOT_COUNTED
from ntk_select.cli import main

MADE_UP = "finetune_seeds = [0, 1]\n[synthetic]\nexperts = 4\ntasks = 3\nscores = 3\n"


@pytest.fixture
def config(tmp_path):
    """The path of a config of 24 made-up cells."""
    path = tmp_path / "made_up.toml"
    path.write_text(MADE_UP)
    return path


def test_run_then_status_then_pack_tell_the_same_cells(config, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["bench", "run", str(config), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "24 cells: 0 were done, 24 are new, 0 failed" in told
    assert f"ntk-select bench report {out}" in told
    assert main(["bench", "run", str(config), "--out", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["cells"], again["before"], again["now"], again["failed"]) == (24, 24, 0, {})
    assert main(["bench", "status", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["done"], found["failed"], found["runners"], found["seconds_left"]) == (24, 24, 0, [], None)
    assert [(row["task"], row["cells"], row["done"]) for row in found["rows"]] == [(f"task{t:03d}", 8, 8) for t in range(3)]
    assert main(["bench", "pack", str(out), "--out", str(tmp_path / "packed")]) == 0
    assert "24 records" in capsys.readouterr().out
    assert Store(tmp_path / "packed").done() == Store(out).done()
    assert main(["bench", "pack", str(out), "--out", str(tmp_path / "again"), "--json"]) == 0
    size = sum(file.stat().st_size for file in (tmp_path / "again").rglob("*") if file.is_file())
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "again"), "records": 24, "bytes": size}
    assert main(["bench", "status", str(tmp_path / "packed")]) == 0


def test_status_of_a_stopped_run_says_what_is_missing_and_how_to_go_on(config, tmp_path, capsys):
    out = tmp_path / "out"
    main(["bench", "run", str(config), "--out", str(out)])
    gone = [cell for cell in Store(out).cells() if cell.task == "task001"][:3]
    for cell in gone:
        Store(out).record_file(cell).unlink()
    Store(out).put_failure(gone[0], "the images are gone")
    capsys.readouterr()
    assert main(["bench", "status", str(out)]) == 1
    told = capsys.readouterr()
    assert "Not running. To resume, repeat the command that started it: ntk-select bench run CONFIG" in told.out
    assert "task001, expert000, seed 0: the images are gone" in told.err
    assert main(["bench", "run", str(config), "--out", str(out)]) == 0
    assert "21 were done, 3 are new" in capsys.readouterr().out
    assert main(["bench", "status", str(out)]) == 0


def test_time_left_is_that_of_like_cells_shared_by_those_at_work(config, tmp_path, capsys):
    out = tmp_path / "out"
    main(["bench", "run", str(config), "--out", str(out)])
    store = Store(out)
    seconds = {row["key"]: row["cell_seconds"] for row in store.read("synthetic").to_pylist()}
    for cell in store.cells()[:6]:
        store.record_file(cell).unlink()
        del seconds[cell.key]
    note = {"host": os.uname().nodename, "pid": os.getpid(), "executor": "local", "began": time.time() + 60, "beat": time.time() + 70}
    (out / "running").mkdir(exist_ok=True)
    (out / "running" / "me.json").write_text(json.dumps({**note, "wanted": 6, "done": 0, "failed": 0}))
    capsys.readouterr()
    assert main(["bench", "status", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runners"][0]["executor"] == "local"
    assert 6 * min(seconds.values()) <= found["seconds_left"] <= 6 * max(seconds.values())
    assert main(["bench", "status", str(out)]) == 0
    assert "left." in capsys.readouterr().out


@pytest.mark.parametrize("note", [{"host": "elsewhere", "pid": 1, "beat": 1.0}, {"host": os.uname().nodename, "pid": 2**22 + 1, "beat": 2e9}])
def test_a_runner_that_is_silent_or_dead_counts_as_gone(config, tmp_path, capsys, note):
    out = tmp_path / "out"
    main(["bench", "run", str(config), "--out", str(out)])
    (out / "running").mkdir(exist_ok=True)
    (out / "running" / "it.json").write_text(json.dumps({"executor": "ray", "began": 0.0, "wanted": 1, "done": 0, "failed": 0, **note}))
    capsys.readouterr()
    main(["bench", "status", str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["runners"] == []


def test_plan_of_made_up_cells_counts_their_seconds(tmp_path, capsys):
    path = tmp_path / "slow.toml"
    path.write_text("[synthetic]\nexperts = 10\ntasks = 36\nseconds = 10\n")
    assert main(["bench", "plan", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"]["cells"], found["total"]["hours"]) == (360, 1.0)
    assert main(["bench", "plan", str(path)]) == 0
    assert NOT_COUNTED in capsys.readouterr().out


@pytest.fixture
def real(write_zoo, write_task, tmp_path):
    """The path of a config of two small experts and a task of 16 images."""
    zoo, task = write_zoo("ash", "elm"), write_task("dark or bright", tested=True)
    path = tmp_path / "real.toml"
    path.write_text(
        f'zoo = ["{zoo}"]\nreference = "ash"\nscores = ["lfc"]\nshots = [4, "full"]\nper_class = [4]\nlearning_rates = [0.1, 0.01]\n'
        f'[recipe]\nepochs = 3\n[tasks.bright]\nuri = "{task}"\n'
    )
    return path


def test_plan_counts_the_images_of_every_training(real, capsys):
    assert main(["bench", "plan", str(real), "--json"]) == 0
    found = {(part["kind"], part["images"]): part for part in json.loads(capsys.readouterr().out)["parts"]}
    # two experts; three epochs; two rates on four fifths and one last training on all; 8 test images and the held out ones passed forward
    assert found["truth", 4]["trained"] == pytest.approx(2 * 3 * 8 * (2 * 0.8 + 1))
    assert found["truth", None]["trained"] == pytest.approx(2 * 3 * 24 * (2 * 0.8 + 1))
    assert found["truth", 4]["passed"] == pytest.approx(2 * (8 + 2 * 0.2 * 8))
    assert found["score", 4]["cells"] == 2
    assert found["truth", None]["flops"] / found["truth", 4]["flops"] == pytest.approx((3 * 187.2 + 17.6) / (3 * 62.4 + 11.2))


@pytest.fixture
def nothing_compiled(monkeypatch):
    """No training step of a network is made, and the device's speed is given."""
    speed = importlib.import_module("ntk_select.training.zoo.plan")  # the package has a function of the same name
    monkeypatch.setattr(speed, "make_step", lambda *_, **__: pytest.fail("a training step was compiled"))
    monkeypatch.setattr(speed, "training_rate", lambda size, batch, precision: 3e10)


UNTRAINED_ZOO = """
zoo = ["not trained yet"]
zoo_config = "zoo.toml"
reference = "photos-resnet18"
scores = ["lfc", "lgc"]
shots = ["full"]
per_class = [5]
untrained = ["alexnet"]
[tasks.birds]
uri = "nowhere"
train = 100
test = 50
num_classes = 5
"""
ZOO = """
size = 224
batch_size = 32
architectures = ["resnet18"]
initial_source = "photos"
[sources.photos]
uri = "nowhere"
licence = "x"
epochs = { scratch = 90 }
images = 1000
num_classes = 10
[learning_rate]
scratch = 0.1
transfer = 0.1
"""


def test_a_plan_of_large_networks_counts_and_does_not_compile_them(tmp_path, capsys, nothing_compiled):
    """Operations are those of the network that is really there; hours follow from them and the device's speed."""
    (tmp_path / "zoo.toml").write_text(ZOO)
    (tmp_path / "large.toml").write_text(UNTRAINED_ZOO)
    assert main(["bench", "plan", str(tmp_path / "large.toml"), "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    flops, width, per_second, batch, measured = found["speeds"]["resnet18"]
    assert flops == pytest.approx(2 * 1.814e9, rel=0.01)  # published multiply-adds; the head is not in it
    assert (width, batch, measured) == (512, 8, False)
    assert per_second == pytest.approx(3e10 / (3 * (flops + 2 * 512 * 100)))
    for part in found["parts"]:
        if part["role"] == "truth":
            assert part["hours"] == pytest.approx((part["trained"] + part["passed"] / 3) / per_second / 3600)
    assert set(found["speeds"]) == {"resnet18", "alexnet"}
    assert "counting resnet18 (1 of 2)" in told.err
    assert "counting alexnet (2 of 2)" in told.err


def test_a_plan_counts_the_networks_of_the_zoo_with_their_settings(tmp_path, capsys, nothing_compiled):
    listed = ZOO.replace('architectures = ["resnet18"]', "").replace("size = 224", "size = 8").replace("epochs = { scratch = 90 }\n", "")
    listed += '[networks]\nplain = { architecture = "conv4", widths = [3, 5] }\n[experts]\n'
    (tmp_path / "zoo.toml").write_text(listed + 'mine = { source = "photos", architecture = "plain", epochs = 2 }\n')
    (tmp_path / "bench.toml").write_text(UNTRAINED_ZOO.replace("photos-resnet18", "mine").replace('untrained = ["alexnet"]', ""))
    assert main(["bench", "plan", str(tmp_path / "bench.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["speeds"]
    assert found["plain"][:2] == [2 * (64 * 27 * 3 + 16 * 27 * 5), 5]  # a stem of 8 x 8 pixels, and one convolution after pooling


def test_hours_are_called_rough_and_a_busy_machine_is_named(tmp_path, capsys, nothing_compiled, monkeypatch):
    (tmp_path / "zoo.toml").write_text(ZOO)
    (tmp_path / "large.toml").write_text(UNTRAINED_ZOO)
    words = ["bench", "plan", str(tmp_path / "large.toml")]
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0 * cores, 0.0, 0.0))
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "device-hours here, roughly" in " ".join(out.split())
    assert ESTIMATED in out
    assert f"This machine is busy (load {2 * cores:.1f} on {cores} cores): the hours are too high." in out
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1 * cores, 0.0, 0.0))
    assert main([*words, "--json"]) == 0
    rough = json.loads(capsys.readouterr().out)["rough"]
    assert ESTIMATED in rough
    assert not any("busy" in sentence for sentence in rough)


def test_a_plan_that_measures_times_steps_of_each_architecture(real, capsys):
    assert main(["bench", "plan", str(real), "--measure", "--json"]) == 0
    told = capsys.readouterr()
    measured = json.loads(told.out)
    assert all(speed[-1] is True and speed[2] > 0 for speed in measured["speeds"].values())
    assert MEASURED in measured["rough"]
    assert "measuring " in told.err
    assert main(["bench", "plan", str(real), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["total"]["flops"] == measured["total"]["flops"]
    assert all(speed[-1] is False and speed[2] > 0 for speed in counted["speeds"].values())


@pytest.mark.slow
def test_the_paper_config_is_planned_without_looking_anything_up_for_every_cell(monkeypatch):
    """Of 23,667 cells; the networks apart, which other tests count."""
    import ntk_select.benchmark.plan as planning

    speed = importlib.import_module("ntk_select.training.zoo.plan")  # the package has a function of the same name
    config = Path(__file__).parents[2] / "scripts" / "configs" / "paper_benchmark.toml"
    monkeypatch.setattr(speed, "abstract_expert", lambda _: None)
    monkeypatch.setattr(speed, "network_of", lambda _: speed.Network(None, None, (8, 100)))
    monkeypatch.setattr(speed, "estimated_speed", lambda *_: speed.Speed(1e9, 8, 2.0, 8, False))
    monkeypatch.setattr(speed, "training_rate", lambda *_, **__: 1e10)
    looked_up = []
    monkeypatch.setattr(planning, "scores_of", lambda config, known=planning.scores_of: looked_up.append(config) or known(config))
    found = planning.plan(config)
    assert len(looked_up) == 1  # once, and not for every cell
    assert planning.total(found).cells > 20_000
    assert set(found.speeds) == {"resnet101", "densenet169", "alexnet", "resnet18", "wide_resnet101_2"}


def test_failed_cells_are_told_and_give_status_1(real, tmp_path, capsys):
    text = real.read_text()
    real.write_text(text.replace("learning_rates = [0.1, 0.01]", "learning_rates = [1e30]").replace('[4, "full"]', "[4]"))
    assert main(["bench", "run", str(real), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "4 cells: 0 were done, 2 are new, 2 failed" in told.out
    assert "Every learning rate diverged" in told.err
    assert "ntk-select bench status" in told.out


def test_report_writes_a_page(config, tmp_path, capsys):
    out = tmp_path / "out"
    main(["bench", "run", str(config), "--out", str(out)])
    capsys.readouterr()
    assert main(["bench", "report", str(out), "--only", "scores"]) == 0
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "CONFIG", "--out", "OUT", "--executor", "slurm"], "executor = 'slurm' is unknown"),
        (["run", "CONFIG", "--out", "OUT", "--shard", "one"], "--shard 'one' must be i/n. Try: --shard 1/4"),
        (["run", "CONFIG", "--out", "OUT", "--shard", "5/4"], "shard 5/4 must be one of 1/N to N/N"),
        (["run", "nowhere.toml", "--out", "OUT"], "nowhere.toml cannot be read"),
        (["status", "OUT"], "contains no benchmark"),
        (["report", "OUT"], "contains no benchmark"),
        (["pack", "OUT", "--out", "THERE"], "contains no benchmark"),
        (["plan", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(config, tmp_path, capsys, words, sentence):
    places = {"CONFIG": str(config), "OUT": str(tmp_path / "out"), "THERE": str(tmp_path / "there")}
    assert main(["bench", *(places.get(word, word) for word in words)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_benchmark_is_not_packed_onto_itself(config, tmp_path, capsys):
    main(["bench", "run", str(config), "--out", str(tmp_path / "out")])
    assert main(["bench", "pack", str(tmp_path / "out"), "--out", str(tmp_path / "out")]) == 2
    assert "is the folder itself" in capsys.readouterr().err
