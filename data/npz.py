"""Tasks from NumPy .npz files."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from ntk_select.data.bit_depth import CONVERT, Seen, Wide, decided, to_8_bits
from ntk_select.data.image_files import HEAD, reject_placeholder
from ntk_select.errors import DataError, first_line
from ntk_select.experts.preprocess import how_to_uint8
from ntk_select.tasks.task import Task, how_to_label

TRAIN_KEYS = (("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels"))
TEST_KEYS = (("test_images", "test_labels"), ("x_test", "y_test"), ("val_images", "val_labels"), ("x_val", "y_val"))


def load_npz(path: str | Path) -> Task:
    """The task in a .npz file: arrays `images` and `labels`, optional `test_images`, `test_labels` and `class_names`.

    Keras' names x_train, y_train, x_test, y_test and MedMNIST's train_images, train_labels are accepted too, and
    validation arrays are the test set if there is none. Images are uint8 or uint16 (n, h, w), (n, h, w, 1) or (n, h, w, 3);
    those of uint16 are scaled from one bit depth for all, which the training images decide (`bit_depth.decided`). Labels are
    integers (n,) or (n, 1). With class names, labels are indices into them. Without, each label value is a class, named by its
    number. Pickled objects are never loaded.

    Raises:
      DataError: the file does not exist or is damaged, keys are missing, or arrays have another type, shape or range.
      TaskError: fewer than two classes.
    """
    where = os.path.expanduser(path)
    if not os.path.isfile(where):
        raise DataError(f"There is no file {str(path)!r}. Try: npz:PATH, for example npz:photos.npz, with arrays images and labels")
    try:
        with open(where, "rb") as file:
            archive = _archive(where, file)
            train_keys, test_keys = _keys(where, set(archive.files))
            names = _class_names(where, archive) if "class_names" in archive.files else None
            images, labels = _split(where, archive, *train_keys)
            test_images, test_labels = _split(where, archive, *test_keys) if test_keys else (None, None)
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror}).") from error
    names, labels, test_labels = _classes(where, names, labels, test_labels)
    warnings: list[str] = []
    images, test_images = _in_8_bits(where, [(train_keys[0], images), (test_keys[0] if test_keys else "", test_images)], warnings)
    return Task(Path(where).stem, images, labels, names, test_images, test_labels, details={"warnings": warnings})


def _in_8_bits(where: str, arrays: list[tuple[str, np.ndarray | None]], warnings: list[str]) -> list[np.ndarray | None]:
    """The arrays as uint8. The first one of uint16 decides the bit depth of all."""
    wide = [(key, images) for key, images in arrays if images is not None and images.dtype == np.uint16]
    if not wide:
        return [images for _, images in arrays]
    key, images = wide[0]
    largest = images.reshape(len(images), -1).max(1)
    name = f"{where}: array {key!r}"
    decision = decided((Seen(Wide(False), int(value), name) for value in largest), "Images")
    warnings += decision.sentences
    beyond = [key for key, images in wide if images.max() >> decision.bits]
    if beyond:
        raise DataError(f"{where}: array {beyond[0]!r} has values above {(1 << decision.bits) - 1:,}, the largest of {key!r}. {CONVERT}")
    return [images if images is None or images.dtype == np.uint8 else _scaled(images, decision.bits) for _, images in arrays]


def _scaled(images: np.ndarray, bits: int) -> np.ndarray:
    scaled = np.empty(images.shape, np.uint8)
    for place, image in enumerate(images):  # one at a time, since 32-bit copies of all may not fit into memory
        scaled[place] = to_8_bits(image, bits)
    return scaled


def _archive(where: str, file):
    reject_placeholder(where, file.read(HEAD))
    file.seek(0)
    try:
        archive = np.load(file, allow_pickle=False)
    except Exception as error:  # NumPy and zipfile raise many types on damaged files
        raise DataError(f"{where}: cannot be read as an .npz file ({_reason(error)}). Is it complete?") from error
    if isinstance(archive, np.ndarray):
        raise DataError(f"{where}: a single array, not .npz. Try: np.savez('photos.npz', images=images, labels=labels)")
    twice = [name for name, times in Counter(archive.files).items() if times > 1]
    if twice:
        raise DataError(f"{where}: has duplicate arrays {_shown(set(twice))}. Try: save it again")
    return archive


def _reason(error: Exception) -> str:
    """NumPy's error message, without its advice to load unsafe pickles."""
    return "it is neither a zip archive nor an array" if "pickle" in str(error) else first_line(error)


