"""The records of a benchmark on disk.

OUT/bench.json                  the manifest: the config, and facts of experts and tasks
OUT/cells.parquet               the cells that the config requests
OUT/records/KIND/xx/KEY.parquet one file per cell, written whole or not at all
OUT/records/KIND.parquet        many records in one file, after packing
OUT/failures/KEY.json           a failed cell, with its error; deleted once the cell succeeds
OUT/running/NAME.json           progress of a run
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
from ntk_select.benchmark.cells import KINDS, Cell
from ntk_select.errors import ConfigError, DataError, explained, first_line

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
"""Types of columns that are empty in some records: pandas and DuckDB read a folder of files only if all have the same types."""


class Store:
    """The result folder of a benchmark, which is all that its workers share."""

    def __init__(self, folder: str | Path):
        self.folder = Path(os.path.expanduser(folder))

    def record_file(self, cell: Cell) -> Path:
        """Path of the record of a cell."""
        return self.folder / "records" / cell.kind / cell.key[:2] / f"{cell.key}.parquet"

    def put(self, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the record of a cell, whole or not at all. Raises OSError."""
        write_atomically(self.record_file(cell), parquet_bytes(rows))
        self.failure_file(cell).unlink(missing_ok=True)

    def record(self, cell: Cell) -> list[dict[str, Any]]:
        """The rows of the record of a cell. Raises DataError if it is damaged or not there."""
        return _record(self.record_file(cell), None).to_pylist()

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
        """Path of the error of a failed cell."""
        return self.folder / "failures" / f"{cell.key}.json"

    def put_failure(self, cell: Cell, error: str, trace: str = "") -> None:
        """Writes why a cell failed. Raises OSError."""
        known = {name: getattr(cell, name) for name in ("kind", "expert", "task", "images", "seed")}
        failure = {**known, "error": error, "trace": trace, "when": time.time()}
        write_atomically(self.failure_file(cell), (json.dumps(failure, indent=1) + "\n").encode())

    def failures(self) -> dict[str, dict[str, Any]]:
        """The failures by key of the cell: task, expert, seed, error, trace, ..."""
        found = {}
        for file in sorted((self.folder / "failures").glob("*.json")):
            with suppress(FileNotFoundError):  # its cell has just succeeded
                found[file.stem] = read_json(file)
        return found

    def put_manifest(self, manifest: Mapping[str, Any], cells: Sequence[Cell]) -> None:
        """Writes the manifest and the list of cells. Raises OSError."""
        rows = [{**asdict(cell), "settings": json.dumps(dict(cell.settings)), "key": cell.key} for cell in cells]
        write_atomically(self.folder / CELLS, parquet_bytes(rows))
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())

    def manifest(self) -> dict[str, Any]:
        """The manifest. Raises ConfigError if the folder has none."""
        file = self.folder / MANIFEST
        if not file.is_file():
            raise ConfigError(self._no_benchmark())
        return read_json(file, ("name",))

    def _no_benchmark(self) -> str:
        """The reason, and benchmarks close by."""
        folder = self.folder
        why = f"there is no {MANIFEST}" if folder.is_dir() else "it is a file" if folder.exists() else "there is no such folder"
        sentence = f"{str(folder)!r} contains no benchmark ({why})."
        others = (folder if folder.is_dir() else folder.parent).glob(f"*/{MANIFEST}")
        if near := [str(file.parent) for file in (folder.parent / MANIFEST, *sorted(others)) if file.is_file()]:
            return f"{sentence} There is one in {', '.join(near[:3])}. Try: that folder"
        run = f"ntk-select bench run CONFIG --out {shlex.quote(str(folder))}"
        return f"{sentence} Try: the folder of a run, or {run}"

    def cells(self) -> list[Cell]:
        """The cells of the benchmark. Raises as `manifest`, and DataError if their list is damaged."""
        self.manifest()
        rows = _table(self.folder / CELLS).drop_columns(["key"]).to_pylist()
        try:
            return [Cell(**{**row, "settings": json.loads(row["settings"])}) for row in rows]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{self.folder / CELLS} is not a list of cells ({explained(error)}). Try: delete it, and run the benchmark again"
            ) from error

    def read(self, kind: str, keys: Iterable[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The records of a kind as one table.

        Args:
          kind: Kind of the cells.
          keys: Keys of cells; all by default.
          columns: Names, "key" among them; all by default.

        Raises:
          DataError: a record is damaged; the message names it.
        """
        files = sorted((self.folder / "records" / kind).glob("*/*.parquet"))
        wanted = None if keys is None else set(keys)
        tables = [_record(file, columns) for file in files if wanted is None or file.stem in wanted]
        if (packed := self._packed(kind)).is_file():
            table, newer = _table(packed, columns), {file.stem for file in files}
            tables.append(
                table.filter(pa.array([key not in newer and (wanted is None or key in wanted) for key in table["key"].to_pylist()], pa.bool_()))
            )
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})

    def pack(self, folder: str | Path) -> "Store":
        """Writes the records of the benchmark's cells to another folder, one small file per kind. Raises OSError."""
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
            raise ValueError("there is no column 'key'")
        return table
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: damaged names of columns
        raise DataError(f"The record {file} is damaged ({first_line(error)}). Try: delete it, and run the benchmark again") from error


def _record(file: Path, columns: Sequence[str] | None) -> pa.Table:
    table = _table(file, columns)
    if {*table["key"].to_pylist()} != {file.stem}:
        raise DataError(f"The record {file} is that of another cell. Try: delete it, and run the benchmark again")
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
    """A JSON object with these fields. Raises DataError if the file is damaged, FileNotFoundError if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.keys() >= {*fields}:
            raise ValueError(f"it is not an object{' with the fields ' if fields else ''}{', '.join(fields)}")
        return found
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}. Try: delete it, and run the benchmark again") from error
