"""Fashion-MNIST as a task, and where its files lie."""

import os
from pathlib import Path

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

from .idx import read_idx

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_fashion_mnist(folder: str | Path = "") -> Task:
    """60,000 training and 10,000 test images of clothes, 28 x 28 grey, 10 classes.

    Args:
      folder: where the four IDX files are, gzipped or not; by default where Debian's package puts them.

    Raises:
      DataError: a file is missing or damaged, or images and labels differ in number.
      TaskError: labels above 9.

    Reference: Xiao, Rasul, Vollgraf 2017.
    """
    folder = Path(os.path.expanduser(folder)) if str(folder) else DEBIAN_FOLDER
    train, test = _split(folder, "train"), _split(folder, "t10k")
    return Task("fashion_mnist", *train, CLASS_NAMES, *test, licence="MIT", details={"warnings": []})


def _split(folder: Path, prefix: str):
    images_path, labels_path = (_find(folder, f"{prefix}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images):,} images, {labels_path.name} has {len(labels):,} labels. Fetch both again.")
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if os.path.isfile(path):
            return path
    raise DataError(
        f"{folder}: there is no {name} or {name}.gz. "
        "Type: apt install dataset-fashion-mnist; or, with the four files in a folder DIR: fashion_mnist:DIR"
    )
