"""Every cell is handed out once, and again only if its worker was lost, whatever the workers are."""

import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.executors import ATTEMPTS, Queue, share_out
from ntk_select.benchmark.measure import Outcome
from ntk_select.benchmark.ray_executor import LOOPBACK, on_ray
from ntk_select.benchmark.run import executor_of
from ntk_select.errors import ConfigError, MissingDependencyError


def groups(*sizes: int) -> list[list[Cell]]:
    return [[Cell("synthetic", f"expert{group}", "task", 1, seed) for seed in range(size)] for group, size in enumerate(sizes)]


def test_a_worker_finishes_its_group_before_it_starts_another():
    queue = Queue(groups(2, 0, 2, 2))
    taken = [queue.take(worker) for worker in ("a", "b", "a", "b", "a", "b")]
    assert [cell.expert for cell in taken] == ["expert0", "expert2", "expert0", "expert2", "expert3", "expert3"]
    assert queue.take("a") is None
    assert not queue


def test_a_worker_without_a_group_helps_with_the_one_that_has_most_left():
    queue = Queue(groups(4, 2))
    queue.take("a")
    queue.take("b")
    queue.take("b")
    assert (queue.take("b").expert, queue.take("b").seed) == ("expert0", 2)  # the last of a's four, then the one before
    assert [queue.take("a").seed, queue.take("a")] == [1, None]


def test_an_empty_queue_has_no_cell():
    assert Queue([]).take("a") is None
    assert not Queue([[]])


def test_the_cell_of_a_lost_worker_is_next_and_the_rest_of_its_group_follows():
    queue = Queue(groups(3, 1))
    lost = queue.take("a")
    assert queue.lost("a", lost)
    assert [queue.take("b"), queue.take("b").expert] == [lost, "expert0"]


def test_a_cell_whose_workers_are_lost_every_time_is_given_up():
    queue = Queue(groups(2))
    begun = Counter()
    while queue:
        cell = queue.take("a")
        begun[cell.seed] += 1
        if cell.seed == 0:
            kept = queue.lost("a", cell)
            assert kept == (begun[0] < ATTEMPTS)
    assert begun == {0: ATTEMPTS, 1: 1}


def test_every_cell_is_done_whatever_workers_are_lost(rng):
    cells = groups(*rng.integers(0, 6, 12))
    queue, done, busy = Queue(cells), Counter(), {}
    while queue or busy:
        worker = int(rng.integers(4))
        if worker in busy:
            cell = busy.pop(worker)
            if rng.random() > 0.2 or not queue.lost(worker, cell):
                done[cell] += 1
        elif (cell := queue.take(worker)) is not None:
            busy[worker] = cell
    assert done == Counter(cell for group in cells for cell in group)


class Job:
    """Work that remembers what it was given; it fails nothing by itself."""

    def __init__(self):
        self.measured, self.failures = [], {}

    def __call__(self, cell: Cell) -> Outcome:
        self.measured.append(cell)
        return Outcome(cell.key)

    def failed(self, cell: Cell, error: str) -> Outcome:
        self.failures[cell] = error
        return Outcome(cell.key, error)


class Crew:
    """Workers in this process. Each cell in `deadly` kills its worker so many times."""

    def __init__(self, work: Job, deadly: dict[Cell, int]):
        self.work, self.deadly, self.started, self.stopped = work, deadly, Counter(), False
        self.free, self.busy = set(), {}

    def start(self, place):
        self.started[place] += 1
        self.free.add(place)

    def send(self, place, cell):
        self.free.remove(place)
        self.busy[place] = cell

    def outcomes(self):
        place, cell = self.busy.popitem()
        if self.deadly.get(cell, 0):
            self.deadly[cell] -= 1
            self.start(place)
            return [(place, "It died.")]
        self.free.add(place)
        return [(place, self.work(cell))]

    def stop(self):
        self.stopped = True


def shared_out(cells, deadly, done, count: int = 2):
    work = Job()
    crew = Crew(work, deadly)
    share_out(work, cells, done, crew, count)
    return work, crew


def test_cells_of_lost_workers_are_started_again_and_given_up_after_three_attempts():
    cells, outcomes = groups(3, 2, 2), []
    once, always = cells[0][1], cells[1][0]
    work, crew = shared_out(cells, {once: 1, always: ATTEMPTS}, lambda outcome: outcomes.append(outcome))
    assert Counter(work.measured) == Counter(cell for group in cells for cell in group if cell is not always)
    assert work.failures == {always: "It died."}
    assert sorted(outcome.key for outcome in outcomes) == sorted(cell.key for group in cells for cell in group)
    assert sum(crew.started.values()) == 2 + 1 + ATTEMPTS
    assert crew.stopped


def test_no_cell_starts_after_the_folder_can_no_longer_be_written():
    outcomes = []
    work, crew = shared_out(groups(5, 5), {}, lambda outcome: outcomes.append(outcome) or len(outcomes) == 2)
    assert len(work.measured) == 3  # one was in flight
    assert crew.stopped


def test_workers_end_when_the_run_is_interrupted():
    crew = Crew(Job(), {})

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        share_out(crew.work, groups(2), interrupt, crew, 1)
    assert crew.stopped


class RayError(Exception):
    pass


