"""Executors: where cells are measured. This process, or several processes of this machine; see `ray_executor` for a cluster.

An executor is a function `executor(work, groups, done, *, workers, ...)`. It calls `work(cell)` for every cell of every group, on some worker, and
`done(outcome)` in this process. A group is best done by one worker. Failing cells raise nothing here; cells of a lost worker are retried. It returns
after all cells, or when `done` returns True, which means that no further cell may start.
"""

import contextlib
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait

from ntk_select._runtime.host import cores
from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.measure import Outcome, Work

Groups = Sequence[Sequence[Cell]]

ATTEMPTS = 3
"""Starts of a cell, at most: if its workers are lost, the cell itself may be what kills them."""


def local(work: Work, groups: Groups, done: Callable[[Outcome], bool], **_: object) -> None:
    """Measures all cells in this process, one after the other."""
    for group in groups:
        for cell in group:
            if done(work(cell)):
                return


def processes(work: Work, groups: Groups, done: Callable[[Outcome], bool], *, workers: int = 0, **_: object) -> None:
    """Measures cells in processes of this machine, each with its share of the cores, or with a GPU of its own if CUDA_VISIBLE_DEVICES lists several.

    A process that dies, for whatever reason, is replaced, and its cell is started again. A cell is started at most three times.

    Args:
      workers: number of processes, at most one per cell. Default: one per GPU of CUDA_VISIBLE_DEVICES, otherwise one per core that this process may use.
    """
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device and not device.startswith("-")]
    count = min(workers or len(devices) or cores(), sum(map(len, groups)))
    share_out(work, groups, done, _Processes(work, count, devices), count)


class Queue:
    """Cells waiting for a worker. A worker finishes its own group, then starts the next group, then steals cells from the largest remaining group."""

    def __init__(self, groups: Groups):
        self._waiting = deque(deque(group) for group in groups if group)
        self._of_worker: dict[object, deque[Cell]] = {}
        self._starts: Counter[str] = Counter()

    def take(self, worker: object) -> Cell | None:
        """The next cell for a worker; None if all cells have been handed out."""
        if not self._of_worker.get(worker) and self._waiting:
            self._of_worker[worker] = self._waiting.popleft()
        if self._of_worker.get(worker):
            cell = self._of_worker[worker].popleft()
        else:
            largest = max(self._of_worker.values(), key=len, default=deque())
            if not largest:
                return None
            cell = largest.pop()
        self._starts[cell.key] += 1
        return cell

    def lost(self, worker: object, cell: Cell) -> bool:
        """Puts back the cell of a lost worker, before all others, and the rest of its group. Returns False if the cell was started too often."""
        if rest := self._of_worker.pop(worker, None):
            self._waiting.appendleft(rest)
        if self._starts[cell.key] >= ATTEMPTS:
            return False
        self._waiting.appendleft(deque([cell]))
        return True

    def __bool__(self):
        return bool(self._waiting) or any(self._of_worker.values())


def share_out(work: Work, groups: Groups, done: Callable[[Outcome], bool], crew, count: int) -> None:
    """Starts `count` workers and gives them cells until all are done, or `done` returns True.

    Args:
      work, groups, done: Arguments of an executor.
      crew: workers by number. `start(place)` starts or replaces one, `free` is the set of those that can take a cell, `send(place, cell)` gives them
        one, and `stop()` ends all. `outcomes()` waits for some and returns pairs (place, outcome); a text instead of the outcome says why the worker,
        which has been replaced, was lost.
    """
    queue, busy, stopped = Queue(groups), {}, False
    try:
        for place in range(count):
            crew.start(place)
        while True:
            for place in sorted(crew.free):
                if not stopped and (cell := queue.take(place)) is not None:
                    crew.send(place, cell)
                    busy[place] = cell
            if not busy and (stopped or not queue):
                return
            for place, outcome in crew.outcomes():
                cell = busy.pop(place)
                if isinstance(outcome, str):
                    if queue.lost(place, cell):
                        continue
                    outcome = work.failed(cell, outcome)
                stopped = done(outcome) or stopped
    finally:
        crew.stop()


class _Processes:
    """Worker processes, and the pipes to them. In concurrent.futures one dead process would break the whole pool, and workers would outlive a killed parent."""

    def __init__(self, work: Work, count: int, devices: Sequence[str]):
        self._context = multiprocessing.get_context("spawn")
        self._work, self._devices = work, devices
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._cores = [mine[place::count] for place in range(count)] if len(mine) >= count else [mine] * count
        self._members: dict[int, tuple[multiprocessing.Process, Connection]] = {}
        self.free: set[int] = set()

    def start(self, place: int) -> int | None:  # the exit code of the old one
        code = self._end(place)
        ours, theirs = self._context.Pipe()
        device = self._devices[place % len(self._devices)] if self._devices else None
        process = self._context.Process(target=_serve, args=(theirs, self._work, self._cores[place], device), daemon=True)
        process.start()
        theirs.close()
        self._members[place] = process, ours
        self.free.add(place)
        return code

    def send(self, place: int, cell: Cell) -> None:
        self.free.remove(place)
        with contextlib.suppress(OSError):  # a worker that has just died: `outcomes` will notice
            self._members[place][1].send(cell)

    def outcomes(self) -> list[tuple[int, Outcome | str]]:
        places = {connection: place for place, (_, connection) in self._members.items() if place not in self.free}
        found = []
        for connection in wait(list(places)):
            place = places[connection]
            try:
                found.append((place, connection.recv()))
                self.free.add(place)
            except (EOFError, OSError):
                code = self.start(place)
                found.append((place, f"Its worker died {ATTEMPTS} times (exit code {code}; -9 is often a lack of memory)."))
        return found

    def stop(self) -> None:
        for _, connection in self._members.values():  # all at once, then wait for each
            connection.close()
        for place in list(self._members):
            self._end(place)

    def _end(self, place: int) -> int | None:
        if place not in self._members:
            return None
        process, connection = self._members.pop(place)
        connection.close()
        process.join(timeout=1)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode


def _serve(connection: Connection, work: Work, cores: Sequence[int], device: str | None) -> None:
    """The loop of a worker: it receives cells and sends outcomes until the pipe closes."""
    import signal

    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    if cores:
        os.sched_setaffinity(0, cores)  # before JAX counts them
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with threadpool_limits(max(len(cores), 1)), contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(work(connection.recv()))
