"""Malicious archives give an error message; nothing is unpacked to disk, and little into memory."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from ntk_select.data import load_task
from ntk_select.data.published.archive import Archive
from ntk_select.errors import DataError


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def _only_the_archive_is_there_afterwards(tmp_path):
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"pets.zip", "pets.tar", "pets.tar.gz"}


def zipped(path, entries, packed=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content)."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", packed) as archive:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def linked(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def lying(path, name: bytes, *, size: int | None = None, method: int | None = None):
    """The archive with another unpacked size, or method of packing, in both headers of an entry."""
    data = bytearray(path.read_bytes())
    for signature, length, to_size, to_method in ((b"PK\x03\x04", 30, 22, 8), (b"PK\x01\x02", 46, 24, 10)):
        begin = data.index(name, data.index(signature)) - length
        if size is not None:
            struct.pack_into("<I", data, begin + to_size, size)
        if method is not None:
            struct.pack_into("<H", data, begin + to_method, method)
    path.write_bytes(data)
    return path


REST = [("dog/1.png", png(2))]
PLAIN = r"pets\.zip, entry {}: not a plain relative path with forward slashes\. Pack the archive again from inside its folder"
ZIPS = {
    "a path out of it": ([("../evil/1.png", png(1))], PLAIN.format(r"'\.\./evil/1\.png'")),
    "a path out of it from inside": ([("cat/../../evil.png", png(1))], PLAIN.format(r"'cat/\.\./\.\./evil\.png'")),
    "an absolute path": ([("/etc/cron.d/1.png", png(1))], PLAIN.format("'/etc/cron.d/1.png'")),
    "a path of Windows": ([("C:/cat/1.png", png(1))], PLAIN.format("'C:/cat/1.png'")),
    "backslashes": ([("cat\\..\\1.png", png(1))], PLAIN.format(r"'cat\\\\\.\.\\\\1\.png'")),
    "a symbolic link": ([(linked("cat/1.png"), "/etc/passwd")], r"entry 'cat/1\.png': is a symbolic link\. Try: pack the file itself"),
    "an entry twice": ([("cat/1.png", png(1)), ("cat/1.png", png(2))], r"entry 'cat/1\.png': occurs twice\. Pack the archive again"),
    "no entries": (None, r"pets\.zip: there are no class folders\. Allowed: train/CLASS/IMAGE"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_that_attacks_is_refused_with_a_sentence(tmp_path, case):
    entries, sentence = ZIPS[case]
    with pytest.raises(DataError, match=sentence):
        load_task(zipped(tmp_path / "pets.zip", [] if entries is None else entries + REST))


def test_an_image_of_300_megabytes_of_zeros_is_refused_before_it_is_unpacked(tmp_path):
    path = lying(zipped(tmp_path / "pets.zip", [("cat/1.png", bytes(10**6)), *REST]), b"cat/1.png", size=300 * 2**20)
    with pytest.raises(DataError, match=r"entry 'cat/1\.png': has 314,572,800 bytes unpacked; allowed are 268,435,456\. Try: delete or shrink it"):
        load_task(path)


def test_a_name_that_hides_another_behind_a_null_is_refused(tmp_path):
    path = zipped(tmp_path / "pets.zip", [("cat/1.png_.txt", png(1)), *REST])
    path.write_bytes(path.read_bytes().replace(b"cat/1.png_.txt", b"cat/1.png\0.txt"))
    with pytest.raises(DataError, match=PLAIN.format(r"'cat/1\.png\\x00\.txt'")):
        load_task(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"pets\.zip: cannot be read as a zip archive \(File is not a zip file\)\. Is it complete"),
        (b"<html>404</html>", r"pets\.zip is a web page, .*Try: download the file itself\.$"),
        (b"PK\x05\x06" + bytes(18) + b"more than was promised", r"cannot be read as a zip archive|there are no class folders"),
        (b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + b"\0\0", r"cannot be read as a zip archive"),
    ],
    ids=["no bytes", "a web page", "text behind it", "counts of all ones"],
)
def test_what_is_no_zip_is_refused(tmp_path, content, sentence):
    (tmp_path / "pets.zip").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        load_task(tmp_path / "pets.zip")


@pytest.mark.parametrize(
    ("packed", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma"), (9, "deflate64"), (97, "wavpack"), (55, "method 55")]
)
def test_a_way_of_packing_that_makes_gigabytes_of_a_kilobyte_is_refused(tmp_path, packed, name):
    path = lying(zipped(tmp_path / "pets.zip", [("cat/1.png", png(1)), *REST]), b"cat/1.png", method=packed)
    with pytest.raises(
        DataError, match=rf"entry 'cat/1\.png': is compressed by {name}; allowed are deflate and no compression.*zip -r photos\.zip photos"
    ):
        load_task(path)


def test_an_image_that_unpacks_to_more_than_it_says_costs_no_memory(tmp_path):
    path = lying(zipped(tmp_path / "pets.zip", [("cat/1.png", bytes(64 * 2**20)), *REST]), b"cat/1.png", size=100)
    task = load_task(path)
    assert int(task.images[1][0, 0]) == 2
    tracemalloc.start()
    with pytest.raises(DataError, match=r"pets\.zip, entry cat/1\.png: cannot be read from the archive \(Bad CRC-32.*\)\. Pack the archive again"):
        task.images[0]
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_names_of_any_kind_are_read_from_a_zip(tmp_path):
    names = ["größe", "🐱", "a\ncat", " dog ", "x" * 200]
    path = zipped(tmp_path / "pets.zip", [(f"{name}/{name}.png", png(place)) for place, name in enumerate(names)])
    task = load_task(path)
    assert {task.class_names[label]: int(task.images[place][0, 0]) for place, label in enumerate(task.labels)} == {n: i for i, n in enumerate(names)}


def member(name: str, content: bytes | None = None, kind=tarfile.REGTYPE, to: str = "") -> tuple[tarfile.TarInfo, bytes | None]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, to, len(content or b"")
    return entry, content


def tarred(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for entry, content in members:
            archive.addfile(entry, None if content is None else io.BytesIO(content))
    return path


def headed(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """The header of an entry with any twelve bytes for its size."""
    header = bytearray(member(name, b"x")[0].tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = size, kind
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    return bytes(header)


def opened(path) -> dict[str, bytes]:
    with Archive(path, "pets.tar as published") as archive:
        return {name: archive.read(name) for name in archive.names}


OUT = r"pets\.tar, entry {}: path escapes the archive\. Try: download the archive from its authors"
BACK = b"\xff" * 8 + struct.pack(">i", -1024)
TARS = {
    "a path out of it": ([member("../evil.png", b"x")], OUT.format(r"'\.\./evil\.png'")),
    "an absolute path": ([member("/etc/evil.png", b"x")], OUT.format(r"'/etc/evil\.png'")),
    "a path of Windows": ([member("C:\\evil.png", b"x")], OUT.format(r"'C:\\\\evil\.png'")),
    "a link with a path out of it": ([member("../a.png", None, tarfile.SYMTYPE, "x")], OUT.format(r"'\.\./a\.png'")),
    "a file twice": ([member("a.png", b"x"), member("./a.png", b"y")], r"'a\.png' occurs twice, in .*pets\.tar and in .*pets\.tar\. Try: keep one"),
    "a name not in UTF-8": (
        [member("a\udcff.png", b"x")],
        r"entry 'a\\udcff\.png': its name is not UTF-8\. Try: rename it, or pack the archive again",
    ),
    "no bytes": (b"", r"pets\.tar: cannot be read as an archive \(.*\)\. Is it complete\? Try: download it again"),
    "a web page": (b"<html>" * 200, r"pets\.tar is a web page, .*Try: download the file itself\.$"),
    "a petabyte": (headed("a.png", b"\x80" + (2**50).to_bytes(11, "big")) + bytes(1024), r"has 1,125,899,906,842,624 bytes unpacked; allowed are"),
    "a hidden file that leads back to the first": (
        headed("x.png", b"00000000000\0") + headed(".hidden", BACK) + bytes(1024),
        r"cannot be read as an archive \(the entry '\.hidden' has -1,024 bytes\)",
    ),
    "a size below zero": (headed("a.png", BACK) + bytes(1024), r"cannot be read as an archive"),
    "without an end": (headed("a.png", b"00000000000\0"), r"cannot be read as an archive \(the block that marks the end is missing\)"),
}


@pytest.mark.parametrize("case", TARS)
def test_a_tar_that_attacks_is_refused_with_a_sentence(tmp_path, case):
    content, sentence = TARS[case]
    path = tmp_path / "pets.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        tarred(path, content)
    with pytest.raises(DataError, match=sentence):
        opened(path)


def test_links_and_devices_of_a_tar_are_not_read(tmp_path):
    kinds = {"a.png": tarfile.SYMTYPE, "b.png": tarfile.LNKTYPE, "c.png": tarfile.CHRTYPE, "d.png": tarfile.FIFOTYPE, "e.png": tarfile.BLKTYPE}
    members = [member(name, None, kind, "/etc/passwd") for name, kind in kinds.items()]
    assert opened(tarred(tmp_path / "pets.tar", [*members, member("sound.png", b"x")])) == {"sound.png": b"x"}


@pytest.mark.parametrize("cut", [1, 8, 40])
def test_a_compressed_tar_that_was_cut_is_refused(tmp_path, cut):
    path = tarred(tmp_path / "pets.tar.gz", [member("a.png", bytes(range(256)) * 9)], "w:gz")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"pets\.tar\.gz: cannot be read as an archive \(.*\)\. Is it complete\? Try: download it again"):
        opened(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_is_no_tar_is_refused(tmp_path, pack):
    (tmp_path / "pets.tar.gz").write_bytes(pack(b"hello" * 999))
    with pytest.raises(DataError, match=r"pets\.tar\.gz: cannot be read as an archive"):
        opened(tmp_path / "pets.tar.gz")
