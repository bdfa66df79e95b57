"""Resumable block-wise arrays on disk: kernels (two example axes) and sketches (one).

A folder contains WHAT.json (description), examples_NAME.sha256 (checksum and digests of the examples), WHAT.zarr (Zarr 3
with CRC32C per chunk) and done/ with an empty file per finished block, named by its bounds. A block is marked after it is
written and synced; a block of a symmetric kernel and its mirror image are marked separately. One writer at a time.
"""

import contextlib
import hashlib
import itertools
import json
import math
import re
import shutil
import warnings
from pathlib import Path

import numpy as np

from ntk_select._runtime.files import write_atomically
from ntk_select.errors import ConfigError, DataError, NtkSelectError, first_line

LAYOUT = 3
CHUNK_BYTES, SHORTEST_CHUNK = 2**24, 32


class StoredArray:
    """A read-only array on disk, the result of `ntk` and `sketch` with `out`. Basic indexing reads only the required chunks; other indices and np.asarray read all.

    Raises:
      DataError: on reading, if a chunk is lost or damaged.
    """

    def __init__(self, array, folder: Path, what: str):
        self._array, self._folder, self._what = array, folder, what
        self.shape, self.dtype, self.ndim = tuple(array.shape), array.dtype.numpy_dtype, array.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredArray({self._what}, shape={self.shape}, dtype={self.dtype}, folder={str(self._folder)!r})"

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("An array on disk cannot become a NumPy array without a copy.")
        return np.asarray(self[...], dtype)

    def __getitem__(self, key) -> np.ndarray | np.generic:
        np.broadcast_to(False, self.shape)[key]  # raises what NumPy raises
        key = key if isinstance(key, tuple) else (key,)
        if not all(type(part) in (int, slice, type(None), type(...)) or isinstance(part, np.integer) for part in key):
            return self[...][key]
        at = next((place for place, part in enumerate(key) if part is ...), len(key))
        rest = self.ndim - sum(part is not None and part is not ... for part in key)
        lengths, region = iter(self.shape), []
        for part in (*key[:at], *[slice(None)] * rest, *key[at + 1 :]):
            if isinstance(part, slice):
                bounds = part.indices(next(lengths))
                region.append(slice(*bounds) if range(*bounds) else slice(0, 0))
            else:
                region.append(None if part is None else range(next(lengths))[part])
        with _disk(self._folder, self._what):
            return self._array[tuple(region)].read().result()[()]


class BlockStore:
    """The array of a folder during its computation; created by `open_store`."""

    def __init__(self, folder: Path, what: str, array, shape: tuple[int, ...], marks: np.ndarray, *, symmetric: bool, block: int):
        self.folder, self._what, self._array, self._shape = folder, what, array, shape
        self._marks, self._symmetric, self._block = marks, symmetric, block

    @property
    def tile_bounds(self) -> tuple[tuple[int, ...] | None, ...]:
        """Bounds of the blocks along each example axis, from 0 to its length; None for the second axis of a symmetric kernel."""
        bounds = []
        for axis, length in enumerate(self._shape[: 1 if self._symmetric else None]):
            known = np.unique([0, *np.minimum(self._marks[:, axis].ravel(), length), length]).tolist()
            bounds.append((*(start for first, last in itertools.pairwise(known) for start in range(first, last, self._block)), length))
        return (*bounds, None) if self._symmetric else tuple(bounds)

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """Runs (start, stop) of missing rows, for an array with one example axis."""
        (edges,), there = _coverage(self._marks, [(0, *self._shape)])
        turns = edges[np.flatnonzero(np.diff(there, prepend=True, append=True))].tolist()
        return tuple(zip(turns[::2], turns[1::2], strict=True))

    def is_done(self, *slices: slice) -> bool:
        """Whether finished blocks cover the region, and its mirror image in a symmetric kernel."""
        bounds = [(part.start, part.stop) for part in slices]
        return all(_coverage(self._marks, image)[1].all() for image in ([bounds, bounds[::-1]] if self._symmetric else [bounds]))

    def write(self, block: np.ndarray, *slices: slice) -> None:
        """Writes a block, and its mirror image into a symmetric kernel, and marks them.

        Raises:
          DataError: the disk refuses the write. Finished blocks stay.
        """
        block, bounds = np.asarray(block, self._array.dtype.numpy_dtype), [(part.start, part.stop) for part in slices]
        if block.shape[: len(bounds)] != tuple(stop - start for start, stop in bounds):
            raise ValueError(f"A block of shape {block.shape} does not fit into {bounds}.")
        images = [(block, bounds)]
        if self._symmetric and bounds[0] != bounds[1]:
            images.append((block.transpose(1, 0, *range(block.ndim - 1, 1, -1)), bounds[::-1]))
        with _disk(self.folder, self._what):
            for image, place in images:
                self._array[tuple(itertools.starmap(slice, place))].write(image).result()
                _mark(self.folder, place).touch()
                self._marks = np.concatenate([self._marks, [place]])

    def result(self) -> StoredArray:
        """The array of the requested examples. Raises DataError if it no longer exists."""
        with _disk(self.folder, self._what):
            array = _zarr(self.folder / f"{self._what}.zarr", self._array.dtype.numpy_dtype, write=False).result()
            return StoredArray(array[tuple(map(slice, self._shape))], self.folder, self._what)


