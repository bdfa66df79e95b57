"""The workers of a real Ray cluster of two nodes give the records of a local run, whatever is lost on the way."""

import importlib
import os
import signal
from pathlib import Path

import pytest

from ntk_select.benchmark import Store, run
from ntk_select.errors import ConfigError

ray = pytest.importorskip("ray")
executor = importlib.import_module("ntk_select.executors.ray_cluster")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),  # JAX, where Ray begins the programs of a node
]
NODE = {"num_cpus": 1, "node_ip_address": executor.LOOPBACK, "include_dashboard": False, "object_store_memory": 80_000_000}
ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_ADDRESS": ""}


@pytest.fixture(scope="module")
def made():
    """A cluster on this machine, which nothing outside it can reach."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ALONE.items():
            patch.setenv(name, value)
        cluster = Cluster()
        try:
            cluster.add_node(**NODE)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def cluster(made):
    """The cluster, with two nodes of a core each, whatever became of them before."""
    while len(made.list_all_nodes()) < 2:
        made.add_node(**NODE)
    made.wait_for_nodes()
    yield made
    ray.shutdown()


@pytest.fixture
def undisturbed(numbers, tmp_path):
    """undisturbed(config): the numbers of a local run."""

    def of(config) -> dict:
        run(config, tmp_path / "undisturbed")
        return numbers(tmp_path / "undisturbed")

    return of


def raylet(node) -> int:
    """Process id of the process that begins the workers of a node."""
    return node.all_processes["raylet"][0].process.pid


def actors(node) -> list[int]:
    """Process ids of our workers on a node."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title, parent = (place / "cmdline").read_bytes(), (place / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if title.startswith(b"ray::_Worker") and int(parent) == raylet(node):
            found.append(int(place.name))
    return found


class Then:
    """Progress that does something once, after so many cells."""

    def __init__(self, cells: int, what):
        self.cells, self.what, self.happened = cells, what, None

    def __call__(self, done: int, _total: int, _name: str) -> None:
        if done >= self.cells and self.happened is None:
            self.happened = self.what()


def test_two_nodes_give_the_records_of_a_local_run(cluster, synthetic, tmp_path, numbers, undisturbed):
    config = synthetic(experts=8, tasks=4, seconds=0.1)
    both = Then(16, lambda: [len(actors(node)) for node in cluster.list_all_nodes()])
    summary = run(config, tmp_path / "out", executor="ray", address=cluster.address, progress=both)
    assert (summary.now, summary.failed) == (32, {})
    assert both.happened == [1, 1]
    assert numbers(tmp_path / "out") == undisturbed(config)
    assert run(config, tmp_path / "out", executor="ray", address=cluster.address).now == 0


def test_the_cell_of_a_killed_worker_is_started_again(cluster, synthetic, tmp_path, numbers, undisturbed):
    config = synthetic(experts=8, tasks=5, seconds=0.1)

    def kill():
        (pid,) = actors(cluster.list_all_nodes()[1])
        os.kill(pid, signal.SIGKILL)
        return pid

    killed = Then(6, kill)
    summary = run(config, tmp_path / "out", executor="ray", address=cluster.address, progress=killed)
    assert killed.happened
    assert (summary.now, summary.failed) == (40, {})
    assert numbers(tmp_path / "out") == undisturbed(config)


@pytest.mark.nightly
def test_the_rest_goes_on_where_a_whole_node_is_lost(cluster, synthetic, tmp_path, numbers, undisturbed):
    config = synthetic(experts=8, tasks=5, seconds=0.1)
    removed = Then(6, lambda: cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False) or True)
    summary = run(config, tmp_path / "out", executor="ray", address=cluster.address, progress=removed)
    assert removed.happened
    assert (summary.now, summary.failed) == (40, {})
    assert numbers(tmp_path / "out") == undisturbed(config)


@pytest.mark.nightly
def test_a_node_that_comes_later_takes_its_part(cluster, synthetic, tmp_path):
    cluster.remove_node(cluster.list_all_nodes()[1])
    came = Then(4, lambda: cluster.add_node(**NODE))
    busy = Then(50, lambda: [len(actors(node)) for node in cluster.list_all_nodes()])

    def progress(*what):
        came(*what)
        busy(*what)

    options = {"executor": "ray", "address": cluster.address, "workers": 2, "progress": progress}
    assert run(synthetic(experts=10, tasks=6, seconds=0.2), tmp_path / "out", **options).now == 60
    assert busy.happened == [1, 1]


