"""Where do the records of a benchmark lie, and how are they read?

OUT/bench.json                  the config, what is known of experts and tasks
OUT/cells.parquet               the cells that the config asks for
OUT/records/KIND/xx/KEY.parquet one file a cell, written whole or not at all
OUT/records/KIND.parquet        many of them in one file, if they were packed
OUT/failures/KEY.json           a cell that failed, with its error; gone once it succeeds
OUT/running/NAME.json           what a runner is at
"""

import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ntk_select._runtime.files import write_atomically
from ntk_select.errors import ConfigError, DataError, explained, first_line

from .cells import KINDS, Cell

MANIFEST = "bench.json"
CELLS = "cells.parquet"

TYPES = {
    "images_per_class": pa.int64(),
    "value": pa.float64(),
    "terms": pa.string(),
    "unavailable": pa.string(),
    "accuracy": pa.float64(),
    "images_per_second": pa.float64(),
}
"""Of columns that may hold nothing in one record and something in the next: pandas and DuckDB take a folder of files of the same types only."""


class Store:
    """The folder of a benchmark's results: the only thing that its workers share."""

    def __init__(self, folder: str | Path):
        self.folder = Path(os.path.expanduser(folder))

    def record_file(self, cell: Cell) -> Path:
        """Where the record of a cell lies."""
        return self.folder / "records" / cell.kind / cell.key[:2] / f"{cell.key}.parquet"

    def put(self, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the record of a cell, whole or not at all. Raises OSError."""
        write_atomically(self.record_file(cell), parquet_bytes(rows))
        self.failure_file(cell).unlink(missing_ok=True)

    def done(self) -> set[str]:
        """Keys of all cells that have a record."""
        keys = {file.stem for kind in KINDS for file in (self.folder / "records" / kind).glob("*/*.parquet")}
        for kind in KINDS:
            if (packed := self._packed(kind)).is_file():
                keys |= set(_table(packed, ["key"])["key"].to_pylist())
        return keys

    def _packed(self, kind: str) -> Path:
        return self.folder / "records" / f"{kind}.parquet"

    def failure_file(self, cell: Cell) -> Path:
        """Where the error of a cell lies, if it failed."""
        return self.folder / "failures" / f"{cell.key}.json"

    def put_failure(self, cell: Cell, error: str, trace: str = "") -> None:
        """Writes why a cell failed. Raises OSError."""
        record = {
            "kind": cell.kind,
            "expert": cell.expert,
            "task": cell.task,
            "images": cell.images,
            "seed": cell.seed,
            "error": error,
            "trace": trace,
        }
        write_atomically(self.failure_file(cell), (json.dumps({**record, "when": time.time()}, indent=1) + "\n").encode())

    def failures(self) -> dict[str, dict[str, Any]]:
        """What is known of each cell that failed, by key."""
        found = {}
        for file in sorted((self.folder / "failures").glob("*.json")):
            with suppress(FileNotFoundError):  # its cell has just been done
                found[file.stem] = read_json(file)
        return found

    def put_manifest(self, manifest: Mapping[str, Any], cells: Sequence[Cell]) -> None:
        """Writes what the benchmark is. Raises OSError."""
        rows = [{**asdict(cell), "settings": json.dumps(dict(cell.settings)), "key": cell.key} for cell in cells]
        write_atomically(self.folder / CELLS, parquet_bytes(rows))
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())

    def manifest(self) -> dict[str, Any]:
        """What the benchmark is.

        Raises:
          ConfigError: the folder holds none.
        """
        file = self.folder / MANIFEST
        if not file.is_file():
            raise ConfigError(self._no_benchmark())
        return read_json(file, ("name",))

    def _no_benchmark(self) -> str:
        """Why there is none, and where there is one."""
        folder = self.folder
        why = f"{MANIFEST} is not there" if folder.is_dir() else "it is a file" if folder.exists() else "there is no such folder"
        holds_none = f"{str(folder)!r} holds no benchmark ({why})."
        beside = (folder if folder.is_dir() else folder.parent).glob(f"*/{MANIFEST}")
        if near := [str(file.parent) for file in (folder.parent / MANIFEST, *sorted(beside)) if file.is_file()]:
            return f"{holds_none} There is one in {', '.join(near[:3])}: give that folder."
        run = f"ntk-select bench run CONFIG --out {shlex.quote(str(folder))}"
        return f"{holds_none} Give the folder of a run, the one after --out of bench run. Type: {run}"

    def cells(self) -> list[Cell]:
        """The cells that the manifest names. Raises as `manifest`, and DataError where their list is damaged."""
        self.manifest()
        rows = _table(self.folder / CELLS).drop_columns(["key"]).to_pylist()
        try:
            return [Cell(**{**row, "settings": json.loads(row["settings"])}) for row in rows]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{self.folder / CELLS} is no list of cells ({explained(error)}). Delete it, and run the benchmark again.") from error

    def read(self, kind: str, keys: Iterable[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """All records of a kind as one table; of the keys and columns alone, if they are given. Among columns must be "key".

        Raises:
          DataError: a record is damaged; the sentence says which.
        """
        files = sorted((self.folder / "records" / kind).glob("*/*.parquet"))
        wanted = None if keys is None else set(keys)
        tables = [_record(file, columns) for file in files if wanted is None or file.stem in wanted]
        if (packed := self._packed(kind)).is_file():
            table, alone = _table(packed, columns), {file.stem for file in files}
            kept = [key not in alone and (wanted is None or key in wanted) for key in table["key"].to_pylist()]
            tables.append(table.filter(pa.array(kept, pa.bool_())))
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})

    def pack(self, folder: str | Path) -> "Store":
        """Writes the records of the manifest's cells to another folder, one file a kind, small enough to be kept with a project. Raises OSError."""
        there, cells = Store(folder), self.cells()
        there.put_manifest(self.manifest(), cells)
        known = self.done()
        for cell in cells:
            if cell.key not in known and (failure := self.failure_file(cell)).is_file():
                write_atomically(there.failure_file(cell), failure.read_bytes())
        for kind in KINDS:
            if (table := self.read(kind, [cell.key for cell in cells if cell.kind == kind])).num_rows:
                order = [(name, "ascending") for name in ("key", "score") if name in table.column_names]
                write_atomically(there._packed(kind), _bytes(table.sort_by(order)))
        return there


def _table(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True).read(columns)
        if "key" not in table.column_names:
            raise ValueError("it has no column 'key'")
        return table
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: names that are no text any more
        raise DataError(f"The record {file} is damaged ({first_line(error)}). Delete it, and run the benchmark again.") from error


def _record(file: Path, columns: Sequence[str] | None) -> pa.Table:
    table = _table(file, columns)
    if {*table["key"].to_pylist()} != {file.stem}:
        raise DataError(f"The record {file} is that of another cell. Delete it, and run the benchmark again.")
    return table


def parquet_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as the bytes of a Parquet file."""
    table = pa.Table.from_pylist(list(rows))
    for place, name in enumerate(table.column_names):
        if name in TYPES and pa.types.is_null(table[name].type):
            table = table.set_column(place, name, table[name].cast(TYPES[name]))
    return _bytes(table)


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_json(file: Path, fields: Sequence[str] = ()) -> dict[str, Any]:
    """An object that has these fields. Raises DataError for a damaged file, FileNotFoundError where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.keys() >= {*fields}:
            raise ValueError(f"it holds no object{' with the fields ' if fields else ''}{', '.join(fields)}")
        return found
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}. Delete it, and run the benchmark again.") from error
