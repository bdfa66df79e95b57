"""PyTorch files, read without PyTorch: tensors and plain containers are rebuilt, everything else stays closed.

A pickle names classes and functions and says what to call them with. Here each name leads to one of a few functions of this
file, which rebuild tensors, or to a `Closed` object, which keeps what it was given and runs nothing.
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
      state: what its attributes would have been set from; None without.
      items: what would have been put into it by key, as into a dictionary.
    """

    kind = ""

    def __new__(cls, *_, **__):  # noqa: D102
        closed = object.__new__(cls)
        closed.state, closed.items = None, {}
        return closed

    def __init__(self, *_, **__):
        pass

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, item):
        """Members of lists and sets are not kept."""

    extend = add = append


# Tuples, which no pickle can change: what is in them was made or checked here.


class Kind(NamedTuple):
    """A type of numbers, as a pickle names it."""

    name: str


class Storage(NamedTuple):
    """Numbers in the file: `read` gives their bytes."""

    dtype: np.dtype
    read: Callable[[], bytes | memoryview]
    offset: int = 0


class Tensor(NamedTuple):
    """A tensor whose numbers are still in the file. Offset, shape and strides are counts, as many strides as axes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self, where: str) -> np.ndarray:
        """The numbers, read from the file; `where` names the tensor in errors.

        Tensors of one storage share its memory and are read-only, so that all of a file take no more than the file.

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
        count = 1 + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True)) if all(self.shape) else 0
        try:  # frombuffer checks the bounds and refuses types that hold addresses; `count` has no limit, as NumPy's own check of strides has
            numbers = np.frombuffer(content, self.dtype, count, start) if count else np.zeros(0, self.dtype)
            return np.ndarray(self.shape, self.dtype, numbers, 0, tuple(stride * size for stride in self.strides))
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"{where} cannot be read ({error}): the file is damaged. Fetch it again.") from error


def _tensor(storage, offset, shape, strides, dtype: np.dtype) -> Tensor:
    """A tensor of what a pickle says.

    Raises:
      UnpicklingError: it says something else.
    """
    shape, strides = tuple(shape), tuple(strides)
    counts = all(isinstance(number, int) and 0 <= number < 2**63 for number in (offset, *shape, *strides))
    if not isinstance(storage, Storage) or not counts or len(shape) != len(strides):
        raise pickle.UnpicklingError("what is said to be a tensor is none")
    return Tensor(storage, offset, shape, strides, dtype)


def _rebuild(storage, offset, shape, strides, *_):
    return _tensor(storage, offset, shape, strides, storage.dtype)


def _rebuild_of_type(storage, offset, shape, strides, _, __, dtype, *___):
    return _tensor(storage, offset, shape, strides, np.dtype({**STORAGES, **DTYPES}[dtype.name]))


def _put(into, pairs) -> None:
    """Entries into what takes some, without those whose keys are tuples in tuples: each may hold another twice, and its hash would take for ever."""
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
"""All that a pickle can call, beside classes that stay closed."""


class _Unpickler(pickle._Unpickler):  # that of Python, not of C, whose memory a pickle of ten bytes can fill
    def __init__(self, file, storage_of: Callable[[np.dtype, str, Any], Storage]):
        super().__init__(file, encoding="utf-8")
        self.storage_of = storage_of
        self.kinds: dict[str, Any] = {}

    def find_class(self, module, name):
        kind = f"{module}.{name}"
        if kind in KNOWN:
            return KNOWN[kind]
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return Kind(name)
        if module == "torch" and name in DTYPES:
            return Kind(name)
        return self.kinds.setdefault(kind, type("Closed", (Closed,), {"kind": kind}))

    def persistent_load(self, pid):
        match pid:
            case ("module", value, *_):  # the class of a pickled module, beside its source text
                return value
            case ("storage", Kind(name), str(key), _, _, *view) if name in STORAGES:
                return self.storage_of(np.dtype(STORAGES[name]), key, view[0] if view else None)
        raise pickle.UnpicklingError("what is said to be numbers is none")

    def load_build(self):
        """Sets the state of a closed object, and of nothing else: a pickle would write attributes where it likes."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Closed):
            made.state = state
        elif not isinstance(made, OrderedDict):  # PyTorch sets one's `_metadata`, which is not needed
            raise pickle.UnpicklingError("attributes are set on what has none")

    def load_bytearray8(self):
        """Reads before it makes room."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(min(length, sys.maxsize))))

    def load_setitems(self):
        """Sets entries of a dictionary or a closed object."""
        items = self.pop_mark()
        _put(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def load_setitem(self):
        """Sets one entry."""
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [(key, value)])

    def load_dict(self):
        """Makes a dictionary of what lies on the stack."""
        items = self.pop_mark()
        self.append(_ordered_dict(zip(items[::2], items[1::2], strict=True)))

    def load_set(self):
        """Makes a set whose members are not kept."""
        self.pop_mark()
        self.append(frozenset())

    def load_additems(self):
        """Keeps no members of a set."""
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

    numbers = functools.cache(plain)
    order = plain(f"{folder}byteorder").decode() if f"{folder}byteorder" in names else "little"

    def storage_of(dtype, key, _):
        return Storage(_ordered(dtype, order), lambda: numbers(f"{folder}data/{key}"))

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
            raise pickle.UnpicklingError("what is said to be numbers is none")
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
