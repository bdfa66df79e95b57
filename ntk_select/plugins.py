"""How does the command line reach models/ and data/, which ntk_select never imports? Through entry points."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from ntk_select.errors import MissingDependencyError


def builtin(name: str) -> Callable[..., Any]:
    """A function or table of the group `ntk_select.builtin` in pyproject.toml: load_task, task_kinds, describe_task, open_zoo, linen_expert,
    nnx_expert, reference_networks, convert_checkpoint, architectures, fresh_expert, write_expert, write_multi_expert.

    Raises:
      MissingDependencyError: the package was not installed, only put on the path.
    """
    for entry in entry_points(group="ntk_select.builtin", name=name):
        return entry.load()
    raise MissingDependencyError(f"The entry point {name!r} is missing: ntk_select is on the path but not installed. Type: pip install -e .")
