"""Small data sets known by name: scikit-learn's handwritten digits, and Fashion-MNIST in MNIST's IDX format."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from ntk_select.data.image_files import HEAD, reject_placeholder
from ntk_select.errors import DataError, TaskError, missing
from ntk_select.tasks.task import Task, stratified_train

TRAIN_SIZE = 1000


def load_digits(argument: str = "") -> Task:
    """1,000 training and 797 test images of digits, 8 x 8 grey, 10 classes, from `sklearn.datasets.load_digits`.

    Values 0 .. 16 become 0 .. 255 by round(x * 255 / 16). The data set has no official split; this one is fixed: within
    each class images are permuted with seed 0, and the first 1000/1797 are for training, rounded so that the sizes are
    exact (`stratified_train`). Both splits preserve scikit-learn's order.

    Raises:
      TaskError: the URI has an argument.
      MissingDependencyError: scikit-learn is not installed.
    """
    if argument:
        raise TaskError(f"Task 'digits:{argument}': this name takes no argument. Try: digits, or for a folder of that name folder:digits")
    try:
        from sklearn import datasets
    except ImportError as error:
        raise missing("scikit-learn", "The task digits") from error
    bunch = datasets.load_digits()
    images, labels = np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target
    train = stratified_train(labels, TRAIN_SIZE)
    return Task(
        "digits",
        images[train],
        labels[train],
        tuple("0123456789"),
        images[~train],
        labels[~train],
        licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
        details={"warnings": []},
        flips_keep_class=False,
    )


DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_fashion_mnist(folder: str | Path = "") -> Task:
    """60,000 training and 10,000 test images of clothes, 28 x 28 grey, 10 classes.

    Args:
      folder: folder of the four IDX files, gzipped or not; by default that of Debian's package.

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
        raise DataError(f"{images_path} has {len(images):,} images, {labels_path.name} has {len(labels):,} labels. Try: download both again")
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if os.path.isfile(path):
            return path
    raise DataError(
        f"{folder}: there is no {name} or {name}.gz. "
        "Try: apt install dataset-fashion-mnist, or, with the four files in a folder DIR: fashion_mnist:DIR"
    )


MAX_BYTES = 2**30


def read_idx(path: Path, *, ndim: int) -> np.ndarray:
    """The read-only uint8 array in an IDX file.

    Layout: two zero bytes, the type (8 is unsigned byte), the number of dimensions, each dimension as big-endian
    uint32, then the values in C order.

    Args:
      path: path of the file. Gzip is recognised by content, not by name.
      ndim: expected number of dimensions: 3 for images, 1 for labels.

    Raises:
      DataError: unreadable, damaged, another type or number of dimensions, or too few or too many values.
    """
    try:
        with open(path, "rb") as plain:
            start = plain.read(HEAD)
            reject_placeholder(str(path), start)
            zipped = start.startswith(b"\x1f\x8b")
            plain.seek(0)
            with gzip.open(plain) if zipped else plain as file:
                shape = _shape(path, file.read(4 + 4 * ndim), ndim)
                values = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Is it complete? Try: download it again") from error
    if len(values) != math.prod(shape):
        found = "more" if len(values) > math.prod(shape) else f"{len(values):,}"
        raise DataError(f"{path}: its header declares {math.prod(shape):,} values, it has {found}. Try: download it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    if header[:4] != bytes([0, 0, 8, ndim]) or len(header) < 4 + 4 * ndim:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes with {ndim} dimensions: it starts with {header[:4].hex(' ')!r}, not '00 00 08 0{ndim}'."
        )
    shape = struct.unpack(f">{ndim}I", header[4:])
    if math.prod(shape) > MAX_BYTES:
        raise DataError(f"{path}: its header declares {math.prod(shape):,} values; allowed are {MAX_BYTES:,}. It is damaged.")
    return shape
