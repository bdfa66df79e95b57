"""Progress of a benchmark: done and failed cells, active runs, and the remaining time."""

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.store import Store, read_json

SILENT_AFTER = 600.0
"""Seconds without a heartbeat after which a run on another machine counts as ended."""


@dataclass(frozen=True)
class Status:
    """Progress of a benchmark.

    Attributes:
      name: The name of its config.
      rows: (cells, done, failed) by kind and task.
      cells, done, failed: totals.
      failures: Cells that failed and have not succeeded since: task, expert, seed, error.
      runners: active runs: executor, seconds since the last heartbeat, cells done and failed.
      seconds_left: estimate for the active runs, from the duration of cells of the same kind, images and task; None without active runs or durations.
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
    """Progress of the benchmark in a folder, which runs may be writing to.

    Raises:
      ConfigError: the folder contains no benchmark.
      DataError: a file in it is damaged.
    """
    store = Store(folder)
    name, cells, done = store.manifest()["name"], store.cells(), store.done()
    open_cells = {cell.key for cell in cells} - done
    failures = {key: failure for key, failure in store.failures().items() if key in open_cells}
    rows: dict[tuple[str, str], tuple[int, int, int]] = {}
    for cell in cells:
        before = rows.get((cell.kind, cell.task), (0, 0, 0))
        rows[cell.kind, cell.task] = before[0] + 1, before[1] + (cell.key in done), before[2] + (cell.key in failures)
    now = time.time()
    runners = [note for file in sorted((store.folder / "running").glob("*.json")) if (note := _note(file)) and _is_active(note, now)]
    waiting = [cell for cell in cells if cell.key in open_cells and cell.key not in failures]
    return Status(
        name,
        rows,
        len(cells),
        len(cells) - len(open_cells),
        len(failures),
        list(failures.values()),
        [{**note, "silent": now - note["beat"]} for note in runners],
        _seconds_left(store, cells, waiting, runners) if runners and waiting else None,
    )


def _note(file: Path) -> dict[str, Any] | None:
    """The heartbeat of a run; None for one that has just ended."""
    try:
        return read_json(file, ("host", "pid", "began", "beat"))
    except FileNotFoundError:
        return None


def _is_active(note: dict[str, Any], now: float) -> bool:
    """Whether a run has a recent heartbeat, and, on this machine, its process still exists."""
    if note["host"] == os.uname().nodename:
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
    return now - note["beat"] < SILENT_AFTER


def _seconds_left(store: Store, cells: list[Cell], waiting: list[Cell], runners: list[dict[str, Any]]) -> float | None:
    """The seconds that similar cells took, divided by the number of cells that are measured at the same time."""
    took: dict[str, float] = {}
    for kind in dict.fromkeys(cell.kind for cell in cells):
        table = store.read(kind, columns=["key", "cell_seconds"])
        if table.num_rows:
            took |= dict(zip(table["key"].to_pylist(), table["cell_seconds"].to_pylist(), strict=True))
    if not took:
        return None
    known = [cell for cell in cells if cell.key in took]
    alike = defaultdict(list)
    for cell in known:
        for likeness in _likenesses(cell):
            alike[likeness].append(took[cell.key])
    rough = mean(took.values())
    work = sum(next((mean(alike[likeness]) for likeness in _likenesses(cell) if likeness in alike), rough) for cell in waiting)
    began = min(note["began"] for note in runners)
    recent = sum(took[cell.key] for cell in known if (file := store.record_file(cell)).is_file() and file.stat().st_mtime >= began)
    wall = max(note["beat"] for note in runners) - began
    return work / max(1.0, recent / wall if wall > 0 else 1.0)


def _likenesses(cell: Cell) -> list[tuple]:
    """Properties that cells of similar duration share, the most specific first."""
    architecture = cell.settings.get("architecture", cell.expert)
    return [
        (cell.kind, cell.role, cell.task, cell.images, architecture),
        (cell.kind, cell.role, cell.images, architecture),
        (cell.kind, cell.images),
        (cell.kind,),
    ]
