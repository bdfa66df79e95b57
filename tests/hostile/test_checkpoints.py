"""`zoo convert` rejects damaged, inconsistent or malicious checkpoints with an error message, and leaves nothing in the zoo."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ntk_select.cli import main
from ntk_select.errors import ModelError, escaped
from ntk_select.models import build
from ntk_select.models.state_dict import tensor_table

TABLE = tensor_table(build("resnet_small", num_classes=3))
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def sound(change=None) -> dict[str, np.ndarray]:
    """A state dict that converts; `change` gets (name, array) and gives the array that takes its place."""
    rng = np.random.default_rng(0)
    state = {key: rng.uniform(0.1, 1, row.shape).astype(np.float32) for key, row in TABLE.items()}
    return {key: change(key, array) for key, array in state.items()} if change else state


def lying(header, data: bytes = bytes(4), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def spoilt(name: str, value: float):
    return lambda key, array: np.where(np.arange(array.size).reshape(array.shape) == 1, np.float32(value), array) if key == name else array


NOT_SOUND = r"bad\.safetensors is not a valid safetensors file \(.*{}.*\)\. Try: download it again"
UNFIT = r"bad\.safetensors as resnet_small: The checkpoint does not fit ResNet\. .*{}"

FILES = {
    "of no bytes": (b"", r"bad\.safetensors is empty\. Try: download it again"),
    "cut in the header": (save(sound())[:100], NOT_SOUND.format("invalid header length")),
    "cut in the numbers": (save(sound())[:-1], NOT_SOUND.format("incomplete metadata")),
    "with more behind it": (save(sound()) + b"x", NOT_SOUND.format("incomplete metadata")),
    "a web page": (b"<!DOCTYPE html><html>404 not found</html>", r"bad\.safetensors is a web page"),
    "a header of 2**60 bytes": (lying({"a": ONE}, length=2**60), NOT_SOUND.format("header too large")),
    "a header of 2**64 - 1 bytes": (lying({"a": ONE}, length=2**64 - 1), NOT_SOUND.format("header too large")),
    "a header of no bytes": (lying(b"", b""), NOT_SOUND.format("EOF while parsing")),
    "a header that is a list": (lying(b"[]"), NOT_SOUND.format("invalid type: sequence")),
    "a header that is nested without end": (lying(b'{"a":' * 100_000), NOT_SOUND.format("recursion limit exceeded")),
    "a header that is not UTF-8": (lying(b'{"\xff": 1}'), NOT_SOUND.format("invalid utf-8")),
    "a name that is half a letter": (lying(json.dumps({"\ud800": ONE}).encode()), NOT_SOUND.format("hex escape")),
    "tensors that overlap": (lying({"a": ONE, "b": {**ONE, "data_offsets": [2, 6]}}, bytes(6)), NOT_SOUND.format("invalid offset for tensor `b`")),
    "a hole between tensors": (
        lying({"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}, bytes(12)),
        NOT_SOUND.format("invalid offset for tensor `b`"),
    ),
    "a tensor before the first byte": (lying({"a": {**ONE, "data_offsets": [-4, 0]}}), NOT_SOUND.format("-4`, expected usize")),
    "a tensor twice": (lying(b'{"a": %s, "a": %s}' % ((json.dumps(ONE).encode(),) * 2), bytes(8)), NOT_SOUND.format("incomplete metadata")),
    "a shape of more bytes than there are": (lying({"a": {**ONE, "shape": [2**40, 2**40]}}), NOT_SOUND.format("overflow computing buffer size")),
    "a shape of none times very many": (lying({"a": {**ONE, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""), NOT_SOUND.format("too big")),
    "a shape of a hundred axes": (lying({"a": {**ONE, "shape": [1] * 100}}), NOT_SOUND.format("supported dimension for an ndarray")),
    "a type that is not known": (lying({"a": {**ONE, "dtype": "F99"}}), NOT_SOUND.format("unknown variant `F99`")),
    "a type without float32": (
        lying({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        r"bad\.safetensors contains types that cannot be converted: a \(C64\)\. Allowed: F64, F32, F16, BF16",
    ),
    "of another network": (save({"a": np.ones(1, np.float32)}), UNFIT.format(r"1 tensor unknown: a; \d+ tensors missing: bn1\.bias")),
    "NaN": (save(sound(spoilt("conv1.weight", np.nan))), UNFIT.format(r"1 tensor with NaN or infinity: conv1\.weight\.")),
    "infinity": (save(sound(spoilt("fc.bias", -np.inf))), UNFIT.format(r"1 tensor with NaN or infinity: fc\.bias\.")),
    "numbers beyond float32": (
        save(sound() | {"fc.bias": np.full(3, 1e300)}),
        UNFIT.format(r"1 tensor with NaN or infinity: fc\.bias\."),
    ),
    "a variance below zero": (save(sound(spoilt("bn1.running_var", -1e-3))), UNFIT.format(r"1 tensor with negative variances: bn1\.running_var\.")),
    "a kernel on its side": (
        save(sound(lambda key, array: np.ascontiguousarray(array.swapaxes(0, 1)) if key == "conv1.weight" else array)),
        UNFIT.format(r"1 tensor of the wrong shape: conv1\.weight \(3, 32, 4, 4\), expected \(32, 3, 4, 4\)\."),
    ),
    "whole numbers": (
        save(sound(lambda key, array: array.astype(np.int8) if key == "bn1.weight" else array)),
        UNFIT.format(r"1 tensor not floating point: bn1\.weight \(int8\)\."),
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_checkpoint_is_refused_with_a_sentence_and_leaves_nothing(tmp_path, capsys, case):
    content, sentence = FILES[case]
    (tmp_path / "bad.safetensors").write_bytes(content)
    assert main(["zoo", "convert", str(tmp_path / "bad.safetensors"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    printed = capsys.readouterr()
    with pytest.raises(ModelError, match=sentence):
        raise ModelError(printed.err)
    assert printed.err.startswith("ntk-select: ")
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def test_a_file_larger_than_the_memory_is_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "bad.safetensors").write_bytes(save(sound()))

    def full(_):
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", full)
    assert main(["zoo", "convert", str(tmp_path / "bad.safetensors"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert "cannot be read: its 694,804 bytes do not fit into memory. Is it the right file?" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["x" * 5000 + ".safetensors", "no\0where.pth", "new\nline.pth", "~nobody_of_this_name/a.pth"])
def test_a_path_that_cannot_be_is_named(tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    assert main(["zoo", "convert", place, "--arch", "resnet_small"]) == 2
    assert f"Checkpoint {escaped(place)} is not a file" in capsys.readouterr().err


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert main(["zoo", "convert", str(tmp_path / "pipe.safetensors"), "--arch", "resnet_small"]) == 2
    assert "pipe.safetensors is not a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (".hidden", r"--name '.hidden' must be the name of a folder in --out, without separators and without a leading dot"),
        ("..", r"without separators and without a leading dot"),
        ("a/b", r"without separators"),
        (os.fsdecode(b"caf\xe9"), r"The name 'caf\udce9' is not UTF-8. Try: name=NAME"),
    ],
)
def test_a_name_under_which_nobody_would_find_the_expert_is_refused(tmp_path, capsys, name, sentence):
    (tmp_path / "a.safetensors").write_bytes(save(sound()))
    assert main(["zoo", "convert", str(tmp_path / "a.safetensors"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo"), "--name", name]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_checkpoint_may_lie_anywhere_and_be_called_anything(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9 \n\xf0\x9f\x98\x80")
    folder.mkdir()
    (folder / "größe 😀\n2.safetensors").write_bytes(save(sound()))
    assert main(["zoo", "convert", str(folder / "größe 😀\n2.safetensors"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo"), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["name"], Path(card["origin"]).name) == ("größe 😀\n2", "größe 😀\n2.safetensors")
    assert main(["zoo", "verify", "--zoo", str(tmp_path / "zoo")]) == 0
