"""Equation 4 of the paper: the predicted generalisation of the linearised network."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import UndefinedScoreError
from ntk_select.kernels.alignment import CONSTANT, checked_classes, checked_kernel
from ntk_select.scores.features import Features, labelled, one_hot
from ntk_select.scores.score import ScoreResult


def generalization(gradient_kernel: Num[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """Y' (Theta + r)^-1 Y / n with one-hot labels, Theta in units of its mean eigenvalue, and the ridge r = 1e-4 of it.

    Args:
      gradient_kernel: kernel of the last convolution, or any other kernel.
      labels: class ids, any integers.

    Returns:
      0 to 1e4, lower is better; invariant to the scale of the kernel (as printed, without units, it mostly measures the size of the
      gradients and did not predict test errors). Detail `bound`: sqrt(2 value), the bound of Arora et al. on the test loss of a
      two-layer network; for other networks it is not a bound.

    Raises:
      TaskError: inconsistent shapes, or a kernel that is not finite.
      ConfigError: a kernel that is not symmetric or not positive semi-definite.
      UndefinedScoreError: a kernel that is constant or of trace zero, one class only, one image in every class.

    Reference: Deshpande et al. 2021, eq. 4; Arora et al. 2019.  Cost: O(n^3).
    """
    from ntk_select.linearized.theory import generalization_score

    kernel = np.atleast_1d(np.asarray(gradient_kernel, np.float64))
    ids, counts = checked_classes(labels, len(kernel), "rows of the kernel")
    kernel = checked_kernel(kernel, len(ids))
    mean = np.trace(kernel) / len(ids)
    if not mean > 0:
        raise UndefinedScoreError("The kernel has trace zero: all gradients vanish.")
    if not kernel.var() > CONSTANT * (kernel**2).mean():
        raise UndefinedScoreError("The kernel is constant over all pairs, so it does not distinguish the images.")
    found = generalization_score(kernel / mean, one_hot(ids, len(counts)))
    value = found.value / len(ids)
    return ScoreResult(value, details={"bound": float(np.sqrt(2 * value))})


def generalization_features(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """`generalization` of the feature kernel, which is the kernel of the last layer alone. Undefined for constant features as well."""
    features, ids, _ = labelled(features, labels)
    return generalization(features.array @ features.array.T, ids)