def _keys(where: str, found: set[str]) -> tuple[tuple[str, str], tuple[str, str] | None]:
    """The (images, labels) keys of the training set and of the test set, None if there is none."""
    train = next((pair for pair in TRAIN_KEYS if found >= set(pair)), None)
    if train is None:
        spelt = " or ".join(" and ".join(pair) for pair in TRAIN_KEYS)
        raise DataError(f"{where}: has the arrays {_shown(found)}; expected {spelt}. Try: np.savez('photos.npz', images=images, labels=labels)")
    test = next((pair for pair in TEST_KEYS if found & set(pair)), None)
    if test and not found >= set(test):
        raise DataError(f"{where}: has the arrays {_shown(found)}; expected both {test[0]} and {test[1]}, or neither.")
    return train, test


def _shown(keys: set[str]) -> str:
    return ", ".join(sorted(keys)) or "(none)"


def _read(where: str, archive, key: str) -> np.ndarray:
    try:
        return np.asarray(archive[key])
    except Exception as error:  # as above
        raise DataError(f"{where}: array {key!r} cannot be read ({first_line(error)}). Try: save it again as a plain array") from error


def _split(where: str, archive, images_key: str, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    labels, images = _read(where, archive, labels_key), _read(where, archive, images_key)
    shown = f"{where}: array {images_key!r} is {images.dtype} {images.shape}"
    if images.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{shown}; images are uint8, 0 to 255, or uint16. {how_to_uint8(images)}")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)) or 0 in images.shape:
        hint = ""
        if images.ndim == 4 and images.shape[1] in (1, 3):
            hint = " If channels come first, try: images.transpose(0, 2, 3, 1)"
        elif images.ndim == 4 and images.shape[3] == 4:
            hint = " If the fourth channel is opacity, try: images[..., :3]"
        raise DataError(f"{shown}; allowed are (n, h, w), (n, h, w, 1) and (n, h, w, 3), not empty.{hint}")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        hint = f" {how_to_label(labels)}" if labels.ndim > 1 or labels.dtype.kind not in "iu" else ""
        raise DataError(
            f"{where}: array {labels_key!r} is {labels.dtype} {labels.shape}; expected integers ({len(images)},), one class per image.{hint}"
        )
    return images, labels.astype(np.int64)


def _class_names(where: str, archive) -> tuple[str, ...]:
    names = _read(where, archive, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{where}: array 'class_names' is {names.dtype} {names.shape}; expected strings (classes,). Try: class_names=np.array(['cat', 'dog'])"
        )
    twice = [name for name, times in Counter(names.tolist()).items() if times > 1]
    if twice:
        raise DataError(f"{where}: array 'class_names' has duplicates {', '.join(map(repr, twice[:5]))}; class names must be unique.")
    return tuple(names.tolist())


def _classes(where: str, names, labels: np.ndarray, test_labels: np.ndarray | None):
    """Class names, and the labels as indices into them."""
    both = labels if test_labels is None else np.concatenate([labels, test_labels])
    if both.min() < 0 or (names is not None and both.max() >= len(names)):
        allowed = "0 and above" if names is None else f"0 .. {len(names) - 1}, indices into class_names"
        raise DataError(f"{where}: labels run from {both.min()} to {both.max()}; allowed are {allowed}. Try: remove images without a label")
    if names is None:
        values, both = np.unique(both, return_inverse=True)
        names = tuple(str(value) for value in values)
    return names, both[: len(labels)], None if test_labels is None else both[len(labels) :]
