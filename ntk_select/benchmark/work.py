"""What does a worker do with a cell, whatever happens?"""

import errno
import tomllib
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ntk_select.errors import NtkSelectError, explained

from .cells import Cell
from .config import parsed
from .measure import Bench, measured
from .store import Store

NO_PLACE = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "it may not be written",
}
"""Errors of the result folder: no other cell would do better."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Args:
      key: of the cell.
      error: why it failed; None when its record is there.
      stop: why nothing else can be written either.
    """

    key: str
    error: str | None = None
    stop: str | None = None


@dataclass(frozen=True)
class Work:
    """Measures cells and writes their records. It is made of plain texts, so that it can be sent to any worker.

    Args:
      config: the text of the config file.
      place: the config's path, for error messages.
      out: folder of the results, the same one for all workers.
      data: stands for {data} in URIs.
    """

    config: str
    place: str
    out: str
    data: str | None = None

    @cached_property
    def bench(self) -> Bench:
        """What this worker has loaded."""
        return Bench(parsed(tomllib.loads(self.config), Path(self.place)), self.data, self.out)

    @cached_property
    def store(self) -> Store:
        """The results."""
        return Store(self.out)

    def __call__(self, cell: Cell) -> Outcome:
        """Measures a cell and writes its record, or why it failed."""
        try:
            rows = measured(self.bench, cell)
        except Exception as error:  # an expert is foreign code: whatever it raises must not cost the other cells
            trace = "" if isinstance(error, NtkSelectError) else traceback.format_exc()
            return self.failed(cell, explained(error), trace)
        try:
            self.store.put(cell, rows)
        except OSError as error:
            return Outcome(cell.key, str(error), _stop(error))
        except Exception as error:  # a score of somebody else's gave what no file can hold
            return self.failed(cell, explained(error), traceback.format_exc())
        return Outcome(cell.key)

    def failed(self, cell: Cell, error: str, trace: str = "") -> Outcome:
        """Writes down that a cell failed."""
        try:
            self.store.put_failure(cell, error, trace)
        except OSError as trouble:
            return Outcome(cell.key, error, _stop(trouble))
        return Outcome(cell.key, error)


def _stop(error: OSError) -> str:
    return NO_PLACE.get(error.errno, error.strerror or str(error))
