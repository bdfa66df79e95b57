"""Overhead of the benchmark runner, and throughput of a second node.

    python scripts/benchmarks/runner.py                    everything: some minutes on two idle cores
    python scripts/benchmarks/runner.py --only overhead    overhead, many or nodes alone
    python scripts/benchmarks/runner.py --cells 4 --many-cells 50 --node-cells 8 --seconds 0.2    a quick check

Cells are simulated: they sleep, which leaves the cores to the runner. Results are only printed.
"""

import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from ntk_select.benchmark import Store, run
from ntk_select.benchmark.plan import plan
from ntk_select.benchmark.report.write import report

LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 for the address by which others reach this machine."""


def config_of(folder: Path, cells: int, seconds: float) -> Path:
    """A config of at least this many simulated cells: at most 50 experts on at most 20 tasks, repeated as needed."""
    experts = 50 if cells >= 1000 else min(cells, 10)
    tasks = min(20, -(-cells // experts))
    seeds = list(range(-(-cells // (experts * tasks))))
    path = folder / f"cells{cells}.toml"
    path.write_text(f"finetune_seeds = {seeds}\n[synthetic]\nexperts = {experts}\ntasks = {tasks}\nseconds = {seconds}\n")
    return path


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def worked(out: Path) -> float:
    """Seconds that the cells themselves took."""
    return sum(Store(out).read("synthetic", columns=["key", "cell_seconds"])["cell_seconds"].to_pylist())


def clock(times: list[float]) -> Callable[[int, int, str], None]:
    """Progress that records when each cell finished."""

    def progress(_done: int, _total: int, name: str) -> None:
        if name:
            times.append(time.perf_counter())

    return progress


def overhead(folder: Path, cells: int, seconds: float) -> None:
    """Overhead: of the whole run, whose workers start Python and load JAX, and of the part in which all workers were busy."""
    config = config_of(folder, cells, seconds)
    print(f"overhead of the runner, {len_of(config)} cells of {seconds:g} s")
    for executor, workers in (("local", 1), ("processes", 2)):
        out, times = folder / executor, []
        wall = seconds_of(partial(run, config, out, executor=executor, workers=workers, progress=clock(times)))
        work = worked(out) / workers
        amid = times[len(times) // 5 : len(times) - workers]
        share = work * (len(amid) - 1) / len(times)
        for what, spent, of in (("whole", wall, work), ("busy", amid[-1] - amid[0], share)):
            print(f"  {executor:10s} {what:6s} wall {spent:8.2f} s, work of a worker {of:8.2f} s, overhead {100 * (spent / of - 1):7.2f} %")


def len_of(config: Path) -> int:
    """Cells of a config."""
    return plan(config).parts[0].cells


def many(folder: Path, cells: int) -> None:
    """Seconds to plan, execute, find finished, and report cells."""
    config, out = config_of(folder, cells, 0.0), folder / "many"
    print(f"{len_of(config)} cells that take no time")
    steps = {
        "planned": lambda: plan(config),
        "executed": lambda: run(config, out, executor="local"),
        "found done": lambda: run(config, out, executor="local"),
        "reported": lambda: report(out, folder / "report"),
    }
    spent = {name: seconds_of(step) for name, step in steps.items()}
    for name, each in {**spent, "all but found done": sum(spent.values()) - spent["found done"]}.items():
        print(f"  {name:20s} {each:8.2f} s")


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """The address of a Ray cluster of this many one-core nodes on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, node_ip_address=LOOPBACK, include_dashboard=False, object_store_memory=80_000_000)
        made.wait_for_nodes()
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def nodes(folder: Path, cells: int, seconds: float) -> None:
    """Cells per second of one node and of two, while all were busy."""
    config, found = config_of(folder, cells, seconds), {}
    print(f"throughput of Ray nodes, {len_of(config)} cells of {seconds:g} s")
    for count in (1, 2):
        times = []
        with cluster(count) as address:
            run(config, folder / f"nodes{count}", executor="ray", address=address, progress=clock(times))
        amid = times[len(times) // 5 : len(times) - count]
        found[count] = (len(amid) - 1) / (amid[-1] - amid[0])
        print(f"  {count} node{'s' * (count > 1)} {found[count]:8.2f} cells/s")
    print(f"  two nodes, in units of one: {found[2] / found[1]:.2f} times")


def main(
    *,
    only: Literal["overhead", "many", "nodes"] | None = None,
    cells: int = 60,
    seconds: float = 1.0,
    many_cells: int = 10_000,
    node_cells: int = 60,
) -> None:
    """Prints the overhead of the runner.

    Args:
      only: one of the three measurements; all by default.
      cells: number of cells for the overhead.
      seconds: length of each of those cells, and of those on Ray.
      many_cells: number of cells that take no time.
      node_cells: number of cells on one Ray node, and on two.
    """
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)  # JAX, where Ray begins the programs of a node
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in (None, "overhead"):
            overhead(folder, cells, seconds)
        if only in (None, "many"):
            many(folder, many_cells)
        if only in (None, "nodes"):
            nodes(folder, node_cells, seconds)


if __name__ == "__main__":
    tyro.cli(main)
