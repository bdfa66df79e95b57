"""Target tasks: labelled images with separate training and test sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ntk_select._moved import renamed
from ntk_select._runtime.checks import is_whole
from ntk_select.errors import TaskError
from ntk_select.experts.preprocess import how_to_uint8

Images = np.ndarray | Sequence[np.ndarray]
__getattr__ = renamed(__name__, {name: f"ntk_select.tasks.probe_sample.{name}" for name in ("ProbeSample", "further_sample", "probe_sample")})


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled image-classification task with separate training and test sets.

    Args:
      name: short name, used in tables and file names.
      images: training images. Either one uint8 array (n, h, w, 3) or (n, h, w, 1) or (n, h, w), or any
        sequence of n uint8 arrays (h, w, 3) or (h, w), of any sizes; a sequence may decode lazily.
      labels: (n,) integers, 0 .. len(class_names) - 1.
      class_names: one name per class. Classes without training images are allowed; scores never see them.
      test_images, test_labels: the test set, in the same form; None when there is none.
      uri: as given on the command line.
      licence: terms of the images, if known.
      details: further information; "warnings" lists irregularities that do not prevent its use.
      flips_keep_class: whether mirror images belong to the same class; False for characters and digits, None if unknown.
        If False, training with the augmentation "auto" does not flip.

    Raises:
      TaskError: no images, fewer than two classes with images, different lengths, labels that are not
        integers or out of range, or an image array of the wrong type or shape.
    """

    name: str
    images: Images
    labels: np.ndarray
    class_names: tuple[str, ...]
    test_images: Images | None = None
    test_labels: np.ndarray | None = None
    uri: str | None = None
    licence: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    flips_keep_class: bool | None = None

    def __post_init__(self):
        if isinstance(self.class_names, str):
            raise TaskError(f"Task {self.name!r}: class_names is the string {self.class_names!r}; expected one name per class, as in ('cat', 'dog').")
        if not isinstance(self.flips_keep_class, bool | None):
            raise TaskError(f"Task {self.name!r}: flips_keep_class={self.flips_keep_class!r} must be True, False, or None if unknown.")
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        object.__setattr__(self, "labels", _checked_labels(self, "labels", self.labels, self.images))
        if (self.test_images is None) != (self.test_labels is None):
            raise TaskError(f"Task {self.name!r} has only one of test_images and test_labels; expected both or neither.")
        if self.test_images is not None:
            object.__setattr__(self, "test_labels", _checked_labels(self, "test_labels", self.test_labels, self.test_images))
        if len(self.images) == 0:
            raise TaskError(f"Task {self.name!r} has no training images. A task needs at least two classes with one image each.")
        present = np.unique(self.labels)
        if len(present) < 2:
            raise TaskError(
                f"Task {self.name!r} has training images of one class only ({self.class_names[present[0]]!r}). "
                "Scores compare classes. Try: images of at least two classes"
            )

    @property
    def num_classes(self) -> int:
        """Number of class names, with or without training images."""
        return len(self.class_names)

    def with_test_split(self, share: float = 0.2, seed: int = 0) -> "Task":
        """The task with part of its training images as its test set, for one that has none.

        Within each class images are permuted with the seed, and the last round(share * n) of its n images are for testing: at least
        one, and at most n - 1; none for classes with one image. Both splits preserve the order of the images. The split is a
        function of the labels and their order.

        Args:
          share: fraction of the images of each class for testing, above 0 and below 1.
          seed: seed of the permutation.

        Returns:
          A task of the same name whose `details["test_split"]`, also one of `details["warnings"]`, says how it was split.

        Raises:
          TaskError: the task has a test set, no class has two images, or `share` or `seed` is out of range.
        """
        if self.test_images is not None and len(self.test_images):
            raise TaskError(
                f"Task {self.name!r} has a test set of {len(self.test_images):,} images. Try: without with_test_split, or with test_images=None"
            )
        if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share < 1:
            raise TaskError(f"with_test_split: share={share!r} must be above 0 and below 1, as in 0.2.")
        if not is_whole(seed) or not 0 <= seed < 2**32:
            raise TaskError(f"with_test_split: seed={seed!r} must be an integer of at least 0.")
        tested = held_out_for_testing(self.labels, share, seed)
        if not tested.any():
            raise TaskError(
                f"Task {self.name!r}: no class has two images, so none can be held out for testing. Try: at least two images of one class"
            )
        alone = int((np.bincount(self.labels) == 1).sum())
        note = (
            f"There was no test set: {tested.sum():,} of {len(tested):,} images, {100 * share:.6g} % of each class (seed {seed}), are held out for "
            "testing." + (f" Classes with one image ({alone:,}) are for training only." if alone else "")
        )
        train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        return replace(
            self,
            images=_chosen(self.images, train),
            labels=self.labels[train],
            test_images=_chosen(self.images, test),
            test_labels=self.labels[test],
            details={**self.details, "warnings": [*self.details.get("warnings", ()), note], "test_split": note},
        )

    def __repr__(self):
        test = 0 if self.test_images is None else len(self.test_images)
        return f"Task({self.name!r}, train={len(self.images)}, test={test}, classes={self.num_classes})"


