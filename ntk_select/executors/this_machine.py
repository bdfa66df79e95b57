"""Executors of one machine: this process, and several processes; see `ray_cluster` for a cluster."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ntk_select._runtime.host import cores
from ntk_select.errors import ConfigError, explained
from ntk_select.executors.queue import ATTEMPTS, Groups, Item, Work, share_out
from ntk_select.executors.sending import Raised, attempted, settings_of_jax, take_settings

READY = "ready"
"""What a worker sends once it has received the work; no outcome is a text."""
UNGUARDED = 86
"""Exit code of a worker that would start workers itself, since it runs the script of the run, which spawned processes import."""
PATIENCE = 1.0
"""Seconds in which workers can end by themselves before they are killed."""


def local(work: Work, groups: Groups, done: Callable[[Any], bool], **_: object) -> None:
    """Does all items in this process, one after the other."""
    for group in groups:
        for item in group:
            if done(work(item)):
                return


def processes(work: Work, groups: Groups, done: Callable[[Any], bool], *, workers: int = 0, **_: object) -> None:
    """Does items in processes of this machine, each with its share of the cores, or with a GPU of its own if CUDA_VISIBLE_DEVICES lists several.

    A process that dies, for whatever reason, is replaced, and its item is started again. An item is started at most three times.

    Args:
      workers: number of processes, at most one per item. Default: one per GPU of CUDA_VISIBLE_DEVICES, otherwise one per core that this process
        may use.
    """
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device and not device.startswith("-")]
    count = min(workers or len(devices) or cores(), sum(map(len, groups)))
    share_out(work, groups, done, _Processes(work, count, devices), count)


class _Processes:
    """Worker processes, and the pipes to them.

    In concurrent.futures one dead process would break the whole pool, and workers would outlive a killed parent.
    """

    def __init__(self, work: Work, count: int, devices: Sequence[str]):
        self._context = multiprocessing.get_context("spawn")
        self._work, self._devices = work, devices
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._cores = [mine[place::count] for place in range(count)] if len(mine) >= count else [mine] * count
        self._members: dict[int, tuple[multiprocessing.Process, Connection]] = {}
        self._without_work: set[int] = set()
        self._ready: set[int] = set()
        self.free: set[int] = set()

    def start(self, place: int) -> None:
        self._end(place)
        ours, theirs = self._context.Pipe()
        device = self._devices[place % len(self._devices)] if self._devices else None
        process = self._context.Process(target=_serve, args=(theirs, self._cores[place], device, settings_of_jax()), daemon=True)
        try:
            with _interrupts_blocked():
                process.start()
        except RuntimeError as error:
            if "bootstrapping" not in str(error):
                raise
            raise SystemExit(UNGUARDED) from error
        theirs.close()
        self._members[place] = process, ours
        self._ready.discard(place)
        self._without_work.add(place)
        self.free.add(place)

    def send(self, place: int, item: Item) -> None:
        self.free.remove(place)
        connection = self._members[place][1]
        with contextlib.suppress(OSError):  # a worker that has just died: `outcomes` will notice
            if place in self._without_work:  # not in `start`: large work waits for the imports of a worker, and all import at the same time
                self._without_work.remove(place)
                connection.send(self._work)
            connection.send(item)

    def outcomes(self) -> list[tuple[int, Any]]:
        places = {connection: place for place, (_, connection) in self._members.items() if place not in self.free}
        found = []
        for connection in wait(list(places)):
            place = places[connection]
            try:
                outcome = connection.recv()
            except (EOFError, OSError):
                found.append((place, self._replaced(place)))
                continue
            if isinstance(outcome, str):
                self._ready.add(place)
            else:
                found.append((place, outcome))
                self.free.add(place)
        return found

    def _replaced(self, place: int) -> str:
        """Replaces a lost worker, and says why it was lost. Raises ConfigError if no other would fare better."""
        code = self._end(place)
        if code == UNGUARDED:
            raise ConfigError(
                "Worker processes import the script that starts them, and would start others in turn. "
                "Try: that call below if __name__ == '__main__':, or executor='local'"
            )
        if code == 1 and place not in self._ready:
            raise ConfigError(
                "Worker processes cannot start; the reason is in the traceback above. "
                "Try: a script file or a notebook, or executor='local' (--executor local)"
            )
        self.start(place)
        return f"Its worker died {ATTEMPTS} times (exit code {code}; -9 is often a lack of memory)."

    def stop(self) -> None:
        for _, connection in self._members.values():  # all at once, then wait for all
            connection.close()
        deadline = time.monotonic() + PATIENCE
        for place in list(self._members):
            self._end(place, max(deadline - time.monotonic(), 0.0))

    def _end(self, place: int, patience: float = PATIENCE) -> int | None:
        """Ends a worker, if there is one, and returns its exit code."""
        if place not in self._members:
            return None
        process, connection = self._members.pop(place)
        connection.close()
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks Ctrl-C, which is for the run, in processes that start meanwhile: their imports take seconds before they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, cores: Sequence[int], device: str | None, settings: Mapping[str, Any]) -> None:
    """The loop of a worker: it receives the work, then items, and sends outcomes until the pipe closes."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, cores)  # before JAX counts them
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    take_settings(settings)
    with contextlib.suppress(EOFError, OSError):
        work = _received(connection)
        connection.send(READY)
        with threadpool_limits(max(len(cores), 1)):  # of the libraries that the work has loaded
            while True:
                item = _received(connection)
                unknown = next((each for each in (work, item) if isinstance(each, Raised)), None)
                connection.send(unknown or attempted(work, item))


def _received(connection: Connection) -> Any:
    """What the run sends; `Raised` if it needs something that is not here, such as a function of a notebook."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        raise
    except Exception as error:
        return Raised(
            ConfigError(
                f"A worker process cannot receive what it is sent ({explained(error)}). "
                "Try: functions of a module, not of a notebook, or executor='local' (--executor local)"
            )
        )
