"""Is a file written whole or not at all?"""

import os

import pytest

from ntk_select.files import file_name, write_atomically


def test_content_arrives_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "folders" / "a.bin"
    write_atomically(path, b"\x00first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


def test_the_temporary_file_is_whole_and_beside_the_target_when_it_takes_its_place(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((source.parent, source.read_bytes(), target.read_bytes()))
        replace(source, target)

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", watched)
    write_atomically(tmp_path / "a", b"new")
    assert seen == [(tmp_path, b"new", b"old")]


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_ctrl_c_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a", b"old")]


def test_a_parent_that_is_a_file_is_an_os_error(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="a"):
        write_atomically(tmp_path / "a" / "b", b"new")


@pytest.mark.parametrize(
    ("text", "name"), [("ash-on my/oaks", "ash-on_my_oaks"), ("../x", "_._x"), ("", "_"), ("größe@2.0_b-c", "größe@2.0_b-c"), ("..", "_.")]
)
def test_any_text_becomes_the_name_of_one_file(text, name, tmp_path):
    assert file_name(text) == name
    (tmp_path / file_name(text)).touch()
    assert [file.name for file in tmp_path.iterdir()] == [name]
