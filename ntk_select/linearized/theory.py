"""Equations 3, 4 and 5 of the paper in corrected form, and the spectrum of the labels."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ntk_select._runtime.checks import is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import squared_loss
from ntk_select.linearized.optimizers import Optimizer, Scalar
from ntk_select.linearized.problem import Kernel, Values, checked_outputs, host_only, read_problem
from ntk_select.linearized.spectrum import TOLERANCE, all_modes, check_tolerance, find_modes

RELATIVE_RIDGE = 1e-4
"""Default ridge of the generalisation score, in units of the mean eigenvalue."""


@host_only
def initial_speed(kernel: Kernel, residual: Values, *, lr: Scalar = 1.0, loss: str = "half_sum") -> float:
    """Initial speed of training: -dL/dt at time 0 under gradient flow.

    Args:
      kernel, residual, lr, loss: as for `loss_curve`; lr 1 by default.

    Returns:
      lr dY' Theta dY for "half_sum" (the default, lr 1, is the paper's quantity), 4 lr dY' Theta dY for "sum", and that divided
      by n^2 c^2 for "mean". Never negative; equal to the squared norm of the loss's gradient, times lr.

    Raises:
      ConfigError: incompatible shapes, or an unknown loss.

    Reference: Deshpande et al. 2021, eq. 3, whose printed coefficient lacks a factor (E3 in docs/equations.md).
    Cost: one product with the kernel, O(n^2 c^2) at most.
    """
    residual = checked_outputs(residual, "residual")
    value, slope = squared_loss(loss, residual.size)
    flat = residual.reshape(-1)
    return float(2 * value * slope * Optimizer(lr=lr).lr * (flat @ read_problem(kernel, residual).product(flat)))


class Generalization(NamedTuple):
    """Generalisation score.

    Attributes:
      value: Y' (Theta + ridge)^-1 Y.
      bound: sqrt(2 value / n), on the test loss.
      ridge: the absolute ridge.
    """

    value: float
    bound: float
    ridge: float


@host_only
def generalization_score(kernel: Kernel, targets: Values, *, ridge: Scalar | None = None, tolerance: float = TOLERANCE) -> Generalization:
    """Generalisation score of the linearised network: Y' (Theta + ridge)^-1 Y; lower is better.

    Along unit eigenvectors v_k with eigenvalues s_k it is the sum of (v_k' Y)^2 / (s_k + ridge): small if the labels are aligned
    with eigenvectors of large eigenvalues.

    Args:
      kernel: as for `loss_curve`.
      targets: Y; or the residual dY, which equals Y only for f_0 = 0 (E5).
      ridge: absolute ridge, at least 0; None: 1e-4 of the mean eigenvalue. Zero needs an invertible kernel: a feature kernel has rank
        d < n at most (E4).
      tolerance: relative tolerance, where the kernel is a function.

    Raises:
      ConfigError: incompatible shapes, a negative ridge, ridge 0 with a singular kernel, or no ridge with a function.

    Reference: Deshpande et al. 2021, eq. 4; Arora et al. 2019, who bound the test loss, for a two-layer ReLU network on inputs of
    norm one, by sqrt(2 Y' Theta^-1 Y / n) and a term O(sqrt(log n / n)). For other networks it is a score, not a bound.
    Cost: one eigendecomposition, O(m^3); or some tens of products.
    """
    targets = checked_outputs(targets, "targets")
    problem = read_problem(kernel, targets)
    if ridge is None:
        if problem.matrix is None:
            raise ConfigError("The mean eigenvalue of a kernel function is unknown. Try: an absolute ridge=")
        ridge = RELATIVE_RIDGE * float(np.trace(problem.matrix)) / len(problem.matrix)
    if not is_number(ridge) or not 0 <= ridge < math.inf:
        raise ConfigError(f"ridge={ridge!r} must be a number of at least 0, or None.")

    check_tolerance(tolerance)
    if problem.matrix is None and not targets.any():
        return Generalization(0.0, 0.0, float(ridge))

    def inverse(modes):
        with np.errstate(divide="ignore", invalid="ignore"):
            return (modes.energy / (modes.values + ridge)).sum()

    modes = find_modes(problem, targets, inverse, tolerance=tolerance)
    smallest, largest = modes.values.min(), modes.values.max()
    if smallest + ridge <= 1e-13 * largest or largest == 0:
        raise ConfigError(
            f"kernel + ridge is singular at ridge={ridge:g} (eigenvalues of the kernel from {smallest:.3g} to {largest:.3g}). Try: ridge=None"
        )
    value = float(inverse(modes))
    return Generalization(value, float(np.sqrt(2 * value / problem.n)), float(ridge))


class SpeedBound(NamedTuple):
    """Both sides of eq. 5.

    Attributes:
      speed: dY' Theta dY.
      bound: its lower bound.
    """

    speed: float
    bound: float


@host_only
def speed_bound(kernel: Kernel, residual: Values, *, ridge: Scalar | None = None) -> SpeedBound:
    """Eq. 5: dY' Theta dY >= |dY|^4 / (dY' (Theta + ridge)^-1 dY) - ridge |dY|^2.

    A small generalisation score implies a high initial speed; the converse does not hold (E6). Equality if the residual is in a
    single eigenspace.

    Args:
      kernel: kernel as an array.
      residual, ridge: as for `generalization_score`.

    Raises:
      ConfigError: as `generalization_score`.

    Reference: Deshpande et al. 2021, eq. 5, by Jensen or Cauchy-Schwarz; the ridge is added here.
    """
    residual = checked_outputs(residual, "residual")
    score = generalization_score(kernel, residual, ridge=ridge)
    square = float(np.square(residual).sum())
    bound = 0.0 if square == 0 else square**2 / score.value - score.ridge * square
    return SpeedBound(initial_speed(kernel, residual), bound)


class LabelSpectrum(NamedTuple):
    """Labels in the eigenbasis of a kernel.

    Attributes:
      values: eigenvalues, largest first.
      shares: fraction of |Y|^2 along each eigenvector.
      cumulative: cumulative sum of the shares.
    """

    values: Float[np.ndarray, " m"]
    shares: Float[np.ndarray, " m"]
    cumulative: Float[np.ndarray, " m"]

    def __repr__(self):
        first = min(10, len(self.values))
        return (
            f"LabelSpectrum({len(self.values)} eigenvalues from {self.values[0]:.3g} to {self.values[-1]:.3g}; "
            f"the first {first} hold {100 * self.cumulative[first - 1]:.3g} % of the labels)"
        )


@host_only
def label_spectrum(kernel: Kernel, targets: Values) -> LabelSpectrum:
    """Fraction of the labels along each eigenvector of the kernel. Labels along large eigenvalues are learnt fast, and from few examples.

    Args:
      kernel: kernel as an array, (n, n) or (n, n, c, c).
      targets: labels or residual.

    Raises:
      ConfigError: incompatible shapes, targets that are all zero, or a kernel function.

    Cost: one eigendecomposition.
    """
    targets = checked_outputs(targets, "targets")
    problem = read_problem(kernel, targets)
    if problem.matrix is None:
        raise ConfigError("label_spectrum needs all eigenvectors. Try: the kernel as an array")
    if not targets.any():
        raise ConfigError("targets are all zero: their spectrum is undefined.")
    modes = all_modes(problem, targets)
    shares = modes.energy[::-1] / modes.energy.sum()
    return LabelSpectrum(modes.values[::-1], shares, np.cumsum(shares))
