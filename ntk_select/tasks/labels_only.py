"""Tasks without images: the labels of images whose features were computed elsewhere."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from jaxtyping import Int

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

NO_COPIES = "There are only features of the images: duplicate images cannot be found, and each counts as independent."


class NoImages(Sequence):
    """The images of a task of which only the labels are known: a length, and no image."""

    def __init__(self, length: int):
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, position: int) -> NoReturn:
        if position >= self._length:
            raise IndexError(position)
        raise DataError("This task has labels without images. Try: a task with its images, as in rank(experts, task) (--task)")


def labels_only_task(name: str, labels: Int[np.ndarray, " n"], class_names: Sequence[str]) -> Task:
    """A task of labels alone, for experts that are known by their features. Raises TaskError as `Task`."""
    return Task(name, NoImages(len(labels)), labels, tuple(class_names), details={"warnings": [NO_COPIES]})


def has_images(task: Task) -> bool:
    """Whether the task has images, or labels alone."""
    return not isinstance(task.images, NoImages)
