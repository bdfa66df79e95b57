"""Restricted unpickler for PyTorch files, without PyTorch: rebuilds tensors and plain containers, and imports or runs nothing else.

A pickle names classes and functions together with their arguments. Here each name is mapped to one of a few functions of this
module, which rebuild tensors, or to an `UnknownObject`, which stores its state and runs nothing.
"""

import functools
import io
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from ntk_select.errors import ModelError, shortened

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""Pickled magic number at the beginning of files of PyTorch before 1.6."""

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
"""Types without a storage class: PyTorch writes bytes and the name of the type."""

DAMAGED = (Exception, RecursionError, MemoryError)
"""Errors that reading a damaged or hostile file may raise."""


class UnknownObject:
    """Stand-in for an object of any other class. Nothing of the class is imported or run.

    Attributes:
      kind: module and name of the class, or of the function that would have created it.
      state: the pickled state; None without one.
      items: the pickled items, as of a dictionary.
    """

    kind = ""

    def __new__(cls, *_, **__):  # noqa: D102
        made = object.__new__(cls)
        made.state, made.items = None, {}
        return made

    def __init__(self, *_, **__):
        pass

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, item):
        """Members of lists and sets are discarded."""

    extend = add = append


# Immutable tuples, which a pickle cannot modify: their content was created or checked here.


class StorageType(NamedTuple):
    """Name of a storage type in a pickle."""

    name: str


class Storage(NamedTuple):
    """Array data in the file: `read` returns its bytes."""

    dtype: np.dtype
    read: Callable[[], bytes | memoryview]
    offset: int = 0


class StoredTensor(NamedTuple):
    """A tensor whose data is still in the file. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self, where: str) -> np.ndarray:
        """The array, read from the file; `where` names the tensor in error messages.

        Tensors of one storage share its memory and are read-only: together they need no more memory than the file.

        Raises:
          ModelError: the file has less data than the shape needs, or cannot be read.
        """
        try:
            content = self.storage.read()
        except ModelError as error:
            raise ModelError(f"{where} cannot be read: the file {error}.") from error
        except DAMAGED as error:
            raise ModelError(f"{where} cannot be read ({error}): the file is damaged. Try: download it again") from error
        size = self.dtype.itemsize
        if math.prod(self.shape) * size > len(content):
            raise ModelError(f"{where} cannot be converted: its shape {self.shape} has more elements than the file. Try: saving tensor.clone()")
        start = self.storage.offset * self.storage.dtype.itemsize + self.offset * size
        count = 1 + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True)) if all(self.shape) else 0
        try:  # frombuffer checks the bounds and rejects types with pointers; unlike NumPy's check of strides, `count` cannot overflow
            numbers = np.frombuffer(content, self.dtype, count, start) if count else np.zeros(0, self.dtype)
            return np.ndarray(self.shape, self.dtype, numbers, 0, tuple(stride * size for stride in self.strides))
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"{where} cannot be read ({error}): the file is damaged. Try: download it again") from error


def _tensor(storage, offset, shape, strides, dtype: np.dtype) -> StoredTensor:
    """A tensor from the arguments in a pickle.

    Raises:
      UnpicklingError: the arguments are invalid.
    """
    shape, strides = tuple(shape), tuple(strides)
    counts = all(isinstance(number, int) and 0 <= number < 2**63 for number in (offset, *shape, *strides))
    if not isinstance(storage, Storage) or not counts or len(shape) != len(strides):
        raise pickle.UnpicklingError("invalid tensor")
    return StoredTensor(storage, offset, shape, strides, dtype)


def _rebuild(storage, offset, shape, strides, *_):
    return _tensor(storage, offset, shape, strides, storage.dtype)


def _rebuild_of_type(storage, offset, shape, strides, _, __, dtype, *___):
    if not isinstance(dtype, StorageType):
        raise _strange(dtype)
    return _tensor(storage, offset, shape, strides, np.dtype({**STORAGES, **DTYPES}[dtype.name]))


