"""The queue of items that wait for a worker, and the loop that hands them out."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ntk_select.executors.sending import Raised

ATTEMPTS = 3
"""Starts of an item, at most: if its workers are lost, the item itself may be what kills them."""


class Item(Protocol):
    """An item of work. It may have `after`, the keys of items that must be finished, in whatever way, before it starts."""

    @property
    def key(self) -> str:
        """Unique in a run."""
        ...


class Work(Protocol):
    """What is done with each item. It is sent to every worker once."""

    def __call__(self, item: Any) -> Any:
        """The outcome of an item, on a worker. An exception ends the run."""
        ...

    def failed(self, item: Any, error: str) -> Any:
        """The outcome of an item whose workers were lost, in the process of the run."""
        ...


Groups = Sequence[Sequence[Item]]


class Queue:
    """Items waiting for a worker. A worker finishes its own group, then starts the next group, then steals items from the largest remaining group.

    Items whose `after` is not finished are passed over.
    """

    def __init__(self, groups: Groups):
        self._waiting = deque(deque(group) for group in groups if group)
        self._of_worker: dict[object, deque[Item]] = {}
        self._unfinished = {item.key for group in groups for item in group}
        self._starts: Counter[str] = Counter()

    def take(self, worker: object) -> Item | None:
        """The next item for a worker; None if all have been handed out, or wait for others."""
        if (item := self._own(worker) or self._next_group(worker) or self._stolen()) is not None:
            self._starts[item.key] += 1
        return item

    def _own(self, worker: object) -> Item | None:
        return self._pop(self._of_worker.get(worker, deque()))

    def _next_group(self, worker: object) -> Item | None:
        for place, group in enumerate(self._waiting):
            if (item := self._pop(group)) is not None:
                del self._waiting[place]
                if rest := self._of_worker.get(worker):
                    self._waiting.append(rest)
                self._of_worker[worker] = group
                return item
        return None

    def _stolen(self) -> Item | None:
        groups = sorted(self._of_worker.values(), key=len, reverse=True)
        return next((item for group in groups if (item := self._pop(group, last=True)) is not None), None)

    def _pop(self, group: deque[Item], last: bool = False) -> Item | None:
        """Removes and returns the first or last item that can start; None if there is none."""
        for place in reversed(range(len(group))) if last else range(len(group)):
            if self._unfinished.isdisjoint(getattr(group[place], "after", ())):
                item = group[place]
                del group[place]
                return item
        return None

    def finished(self, item: Item) -> None:
        """Items that wait for this one can start."""
        self._unfinished.discard(item.key)

    def lost(self, worker: object, item: Item) -> bool:
        """Puts back the item of a lost worker, before all others, and the rest of its group. Returns False if the item was started too often."""
        if rest := self._of_worker.pop(worker, None):
            self._waiting.appendleft(rest)
        if self._starts[item.key] >= ATTEMPTS:
            return False
        self._waiting.appendleft(deque([item]))
        return True

    def __bool__(self):
        return bool(self._waiting) or any(self._of_worker.values())


def share_out(work: Work, groups: Groups, done: Callable[[Any], bool], crew, count: int) -> None:
    """Starts `count` workers and gives them items until all are done, or `done` returns True.

    Args:
      work, groups, done: Arguments of an executor.
      crew: workers by number. `start(place)` starts or replaces one, `free` is the set of those that can take an item, `send(place, item)` gives them
        one, and `stop()` ends all. `outcomes()` waits for some and returns pairs (place, outcome); a text instead of the outcome says why the worker,
        which has been replaced, was lost; `Raised` is an exception of `work`.
    """
    queue, busy, stopped = Queue(groups), {}, False
    try:
        for place in range(count):
            crew.start(place)
        while True:
            for place in sorted(crew.free):
                if not stopped and (item := queue.take(place)) is not None:
                    crew.send(place, item)
                    busy[place] = item
            if not busy and (stopped or not queue):
                return
            for place, outcome in crew.outcomes():
                item = busy.pop(place)
                if isinstance(outcome, Raised):
                    raise outcome.error
                if isinstance(outcome, str):
                    if queue.lost(place, item):
                        continue
                    outcome = work.failed(item, outcome)
                queue.finished(item)
                stopped = done(outcome) or stopped
    finally:
        crew.stop()
