"""The part of a task that has some of its classes."""

from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from ntk_select.errors import ConfigError
from ntk_select.tasks.task import ChosenImages, Task


def of_classes(task: Task, patterns: tuple[str, ...]) -> Task:
    """The part of a task whose class names match one of the patterns. Raises ConfigError if none does."""
    chosen = [place for place, name in enumerate(task.class_names) if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ConfigError(f"classes = {list(patterns)} matches no class of {task.name!r}: {', '.join(task.class_names[:8])} ...")
    number = np.full(task.num_classes, -1)
    number[chosen] = np.arange(len(chosen))

    def part(images, labels):
        if images is None:
            return None, None
        places = np.flatnonzero(number[labels] >= 0)
        return ChosenImages(images, places), number[labels[places]]

    (images, labels), (test_images, test_labels) = part(task.images, task.labels), part(task.test_images, task.test_labels)
    names = tuple(task.class_names[place] for place in chosen)
    return replace(task, images=images, labels=labels, class_names=names, test_images=test_images, test_labels=test_labels)
