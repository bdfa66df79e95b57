"""Who measures the cells: this process, processes of this machine, or a cluster?

An executor is a function `executor(work, groups, done, *, workers, ...)`: it calls `work(cell)` for every cell of every group, somewhere, and `done(outcome)` here,
as outcomes come in. A group is best done by one worker. It raises nothing for a cell that fails, retries those whose worker was lost, and returns when
all are done, or when `done` returns True, which says that nothing more is to be begun.
"""

from collections.abc import Callable, Mapping

from ntk_select.errors import ConfigError, did_you_mean

from .local import local
from .on_ray import on_ray
from .processes import processes

EXECUTORS: Mapping[str, Callable] = {"local": local, "processes": processes, "ray": on_ray}


def executor_of(name: str) -> Callable:
    """The executor of a name. Raises ConfigError for another."""
    if name not in EXECUTORS:
        raise ConfigError(f"executor = {name!r} is unknown.{did_you_mean(name, EXECUTORS)}")
    return EXECUTORS[name]
