"""Kernel estimate Z Z' of a sketch, and its error."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.kernels.engine.store import StoredArray
from ntk_select.kernels.sketches.projection import ALL_KINDS, FORWARD, KINDS


@dataclass(frozen=True, eq=False)
class SketchedKernel:
    """Kernel estimate K^ = Z Z' of a sketch, with its error.

    Blocks of a sketch are independent, so products between them are unbiased, while |K^|_F^2 exceeds |K|_F^2 by about
    |K|_F^2 r / dim, with r = (tr K)^2 / |K|_F^2.

    For "countsketch", "rademacher", "gaussian" and "srht" the variance of an entry is at most
    (K_ii K_jj + K_ij^2) / dim: exactly that for "gaussian"; the others lack the pairs of an entry with itself, of a row
    ("countsketch"), of a short leaf ("srht"). "kronecker" and the trace of several outputs by "jvp" have no such bound; their
    error is estimated from the disagreement of blocks.

    Args:
      sketch: Z (n, dim), one row per example, as returned by `ns.sketch`; (n, c, dim) means n c rows.
      kind: Kind of the sketch.
      blocks: number of independent blocks of columns; columns of dense matrices are all independent.
      directions: Of "jvp" only: whether every column is an independent direction (not one of several outputs of a direction).

    Raises:
      ConfigError: invalid shapes, or an unknown kind.
    """

    sketch: Float[np.ndarray, "*rows k"] | StoredArray
    kind: str = "countsketch"
    blocks: int | np.integer = 1
    directions: bool = False

    def __post_init__(self):
        z = np.asarray(self.sketch)
        if z.ndim not in (2, 3) or 0 in z.shape or z.dtype.kind != "f":
            raise ConfigError(f"A sketch is a floating-point array (n, dim) or (n, c, dim); given: {z.dtype} {z.shape}.")
        if self.kind not in ALL_KINDS:
            raise ConfigError(f"kind={self.kind!r} is unknown.{did_you_mean(str(self.kind), ALL_KINDS)}")
        if not is_whole(self.blocks) or self.blocks < 1 or z.shape[-1] % self.blocks:
            raise ConfigError(f"blocks={self.blocks!r} must be a whole number that divides the {z.shape[-1]} columns of the sketch.")
        object.__setattr__(self, "sketch", z.reshape(-1, z.shape[-1]))

    def __repr__(self):
        return f"SketchedKernel({self.kind!r}, {len(self)} rows, dim={self.dim}, blocks={self.blocks})"

    def __len__(self):
        return len(self.sketch)

    @property
    def dim(self) -> int:
        """Columns."""
        return self.sketch.shape[1]

    @property
    def has_law(self) -> bool:
        """Whether a formula bounds the variance of entries."""
        return self.directions if self.kind == FORWARD else KINDS[self.kind].law

    @cached_property
    def kernel(self) -> Float[np.ndarray, "n n"]:
        """Z Z' in float64: unbiased, symmetric, positive semi-definite, of rank at most dim."""
        z = self.sketch.astype(np.float64)
        return z @ z.T

    def block_kernel(self, block: int) -> Float[np.ndarray, "n n"]:
        """The estimate of one block alone."""
        width = self.dim // self.blocks
        z = self.sketch[:, block * width : (block + 1) * width].astype(np.float64)
        return z @ z.T * self.blocks

    @cached_property
    def _own_squares(self) -> float:
        """Sum of the squared Frobenius norms of the blocks' estimates."""
        return sum(float((self.block_kernel(block) ** 2).sum()) for block in range(self.blocks))

    def standard_error(self) -> Float[np.ndarray, "n n"] | None:
        """Standard error of each entry by the formula, evaluated at the estimate; None without a formula."""
        if not self.has_law:
            return None
        scale = np.diagonal(self.kernel)
        return np.sqrt((scale[:, None] * scale[None, :] + self.kernel**2) / self.dim)

    def squared_norm(self) -> float | None:
        """Unbiased estimate of |K|_F^2: from products between blocks or, with one block, from the formula; None without either."""
        squares = float((self.kernel**2).sum())
        if self.blocks > 1:
            return between_blocks(squares, self._own_squares, self.blocks)
        if not self.has_law:
            return None
        return (squares - np.trace(self.kernel) ** 2 / self.dim) / (1 + 1 / self.dim)

    def predicted_error(self) -> float | None:
        """Expected |K^ - K|_F / |K|_F by the formula; None without a formula."""
        norm = self.squared_norm() if self.has_law else None
        if norm is None or norm <= 0:
            return None
        return float(np.sqrt((np.trace(self.kernel) ** 2 + norm) / self.dim / norm))

    def measured_error(self) -> float | None:
        """|K^ - K|_F / |K|_F from the disagreement of blocks, without a formula; None with one block."""
        norm = self.squared_norm()
        if self.blocks < 2 or norm is None or norm <= 0:
            return None
        spread = max(0.0, self._own_squares - self.blocks * float((self.kernel**2).sum()))  # sum of |K_i - K|^2, K their mean
        return float(np.sqrt(spread / (self.blocks * (self.blocks - 1)) / norm))


def between_blocks(whole: float, own: float, blocks: int) -> float:
    """The mean product between different blocks, from the product of their mean with itself and the sum of their own.

    With estimates K_1 .. K_b and their mean K: `whole` = <K, K>, `own` = sum of <K_i, K_i>.
    """
    return (blocks**2 * whole - own) / (blocks * (blocks - 1))
