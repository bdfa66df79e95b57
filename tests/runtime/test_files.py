"""Files are written atomically; placeholders in place of files are recognised."""

import codecs
import os

import pytest

from ntk_select._runtime.files import describe_placeholder, file_name, write_atomically


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


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
SVG = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.mark.parametrize(
    "content",
    [
        POINTER.encode(),
        codecs.BOM_UTF8 + POINTER.encode(),
        POINTER.encode("utf-16"),
        POINTER.replace("\n", "\r\n").encode(),
        b"\n" + POINTER.encode(),
        b"version https://hawser.github.com/spec/v1\noid sha256:00\nsize 1\n",
    ],
    ids=["plain", "mark", "UTF-16", "Windows", "empty line", "before 1.0"],
)
def test_a_pointer_of_git_lfs_is_recognised_in_any_encoding(content):
    assert describe_placeholder(content) == "is a Git LFS pointer, not the file itself. Try, in its repository: git lfs pull"


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html>404</html>",
        b"\n <HTML lang='en'><body>Sign in</body>",
        codecs.BOM_UTF8 + b"<!doctype HTML>",
        "<html>".encode("utf-16"),
        b"<!-- saved from an address -->\n<html>",
        b"<script>location.href='/login'</script>",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b"<!doctype html>" + b"x" * 5000,
    ],
)
def test_a_web_page_is_recognised(content):
    assert describe_placeholder(content).startswith("is a web page, as servers return for a missing file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"PK\3\4",
        b"\x80" + POINTER.encode(),
        b"version 2",
        SVG.encode(),
        b"<header>",
        b"\xff\xfe\xff",
        b"<!---->" * 140,
        b"x<html>",
        bytes(2000),
    ],
)
def test_other_files_are_neither(content):
    assert describe_placeholder(content) is None
