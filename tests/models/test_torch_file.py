"""Files of `torch.save` are read without PyTorch, and nothing in them is executed."""

import argparse
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import ml_dtypes
import numpy as np
import pytest

from ntk_select.errors import ModelError
from ntk_select.models.checkpoint_file import opened_checkpoint
from ntk_select.models.convert import read_checkpoint
from ntk_select.models.torch_file import StoredTensor, as_mapping

NUMBERS = np.arange(24, dtype=np.float32).reshape(4, 6)
TENSORS = {
    "float32": NUMBERS,
    "float64": NUMBERS.astype(np.float64),
    "float16": NUMBERS.astype(np.float16),
    "bfloat16": NUMBERS.astype(ml_dtypes.bfloat16),
    "int64": np.array(7),
    "turned": NUMBERS.T,
    "part": NUMBERS[1:3, ::2],
}


@pytest.fixture
def writer(loaded):
    return loaded("models/torch_writer.py")


def read(path, *keys):
    with opened_checkpoint(path) as content:
        for key in keys:
            content = as_mapping(content)[key]
        tensors = {key: value for key, value in as_mapping(content).items() if isinstance(value, StoredTensor)}
        return {key: value.array(key) for key, value in tensors.items()}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_all_types_and_strides_are_read(tmp_path, writer, legacy):
    found = read(writer.save({"state_dict": OrderedDict(TENSORS), "epoch": 3}, tmp_path / "a.pth", legacy=legacy), "state_dict")
    assert found.keys() == TENSORS.keys()
    for key, array in TENSORS.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.oracle
@pytest.mark.parametrize("legacy", [False, True])
def test_what_pytorch_writes_is_read_as_pytorch_reads_it(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    values = torch.arange(24.0).reshape(4, 6)
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    tensors = {
        **{
            str(kind): values.to(kind)
            for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.uint16)
        },
        "turned": values.T,
        "part": values[1:3, ::2],
        "parameter": torch.nn.Parameter(values),
        "buffer": torch.nn.Buffer(values),
    }
    content = {"state_dict": tensors, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("x")), "mean": np.float64(3), "module": network}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    for found, expected in ((read(tmp_path / "a.pth", "state_dict"), tensors), (read(tmp_path / "a.pth", "module"), network.state_dict())):
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            np.testing.assert_array_equal(found[key].astype(np.float64), tensor.detach().double().numpy())


@pytest.mark.oracle
def test_pytorch_reads_what_the_writer_of_these_tests_writes(tmp_path, writer):
    torch = pytest.importorskip("torch")
    for legacy in (False, True):
        found = torch.load(writer.save({"a": NUMBERS.T}, tmp_path / "a.pth", legacy=legacy), weights_only=True)
        np.testing.assert_array_equal(found["a"].numpy(), NUMBERS.T)


def test_objects_of_classes_stay_closed(tmp_path, writer):
    content = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")),
        "config": writer.Made(writer.Global("omegaconf.dictconfig", "DictConfig"), (), {"_content": {"a": 1}}),
        "numbers": {1, 2},
        "default": defaultdict(list, a=[1]),
        "weights": {"a": NUMBERS},
    }
    with opened_checkpoint(writer.save(content, tmp_path / "a.pth")) as found:
        assert (found["args"].kind, found["args"].state["lr"]) == ("argparse.Namespace", 0.1)
        assert (found["config"].kind, found["config"].state) == ("omegaconf.dictconfig.DictConfig", {"_content": {"a": 1}})
        assert as_mapping(found["default"]) == {"a": [1]}
        np.testing.assert_array_equal(found["weights"]["a"].array("a"), NUMBERS)


