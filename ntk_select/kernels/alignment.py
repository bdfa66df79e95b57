"""Alignment of a kernel with the labels.

Eq. 8 of Deshpande et al. 2021 with the Frobenius norm is the Pearson correlation of the n x n entries of a
kernel with those of the label kernel. Everything here is computed in float64.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.errors import TaskError, UndefinedScoreError, not_finite

# A variance below this share of the second moment is rounding noise of a constant.
CONSTANT = 1e-13


def label_kernel(labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """+1 where two examples share a class, -1 elsewhere (eq. 6 of the paper)."""
    labels = checked_labels(labels)
    return np.where(labels[:, None] == labels[None, :], 1.0, -1.0)


def feature_kernel(features: Num[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Inner products of the examples' features, Theta_F = F F' in the paper."""
    features = checked_features(features)
    return features @ features.T


def kernel_label_correlation(
    kernel: Num[np.ndarray, "n n"],
    labels: Int[np.ndarray, " n"],
    *,
    diagonal: bool = True,
    center: bool = False,
    normalize: bool = False,
) -> float:
    """Pearson correlation between the entries of a kernel and those of the label kernel.

    Args:
      kernel: symmetric, at any positive scale.
      labels: class ids, any integers.
      diagonal: include the n self-pairs, as in the paper. They carry no label information and raise the score of any kernel.
      center: double-centre the kernel first (H K H), which removes the mean of a feature kernel.
      normalize: divide by the square roots of the diagonal (after centring), so that every example has norm 1.

    Returns:
      A number in [-1, 1]; unchanged by kernel -> a * kernel, a > 0, and by renaming classes.

    Raises:
      UndefinedScoreError: one class only, or a constant kernel; with `normalize`, an example of norm zero;
        without the diagonal, no two examples of one class.
      TaskError: invalid shapes, or a kernel that is not finite.

    Reference: Deshpande et al. 2021, eq. 8, Frobenius norm.  Cost: O(n^2).
    """
    labels = checked_labels(labels)
    kernel = checked_kernel(kernel, len(labels))
    if center:
        kernel = double_centred(kernel)
    if normalize:
        kernel = _unit_diagonal(kernel)
    same = labels[:, None] == labels[None, :]
    trace = np.diagonal(kernel)
    sums = PairSums(kernel[same].sum(), kernel.sum(), (kernel**2).sum())
    return correlation_from_sums(sums, trace, labels, diagonal=diagonal)


class PairSums(NamedTuple):
    """Sums over all n^2 entries of a kernel: over pairs of one class, over all pairs, and of the squares."""

    same_class: float
    all_pairs: float
    squares: float


def correlation_from_sums(sums: PairSums, trace: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, diagonal: bool = True) -> float:
    """`kernel_label_correlation` when only sums over the kernel and its diagonal are known."""
    n = len(labels)
    pairs, same_pairs = n * n, int((np.unique(labels, return_counts=True)[1].astype(np.int64) ** 2).sum())
    if not diagonal:
        sums = PairSums(sums.same_class - trace.sum(), sums.all_pairs - trace.sum(), sums.squares - (trace**2).sum())
        pairs, same_pairs = pairs - n, same_pairs - n
    if same_pairs == pairs:
        raise UndefinedScoreError("All examples are of one class; a correlation with the labels needs two.")
    if same_pairs == 0:
        raise UndefinedScoreError("No two examples share a class; nothing is left without the diagonal.")
    variance = sums.squares - sums.all_pairs**2 / pairs
    if not variance > CONSTANT * sums.squares:
        raise UndefinedScoreError("The kernel is constant over all pairs (constant or zero features?), so its correlation is undefined.")
    covariance = sums.same_class - sums.all_pairs * same_pairs / pairs
    correlation = covariance / np.sqrt(variance * same_pairs * (1 - same_pairs / pairs))
    return float(np.clip(correlation, -1.0, 1.0))


def double_centred(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """H K H: rows and columns that sum to zero."""
    rows = kernel.mean(axis=1, keepdims=True)
    return kernel - rows - rows.T + rows.mean()


def checked_kernel(kernel, n: int) -> np.ndarray:
    """A kernel of n labelled examples as a finite float64 array (n, n). Raises TaskError otherwise."""
    kernel = np.asarray(kernel, np.float64)
    if kernel.shape != (n, n):
        raise TaskError(f"The kernel has shape {kernel.shape} for {n} labels; it must be ({n}, {n}).")
    if not np.isfinite(kernel).all():
        raise TaskError(not_finite("The kernel holds"))
    return kernel


def checked_labels(labels) -> np.ndarray:
    """Labels as a one-dimensional integer array. Raises TaskError otherwise."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise TaskError(f"Labels have type {labels.dtype} and shape {labels.shape}; they must be a row of integers (n,), n at least 1.")
    return labels


def checked_classes(labels: Int[np.ndarray, " n"], n: int, what: str = "rows of features") -> tuple[np.ndarray, np.ndarray]:
    """Labels renumbered to 0 .. c - 1 and the images of each class. Absent ids leave no empty class. Raises UndefinedScoreError for one class, or one image in
    every class, and TaskError as `matching_labels`."""
    ids, counts = np.unique(matching_labels(labels, n, what), return_inverse=True, return_counts=True)[1:]
    if len(counts) == 1:
        raise UndefinedScoreError("All examples are of one class; a score needs two.")
    if counts.max() == 1:
        raise UndefinedScoreError("Every class has one image only, so images of one class cannot be compared.")
    return ids, counts


def matching_labels(labels: Int[np.ndarray, " n"], n: int, what: str = "rows of features") -> Int[np.ndarray, " n"]:
    """Labels as an array, one for each of the n. Raises TaskError otherwise."""
    labels = checked_labels(labels)
    if len(labels) != n:
        raise TaskError(f"There are {n} {what} for {len(labels)} labels.")
    return labels


def checked_features(features) -> np.ndarray:
    """Features as a finite float64 array (n, d). Raises TaskError otherwise."""
    try:
        features = np.asarray(features)
        if np.iscomplexobj(features):
            raise TypeError
        features = features.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TaskError("Features must be real numbers, one array (n, d) with one row per example.") from error
    if features.ndim != 2 or 0 in features.shape:
        raise TaskError(f"Features have shape {features.shape}; they must be (n, d), one row per example.")
    if not np.isfinite(features).all():
        raise TaskError(not_finite("The features hold"))
    return features


def _unit_diagonal(kernel: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.maximum(np.diagonal(kernel), 0))
    if not (scale > 0).all():
        raise UndefinedScoreError(f"Example {int(np.argmin(scale))} has norm zero, so it cannot be normalised.")
    return kernel / scale[:, None] / scale[None, :]
