"""GBC: overlap of the classes as Gaussians in the space of the features."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.scores.features import Features, class_means, labelled

COMPONENTS = 64
FLOOR = 1e-4
COVARIANCES = ("diagonal", "spherical")


def gbc(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"], *, covariance: str = "diagonal") -> float:
    """Minus the sum over pairs of classes of exp(-Bhattacharyya distance), in the first 64 principal components.

    Args:
      features: pre-logits.
      labels: class ids, any integers.
      covariance: form of each class's covariance: "diagonal", or "spherical" (its mean over the components). A class of one image has the variances
        pooled over the others. Variances have a floor of 1e-4 of the mean variance.

    Returns:
      -c (c - 1) to 0, higher is better; compare within one task only. Unchanged by scales, rotations and shifts.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.
      ConfigError: `covariance` is unknown.

    Reference: Pandy et al. 2022, Transferability estimation using Bhattacharyya class separability.  Cost: O(n d min(n, d) + c^2).
    """
    if covariance not in COVARIANCES:
        raise ConfigError(f"gbc: covariance={covariance!r} is unknown.{did_you_mean(str(covariance), COVARIANCES)}")
    features, ids, counts = labelled(features, labels)
    rows = features.svd.coordinates[:, :COMPONENTS]
    means = class_means(rows, ids, counts)
    squares = (rows - means[ids]) ** 2
    variances = class_means(squares, ids, counts)
    several = counts > 1
    variances[~several] = squares[several[ids]].sum(axis=0) / counts[several].sum()
    if covariance == "spherical":
        variances = np.repeat(variances.mean(axis=1, keepdims=True), variances.shape[1], axis=1)
    variances = np.maximum(variances, FLOOR * (rows**2).mean())
    logs = np.log(variances).sum(axis=1)
    overlap = 0.0
    for label in range(len(counts) - 1):
        others = slice(label + 1, None)
        between = (variances[label] + variances[others]) / 2
        distance = ((means[label] - means[others]) ** 2 / between).sum(axis=1) / 8
        distance += 0.5 * (np.log(between).sum(axis=1) - 0.5 * (logs[label] + logs[others]))
        overlap += np.exp(-distance).sum()
    return -2 * float(overlap)
