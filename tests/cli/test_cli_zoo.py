"""`ntk-select zoo` lists, shows and verifies experts, and turns a checkpoint into one."""

import json
import shlex
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ntk_select import Card, Preprocess
from ntk_select.cli import main
from ntk_select.models import ZOO, build, initialise, open_zoo
from ntk_select.models.convert import to_state_dict
from ntk_select.models.expert_folder import write_expert

CONFIG = {"stage_sizes": [1], "widths": [3], "stem": "small"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("zoo"), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=2, **CONFIG), size=8), jax.random.key(0))
    for name in ("ash", "birch"):
        variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
        card = Card(name, "resnet18", "trees", Preprocess(size=8), "", 2, CONFIG, ("oak", "yew"), (5, 7), test_accuracy=0.5, num_parameters=1234)
        write_expert(folder / name, variables, card)
    return folder


@pytest.fixture
def zoo(written, tmp_path):
    """A zoo that a test may damage."""
    return shutil.copytree(written, tmp_path / "zoo")


@pytest.fixture
def typed(capsys):
    """typed("list", ...) runs `ntk-select zoo list ...` and gives the exit status, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        status = main(["zoo", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def change_card(expert, **changes):
    card = expert / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))


def test_list_prints_one_line_an_expert(typed, zoo):
    status, out, _ = typed("list", "--zoo", zoo)
    (line,) = [line for line in out.splitlines() if "ash" in line]
    assert status == 0
    assert all(word in line for word in ("trees", "resnet18", "1,234", "50.0 %"))
    assert "birch" in out


def test_list_as_json_is_one_document_of_all_cards(typed, zoo):
    status, out, _ = typed("list", "--json", "--zoo", zoo)
    assert status == 0
    assert [(card["expert"], card["architecture"], card["test_accuracy"]) for card in json.loads(out)] == [
        ("ash", "resnet18", 0.5),
        ("birch", "resnet18", 0.5),
    ]


def test_the_built_in_zoo_is_the_default(typed):
    status, out, _ = typed("list", "--json")
    assert status == 0
    assert [card["expert"] for card in json.loads(out)] == list(ZOO)


def test_list_goes_on_past_a_broken_card(typed, zoo):
    (zoo / "ash" / "card.json").write_text("{")
    status, out, err = typed("list", "--json", "--zoo", zoo)
    assert status == 1
    assert [card["expert"] for card in json.loads(out)] == ["birch"]
    assert "ash: " in err
    assert "not valid JSON" in err


def test_list_does_not_read_weights(typed, zoo):
    (zoo / "ash" / "model.safetensors").unlink()
    assert typed("list", "--zoo", zoo)[0] == 0


def test_show_prints_the_card(typed, zoo):
    status, out, _ = typed("show", "ash", "--zoo", zoo)
    assert status == 0
    assert "classes (images): oak (5), yew (7)" in out
    assert json.loads(typed("show", "ash", "--zoo", zoo, "--json")[1]) == json.loads((zoo / "ash" / "card.json").read_text())


def test_show_of_an_unknown_expert_is_one_sentence_and_status_2(typed, zoo):
    status, out, err = typed("show", "brich", "--zoo", zoo)
    assert (status, out) == (2, "")
    beginning = "ntk-select: There is no expert 'brich' in the zoo. Did you mean 'birch'? Try: "
    assert err.startswith(beginning)
    assert shlex.split(err.removeprefix(beginning)) == ["ntk-select", "zoo", "list", "--zoo", str(zoo)]


@pytest.mark.parametrize("command", [["list"], ["show", "ash"], ["verify"]])
def test_an_unknown_zoo_is_one_sentence_and_status_2(typed, command):
    status, out, err = typed(*command, "--zoo", "/no/such/folder")
    assert (status, out) == (2, "")
    assert err.startswith("ntk-select: The zoo '/no/such/folder' is neither installed nor a folder")


@pytest.mark.parametrize("command", [["list"], ["show", "ash"]])
def test_zoos_may_be_separated_by_commas_as_in_rank(typed, zoo, tmp_path, command):
    shutil.copytree(zoo / "ash", tmp_path / "other" / "elm")
    assert typed(*command, "--zoo", f"{zoo},{tmp_path / 'other'}")[0] == 0


def test_verify_counts_what_is_whole(typed, zoo):
    assert typed("verify", "--zoo", zoo)[:2] == (0, "2 of 2 experts are intact.\n")
    content = (zoo / "ash" / "model.safetensors").read_bytes()
    (zoo / "ash" / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, out, _ = typed("verify", "--zoo", zoo)
    assert status == 1
    assert "ash: Weights" in out
    assert "1 of 2 experts are intact." in out
    status, out, _ = typed("verify", "--zoo", zoo, "--json")
    outcome = json.loads(out)
    assert status == 1
    assert outcome["birch"] is None
    assert "sha256" in outcome["ash"]


@pytest.mark.parametrize("config", [5, {"stage_sizes": [1, 1], "widths": [3]}, {"num_classes": 2}])
def test_verify_goes_on_past_a_card_with_a_wrong_config(typed, zoo, config):
    change_card(zoo / "ash", config=config)
    status, out, _ = typed("verify", "--zoo", zoo)
    assert status == 1
    assert "1 of 2 experts are intact." in out


@pytest.mark.parametrize("changes", [{"num_parameters": "many"}, {"training": {"loss": float("nan")}}])
def test_list_goes_on_past_a_card_with_a_wrong_field(typed, zoo, changes):
    change_card(zoo / "ash", **changes)
    assert [typed("list", "--zoo", zoo)[0], typed("list", "--json", "--zoo", zoo)[0]] == [1, 1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A state dict with PyTorch's names and layouts."""
    network, rng = build("resnet_small", num_classes=3), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(initialise, network, size=8), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("downloads") / "trained.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in to_state_dict(variables, network).items()}, path)
    return path


