"""What does a kernel do to one vector, when only products with it can be had? Lanczos, with full reorthogonalisation.

After m products, f(Theta) r is found for all f at once: exactly for polynomials of degree below m, and r' f(Theta) r up to
degree 2 m - 1 (Gauss quadrature). The loop runs on the host: a product costs far more than its own overhead.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal


class Ritz(NamedTuple):
    """Approximate eigenvalues (m,), coordinates (m,) of the start vector, orthonormal vectors (size, m), and whether `enough` was met."""

    values: Float[np.ndarray, " m"]
    coordinates: Float[np.ndarray, " m"]
    vectors: Float[np.ndarray, "size m"]
    converged: bool


def lanczos(
    product: Callable[[np.ndarray], np.ndarray],
    start: Float[np.ndarray, " size"],
    quantity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    tolerance: float,
    most: int,
    every: int = 5,
) -> Ritz:
    """Ritz values of a symmetric operator in the Krylov space of `start`.

    Args:
      product: v -> A v.
      start: not zero.
      quantity: (values, coordinates) -> the numbers that are wanted.
      tolerance: stops when none of them has changed by more than this share of itself in the last `every` products, twice.
      most: products at most.
      every: products between two looks.

    Cost: m products, O(size m^2) for orthogonality, memory of m vectors.
    """
    size, norm = len(start), float(np.linalg.norm(start))
    most = min(most, size)
    basis = np.empty((min(most, 64), size))
    diagonal, beside = [], []
    basis[0] = start / norm
    before, quiet = None, 0
    while True:
        k = len(diagonal)
        w = product(basis[k])
        diagonal.append(float(w @ basis[k]))
        for _ in range(2):  # once more: what rounding left
            w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        beta, k = float(np.linalg.norm(w)), k + 1
        closed = beta <= 1e-14 * max(map(abs, diagonal)) or k == size
        if closed or k == most or k % every == 0:
            values, rotation = eigh_tridiagonal(diagonal, beside)
            now = np.asarray(quantity(values, norm * rotation[0]))
            with np.errstate(invalid="ignore"):  # infinite twice is steady
                steady = before is not None and ((now == before) | (np.abs(now - before) <= tolerance * np.abs(now))).all()
            quiet, before = (quiet + 1 if steady else 0), now
            if closed or k == most or quiet == 2:
                return Ritz(values, norm * rotation[0], basis[:k].T @ rotation, bool(closed or quiet == 2))
        beside.append(beta)
        if k == len(basis):
            basis = np.concatenate([basis, np.empty_like(basis)])[:most]
        basis[k] = w / beta
