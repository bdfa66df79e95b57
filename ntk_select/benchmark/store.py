"""Where do the records of a benchmark lie, and how are they read?

OUT/bench.json                  the config, the cells, what is known of experts and tasks
OUT/records/KIND/xx/KEY.parquet one file a cell, written whole or not at all
OUT/failures/KEY.json           a cell that failed, with its error; gone once it succeeds
OUT/running/NAME.json           what a runner is at
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ntk_select.errors import ConfigError, DataError
from ntk_select.files import write_atomically

from .cells import KINDS, Cell

MANIFEST = "bench.json"


class Store:
    """The folder of a benchmark's results: the only thing that its workers share."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    def record_file(self, cell: Cell) -> Path:
        """Where the record of a cell lies."""
        return self.folder / "records" / cell.kind / cell.key[:2] / f"{cell.key}.parquet"

    def put(self, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the record of a cell, whole or not at all. Raises OSError."""
        write_atomically(self.record_file(cell), parquet_bytes(rows))
        self.failure_file(cell).unlink(missing_ok=True)

    def done(self) -> set[str]:
        """Keys of all cells that have a record."""
        return {file.stem for kind in KINDS for file in (self.folder / "records" / kind).glob("*/*.parquet")}

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
        return {file.stem: read_json(file) for file in sorted((self.folder / "failures").glob("*.json"))}

    def put_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes what the benchmark is. Raises OSError."""
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())

    def manifest(self) -> dict[str, Any]:
        """What the benchmark is.

        Raises:
          ConfigError: the folder holds none.
        """
        file = self.folder / MANIFEST
        if not file.is_file():
            raise ConfigError(
                f"{str(self.folder)!r} holds no benchmark ({MANIFEST} is not there). Type: ntk-select bench run CONFIG --out {self.folder}"
            )
        return read_json(file)

    def cells(self) -> list[Cell]:
        """The cells that the manifest names. Raises as `manifest`."""
        return [Cell(**cell) for cell in self.manifest()["cells"]]

    def read(self, kind: str, keys: Iterable[str] | None = None) -> pa.Table:
        """All records of a kind as one table; of the keys alone, if they are given.

        Raises:
          DataError: a record is damaged; the sentence says which.
        """
        files = sorted((self.folder / "records" / kind).glob("*/*.parquet"))
        if keys is not None:
            wanted = set(keys)
            files = [file for file in files if file.stem in wanted]
        tables = []
        for file in files:
            try:
                tables.append(pq.ParquetFile(file).read())
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"The record {file} is damaged ({str(error).splitlines()[0]}). Delete it, and run the benchmark again.") from error
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def parquet_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_json(file: Path) -> dict[str, Any]:
    """Raises DataError for a damaged file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}. Delete it, and run the benchmark again.") from error
