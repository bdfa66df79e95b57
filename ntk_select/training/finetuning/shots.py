"""Which training images does a fine-tuning see, and which of them choose the learning rate?"""

import numpy as np
from jaxtyping import Int

from ntk_select._runtime.checks import check_count
from ntk_select.errors import ConfigError
from ntk_select.tasks.task import Task, probe_sample

SHARE = 0.2
"""Of the training images, for validation."""


def chosen_images(task: Task, shots: int | str | None, seed: int) -> Int[np.ndarray, " n"]:
    """Places of the training images: all of them ("full" or None), or `shots` of each class.

    With the same seed these are the images that `probe_sample(task, per_class=shots)` shows to the scores.

    Raises:
      ConfigError: `shots` is neither.
    """
    if shots in (None, "full"):
        return np.arange(len(task.labels))
    if isinstance(shots, str):
        raise ConfigError(f"shots={shots!r} must be a whole number from 1, or 'full'.")
    check_count("shots", shots, 1)
    return probe_sample(task, per_class=shots, seed=seed).indices


def hold_out(labels: Int[np.ndarray, " n"], seed: int) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """Places of the images to train on and of those for validation: `SHARE` of each class, one at least of every class that has two.

    Raises:
      ConfigError: no class has two images.
    """
    held = []
    for label in np.unique(labels):
        members = np.random.default_rng([seed, int(label), 2]).permutation(np.flatnonzero(labels == label))
        held.append(members[: min(max(1, round(SHARE * len(members))), len(members) - 1)])
    held = np.sort(np.concatenate(held))
    if len(held) == 0:
        raise ConfigError("No class has two training images, so that none can be held out for validation. Give one learning rate, or choose='paper'.")
    return np.setdiff1d(np.arange(len(labels)), held), held
