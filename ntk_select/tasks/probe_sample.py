"""Probe samples: the few images of a task that the scores see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import TaskError
from ntk_select.tasks.task import ChosenImages, Task

PER_CLASS = 25
"""Images per class in a probe sample by default, as in Deshpande et al. 2021, section 3.3."""


@dataclass(frozen=True, eq=False)
class ProbeSample:
    """The probe sample: the few training images that scores see.

    Attributes:
      images: n images of the task, in class order, decoded on every access.
      labels: (n,) ids renumbered to 0 .. number of classes - 1, without absent classes.
      class_names: names of the present classes, in the new order.
      indices: (n,) positions in the task's training set.
    """

    images: Sequence[np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    indices: np.ndarray

    def __len__(self):
        return len(self.labels)


def probe_sample(task: Task, *, per_class: int = PER_CLASS, seed: int = 0) -> ProbeSample:
    """Samples at most `per_class` training images of each class, without replacement.

    The sample is a function of labels and seed, and the sample of a class does not depend on the other classes. No image
    is decoded.

    Raises:
      TaskError: `per_class` is below 1, or `seed` below 0.

    Reference: Deshpande et al. 2021, section 3.3 (25 images per class).
    """
    if not is_whole(per_class) or per_class < 1:
        raise TaskError(f"per_class={per_class!r} must be an integer of at least 1 (the paper uses 25).")
    if not is_whole(seed) or seed < 0:
        raise TaskError(f"seed={seed!r} must be an integer of at least 0.")
    chosen = []
    for label in np.unique(task.labels):
        members = np.flatnonzero(task.labels == label)
        rng = np.random.default_rng([seed, int(label)])
        chosen.append(np.sort(rng.permutation(members)[:per_class]))
    indices = np.concatenate(chosen)
    present, labels = np.unique(task.labels[indices], return_inverse=True)
    names = tuple(task.class_names[label] for label in present)
    return ProbeSample(ChosenImages(task.images, indices), labels.astype(np.int32), names, indices)


def further_sample(task: Task, sample: ProbeSample, *, most: int, seed: list[int], test: bool = False) -> ProbeSample:
    """At most `most` further images of the classes of a probe sample, with its class ids.

    Args:
      task: task of the probe sample.
      most: maximum number of images of all classes together, in the order of the task; there may be none.
      seed: seed of `numpy.random.default_rng`.
      test: sample from the test set, which the task must have; else from the training images that are not in `sample`.
    """
    images, labels = (task.test_images, task.test_labels) if test else (task.images, task.labels)
    ids = np.full(task.num_classes, -1)
    ids[np.unique(task.labels[sample.indices])] = np.arange(len(sample.class_names))
    among = np.arange(len(labels)) if test else np.setdiff1d(np.arange(len(labels)), sample.indices)
    known = among[ids[labels[among]] >= 0]
    chosen = np.sort(np.random.default_rng(seed).permutation(known)[:most])
    return ProbeSample(ChosenImages(images, chosen), ids[labels[chosen]].astype(np.int32), sample.class_names, chosen)