def open_store(
    folder: str | Path, described: dict, sides: dict[str, np.ndarray], *, what: str, symmetric: bool, tail: tuple, dtype, block: int = 512
) -> BlockStore:
    """Opens or creates the folder, or enlarges its array for more examples.

    Args:
      folder: created if it does not exist.
      described: what the array is of, as JSON values.
      sides: (n, 16) digests of the examples: x1 and x2 of a kernel, x1 alone of a symmetric one, x of a sketch.
      what: "kernel" or "sketch", and `symmetric` if both example axes are x1.
      tail: the axes after those of the examples.
      dtype: Type of the numbers.
      block: largest number of examples of a new block along an axis; finished blocks keep their length.

    Raises:
      ConfigError: the folder holds something else, or an array of other examples.
      DataError: the folder cannot be read or written, or its disk is too small.

    Warns:
      UserWarning: finished blocks are lost or damaged and will be computed again.

    Cost: reads the finished blocks of these examples to verify their checksums, about a second per 1.5 GB.
    """
    folder, dtype, names = Path(folder), np.dtype(dtype), tuple(sides) * (1 + symmetric)
    path, shape, axes = folder / f"{what}.zarr", tuple(len(sides[name]) for name in names), len(names)
    with _disk(folder, what):
        marks = _begin(folder, json.loads(json.dumps({"layout": LAYOUT} | described)), what, axes)
        if len(marks):
            ends, array = marks[:, :, 1].max(axis=0), _intact(_zarr(path, dtype, rank=axes + len(tail)))
            fits = array is not None and array.shape[axes:] == tail and all(ends <= array.shape[:axes])
            fits &= all([_check_examples(folder, what, name, sides[name], end) for name, end in zip(names, ends, strict=True)])
            lost = _lost(path, array, shape, marks) if fits else np.ones(len(marks), bool)
            if lost.any():
                some = "all blocks" if lost.all() else f"{lost.sum()} blocks"
                warnings.warn(f"The {what} or its digests in {str(folder)!r} are lost or damaged: {some} are computed again.", stacklevel=3)
                for mark in marks[lost]:
                    _mark(folder, mark).unlink(missing_ok=True)
                marks = marks[~lost]
        for name, side in sides.items():
            if not np.array_equal(_digests(folder, name)[: len(side)], side):
                write_atomically(folder / f"examples_{name}.sha256", hashlib.sha256(side.tobytes()).digest() + side.tobytes())
        if not len(marks):
            chunks = [2 ** round(math.log2(min(block, max(length, SHORTEST_CHUNK)))) for length in shape]
            while max(chunks) > 1 and math.prod([*chunks, *tail]) * dtype.itemsize > CHUNK_BYTES:
                chunks[np.argmax(chunks)] //= 2
            array = _zarr(path, dtype, (*chunks, *tail), create=True, delete_existing=True, shape=(*shape, *tail)).result()
        elif any(shape > np.array(array.shape[:axes])):
            array = array.resize(exclusive_max=[*np.maximum(array.shape[:axes], shape).tolist(), *tail], expand_only=True).result()
        edges, there = _coverage(marks, [(0, length) for length in shape])
        needed = (~there * math.prod(np.ix_(*map(np.diff, edges)))).sum() * math.prod(tail) * dtype.itemsize
        if 0 < (free := shutil.disk_usage(folder).free) < needed:  # some file systems say 0
            raise OSError(f"No space left on device, {needed / 1e9:.2g} GB are needed and {free / 1e9:.2g} GB are free")
    return BlockStore(folder, what, array, shape, marks, symmetric=symmetric, block=block)


def _begin(folder: Path, described: dict, what: str, axes: int) -> np.ndarray:
    """Checks or writes the description; returns the finished blocks, (blocks, axes, 2)."""
    card, done = folder / f"{what}.json", folder / "done"
    done.mkdir(parents=True, exist_ok=True)
    names = [mark.name for mark in done.iterdir()]
    if card.exists():
        try:
            written = dict(json.loads(card.read_text()))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{str(card)!r} is not a description of a {what}: {first_line(error)}. Try: out= another folder.") from error
        if names and written != described:
            different = _different(written, described)
            raise ConfigError(f"{str(folder)!r} holds a {what} of something else (different: {different}). Try: out= another folder.")
    elif names or any((folder / f"{what}.{ending}").exists() for ending in ("npy", "zarr")):
        raise ConfigError(f"{str(folder)!r} holds files but no {what}.json. Try: out= another folder, or empty this one.")
    if not names:
        write_atomically(card, json.dumps(described, indent=1).encode())
    found = filter(None, map(re.compile("_".join([r"(\d{1,15})-(\d{1,15})"] * axes)).fullmatch, names))
    return np.array([mark.groups() for mark in found], np.int64).reshape(-1, axes, 2)


