"""Linear discriminant analysis with a shrunk covariance within the classes, shared by SFDA, ETran and NCTI."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ntk_select.scores.features import Features, class_means

COLLAPSED = 1e-10
"""Share of the whole variance used in place of zero variance within the classes, so that collapsed classes have posteriors."""
LEAST = 1e-10


def unit_rows(features: Features) -> Float[np.ndarray, "n k"]:
    """Principal coordinates, scaled so that an image's squared distance from the mean is 1 on average."""
    values = features.svd.values
    return features.svd.coordinates * np.sqrt(len(features) / (values**2).sum())


def within(rows: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, "k k"]:
    """Covariance within the classes, averaged with their shares."""
    residual = rows - class_means(rows, labels, counts)[labels]
    return residual.T @ residual / len(rows)


def shrinkage_by_norm(covariance: Float[np.ndarray, "k k"]) -> float:
    """exp(-5 times the largest eigenvalue), at least 1e-10: classes that overlap less are shrunk more."""
    return max(math.exp(-5 * np.linalg.eigvalsh(covariance)[-1]), LEAST)


class Analysis(NamedTuple):
    """For features scaled to `unit_rows`: the rows, the shrinkage of the covariance within classes, and the posteriors (n, c)."""

    rows: Float[np.ndarray, "n k"]
    shrinkage: float
    posteriors: Float[np.ndarray, "n c"]


def analysed(features: Features, labels: Int[np.ndarray, " n"], counts: Int[np.ndarray, " c"]) -> Analysis:
    """First step of SFDA and ETran."""
    rows = unit_rows(features)
    covariance = within(rows, labels, counts)
    amount = shrinkage_by_norm(covariance)
    return Analysis(rows, amount, posteriors(rows, labels, counts, shrunk(covariance, amount, 1.0, features.width)))


def shrunk(covariance: Float[np.ndarray, "k k"], amount: float, whole: float, width: int) -> Float[np.ndarray, "k k"]:
    """(1 - amount) covariance + amount * its mean variance. `whole`: trace of the whole covariance; `width`: features, of which the k
    directions vary."""
    mean = max(np.trace(covariance), COLLAPSED * whole) / width
    return (1 - amount) * covariance + np.eye(len(covariance)) * max(amount * mean, 1e-12 * whole / width)


def posteriors(
    rows: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], counts: Int[np.ndarray, " c"], covariance: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "n c"]:
    """Probability of each class for Gaussians with a common covariance and the class frequencies as priors."""
    from scipy.special import softmax  # imported here because SciPy takes long to import

    means = class_means(rows, labels, counts)
    weights = np.linalg.solve(covariance, means.T)
    return softmax(rows @ weights - 0.5 * (means * weights.T).sum(axis=1) + np.log(counts / counts.sum()), axis=1)


def of_own_class(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Probability of each image's own class."""
    return probabilities[np.arange(len(labels)), labels]
