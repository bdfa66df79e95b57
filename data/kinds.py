"""Which kinds of task are built in, and what follows the colon of each one's URI?"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from ntk_select.task import Task

from .digits import load_digits
from .fashion_mnist import load_fashion_mnist
from .folder import load_folder
from .npz import load_npz
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
    """

    load: Callable[..., Task]
    summary: str
    example: str
    recognises: Callable[[str], bool] | None = None
    takes_data_dir: bool = False


def _ends_with(suffix: str) -> Callable[[str], bool]:
    return lambda path: path.lower().endswith(suffix)


TASKS = {
    "digits": TaskKind(load_digits, "1,797 handwritten digits, 8 x 8 grey, 10 classes (inside scikit-learn)", "digits"),
    "fashion_mnist": TaskKind(load_fashion_mnist, "70,000 clothes, 28 x 28 grey, 10 classes (four IDX files)", "fashion_mnist:DIR"),
    "folder": TaskKind(load_folder, "images in train/CLASS/ and test/CLASS/, or in CLASS/", "folder:photos", os.path.isdir),
    "zip": TaskKind(load_zip, "the same folders inside one zip archive", "zip:photos.zip", _ends_with(".zip")),
    "npz": TaskKind(load_npz, "NumPy arrays images, labels, test_images, test_labels", "npz:photos.npz", _ends_with(".npz")),
    "tfds": TaskKind(load_tfds, "a prepared TensorFlow Dataset, read without TensorFlow", "tfds:cifar10@~/tensorflow_datasets", takes_data_dir=True),
}