def _different(written: dict, described: dict) -> str:
    """The differing entries of two descriptions, with their values where these are short."""
    names = [name for name in described if written.get(name) != described[name]]
    if {"layers", "x1", "precision"}.intersection(names) and "fn" in names:
        names.remove("fn")  # its digest belongs to these layers, examples and precision
    long = ("fn", "params", "layers")
    return ", ".join(name if name in long else f"{name} ({written.get(name)!r} there, {described[name]!r} now)" for name in names)


def _digests(folder: Path, name: str) -> np.ndarray:
    """The stored digests of the examples, (n, 16); empty if they are lost or damaged."""
    path = folder / f"examples_{name}.sha256"
    content = path.read_bytes() if path.exists() else b""
    intact = hashlib.sha256(content[32:]).digest() == content[:32]
    return np.frombuffer(content[32:] if intact else b"", np.uint8).reshape(-1, 16)


def _check_examples(folder: Path, what: str, name: str, side: np.ndarray, end: int | np.integer) -> bool:
    """Whether digests of the first `end` examples are stored. Raises ConfigError if they are of other examples."""
    known = _digests(folder, name)[:end]
    differing = np.flatnonzero((known[: len(side)] != side[: len(known)]).any(axis=1))
    if len(differing):
        raise ConfigError(
            f"Example {differing[0]} of {name}, or its cotangents, is not the one whose {what} is in {str(folder)!r}; "
            "more examples may only follow the same ones. Try: out= another folder."
        )
    return bool(len(known) == end)


def _lost(path: Path, array, shape: tuple[int, ...], marks: np.ndarray) -> np.ndarray:
    """Mask of the blocks that overlap an unreadable chunk of these examples. Such chunks are deleted."""
    lost, steps = np.zeros(len(marks), bool), array.chunk_layout.read_chunk.shape[: len(shape)]
    for place in itertools.product(*(range(-(-min(ends) // step)) for *ends, step in zip(shape, array.shape, steps, strict=False))):
        corner = array[tuple(number * step for number, step in zip(place, steps, strict=True))]
        if _intact(corner[(0,) * corner.ndim].read()) is None:
            path.joinpath("c", *map(str, place), *["0"] * corner.ndim).unlink(missing_ok=True)
            lost |= _meets(marks, [(number * step, (number + 1) * step) for number, step in zip(place, steps, strict=True)])
    return lost


def _zarr(path: Path, dtype: np.dtype, chunks: tuple[int, ...] | None = None, **options):
    """A future of a Zarr array. Reading a chunk that was never written is an error."""
    import tensorstore

    if chunks is not None:
        options |= {"chunk_layout": tensorstore.ChunkLayout(chunk_shape=chunks), "fill_value": np.nan if dtype.kind == "f" else 0}
    store = {"driver": "file", "path": f"{path.absolute().as_posix()}/"}
    metadata = {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]}
    spec = {"driver": "zarr3", "kvstore": store, "metadata": metadata, "store_data_equal_to_fill_value": True, "fill_missing_data_reads": False}
    return tensorstore.open(spec, dtype=dtype, **options)


def _intact(future):
    """The result of a tensorstore future, or None if files are lost or damaged."""
    try:
        return future.result()
    except ValueError as error:
        if str(error).startswith(("DATA_LOSS", "FAILED_PRECONDITION", "NOT_FOUND")):
            return None
        raise


@contextlib.contextmanager
def _disk(folder: Path, what: str):
    """Converts I/O errors to DataError."""
    try:
        yield
    except NtkSelectError:
        raise
    except (OSError, ValueError) as error:
        said = " ".join(str(error).partition(" [tensorstore_spec")[0].split())
        advice = "Try: the same call once the folder has space and is writable; it computes only the missing blocks. Or: out= another folder."
        raise DataError(f"The folder {str(folder)!r} cannot hold the {what}: {said}. {advice}") from error


def _mark(folder: Path, bounds) -> Path:
    return folder / "done" / "_".join(f"{start}-{stop}" for start, stop in bounds)


def _meets(marks: np.ndarray, bounds) -> np.ndarray:
    """Mask of the blocks that overlap the region."""
    start, stop = np.transpose(bounds)
    return ((marks[:, :, 0] < stop) & (start < marks[:, :, 1])).all(axis=1)


def _coverage(marks: np.ndarray, bounds) -> tuple[list[np.ndarray], np.ndarray]:
    """Edges of blocks within a region along each axis, and a mask of the finished cells between them."""
    met = marks[_meets(marks, bounds)]
    edges = [np.unique(np.clip([*met[:, axis].ravel(), *ends], *ends)) for axis, ends in enumerate(bounds)]
    there = np.zeros([len(axis) - 1 for axis in edges], bool)
    for block in met:
        there[tuple(slice(*np.searchsorted(axis, np.clip(ends, axis[0], axis[-1]))) for axis, ends in zip(edges, block, strict=True))] = True
    return edges, there
