"""Sizes, classes and oddities of a task."""

from typing import Any

import numpy as np

from ntk_select.tasks.task import Task


def describe(task: Task) -> dict[str, Any]:
    """Sizes, classes and oddities of a task, as plain values that JSON can hold. Decodes one image.

    Returns:
      name, uri, licence; train and test (numbers of images; test is None without a test set); num_classes; classes (a
      list of name, train, test); per_class (fewest and most training images of a class that has any); image_size
      ([height, width] of the first training image) and channels (1 or 3) of it; warnings.
    """
    train = np.bincount(task.labels, minlength=task.num_classes)
    test = [None] * task.num_classes if task.test_labels is None else np.bincount(task.test_labels, minlength=task.num_classes).tolist()
    first = np.asarray(task.images[0])
    return {
        "name": task.name,
        "uri": task.uri,
        "licence": task.licence,
        "train": len(task.labels),
        "test": None if task.test_labels is None else len(task.test_labels),
        "num_classes": task.num_classes,
        "classes": [{"name": name, "train": int(n), "test": m} for name, n, m in zip(task.class_names, train, test, strict=True)],
        "per_class": {"fewest": int(train[train > 0].min()), "most": int(train.max())},
        "image_size": list(first.shape[:2]),
        "channels": first.shape[2] if first.ndim == 3 else 1,
        "warnings": list(task.details.get("warnings", ())),
    }
