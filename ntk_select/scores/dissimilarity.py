"""How unlike each other are the images, to a network? One number a pair: the representational dissimilarity matrix."""

import numpy as np
from jaxtyping import Float, Num

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.features import Features, as_features


def correlation_distances(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """1 - Pearson correlation of two images over their features, 0 to 2. Raises UndefinedScoreError for an image with constant features."""
    return cosine_distances(rows - rows.mean(axis=1, keepdims=True), scale=np.abs(rows).max(axis=1))


def cosine_distances(rows: Float[np.ndarray, "n d"], scale: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, "n n"]:
    """1 - cosine of the angle between two images, 0 to 2. `scale`: of each image's features, to tell zero from rounding."""
    norms = np.linalg.norm(rows, axis=1)
    flat = norms <= 1e-12 * (norms.max() if scale is None else scale)
    if flat.any():
        raise UndefinedScoreError(f"Image {int(np.argmax(flat))} has the same value in all its features, so that it correlates with no other.")
    unit = rows / norms[:, None]
    # Rounding would tell equal distances apart, which matters where they are ranked.
    return np.round(np.clip(1 - unit @ unit.T, 0, 2), 12)


def squared_distances(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Squared Euclidean distances; exactly 0 on the diagonal, elsewhere with the rounding of differences of squares."""
    gram = rows @ rows.T
    squares = np.diagonal(gram)
    distances = np.maximum(squares[:, None] + squares - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    return distances


def standardised(features: Features) -> Float[np.ndarray, "n d"]:
    """Every feature with mean 0 and variance 1 over the images; those that never change are left out."""
    scale = features.centred.std(axis=0)
    kept = scale > 1e-12 * np.abs(features.array).max(axis=0)
    if not kept.any():
        raise UndefinedScoreError("The features are constant over all images (or zero).")
    return features.centred[:, kept] / scale[kept]


def pairs(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " m"]:
    """The n (n - 1) / 2 entries above the diagonal."""
    return matrix[np.triu_indices(len(matrix), 1)]


def ranked(values: Num[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Ranks from 1, those that tie with the mean of theirs."""
    from scipy.stats import rankdata

    return rankdata(values)


def spearman(a: Num[np.ndarray, " m"], b: Num[np.ndarray, " m"]) -> float:
    """Rank correlation with ties. Raises UndefinedScoreError where one side is constant."""
    ranks = [ranked(side) - (len(side) + 1) / 2 for side in (a, b)]
    norms = [np.sqrt(side @ side) for side in ranks]
    if min(norms) == 0:
        raise UndefinedScoreError("All pairs of images are equally far apart, so that there is nothing to rank.")
    return float(np.clip(ranks[0] @ ranks[1] / (norms[0] * norms[1]), -1, 1))


def of_same_images(features, reference_features, least: int) -> tuple[Features, Features]:
    """Two networks' features of the same images. Raises TaskError, and UndefinedScoreError for fewer than `least` images."""
    features, reference = as_features(features), as_features(reference_features)
    if len(features) != len(reference):
        raise TaskError(f"There are {len(features)} rows of features for {len(reference)} rows of reference_features; give the same images.")
    if len(features) < least:
        raise UndefinedScoreError(f"{len(features)} images are too few to compare two networks; {least} are needed.")
    return features, reference
