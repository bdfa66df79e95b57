"""The tasks of the prepared sets of the benchmark, and where they lie."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

from .. import prepared
from ..records import read_prepared
from . import KNOWN


def find_known(name: str, argument: str = "", *, data_dir: str | Path | None = None) -> Path | None:
    """The folder of the prepared set, or None. Imports nothing and reads no image.

    Args:
      name: of the set in `KNOWN`.
      argument: the only folder to look into, as typed after the colon; "" for `data_dir` and TensorFlow Datasets' own.
      data_dir: looked into first.
    """
    return prepared.find(KNOWN[name].tfds or name, None, None, prepared.places(argument, data_dir))


def load_known(name: str, argument: str = "", *, data_dir: str | Path | None = None) -> Task:
    """The task, split as in the table. `find_known` explains the arguments. Nothing is downloaded or prepared here.

    Returns:
      A task whose warnings say where sizes and classes differ from the table's.

    Raises:
      DataError: not prepared, or what is prepared cannot be read.
    """
    known, folder = KNOWN[name], find_known(name, argument, data_dir=data_dir)
    if folder is None:
        where = prepared.places(argument, data_dir)
        raise DataError(f"{name} is not prepared in {' or '.join(map(str, where))}. {known.obtain} Then type: {next_command(name, where[0])}")
    share = known.share if known.test_split is None else None
    task = read_prepared(folder, name, train=known.train_split, test=known.test_split, share=share)
    here = {"training images": len(task.labels), "test images": len(task.test_labels), "classes": task.num_classes}
    table = dict(zip(here, (known.train, known.test, known.classes), strict=True))
    warnings = [f"The table has {table[what]:,} {what}; here are {here[what]:,}." for what in here if table[what] != here[what]]
    details = {"warnings": [*task.details["warnings"], *warnings]}
    return replace(task, licence=task.licence or known.licence, details=details, flips_keep_class=known.flips_keep_class)


def next_command(name: str, data_dir: str | Path | None = None) -> str:
    """What to type so that the set lies prepared in `data_dir`, by default TensorFlow Datasets' own folder."""
    own = prepared.places(None, None)[0]
    folder = Path(os.path.expanduser(data_dir or own))
    if KNOWN[name].tfds:
        return prepared.download_command(KNOWN[name].tfds, folder)
    return shlex.join(["ntk-select", "tasks", "prepare", name, "--archive", "PATH", *([] if folder == own else ["--data-dir", str(folder)])])
