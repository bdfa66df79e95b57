"""`ntk-select finetune` prints and saves the results of `finetune`, whatever fails, and rejects invalid options in one sentence."""

import json
import math
import shlex
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.cli import main
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, ModelError
from ntk_select.models import open_zoo
from ntk_select.models.expert_folder import write_expert
from ntk_select.training import finetuning

pytestmark = pytest.mark.usefixtures("quickly")
USUAL = {"--epochs": "2", "--batch-size": "4", "--shots": "6", "--checkpoints": "None", "--lr": "0.05"}
RECIPE = ns.Recipe(epochs=2, batch_size=4)


@pytest.fixture(scope="module")
def zoo(write_zoo):
    return write_zoo("ash", "birch")


@pytest.fixture(scope="module")
def npz(write_task):
    return write_task(tested=True)


@pytest.fixture
def ran(zoo, npz, capsys):
    """ran("--json", lr="0.1") fine-tunes small experts on the small task: exit status, stdout and stderr."""

    def run(*options, expert="ash", task=npz, zoo=zoo, **changes):
        words = {**USUAL, **{"--" + name.replace("_", "-"): value for name, value in changes.items()}}
        capsys.readouterr()
        status = main(["finetune", "--expert", expert, "--task", task, "--zoo", zoo, *(word for pair in words.items() for word in pair), *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def timeless(record):
    return {key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}


def named(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_json_has_every_field_of_the_python_face_and_its_values(ran, zoo, npz):
    status, out, _ = ran("--json", lr="0.05,0.01")
    record = json.loads(out)
    expected = ns.finetune(open_zoo([zoo])["ash"](), load_task(npz), shots=6, learning_rates=(0.05, 0.01), recipe=RECIPE)
    assert status == 0
    assert set(record) == {"results", "failures"}
    assert record["failures"] == {}
    assert timeless(record["results"][0]) == timeless(json.loads(json.dumps(expected.to_dict())))
    assert set(record["results"][0]["per_class"]) == {"dark", "bright"}
    assert (record["results"][0]["train_images"], record["results"][0]["test_images"]) == (12, 8)
    assert record["results"][0]["choose"] == "validation"


def test_experts_and_seeds_are_all_tried_and_each_once(ran):
    _, out, err = ran("--json", "--seeds", "3,4,3", expert="birch,ash,birch")
    record = json.loads(out)
    assert [(each["expert"], each["seed"], each["sample_seed"]) for each in record["results"]] == [
        ("birch", 3, 3),
        ("birch", 4, 4),
        ("ash", 3, 3),
        ("ash", 4, 4),
    ]
    assert "{" not in err


def test_the_table_shows_each_result_and_of_several_seeds_their_mean_and_spread(ran):
    options = ("--seeds", "0", "1", "2")
    status, out, _ = ran(*options, lr="0.05 0.01".replace(" ", ","))
    results = json.loads(ran("--json", *options, lr="0.05,0.01")[1])["results"]
    assert status == 0
    assert "bright things: 6 images per class (12), tested on 8; learning rate by validation" in out
    lines = [line for line in out.splitlines() if line.startswith("│")]
    for line, result in zip(lines, results, strict=True):
        assert line.split("│")[1].strip() == "ash"
        assert f"{100 * result['accuracy']:.2f} %" in line
        assert f"{100 * result['balanced_accuracy']:.2f} %" in line
        assert f"{100 * result['accuracy_low']:.1f} to {100 * result['accuracy_high']:.1f}" in line
        for trial in result["trials"]:
            assert f"{trial['learning_rate']:g}:{100 * trial['accuracy']:.1f}" in line
        for note in result["notes"]:
            assert f"ash, seed {result['seed']}: {note}" in out
    found = [100 * result["accuracy"] for result in results]
    assert f"ash: {statistics.mean(found):.2f} % (standard deviation {statistics.stdev(found):.2f} over 3 seeds)" in out


def test_the_interval_of_an_accuracy_says_what_it_covers(ran):
    out = ran()[1]
    assert "95 %: interval of the accuracy over the choice of the 8 test images, not of training images and seeds." in out


def test_of_one_rate_there_is_no_column_by_rate(ran):
    assert "by rate" not in ran(lr="0.01")[1]
    assert "0.01:-" not in ran(lr="0.01")[1]
    assert "by rate, test %" in ran(lr="0.01,0.02", choose="paper")[1]


def test_rates_past_the_end_are_tried_and_told_unless_it_is_turned_off(ran):
    low = "1e-5,1e-6"
    (extended,) = json.loads(ran("--json", lr=low)[1])["results"]
    assert extended["extended"][0] == 3e-5
    assert extended["notes"][0].startswith("The best of the given learning rates was the largest, 1e-05; also tried: 3e-05")
    (plain,) = json.loads(ran("--json", "--no-extend", lr=low)[1])["results"]
    assert (plain["extended"], len(plain["trials"])) == ([], 2)
    assert plain["notes"] == ["The best learning rate, 1e-05, is the largest that was tried; a larger one may be better.", plain["copies"]]
    out = ran("--no-extend", lr=low)[1]
    assert plain["notes"][0] in out
    (line,) = [line for line in out.splitlines() if line.startswith("Next")]
    assert "--no-extend --" in line


def test_a_rate_that_diverged_is_shown_beside_the_others(ran):
    status, out, _ = ran(lr="1e30,0.05", choose="paper")
    assert status == 0
    assert "1e+30:diverged 0.05:" in out
    assert "learning rate by test" in out


def test_options_reach_the_recipe(ran):
    _, out, _ = ran("--json", augment="flip", batch_norm="frozen", precision="bfloat16", lr="1e-5")
    (result,) = json.loads(out)["results"]
    recipe = {**json.loads(json.dumps(finetuning.Recipe().__dict__)), "epochs": 2, "batch_size": 4}
    assert result["recipe"] == recipe | {"augment": "flip", "batch_norm": "frozen", "precision": "bfloat16"}
    assert result["choose"] == "given"


def test_cost_is_in_units_of_the_reference_that_is_named(ran):
    assert json.loads(ran("--json", "--reference", "ash")[1])["results"][0]["cost"] == 1.0
    status, out, _ = ran()
    assert status == 0
    assert json.loads(ran("--json")[1])["results"][0]["cost"] is None
    assert "│    - │" in out


def test_out_writes_the_files_that_it_names(ran, tmp_path):
    status, out, err = ran("--json", "--out", str(tmp_path / "runs"), "--seeds", "0", "5", expert="ash")
    assert status == 0
    assert named(tmp_path / "runs") == ["ash-seed0", "ash-seed5"]
    for result in json.loads(out)["results"]:
        file = tmp_path / "runs" / f"ash-seed{result['seed']}" / "result.json"
        assert json.loads(file.read_text()) == result
        assert f"wrote {file}\n" in err
        if (file.parent / "curves.png").exists():
            assert f"wrote {file.parent / 'curves.png'}\n" in err


def test_save_model_puts_the_first_seed_of_each_expert_where_it_says(ran, zoo, npz, tmp_path):
    status, out, err = ran("--json", "--save-model", str(tmp_path / "kept"), "--seeds", "1,0", expert="ash,birch")
    assert status == 0
    task, found = load_task(npz), open_zoo([str(tmp_path / "kept")])
    assert sorted(found) == ["ash-on-bright_things", "birch-on-bright_things"]
    for result in json.loads(out)["results"][::2]:
        expert = found[f"{result['expert']}-on-bright_things"]()
        assert f"wrote {tmp_path / 'kept' / expert.name}\n" in err
        answers = np.asarray(expert.apply_fn(expert.variables, expert.preprocess(task.test_images))).argmax(1)
        assert (answers == task.test_labels).mean() == result["accuracy"]
        assert expert.card.training["seed"] == 1
    assert ran("--save-model", str(tmp_path / "kept"), "--seeds", "1", "--replace")[0] == 0  # again, in its own place
    status, _, err = ran("--save-model", str(tmp_path / "kept"))
    assert status == 2
    assert "already contains an expert 'ash-on-bright_things'" in err
    assert "--replace" in err


def test_the_next_command_keeps_the_expert_that_was_shown(ran, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, out, _ = ran("--json", seeds="4", augment="none", checkpoints="kept states")
    (shown,) = json.loads(out)["results"]
    _, out, _ = ran(seeds="4", augment="none", checkpoints="kept states")
    (line,) = [line for line in out.splitlines() if line.startswith("Next")]
    words = shlex.split(line.partition(": ")[2])
    assert words[0] == "ntk-select"
    assert main([*words[1:], "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["results"]
    assert timeless(again) == timeless(shown)
    assert again["images_per_second"] is None  # taken up again, not trained again
    assert named("my_zoo") == ["ash-on-bright_things"]


def test_a_training_that_was_finished_is_taken_up_again_and_shown_without_a_speed(ran, tmp_path):
    first = json.loads(ran("--json", checkpoints=str(tmp_path))[1])
    status, out, _ = ran(checkpoints=str(tmp_path))
    again = json.loads(ran("--json", checkpoints=str(tmp_path))[1])
    assert status == 0
    assert [timeless(result) for result in again["results"]] == [timeless(result) for result in first["results"]]
    assert again["results"][0]["images_per_second"] is None
    (line,) = [line for line in out.splitlines() if line.startswith("│")]
    assert line.split("│")[7].strip() == "-"


@pytest.fixture(scope="module")
def half_broken(zoo, tmp_path_factory):
    """Of its two experts, the first has weights so large that no learning rate can do anything."""
    place = tmp_path_factory.mktemp("half broken")
    shutil.copytree(Path(zoo) / "birch", place / "birch")
    sound = open_zoo([zoo])["ash"]()
    params = jax.tree.map(lambda leaf: np.full_like(leaf, 1e30), sound.params)
    write_expert(place / "ash", {"params": params, **sound.state}, replace(sound.card, name="ash"))
    return str(place)


@pytest.mark.parametrize("as_json", [True, False])
def test_an_expert_that_fails_is_told_and_the_rest_go_on(ran, half_broken, as_json, tmp_path):
    status, out, err = ran(*["--json"][: int(as_json)], "--out", str(tmp_path), expert="ash,birch", zoo=half_broken)
    assert status == 1
    assert "ash, seed 0 failed: Every learning rate diverged (0.05: Training diverged in epoch 1" in err
    assert named(tmp_path) == ["birch-seed0"]
    if as_json:
        record = json.loads(out)
        assert [result["expert"] for result in record["results"]] == ["birch"]
        assert list(record["failures"]) == ["ash, seed 0"]
    else:
        assert "birch" in out


def test_experts_that_all_fail_leave_a_document_without_results(ran, half_broken):
    status, out, _ = ran("--json", zoo=half_broken)
    assert (status, json.loads(out)["results"]) == (1, [])
    status, out, _ = ran(zoo=half_broken)
    assert (status, out) == (1, "")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("No."), "birch, seed 0 failed: No."),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory\nwhile\n"), "birch, seed 0 failed: RuntimeError: RESOURCE_EXHAUSTED: out of memory"),
        (ConfigError("Of this expert."), "birch, seed 0 failed: Of this expert."),
    ],
)
def test_whatever_one_expert_raises_does_not_cost_the_results_of_another(ran, monkeypatch, error, told):
    real = finetuning.finetune

    def sometimes(expert, *given, **options):
        if expert.name == "birch":
            raise error
        return real(expert, *given, **options)

    monkeypatch.setattr(finetuning, "finetune", sometimes)
    status, out, err = ran("--json", expert="ash,birch")
    assert status == 1
    assert [result["expert"] for result in json.loads(out)["results"]] == ["ash"]
    assert told in err


def test_a_result_that_cannot_be_kept_is_still_printed(ran, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise ModelError("The disk is full.")

    monkeypatch.setattr(finetuning, "save_expert", refuse)
    status, out, err = ran("--json", "--save-model", str(tmp_path))
    assert status == 1
    assert math.isfinite(json.loads(out)["results"][0]["accuracy"])
    assert "ash, seed 0 failed: The result could not be saved: The disk is full." in err


def test_ctrl_c_ends_with_130_and_the_next_call_goes_on(ran, monkeypatch, tmp_path):
    real = finetuning.finetune

    def cut(*given, progress, **options):
        def stop(done, total, name):
            if done == 2:  # of three: after the first rate is finished
                raise KeyboardInterrupt

        return real(*given, progress=stop, workers=1, **options)

    expected = json.loads(ran("--json", lr="0.05,0.01", epochs="2")[1])
    monkeypatch.setattr(finetuning, "finetune", cut)
    status, out, err = ran("--json", lr="0.05,0.01", epochs="2", checkpoints=str(tmp_path))
    assert (status, out) == (130, "")
    assert "stopped" in err
    monkeypatch.setattr(finetuning, "finetune", real)
    again = json.loads(ran("--json", lr="0.05,0.01", epochs="2", checkpoints=str(tmp_path))[1])
    assert [timeless(result) for result in again["results"]] == [timeless(result) for result in expected["results"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "fast"}, "ntk-select: --lr 'fast' is not a number."),
        ({"lr": ","}, "ntk-select: --lr needs at least one number."),
        ({"seeds": "1.5"}, "ntk-select: --seeds '1.5' is not a whole number."),
        ({"shots": "many"}, "ntk-select: --shots 'many' is not a whole number."),
        ({"shots": "5,20"}, "ntk-select: --shots '5,20' must be one number, or full."),
        ({"batch_size": "1"}, "batch_size=1 must be a whole number from 2"),
        ({"trials": "0"}, "trials=0 must be a whole number from 1"),
        ({"expert": "asp"}, "ntk-select: There is no expert 'asp' in the zoo. Did you mean 'ash'"),
        ({"expert": ","}, "ntk-select: --expert needs a name."),
        ({"reference": "oak"}, "ntk-select: There is no expert 'oak' in the zoo."),
        ({"task": "npz:/no/such.npz"}, "ntk-select: There is no file '/no/such.npz'"),
        ({"zoo": "/no/zoo"}, "ntk-select: The zoo '/no/zoo' is neither installed nor a folder."),
        ({"shots": "1", "lr": "0.1,0.2"}, "No class has two training images"),
    ],
)
def test_what_is_refused_is_one_sentence_and_status_2(ran, options, message):
    status, out, err = ran("--json", **options)
    assert (status, out) == (2, "")
    assert message in err


def test_of_a_task_without_a_test_set_some_images_are_kept_for_testing(ran, write_task, tmp_path):
    npz = write_task("untested")
    status, out, err = ran("--json", "--save-model", str(tmp_path), task=npz)
    (result,) = json.loads(out)["results"]
    assert status == 0
    assert result["test_split"].startswith("There was no test set: ")
    assert result["notes"] == [result["test_split"]]
    assert result["train_images"] + result["test_images"] <= len(load_task(npz).labels)
    assert "Warning" not in err
    assert result["test_split"] in ran(task=npz)[1]
    card = open_zoo([str(tmp_path)])["ash-on-untested"]().card
    assert sum(card.class_counts) == card.num_images == result["train_images"]


@pytest.mark.parametrize("option", ["--out", "--save-model"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read_by_its_own_name(ran, tmp_path, option):
    (tmp_path / "file").write_text("in the way")
    status, _, err = ran(option, str(tmp_path / "file" / "runs"), expert="absent", task="absent")
    assert status == 2
    assert f"ntk-select: {option} '" in err
    assert "cannot be written" in err


@pytest.mark.parametrize("option", ["--out", "--save-model"])
def test_experts_that_would_be_written_to_one_folder_are_refused(ran, write_zoo, tmp_path, monkeypatch, option):
    monkeypatch.setattr(finetuning, "finetune", lambda *_, **__: pytest.fail("it began"))
    zoos = [write_zoo("ash"), write_zoo("Ash")]  # two folders, of file systems that do not keep names apart
    status, _, err = ran("--zoo", *zoos, option, str(tmp_path), expert="ash,Ash")
    assert status == 2
    assert "ntk-select: --expert: ash, Ash would be written to one folder. Try: a command for each" in err


def test_checkpoints_that_cannot_be_written_are_refused(ran, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = ran(checkpoints=str(tmp_path / "file"))
    assert status == 2
    assert "ntk-select: --checkpoints '" in err


@pytest.mark.parametrize("command", ["finetune", "rank"])
def test_the_help_names_the_default_learning_rates(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{', '.join(map(str, finetuning.LEARNING_RATES[:-1]))} and {finetuning.LEARNING_RATES[-1]}" in said


def test_without_lr_the_default_learning_rates_are_tried(zoo, npz, capsys, monkeypatch):
    given = {}

    def stop(*_, **options):
        given.update(options)
        raise ConfigError("stopped")

    monkeypatch.setattr(finetuning, "finetune", stop)
    assert main(["finetune", "--zoo", str(zoo), "--task", str(npz), "--expert", "ash", "--checkpoints", "None"]) == 2
    assert "stopped" in capsys.readouterr().err
    assert given["learning_rates"] == finetuning.LEARNING_RATES
