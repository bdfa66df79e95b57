"""Damaged, inconsistent or malicious array files (.npz, IDX, saved kernels) are rejected with an error message, and nothing is executed."""

import gzip
import io
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest

from ntk_select.cli import main
from ntk_select.data import load_task
from ntk_select.errors import DataError
from ntk_select.kernels.saved_kernel import load_kernel

IMAGES = np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3)
LABELS = np.array([0, 1, 0, 1])


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def headed(header: str, data: bytes = bytes(360)) -> bytes:
    """An .npy file of any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def shaped(shape: str, kind: str = "'|u1'") -> bytes:
    return headed(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}")


def packed(path, entries):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in entries:
            archive.writestr(f"{name}.npy", content)
    return path


UNREADABLE = r"bad\.npz: array 'images' cannot be read \({}.*\)\. Try: save it again as a plain array"
LABEL_KIND = r"bad\.npz: array 'labels' is {}; expected integers \(4,\), one class per image\."
TASKS = {
    "more bytes than the world has": ({"images": shaped("(1099511627776, 64, 64, 3)")}, UNREADABLE.format("Unable to allocate 12")),
    "fewer bytes than promised": ({"images": shaped("(40, 6, 5, 3)")}, UNREADABLE.format("")),
    "a side below zero": ({"images": shaped("(-4, 6, 5, 3)")}, UNREADABLE.format("negative dimensions|")),
    "a side beyond all numbers": ({"images": shaped("(99999999999999999999, 6, 5, 3)")}, UNREADABLE.format("")),
    "a program for a header": ({"images": headed("__import__('os').mkdir('marker')")}, UNREADABLE.format("")),
    "a shape of words": ({"images": shaped("('a',)")}, UNREADABLE.format("shape is not valid")),
    "a shape nested without end": ({"images": shaped("(" * 5000 + ")" * 5000)}, UNREADABLE.format("Header info length")),
    "objects": ({"images": shaped("(4,)", "'|O'")}, UNREADABLE.format("Object arrays cannot be loaded")),
    "nothing": ({"images": b""}, r"array 'images' is \|S1 \(\); images are uint8, 0 to 255"),
    "floats": (
        {"images": npy(IMAGES / 255)},
        r"array 'images' is float64 \(4, 6, 5, 3\); images are uint8, 0 to 255, or uint16\. For floats in 0\.\.1, try: \(images \* 255\)",
    ),
    "NaN": ({"images": npy(IMAGES * np.nan)}, r"array 'images' is float64 .*; images are uint8"),
    "records": ({"images": npy(np.zeros(4, [("r", "u1"), ("g", "u1")]))}, r"array 'images' is .*\(4,\); images are uint8"),
    "channels first": (
        {"images": npy(IMAGES.transpose(0, 3, 1, 2))},
        r"\(4, 3, 6, 5\); allowed are .*If channels come first, try: images\.transpose",
    ),
    "no images": ({"images": npy(IMAGES[:0]), "labels": npy(LABELS[:0])}, r"array 'images' is uint8 \(0, 6, 5, 3\); allowed are .*, not empty"),
    "labels that are NaN": ({"labels": npy(LABELS * np.nan)}, LABEL_KIND.format(r"float64 \(4,\)")),
    "labels that are words": ({"labels": npy(np.array(["a", "b", "a", "b"]))}, LABEL_KIND.format(r"<U1 \(4,\)")),
    "labels that are hours": ({"labels": npy(LABELS.astype("m8[h]"))}, LABEL_KIND.format(r"timedelta64\[h\] \(4,\)")),
    "fewer labels": ({"labels": npy(LABELS[:3])}, LABEL_KIND.format(r"int64 \(3,\)")),
    "labels below zero": (
        {"labels": npy(LABELS - 1)},
        r"labels run from -1 to 0; allowed are 0 and above\. Try: remove images without a label",
    ),
    "labels beyond the names": ({"class_names": npy(np.array(["a"]))}, r"labels run from 0 to 1; allowed are 0 \.\. 0, indices into class_names"),
    "a name twice": ({"class_names": npy(np.array(["a", "a"]))}, r"array 'class_names' has duplicates 'a'; class names must be unique"),
    "names that are objects": ({"class_names": shaped("(2,)", "'|O'")}, r"array 'class_names' cannot be read \(Object arrays"),
    "names that are numbers": (
        {"class_names": npy(LABELS)},
        r"array 'class_names' is int64 \(4,\); expected strings \(classes,\)\. Try: class_names=np\.array",
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_arrays_that_are_no_task_are_refused_with_a_sentence(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    entries, sentence = TASKS[case]
    packed(tmp_path / "bad.npz", ({"images": npy(IMAGES), "labels": npy(LABELS)} | entries).items())
    with pytest.raises(DataError, match=sentence):
        load_task("npz:bad.npz")
    assert main(["tasks", "show", "bad.npz"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir() == ["bad.npz"]


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "bad.npz", images=np.array([Runs(tmp_path / "marker")] * 4, object), labels=LABELS)
    with pytest.raises(DataError, match=UNREADABLE.format("Object arrays cannot be loaded")):
        load_task(tmp_path / "bad.npz")
    assert not (tmp_path / "marker").exists()


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    packed(tmp_path / "bad.npz", [("images", npy(IMAGES)), ("labels", npy(LABELS)), ("images", npy(IMAGES[::-1]))])
    with pytest.raises(DataError, match=r"bad\.npz: has duplicate arrays images\. Try: save it again"):
        load_task(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [b"", b"hello", npy(IMAGES)[:50], b"PK\x03\x04" + bytes(100)], ids=["no bytes", "text", "cut", "half a zip"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz: cannot be read as an \.npz file \(.*\)\. Is it complete"):
        load_task(tmp_path / "bad.npz")


def idx(kind: int, *shape: int) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


IDX = {
    "no bytes": (b"", r"not an IDX file of unsigned bytes with 3 dimensions: it starts with ''"),
    "a web page": (b"<html>404</html>", r"is a web page, .*Try: download the file itself\.$"),
    "text": (b"hello", r"it starts with '68 65 6c 6c'"),
    "floats": (idx(13, 1, 2, 2) + bytes(16), r"it starts with '00 00 0d 03', not '00 00 08 03'"),
    "labels for images": (idx(8, 4) + bytes(4), r"it starts with '00 00 08 01', not '00 00 08 03'"),
    "cut": (idx(8, 2, 2, 2) + bytes(7), r"its header declares 8 values, it has 7\. Try: download it again"),
    "too long": (idx(8, 2, 2, 2) + bytes(9), r"its header declares 8 values, it has more\. Try: download it again"),
    "a lie of 2**96": (idx(8, *[2**32 - 1] * 3), r"allowed are 1,073,741,824\. It is damaged"),
    "a bomb": (gzip.compress(idx(8, 2, 2, 2) + bytes(2**25)), r"its header declares 8 values, it has more"),
    "cut gzip": (
        gzip.compress(idx(8, 2, 2, 2) + bytes(8))[:-4],
        r"cannot be read \(Compressed file ended.*\)\. Is it complete\? Try: download it again",
    ),
    "gzip with a wrong checksum": (
        gzip.compress(idx(8, 2, 2, 2) + bytes(8))[:-8] + bytes(8),
        r"cannot be read \(CRC check failed.*Try: download it again",
    ),
}


@pytest.mark.parametrize("case", IDX)
def test_a_damaged_idx_file_is_named(tmp_path, case):
    content, sentence = IDX[case]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(8, 2) + b"\0\1")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte:? .*" + sentence):
        load_task(f"fashion_mnist:{tmp_path}")


KERNEL = {"kernel": np.eye(4), "labels": LABELS, "class_names": np.array(["a", "b"]), "indices": np.arange(4), "provenance": np.array("{}")}
KERNELS = {
    "provenance nested without end": ({"provenance": np.array("[" * 100_000)}, r"bad\.npz: the provenance is not JSON \(maximum recursion depth"),
    "provenance of bytes": ({"provenance": np.array(b"{}")}, r"the provenance is not JSON"),
    "complex numbers": ({"kernel": np.eye(4) * 1j}, r"the kernel is complex128 \(4, 4\) for labels \(4,\); allowed are floats \(n, n\)"),
    "a sketch without a description": ({"sketch": np.eye(4)}, r"bad\.npz: The provenance does not describe the sketch"),
    "a sketch of a number": ({"sketch": np.eye(4), "provenance": np.array('{"sketch": 5}')}, r"The provenance does not describe the sketch"),
    "a sketch of something else": ({"sketch": np.ones((4, 4))}, r"the kernel is not that of the sketch: its diagonal differs"),
}


@pytest.mark.parametrize("case", KERNELS)
def test_a_saved_kernel_that_is_damaged_is_named(tmp_path, case):
    changes, sentence = KERNELS[case]
    np.savez(tmp_path / "bad.npz", **KERNEL | changes)
    with pytest.raises(DataError, match=sentence):
        load_kernel(tmp_path / "bad.npz")


def test_a_pickle_in_a_saved_kernel_is_not_loaded(tmp_path):
    np.savez(tmp_path / "bad.npz", **KERNEL | {"provenance": np.array([Runs(tmp_path / "marker")], object)})
    with pytest.raises(DataError, match=r"bad\.npz is not an \.npz file that can be read \(Object arrays cannot be loaded"):
        load_kernel(tmp_path / "bad.npz")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", ["x" * 5000 + ".npz", "~nobody_of_this_name/k.npz", "no\0where.npz"])
def test_a_kernel_that_cannot_be_there_is_named(place):
    with pytest.raises(DataError, match=r"There is no file '.*'\. Try: ntk-select kernel --expert NAME"):
        load_kernel(place)
