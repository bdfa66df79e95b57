"""File names of any kind are read correctly; unreadable folders are rejected with an error message."""

import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from ntk_select.cli import main
from ntk_select.data import load_task
from ntk_select.errors import DataError, TaskError


def grey(path, value: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(np.full((2, 2), value, np.uint8)).save(path, "PNG")


NAMES = {
    "spaces": (" a cat ", "the dog"),
    "new lines": ("a\ncat", "\ndog\n"),
    "emoji": ("🐱", "👩‍👩‍👧"),
    "not ASCII": ("größe", "日本語"),
    "from right to left": ("\u202eabc", "\u202ddef"),
    "for the terminal": ("\x1b[31mred", "b\x07"),
    "markup": ("[red]a", "[bold"),
    "options": ("--help", "-rf"),
    "quotes": ("a'b\"c", "$HOME `ls`"),
    "commas and colons": ("a,b", "zip:c"),
    "of the longest": ("x" * 255, "y" * 255),
    "differing in case": ("Cat", "cat"),
    "of Windows": ("CON", "c\\d"),
    "dots": ("a..", "b."),
}


@pytest.mark.parametrize("case", NAMES)
def test_classes_and_files_may_have_any_name(tmp_path, capsys, case):
    first, second = sorted(NAMES[case])
    root = tmp_path / f"root {first[:100]}"
    for place, name in enumerate((first, second)):
        grey(root / name / f"{name[:100]}.png", 10 + place)
    task = load_task(f"folder:{root}")
    assert sorted(task.class_names) == [first, second]
    assert {task.class_names[label]: int(task.images[place][0, 0]) for place, label in enumerate(task.labels)} == {first: 10, second: 11}
    assert main(["tasks", "show", f"folder:{root}", "--json"]) == 0
    assert sorted(entry["name"] for entry in json.loads(capsys.readouterr().out)["classes"]) == [first, second]
    assert main(["tasks", "show", f"folder:{root}"]) == 0


def test_letters_that_are_written_in_two_ways_are_one_class(tmp_path):
    grey(tmp_path / "train" / "caf\u00e9" / "1.png", 1)
    grey(tmp_path / "train" / "tea" / "1.png", 2)
    grey(tmp_path / "test" / "cafe\u0301" / "1.png", 3)
    task = load_task(tmp_path)
    assert task.class_names == ("caf\u00e9", "tea")
    assert task.test_labels.tolist() == [0]


def test_files_not_in_utf_8_are_read_and_such_a_class_is_refused(tmp_path):
    grey(os.fsencode(tmp_path) + b"/good/a/\xff.png", 7)
    grey(os.fsencode(tmp_path) + b"/good/b/1.png", 8)
    assert [int(image[0, 0]) for image in load_task(tmp_path / "good").images] == [7, 8]
    grey(os.fsencode(tmp_path) + b"/bad/\xff/1.png", 7)
    with pytest.raises(DataError, match=r"class folder '\\udcff' has a name that is not UTF-8\. Try: rename it"):
        load_task(tmp_path / "bad")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_the_output_cannot_hold_ends_nothing(tmp_path, monkeypatch, encoding):
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    grey(root + b"/a\xc3\xa9/1.png", 1)
    grey(root + b"/b/1.png", 2)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, errors="strict"))
    assert main(["tasks", "show", os.fsdecode(root), *(["--json"] if encoding == "utf-8" else [])]) == 0
    sys.stdout.flush()
    if encoding == "utf-8":
        assert json.loads(written.getvalue())["classes"][0]["name"] == "aé"
    else:
        assert rb"a\xe9" in written.getvalue()


def make(kind):
    def put(root):
        if kind == "a link to itself":
            os.symlink("self.png", root / "cat" / "self.png")
        elif kind == "a link to nothing":
            os.symlink("/no/such/place", root / "cat" / "gone.png")
        elif kind == "a pipe":
            os.mkfifo(root / "cat" / "pipe.png")
        elif kind == "links to the folder above":
            for number in range(30):
                os.symlink("..", root / "cat" / f"up{number}")
        elif kind == "a folder with the name of an image":
            (root / "cat" / "album.png").mkdir()
        elif kind == "an empty class":
            (root / "bird").mkdir()
        elif kind == "another kind of picture":
            (root / "cat" / "phone.heic").write_text("mine")
        elif kind == "an image outside":
            grey(root / "loose.png", 0)
        elif kind == "one class":
            shutil.rmtree(root / "dog")
        elif kind == "nothing":
            shutil.rmtree(root / "dog")
            shutil.rmtree(root / "cat")

    return put


BAD = {
    "a link to itself": r"pets/cat/self\.png: a broken link, or not a regular file\. Try: delete it",
    "a link to nothing": r"pets/cat/gone\.png: a broken link, or not a regular file\. Try: delete it",
    "a pipe": r"pets/cat/pipe\.png: a broken link, or not a regular file\. Try: delete it",
    "links to the folder above": r"pets/cat/up\d+/cat/up.*: more than 8 folders deep\. Is one a link to a folder above it",
    "a folder with the name of an image": r"class folder 'cat' contains folders \(cat/album\.png\), so its classes are ambiguous\. Allowed: train/CLASS/IMAGE",
    "an empty class": r"class folder 'bird' is empty\. Try: put images into it, or delete it",
    "another kind of picture": r"1 HEIC photograph in class folder 'cat' cannot be read: cat/phone\.heic\. Try: pip install pillow-heif, or convert to JPEG",
    "an image outside": r"images outside any class folder: loose\.png\. Allowed: .*Try: move or delete them",
    "one class": r"training images of one class only \('cat'\)\. Scores compare classes\. Try: images of at least two",
    "nothing": r"there are no class folders\. Allowed: train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE",
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_is_no_task_is_refused_with_a_sentence(tmp_path, case):
    grey(tmp_path / "pets" / "cat" / "1.png", 1)
    grey(tmp_path / "pets" / "dog" / "1.png", 2)
    make(case)(tmp_path / "pets")
    with pytest.raises((DataError, TaskError), match=BAD[case]):
        load_task(tmp_path / "pets")


@pytest.mark.parametrize("what", ["folder", "zip", "npz"])
@pytest.mark.parametrize("place", ["", "x" * 5000, "new\nline", "~nobody_of_this_name/pets", "/dev/null/pets"])
def test_a_path_that_cannot_be_is_named_with_what_to_type(tmp_path, monkeypatch, what, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"There is no (folder|file) '.*'\. Try: {what}:PATH, for example {what}:photos"):
        load_task(f"{what}:{place}")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    grey(tmp_path / "pets" / "cat" / "1.png", 1)

    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(DataError, match=r"pets/: the folder cannot be read \(Permission denied\)"):
        load_task(tmp_path / "pets")


def test_an_image_behind_a_link_out_of_the_folder_is_the_users_own_and_is_read(tmp_path):
    grey(tmp_path / "elsewhere" / "1.png", 9)
    grey(tmp_path / "pets" / "dog" / "1.png", 2)
    (tmp_path / "pets" / "cat").mkdir()
    os.symlink(tmp_path / "elsewhere" / "1.png", tmp_path / "pets" / "cat" / "1.png")
    assert int(load_task(tmp_path / "pets").images[0][0, 0]) == 9
