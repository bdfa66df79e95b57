"""What is a target task, and which of its images do the scores see?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ntk_select.errors import TaskError
from ntk_select.whole import is_whole

Images = np.ndarray | Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled image-classification task, train and test kept apart.

    Args:
      name: short name, used in tables and file names.
      images: training images. Either one uint8 array (n, h, w, 3) or (n, h, w, 1) or (n, h, w), or any
        sequence of n uint8 arrays (h, w, 3) or (h, w), of any sizes; a sequence may decode lazily.
      labels: (n,) integers, 0 .. len(class_names) - 1.
      class_names: one name a class. Classes without a training image are allowed; scores never see them.
      test_images, test_labels: the test set, in the same form; None when there is none.
      uri: where it came from, as typed on the command line.
      licence: terms of the images, if known.

    Raises:
      TaskError: no images, fewer than two classes with images, lengths that differ, labels that are not
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

    def __post_init__(self):
        if isinstance(self.class_names, str):
            raise TaskError(f"Task {self.name!r}: class_names is the text {self.class_names!r}; give one name a class, as in ('cat', 'dog').")
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        object.__setattr__(self, "labels", _checked_labels(self, "labels", self.labels, self.images))
        if (self.test_images is None) != (self.test_labels is None):
            raise TaskError(f"Task {self.name!r} has only one of test_images and test_labels. Give both, or neither.")
        if self.test_images is not None:
            object.__setattr__(self, "test_labels", _checked_labels(self, "test_labels", self.test_labels, self.test_images))
        if len(self.images) == 0:
            raise TaskError(f"Task {self.name!r} has no training images. A task needs at least two classes with one image each.")
        present = np.unique(self.labels)
        if len(present) < 2:
            raise TaskError(
                f"Task {self.name!r} has training images of one class only ({self.class_names[present[0]]!r}). "
                "Scores compare classes: give images of at least two."
            )

    @property
    def num_classes(self) -> int:
        """Number of class names, with or without training images."""
        return len(self.class_names)

    def __repr__(self):
        test = 0 if self.test_images is None else len(self.test_images)
        return f"Task({self.name!r}, train={len(self.images)}, test={test}, classes={self.num_classes})"


def _checked_labels(task: Task, field_name: str, labels, images) -> np.ndarray:
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8:
            raise TaskError(
                f"Task {task.name!r}: images are {images.dtype}; they must be uint8 (0 to 255). "
                "For floats in 0..1 type: (images * 255).round().astype('uint8')"
            )
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
            raise TaskError(f"Task {task.name!r}: images have shape {images.shape}; allowed are (n, h, w), (n, h, w, 1) and (n, h, w, 3).")
        if 0 in images.shape[1:]:
            raise TaskError(f"Task {task.name!r}: images have shape {images.shape}, with no pixels.")
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise TaskError(f"Task {task.name!r}: images are of type {type(images).__name__}; give an array (n, h, w, 3), or a sequence of images.")
    try:
        labels = np.asarray(labels)
    except ValueError as error:
        raise TaskError(f"Task {task.name!r}: {field_name} are not one number an image; it must be ({len(images)},).") from error
    if labels.ndim != 1 or len(labels) != len(images):
        raise TaskError(f"Task {task.name!r}: {field_name} has shape {labels.shape} for {len(images)} images; it must be ({len(images)},).")
    if len(labels) and not np.issubdtype(labels.dtype, np.integer):
        raise TaskError(f"Task {task.name!r}: {field_name} is {labels.dtype}; class ids must be integers 0 .. {len(task.class_names) - 1}.")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(task.class_names)):
        bad = labels[(labels < 0) | (labels >= len(task.class_names))][0]
        raise TaskError(
            f"Task {task.name!r}: {field_name} contains {bad}, but there are {len(task.class_names)} class names; "
            f"allowed are 0 .. {len(task.class_names) - 1}. To renumber type: np.unique(labels, return_inverse=True)[1]"
        )
    labels = labels.astype(np.int32)
    labels.setflags(write=False)
    return labels


@dataclass(frozen=True, eq=False)
class ProbeSample:
    """The few training images that scores see.

    Attributes:
      images: n images as they come from the task, in class order, decoded on every access.
      labels: (n,) ids renumbered to 0 .. number of classes - 1, so that no score meets an absent class.
      class_names: names of the classes that are present, in the new order.
      indices: (n,) positions in the task's training set.
    """

    images: Sequence[np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    indices: np.ndarray

    def __len__(self):
        return len(self.labels)


def probe_sample(task: Task, *, per_class: int = 25, seed: int = 0) -> ProbeSample:
    """Draws at most `per_class` training images of each class, without replacement.

    The draw depends on the labels and the seed alone, and a class's draw does not depend on the other
    classes. Decodes nothing yet.

    Raises:
      TaskError: `per_class` is below 1, or `seed` below 0.

    Reference: Deshpande et al. 2021, section 5 (25 images per class).
    """
    if not is_whole(per_class) or per_class < 1:
        raise TaskError(f"per_class is {per_class!r}; it must be at least 1 (the paper uses 25), a whole number.")
    if not is_whole(seed) or seed < 0:
        raise TaskError(f"seed is {seed!r}; it must be 0 or above, a whole number.")
    drawn = []
    for label in np.unique(task.labels):
        members = np.flatnonzero(task.labels == label)
        rng = np.random.default_rng([seed, int(label)])
        drawn.append(np.sort(rng.permutation(members)[:per_class]))
    indices = np.concatenate(drawn)
    present, labels = np.unique(task.labels[indices], return_inverse=True)
    names = tuple(task.class_names[label] for label in present)
    return ProbeSample(ChosenImages(task.images, indices), labels.astype(np.int32), names, indices)


def further_sample(task: Task, sample: ProbeSample, *, most: int, seed: list[int], test: bool = False) -> ProbeSample:
    """At most `most` other images of the classes that a probe sample knows, with its numbering of the classes.

    Args:
      task: that `sample` was drawn from.
      most: images, of all classes together, in the order of the task; there may be none.
      seed: of the draw, as `numpy.random.default_rng` takes it.
      test: from the test set, which the task must have; else from the training images that are not in `sample`.
    """
    images, labels = (task.test_images, task.test_labels) if test else (task.images, task.labels)
    ids = np.full(task.num_classes, -1)
    ids[np.unique(task.labels[sample.indices])] = np.arange(len(sample.class_names))
    among = np.arange(len(labels)) if test else np.setdiff1d(np.arange(len(labels)), sample.indices)
    known = among[ids[labels[among]] >= 0]
    chosen = np.sort(np.random.default_rng(seed).permutation(known)[:most])
    return ProbeSample(ChosenImages(images, chosen), ids[labels[chosen]].astype(np.int32), sample.class_names, chosen)


class ChosenImages(Sequence):
    """The images of a task at `indices`, fetched when asked for: decoded photographs of a large sample need not fit into memory."""

    def __init__(self, images: Images, indices: np.ndarray):
        self._images, self._indices = images, indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, position: int) -> np.ndarray:
        return np.asarray(self._images[int(self._indices[position])])