def test_converted_checkpoints_stand_side_by_side_in_a_zoo(typed, checkpoint, tmp_path):
    out_folder = tmp_path / "zoo"
    status, out, _ = typed("convert", checkpoint, "--arch", "resnet_small", "--out", out_folder, "--source", "trees", "--licence", "MIT")
    assert status == 0
    assert f"Next: ntk-select rank --task folder:my_images --zoo {out_folder}" in " ".join(out.split())
    status, out, _ = typed("convert", checkpoint, "--arch", "resnet_small", "--out", out_folder, "--name", "second", "--json")
    assert status == 0
    assert json.loads(out) == json.loads((out_folder / "second" / "card.json").read_text())
    experts = open_zoo([str(out_folder)])
    assert list(experts) == ["second", "trained"]
    assert (experts["trained"].card.source, experts["trained"].card.licence, experts["trained"].card.num_classes) == ("trees", "MIT", 3)
    assert typed("verify", "--zoo", out_folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such.safetensors", "--arch", "resnet18"], "ntk-select: Checkpoint /no/such.safetensors is not a file: there is no such file"),
        (["/no/such.safetensors"], "ntk-select: Checkpoint /no/such.safetensors is not a file: there is no such file"),
        (["/no/such.safetensors", "--arch", "resnet19"], "Architecture 'resnet19' is unknown. Did you mean"),
        (["notes.txt", "--arch", "resnet18"], "Checkpoint notes.txt is not a file: there is no such file"),
        (["a.safetensors", "--arch", "resnet18", "--name", "a/b"], "--name 'a/b' must be the name of a folder"),
        pytest.param(
            ["a.safetensors", "--arch", "resnet18", "--name", ".."],
            "--name '..' must",
        ),
    ],
)
def test_what_cannot_be_converted_is_one_sentence_and_status_2(typed, tmp_path, arguments, message):
    status, out, err = typed("convert", *arguments, "--out", tmp_path / "zoo")
    assert (status, out) == (2, "")
    assert err.startswith("ntk-select: ")
    assert message in err
    assert not (tmp_path / "zoo").exists()


def test_a_checkpoint_of_another_architecture_is_refused(typed, checkpoint, tmp_path):
    status, _, err = typed("convert", checkpoint, "--arch", "densenet_small", "--out", tmp_path / "zoo")
    assert status == 2
    assert "as densenet_small" in err
    assert not (tmp_path / "zoo").exists()


