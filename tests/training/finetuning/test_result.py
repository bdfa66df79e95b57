"""A result reports everything as text, JSON and a figure."""

import dataclasses
import json
import sys

import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError


@pytest.fixture(scope="module")
def result(made):
    recipe = ns.Recipe(epochs=20, batch_size=6, milestones=(10,))
    return ns.finetune(made.linear_expert("oak $5"), made.spots((10, 10, 10), name="spots_1"), learning_rates=(1e9, 0.2, 0.1), recipe=recipe)


def test_the_record_holds_every_field_but_the_network_and_json_can_hold_it(result):
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    fields = {field.name for field in dataclasses.fields(result)} - {"tuned", "checkpoints"}
    assert set(record) == fields | {"accuracy_low", "accuracy_high", "notes"}
    assert (record["accuracy_low"], record["accuracy_high"]) == result.accuracy_interval
    assert (record["expert"], record["task"], record["choose"], record["shots"]) == ("oak $5", "spots_1", "validation", None)
    assert record["recipe"] == dataclasses.asdict(ns.Recipe(epochs=20, batch_size=6, milestones=(10,))) | {"milestones": [10], "augment": "none"}
    assert [trial["learning_rate"] for trial in record["trials"]] == [1e9, 0.2, 0.1]
    assert set(record["per_class"]) == {"a", "b", "c"}
    assert len(record["losses"]) == 20
    assert set(record["seconds"]) == {"read", "compile", "train", "evaluate"}
    assert all(value >= 0 for value in record["seconds"].values())


def test_it_says_in_words_what_was_found(result):
    text = repr(result)
    lines = text.splitlines()
    assert lines[0].startswith(f"oak $5 on spots_1: {100 * result.accuracy:.1f} % of 12 test images")
    assert "from 30 training images" in lines[0]
    assert f"learning rate {result.learning_rate:g} (chosen on validation); 20 epochs, seed 0" in lines[1]
    low, high = result.accuracy_interval
    assert f"(95 %: {100 * low:.1f} to {100 * high:.1f}; balanced {100 * result.balanced_accuracy:.1f} %)" in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == ["1e+09", "0.2", "0.1"]
    assert "diverged" in lines[2]
    assert f"{100 * result.trials[1].accuracy:.1f} %" in lines[3]


def test_of_one_rate_the_training_loss_is_told(made):
    found = ns.finetune(made.linear_expert(), made.spots(), learning_rates=0.1, recipe=ns.Recipe(epochs=2, batch_size=6))
    assert "(given)" in repr(found)
    assert f"training loss {found.losses[-1]:.3f}" in repr(found)
    assert "reference fine-tunes" not in repr(found)


def test_saving_writes_the_record_and_the_curves(result, tmp_path):
    pytest.importorskip("matplotlib")
    paths = result.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["result.json", "curves.png"]
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(result.to_dict()))
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_record_is_written_alone(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [path.name for path in result.save(tmp_path)] == ["result.json"]


def test_the_figure_shows_a_curve_for_each_rate_and_that_of_the_tested_training(result, tmp_path):
    pytest.importorskip("matplotlib")
    text = result.report(tmp_path / "curves.svg").read_text()
    assert all(f"<!-- {trial.learning_rate:g}: {100 * trial.accuracy:.1f} % -->" in text for trial in result.trials[1:])
    assert f"<!-- {result.learning_rate:g}, tested: {100 * result.accuracy:.1f} % -->" in text
    assert text == result.report(tmp_path / "again.svg").read_text()
    assert result.report(tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_loss_of_nothing_can_be_drawn(result, tmp_path):
    pytest.importorskip("matplotlib")
    flat = dataclasses.replace(result, losses=(0.0,) * 20, trials=tuple(dataclasses.replace(trial, losses=(0.0,) * 20) for trial in result.trials))
    assert flat.report(tmp_path / "flat.png").is_file()


def test_bad_endings_and_places_are_refused_in_a_sentence(result, tmp_path):
    with pytest.raises(ConfigError, match="'curves.gif' ends in '.gif'; allowed are .png, .svg and .pdf"):
        result.report(tmp_path / "curves.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        result.save(tmp_path / "file")


def test_the_tuned_expert_gives_the_answers_that_were_counted(result, made):
    task = made.spots((10, 10, 10), name="spots_1")
    logits = result.tuned.apply_fn(result.tuned.variables, made.pixels(task.test_images))
    assert (logits.argmax(1) == task.test_labels).mean() == result.accuracy


def test_old_names_are_deprecated(result, tmp_path):
    from ntk_select.training import finetuning

    (tmp_path / "checkpoint").mkdir()
    with pytest.warns(DeprecationWarning, match=r"Try: FinetuneResult\.delete_checkpoints"):
        dataclasses.replace(result, checkpoints=(tmp_path / "checkpoint",)).forget()
    assert list(tmp_path.iterdir()) == []
    for old, new in (("keep", "save_expert"), ("kept_name", "saved_name")):
        with pytest.warns(DeprecationWarning, match=rf"{old} is deprecated\. Try: .*\.{new}"):
            assert getattr(finetuning, old) is getattr(finetuning, new)
    assert not hasattr(finetuning, "nothing")
