"""Every cell is handed out once, and again only if its worker was lost, whatever the workers are."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest

from ntk_select.errors import ConfigError, MissingDependencyError
from ntk_select.executors import ATTEMPTS, Queue, check_sendable, checked_options, executor_of, processes, share_out
from ntk_select.executors.ray_cluster import LOOPBACK, on_ray
from ntk_select.executors.sending import Raised, attempted


@dataclass(frozen=True)
class Cell:
    """An item of work."""

    expert: str
    seed: int
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.expert} {self.seed}"


@dataclass(frozen=True)
class Outcome:
    key: str
    error: str | None = None


def groups(*sizes: int) -> list[list[Cell]]:
    return [[Cell(f"expert{group}", seed) for seed in range(size)] for group, size in enumerate(sizes)]


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


def test_an_item_waits_for_those_that_it_needs():
    parent, child, other = Cell("p", 0), Cell("c", 0, after=("p 0",)), Cell("o", 0)
    queue = Queue([[child, parent], [other]])
    assert [queue.take("a"), queue.take("b"), queue.take("b")] == [parent, other, None]
    assert queue  # the child is left
    assert queue.lost("a", parent)
    assert [queue.take("b"), queue.take("b")] == [parent, None]
    queue.finished(parent)
    assert [queue.take("b"), bool(queue)] == [child, False]


def test_what_an_item_waits_for_may_be_no_item():
    assert Queue([[Cell("c", 0, after=("absent",))]]).take("a").expert == "c"


def test_a_worker_that_waits_takes_the_next_group_and_then_its_own_rest():
    first, second = [Cell("a", 0), Cell("a", 1, after=("b 0",))], [Cell("b", 0)]
    queue = Queue([first, second])
    assert [queue.take("w"), queue.take("w"), queue.take("w")] == [first[0], second[0], None]
    queue.finished(second[0])
    assert queue.take("w") == first[1]


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


def test_items_that_wait_start_after_those_that_failed_as_well():
    cells = groups(1, 1)
    child = replace(cells[1][0], after=(cells[0][0].key,))
    work, _ = shared_out([cells[0], [child]], {cells[0][0]: ATTEMPTS}, lambda _: False)
    assert (work.measured, list(work.failures)) == ([child], cells[0])


def test_an_exception_of_a_worker_ends_the_run_and_is_raised_here():
    crew = Crew(lambda item: Raised(KeyError(item.key)), {})
    with pytest.raises(KeyError, match="expert0 0"):
        share_out(crew.work, groups(2), None, crew, 1)
    assert crew.stopped


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def test_what_cannot_be_sent_back_is_described():
    def fails(error):
        raise error

    assert attempted(int, "3") == 3
    assert str(attempted(fails, ConfigError("no")).error) == "no"
    assert str(attempted(fails, Odd(1, 2)).error) == "Odd: 1 2"  # pickle can make, and not read it
    assert "local object" in str(attempted(lambda _: lambda: 0, None).error)


def test_what_cannot_be_sent_is_refused_before_a_worker_starts(rng):
    check_sendable({"a": rng.normal(size=3), "f": Cell}, "A thing")
    check_sendable(lambda: 0, "A thing", executor="local")
    with pytest.raises(
        ConfigError, match=r"^Expert 'x' cannot be sent to another process \(.*lambda.*\)\. Try: executor='local' \(--executor local\)"
    ):
        check_sendable(lambda: 0, "Expert 'x'")


def test_ray_sends_functions_without_a_name():
    pytest.importorskip("ray")
    check_sendable(lambda: 0, "A thing", executor="ray")


def test_without_ray_its_absence_is_left_to_the_executor(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.cloudpickle", None)
    check_sendable(1, "A thing", executor="ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers=-1 must be a whole number from 0"),
        ({"cpus": -1}, r"cpus=-1 must be a finite number from 0\. Try: cpus=1 \(--cpus 1\)"),
        ({"gpus": float("inf")}, r"gpus=inf must be a finite number from 0\. Try: gpus=0 \(--gpus 0\)"),
        ({"gpus": "one"}, "gpus='one' must be"),
        ({"address": 6379}, r"address=6379 must be a string or None\. Try: address='auto'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        checked_options(**options)


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

    def put(self, value):
        return value

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


REALLY = """
import os
from dataclasses import dataclass
from ntk_select.errors import ConfigError

@dataclass(frozen=True)
class Item:
    key: str

    def __setstate__(self, state):
        if state["key"] == "cannot be read":
            raise ValueError("no such thing here")
        self.__dict__.update(state)

