"""Representational dissimilarity matrices: distances between the images in the features of a network."""

import numpy as np
from jaxtyping import Float

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.features import Features, as_features


def correlation_distances(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """1 - Pearson correlation of two images over their features, 0 to 2. Raises UndefinedScoreError for an image with constant features."""
    return cosine_distances(rows - rows.mean(axis=1, keepdims=True), scale=np.abs(rows).max(axis=1))


def cosine_distances(rows: Float[np.ndarray, "n d"], scale: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, "n n"]:
    """1 - cosine of the angle between two images, 0 to 2. `scale`: magnitude of each image's features; norms below 1e-12 of it count as zero."""
    norms = np.linalg.norm(rows, axis=1)
    flat = norms <= 1e-12 * (norms.max() if scale is None else scale)
    if flat.any():
        raise UndefinedScoreError(f"Image {int(np.argmax(flat))} has the same value in all its features, so it correlates with no other.")
    unit = rows / norms[:, None]
    # Equal distances must tie when they are ranked.
    return np.round(np.clip(1 - unit @ unit.T, 0, 2), 12)


def squared_distances(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Squared Euclidean distances, exactly 0 on the diagonal; elsewhere as accurate as a difference of squares."""
    gram = rows @ rows.T
    squares = np.diagonal(gram)
    distances = np.maximum(squares[:, None] + squares - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    return distances


def standardised(features: Features) -> Float[np.ndarray, "n d"]:
    """Every feature scaled to mean 0 and variance 1 over the images; constant features are dropped."""
    scale = features.centred.std(axis=0)
    varies = scale > 1e-12 * np.abs(features.array).max(axis=0)
    if not varies.any():
        raise UndefinedScoreError("The features are constant over all images (or zero).")
    return features.centred[:, varies] / scale[varies]


def pairs(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " m"]:
    """The n (n - 1) / 2 entries above the diagonal."""
    return matrix[np.triu_indices(len(matrix), 1)]


def unbiased_centring(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The U-centred matrix: diagonal 0, rows and columns that sum to 0, so inner products have no bias. n at least 4."""
    n = len(matrix)
    matrix = matrix - np.diag(np.diag(matrix))
    rows = matrix.sum(axis=1) / (n - 2)
    centred = matrix - rows[:, None] - rows + rows.sum() / (n - 1)
    np.fill_diagonal(centred, 0)
    return centred


def of_same_images(features, reference_features, least: int) -> tuple[Features, Features]:
    """The features that two networks give the same images. Raises TaskError, and UndefinedScoreError for fewer than `least` images."""
    features, reference = as_features(features), as_features(reference_features)
    if len(features) != len(reference):
        raise TaskError(f"There are {len(features)} rows of features for {len(reference)} rows of reference_features; give the same images.")
    if len(features) < least:
        raise UndefinedScoreError(f"{len(features)} images are too few to compare two networks; {least} are needed.")
    return features, reference
