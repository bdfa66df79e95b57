"""Does `ntk-select tasks` show the kinds of task and what is in one?"""

import json
import shlex

import numpy as np
import pytest
from ntk_select.data import task_kinds

from ntk_select.cli import main


@pytest.fixture
def npz(tmp_path):
    def write(names=("dark", "bright")):
        labels = np.repeat([0, 1], [3, 2])
        arrays = {"images": np.zeros((5, 8, 6), np.uint8), "labels": labels, "class_names": np.array(names)}
        np.savez(tmp_path / "two things.npz", **arrays, test_images=np.zeros((1, 8, 6), np.uint8), test_labels=np.array([1]))
        return f"npz:{tmp_path / 'two things.npz'}"

    return write


def test_list_names_every_kind(capsys):
    assert main(["tasks", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in task_kinds())


def test_list_as_json_is_one_document(capsys):
    assert main(["tasks", "list", "--json"]) == 0
    kinds = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: (entry["summary"], entry["example"]) for name, entry in kinds.items()} == {
        name: (kind.summary, kind.example) for name, kind in task_kinds().items()
    }


def test_show_prints_sizes_and_classes(capsys, npz):
    assert main(["tasks", "show", npz()]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "two things: first image 8 x 6 pixels, 1 channel(s); licence not known" in shown
    assert "5 training images, 1 test images, 2 classes." in shown
    assert "dark" in shown


def test_show_as_json_is_one_document(capsys, npz):
    assert main(["tasks", "show", "--json", npz()]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(entry["name"], entry["train"], entry["test"]) for entry in facts["classes"]] == [("dark", 3, 0), ("bright", 2, 1)]
    assert (facts["image_size"], facts["channels"], facts["num_classes"]) == ([8, 6], 1, 2)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("digit", "ntk-select: Unknown task 'digit'. Did you mean 'digits'"),
        ("./nowhere", "ntk-select: Task './nowhere': there is no such folder or file"),
        ("npz:/no/such.npz", "ntk-select: There is no file"),
    ],
)
def test_a_task_that_is_not_there_is_one_sentence_and_status_2(capsys, uri, message):
    assert main(["tasks", "show", uri]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert "Traceback" not in captured.err


def test_what_is_said_to_type_next_is_quoted_for_the_shell(capsys, npz):
    uri = npz()
    main(["tasks", "show", uri])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next")]
    assert shlex.split(line.partition(": ")[2]) == ["ntk-select", "rank", "--task", uri]


@pytest.mark.parametrize("name", ["a[b]", "[/b]"])
def test_class_names_in_brackets_are_shown_as_they_are(capsys, npz, name):
    assert main(["tasks", "show", npz(("plain", name))]) == 0
    assert name in capsys.readouterr().out


def test_a_path_without_installation_says_what_to_type(capsys, monkeypatch):
    monkeypatch.setattr("ntk_select.plugins.entry_points", lambda **_: ())
    assert main(["tasks", "list"]) == 2
    assert "The entry point 'task_kinds' is missing" in capsys.readouterr().err
