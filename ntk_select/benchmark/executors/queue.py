"""Which cell comes next for a worker that is free?"""

from collections import deque
from collections.abc import Sequence

from ntk_select.benchmark.cells import Cell

ATTEMPTS = 3
"""Times that a cell is begun whose worker is lost; the cell itself may be what kills it."""


class Queue:
    """Groups of cells: a worker goes on with its own group, then begins the next, then helps with the one that has most left."""

    def __init__(self, groups: Sequence[Sequence[Cell]]):
        self._waiting = deque(deque(group) for group in groups if group)
        self._of_worker: dict[object, deque[Cell]] = {}
        self._begun: dict[str, int] = {}

    def take(self, worker: object) -> Cell | None:
        """The next cell for a worker; None when none is left to begin."""
        if not self._of_worker.get(worker):
            if self._waiting:
                self._of_worker[worker] = self._waiting.popleft()
            else:
                busiest = max(self._of_worker.values(), key=len, default=deque())
                if not busiest:
                    return None
                self._begin(busiest[-1])
                return busiest.pop()
        cell = self._of_worker[worker].popleft()
        self._begin(cell)
        return cell

    def lost(self, worker: object, cell: Cell) -> bool:
        """Puts the cell of a lost worker back. False when it was begun too often."""
        if rest := self._of_worker.pop(worker, None):
            self._waiting.appendleft(rest)
        if self._begun[cell.key] >= ATTEMPTS:
            return False
        self._waiting.appendleft(deque([cell]))
        return True

    def __bool__(self):
        return bool(self._waiting) or any(self._of_worker.values())

    def _begin(self, cell: Cell) -> None:
        self._begun[cell.key] = self._begun.get(cell.key, 0) + 1
