"""How are cells measured by the workers of a Ray cluster?"""

import contextlib
import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence

from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.work import Outcome, Work
from ntk_select.errors import ConfigError, explained, first_line, missing

from .queue import ATTEMPTS, Queue

LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
"""Ray takes 127.0.0.1 for the address by which others reach this machine; elsewhere there is no other, and Ray keeps to itself."""

STARTING = 60.0
"""Seconds without any sign after which the cluster is asked whether it still has room for a worker."""


def on_ray(
    work: Work,
    groups: Sequence[Sequence[Cell]],
    done: Callable[[Outcome], bool],
    *,
    workers: int = 0,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    **_: object,
) -> None:
    """One actor a slot of the cluster: `cpus` and `gpus` of a node each. Actors share nothing but the result folder, which every node must see under the
    same path. A lost actor, with its node or alone, is replaced as soon as there is room, and its cell begun again, three times at most.

    Args:
      workers: actors; by default as many as the cluster has room for.
      address: of a running cluster ("auto", HOST:PORT, or ray://HOST:10001); None starts one here, for this run, on the loopback interface.

    Raises:
      MissingDependencyError: Ray is not installed.
      ConfigError: no cluster is at the address, or it has no room for a worker.
    """
    try:
        import ray
    except ImportError as error:
        raise missing("ray", "--executor ray") from error
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address)
    try:
        count = workers or _room(ray, cpus, gpus)
        if count < 1:
            raise ConfigError(
                f"The Ray cluster has no room for a worker of {cpus:g} CPUs and {gpus:g} GPUs. Give less: --cpus 1 --gpus 0, or add nodes."
            )
        _run(ray, work, groups, done, min(count, sum(map(len, groups))), cpus, gpus)
    finally:
        if mine:
            ray.shutdown()


def _connect(ray, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is None:
            with warnings.catch_warnings():
                # JAX warns of every fork; here another program begins at once in the child
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                ray.init("local", include_dashboard=False, _node_ip_address=LOOPBACK, **quiet)
        else:
            _knock(ray, address)
            ray.init(address, **quiet)
    except Exception as error:
        if address is None:
            raise ConfigError(f"No Ray cluster can be started here ({explained(error)}).") from error
        raise ConfigError(f"No Ray cluster answers at {address!r} ({explained(error)}). Start one: ray start --head") from error


def _knock(ray, address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # as Ray understands it
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _room(ray, cpus: float, gpus: float) -> int:
    """Workers that the nodes of the cluster have room for."""
    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            fits = [has.get(name, 0) // each for name, each in (("CPU", cpus), ("GPU", gpus)) if each]
            count += int(min(fits)) if fits else 1
    return count


def _run(ray, work: Work, groups, done, count: int, cpus: float, gpus: float) -> None:
    queue = Queue(groups)
    crew = _Crew(ray, work, cpus, gpus)
    busy: dict[object, tuple[int, Cell]] = {}
    free: set[int] = set()
    stopped = False
    try:
        for place in range(count):
            crew.start(place)
        while True:
            for place in sorted(free):
                if not stopped and (cell := queue.take(place)) is not None:
                    busy[crew.actors[place].measure.remote(cell)] = place, cell
                    free.remove(place)
            if not busy and (stopped or not queue):
                return
            ready, _ = ray.wait([*busy, *crew.starting], num_returns=1, timeout=STARTING)
            if not ready and not busy and not free and _room(ray, cpus, gpus) < 1:
                raise ConfigError("The Ray cluster has lost its workers, and has no room for others. Add nodes, and type the same command again.")
            for reference in ready:
                if reference in crew.starting:
                    free |= crew.begun(reference, alone=not busy and not free)
                    continue
                place, cell = busy.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    crew.start(place)
                    if queue.lost(place, cell):
                        continue
                    outcome = work.failed(cell, f"Its worker was lost {ATTEMPTS} times ({first_line(error)}).")
                else:
                    free.add(place)
                stopped = done(outcome) or stopped
    finally:
        crew.stop()


class _Crew:
    """Actors by place. One that the cluster has no room for, now that a node is gone, begins when there is; the others need not wait for it.

    Attributes:
      actors: by place.
      starting: of actors that have not begun, by the reference that says so, their place.
    """

    def __init__(self, ray, work: Work, cpus: float, gpus: float):
        self._ray, self._work = ray, work
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(_Worker)
        self._attempts: dict[int, int] = {}
        self.actors, self.starting = {}, {}

    def start(self, place: int) -> None:
        """Asks for the actor of a place, in place of the one that was there."""
        if place in self.actors:
            self._ray.kill(self.actors[place])  # where only its answer was lost it would keep its room
        self.actors[place] = self._remote.remote(self._work, os.getcwd())
        self.starting[self.actors[place].begun.remote()] = place

    def begun(self, reference, *, alone: bool) -> set[int]:
        """The place whose actor has begun, or none. Raises ConfigError where it cannot begin, and nobody else is at work (`alone`)."""
        place = self.starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._attempts[place] = self._attempts.get(place, 0) + 1
            if self._attempts[place] < ATTEMPTS:
                self.start(place)
            elif alone and not self.starting:
                raise ConfigError(f"No worker can begin on the Ray cluster: {str(error).strip().splitlines()[-1]}") from error
            return set()
        self._attempts[place] = 0
        return {place}

    def stop(self) -> None:
        """Ends all of them, those that have not begun among them."""
        for actor in self.actors.values():
            self._ray.kill(actor)


class _Worker:
    """An actor: what it has loaded stays for its next cell."""

    def __init__(self, work: Work, folder: str):
        self._work = work
        with contextlib.suppress(OSError):  # zoos and tasks may be named from where the command was typed
            os.chdir(folder)

    def begun(self) -> None:
        """Returns once there is room for the actor, and the package is loaded."""

    def measure(self, cell: Cell) -> Outcome:
        return self._work(cell)
