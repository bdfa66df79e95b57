"""A run of a benchmark: it measures the cells that have no record yet, and can be interrupted at any time."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from ntk_select._runtime.configs import parse, read_text
from ntk_select._runtime.files import file_name, write_atomically
from ntk_select.benchmark.cells import Cell, Grid, TaskFacts, grid
from ntk_select.benchmark.config import parsed
from ntk_select.benchmark.facts import check_names, task_facts
from ntk_select.benchmark.measure import Bench, Outcome, Work
from ntk_select.benchmark.overlap import unknown_sources
from ntk_select.benchmark.store import Store
from ntk_select.benchmark.tracked import track_cell
from ntk_select.errors import ConfigError
from ntk_select.executors import checked_options, executor_of
from ntk_select.training.tracking import Tracker, guarded

BEAT = 1.0
"""Seconds between two heartbeats while cells finish."""
PULSE = 60.0
"""Seconds between two heartbeats while none finishes: a cell may take hours."""
LEFTOVER = 3600.0
"""Age in seconds above which an unfinished file belongs to a killed run."""


@dataclass(frozen=True)
class Summary:
    """Result of a run.

    Args:
      cells: Number of cells of the benchmark.
      before: Number of those that were done before this run.
      now: Number of those that this run did.
      failed: Errors by key.
      warnings: about the config.
      seconds: duration of this run.
    """

    cells: int
    before: int
    now: int
    failed: dict[str, str]
    warnings: list[str]
    seconds: float


def run(
    config_path: str | Path,
    out: str | Path,
    *,
    executor: str = "local",
    workers: int = 0,
    data: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    track: Tracker | str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options,
) -> Summary:
    """Measures every cell of the config that has no record in `out` yet.

    A cell with a record is never measured again; a failed cell is tried again. A run that is killed loses at most the cells in flight, and the same
    call resumes it. On a CPU the records contain the same numbers as those of an undisturbed run.

    Args:
      config_path: Path of a TOML file; see `BenchConfig`.
      out: folder of the results; see `ntk_select.benchmark.store`.
      executor: "local" (this process), "processes", or "ray".
      workers: number of workers, if the executor has several; 0 for as many as fit.
      data: Folder that replaces {data} in URIs.
      shard: (i, n): this is the i-th of n independent runs on the same folder, from 1.
      track: "mlflow", "wandb" or another `ntk_select.training.tracking.Tracker`, to which each cell is logged as one run once it is done or has
        failed. Cells that were done before are not logged.
      progress: called with (cells done, cells, last cell).
      options: Options of the executor: address, cpus, gpus for Ray.

    Raises:
      ConfigError: the config, a name in it, or an option is wrong, or the folder can no longer be written.
      TaskError, DataError, ModelError: a task or the zoo cannot be loaded.
    """
    began = time.perf_counter()
    execute, options = executor_of(executor), checked_options(workers, **options)
    if not 1 <= shard[0] <= shard[1]:
        raise ConfigError(f"shard {shard[0]}/{shard[1]} must be one of 1/N to N/N. Try: shard=(1, 2) (--shard 1/2)")
    path, store, tracker = Path(config_path).expanduser(), Store(out), guarded(track)
    text = read_text(path)  # once: later edits of the file do not change what is measured under these keys
    bench = Bench(parsed(parse(text, path), path), data)
    found, tasks = laid_out(bench)
    warnings = []
    if bench.config.synthetic is None:
        seen, parents = ({name: getattr(facts, field) for name, facts in bench.facts.items()} for field in ("seen", "initialised_from"))
        warnings = unknown_sources(bench.config, seen, parents)
        warnings += [f"Task {name!r}. {facts.test_split}" for name, facts in tasks.items() if facts.test_split]
    try:
        store.put_manifest(_manifest(bench, path.stem, text, found, tasks, warnings), found.cells)
        _delete_leftovers(store)
    except OSError as error:
        raise ConfigError(f"{store.folder} cannot be written: {error.strerror}. Try: another folder for out (--out)") from error
    done = store.done()
    # groups are assigned to shards before done cells are left out: runs that start at different times must assign them equally
    shares = [list(group) for _, group in groupby(found.cells, key=lambda cell: cell.group)][shard[0] - 1 :: shard[1]]
    groups = [left for group in shares if (left := [cell for cell in group if cell.key not in done])]
    mine = {cell.key: cell for group in groups for cell in group}
    tally = _Tally(store, len(found.cells), sum(cell.key in done for cell in found.cells), mine, executor, progress)

    def told(outcome: Outcome) -> bool:
        if tracker.active and outcome.stop is None:
            track_cell(tracker, path.stem, store, mine[outcome.key], outcome.error)
        return tally(outcome)

    work = Work(text, str(path), str(store.folder.resolve()), None if data is None else str(Path(data).expanduser().resolve()))
    try:
        if mine:
            execute(work, groups, told, **options)
    finally:
        tally.end()
    if tally.stop:
        raise ConfigError(
            f"The run ended, because {store.folder} cannot be written: {tally.stop}. {tally.before + tally.now} of {tally.total} cells are done. "
            "Try: the same command, once that is corrected"
        )
    return Summary(tally.total, tally.before, tally.now, tally.failed, warnings, time.perf_counter() - began)


def laid_out(bench: Bench) -> tuple[Grid, dict[str, TaskFacts]]:
    """The cells of a benchmark, and facts of its tasks. Loads all tasks."""
    if bench.config.synthetic is not None:
        return grid(bench.config, {}, {}), {}
    check_names(bench.config)
    tasks = {name: task_facts(bench.task(name)) for name in bench.config.tasks}
    return grid(bench.config, bench.facts, tasks), tasks


def _manifest(bench: Bench, name: str, text: str, found: Grid, tasks: dict[str, TaskFacts], warnings: list[str]) -> dict:
    """What a report needs besides the records."""
    return {
        "name": name,
        "config": text,
        "warnings": warnings,
        "skipped": [{"expert": expert, "task": task, "reason": reason} for (expert, task), reason in found.skipped.items()],
        "experts": {} if bench.config.synthetic else {name: asdict(facts) for name, facts in bench.facts.items()},
        "tasks": {name: asdict(facts) for name, facts in tasks.items()},
        "versions": {name: version(name) for name in ("ntk-select", "jax", "flax", "optax", "numpy", "scipy")},
    }


def _delete_leftovers(store: Store) -> None:
    """Deletes unfinished files of killed runs."""
    for file in (store.folder / "records").glob("*/*/.*.tmp"):
        with suppress(FileNotFoundError):  # another run has just finished it
            if time.time() - file.stat().st_mtime > LEFTOVER:
                file.unlink()


class _Tally:
    """Counts outcomes, reports progress, and writes the heartbeat for `bench status`."""

    def __init__(self, store: Store, total: int, before: int, mine: dict[str, Cell], executor: str, progress):
        self.total, self.before, self.now = total, before, 0
        self.failed: dict[str, str] = {}
        self.stop: str | None = None
        self._mine, self._progress = mine, progress
        self._beat_at = time.time()
        self._run = {"host": os.uname().nodename, "pid": os.getpid(), "executor": executor, "began": self._beat_at, "wanted": len(mine)}
        self._note = store.folder / "running" / f"{file_name('{host}-{pid}'.format(**self._run))}.json"
        self._beat()
        self._ended = threading.Event()
        threading.Thread(target=self._keep_beating, daemon=True).start()
        if progress:
            progress(before, total, "")

    def __call__(self, outcome: Outcome) -> bool:
        """Counts an outcome. Returns True if no further cell may start."""
        if outcome.stop:
            self.stop = outcome.stop
            return True
        if outcome.error is not None:
            self.failed[outcome.key] = outcome.error
        else:
            self.now += 1
        if time.time() - self._beat_at > BEAT:
            self._beat()
        if self._progress:
            cell = self._mine[outcome.key]
            self._progress(self.before + self.now + len(self.failed), self.total, f"{cell.task} {cell.expert}")
        return False

    def _beat(self) -> None:
        self._beat_at = time.time()
        note = {**self._run, "beat": self._beat_at, "done": self.now, "failed": len(self.failed)}
        with suppress(OSError):  # the next record reports it
            write_atomically(self._note, json.dumps(note).encode())

    def _keep_beating(self) -> None:
        while not self._ended.wait(PULSE):
            self._beat()

    def end(self) -> None:
        """Ends the heartbeat."""
        self._ended.set()
        with suppress(OSError):  # the folder can no longer be written
            self._note.unlink(missing_ok=True)
