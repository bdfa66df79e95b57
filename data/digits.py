"""scikit-learn's handwritten digits as a task."""

import numpy as np

from ntk_select.errors import TaskError, missing
from ntk_select.tasks.task import Task, stratified_train

TRAIN_SIZE = 1000


def load_digits(argument: str = "") -> Task:
    """1,000 training and 797 test images of digits, 8 x 8 grey, 10 classes, from `sklearn.datasets.load_digits`.

    Values 0 .. 16 become 0 .. 255 by round(x * 255 / 16). The set has no split of its own, so this one is ours and
    never changes: within each class images are permuted with seed 0, and training takes each class's first 1000/1797,
    rounded so that the sizes are exact. Both splits keep scikit-learn's order.

    Raises:
      TaskError: anything follows the name.
      MissingDependencyError: scikit-learn is not installed.
    """
    if argument:
        raise TaskError(f"Task 'digits:{argument}': nothing follows this name. Type: digits. For a folder of that name: folder:digits")
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
