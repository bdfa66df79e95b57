"""LFC, the label-feature correlation: agreement of the feature kernel with the labels."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import ConfigError, UndefinedScoreError, did_you_mean
from ntk_select.kernels.alignment import PairSums, correlation_from_sums, kernel_label_correlation, matching_labels
from ntk_select.scores.dissimilarity import pairs, squared_distances
from ntk_select.scores.features import Features, as_features, class_sums

KERNELS = ("dot", "cosine", "correlation", "rbf")


def lfc(
    features: Num[np.ndarray, "n d"] | Features,
    labels: Int[np.ndarray, " n"],
    *,
    kernel: str = "dot",
    diagonal: bool = True,
    center: bool = False,
    normalize: bool = False,
) -> float:
    """Correlation of the feature kernel with the label kernel, computed without either matrix.

    Args:
      features: pre-logits of the probe sample, one row per example.
      labels: class ids, any integers.
      kernel: "dot" (the paper); "cosine" is "dot" with `normalize`; "correlation" also subtracts each row's mean
        over the features; "rbf" is exp(-|a - b|^2 / (2 s^2)), s^2 half the median squared distance.
      diagonal: include the n self-pairs, as the paper does.
      center: subtract the column means first.
      normalize: scale every row to norm 1 (after centring).

    Returns:
      A number in [-1, 1], higher is better; unchanged by features -> a * features and by rotations of them.

    Raises:
      UndefinedScoreError: one class only, constant features, or a row of norm zero where rows are normalised.
      TaskError: inconsistent shapes, or features that are not finite.
      ConfigError: `kernel` is unknown.

    Reference: Deshpande et al. 2021, eq. 8 and sections 3.2, 3.3.  Cost: O(n d min(n, d)) time, O(min(n, d)^2) memory.
    """
    features = as_features(features).array
    labels = matching_labels(labels, len(features))
    if kernel not in KERNELS:
        raise ConfigError(f"lfc: kernel {kernel!r} is unknown.{did_you_mean(kernel, KERNELS)}")
    if center:
        features = features - features.mean(axis=0)
    if kernel == "correlation":
        features = features - features.mean(axis=1, keepdims=True)
    if normalize or kernel in ("cosine", "correlation"):
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise UndefinedScoreError(f"Example {int(np.argmin(norms))} has features of norm zero, so it cannot be normalised.")
        features = features / norms
    if kernel == "rbf":
        return kernel_label_correlation(_rbf(features), labels, diagonal=diagonal)

    n, d = features.shape
    of_classes = class_sums(features, labels)
    total = of_classes.sum(axis=0)
    gram = features @ features.T if n <= d else features.T @ features
    sums = PairSums(float((of_classes**2).sum()), float(total @ total), float((gram**2).sum()))
    return correlation_from_sums(sums, (features**2).sum(axis=1), labels, diagonal=diagonal)


def _rbf(features: np.ndarray) -> np.ndarray:
    distances = squared_distances(features)
    median = np.median(pairs(distances)) if len(distances) > 1 else 0.0
    if not median > 0:
        raise UndefinedScoreError("Half of the examples have the same features, so the rbf kernel has no width.")
    return np.exp(-distances / median)
