"""TransRate: difference of coding rates, all classes together minus each class by itself, in nats."""

import math

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.errors import ConfigError
from ntk_select.scores.features import Features, labelled

EQUAL = 1.5
"""Ratio of sizes up to which two classes count as equal in size."""


def transrate(
    features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"], *, distortion: float = 1e-4, normalize: bool = False
) -> float:
    """R(Z) - sum_c p_c R(Z_c) with R(Z) = 1/2 log det(I + Z'Z / (n distortion)) and Z the centred features.

    Args:
      features: pre-logits.
      labels: class ids, any integers. Classes are weighted by their share of the images, as in the definition (public code weights
        them equally); their features are centred by the mean of all.
      distortion: distortion of the coding, above 0. The paper's 1e-4; other published values were chosen on the targets themselves.
      normalize: scale the features first so that an image's squared distance from the mean is 1 on average. Without it, as published,
        larger features score higher.

    Returns:
      0 or above, higher is better; unchanged by rotations and shifts, and with `normalize` by scales.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features. The distance of two classes of equal size cancels.
      ConfigError: `distortion` is not positive.

    Reference: Huang et al. 2022, Frustratingly easy transferability estimation, eq. 4.  Cost: O(n d min(n, d)).
    """
    if not 0 < distortion < math.inf:
        raise ConfigError(f"transrate: distortion={distortion!r} must be a positive number.")
    features, ids, counts = labelled(features, labels)
    values = features.svd.values
    scale = (values**2).sum() / len(ids) if normalize else 1.0
    whole = 0.5 * np.log1p(values**2 / (len(ids) * distortion * scale)).sum()
    rows = features.centred if features.width <= len(values) else features.svd.coordinates
    parts = [_rate(rows[ids == label], distortion * scale) for label in range(len(counts))]
    return float(max(whole - counts @ np.array(parts) / len(ids), 0.0))


def transrate_saturation(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> str:
    """A sentence if TransRate is insensitive to the distance of the classes; "" elsewhere."""
    _, _, counts = labelled(features, labels)
    if len(counts) != 2 or counts.max() > EQUAL * counts.min():
        return ""
    return (
        f"TransRate is insensitive to the distance of two classes of similar size ({counts[0]} and {counts[1]} images): their means are opposite "
        "each other around the mean of all, and the code of each class contains that distance as well."
    )


def _rate(rows: Float[np.ndarray, "m k"], distortion: float) -> float:
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return 0.5 * float(np.linalg.slogdet(np.eye(len(gram)) + gram / (len(rows) * distortion))[1])
