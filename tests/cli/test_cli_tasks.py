"""`ntk-select tasks` lists the kinds of task, describes one, and prepares data sets."""

import io
import json
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from ntk_select.cli import main
from ntk_select.data import KNOWN, task_kinds


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
    few = capsys.readouterr().out
    assert main(["tasks", "list", "--all"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in task_kinds())
    assert all((name in few) == (kind.known is None) for name, kind in task_kinds().items())
    assert "19 data sets of the benchmark have names too: ntk-select tasks list --all" in few


def test_list_as_json_is_one_document(capsys):
    assert main(["tasks", "list", "--json"]) == 0
    kinds = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: (entry["summary"], entry["example"]) for name, entry in kinds.items()} == {
        name: (kind.summary, kind.example) for name, kind in task_kinds().items()
    }


def test_show_prints_sizes_and_classes(capsys, npz):
    assert main(["tasks", "show", npz()]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "two things: first image 8 x 6 pixels, 1 channel(s); licence unknown" in shown
    assert "5 training images, 1 test images, 2 classes." in shown
    assert "dark" in shown


def test_show_says_what_is_held_out_for_fine_tuning(capsys, tmp_path):
    for labels, words in (
        ([0] * 10 + [1] * 5 + [2], "finetune and bench hold out a fifth of each class for testing: 3 of 16 images"),
        ([0, 1], "and no class has two images"),
    ):
        np.savez(tmp_path / "untested.npz", images=np.zeros((len(labels), 3, 3), np.uint8), labels=labels)
        assert main(["tasks", "show", str(tmp_path / "untested.npz")]) == 0
        assert f"No test set: {words}" in " ".join(capsys.readouterr().out.split())


def test_show_as_json_is_one_document(capsys, npz):
    assert main(["tasks", "show", "--json", npz()]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(entry["name"], entry["train"], entry["test"]) for entry in facts["classes"]] == [("dark", 3, 0), ("bright", 2, 1)]
    assert (facts["image_size"], facts["channels"], facts["num_classes"]) == ([8, 6], 1, 2)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("digit", "ntk-select: There is no folder or file 'digit', and no task of that name. Did you mean 'digits'"),
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


@pytest.mark.parametrize("room", ["models", "data"])
def test_a_path_without_installation_says_what_to_type(capsys, monkeypatch, room):
    def absent(_, **options):
        raise ModuleNotFoundError(f"No module named 'ntk_select.{room}'", name=f"ntk_select.{room}")

    monkeypatch.setattr("ntk_select.data.load_task", absent)
    assert main(["tasks", "show", "digits"]) == 2
    assert capsys.readouterr().err == "ntk-select: ntk_select is on the path but not installed. Try: pip install -e .\n"


@pytest.fixture
def tiles(tmp_path):
    """A small archive of magnetic tiles."""
    image = pytest.importorskip("PIL.Image")
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
        for number in range(24):
            file = io.BytesIO()
            image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(file, "JPEG")
            archive.writestr(f"tiles/MT_{('Blowhole', 'Break', 'Crack')[number % 3]}/Imgs/{number}.jpg", file.getvalue())
    return tmp_path / "tiles.zip"


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "own sets"))
    return tmp_path / "own sets"


def next_words(text):
    (line,) = [line for line in text.splitlines() if line.startswith("Next: ")]
    return shlex.split(line.removeprefix("Next: "))


def test_list_shows_the_benchmarks_sets_and_whether_they_are_prepared(capsys, own_folder):
    assert main(["tasks", "list", "--json"]) == 0
    rows = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert [name for name, entry in rows.items() if "role" in entry] == list(KNOWN)
    assert (rows["eu_flood"]["images"], rows["eu_flood"]["classes"], rows["eu_flood"]["prepared"]) == (3710, 2, False)
    assert (rows["belga_logos"]["images"], rows["belga_logos"]["classes"]) == (10_000, 27)
    (own_folder / "cars196" / "2.1.0").mkdir(parents=True)
    (own_folder / "cars196" / "2.1.0" / "dataset_info.json").write_text("{}")
    assert main(["tasks", "list", "--all"]) == 0
    shown = {line.split("\u2502")[1].strip(): line.split("\u2502")[2:-1] for line in capsys.readouterr().out.splitlines() if "\u2502" in line}
    assert [cell.strip() for cell in shown["stanford_cars"]] == ["Stanford Cars", "target", "16,185", "196", "yes"]
    assert [cell.strip() for cell in shown["cucumber"]] == ["CUCUMBER-9, prototype 1", "target", "2,923", "30", ""]


