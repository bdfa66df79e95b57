"""The residual in the eigenbasis of the kernel: by a full eigendecomposition, or by Lanczos for a kernel function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.optimizers import Optimizer
from ntk_select.linearized.problem import Problem

TOLERANCE = 1e-8
MAX_PRODUCTS = 1000
CHECKED_EVERY = 5  # products of Lanczos between two checks of convergence
TABLE_ENTRIES = 2**22
"""Maximal number of entries of a (times, eigenvalues) table in memory."""


@dataclass(frozen=True, eq=False)
class Modes:
    """residual = vectors @ coordinates, with non-negative eigenvalues shared by the k columns of an (n, k) residual."""

    values: Float[np.ndarray, " m"]
    coordinates: Float[np.ndarray, "m k"]
    vectors: Float[np.ndarray, "size m"]

    @property
    def energy(self) -> Float[np.ndarray, " m"]:
        """Squared length of the residual along each eigenvector."""
        return np.square(self.coordinates).sum(axis=1)

    def squares(self, optimizer: Optimizer, slope: float, times: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """|r_t|^2."""
        present = self.energy > 0
        values, energy, rows = self.values[present], self.energy[present], max(1, TABLE_ENTRIES // max(1, len(self.values)))
        parts = [optimizer.factors(values, slope, times[first : first + rows])[0] for first in range(0, len(times), rows)]
        return np.concatenate([weighted_squares(part, energy) for part in parts])

    def distances(self, optimizer: Optimizer, slope: float, times: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """|w_t - w_0|, the square root of a' Theta a."""
        return np.sqrt(weighted_squares(optimizer.factors(self.values, slope, times)[1], self.values * self.energy))

    def apply(self, factors: Float[np.ndarray, " m"]) -> Float[np.ndarray, " all"]:
        """A function of the kernel, given by its values at the eigenvalues, times the residual."""
        present = self.coordinates != 0  # factors of directions without residual may be infinite
        moved = np.multiply(factors[:, None], self.coordinates, out=np.zeros_like(self.coordinates), where=present)
        return (self.vectors @ moved).reshape(-1)


def weighted_squares(factors: Float[np.ndarray, "t m"], weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, " t"]:
    """Sum of weights times squared factors. Factors of weight zero may be infinite."""
    present = weights > 0
    with np.errstate(over="ignore"):
        return np.square(factors[:, present]) @ weights[present]


def eigenvalues_of_kernel(values: Float[np.ndarray, " m"], epsilon: float) -> Float[np.ndarray, " m"]:
    """Ascending eigenvalues; those below 4 epsilon times the largest are rounding errors and set to zero.

    Raises:
      ConfigError: a negative eigenvalue beyond rounding.
    """
    if values[0] < -1e-3 * max(values[-1], 0.0) or values[-1] < 0:
        raise ConfigError(
            f"kernel has the eigenvalue {values[0]:.3g}, the largest being {values[-1]:.3g}: it is not positive semi-definite. "
            "Try: ntk_select.certify(kernel), and compute it in float64"
        )
    return np.where(values > 4 * epsilon * values[-1], values, 0.0)


def all_modes(problem: Problem, residual: np.ndarray) -> Modes:
    """All modes by one eigendecomposition, O(m^3) for a matrix (m, m). Raises ConfigError if it is not positive semi-definite."""
    values, vectors = np.linalg.eigh(problem.matrix)
    return Modes(eigenvalues_of_kernel(values, problem.epsilon), vectors.T @ problem.flat(residual), vectors)


def find_modes(
    problem: Problem,
    residual: np.ndarray,
    quantity: Callable[[Modes], np.ndarray] | None,
    *,
    tolerance: float = TOLERANCE,
    max_products: int = MAX_PRODUCTS,
) -> Modes:
    """All modes of a matrix; for a kernel function, Lanczos from the residual until `quantity(modes)` has converged.

    Raises:
      ConfigError: no convergence after `max_products` products, or an option is not allowed.
    """
    check_tolerance(tolerance)
    check_count("max_products", max_products, 1)
    if problem.matrix is not None:
        return all_modes(problem, residual)
    start = np.asarray(residual, np.float64).reshape(-1)
    if not start.any():
        return Modes(np.zeros(1), np.zeros((1, 1)), np.zeros((len(start), 1)))

    def of_ritz(values, coordinates):
        return quantity(Modes(np.maximum(values, 0.0), coordinates[:, None], np.empty((0, len(values)))))

    ritz = lanczos(problem.product, start, of_ritz, tolerance=tolerance, max_products=max_products)
    if not ritz.converged:
        raise ConfigError(
            f"After {max_products} products with the kernel the curve still changes by more than {tolerance:g}, relative. "
            "Try: a larger max_products= or tolerance=, or the kernel as an array"
        )
    return Modes(np.maximum(ritz.values, 0.0), ritz.coordinates[:, None], ritz.vectors)


def check_tolerance(tolerance) -> None:
    """Raises ConfigError unless it is a number between 0 and 1."""
    if not is_number(tolerance) or not 0 < tolerance < 1:
        raise ConfigError(f"tolerance={tolerance!r} must be a number between 0 and 1.")


class Ritz(NamedTuple):
    """Ritz values, coordinates of the start vector in the orthonormal Ritz vectors, and whether the quantity converged."""

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
    max_products: int,
) -> Ritz:
    """Ritz values of a symmetric operator v -> A v in the Krylov space of `start`, with full reorthogonalisation.

    After m products, f(A) start is exact for polynomials f of degree below m, start' f(A) start up to degree 2 m - 1 (Gauss
    quadrature). It stops at `max_products` products, or when `quantity(values, coordinates)` has changed by at most
    `tolerance`, relative, over `CHECKED_EVERY` products, twice in a row.  Cost: m products, O(size m^2) for orthogonality, memory of m vectors.
    """
    size, norm = len(start), float(np.linalg.norm(start))
    max_products = min(max_products, size)
    basis = np.empty((min(max_products, 64), size))
    basis[0] = start / norm
    diagonal, off_diagonal, previous, n_converged = [], [], None, 0
    while True:
        k = len(diagonal) + 1
        w = product(basis[k - 1])
        diagonal.append(float(w @ basis[k - 1]))
        for _ in range(2):  # reorthogonalising twice is enough (Kahan)
            w = w - basis[:k].T @ (basis[:k] @ w)
        beta = float(np.linalg.norm(w))
        closed = beta <= 1e-14 * max(map(abs, diagonal)) or k == size
        if closed or k == max_products or k % CHECKED_EVERY == 0:
            values, rotation = eigh_tridiagonal(diagonal, off_diagonal)
            current = np.asarray(quantity(values, norm * rotation[0]))
            with np.errstate(invalid="ignore"):  # infinity both times counts as converged
                steady = previous is not None and ((current == previous) | (np.abs(current - previous) <= tolerance * np.abs(current))).all()
            n_converged, previous = (n_converged + 1 if steady else 0), current
            if closed or k == max_products or n_converged == 2:
                return Ritz(values, norm * rotation[0], basis[:k].T @ rotation, bool(closed or n_converged == 2))
        off_diagonal.append(beta)
        if k == len(basis):
            basis = np.concatenate([basis, np.empty_like(basis)])[:max_products]
        basis[k] = w / beta