@pytest.mark.nightly
def test_a_cluster_that_has_lost_all_room_ends_the_run_in_a_sentence(cluster, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "STARTING", 1.0)
    large = cluster.add_node(**NODE | {"num_cpus": 3})
    removed = Then(6, lambda: cluster.remove_node(large, allow_graceful=False) or True)
    options = {"executor": "ray", "address": cluster.address, "cpus": 3, "progress": removed}
    with pytest.raises(ConfigError, match="cluster has lost its workers, and has no room for others. Try: more nodes, and the same"):
        run(synthetic(experts=8, tasks=5, seconds=0.1), tmp_path / "out", **options)
    assert removed.happened
    assert 6 <= len(Store(tmp_path / "out").done()) < 40


@pytest.mark.nightly
def test_a_cell_that_kills_its_worker_every_time_fails_and_the_others_are_measured(cluster, synthetic, tmp_path, monkeypatch):
    class Deadly(executor._Worker):
        def measure(self, cell):
            if (cell.expert, cell.task) == ("expert001", "task001"):
                os.kill(os.getpid(), 9)
            return super().measure(cell)

    monkeypatch.setattr(executor, "_Worker", Deadly)
    summary = run(synthetic(experts=3, tasks=2), tmp_path / "out", executor="ray", address=cluster.address)
    (error,) = summary.failed.values()
    assert error.startswith("Its worker was lost 3 times (")
    assert (summary.now, len(Store(tmp_path / "out").failures())) == (5, 1)


@pytest.mark.nightly
def test_a_worker_that_cannot_begin_ends_the_run_in_a_sentence(cluster, synthetic, tmp_path, monkeypatch):
    class Broken(executor._Worker):
        def __init__(self, *_):
            raise ImportError("ntk_select is not installed on this node")

    monkeypatch.setattr(executor, "_Worker", Broken)
    with pytest.raises(ConfigError, match="No worker can start on the Ray cluster: .*ntk_select is not installed on this node"):
        run(synthetic(), tmp_path / "out", executor="ray", address=cluster.address)


@pytest.mark.nightly
def test_a_worker_finds_what_lies_where_the_command_was_typed(cluster, zoo, data, write, tmp_path, monkeypatch):
    monkeypatch.chdir(zoo.parent)
    text = f'zoo = ["{zoo.name}"]\nexperts = ["ash"]\nscores = ["lfc"]\nshots = [3]\nper_class = [3]\nlearning_rates = [0.1]\n'
    config = write(text + '[recipe]\nepochs = 1\n[tasks.things]\nuri = "npz:{data}/things.npz"\n')
    options = {"executor": "ray", "address": cluster.address, "workers": 1, "data": os.path.relpath(data)}
    assert run(config, tmp_path / "out", **options).failed == {}
    assert len(Store(tmp_path / "out").done()) == 2


def test_a_cluster_without_room_is_refused(cluster, synthetic, tmp_path):
    with pytest.raises(ConfigError, match=r"no room for a worker of 64 CPUs and 0 GPUs\. Try: more nodes, or cpus=1"):
        run(synthetic(), tmp_path / "out", executor="ray", address=cluster.address, cpus=64)


def test_without_an_address_a_cluster_is_begun_here_and_ended(synthetic, tmp_path, numbers, undisturbed, monkeypatch):
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    config = synthetic()
    assert run(config, tmp_path / "out", executor="ray", workers=1).now == 12
    assert not ray.is_initialized()
    assert numbers(tmp_path / "out") == undisturbed(config)


@pytest.mark.parametrize("address", ["127.0.0.1:1", f"{executor.LOOPBACK}:1", "localhost:1"])
def test_a_cluster_that_is_not_there_is_refused_at_once(synthetic, tmp_path, address):
    with pytest.raises(ConfigError, match=f"No Ray cluster answers at '{address}' .*refused.*Try: ray start --head"):
        run(synthetic(), tmp_path / "out", executor="ray", address=address)


def test_what_is_no_address_is_refused(synthetic, tmp_path):
    with pytest.raises(ConfigError, match="No Ray cluster answers at 'nowhere' .*Try: ray start --head"):
        run(synthetic(), tmp_path / "out", executor="ray", address="nowhere")
