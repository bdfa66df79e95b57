"""Certificate of a kernel: symmetric and positive semi-definite up to rounding, by its eigenvalues."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Shaped

from ntk_select.errors import ConfigError


@dataclass(frozen=True)
class Certificate:
    """Eigenvalues of a kernel, computed in float64, and the tolerance for rounding.

    Attributes:
      n: number of rows; of a full kernel, examples times outputs.
      smallest, largest: eigenvalues of the symmetrised kernel.
      asymmetry: largest |K - K'| over largest |K|.
      rank: eigenvalues above `tolerance` times the largest.
      tolerance: share of the largest eigenvalue that rounding may have added: n times the type's epsilon.
      jitter: what to add to the diagonal so that a Cholesky factorisation succeeds: ten times the most negative
        eigenvalue, or the tolerance, whichever is more.
    """

    n: int
    smallest: float
    largest: float
    asymmetry: float
    rank: int
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether no eigenvalue is more negative than rounding explains."""
        return self.smallest >= -self.tolerance * abs(self.largest)

    @property
    def jitter(self) -> float:
        """A diagonal that makes a Cholesky factorisation safe."""
        return max(10 * max(0.0, -self.smallest), self.tolerance * abs(self.largest))

    def __str__(self):
        verdict = "positive semi-definite up to rounding" if self.holds else "NOT positive semi-definite"
        return (
            f"{verdict}: eigenvalues {self.smallest:.3g} to {self.largest:.3g} (ratio {self.smallest / self.largest if self.largest else 0:.1e}, "
            f"rounding {self.tolerance:.1e}), rank {self.rank} of {self.n}, asymmetry {self.asymmetry:.1e}, safe jitter {self.jitter:.2g}"
        )


def certify(kernel: Shaped[np.ndarray | Array, "n n ..."]) -> Certificate:
    """Eigenvalues of a symmetric kernel (n, n) or a full one (n, n, c, c), in float64.

    Args:
      kernel: A kernel, as `ntk` returns it.

    Returns:
      A `Certificate`; print it. Products rounded to TF32, nearly equal examples or a sum in the wrong order show up as
      eigenvalues more negative than the tolerance.

    Raises:
      ConfigError: not a square kernel, or NaN and infinity in it.

    Cost: O(n^3).
    """
    kernel = np.asarray(kernel)
    if np.iscomplexobj(kernel):
        raise ConfigError(f"Expected a real kernel, got {kernel.dtype}.")
    if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1] or kernel.shape[2:3] != kernel.shape[3:4] or kernel.size == 0:
        raise ConfigError(f"A kernel of shape {kernel.shape} has no eigenvalues here; give (n, n), or (n, n, c, c).")
    epsilon = np.finfo(kernel.dtype).eps if np.issubdtype(kernel.dtype, np.floating) else np.finfo(np.float64).eps
    if kernel.ndim == 4:
        kernel = kernel.transpose(0, 2, 1, 3).reshape(kernel.shape[0] * kernel.shape[2], -1)
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise ConfigError("The kernel contains NaN or infinity, so it has no eigenvalues.")
    values = np.linalg.eigvalsh((kernel + kernel.T) / 2)
    scale, tolerance = float(np.abs(values).max()), float(len(kernel) * epsilon)
    asymmetry = float(np.abs(kernel - kernel.T).max() / (np.abs(kernel).max() or 1.0))
    return Certificate(len(kernel), float(values[0]), float(values[-1]), asymmetry, int((values > tolerance * scale).sum()), tolerance)
