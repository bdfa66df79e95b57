"""Is every cell handed out, and none twice unless its worker was lost?"""

from collections import Counter

import pytest

from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.executors import executor_of
from ntk_select.benchmark.executors.queue import ATTEMPTS, Queue
from ntk_select.errors import ConfigError


def groups(*sizes: int) -> list[list[Cell]]:
    return [[Cell("synthetic", f"expert{group}", "task", 1, seed) for seed in range(size)] for group, size in enumerate(sizes)]


def test_a_worker_ends_its_own_group_before_it_begins_another():
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


def test_nothing_is_left_to_do_in_an_empty_queue():
    assert Queue([]).take("a") is None
    assert not Queue([[]])


def test_the_cell_of_a_lost_worker_comes_next_and_the_rest_of_its_group_after_it():
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


def test_an_executor_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="executor = 'rai' is unknown. Did you mean 'ray'.*Allowed: local, processes, ray"):
        executor_of("rai")
