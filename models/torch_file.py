"""PyTorch files, read without PyTorch: tensors and plain containers are rebuilt, everything else stays closed.

A pickle names classes and functions and says what to call them with. Here each name leads to one of a few functions of this
file, which rebuild tensors, or to a `Closed` object, which keeps what it was given and runs nothing.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ntk_select.errors import ModelError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of PyTorch before 1.6 begins with, as a pickled number."""

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
    "UntypedStorage": np.uint8,
}
DTYPES = {
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
"""Types that have no storage of their own: PyTorch writes bytes and the name of the type."""

DAMAGED = (Exception, RecursionError, MemoryError)
"""What reading a damaged or hostile file may raise: nearly anything."""


class Closed:
    """An object of a class that is not known here. Nothing of the class is imported or run.

    Attributes:
      kind: module and name of the class, or of the function that would have made it.
      state: what `__setstate__` would have been given; None without.
      items: what would have been put into it by key, as into a dictionary.
    """

    kind = ""

    def __new__(cls, *_, **__):  # noqa: D102
        closed = object.__new__(cls)
        closed.state, closed.items = None, {}
        return closed

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, item):
        """Members of lists and sets are not kept."""

    extend = add = append


class Kind(NamedTuple):
    """A type of numbers, as a pickle names it. A tuple, which no pickle can change."""

    name: str


@dataclass(frozen=True, eq=False)
class Storage:
    """Numbers in the file: `read` gives their bytes."""

    dtype: np.dtype
    read: Callable[[], bytes]
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor whose numbers are still in the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self, where: str) -> np.ndarray:
        """The numbers, read from the file; `where` names the tensor in errors.

        Raises:
          ModelError: the file holds fewer numbers than the shape says, or cannot be read.
        """
        try:
            content = self.storage.read()
        except ModelError as error:
            raise ModelError(f"{where} cannot be read: the file {error}.") from error
        except DAMAGED as error:
            raise ModelError(f"{where} cannot be read ({error}): the file is damaged. Fetch it again.") from error
        size = self.dtype.itemsize
        if math.prod(self.shape) * size > len(content):
            raise ModelError(f"{where} cannot be converted: its shape {self.shape} has more values than the file holds. Save it anew: tensor.clone()")
        start = self.storage.offset * self.storage.dtype.itemsize + self.offset * size
        try:
            return np.ndarray(self.shape, self.dtype, content, start, tuple(stride * size for stride in self.strides)).copy()
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"{where} cannot be read ({error}): the file is damaged. Fetch it again.") from error


class _Unpickler(pickle._Unpickler):  # that of Python, not of C, whose memory a pickle of ten bytes can fill
    def __init__(self, file, storage_of: Callable[[np.dtype, str, Any], Storage]):
        super().__init__(file, encoding="utf-8")
        self.storage_of = storage_of
        self.kinds: dict[str, Any] = {}

        def rebuild(storage, offset, shape, strides, *_):
            return Tensor(storage, int(offset), _whole(shape), _whole(strides), storage.dtype)

        def rebuild_of_type(storage, offset, shape, strides, _, __, dtype, *___):
            return Tensor(storage, int(offset), _whole(shape), _whole(strides), np.dtype({**STORAGES, **DTYPES}[dtype.name]))

        # Made anew for every file: what a pickle may set on a function goes with it.
        self.known = {
            "collections.OrderedDict": OrderedDict,
            "torch.Size": lambda sizes=(): tuple(sizes),
            "torch._utils._rebuild_tensor": rebuild,
            "torch._utils._rebuild_tensor_v2": rebuild,
            "torch._utils._rebuild_tensor_v3": rebuild_of_type,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._tensor._rebuild_from_type_v2": lambda function, _, arguments, __: function(*arguments),
        }

    def find_class(self, module, name):
        kind = f"{module}.{name}"
        if kind in self.known:
            return self.known[kind]
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return Kind(name)
        if module == "torch" and name in DTYPES:
            return Kind(name)
        return self.kinds.setdefault(kind, type("Closed", (Closed,), {"kind": kind}))

    def persistent_load(self, pid):
        match pid:
            case ("module", value, *_):  # the class of a pickled module, beside its source text
                return value
            case ("storage", Kind(name), key, _, _, *view) if name in STORAGES:
                return self.storage_of(np.dtype(STORAGES[name]), str(key), view[0] if view else None)
        raise pickle.UnpicklingError("what is said to be numbers is none")


