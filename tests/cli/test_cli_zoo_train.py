"""`ntk-select zoo train` plans without writing files, trains the experts of a config, and resumes interrupted training."""

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ntk_select.cli import main
from ntk_select.errors import ModelError
from ntk_select.executors import EXECUTORS, local
from ntk_select.models import open_zoo
from ntk_select.models.architectures import fresh_expert

CONFIG = """
seed = 1
size = 8
batch_size = 8
initial_source = "stripes"
architectures = ["resnet_small"]
[learning_rate]
scratch = 0.05
transfer = 0.02
[sources.stripes]
uri = "npz:{data}/stripes.npz"
licence = "made by the test"
epochs = { scratch = 2 }
[sources.dots]
uri = "npz:{data}/stripes.npz"
rename = { c = "a" }
epochs = { scratch = 1 }
"""

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture
def place(tmp_path, rng):
    """A folder with a config and the images of its sources."""
    labels = np.arange(36) % 3
    images = (rng.integers(0, 60, (36, 8, 8)) + 90 * (np.arange(8)[None, :, None] % 3 == labels[:, None, None])).astype(np.uint8)
    np.savez(tmp_path / "stripes.npz", images=images, labels=labels, test_images=images[:12], test_labels=labels[:12], class_names=["a", "b", "c"])
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    """Networks of one block instead of those of the config."""

    def small(name, architecture, *, config, **options):
        return fresh_expert(name, "resnet18", config={"stage_sizes": (1,), "widths": (4,), "stem": "small"}, **options)

    monkeypatch.setattr(importlib.import_module("ntk_select.training.zoo.single"), "fresh_expert", small)


