"""Published archives are read in place; malicious or damaged ones are rejected with an error message."""

import gzip
import io
import os
import tarfile
import zipfile

import pytest

from ntk_select.data.published import archive as archive_module
from ntk_select.data.published.archive import Archive
from ntk_select.errors import DataError

NOISE = os.urandom(4000)


def tar_bytes(entries, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def refused(path, message):
    with pytest.raises(DataError, match=message):
        Archive(path, "a folder with x.txt")


def test_a_folder_shows_its_files_and_those_in_its_archives(tmp_path, zip_with):
    (tmp_path / "set" / "lists").mkdir(parents=True)
    (tmp_path / "set" / "lists" / "x.txt").write_bytes("\ufeffone\n\n two \r\n".encode())
    (tmp_path / "set" / "a.tar").write_bytes(tar_bytes({"./a/1.jpg": b"1", ".DS_Store": b""}))
    (tmp_path / "set" / "b.TAR.GZ").write_bytes(tar_bytes({"b/2.jpg": b"2"}, "w:gz"))
    zip_with({"c/3.jpg": b"3", "__MACOSX/c/3.jpg": b"", "c/d/": b""}, "set/c.zip")
    with Archive(tmp_path / "set", "") as archive:
        assert archive.names == ["a/1.jpg", "b/2.jpg", "c/3.jpg", "lists/x.txt"]
        assert [archive.read(name) for name in archive.names[:3]] == [b"1", b"2", b"3"]
        assert archive.lines("y.txt", "x.txt") == ["one", "two"]


def test_links_in_a_tar_are_not_read(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.txt": "/etc/passwd", "y.txt": b"y"}))
    with Archive(tmp_path / "a.tar", "x.txt") as archive:
        assert archive.names == ["y.txt"]
        with pytest.raises(DataError, match=r"a.tar: there is no x.txt. Expected: x.txt."):
            archive.find("x.txt")


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "C:/x.jpg", "a\\x.jpg"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, zip_with, name):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"fine.jpg": b"", name: b""}))
    refused(tmp_path / "a.tar", r"a.tar, entry '.*': path escapes the archive")
    refused(zip_with({"fine.jpg": b"", name: b""}), r"made.zip, entry '.*': not a plain relative path")


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"na\udcefve.jpg": b""}))
    refused(tmp_path / "a.tar", r"a.tar, entry 'na.+udcefve.jpg': its name is not UTF-8")


def test_truncated_archives_are_refused(tmp_path, zip_with):
    whole = tar_bytes({"a.jpg": NOISE, "b.jpg": NOISE})
    packed = zip_with({"a.jpg": NOISE}).read_bytes()
    gone = {"a.tar": whole[:3000], "b.tar": whole[:4608], "c.tar": whole[:9216], "d.tar": b"", "a.zip": packed[:2000], "b.zip": b"text"}
    squeezed = gzip.compress(whole)
    for name, content in (gone | {"a.tgz": squeezed[:3000], "b.tgz": squeezed[:-4]}).items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, rf"{name}: cannot be read as an archive .*Is it complete\?")


def test_a_damaged_entry_is_named_when_it_is_read(tmp_path, zip_with):
    path = zip_with({"a.jpg": NOISE})
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with Archive(path, "") as archive, pytest.raises(DataError, match=r"made.zip, entry a.jpg: cannot be read .*Try: download"):
        archive.read("a.jpg")


def test_the_same_name_twice_is_refused(tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(tar_bytes({"x/1.jpg": b""}))
    refused(tmp_path, r"'x/1.jpg' occurs twice, in .*a.tar and in .*b.tar. Try: keep one")


def test_lists_and_images_that_are_there_twice_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("x")
    with Archive(tmp_path, "x.txt") as archive:
        with pytest.raises(DataError, match=r"there are several files x.txt: a/x.txt, b/x.txt. Expected: .*Try: keep one"):
            archive.lines("x.txt")
        with pytest.raises(DataError, match=r"a/x.txt and b/x.txt are both 'x.txt'. Expected: .*Try: keep one"):
            archive.by(os.path.basename)


def test_an_image_too_large_is_refused_and_a_list_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_ENTRY_BYTES", 10)
    monkeypatch.setattr(archive_module, "MAX_LIST_BYTES", 20)
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.txt": bytes(21), "y.txt": bytes(20)}))
    with Archive(tmp_path / "a.tar", "") as archive:
        assert archive.names == ["y.txt"]
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.jpg": bytes(11)}))
    refused(tmp_path / "a.tar", r"a.tar, entry 'x.jpg': has 11 bytes unpacked; allowed are 10.")


def test_what_is_not_there_or_of_another_kind_says_what_is_needed(tmp_path):
    refused(tmp_path / "gone.zip", r"There is no file or folder '.*gone.zip'. Expected: a folder with x.txt.")
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    refused(tmp_path / "a.rar", r"a.rar: not an archive by its file name. Allowed: a folder, .zip, .tar, .tar.gz, .tgz.")


def test_files_are_closed_when_the_archive_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x", b"")
    refused(path, "plain relative path")  # a file left open would be a ResourceWarning, which is an error here


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_what_lies_in_the_place_of_an_archive_or_of_a_file_in_it_is_named(tmp_path, zip_with, name):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / name).write_bytes(pointer)
    refused(tmp_path / name, rf"{name} is a Git LFS pointer, .*git lfs pull\.$")
    archive = Archive(zip_with({"x.txt": pointer}), "a folder with x.txt")
    with pytest.raises(DataError, match=r"made.zip, x.txt is a Git LFS pointer, .*git lfs pull\.$"):
        archive.lines("x.txt")
