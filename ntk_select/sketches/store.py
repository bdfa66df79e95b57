"""A sketch on disk that grows batch by batch, survives interruption and takes more examples.

The folder holds sketch.npy (memory-mapped), an empty file in done/ for each run of rows that is there, examples_x.npy (a
digest of each example) and sketch.json: what the sketch is of, its kind, dimension, seed, and the version of the scheme
that makes its random numbers. One process at a time.
"""

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np

from ntk_select.engine.digest import digest_of_function, digest_of_params, digests_of_examples
from ntk_select.engine.folder import begin, check_examples, enlarge, loaded
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.structure import Structure
from ntk_select.errors import DataError, first_line
from ntk_select.files import write_atomically
from ntk_select.sketches.bits import SCHEME
from ntk_select.sketches.spec import Sketch

LAYOUT = 1


class RowStore:
    """The rows of a sketch in a folder; `missing` are the runs that are not there yet."""

    def __init__(self, folder: Path, n: int, done: np.ndarray):
        self.folder, self.n = folder, n
        edges = np.flatnonzero(np.diff(np.concatenate([[True], done, [True]]).astype(int)))
        self.missing = tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def write(self, start: int, rows: np.ndarray) -> None:
        """Writes rows, then marks them."""
        try:
            array = np.load(self.folder / "sketch.npy", mmap_mode="r+")
            array[start : start + len(rows)] = rows
            array.flush()
            (self.folder / "done" / f"{start}-{start + len(rows)}").touch()
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"The folder {str(self.folder)!r} cannot hold the sketch: {first_line(error)}.") from error

    def result(self) -> np.ndarray:
        """The rows of the examples that were asked for, memory-mapped, read only."""
        try:
            return np.load(self.folder / "sketch.npy", mmap_mode="r")[: self.n]
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"The folder {str(self.folder)!r} cannot hold the sketch: {first_line(error)}.") from error


def open_store(folder: str | Path, structure: Structure, params, x: np.ndarray, outputs: Outputs, sketch: Sketch, *, precision: str) -> RowStore:
    """Opens the folder, begins it, or makes room in it for more examples.

    Raises:
      ConfigError: the folder holds a sketch of something else.
      DataError: the folder cannot be written or read.

    Warns:
      UserWarning: rows were marked whose numbers are lost; they are computed again.
    """
    folder = Path(folder)
    described = {
        "layout": LAYOUT,
        "scheme": SCHEME,
        "kind": sketch.kind,
        "dim": int(sketch.dim),
        "blocks": int(sketch.blocks),
        "seed": int(sketch.seed),
        "fn": digest_of_function(structure),
        "params": digest_of_params(params),
        "layers": [leaf.name for leaf in structure.leaves],
        "outputs": f"{outputs.pairing} of {outputs.count}",
        "x1": f"{x.dtype}{list(x.shape[1:])}",
        "precision": precision,
    }
    digests = digests_of_examples(x, outputs.left)
    shape = (() if outputs.pairing == "trace" else (outputs.count,)) + (int(sketch.dim),)
    try:
        begin(folder, described, "sketch")
        done = _fitted(folder, digests, shape, np.dtype(structure.dtype))
    except OSError as error:
        raise DataError(f"The folder {str(folder)!r} cannot hold the sketch: {first_line(error)}.") from error
    return RowStore(folder, len(x), done[: len(x)])


def _fitted(folder: Path, digests: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Makes the files fit the examples; returns which rows are there."""
    runs = [tuple(map(int, found.groups())) for found in map(re.compile(r"(\d+)-(\d+)").fullmatch, os.listdir(folder / "done")) if found]
    end = max((stop for _, stop in runs), default=0)
    array, known = loaded(folder / "sketch.npy"), loaded(folder / "examples_x.npy")
    room = len(array) if array is not None and array.dtype == dtype and array.shape[1:] == shape else 0
    known = known if known is not None and known.shape[1:] == (16,) else np.zeros((0, 16), np.uint8)
    if min(room, len(known)) < end:
        warnings.warn(f"sketch.npy or the digests of the examples in {str(folder)!r} are lost or damaged: all rows are computed again.", stacklevel=4)
        for found in (folder / "done").iterdir():
            found.unlink()
        runs, end = [], 0
    check_examples(known, digests, end, "x", folder, "sketch")
    if len(digests) > room:
        enlarge(folder / "sketch.npy", array, (slice(end),) if end else None, (len(digests), *shape), dtype)
    if len(known) < len(digests) or (known[: len(digests)] != digests).any():
        file = io.BytesIO()
        np.save(file, digests)
        write_atomically(folder / "examples_x.npy", file.getvalue())
    done = np.zeros(max(len(digests), end), bool)
    for start, stop in runs:
        done[start:stop] = True
    return done
