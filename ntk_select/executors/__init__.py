"""Executors: where items of work are done. In this process, in several processes of this machine, or on the workers of a Ray cluster.

An item is an object with a `key`, unique in its run, and optionally `after`, the keys of items that must be finished first. Work is a function of an
item, with a method `failed(item, error)` that gives the outcome of an item whose workers were lost. An executor is a function
`executor(work, groups, done, *, workers, ...)`. It calls `work(item)` for every item of every group, on some worker, and `done(outcome)` in this
process. A group is best done by one worker, which has then loaded what its items share. Items of a lost worker are started again. It returns after
all items, or when `done` returns True, which means that no further item may start. An exception that `work` raises ends the run and is raised here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.executors.queue import ATTEMPTS as ATTEMPTS
from ntk_select.executors.queue import Groups as Groups
from ntk_select.executors.queue import Item as Item
from ntk_select.executors.queue import Queue as Queue
from ntk_select.executors.queue import Work as Work
from ntk_select.executors.queue import share_out as share_out
from ntk_select.executors.ray_cluster import on_ray as on_ray
from ntk_select.executors.sending import check_sendable as check_sendable
from ntk_select.executors.this_machine import local as local
from ntk_select.executors.this_machine import processes as processes

EXECUTORS: Mapping[str, Callable] = {"local": local, "processes": processes, "ray": on_ray}


def executor_of(name: str) -> Callable:
    """The executor of a name. Raises ConfigError if it is unknown."""
    if name not in EXECUTORS:
        raise ConfigError(f"executor = {name!r} is unknown.{did_you_mean(str(name), EXECUTORS)}")
    return EXECUTORS[name]


def checked_options(workers: int = 0, address: str | None = None, cpus: float = 1, gpus: float = 0) -> dict[str, Any]:
    """The options of an executor.

    Args:
      workers: number of workers; 0 for as many as fit.
      address: address of a running Ray cluster; None for one on this machine.
      cpus, gpus: CPUs and GPUs per Ray worker.

    Raises:
      ConfigError: an option is out of range.
    """
    check_count("workers", workers, 0)
    for name, value in (("cpus", cpus), ("gpus", gpus)):
        if not is_number(value) or not 0 <= value < math.inf:
            shown = f"{value:g}" if is_number(value) else repr(value)
            raise ConfigError(f"{name}={shown} must be a finite number from 0. Try: {name}={int(name == 'cpus')} (--{name} {int(name == 'cpus')})")
    if address is not None and not isinstance(address, str):
        raise ConfigError(f"address={address!r} must be a string or None. Try: address='auto' (--address auto)")
    return {"workers": workers, "address": address, "cpus": cpus, "gpus": gpus}
