"""Resolution of task and expert names, which `rank`, `forecast` and `finetune` accept in place of objects."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntk_select.errors import ConfigError, ModelError, near

if TYPE_CHECKING:
    from ntk_select.experts.expert import Expert
    from ntk_select.tasks.task import Task

HOW_TO_NAME = (
    "Allowed: the name of an embedded expert, the path of a folder of experts, or timm:NAME. "
    "To list the names, try: list(ntk_select.models.open_zoo(['builtin'])), on the command line: ntk-select zoo list"
)


@dataclass(frozen=True)
class Loaded:
    """The function that returns an expert in memory; other than a closure it can be sent to other processes, if the expert can."""

    expert: Any

    def __call__(self) -> Any:
        """The expert."""
        return self.expert


def as_task(task: "Task | str | Path") -> "Task":
    """The task itself, or the task of a URI as loaded by `load_task`.

    Raises:
      ConfigError: `task` is neither a Task nor a URI.
      TaskError, DataError: as for `load_task`.
    """
    from ntk_select.tasks.task import Task

    if isinstance(task, str | Path):
        from ntk_select.data import load_task

        return load_task(task)
    if not isinstance(task, Task):
        raise ConfigError(f"task= must be a Task, or its name or path; given: {type(task).__name__}. Try: ntk_select.load_task('digits')")
    return task


def as_experts(experts: "Any | str | Path | Iterable[Any | str | Path] | Mapping[str, Any | Callable[[], Any]]") -> dict[str, Callable]:
    """Experts as a mapping from their names to functions that load them.

    Args:
      experts: an `Expert` or `FeatureExpert`; a zoo by name ("builtin") or folder; an expert of the built-in zoo by name; several of these; or a
        mapping from names to experts or to functions that load one, as returned by `open_zoo`. The name of an installed zoo or an embedded expert
        takes precedence over a folder of that name ("./NAME" is the folder).

    Returns:
      The mapping, in the given order.

    Raises:
      ConfigError: an argument has another type, or two experts have the same name.
      ModelError: there is no expert, zoo or folder of a name.
    """
    if isinstance(experts, Mapping):
        return {name: _loader(expert) for name, expert in experts.items()}
    alone = isinstance(experts, str | Path) or not isinstance(experts, Iterable)
    found: dict[str, Callable] = {}
    for given in [experts] if alone else experts:
        named = _named(given) if isinstance(given, str | Path) else {_checked(given).name: _loader(given)}
        for name, load in named.items():
            if name in found:
                raise ConfigError(f"Two experts are named {name!r}; names must differ.")
            found[name] = load
    return found


def as_expert(expert: "Expert | str | Path") -> "Expert":
    """The expert itself, or the one of a name or folder as in `as_experts`.

    Raises:
      ConfigError: `expert` is neither an Expert nor a name, or several experts match.
      ModelError: there is no expert of the name, it cannot be loaded, or it is a `FeatureExpert`, without its network.
    """
    from ntk_select.experts.feature_expert import with_network

    if not isinstance(expert, str | Path):
        return with_network(_checked(expert))
    found = _named(expert)
    if len(found) != 1:
        raise ConfigError(f"{str(expert)!r} contains {len(found)} experts, of which one must be named. Try: {str(next(iter(found)))!r}")
    return with_network(next(iter(found.values()))())


def _checked(expert: Any) -> Any:
    if not _is_expert(expert):
        own = "For your own network, try: ntk_select.Expert(name, apply_fn, params, ...)"
        raise ConfigError(f"Expected an expert or a name of one; given: {type(expert).__name__}. {HOW_TO_NAME}. {own}")
    return expert


def _is_expert(expert: Any) -> bool:
    from ntk_select.experts.expert import Expert
    from ntk_select.experts.feature_expert import FeatureExpert

    return isinstance(expert, Expert | FeatureExpert)


def _loader(expert: Any) -> Callable:
    return Loaded(expert) if _is_expert(expert) else expert


def _named(given: str | Path) -> Mapping[str, Callable]:
    """The experts of the zoo of this name, or the embedded expert of this name."""
    from ntk_select.models.zoo import is_zoo_uri, open_zoo

    text = str(given)
    zoos = [entry.name for entry in entry_points(group="ntk_select.zoo")] if isinstance(given, str) else []
    embedded = open_zoo(["builtin"]) if isinstance(given, str) else {}
    if text in embedded and text not in zoos:
        return {text: embedded[text]}
    if text in zoos or is_zoo_uri(text) or ("\0" not in text and os.path.isdir(os.path.expanduser(text.removeprefix("folder:")))):
        return open_zoo([text])
    raise ModelError(f"There is no expert, zoo or folder {text!r}.{near(text, [*embedded, *zoos])} {HOW_TO_NAME}")
