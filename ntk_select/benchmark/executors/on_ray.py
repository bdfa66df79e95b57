"""How are cells measured by the workers of a Ray cluster?"""

from collections.abc import Callable, Sequence

from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.work import Outcome, Work
from ntk_select.errors import ConfigError, missing

from .queue import ATTEMPTS, Queue

STARTING = 60.0
"""Seconds that a worker may take to begin, where the cluster says that there is room for it."""


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
            ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        else:
            ray.init(address, **quiet)
    except Exception as error:
        raise ConfigError(f"No Ray cluster answers at {address!r} ({str(error).splitlines()[0]}). Start one: ray start --head") from error


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
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(_Worker)
    actors = {place: remote.remote(work) for place in range(count)}
    busy: dict[object, tuple[int, Cell]] = {}
    stopped = False
    try:
        while True:
            for place in set(actors) - {place for place, _ in busy.values()}:
                if not stopped and (cell := queue.take(place)) is not None:
                    busy[actors[place].measure.remote(cell)] = place, cell
            if not busy:
                return
            ready, _ = ray.wait(list(busy), num_returns=1)
            for reference in ready:
                place, cell = busy.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    actors[place] = remote.remote(work)
                    if queue.lost(place, cell):
                        continue
                    outcome = work.failed(cell, f"Its worker was lost {ATTEMPTS} times ({str(error).splitlines()[0]}).")
                stopped = done(outcome) or stopped
    finally:
        for actor in actors.values():
            ray.kill(actor)


class _Worker:
    """An actor: what it has loaded stays for its next cell."""

    def __init__(self, work: Work):
        self._work = work

    def measure(self, cell: Cell) -> Outcome:
        return self._work(cell)
