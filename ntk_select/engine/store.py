"""A kernel on disk that grows tile by tile, survives interruption and takes more examples.

The folder holds kernel.npy (memory-mapped), an empty file in done/ for each tile that is there, named by its rows and
columns, examples_x1.npy and examples_x2.npy (a digest of each example) and kernel.json (what the kernel is of). A tile
is marked only after it is written, so that work that stopped half way is done again, and the other tiles are not. Marks
whose kernel or digests are lost or damaged count for nothing. One process at a time: a second one that writes into the
same folder may lose tiles of the first.
"""

import bisect
import io
import itertools
import os
import re
import warnings
from pathlib import Path

import numpy as np

from ntk_select.engine.digest import digest_of_function, digest_of_params, digests_of_examples
from ntk_select.engine.folder import begin, check_examples, enlarge, loaded
from ntk_select.engine.memory import put_tile
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.plan import Plan
from ntk_select.engine.structure import Structure
from ntk_select.errors import ConfigError, DataError, first_line
from ntk_select.files import write_atomically
from ntk_select.whole import is_whole

TILE = 512
LAYOUT = 2


class TileStore:
    """The sink of kernels that go to disk; `cuts` are the ends of its tiles.

    `marks` are the tiles that are there: (first row, last row + 1, first column, last column + 1).
    """

    def __init__(self, folder: Path, cuts: tuple[tuple[int, ...], tuple[int, ...] | None], marks: list[tuple[int, ...]]):
        self.folder, self.cuts, self._marks = folder, cuts, list(marks)
        self._rows, self._columns = cuts[0], cuts[0] if cuts[1] is None else cuts[1]
        self._done = {cell for mark in marks for cell in itertools.product(_between(self._rows, mark[:2]), _between(self._columns, mark[2:]))}

    def done(self, i: int, j: int) -> bool:
        """Whether the tile was written."""
        return (i, j) in self._done

    def write(self, i: int, j: int, tiles: dict[str, np.ndarray]) -> None:
        """Writes a tile, then marks it."""
        rows, columns = self._rows[i : i + 2], self._columns[j : j + 2]
        try:
            kernel = np.load(self.folder / "kernel.npy", mmap_mode="r+")
            put_tile(kernel, tiles[""], slice(*rows), slice(*columns), symmetric=self.cuts[1] is None)
            kernel.flush()
            (self.folder / "done" / "{}-{}_{}-{}".format(*rows, *columns)).touch()
        except OSError as error:
            raise DataError(f"The folder {str(self.folder)!r} cannot hold the kernel: {first_line(error)}.") from error
        self._done.add((i, j))
        self._marks.append((*rows, *columns))

    def recut(self, plan: Plan) -> "TileStore":
        """The same folder, to go on by a plan whose tiles are shorter."""
        return TileStore(self.folder, (plan.rows, plan.columns), self._marks)

    def result(self, by_layer: bool = False) -> np.ndarray:
        """The kernel of the examples that were asked for, memory-mapped, read only."""
        del by_layer
        return np.load(self.folder / "kernel.npy", mmap_mode="r")[: self._rows[-1], : self._columns[-1]]


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

    Tiles that are there keep their cuts; `tile` is how long the others are at most, and may change from call to call.

    Raises:
      ConfigError: the folder holds a kernel of something else, or `tile` is not a positive number.
      DataError: the folder cannot be written or read.

    Warns:
      UserWarning: tiles were marked whose numbers are lost; they are computed again.

    Cost: one trace of the backward pass; reads params and x once. More examples copy the kernel once.
    """
    if tile is not None and (not is_whole(tile) or tile < 1):
        raise ConfigError(f"tile={tile!r} must be a positive number of examples.")
    folder = Path(folder)
    described = {
        "layout": LAYOUT,
        "fn": digest_of_function(structure),
        "params": digest_of_params(params),
        "layers": [leaf.name for leaf in structure.leaves],
        "outputs": f"{outputs.pairing} of {outputs.count}",
        "x1": f"{x1.dtype}{list(x1.shape[1:])}",
        "x2": x2 is not None,
        "precision": precision,
        "accumulate": accumulate,
    }
    sides = {"x1": digests_of_examples(x1, outputs.left)} | ({} if x2 is None else {"x2": digests_of_examples(x2, outputs.right)})
    tail = outputs.kernel_shape(0, 0)[2:]
    dtype = np.dtype(np.float64 if accumulate == "float64" else structure.dtype)
    try:
        begin(folder, described, "kernel")
        marks = _fitted(folder, sides, tail, dtype)
    except OSError as error:
        raise DataError(f"The folder {str(folder)!r} cannot hold the kernel: {first_line(error)}.") from error
    cuts = [_cuts(_edges(marks, sides, name), len(side), int(tile or TILE)) for name, side in sides.items()]
    return TileStore(folder, (cuts[0], None if x2 is None else cuts[1]), marks)


def _fitted(folder: Path, sides: dict[str, np.ndarray], tail, dtype) -> list[tuple[int, ...]]:
    """Makes the files fit the examples; returns the tiles that are there."""
    path, names = folder / "kernel.npy", list(sides)
    marks = [tuple(map(int, found.groups())) for found in map(re.compile(r"(\d+)-(\d+)_(\d+)-(\d+)").fullmatch, os.listdir(folder / "done")) if found]
    ends = {name: max(_edges(marks, sides, name), default=0) for name in names}
    kernel, known = loaded(path), {name: loaded(folder / f"examples_{name}.npy") for name in names}
    room = (0, 0) if kernel is None or kernel.dtype != dtype or kernel.shape[2:] != tail or kernel.ndim < 2 else kernel.shape[:2]
    known = {name: side if side is not None and side.shape[1:] == (16,) else np.zeros((0, 16), np.uint8) for name, side in known.items()}
    if any(length < ends[name] for length, name in zip(room, (names * 2)[:2], strict=True)) or any(len(known[name]) < ends[name] for name in names):
        warnings.warn(
            f"kernel.npy or the digests of the examples in {str(folder)!r} are lost or damaged: all tiles are computed again.", stacklevel=4
        )
        for found in (folder / "done").iterdir():
            found.unlink()
        marks, ends = [], dict.fromkeys(names, 0)
    for name, side in sides.items():
        check_examples(known[name], side, ends[name], name, folder, "kernel")
    wanted = tuple(max(length, len(sides[name])) for length, name in zip(room, (names * 2)[:2], strict=True))
    if wanted != room:
        keep = tuple(slice(ends[name]) for name in (names * 2)[:2])
        enlarge(path, kernel, keep if all(part.stop for part in keep) else None, (*wanted, *tail), dtype)
    for name, side in sides.items():
        if len(known[name]) < len(side) or (known[name][: len(side)] != side).any():
            file = io.BytesIO()
            np.save(file, side)
            write_atomically(folder / f"examples_{name}.npy", file.getvalue())
    return marks


def _edges(marks: list[tuple[int, ...]], sides: dict, name: str) -> set[int]:
    """Where tiles begin and end along one side; a symmetric kernel has one side only."""
    which = slice(0, 4) if len(sides) == 1 else slice(0, 2) if name == "x1" else slice(2, 4)
    return {edge for mark in marks for edge in mark[which]}


def _cuts(edges: set[int], n: int, tile: int) -> tuple[int, ...]:
    """All edges, and between two of them no more than `tile` examples."""
    known = sorted({0, n, *(edge for edge in edges if edge < n)})
    return (*(cut for first, last in itertools.pairwise(known) for cut in range(first, last, tile)), n)


def _between(cuts: tuple[int, ...], ends: tuple[int, ...]) -> range:
    """Numbers of the pieces between two ends."""
    return range(bisect.bisect_left(cuts, ends[0]), bisect.bisect_left(cuts, ends[1]))
