"""Log evidence of class labels under the Gaussian process of a linearised network."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import UndefinedScoreError
from ntk_select.kernels.alignment import CONSTANT, checked_classes, checked_kernel, checked_labels, double_centred
from ntk_select.linearized.problem import AnyArray, host_only

NOISES = np.logspace(-4, 2, 61)
"""Variances of the noise, in units of the mean eigenvalue, among which the evidence is first maximised. The upper end is close to noise alone."""

ROUNDING = 1e-12
"""Gain up to which labels count as noise alone."""


class LabelEvidence(NamedTuple):
    """Log evidence of labels, relative to noise alone.

    Attributes:
      gain: log evidence minus that of noise alone, per image and class, in nats; 0 or more, higher for labels that the kernel explains.
      noise: variance of the noise at the maximum, in units of the mean eigenvalue of the centred kernel; infinite for noise alone.
    """

    gain: float
    noise: float


@host_only
def label_evidence(kernel: Num[AnyArray, "n n"], labels: Int[AnyArray, " n"]) -> LabelEvidence:
    """Log evidence of one-hot labels under y ~ N(m, s (kernel + noise)), independently for each class, relative to that of noise alone.

    The mean m of each class has a flat prior (restricted likelihood), and s and the noise, common to all classes, have the values that
    maximise the evidence: s in closed form, the noise by a grid and Brent's method. By the chain rule the evidence is the sum of log predictive
    densities of each image given those before it, whatever the order: it judges the kernel with few and with many training images at once.
    It does not depend on learning rates or on the number of steps.

    Args:
      kernel: kernel of all examples, one for all outputs; positive semi-definite up to rounding.
      labels: class ids, any integers, of at least two classes.

    Returns:
      A `LabelEvidence`. Unchanged by the scale of the kernel, by a constant added to it, and by the order of images and classes.

    Raises:
      TaskError: wrong shapes or types, or a kernel that is not finite.
      UndefinedScoreError: one class, one image in every class, a kernel that is constant over all pairs, or one that is not positive semi-definite.

    Reference: You et al. 2021, LogME, for a kernel in place of features; Rasmussen & Williams 2006, eq. 2.30 and 2.45.
    Cost: one eigendecomposition, O(n^3).
    """
    from scipy.optimize import minimize_scalar

    labels = checked_labels(labels)
    kernel = checked_kernel(kernel, len(labels))
    ids, counts = checked_classes(labels, len(kernel), "rows of the kernel")
    if is_constant(kernel):
        raise UndefinedScoreError("The kernel is constant over all pairs, so it does not distinguish the images.")
    centered = double_centred((kernel + kernel.T) / 2)
    if not np.trace(centered) > 0:
        raise UndefinedScoreError("The centred kernel has no positive trace, so it is no kernel. Try: a positive semi-definite kernel")
    targets = np.eye(len(counts))[ids]
    values, vectors = np.linalg.eigh(centered)
    energy = ((vectors.T @ (targets - targets.mean(axis=0))) ** 2).sum(axis=1)
    # One of the n directions is that of the mean, with eigenvalue 0 and no energy. Others of eigenvalue 0 may be mixed with it.
    energy[1] += energy[0]
    values, energy = np.maximum(values[1:], 0), energy[1:]
    values = values / values.mean()

    def gain(noise: float) -> float:
        variances = values + noise
        return -0.5 * float(np.log((energy / variances).mean() / energy.mean()) + np.log(variances).mean())

    gains = [gain(noise) for noise in NOISES]
    peak = int(np.argmax(gains))
    bounds = np.log(NOISES[[max(peak - 1, 0), min(peak + 1, len(NOISES) - 1)]])
    found = minimize_scalar(lambda log_noise: -gain(np.exp(log_noise)), bounds=bounds, method="bounded", options={"xatol": 1e-7})
    best, noise = max((gains[peak], float(NOISES[peak])), (-float(found.fun), float(np.exp(found.x))))
    share = (len(ids) - 1) / len(ids)
    return LabelEvidence(best * share, noise) if best > ROUNDING else LabelEvidence(0.0, float("inf"))


def is_constant(kernel: Num[AnyArray, "n n"]) -> bool:
    """Whether a kernel is the same for all pairs, up to rounding: images are then not distinguished."""
    kernel = np.asarray(kernel, np.float64)
    return bool(np.abs(np.trace(double_centred(kernel))) <= CONSTANT * np.abs(np.trace(kernel)))