def _whole(numbers) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def read_archive(file: zipfile.ZipFile) -> Any:
    """What `torch.save` put into a zip archive. The archive must stay open as long as tensors are read.

    Raises:
      ModelError: the archive holds no such thing.
    """
    names = file.namelist()
    heads = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelError(
            "is a TorchScript program, not a state dict. Load it with torch.jit.load and save its tensors: torch.save(m.state_dict(), FILE)"
        )
    if len(heads) != 1:
        what = "NumPy arrays" if names and all(name.endswith(".npy") for name in names) else ", ".join(names[:3]) or "nothing"
        raise ModelError(f"is a zip archive that PyTorch did not write: it holds {what}")
    folder = heads[0].removesuffix("data.pkl")

    def plain(name: str) -> bytes:
        if file.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ModelError("holds compressed records, which PyTorch does not write. Save it anew with torch.save")
        return file.read(name)

    order = plain(f"{folder}byteorder").decode() if f"{folder}byteorder" in names else "little"

    def storage_of(dtype, key, _):
        return Storage(_ordered(dtype, order), lambda: plain(f"{folder}data/{key}"))

    return _Unpickler(io.BytesIO(plain(heads[0])), storage_of).load()


def _ordered(dtype: np.dtype, order: str) -> np.dtype:
    if order not in ("little", "big"):
        raise ModelError(f"says the byte order {order!r}; known are 'little' and 'big'")
    return dtype.newbyteorder("<" if order == "little" else ">")


def read_pickle(content: bytes) -> Any:
    """What `torch.save` wrote before PyTorch 1.6, or a plain pickle. Raises nearly anything when it is damaged."""
    file, order = io.BytesIO(content), "little"
    sizes: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}

    def storage_of(dtype, key, view):
        sizes[key] = dtype.itemsize
        return Storage(_ordered(dtype, order), lambda: content[slice(*places[key])], int(view[1]) if view else 0)

    def load():
        return _Unpickler(file, storage_of).load()

    found = load()
    if found != LEGACY_MAGIC:
        return found
    load()  # the version of the format
    order = "little" if load().get("little_endian", True) else "big"
    found = load()
    for key in map(str, load()):
        (count,) = struct.unpack("<q" if order == "little" else ">q", file.read(8))
        start = file.tell()
        places[key] = (start, start + count * sizes[key])
        if not start <= places[key][1] <= len(content):
            raise EOFError("the numbers are cut off")
        file.seek(places[key][1])
    return found


def as_mapping(value: Any) -> Mapping | None:
    """The entries of a mapping, the tensors of a pickled module by name, or the entries or attributes of any other closed object."""
    if not isinstance(value, Closed):
        return value if isinstance(value, Mapping) else None
    state = value.state if isinstance(value.state, Mapping) else {}
    if isinstance(state.get("_parameters"), Mapping) and isinstance(state.get("_modules"), Mapping):
        return _of_module(state, "", 0)
    return value.items or state or None


def _of_module(state: Mapping, prefix: str, depth: int) -> dict[str, Any]:
    """The state dict of a pickled `torch.nn.Module`, from what it would have been given as its `__dict__`."""
    buffers = state.get("_buffers") if isinstance(state.get("_buffers"), Mapping) else {}
    found = {f"{prefix}{name}": leaf for name, leaf in {**state["_parameters"], **buffers}.items() if isinstance(leaf, Tensor)}
    for name, module in state["_modules"].items():
        inner = module.state if isinstance(module, Closed) else None
        if depth < 50 and isinstance(inner, Mapping) and isinstance(inner.get("_parameters"), Mapping) and isinstance(inner.get("_modules"), Mapping):
            found |= _of_module(inner, f"{prefix}{name}.", depth + 1)
    return found
