"""The residual, seen along eigenvectors of the kernel: all of them, or those that Lanczos finds from the residual itself."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.linearized.lanczos import lanczos
from ntk_select.linearized.problem import DOUBLE, Problem
from ntk_select.linearized.rules import Rule

TOLERANCE = 1e-8
MOST_PRODUCTS = 1000
_BLOCK = 2**22  # numbers in one piece of a (times, eigenvalues) table


@dataclass(frozen=True, eq=False)
class Modes:
    """r = vectors @ coordinates.

    Attributes:
      values: eigenvalues, not negative.
      coordinates: (m, k) of the residual; k columns share the eigenvalues.
      vectors: (size, m).
      products: of kernel and vector that were needed; 0 for an eigendecomposition.
    """

    values: Float[np.ndarray, " m"]
    coordinates: Float[np.ndarray, "m k"]
    vectors: Float[np.ndarray, "size m"]
    products: int = 0

    @property
    def energy(self) -> Float[np.ndarray, " m"]:
        """Squared length of the residual along each eigenvector."""
        return np.square(self.coordinates).sum(axis=1)

    def squares(self, rule: Rule, slope: float, times: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """|r_t|^2."""
        energy = self.energy
        there, size = energy > 0, max(1, _BLOCK // max(1, len(energy)))
        pieces = [rule.residual_factors(self.values[there], slope, times[i : i + size]) for i in range(0, len(times), size)]
        return np.concatenate([weighted_squares(piece, energy[there]) for piece in pieces])

    def distances(self, rule: Rule, slope: float, times: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """|w_t - w_0|, the square root of a' Theta a."""
        weights = self.values * self.energy
        there = weights > 0
        return np.sqrt(weighted_squares(rule.coefficient_factors(self.values[there], slope, times), weights[there]))

    def apply(self, factors: Float[np.ndarray, " m"]) -> Float[np.ndarray, " all"]:
        """A function of the kernel, given by its values on the eigenvalues, times the residual."""
        there = self.coordinates != 0  # what is not there may diverge unseen
        moved = np.multiply(factors[:, None], self.coordinates, out=np.zeros_like(self.coordinates), where=there)
        return (self.vectors @ moved).reshape(-1)


def weighted_squares(factors: Float[np.ndarray, "t m"], weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, " t"]:
    """Sum of weights times factors squared; a direction of weight zero may diverge unseen."""
    there = weights > 0
    with np.errstate(over="ignore"):
        return np.square(factors[:, there]) @ weights[there]


def spectrum_of(matrix: Float[np.ndarray, "m m"], epsilon: float = DOUBLE) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, cleaned, and eigenvectors. Raises ConfigError for a matrix that is no kernel."""
    values, vectors = np.linalg.eigh(matrix)
    return cleaned(values, epsilon), vectors


def cleaned(values: Float[np.ndarray, " m"], epsilon: float) -> Float[np.ndarray, " m"]:
    """Ascending eigenvalues, of which those below four roundings of the largest, noise of a kernel of lower rank, are zero.

    Raises:
      ConfigError: they are not those of a kernel.
    """
    if values[0] < -1e-3 * max(values[-1], 0.0) or values[-1] < 0:
        raise ConfigError(
            f"kernel has the eigenvalue {values[0]:.3g} beside the largest {values[-1]:.3g}: it is not positive semi-definite. "
            "Type: ntk_select.certify(kernel), and compute it in float64"
        )
    return np.where(values > 4 * epsilon * values[-1], values, 0.0)


def all_modes(problem: Problem, residual: np.ndarray) -> Modes:
    """By one eigendecomposition. Cost: O(m^3) for a matrix (m, m), whatever the number of times."""
    values, vectors = spectrum_of(problem.matrix, problem.epsilon)
    return Modes(values, vectors.T @ problem.flat(residual), vectors)


def krylov_modes(problem: Problem, residual: np.ndarray, quantity, *, tolerance: float = TOLERANCE, most: int = MOST_PRODUCTS) -> Modes:
    """By Lanczos from the residual, until `quantity(modes)` is steady.

    Raises:
      ConfigError: it is not steady after `most` products.
    """
    start = np.asarray(residual, np.float64).reshape(-1)
    if not start.any():
        return Modes(np.zeros(1), np.zeros((1, 1)), np.zeros((len(start), 1)))
    nothing = np.empty((0, 0))

    def look(values, coordinates):
        return quantity(Modes(np.maximum(values, 0.0), coordinates[:, None], nothing))

    found = lanczos(problem.product, start, look, tolerance=tolerance, most=most)
    if not found.converged:
        raise ConfigError(
            f"After {most} products with the kernel the curve still changes by more than {tolerance:g} of itself. "
            "Give a larger most_products= or tolerance=, or the kernel as an array."
        )
    values = np.maximum(found.values, 0.0)
    return Modes(values, found.coordinates[:, None], found.vectors, len(values))


def find_modes(problem: Problem, residual: np.ndarray, quantity, **limits) -> Modes:
    """All modes where there is a matrix, else those that `quantity` needs."""
    return all_modes(problem, residual) if problem.matrix is not None else krylov_modes(problem, residual, quantity, **limits)