def work(item):
    if item.key == "raises":
        raise ConfigError("It is wrong.")
    return item.key, os.getpid()
"""
"""A module that worker processes can import, as they cannot import a test."""


def test_real_processes_do_all_items_and_pass_on_exceptions(tmp_path, monkeypatch):
    (tmp_path / "really.py").write_text(REALLY)
    monkeypatch.syspath_prepend(tmp_path)
    really, outcomes = importlib.import_module("really"), []
    processes(really.work, [[really.Item("a"), really.Item("b")], [really.Item("c")]], lambda outcome: outcomes.append(outcome), workers=2)
    assert sorted(key for key, _ in outcomes) == ["a", "b", "c"]
    assert os.getpid() not in {pid for _, pid in outcomes}
    for key, error, message in (
        ("raises", ConfigError, "^It is wrong.$"),
        ("cannot be read", ConfigError, "cannot receive what it is sent .ValueError: no such thing here.. Try: functions of a module, .*local"),
    ):
        with pytest.raises(error, match=message):
            processes(really.work, [[really.Item(key)]], None, workers=1)


SCRIPT = """
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ntk_select.errors import ConfigError
from ntk_select.executors import processes

@dataclass(frozen=True)
class Item:
    key: str

def work(item):
    return item.key

def main():
    try:
        processes(work, [[Item("a")], [Item("b")]], print, workers=2)
    except (ConfigError, KeyboardInterrupt) as error:
        print(type(error).__name__, error)

"""


def test_a_script_without_a_main_guard_is_refused_once_and_in_a_sentence(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT + "main()")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ConfigError Worker processes import the script that starts them, and would start others in turn. Try: ")
    assert done.stdout.endswith("if __name__ == '__main__':, or executor='local'\n")


def test_workers_that_cannot_start_or_lack_a_function_are_refused_after_one_attempt(tmp_path):
    guarded = SCRIPT + "if __name__ == '__main__': main()"
    for arguments, text, sentence in (
        (["-"], guarded, "Worker processes cannot start; the reason is in the traceback above. Try: a script file"),
        (["-c", guarded], "", "A worker process cannot receive what it is sent (AttributeError: Can't get attribute 'work' on "),
    ):
        done = subprocess.run([sys.executable, *arguments], input=text, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.stdout.startswith(f"ConfigError {sentence}"), done.stderr


WAITING = """
if __name__ != "__main__":
    Path(f"started-{time.time_ns()}").touch()
    time.sleep(60)
else:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell ignores
    main()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_ctrl_c_during_the_imports_of_workers_is_for_the_run_alone(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT + WAITING)
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, "script.py"], **options) as run:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        assert run.communicate(timeout=60) == ("KeyboardInterrupt \n", "")


def test_workers_that_do_not_end_are_waited_for_together(monkeypatch):
    from ntk_select.executors import this_machine

    class Stuck:
        exitcode = -9

        def join(self, patience=0.0):
            waited.append(patience)
            time.sleep(patience)

        def is_alive(self):
            return True

        def kill(self):
            killed.append(self)

        def close(self):
            """Of its connection."""

    killed, waited, crew = [], [], this_machine._Processes(Job(), 3, [])
    crew._members = {place: (Stuck(), Stuck()) for place in range(9)}
    monkeypatch.setattr(this_machine, "PATIENCE", 0.2)
    crew.stop()
    assert len(killed) == 9
    assert sum(waited) <= 0.2


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
    from ntk_select.executors import this_machine

    made = []
    monkeypatch.setattr(this_machine, "share_out", lambda *given: made.append(given[3:]))
    monkeypatch.setattr(this_machine.os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    monkeypatch.setattr(this_machine, "cores", lambda: 5)
    for environment, workers, cells, count, cores, devices in (
        ("", 2, 9, 2, [[0, 2, 4], [1, 3]], []),
        ("", 0, 3, 3, [[0, 3], [1, 4], [2]], []),
        ("", 7, 9, 7, [[0, 1, 2, 3, 4]] * 7, []),
        ("0,1", 0, 9, 2, [[0, 2, 4], [1, 3]], ["0", "1"]),
        ("-1", 0, 9, 5, [[0], [1], [2], [3], [4]], []),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
        this_machine.processes(Job(), groups(cells), None, workers=workers)
        crew, found = made.pop()
        assert (found, crew._cores, crew._devices) == (count, cores, devices), environment


def test_an_unknown_executor_is_refused():
    with pytest.raises(ConfigError, match="executor = 'rai' is unknown. Did you mean 'ray'.*Allowed: local, processes, ray"):
        executor_of("rai")
