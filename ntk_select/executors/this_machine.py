"""Executors of one machine: this process, and several processes; see `ray_cluster` for a cluster."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ntk_select._runtime.host import cores
from ntk_select.errors import explained
from ntk_select.executors.queue import ATTEMPTS, Groups, Item, Work, share_out
from ntk_select.executors.sending import Raised, attempted, settings_of_jax, take_settings

HINTS = {-9: "-9 is often a lack of memory", 1: "in a script, processes can start only below: if __name__ == '__main__':"}
"""What an exit code of a worker usually means."""


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
      workers: number of processes, at most one per item. Default: one per GPU of CUDA_VISIBLE_DEVICES, otherwise one per core that this process may use.
    """
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device and not device.startswith("-")]
    count = min(workers or len(devices) or cores(), sum(map(len, groups)))
    share_out(work, groups, done, _Processes(work, count, devices), count)


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
        process = self._context.Process(target=_serve, args=(theirs, self._work, self._cores[place], device, settings_of_jax()), daemon=True)
        process.start()
        theirs.close()
        self._members[place] = process, ours
        self.free.add(place)
        return code

    def send(self, place: int, item: Item) -> None:
        self.free.remove(place)
        with contextlib.suppress(OSError):  # a worker that has just died: `outcomes` will notice
            self._members[place][1].send(item)

    def outcomes(self) -> list[tuple[int, Any]]:
        places = {connection: place for place, (_, connection) in self._members.items() if place not in self.free}
        found = []
        for connection in wait(list(places)):
            place = places[connection]
            try:
                found.append((place, connection.recv()))
                self.free.add(place)
            except (EOFError, OSError):
                code = self.start(place)
                found.append((place, f"Its worker died {ATTEMPTS} times (exit code {code}; {HINTS.get(code, HINTS[-9])})."))
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


def _serve(connection: Connection, work: Work, cores: Sequence[int], device: str | None, settings: Mapping[str, Any]) -> None:
    """The loop of a worker: it receives items and sends outcomes until the pipe closes."""
    import signal

    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    if cores:
        os.sched_setaffinity(0, cores)  # before JAX counts them
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    take_settings(settings)
    with threadpool_limits(max(len(cores), 1)), contextlib.suppress(EOFError, OSError):
        while True:
            try:
                item = connection.recv()
            except (EOFError, OSError):
                raise
            except Exception as error:  # the item needs something that is not here, such as a function of the user's script
                connection.send(Raised(RuntimeError(f"A worker cannot receive its item: {explained(error)}")))
            else:
                connection.send(attempted(work, item))
