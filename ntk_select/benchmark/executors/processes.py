"""How are cells measured by several processes of this machine?"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait

from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.work import Outcome, Work
from ntk_select.training.finetuning.finetune import cores

from .queue import ATTEMPTS, Queue


def processes(work: Work, groups: Sequence[Sequence[Cell]], done: Callable[[Outcome], bool], *, workers: int = 0, **_: object) -> None:
    """Each worker is a process of its own with its share of the cores, or, with several in CUDA_VISIBLE_DEVICES, a GPU of its own. A process that dies, whatever
    killed it, is replaced, and its cell begun again, three times at most.

    Args:
      workers: how many; by default one a GPU of CUDA_VISIBLE_DEVICES, else one for each core that this process may use. Never more than cells.
    """
    queue, devices = (
        Queue(groups),
        [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device and not device.startswith("-")],
    )
    count = workers or len(devices) or cores()
    count = min(count, sum(map(len, groups)))
    pool = _Pool(work, count, devices)
    stopped = False
    try:
        for place in range(count):
            pool.start(place)
        busy: dict[int, Cell] = {}
        while True:
            for place in range(count):
                if place not in busy and not stopped and (cell := queue.take(place)) is not None:
                    pool.send(place, cell)
                    busy[place] = cell
            if not busy:
                return
            for place, outcome in pool.outcomes(busy):
                cell = busy.pop(place)
                if outcome is None:
                    code = pool.start(place)
                    if queue.lost(place, cell):
                        continue
                    outcome = work.failed(cell, f"Its worker died {ATTEMPTS} times (exit code {code}; -9 is often a lack of memory).")
                stopped = done(outcome) or stopped
    finally:
        pool.stop()


class _Pool:
    """Worker processes, and the pipes to them."""

    def __init__(self, work: Work, count: int, devices: Sequence[str]):
        self._context = multiprocessing.get_context("spawn")
        self._work, self._devices = work, devices
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._cores = [cores[place::count] for place in range(count)] if len(cores) >= count else [cores] * count
        self._members: dict[int, tuple[multiprocessing.Process, Connection]] = {}

    def start(self, place: int) -> int | None:
        """Starts the worker of a place, anew if it was there. Returns the exit code of the old one."""
        code = self._end(place)
        ours, theirs = self._context.Pipe()
        device = self._devices[place % len(self._devices)] if self._devices else None
        process = self._context.Process(target=_serve, args=(theirs, self._work, self._cores[place], device), daemon=True)
        process.start()
        theirs.close()
        self._members[place] = process, ours
        return code

    def send(self, place: int, cell: Cell) -> None:
        with contextlib.suppress(OSError):  # a worker that has just died: `outcomes` will see it
            self._members[place][1].send(cell)

    def outcomes(self, busy: dict[int, Cell]) -> list[tuple[int, Outcome | None]]:
        """Waits for workers; None stands for one that died."""
        places = {self._members[place][1]: place for place in busy}
        found = []
        for connection in wait(list(places)):
            try:
                outcome = connection.recv()
            except (EOFError, OSError):
                outcome = None
            found.append((places[connection], outcome))
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
    """The life of a worker: a cell comes in, its outcome goes out; it ends with the pipe."""
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
