"""RSA and DDS: similarity of the expert's dissimilarity matrix to that of a small network trained on the task."""

import numpy as np
from jaxtyping import Num

from ntk_select.errors import ConfigError, UndefinedScoreError, did_you_mean
from ntk_select.evaluate.correlations import rank_correlation
from ntk_select.scores.dissimilarity import (
    correlation_distances,
    cosine_distances,
    of_same_images,
    pairs,
    squared_distances,
    standardised,
    unbiased_centring,
)
from ntk_select.scores.features import Features

DISTANCES = {"cosine": cosine_distances, "correlation": correlation_distances, "euclidean": squared_distances}


def rsa(features: Num[np.ndarray, "n d"] | Features, reference_features: Num[np.ndarray, "n d2"] | Features, *, standardize: bool = False) -> float:
    """Spearman correlation of the two networks' dissimilarities, 1 - Pearson, over all pairs of images.

    Args:
      features: pre-logits of the expert.
      reference_features: pre-logits, of the same images, of a small network trained on the task.
      standardize: scale every feature to mean 0 and variance 1 first, which later work found better.

    Returns:
      -1 to 1, higher is better; unchanged by positive scales of either side. Labels enter only through the reference network.

    Raises:
      UndefinedScoreError: fewer than 3 images, an image whose features are all equal, or images that are all equally far apart.
      TaskError: different numbers of images, or features that are not finite.

    Reference: Dwivedi & Roig 2019, Representation similarity analysis for efficient task taxonomy and transfer learning.
    Cost: O(n^2 d + n^2 log n).
    """
    features, reference = of_same_images(features, reference_features, 3)
    sides = [correlation_distances(standardised(side) if standardize else side.array) for side in (features, reference)]
    value = rank_correlation(*map(pairs, sides))
    if np.isnan(value):
        raise UndefinedScoreError("All pairs of images are equally far apart, so there is nothing to rank.")
    return value


def dds(features: Num[np.ndarray, "n d"] | Features, reference_features: Num[np.ndarray, "n d2"] | Features, *, distance: str = "cosine") -> float:
    """Duality diagram similarity: cosine of the two networks' dissimilarity matrices after unbiased double centring.

    Args:
      features, reference_features: as for `rsa`; every feature is scaled to mean 0 and variance 1 first.
      distance: between images: "cosine" (best in the paper), "correlation", or "euclidean" (squared).

    Returns:
      -1 to 1, higher is better, around 0 for networks that have nothing in common; unchanged by
      positive scales and by shifts of single features.

    Raises:
      UndefinedScoreError: fewer than 4 images, an image without direction, or images that are all equally far apart.
      TaskError: different numbers of images, or features that are not finite.
      ConfigError: `distance` is unknown.

    Reference: Dwivedi et al. 2020, Duality diagram similarity, with the centring of Szekely & Rizzo 2014.  Cost: O(n^2 d).
    """
    if distance not in DISTANCES:
        raise ConfigError(f"dds: distance={distance!r} is unknown.{did_you_mean(str(distance), DISTANCES)}")
    sides = []
    for side in of_same_images(features, reference_features, 4):
        distances = DISTANCES[distance](standardised(side))
        sides.append(unbiased_centring(distances))
        if np.linalg.norm(sides[-1]) <= 1e-10 * np.linalg.norm(distances):
            raise UndefinedScoreError("All pairs of images are equally far apart, so there is nothing to compare.")
    norms = [np.linalg.norm(side) for side in sides]
    return float(np.clip((sides[0] * sides[1]).sum() / (norms[0] * norms[1]), -1, 1))
