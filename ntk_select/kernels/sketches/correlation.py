"""Kernel-label correlation from a sketch: the score, its confidence interval, and the dimension for a requested error."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.evaluate.intervals import Z95
from ntk_select.kernels.alignment import CONSTANT, checked_labels
from ntk_select.kernels.sketches.projection import FORWARD, KINDS, Sketch, rounded_up
from ntk_select.kernels.sketches.sketched_kernel import SketchedKernel, between_blocks

ENOUGH_BLOCKS = 4  # for a jackknife standard error
SCORE_ERROR = 0.005
PILOT_DIM = 2048
PILOT_BLOCKS = 16  # for kinds without a formula for the error
MAX_COLUMNS = 2**16
MARGIN = 1.1  # safety factor on the columns, since the pilot's error is an estimate


@dataclass(frozen=True)
class SketchedScore:
    """A score from a sketch. `float(score)` is its value.

    Attributes:
      value: the estimate, in [-1, 1].
      low, high: 95 % interval for the exact score of the same examples; None without an error estimate. It covers the error of
        the projection, not the sampling of examples.
      standard_error: Standard error by the formula (a tight upper bound); None for kinds without one.
      measured_error: jackknife standard error over blocks; rough with two blocks. None with one block, and with two for kinds
        without a formula.
      dim: columns of the sketch.
    """

    value: float
    low: float | None
    high: float | None
    standard_error: float | None
    measured_error: float | None
    dim: int

    def __float__(self):
        return self.value


def sketched_correlation(
    kernel: SketchedKernel, labels: Int[np.ndarray, " n"], *, diagonal: bool = True, center: bool = False, normalize: bool = False
) -> SketchedScore:
    """`kernel_label_correlation` of the exact kernel, estimated from a sketch, with its interval.

    The numerator is linear in the kernel and unbiased. The norm in the denominator is taken from products between blocks (or
    corrected by the formula), since the norm of an estimate is biased upwards. The standard error is the delta method's:
    sqrt(2 / dim tr(W K W K)) with W the derivative of the score with respect to the kernel. It is that of the Gaussian
    sketch and bounds the other kinds with a formula. Without a formula, the jackknife over blocks is used.

    Args:
      kernel: Kernel of n examples.
      labels: class ids, any integers.
      diagonal, center, normalize: Variant of the score, as in `kernel_label_correlation`.

    Raises:
      UndefinedScoreError: one class only, a kernel that is constant or indistinguishable from sketching noise; with `normalize`
        an example of norm zero; without the diagonal, no two examples of one class.
      TaskError: invalid shapes.

    Reference: Deshpande et al. 2021, eq. 8.  Cost: O(n^2 dim + n^3).
    """
    labels = checked_labels(labels)
    if len(kernel) != len(labels):
        raise TaskError(f"The sketch has {len(kernel)} rows for {len(labels)} labels.")
    z = kernel.sketch.astype(np.float64)
    if not np.isfinite(z).all():
        raise TaskError("The sketch contains NaN or infinity.")
    if center:
        z = z - z.mean(axis=0)
    if normalize:
        z = _normalised(z, kernel.blocks)
    parts = _Parts(SketchedKernel(z, kernel.kind, kernel.blocks, kernel.directions), labels, diagonal, normalize)
    value = parts.score()
    predicted = parts.standard_error() if kernel.has_law else None
    measured = parts.measured_error()
    error = predicted if predicted is not None else measured if kernel.blocks >= ENOUGH_BLOCKS else None
    low, high = (None, None) if error is None else (max(-1.0, value - Z95 * error), min(1.0, value + Z95 * error))
    return SketchedScore(value, low, high, predicted, measured, kernel.dim)


def _normalised(z: np.ndarray, blocks: int) -> np.ndarray:
    """Rows of norm 1 in each block separately, so that blocks stay independent and their kernels have a unit diagonal."""
    parts = z.reshape(len(z), blocks, -1)
    norms = np.linalg.norm(parts, axis=2, keepdims=True)
    if not (norms > 0).all():
        raise UndefinedScoreError(f"Example {int(np.argmin(norms.min(axis=(1, 2))))} has norm zero, so it cannot be normalised.")
    return (parts / norms).reshape(len(z), -1) * blocks**-0.5


class _Parts:
    """Sums over pairs of examples from which the score is computed."""

    def __init__(self, kernel: SketchedKernel, labels: np.ndarray, diagonal: bool, normalize: bool):
        self.kernel, self.normalize, n = kernel, normalize, len(labels)
        self.pairs = np.ones((n, n), bool) if diagonal else ~np.eye(n, dtype=bool)
        same = (labels[:, None] == labels[None, :]) & self.pairs
        self.count, same_count = int(self.pairs.sum()), int(same.sum())
        if same_count == self.count:
            raise UndefinedScoreError("All examples are of one class; a correlation with the labels needs two.")
        if same_count == 0:
            raise UndefinedScoreError("No two examples share a class; nothing is left without the diagonal.")
        share = same_count / self.count
        self.labels = (same - share * self.pairs) / np.sqrt(self.count * share * (1 - share))  # mean 0, norm 1
        blocks = [kernel.block_kernel(block) for block in range(kernel.blocks)] if kernel.blocks > 1 else []
        self.covariances = np.array([(block * self.labels).sum() for block in blocks])
        self.sums = np.array([block[self.pairs].sum() for block in blocks])
        self.squares = np.array([(block[self.pairs] ** 2).sum() for block in blocks])
        self.between = np.array([(block * kernel.kernel)[self.pairs].sum() for block in blocks])

    def score(self) -> float:
        """The correlation."""
        kernel = self.kernel.kernel[self.pairs]
        return self._ratio((self.kernel.kernel * self.labels).sum(), kernel.sum(), (kernel**2).sum(), self.squares, self.sums)

    def _ratio(self, covariance, total, squares, own_squares, own_sums) -> float:
        variance = self._variance(total, squares, own_squares, own_sums)
        if not variance > CONSTANT * squares:
            raise UndefinedScoreError(
                "The kernel is constant over all pairs, or its variance is indistinguishable from sketching noise. Try: more columns."
            )
        return float(np.clip(covariance / np.sqrt(variance), -1.0, 1.0))

    def _variance(self, total, squares, own_squares, own_sums) -> float:
        """Unbiased estimate of the sum of squared deviations of the exact kernel."""
        blocks = len(own_squares)
        if blocks > 1:
            return between_blocks(squares, own_squares.sum(), blocks) - between_blocks(total**2, (own_sums**2).sum(), blocks) / self.count
        if not self.kernel.has_law:
            return squares - total**2 / self.count
        return self._variance_by_law(self.kernel.kernel, self.kernel.dim)

    def _variance_by_law(self, kernel: np.ndarray, dim: int) -> float:
        """The same from one estimate of `dim` columns, minus the bias given by the formula."""
        chosen, scale = kernel[self.pairs], np.diagonal(kernel)
        squares, total = (chosen**2).sum(), chosen.sum()
        if self.normalize:  # cosines: an entry has variance (1 - K_ij^2)^2 / dim
            noise = ((1 - chosen**2) ** 2).sum() / dim
            return squares - noise - (total**2 - self._spread(self.pairs.astype(float), kernel, dim)) / self.count
        noise = (scale[:, None] * scale[None, :])[self.pairs].sum() / dim
        return (squares - noise) / (1 + 1 / dim) - total**2 / (1 + 2 / dim) / self.count

    def _spread(self, weights: np.ndarray, kernel: np.ndarray, dim: int) -> float:
        """Variance of the sum of weights times kernel: 2 / dim tr(W K W K)."""
        if self.normalize:  # entry (i, j) decreases with the norms of i and j
            weights = weights - np.diag((weights * kernel).sum(axis=1))
        product = weights @ kernel
        return max(0.0, float(2 / dim * (product * product.T).sum()))

    def standard_error(self) -> float:
        """sqrt(2 / dim tr(W K W K)), with W the derivative of the score with respect to the (centred and scaled) kernel."""
        kernel = self.kernel.kernel
        total, squares = kernel[self.pairs].sum(), (kernel[self.pairs] ** 2).sum()
        variance = self._variance(total, squares, self.squares, self.sums)
        score = (kernel * self.labels).sum() / np.sqrt(variance)
        weights = self.labels / np.sqrt(variance) - score / variance * (kernel - total / self.count) * self.pairs
        return self._spread(weights, kernel, self.kernel.dim) ** 0.5

    def measured_error(self) -> float | None:
        """Jackknife over the blocks; with two blocks and a formula, from the score of each."""
        b = self.kernel.blocks
        if b < 2:
            return None
        whole, variances = self.kernel.kernel[self.pairs], []
        for left_out in range(b):
            keep = np.arange(b) != left_out
            if b > 2:
                # Squared norm of the mean of the others: |(b K - K_i) / (b - 1)|^2.
                squares = (b**2 * (whole**2).sum() - 2 * b * self.between[left_out] + self.squares[left_out]) / (b - 1) ** 2
                variances.append(self._variance(self.sums[keep].mean(), squares, self.squares[keep], self.sums[keep]))
            elif self.kernel.has_law:
                variances.append(self._variance_by_law(self.kernel.block_kernel(1 - left_out), self.kernel.dim // 2))
            else:
                return None  # a single block gives no unbiased norm
        if not min(variances) > 0:
            return None
        values = (self.covariances.sum() - self.covariances) / (b - 1) / np.sqrt(variances)
        return float(np.sqrt((b - 1) / b * ((values - values.mean()) ** 2).sum()))


def with_error(
    draw: Callable[[Sketch], SketchedKernel], labels: Int[np.ndarray, " n"], sketch: Sketch, *, together: int = 1, **variant
) -> SketchedScore:
    """The score from a sketch with as many columns as the requested error needs.

    With dim="auto" a pilot of about 2,000 columns estimates the error of the score, whose square is inversely proportional to
    the columns; if it is too large, a second sketch has the required number of columns, at most 65,536. The interval states
    the error that was reached.

    Args:
      draw: draw(sketch) -> the sketched kernel, for a sketch with numeric dim and blocks.
      labels: class ids.
      sketch: The sketch, with dim="auto" or a number.
      together: columns per direction of "jvp"; a block of the pilot has at least as many.
      variant: Options of `sketched_correlation`.
    """
    if sketch.dim != "auto":
        return sketched_correlation(draw(sketch.with_blocks(2)), labels, **variant)
    wanted = SCORE_ERROR if sketch.error is None else sketch.error
    pilot = _pilot(sketch, together if sketch.kind == FORWARD else 1)
    kernel = draw(pilot)
    score = sketched_correlation(kernel, labels, **variant)
    error = score.standard_error if score.standard_error is not None else score.measured_error
    if error is None or error <= wanted:
        return score
    needed = MARGIN * pilot.dim * (error / wanted) ** 2
    if kernel.has_law:
        final = replace(pilot, dim=min(rounded_up(needed, pilot.blocks), MAX_COLUMNS // pilot.blocks * pilot.blocks))
    else:  # blocks keep their width, and their number grows
        blocks = min(math.ceil(needed / pilot.width), max(MAX_COLUMNS, pilot.dim) // pilot.width)
        final = replace(pilot, dim=blocks * pilot.width, blocks=blocks)
    if final.dim <= pilot.dim:
        return score
    return sketched_correlation(draw(final), labels, **variant)


def _pilot(sketch: Sketch, together: int) -> Sketch:
    has_law = sketch.kind != FORWARD and KINDS[sketch.kind].law
    blocks = sketch.blocks or (2 if has_law else PILOT_BLOCKS)
    dim = rounded_up(PILOT_DIM, blocks)
    if together > 1:
        dim = blocks * together * math.ceil(dim / blocks / together)
    return replace(sketch, dim=dim, blocks=blocks, error=None)
