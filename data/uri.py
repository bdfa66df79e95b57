"""Task URIs: the kinds of task that they name, `load_task`, and a summary of a loaded task."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from ntk_select.data.builtin import load_digits, load_fashion_mnist
from ntk_select.data.csv_file import load_csv
from ntk_select.data.hugging_face import load_hf
from ntk_select.data.image_folder import load_folder, load_zip
from ntk_select.data.npz import load_npz
from ntk_select.data.published.catalogue import KNOWN, KnownSet, download_known, find_known, load_known, next_command
from ntk_select.data.tfds import load_tfds
from ntk_select.data.tfds_download import download_tfds
from ntk_select.errors import TaskError, near
from ntk_select.tasks.task import Task, held_out_for_testing


@dataclass(frozen=True)
class TaskKind:
    """A kind of task: the part of a task URI before the colon.

    Args:
      load: load(argument) -> Task. The argument is the text after the colon, "" if there is none.
      summary: one line for a table.
      example: a valid URI.
      recognises: whether a bare path, without a kind, is of this kind; None if no path is.
      takes_data_dir: load(argument, data_dir=...) also takes the folder of prepared data sets, or None.
      known: the catalogue entry of a named data set; None for kinds that load the user's images.
      find: find(argument) -> the folder of such a set if it is prepared, else None.
      next_command: next_command(argument) -> the shell command that prepares it.
      prepare: prepare(archive, data_dir=..., any_size=..., progress=...) prepares it from the published archive.
      download: download(argument, data_dir=...) downloads and prepares it, unless it is prepared; None if it is never downloaded, or by `load`.
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
    download: Callable[..., Any] | None = None


def _prepare(name: str, archive: str | Path, **options) -> Any:
    from ntk_select.data.published.prepare import prepare  # here, since loading needs no readers of archives

    return prepare(name, archive, **options)


def _named(name: str, known: KnownSet) -> TaskKind:
    summary = f"{known.title}, a {known.role} of the benchmark"
    functions = {"find": partial(find_known, name), "next_command": partial(next_command, name), "prepare": partial(_prepare, name)}
    functions["download"] = partial(download_known, name) if known.tfds else None
    return TaskKind(partial(load_known, name), summary, name, takes_data_dir=True, known=known, **functions)


def _ends_with(*suffixes: str) -> Callable[[str], bool]:
    return lambda path: path.lower().endswith(suffixes)


TASKS = {
    "digits": TaskKind(load_digits, "1,797 handwritten digits, 8 x 8 grey, 10 classes (inside scikit-learn)", "digits"),
    "fashion_mnist": TaskKind(load_fashion_mnist, "70,000 clothes, 28 x 28 grey, 10 classes (four IDX files)", "fashion_mnist:DIR"),
    "folder": TaskKind(load_folder, "images in train/CLASS/ and test/CLASS/, or in CLASS/", "folder:photos", os.path.isdir),
    "zip": TaskKind(load_zip, "the same folders inside one zip archive", "zip:photos.zip", _ends_with(".zip")),
    "npz": TaskKind(load_npz, "NumPy arrays images, labels, test_images, test_labels", "npz:photos.npz", _ends_with(".npz")),
    "csv": TaskKind(load_csv, "a table of image paths, labels and optionally splits", "csv:photos.csv", _ends_with(".csv", ".tsv")),
    "hf": TaskKind(load_hf, "a data set of Hugging Face datasets: a folder, or a name on the hub", "hf:uoft-cs/cifar10"),
    "tfds": TaskKind(
        load_tfds,
        "a prepared TensorFlow Dataset, read without TensorFlow",
        "tfds:cifar10@~/tensorflow_datasets",
        takes_data_dir=True,
        download=download_tfds,
    ),
} | {name: _named(name, known) for name, known in KNOWN.items()}
"""The built-in kinds."""
PATHS = "the path of a folder, or of a .zip, .npz, .csv or .tsv file"


def task_kinds() -> dict[str, TaskKind]:
    """The built-in kinds, and those of installed packages (entry points `ntk_select.tasks`)."""
    others = {}
    for entry in entry_points(group="ntk_select.tasks"):
        others.update(entry.load())
    return TASKS | {name: kind for name, kind in others.items() if name not in TASKS}


