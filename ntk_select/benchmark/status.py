"""How far is a benchmark, what failed, and how long will the rest take?"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from .cells import Cell
from .store import Store, read_json

QUIET = 600.0
"""Seconds without a sign after which a runner of another machine counts as gone."""


@dataclass(frozen=True)
class Status:
    """Where a benchmark stands.

    Attributes:
      name: of its config.
      rows: for each kind and task (cells, done, failed).
      cells, done, failed: of all.
      failures: of cells that failed and were not done since: task, expert, seed, error.
      runners: what is at work: executor, seconds since its last sign, cells done and failed by it.
      seconds_left: for those that are at work now, by the time that cells of the same kind, images and task took; None where nobody is, or nothing is known.
    """

    name: str
    rows: dict[tuple[str, str], tuple[int, int, int]]
    cells: int
    done: int
    failed: int
    failures: list[dict[str, Any]]
    runners: list[dict[str, Any]]
    seconds_left: float | None


def status(folder: str | Path) -> Status:
    """Reads the folder alone, while others may be writing into it.

    Raises:
      ConfigError: it holds no benchmark.
      DataError: a file in it is damaged.
    """
    store = Store(folder)
    name, cells, done = store.manifest()["name"], store.cells(), store.done()
    undone = {cell.key for cell in cells} - done
    failures = {key: failure for key, failure in store.failures().items() if key in undone}
    rows = {}
    for kind in dict.fromkeys((cell.kind, cell.task) for cell in cells):
        keys = [cell.key for cell in cells if (cell.kind, cell.task) == kind]
        rows[kind] = len(keys), sum(key in done for key in keys), sum(key in failures for key in keys)
    now = time.time()
    runners = [note for file in sorted((store.folder / "running").glob("*.json")) if (note := _note(file)) and _at_work(note, now)]
    waiting = [cell for cell in cells if cell.key not in done and cell.key not in failures]
    return Status(
        name,
        rows,
        len(cells),
        sum(cell.key in done for cell in cells),
        len(failures),
        list(failures.values()),
        [{**note, "silent": now - note["beat"]} for note in runners],
        _left(store, cells, waiting, runners) if runners and waiting else None,
    )


def _note(file: Path) -> dict[str, Any] | None:
    """What a runner left; None for one that has just ended."""
    try:
        return read_json(file, ("host", "pid", "began", "beat"))
    except FileNotFoundError:
        return None


def _at_work(note: dict[str, Any], now: float) -> bool:
    """Whether a runner has given a sign lately, and, if it is of this machine, still lives."""
    if note["host"] == os.uname().nodename:
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            return True
    return now - note["beat"] < QUIET


def _left(store: Store, cells: list[Cell], waiting: list[Cell], runners: list[dict[str, Any]]) -> float | None:
    """The seconds that cells of the same kind took, divided by how many are being done at the same time."""
    took: dict[str, float] = {}
    for kind in dict.fromkeys(cell.kind for cell in cells):
        table = store.read(kind, columns=["key", "cell_seconds"])
        if table.num_rows:
            took |= dict(zip(table["key"].to_pylist(), table["cell_seconds"].to_pylist(), strict=True))
    known = [cell for cell in cells if cell.key in took]
    alike: dict[tuple, list[float]] = {}
    for cell in known:
        for likeness in _likenesses(cell):
            alike.setdefault(likeness, []).append(took[cell.key])
    wanted = [next((mean(alike[likeness]) for likeness in _likenesses(cell) if likeness in alike), None) for cell in waiting]
    rough = mean(took.values()) if took else None
    if rough is None:
        return None
    began = min(note["began"] for note in runners)
    recent = sum(took[cell.key] for cell in known if (file := store.record_file(cell)).is_file() and file.stat().st_mtime >= began)
    wall = max(note["beat"] for note in runners) - began
    together = max(1.0, recent / wall) if wall > 0 else 1.0
    return sum(rough if seconds is None else seconds for seconds in wanted) / together


def _likenesses(cell: Cell) -> list[tuple]:
    """Cells that take about as long, the closest first."""
    architecture = cell.settings.get("architecture", cell.expert)
    return [
        (cell.kind, cell.role, cell.task, cell.images, architecture),
        (cell.kind, cell.role, cell.images, architecture),
        (cell.kind, cell.images),
        (cell.kind,),
    ]
