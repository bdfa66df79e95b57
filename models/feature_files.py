"""Zoos of files of features: arrays of any framework in .npz or .safetensors files, one file per expert. Nothing is ever unpickled."""

import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ntk_select._runtime.files import describe_placeholder
from ntk_select.errors import ModelError, did_you_mean, first_line
from ntk_select.experts.feature_expert import COUNTS, SHARES, TEXTS, Classes, FeatureCard, FeatureExpert

PREFIX = "features:"
"""Beginning of the URI of a zoo of files of features."""
SUFFIXES = (".npz", ".safetensors")
FIELDS = tuple(field.name for field in fields(FeatureExpert) if field.name != "name")
"""Names that a file may contain: the arguments of `FeatureExpert`."""
IGNORED = ("format",)
"""Metadata that PyTorch's writer of safetensors adds."""
LARGE, MAX_RATIO = 2**30, 100
"""Bytes of arrays above which a file must not be smaller than them by more than this factor."""
HOW_TO_MAKE_ONE = "Try: numpy.savez('my_features/NAME.npz', features=features, labels=labels), or ntk_select.FeatureExpert(name, features, ...)"


@dataclass(frozen=True)
class StoredFeatures:
    """An expert whose features are in a file. Calling it reads all arrays.

    Args:
      file: a .npz or .safetensors file with the arguments of `FeatureExpert` as arrays. In .safetensors files text, numbers and class_names (a
        JSON list) are metadata. The name of the expert is that of the file without its suffix.
    """

    file: Path

    @property
    def name(self) -> str:
        """Name of the expert."""
        return self.file.stem

    @property
    def card(self) -> FeatureCard:
        """Sizes and facts, without reading the large arrays. Raises ModelError if the file cannot be read."""
        with _opened(self.file) as content:
            known = self._without_large_arrays(content, (*TEXTS, *COUNTS, *SHARES)).card
            outputs = next((sum(content.shapes[name][-1:]) for name in ("logits", "source_probs") if name in content.shapes), 0)
            return replace(known, features=content.shapes["features"][1], given=content.names, num_classes=outputs)

    @property
    def classes(self) -> Classes | None:
        """The class of each image, without reading other arrays; None without labels. Raises ModelError if the file cannot be read."""
        with _opened(self.file) as content:
            return self._without_large_arrays(content).classes

    def __call__(self) -> FeatureExpert:
        """Reads the expert. Raises ModelError if the file cannot be read, or an array has a wrong name, type, shape or range."""
        with _opened(self.file) as content:
            return FeatureExpert(self.name, **{name: content.read(name) for name in content.shapes})

    def _without_large_arrays(self, content, facts: Sequence[str] = ()) -> FeatureExpert:
        """The expert with its labels and some facts, and zeros in place of its features."""
        shape = content.shapes["features"]
        if len(shape) != 2 or 0 in shape:
            raise ModelError(f"{self.file}: features has shape {shape}; it must have two axes, not empty, one row per image.")
        read = {name: content.read(name) for name in ("labels", "class_names", *facts) if name in content.names}
        return FeatureExpert(self.name, np.zeros((shape[0], 1), np.float32), **read)


def feature_files(path: Path) -> dict[str, StoredFeatures]:
    """The experts in a folder of files of features, or in one such file.

    Raises:
      ModelError: there is no such file or folder, it has no .npz or .safetensors file, or two files have the same name.
    """
    if not os.path.isdir(path):  # unlike the methods of Path, these raise no error for a path that is too long
        if not os.path.isfile(path):
            raise ModelError(f"There is no file or folder of features {str(path)!r}. {HOW_TO_MAKE_ONE}")
        if path.suffix.lower() not in SUFFIXES:
            raise ModelError(f"{str(path)!r} is no file of features; allowed are {' and '.join(SUFFIXES)}. {HOW_TO_MAKE_ONE}")
        return {path.stem: StoredFeatures(path)}
    found: dict[str, StoredFeatures] = {}
    for file in _files(path):
        if file.stem in found:
            raise ModelError(f"{str(found[file.stem].file)!r} and {str(file)!r} are both named {file.stem!r}. Try: rename one of them")
        found[file.stem] = StoredFeatures(file)
    if not found:
        raise ModelError(f"The folder {str(path)!r} contains no file of features ({' or '.join(SUFFIXES)}). {HOW_TO_MAKE_ONE}")
    return found


def has_feature_files(folder: Path) -> bool:
    """Whether any file in a folder has an array of features: a folder of weights or of images has none."""
    return any(map(_has_features, _files(folder)))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file())
    except OSError as error:
        raise ModelError(f"The zoo {str(folder)!r} cannot be read: {error.strerror} ({error.filename}).") from error


def _has_features(file: Path) -> bool:
    try:
        with _opened(file, checked=False) as content:
            return "features" in content.names
    except ModelError:
        return False


@contextmanager
def _opened(file: Path, checked: bool = True) -> Iterator["_Npz | _Safetensors"]:
    """The content of a file, which can be read inside the context.

    Raises:
      ModelError: the file does not exist or is damaged; with `checked`, it has no features, or an unknown name.
    """
    if not file.is_file():
        raise ModelError(f"There is no file of features {str(file)!r}. {HOW_TO_MAKE_ONE}")
    try:
        with file.open("rb") as opened:
            if problem := describe_placeholder(opened.read(1024)):
                raise ModelError(f"{file} {problem}.")
            opened.seek(0)
            content = _Npz(file, opened) if file.suffix.lower() == ".npz" else _Safetensors(file)
            if checked:
                _check_names(file, content.names)
            yield content
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or first_line(error)}.") from error