def test_a_pickled_module_gives_its_state_dict(tmp_path, writer):
    def module(kind, parameters, buffers=(), modules=()):
        state = {"_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules), "training": True}
        return writer.Made(writer.Global("torch.nn.modules", kind), (), state)

    inner = module("BatchNorm2d", {"weight": NUMBERS[0], "bias": None}, {"running_mean": NUMBERS[1]})
    found = read(writer.save(module("Sequential", {}, (), {"0": inner}), tmp_path / "a.pth"))
    assert found.keys() == {"0.weight", "0.running_mean"}
    np.testing.assert_array_equal(found["0.running_mean"], NUMBERS[1])


class Runs:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_is_run(tmp_path, writer, legacy):
    path = writer.save({"weights": {"a": NUMBERS}, "payload": Runs(tmp_path / "made"), Runs(tmp_path / "key"): 1}, tmp_path / "a.pth", legacy=legacy)
    assert read(path, "weights").keys() == {"a"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]
    plain = pickle.dumps(Runs(tmp_path / "made"))
    pickle.loads(plain)
    assert (tmp_path / "made").exists(), "the payload works where it is not kept closed"


def test_what_a_pickle_sets_on_a_function_is_gone_with_the_file(tmp_path, writer):
    hostile = pickle.PROTO + b"\x02" + b"ctorch._utils\n_rebuild_tensor_v2\n" + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b."
    for name, content in (("a.pth", hostile), ("b.pth", b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00as1b.")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"is damaged|holds a"), opened_checkpoint(tmp_path / name) as content:
            raise ModelError(f"holds a {content}")
    assert not hasattr(OrderedDict, "a")
    assert read(writer.save({"a": NUMBERS}, tmp_path / "c.pth")).keys() == {"a"}


def test_a_memo_of_a_billion_entries_costs_no_memory(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    with opened_checkpoint(tmp_path / "a.pth") as content:
        assert content == {}


def test_a_shape_of_more_numbers_than_the_file_holds_is_refused(tmp_path, writer):
    storage = writer.Storage("FloatStorage", "0", 1)
    rebuild = writer.Global("torch._utils", "_rebuild_tensor_v2")
    for shape, strides, sentence in (
        ((10**9, 1000), (0, 0), "more elements than the file"),
        ((1,), (1,), r"cannot be read .*the file is damaged"),
    ):
        made = writer.Made(rebuild, (storage, 5, shape, strides, False, OrderedDict()))
        path = writer.save({"a": made}, tmp_path / "a.pth", extra={"archive/data/0": b"\0" * 4})
        with pytest.raises(ModelError, match=sentence):
            read(path)


def test_a_tensor_whose_numbers_are_not_there_is_named(tmp_path, writer):
    path = writer.save({"a": NUMBERS, "b": NUMBERS + 1}, tmp_path / "a.pth")
    with zipfile.ZipFile(path) as before:
        entries = {name: before.read(name) for name in before.namelist() if name != "archive/data/1"}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in entries.items():
            after.writestr(name, content)
    with pytest.raises(ModelError, match=r"b cannot be read .*Try: download it again"):
        read(path)


def test_the_other_byte_order_is_read(tmp_path, writer):
    path = writer.save({"a": np.array([1.5, -2], np.float32)}, tmp_path / "a.pth")
    with zipfile.ZipFile(path) as before:
        entries = {name: before.read(name) for name in before.namelist()}
    for order, sound in (("big", True), ("middle", False)):
        with zipfile.ZipFile(path, "w") as after:
            for name, content in entries.items():
                swapped = np.frombuffer(content, "<f4").astype(">f4").tobytes() if name.endswith("data/0") else content
                after.writestr(name, order if name.endswith("byteorder") else swapped)
        if sound:
            np.testing.assert_array_equal(read(path)["a"], [1.5, -2])
        else:
            with pytest.raises(ModelError, match="declares the byte order 'middle'"):
                read(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, r"a\.pth contains compressed records.*Try: save it again with torch\.save"),
        ({"extra": {"archive/constants.pkl": b""}}, r"a\.pth is a TorchScript program, not a state dict"),
        ({"extra": {"other/data.pkl": b""}}, r"a\.pth is a zip archive that PyTorch did not write"),
    ],
)
def test_other_archives_are_told_apart(tmp_path, writer, change, sentence):
    with pytest.raises(ModelError, match=sentence):
        read(writer.save({"a": NUMBERS}, tmp_path / "a.pth", **change))


def test_an_archive_of_numpy_is_told_apart(tmp_path):
    np.savez(tmp_path / "a.npz", a=NUMBERS)
    with pytest.raises(ModelError, match=r"a\.npz is a zip archive that PyTorch did not write: it contains NumPy arrays"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_is_cut_anywhere_is_named(tmp_path, writer, legacy):
    content = writer.save({"a": NUMBERS, "b": NUMBERS + 1}, tmp_path / "a.pth", legacy=legacy).read_bytes()
    for length in range(2 if legacy else 4, len(content) - 1, 37):
        (tmp_path / "a.pth").write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"a\.pth is (truncated or )?damaged"):
            read(tmp_path / "a.pth")


def test_numbers_that_are_no_storage_are_refused(tmp_path, writer):
    class Odd(writer.Pickler):
        def persistent_id(self, obj):
            return ("storage", "float", "0", "cpu", 1) if isinstance(obj, writer.Storage) else None

    with (tmp_path / "a.pth").open("wb") as file:
        Odd(file).dump({"a": NUMBERS})
    with pytest.raises(ModelError, match=r"a\.pth is damaged or was not written by torch\.save \(UnpicklingError: invalid storage"):
        read(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_damaged_bytes_is_read_or_refused(tmp_path, writer, legacy):
    content = writer.save({"state_dict": OrderedDict(a=NUMBERS, b=NUMBERS[0])}, tmp_path / "a.pth", legacy=legacy).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "a.pth").write_bytes(bytes(damaged))
        try:
            assert all(isinstance(array, np.ndarray) for array in read_checkpoint(tmp_path / "a.pth").values())
        except ModelError:
            refused += 1
    assert refused > 50
