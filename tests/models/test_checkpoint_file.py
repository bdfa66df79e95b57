"""Checkpoint formats are recognised by content, whatever the file name."""

import gzip
import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ntk_select.errors import ModelError
from ntk_select.models.checkpoint_file import opened_checkpoint
from ntk_select.models.convert import read_checkpoint

ONE = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def writer(loaded):
    return loaded("models/torch_writer.py")


@pytest.mark.parametrize("suffix", ["pth", "PTH", "pt", "ckpt", "th", "bin", "tar", "pth.tar", "SafeTensors", "safetensors", "weights", "onnx", ""])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_suffix_decides_nothing(tmp_path, writer, suffix, kind):
    path = tmp_path / f"a.{suffix}"
    if kind == "safetensors":
        path.write_bytes(save(ONE))
    else:
        writer.save(ONE, path, legacy=kind == "legacy")
    found = read_checkpoint(path)
    assert found.keys() == ONE.keys()
    np.testing.assert_array_equal(found["conv.weight"], ONE["conv.weight"])


def test_a_header_whose_length_is_the_letter_of_json_is_no_json(tmp_path):
    for length in (ord("{"), ord("["), ord("<"), ord(" "), ord("\n"), 0x80):
        path, text = tmp_path / "a.pth", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        size = length if length >= len(text) else length + 256
        path.write_bytes(size.to_bytes(8, "little") + text.ljust(size) + np.float32(5).tobytes())
        assert read_checkpoint(path)["a"] == 5


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2145\nsize 102\n"
FILES = {
    "pointer": (POINTER, "is a Git LFS pointer, not the file itself. Try, in its repository: git lfs pull"),
    "pointer with a mark": (b"\xef\xbb\xbf" + POINTER, "is a Git LFS pointer"),
    "page": (b"<!DOCTYPE html><html>404</html>", "is a web page, as servers return for a missing file"),
    "short page": (b"\n <HTML><body>Sign in</body>", "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf<!doctype html>", "is a web page"),
    "refusal of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "refusal of an interface": (b'{"message": "Not Found"}', "is JSON text, not weights"),
    "nothing": (b"", "is empty"),
    "gzip": (gzip.compress(b"x"), "is compressed with gzip. Try: gunzip FILE"),
    "xz": (lzma.compress(b"x"), "is compressed with xz"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as written by Keras and TensorFlow"),
    "NumPy": (b"\x93NUMPY\x01\x00", "is a NumPy array"),
    "ONNX": (b"\x08\x07\x12\x07pytorch", "has an unknown format. Allowed: .safetensors files and files written by torch.save"),
    "cut zip": (b"PK\x03\x04" + bytes(100), "is truncated or damaged: it begins as a zip archive and does not end as one"),
    "text": (b"hello", "has an unknown format"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", FILES)
def test_what_stands_in_place_of_a_checkpoint_is_said(tmp_path, case, suffix):
    content, sentence = FILES[case]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    if case in ("ONNX", "text") and suffix == ".safetensors":
        sentence = "is not a valid safetensors file"
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"Checkpoint {path} {sentence}")


def test_a_tar_archive_is_to_be_unpacked(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())
    with pytest.raises(ModelError, match=r"a\.tar is a tar archive. Try: tar xf"):
        read_checkpoint(tmp_path / "a.tar")


def test_what_is_not_there_and_what_is_no_file_are_told_apart(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.pth is not a file: there is no such file\."):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(ModelError, match="is not a file but a folder"):
        read_checkpoint(tmp_path)


def test_a_file_whose_beginning_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pth").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"a\.pth cannot be read: Permission denied"):
        read_checkpoint(tmp_path / "a.pth")


def test_an_archive_is_closed_when_it_has_been_read(tmp_path, writer):
    with opened_checkpoint(writer.save(ONE, tmp_path / "a.pth")) as content:
        kept = content["conv.weight"]
    with pytest.raises(ModelError, match="cannot be read"):
        kept.array("conv.weight")
