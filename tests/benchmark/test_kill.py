"""A run that is killed at any moment, or loses its workers, resumes to the records of an undisturbed run."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ntk_select.benchmark import Store, run
from ntk_select.executors import ATTEMPTS

SEVERAL = pytest.mark.parametrize("executor", ["local", "processes"])
KILLS = 10
DEADLY = """
import os, sys
from pathlib import Path
import ntk_select.benchmark.measure as work
from ntk_select.benchmark.measure import measured

def deadly(bench, cell):
    if cell.expert == "expert001" and cell.task == "task001":
        with open(os.environ["BEGUN"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        os.kill(os.getpid(), 9)
    return measured(bench, cell)

work.measured = deadly
"""
"""For sitecustomize: a worker that starts one of the cells dies."""


def killed_and_resumed(config, out, executor: str, begin, most: int, data=None) -> int:
    """Kills a run at ten random moments, and lets it end. Returns how often it was really interrupted."""
    rng, cut = np.random.default_rng(0), 0
    for _ in range(KILLS):
        running = begin(config, out, executor, data)
        running.until(running.count() + int(rng.integers(0, most)))
        time.sleep(rng.uniform(0, 0.05))
        cut += running.alive
        running.kill()
        Store(out).done()
        for kind in ("synthetic", "score", "truth", "kernel"):
            Store(out).read(kind)  # no record is damaged
    assert begin(config, out, executor, data).ended() == 0
    return cut


@pytest.mark.slow
@SEVERAL
def test_a_run_that_is_killed_ten_times_gives_the_records_of_an_undisturbed_one(synthetic, tmp_path, executor, begin, numbers):
    config = synthetic(experts=10, tasks=6, seconds=0.01)
    run(config, tmp_path / "undisturbed")
    assert killed_and_resumed(config, tmp_path / "out", executor, begin, 8) >= KILLS - 2
    assert numbers(tmp_path / "out") == numbers(tmp_path / "undisturbed")
    assert len(numbers(tmp_path / "out")) == 60
    assert Store(tmp_path / "out").failures() == {}


@pytest.mark.slow
def test_workers_end_after_their_run_is_killed(synthetic, tmp_path, begin):
    running = begin(synthetic(experts=10, tasks=6, seconds=0.1), tmp_path / "out", "processes")
    running.until(2)
    workers = running.workers()
    assert len(workers) == 2
    os.kill(running.pid, signal.SIGKILL)
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert len(Store(tmp_path / "out").done()) < 60


@pytest.mark.slow
def test_the_cell_of_a_killed_worker_is_started_again(synthetic, tmp_path, begin, numbers):
    config = synthetic(experts=10, tasks=4, seconds=0.05)
    running, gone = begin(config, tmp_path / "out", "processes"), set()
    for records in (1, 12):
        running.until(records)
        gone.add(victim := next(pid for pid in running.workers() if pid not in gone))
        os.kill(victim, signal.SIGKILL)
    assert running.ended() == 0
    run(config, tmp_path / "undisturbed")
    assert numbers(tmp_path / "out") == numbers(tmp_path / "undisturbed")
    assert Store(tmp_path / "out").failures() == {}


@pytest.mark.slow
def test_a_cell_that_kills_its_worker_every_time_fails_and_the_others_are_measured(synthetic, tmp_path, begin):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    environment = {"BEGUN": str(tmp_path / "begun"), "PYTHONPATH": str(tmp_path / "site")}
    out = tmp_path / "out"
    assert begin(synthetic(experts=3, tasks=2), out, "processes", environment=environment).ended() == 0
    pids = (tmp_path / "begun").read_text().split()
    assert len(pids) == len(set(pids)) == ATTEMPTS
    (failure,) = Store(out).failures().values()
    assert failure["error"].startswith("Its worker died 3 times (exit code -9")
    assert (failure["expert"], failure["task"], len(Store(out).done())) == ("expert001", "task001", 5)
    assert begin(synthetic(experts=3, tasks=2), out).ended() == 0  # whatever it was that killed it is over
    assert (len(Store(out).done()), Store(out).failures()) == (6, {})


@pytest.mark.slow
def test_ctrl_c_ends_workers_and_leaves_no_note(synthetic, tmp_path, begin):
    running = begin(synthetic(experts=10, tasks=6, seconds=0.1), tmp_path / "out", "processes")
    running.until(1)
    workers = running.workers()
    running.signal(signal.SIGINT)
    assert running.ended() != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list((tmp_path / "out" / "running").glob("*"))
    assert 0 < len(Store(tmp_path / "out").done()) < 60
