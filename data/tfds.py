"""The prepared TensorFlow Dataset that a `tfds:` URI means."""

import re
from dataclasses import replace
from pathlib import Path

from ntk_select.errors import TaskError
from ntk_select.tasks.task import Task

from .prepared import find_prepared, places
from .records import read_prepared

OF_CHARACTERS = {
    "binary_alpha_digits",
    "cmaterdb",
    "emnist",
    "kmnist",
    "mnist",
    "mnist_corrupted",
    "omniglot",
    "svhn_cropped",
    "visual_domain_decathlon",
}
"""Sets in which a mirror image may be of another class, or of none: letters, digits and, in one configuration of the last, traffic signs."""
URI = re.compile(r"(?P<name>[a-zA-Z]\w*)(/(?P<config>[^/:@]+))?(:(?P<version>\d+\.\d+\.\d+))?(@(?P<folder>.+))?")


def load_tfds(argument: str, *, data_dir: str | Path | None = None) -> Task:
    """The task in a prepared set of images with one label each. Nothing is downloaded or prepared here.

    Args:
      argument: NAME[/CONFIG][:VERSION][@DATA_DIR]; by default the only configuration and the newest version on disk.
        With @DATA_DIR only that folder is looked into.
      data_dir: else looked into first; then TensorFlow Datasets' own folder ($TFDS_DATA_DIR or ~/tensorflow_datasets).

    The training split is `train`; the test split is `test`, else `validation`.

    Raises:
      TaskError: the argument is not of this form, or fewer than two classes.
      DataError: not prepared there, not as ArrayRecord, damaged, or without an image, a label or a training split.
    """
    parts = URI.fullmatch(argument)
    if not parts:
        raise TaskError(f"Task 'tfds:{argument}': allowed is tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]. Example: tfds:cifar10@~/tensorflow_datasets")
    folder = find_prepared(parts["name"], parts["config"], parts["version"], places(parts["folder"], data_dir))
    task = read_prepared(folder, parts["name"])
    return replace(task, flips_keep_class=False) if parts["name"] in OF_CHARACTERS else task