def test_how_the_input_is_made_can_be_said_and_is_shown(typed, checkpoint, tmp_path):
    arguments = ["convert", checkpoint, "--arch", "resnet_small", "--out", tmp_path / "zoo", "--name"]
    status, out, _ = typed(*arguments, "usual")
    assert status == 0
    assert "bilinear resizing to 256 and cropping to 224 pixels" in out
    said = ["--size", "28", "--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.2", "0.1", "--interpolation", "bicubic"]
    assert typed(*arguments, "said", *said)[0] == 0
    experts = open_zoo([str(tmp_path / "zoo")])
    assert experts["usual"].card.preprocess == Preprocess(224, resize=256)
    assert experts["said"].card.preprocess == Preprocess(28, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), resize=32, interpolation="bicubic")


def test_which_weights_were_taken_is_printed_and_others_can_be_asked_for(typed, checkpoint, tmp_path):
    state = load_file(checkpoint)
    both = {f"model.{key}": value * 2 for key, value in state.items()} | {f"ema_model.{key}": value for key, value in state.items()}
    save_file(both | {"criterion.weight": np.ones(2)}, tmp_path / "last.ckpt")
    arguments = ["convert", tmp_path / "last.ckpt", "--arch", "resnet_small", "--out", tmp_path / "zoo", "--name"]
    status, out, _ = typed(*arguments, "usual")
    said = " ".join(out.split())
    assert status == 0
    assert (
        "Weights selected: ema_model (an average over training). Also in the file: model. To select model, try: weights='model' (--weights model)"
        in said
    )
    assert "The prefix 'ema_model.' of names was dropped." in said
    assert "Ignored, since they are outside the network: criterion.weight" in said
    assert typed(*arguments, "other", "--weights", "model")[0] == 0
    experts = open_zoo([str(tmp_path / "zoo")])
    for name, factor in (("usual", 1), ("other", 2)):
        np.testing.assert_array_equal(experts[name]().params["fc"]["bias"], factor * state["fc.bias"])
    assert "model.criterion" not in said
    status, _, err = typed(*arguments, "third", "--weights", "teacher")
    assert status == 2
    assert "contains no weights under 'teacher'. Available: " in err


def test_a_head_is_dropped_when_asked(typed, checkpoint, tmp_path):
    assert typed("convert", checkpoint, "--arch", "resnet_small", "--out", tmp_path / "zoo", "--drop-head")[0] == 0
    assert open_zoo([str(tmp_path / "zoo")])["trained"].card.num_classes == 0


def test_outputs_of_the_original_are_checked(typed, checkpoint, tmp_path):
    arguments = ["convert", checkpoint, "--arch", "resnet_small", "--size", "16", "--out", tmp_path / "zoo", "--check-logits", tmp_path / "y.npz"]
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    np.savez(tmp_path / "y.npz", inputs=x, logits=np.ones((2, 3)))
    status, _, err = typed(*arguments)
    assert status == 2
    assert "does not reproduce the logits" in err
    assert not (tmp_path / "zoo").exists()
    assert typed(*arguments[:-2])[0] == 0
    expert = open_zoo([str(tmp_path / "zoo")])["trained"]()
    np.savez(tmp_path / "y.npz", inputs=x, logits=np.asarray(expert.apply_fn(expert.variables, x)))
    status, out, _ = typed(*arguments, "--replace")
    assert status == 0
    assert "Compared with 2 outputs of the original" in " ".join(out.split())


def test_an_expert_of_the_same_name_is_replaced_only_when_asked(typed, checkpoint, tmp_path):
    arguments = ["convert", checkpoint, "--arch", "resnet_small", "--out", tmp_path / "zoo", "--source"]
    assert typed(*arguments, "first")[0] == 0
    status, _, err = typed(*arguments, "second")
    assert status == 2
    assert "--replace" in err
    assert open_zoo([str(tmp_path / "zoo")])["trained"].card.source == "first"
    assert typed(*arguments, "second", "--replace")[0] == 0
    assert open_zoo([str(tmp_path / "zoo")])["trained"].card.source == "second"


def test_a_foreign_zoo_that_breaks_is_reported_and_the_rest_go_on(typed, monkeypatch):
    def broken():
        raise ZeroDivisionError("no weights")

    monkeypatch.setattr("ntk_select.models.open_zoo", lambda uris: {"odd": broken})
    for command in ("list", "verify"):
        status, out, err = typed(command)
        assert status == 1
        assert "no weights" in out + err
