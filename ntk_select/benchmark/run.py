"""How is a benchmark run, so that whatever stops it costs the cells in flight at most?"""

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

from ntk_select._runtime.checks import check_count
from ntk_select._runtime.files import file_name, write_atomically
from ntk_select._runtime.toml_records import parse, read_text
from ntk_select.errors import ConfigError

from .cells import Cell, Grid, TaskFacts, grid
from .config import parsed
from .executors import executor_of
from .facts import check_names, task_facts, unknown_sources
from .measure import Bench
from .store import Store
from .work import Outcome, Work

BEAT = 1.0
"""Seconds between two notes of where a run is, while cells are done."""
PULSE = 60.0
"""The same while none is."""


@dataclass(frozen=True)
class Summary:
    """What became of a run.

    Args:
      cells: of the benchmark.
      before: that were done already.
      now: that were done by this run.
      failed: by key, the error.
      warnings: about the config, in sentences.
      seconds: of this run.
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
    progress: Callable[[int, int, str], None] | None = None,
    **options,
) -> Summary:
    """Measures every cell of the config that has no record in `out` yet.

    A cell whose record is there is never measured again; one that failed is tried again. Killed at any moment, a run loses at most the cells in flight, and
    the same call goes on; on a CPU the records are the same numbers as those of a run that nothing stopped.

    Args:
      config_path: of a TOML file; see `BenchConfig`.
      out: folder of the results; see `store`.
      executor: "local" (this process), "processes", or "ray".
      workers: how many at the same time, where the executor has several; 0 for as many as fit.
      data: stands for {data} in URIs.
      shard: (i, n): of n runs on the same folder, without a cluster that would share the work, this is the i-th, from 1.
      progress: called with (cells done, cells, what was done last).
      options: of the executor: address, cpus, gpus for Ray.

    Raises:
      ConfigError: the config, a name in it, or an option is wrong, or the folder can no longer be written.
      TaskError, DataError, ModelError: a task or the zoo cannot be loaded.
    """
    began = time.perf_counter()
    execute = executor_of(executor)
    check_count("workers", workers, 0)
    if not 1 <= shard[0] <= shard[1]:
        raise ConfigError(f"shard {shard[0]}/{shard[1]} must be one of 1/N to N/N.")
    path, store = Path(config_path).expanduser(), Store(out)
    text = read_text(path)  # once: whoever edits the file now does not change what is measured under these keys
    bench = Bench(parsed(parse(text, path), path), data)
    cells, tasks = laid_out(bench)
    try:
        store.put_manifest(manifest(bench, path.stem, text, cells, tasks), cells.cells)
        _clear_leftovers(store)
    except OSError as error:
        raise ConfigError(f"{store.folder} cannot be written: {error.strerror}. Give another folder with --out.") from error
    done = store.done()
    waiting = [cell for cell in cells.cells if cell.key not in done]
    # groups are dealt out before done cells are left out: runs that began at different times must not deal differently
    dealt = [list(group) for _, group in groupby(cells.cells, key=lambda cell: cell.group)][shard[0] - 1 :: shard[1]]
    groups = [left for group in dealt if (left := [cell for cell in group if cell.key not in done])]
    mine = {cell.key: cell for group in groups for cell in group}
    watch = _Watch(store, len(cells.cells), len(cells.cells) - len(waiting), mine, executor, progress)
    work = Work(text, str(path), str(store.folder.resolve()), None if data is None else str(Path(data).expanduser().resolve()))
    try:
        if mine:
            execute(work, groups, watch, workers=workers, **options)
    finally:
        watch.end()
    if watch.stop:
        raise ConfigError(
            f"The run ended: of {store.folder} {watch.stop}. {watch.before + watch.now} of {watch.total} cells are done and kept. "
            "Mend that, and type the same command again."
        )
    return Summary(watch.total, watch.before, watch.now, watch.failed, warnings(bench), time.perf_counter() - began)


def laid_out(bench: Bench) -> tuple[Grid, dict[str, TaskFacts]]:
    """The cells of a benchmark, and what is known of its tasks, all of which are loaded."""
    if bench.config.synthetic is not None:
        return grid(bench.config, {}, {}), {}
    check_names(bench.config)
    tasks = {name: task_facts(bench.task(name)) for name in bench.config.tasks}
    return grid(bench.config, bench.facts, tasks), tasks


def manifest(bench: Bench, name: str, text: str, cells: Grid, tasks: dict[str, TaskFacts]) -> dict:
    """What a report must know besides the records."""
    return {
        "name": name,
        "config": text,
        "warnings": warnings(bench),
        "skipped": [{"expert": expert, "task": task, "reason": reason} for (expert, task), reason in cells.skipped.items()],
        "experts": {} if bench.config.synthetic else {name: asdict(facts) for name, facts in bench.facts.items()},
        "tasks": {name: asdict(facts) for name, facts in tasks.items()},
        "versions": {name: version(name) for name in ("ntk-select", "jax", "flax", "optax", "numpy", "scipy")},
    }


def warnings(bench: Bench) -> list[str]:
    """What is odd about the config, and usable."""
    return [] if bench.config.synthetic else unknown_sources(bench.config, bench.facts)


def _clear_leftovers(store: Store) -> None:
    """Files that killed runs had not finished, if they are older than an hour."""
    for file in (store.folder / "records").glob("*/*/.*.tmp"):
        with suppress(FileNotFoundError):  # another run has just finished it
            if time.time() - file.stat().st_mtime > 3600:
                file.unlink()


class _Watch:
    """Counts outcomes, tells of them, and leaves a note of where the run is for `bench status`."""

    def __init__(self, store: Store, total: int, before: int, mine: dict[str, Cell], executor: str, progress):
        self.total, self.before, self.now = total, before, 0
        self.failed: dict[str, str] = {}
        self.stop: str | None = None
        self._mine, self._progress, self._store = mine, progress, store
        self._began = self._beaten = time.time()
        self._note = store.folder / "running" / f"{file_name(f'{os.uname().nodename}-{os.getpid()}')}.json"
        self._executor = executor
        self._beat()
        self._ended = threading.Event()
        threading.Thread(target=self._go_on_beating, daemon=True).start()
        if progress:
            progress(before, total, "")

    def __call__(self, outcome: Outcome) -> bool:
        cell = self._mine[outcome.key]
        if outcome.stop:
            self.stop = outcome.stop
            return True
        if outcome.error is not None:
            self.failed[outcome.key] = outcome.error
        else:
            self.now += 1
        if time.time() - self._beaten > BEAT:
            self._beat()
        if self._progress:
            self._progress(self.before + self.now + len(self.failed), self.total, f"{cell.task} {cell.expert}")
        return False

    def _beat(self) -> None:
        self._beaten = time.time()
        note = {
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "executor": self._executor,
            "began": self._began,
            "beat": self._beaten,
            "wanted": len(self._mine),
            "done": self.now,
            "failed": len(self.failed),
        }
        with suppress(OSError):  # the next record says it
            write_atomically(self._note, json.dumps(note).encode())

    def _go_on_beating(self) -> None:
        """A cell may take hours."""
        while not self._ended.wait(PULSE):
            self._beat()

    def end(self) -> None:
        self._ended.set()
        with suppress(OSError):  # of a folder that can no longer be written
            self._note.unlink(missing_ok=True)