def held_out_for_testing(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """A boolean mask of the images that `Task.with_test_split` holds out for testing."""
    tested = np.zeros(len(labels), bool)
    for members in permuted_by_class(labels, seed):
        most = len(members) - 1
        tested[members[len(members) - min(max(round(share * len(members)), 1), most) :]] = most > 0
    return tested


def permuted_by_class(labels: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Positions of the images of each class with images, in the order of class ids, permuted within each class."""
    rng = np.random.RandomState(seed)  # the stream of this legacy generator is frozen
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def stratified_train(labels: np.ndarray, size: int) -> np.ndarray:
    """Stratified split: a boolean mask of `size` training images, the same fraction of each class to within one image.

    Within each class images are permuted with seed 0, and the first ones are for training. The mask is a function of the
    labels and their order.
    """
    place = np.empty(len(labels))
    for members in permuted_by_class(labels):
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    mask = np.zeros(len(labels), bool)
    mask[np.argsort(place, kind="stable")[:size]] = True
    return mask


ONE_EACH = "A task has one class per image"
SEVERAL = "labels of several classes per image (multi-label)"
SEPARATORS = "|;,"
"""Separators of several class names in one string."""


def how_to_label(labels: Any, name: str = "labels") -> str:
    """Hint for the conversion of the labels called `name` to one integer per image, according to their shape and values."""
    try:
        labels = np.asarray(labels)
    except ValueError:
        labels = np.empty((0,), object)
    nested = any(isinstance(each, list | tuple | set | np.ndarray) for each in labels.tolist()) if labels.ndim == 1 else False
    if labels.ndim == 1 and labels.dtype.kind in "USO" and len(labels) and not nested:
        return _how_to_label_texts(labels, name)
    if labels.dtype.kind == "O":
        return f"Lists of different lengths are {SEVERAL}. {ONE_EACH}: select the images with one label, or make a task for each class."
    if labels.ndim == 1:
        return f"For integer values, try: {name}.astype(int); for other values: np.unique({name}, return_inverse=True)[1]"
    if labels.ndim != 2 or labels.dtype.kind not in "biuf" or not labels.size:
        return f"{ONE_EACH}."
    return f"Try: {name}[:, 0]" if labels.shape[1] == 1 else _how_to_label_matrix(labels, name)


def _how_to_label_texts(labels: np.ndarray, name: str) -> str:
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in labels.tolist()]
    by_name = f"np.unique({name}, return_inverse=True)[1]"
    for mark in SEPARATORS:
        joined = [text for text in texts if mark in text.strip(mark)]
        if joined:
            return (
                f"{len(joined):,} of {len(texts):,} strings contain {mark!r}, as in {joined[0]!r}. If it separates names, these are {SEVERAL}. "
                f"{ONE_EACH}: select the images with one label, or make a task for each class. If it is part of a name, try: {by_name}"
            )
    return f"For names, try: {by_name}"


def _how_to_label_matrix(labels: np.ndarray, name: str) -> str:
    """Hint for a matrix with at least two columns."""
    number, (values, unknown) = len(labels), (labels.astype(float), np.isnan(labels.astype(float)))
    distinct = np.unique(values[~unknown])
    if (unknown.any() and len(distinct) <= 2) or (np.isin(distinct, (-1, 0, 1)).all() and len(distinct) == 3):
        return f"These are {SEVERAL} with missing values (-1 or NaN). {ONE_EACH}: make a task for each class, from the images where it is known."
    if len(distinct) == 2 or np.isin(distinct, (0, 1)).all():
        high = distinct[-1] if len(distinct) == 2 else 1
        has, condition = values == high, f"{name} == 1" if high == 1 else f"{name} > {(distinct[0] + high) / 2:.6g}"
        if (has.sum(axis=1) == 1).all():
            return f"For one-hot labels, try: {name}.argmax(1)"
        column = condition.replace(name, f"{name}[:, 0]", 1)
        return (
            f"These are {SEVERAL}: {(has.sum(axis=1) > 1).sum():,} of {number:,} images have several of the {labels.shape[1]} classes, "
            f"{(~has).all(axis=1).sum():,} have none{'' if high == 1 else f', if {high:.6g} is yes and {distinct[0]:.6g} no'}. {ONE_EACH}: "
            f"select the images with ({condition}).sum(1) == 1, or make a task for each class, as in ({column}).astype(int)"
        )
    sums = values.sum(axis=1)
    if values.min() >= 0 and (np.allclose(sums, 1, atol=1e-3) or np.allclose(sums, 100, atol=0.1)):
        return f"These are probabilities of the classes (soft labels). {ONE_EACH}; for the most probable class, try: {name}.argmax(1)"
    if values.min() >= 0 and values.max() <= 1:
        return (
            f"These are numbers from 0 to 1 that do not sum to 1: independent probabilities of the classes, {SEVERAL}. {ONE_EACH}: "
            f"select the images with ({name} > 0.5).sum(1) == 1, or make a task for each class, as in ({name}[:, 0] > 0.5).astype(int)"
        )
    if labels.dtype.kind in "iu":
        return f"These are {labels.shape[1]} numbers per image. {ONE_EACH}; choose a column, as in {name}[:, 0]"
    return f"{ONE_EACH}; these are {labels.shape[1]} scores per image, of which {name}.argmax(1) is the index of the largest."


def _chosen(images: Images, places: np.ndarray) -> Images:
    return images[places] if isinstance(images, np.ndarray) else ChosenImages(images, places)


def _checked_labels(task: Task, field_name: str, labels, images) -> np.ndarray:
    name = field_name.replace("labels", "images")
    of_images = f"Task {task.name!r}: {name}"
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8:
            raise TaskError(f"{of_images} are {images.dtype}; they must be uint8 (0 to 255). {how_to_uint8(images, name)}")
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
            raise TaskError(f"{of_images} have shape {images.shape}; allowed are (n, h, w), (n, h, w, 1) and (n, h, w, 3).")
        if 0 in images.shape[1:]:
            raise TaskError(f"{of_images} have shape {images.shape}, with no pixels.")
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise TaskError(f"{of_images} are of type {type(images).__name__}; expected an array (n, h, w, 3) or a sequence of images.")
    try:
        labels = np.asarray(labels)
    except ValueError as error:
        raise TaskError(
            f"Task {task.name!r}: {field_name} are not one number per image; the shape must be ({len(images)},). {how_to_label(labels, field_name)}"
        ) from error
    if labels.ndim != 1 or len(labels) != len(images):
        hint = f" {how_to_label(labels, field_name)}" if labels.ndim > 1 else ""
        raise TaskError(f"Task {task.name!r}: {field_name} has shape {labels.shape} for {len(images)} images; it must be ({len(images)},).{hint}")
    if len(labels) and not np.issubdtype(labels.dtype, np.integer):
        raise TaskError(
            f"Task {task.name!r}: {field_name} is {labels.dtype}; class ids must be integers 0 .. {len(task.class_names) - 1}. "
            f"{how_to_label(labels, field_name)}"
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= len(task.class_names)):
        bad = labels[(labels < 0) | (labels >= len(task.class_names))][0]
        raise TaskError(
            f"Task {task.name!r}: {field_name} contains {bad}, but there are {len(task.class_names)} class names; "
            f"allowed are 0 .. {len(task.class_names) - 1}. To renumber, try: np.unique({field_name}, return_inverse=True)[1]"
        )
    labels = labels.astype(np.int32)
    labels.setflags(write=False)
    return labels


class ChosenImages(Sequence):
    """The images of a task at `indices`, decoded on access, so large samples need not fit into memory."""

    def __init__(self, images: Images, indices: np.ndarray):
        self._images, self._indices = images, indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, position: int) -> np.ndarray:
        return np.asarray(self._images[int(self._indices[position])])

    def content(self, position: int) -> bytes | None:
        """The encoded bytes of an image, or None if only its pixels are known."""
        return encoded_bytes(self._images, int(self._indices[position]))

    def origin(self, position: int) -> tuple[tuple[str, ...], str] | None:
        """The files that contain an image and its name in them, or None if it is in no file."""
        origin = getattr(self._images, "origin", None)
        return None if origin is None else origin(int(self._indices[position]))


def encoded_bytes(images: Images, position: int) -> bytes | None:
    """The encoded bytes of an image, if its sequence has a method `content`; else None."""
    content = getattr(images, "content", None)
    return None if content is None else content(position)