def test_list_imports_nothing_heavy():
    code = (
        "import sys; from ntk_select.cli import main; main(['tasks', 'list']);print([m for m in ('tensorflow_datasets', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", KNOWN)
def test_show_works_before_a_set_is_prepared(capsys, own_folder, name):
    assert main(["tasks", "show", name]) == 0
    shown = capsys.readouterr().out
    known = KNOWN[name]
    for text in (known.title, known.licence, known.home, known.citation):
        assert text in shown
    words = next_words(shown)
    assert words[:4] == ["ntk-select", "tasks", *(["show", name] if known.tfds else ["prepare", name])]
    assert words[4:5] == (["--download"] if known.tfds else ["--archive"])
    assert main(["tasks", "show", "--json", name]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["prepared"], shlex.split(facts["next"])) == (name, None, words)
    assert facts["known"]["licence"] == known.licence


def test_prepare_then_show(capsys, own_folder, tiles):
    main(["tasks", "show", "magnetic_tile"])
    words = [str(tiles) if word == "PATH" else word for word in next_words(capsys.readouterr().out)]
    assert main(words[1:]) == 2
    assert "try: any_size=True" in capsys.readouterr().err
    assert main([*words[1:], "--any-size"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"18 training and 6 test images of 3 classes in {own_folder}")
    assert main(next_words(shown)[1:]) == 0
    shown = capsys.readouterr().out
    assert "18 training images, 6 test images, 3 classes." in shown
    assert "Magnetic Tile Defects, a target of the benchmark" in shown
    assert next_words(shown) == ["ntk-select", "rank", "--task", "magnetic_tile"]
    assert main(["tasks", "show", "--json", "magnetic_tile"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["train"], facts["prepared"], facts["next"]) == (18, str(own_folder / "magnetic_tile" / "1.0.0"), None)


def test_prepare_into_another_folder_says_how_to_name_it(capsys, own_folder, tiles, tmp_path):
    folder = tmp_path / "other sets"
    words = ["tasks", "prepare", "magnetic_tile", "--archive", str(tiles), "--data-dir", str(folder), "--any-size"]
    assert main([*words, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {
        "folder": str(folder / "magnetic_tile" / "1.0.0"),
        "train": 18,
        "test": 6,
        "classes": 3,
        "left_out": 0,
        "uri": f"magnetic_tile:{folder}",
    }
    assert main(["tasks", "show", done["uri"]]) == 0
    assert "18 training images" in capsys.readouterr().out
    assert main(words) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert not own_folder.exists()


def test_files_that_are_left_out_are_counted(capsys, own_folder, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "products").mkdir()
    for number in range(6):
        image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(tmp_path / "products" / f"{number}.jpg")
    (tmp_path / "products" / "6.jpg").write_text("<html>gone")
    for name, ids in (("train", range(2, 7)), ("val", range(2))):
        (tmp_path / "products" / f"{name}.json").write_text(json.dumps({"images": [{"id": str(i), "class": i % 2} for i in ids]}))
    assert main(["tasks", "prepare", "imaterialist", "--archive", str(tmp_path / "products")]) == 0
    assert "Note: 1 files are left out, because they are not images." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder"], "ntk-select: 'folder' is not a data set that can be prepared."),
        (["magnetic-tile"], "ntk-select: 'magnetic-tile' is not a data set that can be prepared. Did you mean 'magnetic_tile'"),
        (["cub200"], "ntk-select: cub200 is prepared by TensorFlow Datasets, not here."),
        (["eu_flood"], "ntk-select: There is no file or folder 'x.zip'. Expected: a folder with"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence_and_status_2(capsys, own_folder, words, message):
    assert main(["tasks", "prepare", *words, "--archive", "x.zip"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().startswith(message)
    assert "Traceback" not in captured.err