class Ray:
    """Stands for the package ray: calls run in this process when their result is fetched. Cells in `deadly` kill their actor."""

    exceptions = SimpleNamespace(RayError=RayError)
    util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")

    def __init__(self, nodes=1, deadly=(), broken=False, silent=False):
        self.count, self.deadly, self.broken, self.silent = nodes, deadly, broken, silent
        self.log, self.actors, self.killed = [], 0, 0

    def is_initialized(self):
        return False

    def init(self, *address, **options):
        if address == ("nowhere",):
            raise ConnectionError("nobody there")
        self.log.append((*address, options.get("_node_ip_address")))

    def shutdown(self):
        self.log.append("shutdown")

    def nodes(self):
        return [{"Alive": place < self.count, "Resources": {"CPU": 2.0}} for place in range(3)]

    def remote(self, **options):
        self.options = options
        return lambda kind: SimpleNamespace(remote=lambda *given: self._actor(kind(*given)))

    def _actor(self, worker):
        self.actors += 1

        def calls(name):
            return SimpleNamespace(remote=partial(partial, self._call, worker, name))

        return SimpleNamespace(started=calls("started"), measure=calls("measure"))

    def _call(self, worker, name, *given):
        if self.broken or (given and given[0] in self.deadly):
            raise RayError("The actor died.\nno package")
        return getattr(worker, name)(*given)

    def wait(self, references, num_returns, timeout):
        return ([] if self.silent else references[:num_returns]), []

    def get(self, reference):
        return reference()

    def kill(self, actor):
        self.killed += 1


@pytest.fixture
def ray(monkeypatch):
    """ray(...) puts a `Ray` in place of the package."""

    def put(**options) -> Ray:
        fake = Ray(**options)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    return put


def test_ray_actors_measure_all_cells_on_a_cluster_of_this_machine_alone(ray):
    fake, work, cells, outcomes = ray(), Job(), groups(3, 2), []
    on_ray(work, cells, lambda outcome: outcomes.append(outcome), cpus=1, gpus=0)
    assert Counter(work.measured) == Counter(cell for group in cells for cell in group)
    assert fake.log == [("local", LOOPBACK), "shutdown"]
    assert (fake.actors, fake.killed) == (2, 2)  # two CPUs
    assert fake.options == {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0, "scheduling_strategy": "SPREAD"}


def test_a_ray_actor_that_is_lost_is_replaced_and_its_cell_given_up_after_three_attempts(ray):
    work, cells = Job(), groups(3, 3)
    fake = ray(nodes=2, deadly=[cells[0][1]])
    on_ray(work, cells, lambda _: False, workers=2, cpus=4, address="auto")
    assert work.failures == {cells[0][1]: "Its worker was lost 3 times (The actor died.)."}
    assert len(work.measured) == 5
    assert fake.actors == 2 + ATTEMPTS
    assert fake.log[0] == ("auto", None)


def test_what_keeps_ray_from_measuring_is_said_in_a_sentence(ray, monkeypatch):
    for options, fake, words in (
        ({"cpus": 64}, {}, "no room for a worker of 64 CPUs and 0 GPUs. .*cpus=1, gpus=0 .--cpus 1 --gpus 0"),
        ({"gpus": 1}, {}, "no room for a worker of 1 CPUs and 1 GPUs"),
        ({"address": "nowhere"}, {}, "No Ray cluster answers at 'nowhere' .ConnectionError: nobody there.. Try: ray start --head"),
        ({"address": "localhost:1"}, {}, "No Ray cluster answers at 'localhost:1' .*refused"),
        ({}, {"broken": True}, "No worker can start on the Ray cluster: no package"),
        (
            {"workers": 1, "cpus": 3},
            {"silent": True},
            "has lost its workers, and has no room for others. Try: more nodes, and the same command again",
        ),
    ):
        made = ray(**fake)
        with pytest.raises(ConfigError, match=words):
            on_ray(Job(), groups(2), lambda _: False, **options)
        assert (made.log[-1:] == ["shutdown"]) == bool(made.log), words
    broken = ray()
    monkeypatch.setattr(broken, "init", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match="No Ray cluster can be started here .ZeroDivisionError"):
        on_ray(Job(), groups(2), lambda _: False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="--executor ray needs the package ray"):
        on_ray(Job(), groups(1), lambda _: False)


def test_processes_share_cores_and_gpus(monkeypatch):
    from ntk_select.benchmark import executors

    made = []
    monkeypatch.setattr(executors, "share_out", lambda *given: made.append(given[3:]))
    monkeypatch.setattr(executors.os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    monkeypatch.setattr(executors, "cores", lambda: 5)
    for environment, workers, cells, count, cores, devices in (
        ("", 2, 9, 2, [[0, 2, 4], [1, 3]], []),
        ("", 0, 3, 3, [[0, 3], [1, 4], [2]], []),
        ("", 7, 9, 7, [[0, 1, 2, 3, 4]] * 7, []),
        ("0,1", 0, 9, 2, [[0, 2, 4], [1, 3]], ["0", "1"]),
        ("-1", 0, 9, 5, [[0], [1], [2], [3], [4]], []),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
        executors.processes(Job(), groups(cells), None, workers=workers)
        crew, found = made.pop()
        assert (found, crew._cores, crew._devices) == (count, cores, devices), environment


def test_an_unknown_executor_is_refused():
    with pytest.raises(ConfigError, match="executor = 'rai' is unknown. Did you mean 'ray'.*Allowed: local, processes, ray"):
        executor_of("rai")