def load_task(uri: str | Path, *, data_dir: str | Path | None = None, download: bool = False) -> Task:
    """The task of a URI.

    Args:
      uri: `digits`, `fashion_mnist`, `fashion_mnist:DIR`, `folder:PATH`, `zip:PATH`, `npz:PATH`, `csv:FILE[@ROOT]`,
        `hf:NAME[:CONFIG]`, `hf:PATH` or `tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]`, or a data set of the benchmark (`KNOWN`) by name:
        `magnetic_tile` or `magnetic_tile:DATA_DIR`. Columns of `csv` and `hf` are named as in `csv:FILE?image=COLUMN&label=COLUMN`.
        The path of a folder, or of a .zip, .npz, .csv or .tsv file alone is recognised; a built-in name takes
        precedence over a folder of that name (`./digits` is the folder). `~` is the home folder.
      data_dir: folder of prepared TensorFlow Datasets, for a `tfds:` URI or a data set of the benchmark without DATA_DIR.
      download: download and prepare a TensorFlow Dataset that is not prepared.

    Returns:
      A task whose `uri` is the given one. Images of folders, archives and TensorFlow Datasets are decoded on access.
      `details["warnings"]` lists irregularities that do not prevent its use.

    Raises:
      TaskError: the URI is malformed or unknown, its images do not make a task, or `download` is True for a kind that is not downloaded.
      DataError: a file cannot be read, or the download fails.
    """
    kinds = TASKS if _scheme(uri) in TASKS else task_kinds()
    name, argument = parse_uri(uri, kinds)
    kind = kinds[name]
    if download and kind.download is None:
        allowed = "tfds:NAME and sets of the benchmark in TensorFlow Datasets"
        raise TaskError(f"Task {str(uri)!r} is not downloaded; {allowed} can be. Try: download=False (without --download)")
    if download:
        kind.download(argument, data_dir=data_dir)
    task = kind.load(argument, data_dir=data_dir) if kind.takes_data_dir else kind.load(argument)
    return replace(task, uri=str(uri))


def parse_uri(uri: str | Path, kinds: Mapping[str, TaskKind]) -> tuple[str, str]:
    """Name of the kind, and its argument. Reads no file.

    Raises:
      TaskError: no kind has this name and none recognises it as a path.
    """
    text = str(uri)
    if "\0" in text:
        raise TaskError(f"Task {text!r} contains a null byte, which no path can. Try: ntk-select tasks show folder:photos")
    scheme = _scheme(uri)
    if scheme is not None and scheme in kinds:
        return scheme, text.partition(":")[2]
    path = os.path.expanduser(text)
    for name, kind in kinds.items():
        if kind.recognises and kind.recognises(path):
            return name, path
    allowed = f"Allowed: {PATHS}, or the name of a task. Try: ntk-select tasks show folder:photos"
    if os.path.isfile(path):
        raise TaskError(f"Task {text!r} is a file, but neither .zip nor .npz, .csv or .tsv. {allowed}")
    if scheme is None or os.sep in scheme or text.startswith(("~", ".")):
        raise TaskError(f"Task {text!r}: there is no such folder or file. {allowed}")
    raise TaskError(
        f"There is no folder or file {text!r}, and no task of that name.{near(scheme, kinds)} "
        f"Allowed: {PATHS}, or the name of a task. To list the names, try: ntk-select tasks list"
    )


def _scheme(uri: str | Path) -> str | None:
    """The text before the colon, or the whole text; None for a `Path`."""
    return uri.partition(":")[0] if isinstance(uri, str) else None


def describe(task: Task) -> dict[str, Any]:
    """Sizes, classes and irregularities of a task, as plain values for JSON. Decodes one image.

    Returns:
      name, uri, licence; train and test (numbers of images; test is None without a test set); held_out (number of training
      images that fine-tuning holds out for testing; None with a test set); num_classes; classes (a
      list of name, train, test); per_class (fewest and most training images of the classes that have any); image_size
      ([height, width] of the first training image) and its channels (1 or 3); warnings.
    """
    train = np.bincount(task.labels, minlength=task.num_classes)
    test = [None] * task.num_classes if task.test_labels is None else np.bincount(task.test_labels, minlength=task.num_classes).tolist()
    first = np.asarray(task.images[0])
    return {
        "name": task.name,
        "uri": task.uri,
        "licence": task.licence,
        "train": len(task.labels),
        "test": None if task.test_labels is None else len(task.test_labels),
        "held_out": int(held_out_for_testing(task.labels).sum()) if task.test_labels is None or not len(task.test_labels) else None,
        "num_classes": task.num_classes,
        "classes": [{"name": name, "train": int(n), "test": m} for name, n, m in zip(task.class_names, train, test, strict=True)],
        "per_class": {"fewest": int(train[train > 0].min()), "most": int(train.max())},
        "image_size": list(first.shape[:2]),
        "channels": first.shape[2] if first.ndim == 3 else 1,
        "warnings": list(task.details.get("warnings", ())),
    }