def _strange(kind: Any) -> ModelError:
    """The error for a type of numbers that PyTorch has and this package does not."""
    name = shortened(str(getattr(kind, "kind", type(kind).__name__)))
    return ModelError(f"contains tensors of the type {name}, which cannot be converted. Try: tensor.dequantize() or tensor.float() before torch.save")


def _put(into, pairs) -> None:
    """Adds entries to a mapping, without those whose keys are nested tuples: hashing them can take exponential time."""
    for key, value in pairs:
        if not isinstance(key, tuple) or not any(isinstance(part, tuple) for part in key):
            into[key] = value


def _ordered_dict(pairs=()):
    made = OrderedDict()
    _put(made, pairs)
    return made


KNOWN = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_of_type,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda function, _, arguments, __: function(*arguments),
}
"""All functions that a pickle can call; all other names become `UnknownObject`."""


class _Unpickler(pickle._Unpickler):  # the Python implementation: in the one in C a pickle of ten bytes can allocate all memory
    def __init__(self, file, storage_of: Callable[[np.dtype, str, Any], Storage]):
        super().__init__(file, encoding="utf-8")
        self.storage_of = storage_of
        self.kinds: dict[str, Any] = {}

    def find_class(self, module, name):
        kind = f"{module}.{name}"
        if kind in KNOWN:
            return KNOWN[kind]
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return StorageType(name)
        if module == "torch" and name in DTYPES:
            return StorageType(name)
        return self.kinds.setdefault(kind, type("UnknownObject", (UnknownObject,), {"kind": kind}))

    def persistent_load(self, pid):
        match pid:
            case ("module", value, *_):  # the class of a pickled module, followed by its source code
                return value
            case ("storage", StorageType(name), str(key), _, _, *view) if name in STORAGES:
                return self.storage_of(np.dtype(STORAGES[name]), key, view[0] if view else None)
            case ("storage", type() as kind, *_):
                raise _strange(kind)
        raise pickle.UnpicklingError("invalid storage")

    def load_build(self):
        """Sets the state of an `UnknownObject`, and of nothing else: a pickle could set any attribute."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, UnknownObject):
            made.state = state
        elif not isinstance(made, OrderedDict):  # PyTorch sets its `_metadata`, which is not needed
            raise pickle.UnpicklingError("attributes of an object without any")

    def load_bytearray8(self):
        """Reads the data before allocating memory for the declared length."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(min(length, sys.maxsize))))

    def load_setitems(self):
        """Sets entries of a dictionary or an `UnknownObject`."""
        items = self.pop_mark()
        _put(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def load_setitem(self):
        """Sets one entry."""
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [(key, value)])

    def load_dict(self):
        """Makes a dictionary of the items on the stack."""
        items = self.pop_mark()
        self.append(_ordered_dict(zip(items[::2], items[1::2], strict=True)))

    def load_set(self):
        """Makes an empty set; members are discarded."""
        self.pop_mark()
        self.append(frozenset())

    def load_additems(self):
        """Discards members of a set."""
        self.pop_mark()

    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEMS[0]: load_setitems,
        pickle.SETITEM[0]: load_setitem,
        pickle.DICT[0]: load_dict,
        pickle.FROZENSET[0]: load_set,
        pickle.ADDITEMS[0]: load_additems,
    }


