"""Executor that does items on the workers of a Ray cluster."""

import contextlib
import os
import socket
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ntk_select.errors import ConfigError, explained, first_line, missing
from ntk_select.executors.queue import ATTEMPTS, Groups, Item, Work, share_out
from ntk_select.executors.sending import attempted, settings_of_jax, take_settings

LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
"""Address of a cluster of this machine alone. Ray replaces 127.0.0.1 by the address for other machines; on Linux another loopback address
prevents that."""

STARTING = 60.0
"""Seconds without an event after which the cluster is queried for room for a worker."""


def on_ray(
    work: Work,
    groups: Groups,
    done: Callable[[Any], bool],
    *,
    workers: int = 0,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    **_: object,
) -> None:
    """Does items with Ray actors that have `cpus` and `gpus` of a node each. Every node must see the folders that `work` names under the same path.

    A lost actor, alone or with its node, is replaced as soon as there is room, and its item is started again. An item is started at most three times.

    Args:
      workers: number of actors; by default as many as the cluster has room for.
      address: address of a running cluster ("auto", HOST:PORT, or ray://HOST:10001); None starts one on this machine, for this run, on the loopback
        interface.

    Raises:
      MissingDependencyError: Ray is not installed.
      ConfigError: no cluster is at the address, or it has no room for a worker.
    """
    try:
        import ray
    except ImportError as error:
        raise missing("ray", "--executor ray") from error
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, address)
    try:
        count = workers or _room(ray, cpus, gpus)
        if count < 1:
            raise ConfigError(
                f"The Ray cluster has no room for a worker of {cpus:g} CPUs and {gpus:g} GPUs. Try: more nodes, or cpus=1, gpus=0 (--cpus 1 --gpus 0)"
            )
        share_out(work, groups, done, _Actors(ray, work, cpus, gpus), min(count, sum(map(len, groups))))
    finally:
        if not connected:
            ray.shutdown()


def _connect(ray, address: str | None) -> None:
    options = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is None:
            with warnings.catch_warnings():
                # JAX warns of every fork; here the child runs another program at once
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                ray.init("local", include_dashboard=False, _node_ip_address=LOOPBACK, **options)
        else:
            _check_port(ray, address)
            ray.init(address, **options)
    except Exception as error:
        if address is None:
            raise ConfigError(f"No Ray cluster can be started here ({explained(error)}).") from error
        raise ConfigError(f"No Ray cluster answers at {address!r} ({explained(error)}). Try: ray start --head") from error


def _check_port(ray, address: str) -> None:
    """Raises OSError if nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # as Ray resolves it
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _room(ray, cpus: float, gpus: float) -> int:
    """Number of workers that fit on the nodes of the cluster."""
    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            fits = [has.get(name, 0) // each for name, each in (("CPU", cpus), ("GPU", gpus)) if each]
            count += int(min(fits)) if fits else 1
    return count


class _Actors:
    """Ray actors by number. An actor that the cluster has no room for, for example after the loss of a node, starts later; the others do not wait."""

    def __init__(self, ray, work: Work, cpus: float, gpus: float):
        self._ray, self._needs = ray, (cpus, gpus)
        self._work = ray.put(work)  # once, for all actors
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(_Worker)
        self._actors, self._failed_starts = {}, {}
        self._starting, self._busy = {}, {}  # number of the actor by Ray reference
        self.free: set[int] = set()

    def start(self, place: int) -> None:
        if place in self._actors:
            self._ray.kill(self._actors[place])  # if only its answer was lost, it would still occupy its room
        self._actors[place] = self._remote.remote(self._work, os.getcwd(), settings_of_jax())
        self._starting[self._actors[place].started.remote()] = place

    def send(self, place: int, item: Item) -> None:
        self.free.remove(place)
        self._busy[self._actors[place].measure.remote(item)] = place

    def outcomes(self) -> list[tuple[int, Any]]:
        ready, _ = self._ray.wait([*self._busy, *self._starting], num_returns=1, timeout=STARTING)
        if not ready and not self._busy and not self.free and _room(self._ray, *self._needs) < 1:
            raise ConfigError("The Ray cluster has lost its workers, and has no room for others. Try: more nodes, and the same command again")
        found = []
        for reference in ready:
            if reference in self._starting:
                self._started(reference)
                continue
            place = self._busy.pop(reference)
            try:
                found.append((place, self._ray.get(reference)))
                self.free.add(place)
            except self._ray.exceptions.RayError as error:
                self.start(place)
                found.append((place, f"Its worker was lost {ATTEMPTS} times ({first_line(error)})."))
        return found

    def _started(self, reference) -> None:
        place = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failed_starts[place] = self._failed_starts.get(place, 0) + 1
            if self._failed_starts[place] < ATTEMPTS:
                self.start(place)
            elif not (self._busy or self.free or self._starting):
                raise ConfigError(f"No worker can start on the Ray cluster: {str(error).strip().splitlines()[-1]}") from error
        else:
            self._failed_starts[place] = 0
            self.free.add(place)

    def stop(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)


class _Worker:
    """An actor. What it has loaded stays in memory for its next item."""

    def __init__(self, work: Work, folder: str, settings: Mapping[str, Any]):
        self._work = work
        take_settings(settings)
        with contextlib.suppress(OSError):  # zoos and tasks may be relative to the folder of the command
            os.chdir(folder)

    def started(self) -> None:
        """Returns once there is room for the actor, and the package is imported."""

    def measure(self, item: Item) -> Any:
        return attempted(self._work, item)
