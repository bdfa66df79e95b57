"""Baselines that do not use the images of the task, which a score must beat to be worth its cost."""

import zlib

import numpy as np
from jaxtyping import Float

from ntk_select.errors import TaskError, UndefinedScoreError


def random_score(name: str = "", seed: int = 0, task_key: str = "") -> float:
    """A uniform number in [0, 1): one random order of the experts.

    Different tasks and different seeds give independent orders. The baseline of an evaluation is the mean over random orders,
    `evaluate.random_expectation`, not one such order.

    Args:
      name: name of the expert.
      seed: seed of the probe sample.
      task_key: identifies the task and its images.
    """
    return float(np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(task_key.encode())]).random())


def source_size(source_size: int) -> float:
    """Training images of the source."""
    return float(source_size)


def source_accuracy(source_accuracy: float) -> float:
    """Accuracy on the source's own test set: the task-agnostic choice of Renggli et al. 2022, Which model to transfer?"""
    return float(source_accuracy)


def num_params(num_params: int) -> float:
    """Size of the network."""
    return float(num_params)


def best_elsewhere(accuracies_elsewhere: Float[np.ndarray, " t"]) -> float:
    """Mean fine-tuned accuracy on other tasks: the static leaderboard with this task left out.

    Raises:
      UndefinedScoreError: no other task.
      TaskError: not a vector of numbers from 0 to 1.
    """
    accuracies = np.asarray(accuracies_elsewhere, np.float64)
    if accuracies.ndim != 1 or not ((accuracies >= 0) & (accuracies <= 1)).all():
        raise TaskError(f"accuracies_elsewhere={accuracies_elsewhere!r} must be a vector (t,) of accuracies from 0 to 1.")
    if len(accuracies) == 0:
        raise UndefinedScoreError("The expert was fine-tuned on no other task.")
    return float(accuracies.mean())
