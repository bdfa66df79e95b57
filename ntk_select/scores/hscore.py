"""H-score: variance between the classes in units of the whole variance."""

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.scores.features import Features, class_means, labelled
from ntk_select.scores.score import ScoreResult


def hscore(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """tr(Sigma^+ Sigma_between): variance between class means in units of the whole variance, summed over directions.

    Args:
      features: pre-logits.
      labels: class ids, any integers.

    Returns:
      0 to min(rank, c - 1), higher is better; unchanged by invertible linear maps and shifts. Detail `by_chance`: its exact
      mean over all permutations of the labels, rank (c - 1) / (n - 1), which is most of the score unless n is far above d. Where the
      centred features have rank n - 1 (n <= d + 1 images in general position) both are c - 1 for any features.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.

    Reference: Bao et al. 2019, An information-theoretic approach to transferability.  Cost: O(n d min(n, d)).
    """
    features, ids, counts = labelled(features, labels)
    n, classes, rank = len(ids), len(counts), len(features.svd.values)
    value = float(_between(features, ids, counts).sum()) if rank < n - 1 else float(classes - 1)
    return ScoreResult(min(value, float(min(rank, classes - 1))), details={"by_chance": rank * (classes - 1) / (n - 1)})


def hscore_saturation(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> str:
    """A sentence if the H-score is c - 1 for every expert; "" elsewhere."""
    features, ids, counts = labelled(features, labels)
    if len(features.svd.values) < len(ids) - 1:
        return ""
    return (
        f"{len(ids)} images span all directions of their features, where the H-score is {len(counts) - 1} for every expert and any labels. "
        f"Needed are more than {features.width + 1} images, or hscore_shrinkage."
    )


def hscore_shrinkage(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """The H-score with the covariance of Ledoit and Wolf, which remains informative for few images.

    With intensity a and Sigma_a = (1 - a) S + a (tr S / d) I: (1 - a) tr(Sigma_a^-1 Sigma_between).

    Args:
      features, labels: as for `hscore`.

    Returns:
      0 to c - 1 (times n / (n - 1): the two covariances have different denominators), higher is better; unchanged by scales, rotations
      and shifts. Detail `shrinkage`: a.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.

    Reference: Ibrahim et al. 2021, Newer is not always better; Ledoit & Wolf 2004.  Cost: O(n d min(n, d)).
    """
    features, ids, counts = labelled(features, labels)
    n, variances = len(ids), features.svd.values**2 / len(ids)
    a, mean = ledoit_wolf(features)
    whitened = variances * n / (n - 1) * _between(features, ids, counts) / ((1 - a) * variances + a * mean)
    return ScoreResult(float((1 - a) * whitened.sum()), details={"shrinkage": a})


def ledoit_wolf(features: Features) -> tuple[float, float]:
    """Intensity of the shrinkage, 0 to 1, and the mean variance that is shrunk towards."""
    n, d = features.array.shape
    variances = features.svd.values**2 / n
    mean = variances.sum() / d
    spread = ((variances**2).sum() - d * mean**2) / d
    noise = (((features.centred**2).sum(axis=1) ** 2).sum() / n - (variances**2).sum()) / (n * d)
    return (float(np.clip(noise / spread, 0, 1)) if spread > 0 else 0.0), float(mean)


def _between(features: Features, ids: np.ndarray, counts: np.ndarray) -> Float[np.ndarray, " k"]:
    """Along each principal direction, the share of the variance that lies between the classes."""
    return (counts[:, None] * class_means(features.svd.left, ids, counts) ** 2).sum(axis=0)
