"""`zoo convert` rejects malicious .pth files with an error message, without executing them or allocating much memory."""

import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from ntk_select.cli import main


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def bare_pickle(torch, path, marker):
    path.write_bytes(pickle.dumps(Runs(marker)))


def in_the_state_dict(torch, path, marker):
    torch.save({"conv1.weight": torch.ones(2), "bn1.weight": Runs(marker)}, path)


def as_a_key(torch, path, marker):
    torch.save({Runs(marker): torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def in_a_sound_zip(torch, path, marker):
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as before:
        entries = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in entries.items():
            after.writestr(name, pickle.dumps({"a": Runs(marker)}, protocol=2) if name.endswith("data.pkl") else content)


def a_whole_module(torch, path, marker):
    torch.save(torch.nn.Linear(1, 1), path)


def one_number_as_a_trillion(torch, path, marker):
    torch.save({"fc.weight": torch.ones(1).expand(10**9, 1000)}, path)


def turned_bit(torch, path, marker):
    torch.save({"a": torch.arange(64)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"data.pkl") + 70] ^= 0x40
    path.write_bytes(content)


FILES = {
    bare_pickle: "contains a posix.mkdir, not a state dict, and nothing in it was run",
    in_the_state_dict: "54 tensors missing: bn1.bias, bn1.weight",
    as_a_key: "contains no tensors",
    in_a_sound_zip: "contains no tensors: a (posix.mkdir)",
    a_whole_module: "2 tensors unknown: weight, bias",
    one_number_as_a_trillion: "fc.weight of checkpoint {path} cannot be converted: its shape (1000000000, 1000) has more elements than the file",
    turned_bit: "is damaged or was not written by torch.save (BadZipFile: Bad CRC-32 for file 'bad/data.pkl'), and nothing in it was run",
}


@pytest.mark.oracle
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_pth_is_refused_with_a_sentence_and_runs_nothing(tmp_path, capsys, make):
    torch = pytest.importorskip("torch")
    path = tmp_path / "bad.pth"
    make(torch, path, tmp_path / "marker")
    assert main(["zoo", "convert", str(path), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert FILES[make].format(path=path) in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["bad.pth"]


def text(words: str) -> bytes:
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def entries(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\2NtQ"
ADDRESSES = b"ccollections\nOrderedDict\n)R(" + text("names") + b"]" + text("a") + b"a" + text("formats") + b"]" + text("O") + b"au"
"""What NumPy would take for a type of one Python object."""


NONE, ONE, TWO = number(0), numbers(1), numbers(2)


def tensor(storage=STORAGE, offset=NONE, shape=TWO, strides=ONE, function="_rebuild_tensor_v2") -> bytes:
    return f"ctorch._utils\n{function}\n(".encode() + storage + offset + shape + strides + b"\x89NtR"


def legacy(value: bytes) -> bytes:
    """A file of PyTorch before 1.6 that holds a value under the name of a tensor, and a storage of eight bytes that are an address."""
    heads = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(heads) + b"\x80\2}(" + text("conv1.weight") + value + b"u." + pickle.dumps(["0"], 2) + struct.pack("<qQ", 2, 0x4141414141414140)


ATTACKS = {
    "a type of addresses": tensor() + entries(dtype=ADDRESSES + entries(itemsize=b"K\x08") + b"b", shape=numbers(1), strides=numbers(1)) + b"b",
    "slots of a tensor": tensor() + b"N" + entries(dtype=text("O")) + b"\x86b",
    "a shape that is set": tensor() + entries(shape=b"N") + b"b",
    "what reads a storage": tensor(STORAGE + entries(read=b"cos\ngetcwd\n") + b"b"),
    "slots of a storage": tensor(STORAGE + b"N" + entries(read=b"cos\ngetcwd\n") + b"\x86b"),
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\nN" + entries(__defaults__=b"N") + b"\x86b",
    "attributes of a class": b"ccollections\nOrderedDict\n" + entries(a=b"K\1") + b"b",
    "attributes of a closed class": b"cos\ngetcwd\n" + entries(kind=b"K\1") + b"b",
    "attributes of a type of numbers": b"ctorch\nFloatStorage\n" + entries(name=text("x")) + b"b",
    "no shape": tensor(shape=b"N"),
    "a negative offset": tensor(offset=number(-1)),
    "an offset beyond the file": tensor(offset=number(2)),
    "an offset beyond the memory": tensor(offset=number(2**62)),
    "an offset of many digits": tensor(offset=number(2**100)),
    "a negative length": tensor(shape=numbers(-1)),
    "two negative lengths": tensor(shape=numbers(-1, -2), strides=numbers(1, 1)),
    "a negative stride": tensor(strides=numbers(-1)),
    "a stride beyond the file": tensor(strides=numbers(2)),
    "a stride that overflows to nothing": tensor(strides=numbers(2**62)),
    "strides that overflow together": tensor(shape=numbers(2, 1, 1), strides=numbers(2**61, 2**61, 2**61)),
    "a stride of many digits": tensor(strides=numbers(2**100)),
    "fewer strides than axes": tensor(shape=numbers(1, 2)),
    "more strides than axes": tensor(strides=numbers(1, 1)),
    "a shape of fractions": tensor(shape=b"(G?\xf0\0\0\0\0\0\0t"),
    "a shape of words": tensor(shape=text("12"), strides=text("11")),
    "a hundred axes": tensor(shape=numbers(*[1] * 100), strides=numbers(*[1] * 100)),
    "a tensor as storage": tensor(tensor()),
    "a closed object as storage": tensor(b"cos\ngetcwd\n)R"),
    "a dictionary as storage": tensor(b"}"),
    "a key that is no text": tensor(b"(" + text("storage") + b"ctorch\nFloatStorage\n" + b"]" + text("cpu") + b"K\2NtQ"),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_what_a_pickle_says_of_tensors_is_checked(tmp_path, capsys, case):
    (tmp_path / "bad.pth").write_bytes(legacy(ATTACKS[case]))
    assert main(["zoo", "convert", str(tmp_path / "bad.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    said = capsys.readouterr().err
    assert ("nothing in it was run. Allowed: " in said and "Try: download it again" in said) or "cannot be read (" in said
    assert [found.name for found in tmp_path.iterdir()] == ["bad.pth"]


def test_the_sound_tensor_of_these_attacks_is_read(tmp_path, capsys):
    (tmp_path / "sound.pth").write_bytes(legacy(tensor()))
    assert main(["zoo", "convert", str(tmp_path / "sound.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert "1 tensor of the wrong shape: conv1.weight (2,)" in capsys.readouterr().err


HUGE = {
    "bytearray": b"\x96" + struct.pack("<Q", 4 * 10**9),
    "bytearray beyond the address space": b"\x96" + struct.pack("<Q", 2**64 - 1),
    "bytearray in a frame": b"\x95" + struct.pack("<Q", 9) + b"\x96" + struct.pack("<Q", 4 * 10**9),
    "frame": b"\x95" + struct.pack("<Q", 4 * 10**9),
    "bytes": b"\x8e" + struct.pack("<Q", 4 * 10**9),
    "text": b"\x8d" + struct.pack("<Q", 4 * 10**9),
    "short bytes": b"B" + struct.pack("<I", 2**32 - 1),
    "short text": b"X" + struct.pack("<I", 2**32 - 1),
    "old text": b"T" + struct.pack("<i", 2**31 - 1),
    "whole number": b"\x8b" + struct.pack("<i", 2**31 - 1),
}


@pytest.mark.parametrize("case", HUGE)
def test_a_length_of_gigabytes_in_a_few_bytes_costs_no_memory(tmp_path, capsys, case):
    (tmp_path / "bad.pth").write_bytes(b"\x80\5" + HUGE[case] + b".")
    tracemalloc.start()
    assert main(["zoo", "convert", str(tmp_path / "bad.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert "is damaged or was not written by torch.save" in capsys.readouterr().err


@pytest.mark.parametrize("older", [False, True])
def test_thousands_of_tensors_of_one_storage_take_no_more_memory_than_the_file(tmp_path, capsys, loaded, older):
    base = np.ones(2**18, np.float32)
    state = {f"layer{index}.weight": base[index:] for index in range(1000)} | {"conv1.weight": base}
    path = loaded("models/torch_writer.py").save(state, tmp_path / "bad.pth", legacy=older)
    tracemalloc.start()
    assert main(["zoo", "convert", str(path), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20 < base.nbytes * len(state)
    assert "1000 tensors unknown" in capsys.readouterr().err


FORTY_DOUBLINGS = b"K\1\x85" + b"q\0h\0\x86" * 40
"""A tuple of two tuples of two tuples ..., each held once: its hash and its text have a billion parts."""

ENDLESS = {
    "a key": b"}" + FORTY_DOUBLINGS + b"K\1s.",
    "one of several keys": b"}(" + FORTY_DOUBLINGS + b"K\1K\2K\3u.",
    "a key of a new dictionary": b"(" + FORTY_DOUBLINGS + b"K\1d.",
    "a key of an ordered dictionary": b"ccollections\nOrderedDict\n](" + FORTY_DOUBLINGS + b"K\1\x86e\x85R.",
    "a key of a closed object": b"cos\ngetcwd\n)R" + FORTY_DOUBLINGS + b"K\1s.",
    "a member of a set": b"\x8f(" + FORTY_DOUBLINGS + b"\x90.",
    "a member of a frozen set": b"(" + FORTY_DOUBLINGS + b"\x91.",
    "a whole number of many digits": b"}\x8b" + struct.pack("<i", 9000) + b"\x01" * 9000 + b"}s.",
}


@pytest.mark.parametrize("case", ENDLESS)
def test_keys_that_take_for_ever_are_passed_over(tmp_path, capsys, case):
    (tmp_path / "bad.pth").write_bytes(b"\x80\4" + ENDLESS[case])
    assert main(["zoo", "convert", str(tmp_path / "bad.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert "bad.pth contains " in capsys.readouterr().err


def test_a_name_of_numbers_that_takes_for_ever_is_refused(tmp_path, capsys):
    content = legacy(tensor())
    (tmp_path / "bad.pth").write_bytes(content.replace(pickle.dumps(["0"], 2), b"\x80\2]" + FORTY_DOUBLINGS + b"a."))
    assert main(["zoo", "convert", str(tmp_path / "bad.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert "invalid storage" in capsys.readouterr().err


def module(inner: bytes) -> bytes:
    """A pickled module of another program, with modules in it."""
    return b"cmine\nNet\n)\x81}(" + text("_parameters") + b"}" + text("_modules") + inner + b"ub"


def doubled(levels: int) -> bytes:
    """A module of two equal modules of two equal modules ..., each held once."""
    found = module(b"}")
    for level in range(levels):
        found = module(b"}(" + text("a") + found + b"q" + bytes([level]) + text("b") + b"h" + bytes([level]) + b"u")
    return b"\x80\2" + found + b"."


def entered(names: int, tensors: int) -> bytes:
    """One state dict under many names."""
    state = dict.fromkeys((f"conv{index}.weight" for index in range(tensors)), 0)
    return pickle.dumps(dict.fromkeys(range(names), state), 2)


SLOW = {
    "modules that double": (doubled(45), "contains a mine.Net, not a state dict, and nothing in it was run. Try: torch.save(model.state_dict()"),
    "a state dict under many names": (entered(20_000, 10_000), "contains no tensors: int (dict), int (dict)"),
    "a name of dots": (
        legacy(tensor()).replace(text("conv1.weight"), text("." * 200_000 + "conv1.weight")),
        "1 tensor of the wrong shape: conv1.weight",
    ),
    "a name of a megabyte": (legacy(tensor()).replace(text("conv1.weight"), text("x" * 2**20)), "xxx [...]"),
}


@pytest.mark.parametrize("case", SLOW)
def test_few_bytes_are_refused_without_work_beyond_their_number(tmp_path, capsys, case):
    content, sentence = SLOW[case]
    (tmp_path / "bad.pth").write_bytes(content)
    assert main(["zoo", "convert", str(tmp_path / "bad.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Try: " in said or "Allowed: " in said
    assert len(said) < 2500


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (tensor(STORAGE.replace(b"FloatStorage", b"QInt8Storage")), "torch.QInt8Storage"),
        (tensor(strides=ONE + b"\x89Nctorch\nfloat8_e8m0fnu\n", function="_rebuild_tensor_v3"), "torch.float8_e8m0fnu"),
    ],
)
def test_numbers_of_other_types_are_named(tmp_path, capsys, value, kind):
    (tmp_path / "bad.pth").write_bytes(legacy(value))
    assert main(["zoo", "convert", str(tmp_path / "bad.pth"), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert f"bad.pth contains tensors of the type {kind}, which cannot be converted. Try: tensor.dequantize()" in capsys.readouterr().err