@pytest.fixture
def ran(place, capsys):
    """ran("--json", ...) trains the zoo of the config: exit status, stdout and stderr."""

    def run(*options, config="config.toml", data=place):
        words = [] if data is None else ["--data", str(data)]
        capsys.readouterr()
        status = main(["zoo", "train", str(place / config), *words, "--out", str(place / "zoo"), "--work", str(place / "work"), *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def test_a_plan_gives_the_work_of_each_expert_as_json_and_leaves_nothing_behind(ran, place, tiny, monkeypatch):
    monkeypatch.chdir(place)
    before = files(place)
    status, out, err = ran("--plan", "--json")
    work = json.loads(out)
    assert status == 0
    assert files(place) == before
    assert "{" not in err
    assert [(each["name"], each["images"], each["epochs"], each["steps"]) for each in work] == [
        ("stripes-resnet_small", 2 * 32, 2, 2 * 4),  # 36 images in batches of 8
        ("dots-resnet_small", 32, 1, 4),
    ]
    to_features = 2 * 8 * 8 * (27 * 4 + 2 * 36 * 4)
    assert [each["flops"] for each in work] == [3 * images * (to_features + 2 * 4 * classes) for images, classes in ((64, 3), (32, 2))]
    for each in work:
        assert each["hours"] == pytest.approx(each["images"] / each["images_per_second"] / 3600, rel=1e-12)


def test_the_plan_for_people_has_a_row_for_each_expert_and_their_sum(ran, tiny):
    status, out, _ = ran("--plan")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert status == 0
    assert [line[:4] for line in lines] == [
        ["stripes-resnet_small", "64", "2", "8"],
        ["dots-resnet_small", "32", "1", "4"],
        ["all", "96", "", "12"],
    ]
    assert "2 experts; training on one device of this machine, roughly, resnet_small in batches of 8" in out


def test_training_prints_the_cards_that_it_writes_and_a_second_call_has_nothing_to_do(ran, place, tiny):
    status, out, err = ran("--json")
    cards = json.loads(out)
    assert status == 0
    assert [card["name"] for card in cards] == ["stripes-resnet_small", "dots-resnet_small"]
    for card in cards:
        assert json.loads((place / "zoo" / card["name"] / "card.json").read_text()) == card
        assert (place / "zoo" / card["name"] / "model.safetensors").is_file()
        assert f"{card['name']}: test accuracy {100 * card['test_accuracy']:.2f} %" in err
    assert [card["class_names"] for card in cards] == [["a", "b", "c"], ["a", "b"]]
    assert cards[0]["licence"].endswith("made by the test")
    before = {file: (place / "zoo" / file).stat().st_mtime_ns for file in files(place / "zoo")}
    status, out, _ = ran("--json")
    assert (status, json.loads(out)) == (0, [])
    assert {file: (place / "zoo" / file).stat().st_mtime_ns for file in files(place / "zoo")} == before


def test_the_table_names_what_was_trained_and_what_to_type_next(ran, place, tiny):
    status, out, _ = ran("--only", "stripes-resnet_small")
    assert status == 0
    assert f"1 experts trained, in {place / 'zoo'}" in out
    assert "stripes-resnet_small" in out
    assert f"Next: ntk-select rank --task folder:my_images --zoo {place / 'zoo'}" in out
    assert files(place / "zoo")[0] == "stripes-resnet_small"


def test_training_may_be_done_by_an_executor(ran, place, tiny, monkeypatch):
    given = []

    def execute(work, groups, done, **options):
        given.append(options)
        local(work, groups, done)

    monkeypatch.setitem(EXECUTORS, "processes", execute)
    status, out, _ = ran("--only", "stripes-resnet_small", "--executor", "processes", "--workers", "3", "--cpus", "2", "--json")
    assert (status, [card["name"] for card in json.loads(out)]) == (0, ["stripes-resnet_small"])
    assert given == [{"workers": 3, "address": None, "cpus": 2, "gpus": 0}]


def test_ctrl_c_ends_with_130_and_the_next_call_gives_the_weights_of_a_training_that_was_not_cut(ran, place, tiny, monkeypatch):
    from ntk_select.cli import zoo as module

    status, _, _ = ran("--only", "stripes-resnet_small", "--out", str(place / "whole"), "--work", str(place / "work of whole"))
    assert status == 0
    checkpoints = importlib.import_module("ntk_select.training.checkpoints").Checkpoints
    monkeypatch.setitem(checkpoints.__init__.__kwdefaults__, "every_seconds", 0)

    class Cut:
        def __init__(self, _what):
            pass

        def __enter__(self):
            def stop(done, total, name):
                if done == 1:
                    raise KeyboardInterrupt

            return stop

        def __exit__(self, *_):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(module, "progress_bar", Cut)
        status, out, err = ran("--only", "stripes-resnet_small")
    assert (status, out) == (130, "")
    assert "stopped" in err
    assert files(place / "zoo") == []
    assert ran("--only", "stripes-resnet_small")[0] == 0
    weights = [(place / zoo / "stripes-resnet_small" / "model.safetensors").read_bytes() for zoo in ("whole", "zoo")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (("--only", "cats"), {}, "ntk-select: No expert's name contains 'cats'. Available: stripes-resnet_small"),
        (("--plan", "--only", "cats"), {}, "ntk-select: No expert's name contains 'cats'."),
        ((), {"config": "no.toml"}, "no.toml cannot be read"),
        ((), {"data": None}, "and the folder for {data} is missing. Try: data=FOLDER (--data FOLDER)"),
        (("--plan",), {"data": None}, "and the folder for {data} is missing. Try: data=FOLDER (--data FOLDER)"),
        ((), {"data": "/nowhere"}, "There is no file '/nowhere/stripes.npz'"),
        (("--measure",), {}, "ntk-select: --measure is for a plan. Try: --plan --measure"),
        (("--devices", "0"), {}, "ntk-select: --devices=0 must be a whole number from 1."),
        (("--devices", "99"), {}, "ntk-select: --devices 99: this machine has"),
    ],
)
def test_what_is_refused_is_one_sentence_and_status_2(ran, options, changes, message):
    status, out, err = ran("--json", *options, **changes)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("options", [("--only", "cats"), ("--devices", "99"), ("--devices", "0")])
def test_what_is_refused_leaves_no_folder_behind(ran, place, options):
    before = files(place)
    assert ran(*options)[0] == 2
    assert files(place) == before


def test_a_batch_that_devices_cannot_share_is_refused_before_the_work(ran, place, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [None] * 3)
    status, out, err = ran("--devices", "3")
    assert (status, out) == (2, "")
    assert "ntk-select: --devices 3 cannot share the batches of 8 images of stripes-resnet_small. Try: another batch_size in the config" in err


@pytest.mark.parametrize("as_json", [True, False])
def test_experts_that_were_trained_are_told_though_another_failed(ran, tiny, monkeypatch, as_json):
    run = importlib.import_module("ntk_select.training.zoo.run")
    real = run.train_single

    def sometimes(zoo, member):
        if member.source == "stripes":
            raise ModelError("Training diverged in epoch 1.")
        return real(zoo, member)

    monkeypatch.setattr(run, "train_single", sometimes)
    status, out, err = ran(*["--json"][: int(as_json)])
    assert status == 1
    assert "1 of 2 experts were not trained. stripes-resnet_small: Training diverged in epoch 1." in err
    if as_json:
        assert [card["name"] for card in json.loads(out)] == ["dots-resnet_small"]
    else:
        assert "1 experts trained" in out
        assert "dots-resnet_small" in out


def test_when_none_could_be_trained_it_is_said_in_a_sentence(ran, place, tiny):
    (place / "diverges.toml").write_text(CONFIG.replace("scratch = 0.05", "scratch = 1e30"))
    status, out, err = ran("--only", "stripes", config="diverges.toml")
    assert (status, out) == (2, "")
    assert "ntk-select: 1 of 1 experts were not trained. stripes-resnet_small: Training diverged in epoch 1" in err


@pytest.mark.parametrize("option", ["--out", "--work"])
def test_a_folder_that_cannot_be_written_is_refused_by_its_own_name(ran, place, option):
    (place / "file").write_text("in the way")
    status, _, err = ran(option, str(place / "file" / "x"))
    assert status == 2
    assert f"ntk-select: {option} '" in err


@pytest.mark.slow
def test_what_is_trained_in_full_can_be_opened_and_answers_as_its_card_says(ran, place):
    (place / "config.toml").write_text(CONFIG.replace("scratch = 1", "transfer = 1"))
    assert ran()[0] == 0
    experts = open_zoo([str(place / "zoo")])
    assert sorted(experts) == ["dots-resnet_small-from-stripes", "stripes-resnet_small"]
    with np.load(place / "stripes.npz") as archive:
        images, labels = archive["test_images"], archive["test_labels"]
    joined = np.where(labels == 2, 0, labels)  # c is joined to a
    for name, parent, right in (("stripes-resnet_small", None, labels), ("dots-resnet_small-from-stripes", "stripes-resnet_small", joined)):
        expert = experts[name]()
        answers = np.asarray(jax.jit(expert.apply_fn)(expert.variables, expert.preprocess(images))).argmax(1)
        assert round((answers == right).mean(), 5) == expert.card.test_accuracy
        assert expert.card.initialised_from == parent