def _check_names(file: Path, names: Iterable[str]) -> None:
    for name in names:
        if name not in FIELDS:
            raise ModelError(f"{file} has {name!r}, which is not part of a file of features.{did_you_mean(name, FIELDS)}")
    if "features" not in names:
        raise ModelError(f"{file} has no array 'features', only {', '.join(sorted(names)) or 'nothing'}. {HOW_TO_MAKE_ONE}")


class _Npz:
    """Arrays of a .npz file, each read when it is needed, if its declared size is that of its content."""

    def __init__(self, file: Path, opened):
        self.file, self._entries = file, {}
        try:
            self._archive = zipfile.ZipFile(opened)
        except Exception as error:  # zipfile raises many types on damaged files
            raise ModelError(f"{file} cannot be read as an .npz file ({first_line(error)}). Is it complete?") from error
        for entry in self._archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in self._entries:
                raise ModelError(f"{file} has two arrays {name!r}. Try: save it again")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others can expand a kilobyte to gigabytes at once
                raise ModelError(f"{file}: {name!r} is compressed by a method that NumPy does not write. Try: save it again with numpy.savez")
            self._entries[name] = entry
        size = sum(entry.file_size for entry in self._entries.values())
        if size > max(LARGE, MAX_RATIO * file.stat().st_size):
            raise ModelError(f"{file} has {file.stat().st_size:,} bytes and expands to {size:,}. Try: save it again with numpy.savez, uncompressed")
        self.names = tuple(self._entries)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name. Raises ModelError if an array has another size than its header declares."""
        found = {}
        for name, entry in self._entries.items():
            with self._stream(name) as stream:
                found[name] = _shape(stream, entry.file_size)
        return found

    def read(self, name: str) -> Any:
        """An array, or the Python value of a fact. Raises ModelError."""
        with self._stream(name) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read(1)  # at the end, zipfile compares the checksum
        return _plain(self.file, name, array)

    @contextmanager
    def _stream(self, name: str):
        """The decompressed entry. Raises ModelError if it cannot be read."""
        try:
            with self._archive.open(self._entries[name]) as stream:
                yield stream
        except Exception as error:  # as above
            raise ModelError(f"{self.file}: array {name!r} cannot be read ({first_line(error)}). Try: save it again as a plain array") from error


def _shape(stream, size: int) -> tuple[int, ...]:
    """The shape of the array in an .npy file of this size. Raises ValueError if it holds more or fewer bytes than the array, or Python objects."""
    version = np.lib.format.read_magic(stream)
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise ValueError("it contains Python objects, which are not read")
    if min(shape, default=0) < 0:
        raise ValueError(f"its header declares the shape {shape}")
    expected, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if expected != present:
        raise ValueError(f"its header declares {expected:,} bytes, it has {present:,}")
    if not expected:  # of any size, without a byte in the file
        raise ValueError(f"it is empty, {dtype} {shape}")
    return tuple(map(int, shape))


class _Safetensors:
    """Tensors and metadata of a .safetensors file, each read when it is needed."""

    def __init__(self, file: Path):
        self.file = file
        try:
            self._tensors = safe_open(str(file), framework="np")
            self._texts = {name: text for name, text in (self._tensors.metadata() or {}).items() if name not in IGNORED}
            self.shapes = {name: tuple(self._tensors.get_slice(name).get_shape()) for name in self._tensors.keys()}  # noqa: SIM118
        except Exception as error:  # of the Rust library, with its own types
            raise ModelError(f"{file} is not a valid safetensors file ({first_line(error)}). Try: save it again") from error
        if both := set(self.shapes) & set(self._texts):
            raise ModelError(f"{file} has {sorted(both)[0]!r} both as a tensor and in its metadata. Try: only one of them")
        self.shapes |= dict.fromkeys(self._texts, ())
        self.names = tuple(self.shapes)

    def read(self, name: str) -> Any:
        """An array, or the Python value of a fact. Raises ModelError."""
        if name not in self._texts:
            try:
                return _plain(self.file, name, self._tensors.get_tensor(name))
            except ModelError:
                raise
            except Exception as error:  # types and shapes that NumPy does not support
                raise ModelError(f"{self.file}: tensor {name!r} cannot be read ({first_line(error)}). Try: save it as float32 or int64") from error
        text = self._texts[name]
        if name in TEXTS:
            return text
        if name not in (*COUNTS, *SHARES, "class_names"):
            raise ModelError(f"{self.file}: {name!r} is in the metadata; it must be a tensor.")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            expected = 'a JSON list, as in ["cat", "dog"]' if name == "class_names" else "a number"
            raise ModelError(f"{self.file}: {name!r} in the metadata is {text[:50]!r}; it must be {expected}.") from error


def _plain(file: Path, name: str, array: np.ndarray) -> Any:
    """A fact as a Python value, the names of classes as a list, everything else as the array."""
    if name not in (*TEXTS, *COUNTS, *SHARES, "class_names"):
        return array
    if name == "class_names":
        if array.ndim != 1 or array.dtype.kind != "U":
            raise ModelError(f"{file}: array 'class_names' is {array.dtype} {array.shape}; it must be one text per class, as in ['cat', 'dog'].")
        return array.tolist()
    if array.size != 1:
        raise ModelError(f"{file}: {name!r} has shape {array.shape}; it must be a single value.")
    return array.item()
