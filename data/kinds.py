"""The built-in kinds of task, and what follows the colon in the URI of each."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ntk_select.tasks.task import Task

from .digits import load_digits
from .fashion_mnist import load_fashion_mnist
from .folder import load_folder
from .npz import load_npz
from .published import KNOWN, KnownSet
from .published.load import find_known, load_known, next_command
from .tfds import load_tfds
from .zipped import load_zip


@dataclass(frozen=True)
class TaskKind:
    """One kind of task: what stands before the colon of a task URI.

    Args:
      load: load(argument) -> Task. The argument is the text after the colon, "" if there is none.
      summary: one line for a table.
      example: a URI one could type.
      recognises: whether a bare path, typed without a kind, means this kind; None if no path does.
      takes_data_dir: load(argument, data_dir=...) also wants the folder of prepared sets, or None.
      known: what is recorded of a set that has a name of its own; None for kinds that take anybody's images.
      find: find(argument) -> the folder where such a set lies prepared, or None.
      next_command: next_command(argument) -> what to type to prepare it.
      prepare: prepare(archive, data_dir=..., any_size=..., progress=...) makes it from its authors' archive.
    """

    load: Callable[..., Task]
    summary: str
    example: str
    recognises: Callable[[str], bool] | None = None
    takes_data_dir: bool = False
    known: KnownSet | None = None
    find: Callable[[str], Path | None] | None = None
    next_command: Callable[[str], str] | None = None
    prepare: Callable[..., Any] | None = None


def _prepare(name: str, archive: str | Path, **options) -> Any:
    from .published.prepare import prepare  # readers of archives, which loading never needs

    return prepare(name, archive, **options)


def _named(name: str, known: KnownSet) -> TaskKind:
    summary = f"{known.title}, a {known.role} of the benchmark"
    of = {"find": partial(find_known, name), "next_command": partial(next_command, name), "prepare": partial(_prepare, name)}
    return TaskKind(partial(load_known, name), summary, name, takes_data_dir=True, known=known, **of)


def _ends_with(suffix: str) -> Callable[[str], bool]:
    return lambda path: path.lower().endswith(suffix)


TASKS = {
    "digits": TaskKind(load_digits, "1,797 handwritten digits, 8 x 8 grey, 10 classes (inside scikit-learn)", "digits"),
    "fashion_mnist": TaskKind(load_fashion_mnist, "70,000 clothes, 28 x 28 grey, 10 classes (four IDX files)", "fashion_mnist:DIR"),
    "folder": TaskKind(load_folder, "images in train/CLASS/ and test/CLASS/, or in CLASS/", "folder:photos", os.path.isdir),
    "zip": TaskKind(load_zip, "the same folders inside one zip archive", "zip:photos.zip", _ends_with(".zip")),
    "npz": TaskKind(load_npz, "NumPy arrays images, labels, test_images, test_labels", "npz:photos.npz", _ends_with(".npz")),
    "tfds": TaskKind(load_tfds, "a prepared TensorFlow Dataset, read without TensorFlow", "tfds:cifar10@~/tensorflow_datasets", takes_data_dir=True),
} | {name: _named(name, known) for name, known in KNOWN.items()}
