"""The kind of task that a URI means, and its argument."""

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from ntk_select.errors import TaskError, near
from ntk_select.tasks.task import Task

from .kinds import TASKS, TaskKind


def load_task(uri: str | Path, *, data_dir: str | Path | None = None) -> Task:
    """The task that a URI means.

    Args:
      uri: `digits`, `fashion_mnist`, `fashion_mnist:DIR`, `folder:PATH`, `zip:PATH`, `npz:PATH` or
        `tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]`, or a set of the benchmark (`KNOWN`) by name, as `magnetic_tile` or
        `magnetic_tile:DATA_DIR`. The path of a folder, a .zip or a .npz alone is recognised;
        a built-in name wins over a folder of that name (type ./digits for the folder). `~` is the home folder.
      data_dir: where prepared TensorFlow Datasets lie, for a `tfds:` URI or a set of the benchmark without DATA_DIR.

    Returns:
      A task whose `uri` is what was given. Images of folders, archives and TensorFlow Datasets are decoded
      when asked for. `details["warnings"]` lists what is odd but usable.

    Raises:
      TaskError: the URI means nothing, or its images do not make a task.
      DataError: a file cannot be read.
    """
    kinds = TASKS if _scheme(uri) in TASKS else task_kinds()
    name, argument = parse_uri(uri, kinds)
    kind = kinds[name]
    task = kind.load(argument, data_dir=data_dir) if kind.takes_data_dir else kind.load(argument)
    return replace(task, uri=str(uri))


def task_kinds() -> dict[str, TaskKind]:
    """The built-in kinds, and those of installed packages (entry points `ntk_select.tasks`)."""
    others = {}
    for entry in entry_points(group="ntk_select.tasks"):
        others.update(entry.load())
    return TASKS | {name: kind for name, kind in others.items() if name not in TASKS}


def parse_uri(uri: str | Path, kinds: Mapping[str, TaskKind]) -> tuple[str, str]:
    """The kind's name and its argument, without looking into any file.

    Raises:
      TaskError: no kind has this name and none recognises it as a path.
    """
    text = str(uri)
    if "\0" in text:
        raise TaskError(f"Task {text!r} holds a null byte, which no path can. Example: ntk-select tasks show folder:photos")
    scheme = _scheme(uri)
    if scheme is not None and scheme in kinds:
        return scheme, text.partition(":")[2]
    path = os.path.expanduser(text)
    for name, kind in kinds.items():
        if kind.recognises and kind.recognises(path):
            return name, path
    allowed = "Allowed: a path of a folder, .zip or .npz, or a task's name. Example: ntk-select tasks show folder:photos"
    if os.path.isfile(path):
        raise TaskError(f"Task {text!r} is a file, but neither .zip nor .npz. {allowed}")
    if scheme is None or os.sep in scheme or text.startswith(("~", ".")):
        raise TaskError(f"Task {text!r}: there is no such folder or file. {allowed}")
    raise TaskError(
        f"There is no folder or file {text!r}, and no task of that name.{near(scheme, kinds)} "
        "Give the path of a folder, .zip or .npz, or a name; to see the names type: ntk-select tasks list"
    )


def _scheme(uri: str | Path) -> str | None:
    """What stands before the colon, or the whole text; None for a `Path`."""
    return uri.partition(":")[0] if isinstance(uri, str) else None
