"""A kernel on disk that grows tile by tile, survives interruption and takes more examples.

The folder holds kernel.npy (memory-mapped), one empty file in done/ for each tile that is there, examples.npy (a digest
of each example) and kernel.json (what the kernel is of). A tile is marked only after it is written, so that work that
stopped half way is done again, and the other tiles are not.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import jax
import numpy as np

from ntk_select.engine.memory import put_tile
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.selection import leaf_names
from ntk_select.engine.structure import Structure
from ntk_select.errors import ConfigError, DataError, first_line
from ntk_select.files import write_atomically

TILE = 512
LAYOUT = 1


class TileStore:
    """The sink of kernels that go to disk; `cuts` are the ends of its tiles."""

    def __init__(self, folder: Path, cuts: tuple[tuple[int, ...], tuple[int, ...] | None], kernel: np.memmap, sizes: tuple[int, int]):
        self.folder, self.cuts, self.kernel, self.sizes = folder, cuts, kernel, sizes

    def done(self, i: int, j: int) -> bool:
        """Whether the tile was written."""
        return self._mark(i, j).exists()

    def write(self, i: int, j: int, tiles: dict[str, np.ndarray]) -> None:
        """Writes a tile, then marks it."""
        rows, columns = self.cuts[0], self.cuts[0] if self.cuts[1] is None else self.cuts[1]
        put_tile(self.kernel, tiles[""], slice(*rows[i : i + 2]), slice(*columns[j : j + 2]), symmetric=self.cuts[1] is None)
        self.kernel.flush()
        self._mark(i, j).touch()

    def result(self, by_layer: bool = False) -> np.ndarray:
        """The kernel of the examples that were asked for, memory-mapped, read only."""
        del by_layer
        return np.load(self.folder / "kernel.npy", mmap_mode="r")[: self.sizes[0], : self.sizes[1]]

    def _mark(self, i: int, j: int) -> Path:
        return self.folder / "done" / f"{i}-{j}"


def open_store(
    folder: str | Path,
    structure: Structure,
    params,
    x1: np.ndarray,
    x2: np.ndarray | None,
    outputs: Outputs,
    *,
    precision: str,
    accumulate: str | None,
    tile: int | None = None,
) -> TileStore:
    """Opens the folder, begins it, or makes room in it for more examples.

    Raises:
      ConfigError: the folder holds a kernel of something else, or `tile` is not a positive number.
      DataError: the folder cannot be written or read.
    """
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise ConfigError(f"tile={tile!r} must be a positive number of examples.")
    folder = Path(folder)
    described = {
        "layout": LAYOUT,
        "function": _digest_of_function(structure, params),
        "pairing": outputs.pairing,
        "leaves": [leaf.name for leaf in structure.leaves],
        "precision": precision,
        "accumulate": accumulate,
        "symmetric": x2 is None,
    }
    sides = [_digests(x1, outputs.left)] + ([] if x2 is None else [_digests(x2, outputs.right)])
    tail = outputs.kernel_shape(0, 0)[2:]
    dtype = np.dtype(np.float64 if accumulate == "float64" else structure.dtype)
    try:
        (folder / "done").mkdir(parents=True, exist_ok=True)
        cuts = _grown(folder, described, sides, tile or TILE, tail, dtype)
        kernel = np.load(folder / "kernel.npy", mmap_mode="r+")
    except OSError as error:
        raise DataError(f"The folder {str(folder)!r} cannot hold the kernel: {first_line(error)}.") from error
    return TileStore(folder, (cuts[0], None if x2 is None else cuts[1]), kernel, tuple(len(side) for side in (sides * 2)[:2]))


def _grown(folder: Path, described: dict, sides: list[np.ndarray], tile: int, tail, dtype) -> list[tuple[int, ...]]:
    """Makes the folder fit the examples; returns the cuts of each side."""
    card = folder / "kernel.json"
    if not card.exists():
        if (folder / "kernel.npy").exists() or any((folder / "done").iterdir()):
            raise ConfigError(f"{str(folder)!r} holds files but no kernel.json. Type: out= another folder, or empty this one.")
        old = [(0,) for _ in sides]
    else:
        written = _read(card)
        old = [tuple(cuts) for cuts in written.pop("cuts")]
        if written != described:
            different = [key for key in described if written.get(key) != described[key]]
            raise ConfigError(f"{str(folder)!r} holds a kernel of something else (different: {', '.join(different)}). Type: out= another folder.")
        for name, cuts, side in zip(("x1", "x2"), old, sides, strict=False):
            known = np.load(folder / f"examples_{name}.npy")[: cuts[-1]]
            common = min(len(known), len(side))
            differing = np.flatnonzero((known[:common] != side[:common]).any(axis=1))
            if len(differing):
                raise ConfigError(
                    f"Example {differing[0]} of {name} is not the one whose kernel is in {str(folder)!r}; more examples may only follow "
                    "the same ones. Type: out= another folder."
                )
    new = [
        cuts if len(side) <= cuts[-1] else (*cuts, *range(cuts[-1] + tile, len(side), tile), len(side)) for cuts, side in zip(old, sides, strict=True)
    ]
    if new != old or not (folder / "kernel.npy").exists():
        _enlarge(folder / "kernel.npy", [cuts[-1] for cuts in old], [cuts[-1] for cuts in new], tail, dtype)
        for name, cuts, side in zip(("x1", "x2"), old, sides, strict=False):
            if len(side) > cuts[-1]:
                _replace(folder / f"examples_{name}.npy", lambda file, side=side: np.save(file, side))
        write_atomically(card, json.dumps({**described, "cuts": new}, indent=1).encode())
    return new


def _enlarge(path: Path, old: list[int], new: list[int], tail, dtype) -> None:
    """A larger kernel that begins with the old one, put in its place at once."""
    rows, columns = (new * 2)[:2]
    part = path.with_name("kernel.part.npy")
    kernel = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=(rows, columns, *tail))
    if path.exists():
        before = np.load(path, mmap_mode="r")
        a, b = (old * 2)[:2]
        kernel[:a, :b] = before[:a, :b]
    kernel.flush()
    del kernel
    os.replace(part, path)


def _replace(path: Path, write) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
    os.replace(part, path)


def _read(card: Path) -> dict:
    try:
        written = json.loads(card.read_text())
        written["cuts"] = [tuple(map(int, cuts)) for cuts in written["cuts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(card)!r} is not a description of a kernel: {first_line(error)}. Type: out= another folder.") from error
    return written


def _digests(x: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
    """One digest an example, of its numbers and of its cotangents."""
    shared = len(cotangents) == 1
    rows = []
    for index, example in enumerate(x):
        digest = hashlib.sha256(np.ascontiguousarray(example).tobytes())
        digest.update(np.ascontiguousarray(cotangents[0 if shared else index]).tobytes())
        rows.append(np.frombuffer(digest.digest()[:16], np.uint8))
    return np.stack(rows)


def _digest_of_function(structure: Structure, params) -> str:
    """Changes with any step of the function, any constant in it and any parameter."""
    digest, program = hashlib.sha256(), structure.program
    for step in program.steps:
        settings = re.sub(r"0x[0-9a-f]+", "", repr(sorted((key, str(value)) for key, value in step.settings.items())))
        digest.update(f"{step.name} {step.inputs} {step.outputs} {settings}\n".encode())
    digest.update(f"{sorted((slot, str(value)) for slot, value in program.literals.items())} {program.outputs}".encode())
    for name, leaf in (
        *zip(leaf_names(params), jax.tree.leaves(params), strict=True),
        *((str(index), value) for index, value in enumerate(program.values)),
    ):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
