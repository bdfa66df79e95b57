"""Writer of files as from `torch.save`, without PyTorch: NumPy arrays become tensors."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import FunctionType
from typing import ClassVar, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
    np.float64: "DoubleStorage",
    np.float32: "FloatStorage",
    np.float16: "HalfStorage",
    ml_dtypes.bfloat16: "BFloat16Storage",
    np.int64: "LongStorage",
    np.uint8: "ByteStorage",
}


class Global:
    """What a pickle names and this Python need not have: Global("torch._utils", "_rebuild_tensor_v2")."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):
        raise NotImplementedError


class Made(NamedTuple):
    """An object that function(*arguments) makes, with `state` as its `__dict__`."""

    function: Global
    arguments: tuple = ()
    state: dict | None = None


class Storage(NamedTuple):
    kind: str
    key: str
    count: int


class Pickler(pickle._Pickler):
    # dill, which the package datasets imports, adds its own ways to pickle types to this table.
    dispatch: ClassVar = {kind: save for kind, save in pickle._Pickler.dispatch.items() if save.__module__ == "pickle"} | {
        dict: pickle._Pickler.save_dict,
        type: pickle._Pickler.save_type,
        FunctionType: pickle._Pickler.save_global,
    }

    def __init__(self, file, protocol=2):
        super().__init__(file, protocol)
        self.storages: dict[int, tuple[Storage, bytes]] = {}
        self.kept = []

    def persistent_id(self, obj):
        return (
            ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.count) + ((None,) if self.legacy else ()) if isinstance(obj, Storage) else None
        )

    def reducer_override(self, obj):
        if isinstance(obj, Global):
            return obj.name
        if isinstance(obj, np.ndarray):
            base = obj if obj.base is None or not isinstance(obj.base, np.ndarray) else obj.base
            self.kept.append(base)
            numbers = np.ascontiguousarray(base).reshape(-1)
            storage, _ = self.storages.setdefault(
                id(base), (Storage(STORAGES[obj.dtype.type], str(len(self.storages)), numbers.size), numbers.tobytes())
            )
            start = (obj.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // obj.itemsize
            strides = tuple(stride // obj.itemsize for stride in obj.strides)
            return Global("torch._utils", "_rebuild_tensor_v2"), (storage, start, obj.shape, strides, False, OrderedDict())
        if isinstance(obj, Made):
            return obj.function, obj.arguments, obj.state
        return NotImplemented

    def save(self, obj, *args, **kwargs):
        if isinstance(obj, Made):  # a tuple, which would be saved as one
            self.save_reduce(obj.function, obj.arguments, obj.state, obj=obj)
        else:
            super().save(obj, *args, **kwargs)

    def save_global(self, obj, name=None):
        if isinstance(obj, Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    legacy = False


def pickled(content, legacy: bool = False, protocol: int = 2) -> tuple[bytes, list[tuple[Storage, bytes]]]:
    """The pickle of a content, and the storages that it names."""
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.legacy = legacy
    pickler.dump(content)
    return file.getvalue(), list(pickler.storages.values())


def save(content, path: Path, *, legacy: bool = False, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None) -> Path:
    """Writes a content as PyTorch does, today or (`legacy`) before 1.6."""
    data, storages = pickled(content, legacy)
    if legacy:
        parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})]
        parts += [data, pickle.dumps([storage.key for storage, _ in storages], 2)]
        parts += [struct.pack("<q", storage.count) + numbers for storage, numbers in storages]
        path.write_bytes(b"".join(parts))
        return path
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for storage, numbers in storages:
            archive.writestr(f"archive/data/{storage.key}", numbers)
        archive.writestr("archive/version", "3\n")
        for name, text in (extra or {}).items():
            archive.writestr(name, text)
    return path