def read_archive(file: zipfile.ZipFile) -> Any:
    """The object that `torch.save` wrote into a zip archive. The archive must stay open while tensors are read.

    Raises:
      ModelError: the archive was not written by `torch.save`.
    """
    names = file.namelist()
    heads = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelError("is a TorchScript program, not a state dict. Try: m = torch.jit.load(...), then torch.save(m.state_dict(), FILE)")
    if len(heads) != 1:
        what = "NumPy arrays" if names and all(name.endswith(".npy") for name in names) else ", ".join(names[:3]) or "nothing"
        raise ModelError(f"is a zip archive that PyTorch did not write: it contains {shortened(what)}. Try: a file that torch.save wrote")
    folder = heads[0].removesuffix("data.pkl")

    def plain(name: str) -> bytes:
        if file.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ModelError("contains compressed records, which PyTorch does not write. Try: save it again with torch.save")
        return file.read(name)

    numbers = functools.cache(plain)
    order = plain(f"{folder}byteorder").decode() if f"{folder}byteorder" in names else "little"

    def storage_of(dtype, key, _):
        return Storage(_ordered(dtype, order), lambda: numbers(f"{folder}data/{key}"))

    return _Unpickler(io.BytesIO(plain(heads[0])), storage_of).load()


def _ordered(dtype: np.dtype, order: str) -> np.dtype:
    if order not in ("little", "big"):
        raise ModelError(f"declares the byte order {order!r}; allowed: 'little' and 'big'")
    return dtype.newbyteorder("<" if order == "little" else ">")


def read_pickle(content: bytes) -> Any:
    """The object in a file of PyTorch before 1.6 or in a plain pickle. Raises errors of `DAMAGED` for damaged files."""
    file, order = io.BytesIO(content), "little"
    sizes: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}

    def storage_of(dtype, key, view):
        sizes[key] = dtype.itemsize
        return Storage(_ordered(dtype, order), lambda: memoryview(content)[slice(*places[key])], int(view[1]) if view else 0)

    def load():
        return _Unpickler(file, storage_of).load()

    found = load()
    if found != LEGACY_MAGIC:
        return found
    load()  # the version of the format
    order = "little" if load().get("little_endian", True) else "big"
    found = load()
    for key in load():
        if not isinstance(key, str):
            raise pickle.UnpicklingError("invalid storage")
        (count,) = struct.unpack("<q" if order == "little" else ">q", file.read(8))
        start = file.tell()
        places[key] = (start, start + count * sizes[key])
        if not start <= places[key][1] <= len(content):
            raise EOFError("truncated array data")
        file.seek(places[key][1])
    return found


MOST_MODULES, DEEPEST_MODULE = 10_000, 50
"""Limits of a pickled module: modules of a few bytes can contain each other without end."""


def is_mapping(value: Any) -> bool:
    """Whether `as_mapping` may find entries."""
    return isinstance(value, Mapping) or (isinstance(value, UnknownObject) and bool(value.items or _state(value)))


def as_mapping(value: Any) -> Mapping | None:
    """The entries of a mapping, the tensors of a pickled module by name, or the items or state of any other `UnknownObject`.

    None if there are none, and for a module of more than `MOST_MODULES`.
    """
    if not isinstance(value, UnknownObject):
        return value if isinstance(value, Mapping) else None
    state = _state(value)
    return _of_module(state) if _is_module(state) else value.items or state or None


def _state(value: UnknownObject) -> Mapping:
    return value.state if isinstance(value.state, Mapping) else {}


def _is_module(state: Mapping) -> bool:
    return isinstance(state.get("_parameters"), Mapping) and isinstance(state.get("_modules"), Mapping)


def _of_module(state: Mapping) -> dict[str, Any] | None:
    """The state dict of a pickled `torch.nn.Module`, from its `__dict__`; None beyond `MOST_MODULES`."""
    found, waiting, count = {}, [("", state, 0)], 0
    while waiting:
        prefix, state, depth = waiting.pop()
        count += 1
        if count > MOST_MODULES:
            return None
        buffers = state.get("_buffers") if isinstance(state.get("_buffers"), Mapping) else {}
        found |= {f"{prefix}{name}": leaf for name, leaf in {**state["_parameters"], **buffers}.items() if isinstance(leaf, StoredTensor)}
        inner = [(f"{prefix}{name}.", _state(module), depth + 1) for name, module in state["_modules"].items() if isinstance(module, UnknownObject)]
        if depth < DEEPEST_MODULE:
            waiting += [one for one in reversed(inner) if _is_module(one[1])]
    return found
