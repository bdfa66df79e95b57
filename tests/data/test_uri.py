"""Task URIs are parsed as documented, every mistake gets an error message, and descriptions can be written as JSON."""

import json
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ntk_select.data import KNOWN, TASKS, TaskKind, describe, load_task, task_kinds
from ntk_select.data import uri as uri_module
from ntk_select.data.uri import parse_uri
from ntk_select.errors import DataError, TaskError
from ntk_select.tasks.task import Task

PATHS = ["cat/1.png", "dog/1.png"]


def test_the_built_in_kinds_are_these_eight_and_the_benchmarks_sets_and_each_has_a_line_for_the_table():
    assert list(TASKS) == ["digits", "fashion_mnist", "folder", "zip", "npz", "csv", "hf", "tfds", *KNOWN]
    for name, kind in TASKS.items():
        assert kind.summary
        assert kind.example.startswith(name)


def test_a_bare_path_means_the_same_as_its_kind_and_the_task_keeps_what_was_typed(folder_of, zip_of, tmp_path):
    folder = folder_of(PATHS)
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 3), np.uint8), labels=[0, 1])
    for name, mark in (("a.csv", ","), ("B.TSV", "\t")):
        (folder / name).write_text("\n".join(mark.join(row) for row in (("path", "label"), ("cat/1.png", "cat"), ("dog/1.png", "dog"))))
    for kind, path in (
        ("folder", folder),
        ("zip", zip_of(folder)),
        ("npz", tmp_path / "a.npz"),
        ("csv", folder / "a.csv"),
        ("csv", folder / "B.TSV"),
    ):
        bare, named, typed = load_task(str(path)), load_task(f"{kind}:{path}"), load_task(path)
        assert (bare.uri, named.uri, typed.uri) == (str(path), f"{kind}:{path}", str(path))
        assert bare.name == named.name == typed.name == path.stem
        np.testing.assert_array_equal(bare.labels, named.labels)


def test_a_tilde_is_the_home_folder(folder_of, monkeypatch):
    monkeypatch.setenv("HOME", str(folder_of(PATHS).parent))
    assert len(load_task("~/photos").labels) == len(load_task("folder:~/photos").labels) == 2


def test_a_name_wins_over_a_folder_of_that_name(folder_of, monkeypatch):
    monkeypatch.chdir(folder_of(PATHS, name="digits").parent)
    assert len(load_task("digits").labels) == 1000
    assert len(load_task("./digits").labels) == len(load_task(Path("digits")).labels) == 2


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
@pytest.mark.parametrize("path", ["", "no/such/thing"])
def test_a_path_that_is_not_there_is_an_error_with_an_example(kind, path):
    with pytest.raises(DataError, match=rf"no (folder|file) '{path}'.*for example {kind}:photos"):
        load_task(f"{kind}:{path}")


def test_what_is_never_downloaded_says_so(folder_of):
    for uri in ("digits", f"folder:{folder_of(PATHS)}"):
        with pytest.raises(TaskError, match=rf"Task '{uri}' is not downloaded; tfds:NAME and .* Try: download=False \(without --download\)"):
            load_task(uri, download=True)


def test_an_unknown_name_gets_near_matches_and_an_example():
    with pytest.raises(
        TaskError, match=r"^There is no folder or file 'fashion-mnist', and no .*\. Did you mean 'fashion_mnist'\? .*try: ntk-select tasks list$"
    ):
        load_task("fashion-mnist")
    with pytest.raises(TaskError, match=r"'foldr:photos', and no task of that name\. Did you mean 'folder'\?"):
        load_task("foldr:photos")


def test_a_missing_bare_path_and_a_file_of_another_kind_are_said_apart(tmp_path):
    with pytest.raises(TaskError, match=r"no such folder or file"):
        load_task(tmp_path / "gone")
    with pytest.raises(TaskError, match=r"no such folder or file"):
        load_task("./gone")
    (tmp_path / "photos.tar").write_bytes(b"x")
    with pytest.raises(TaskError, match=r"neither .zip nor .npz, .csv or .tsv. Allowed: the path of a folder, or of a "):
        load_task(tmp_path / "photos.tar")


@hypothesis.given(st.text())
def test_any_text_is_a_kind_or_a_task_error(text):
    try:
        name, argument = parse_uri(text, TASKS)
    except TaskError:
        return
    assert name in TASKS
    assert text.startswith(name) or TASKS[name].recognises(argument)


@hypothesis.given(st.sampled_from(list(TASKS)), st.text(st.characters(exclude_characters="\0")))
def test_all_after_the_first_colon_is_the_argument(name, argument):
    assert parse_uri(f"{name}:{argument}", TASKS) == (name, argument)


def test_an_installed_package_adds_kinds_but_cannot_replace_built_in_ones(monkeypatch):
    class Entry:
        def load(self):
            return {"petri": kind, "digits": kind}

    task = Task("petri", np.zeros((2, 3, 3), np.uint8), np.arange(2), ("clear", "grown"))
    kind = TaskKind(lambda argument: task, "dishes", "petri:2024")
    monkeypatch.setattr(uri_module, "entry_points", lambda group: [Entry()] if group == "ntk_select.tasks" else [])
    assert task_kinds() == TASKS | {"petri": kind}
    assert load_task("petri:2024").uri == "petri:2024"


def test_the_entry_point_of_this_package_is_these_tasks():
    assert set(task_kinds()) >= set(TASKS)


def test_importing_the_folder_loads_nothing_heavy():
    code = (
        "import sys, ntk_select; before = set(sys.modules); import ntk_select.data; new = set(sys.modules) - before;"
        "print([m for m in ('PIL', 'sklearn', 'tensorflow_datasets', 'tensorflow', 'jax', 'ntk_select.models') if m in new])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_counts_are_those_of_the_files(folder_of):
    root = folder_of(["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/1.png", "test/ant/1.png"])
    found = json.loads(json.dumps(describe(load_task(root))))
    assert found == {
        "name": "photos",
        "uri": str(root),
        "licence": None,
        "train": 3,
        "test": 2,
        "held_out": None,
        "num_classes": 3,
        "classes": [{"name": "cat", "train": 2, "test": 1}, {"name": "dog", "train": 1, "test": 0}, {"name": "ant", "train": 0, "test": 1}],
        "per_class": {"fewest": 1, "most": 2},
        "image_size": [6, 5],
        "channels": 3,
        "warnings": [
            "Classes with test images only, which scores never see: ant.",
            "Classes without test images: dog.",
            "Classes with one training image: dog.",
        ],
    }


def test_a_task_without_test_set_names_or_details_is_described_too():
    found = describe(Task("t", np.zeros((4, 3, 2), np.uint8), np.array([0, 1, 1, 1]), ("a", "b"), licence="MIT"))
    assert found["held_out"] == 1
    assert (found["test"], found["classes"][1], found["channels"], found["image_size"]) == (None, {"name": "b", "train": 3, "test": None}, 1, [3, 2])
    assert (found["uri"], found["licence"], found["per_class"], found["warnings"]) == (None, "MIT", {"fewest": 1, "most": 3}, [])
    json.dumps(found)
