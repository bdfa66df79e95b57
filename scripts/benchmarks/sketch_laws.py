"""Exact variances of sketched kernels for given gradients, from their definitions.

Each function takes the gradients (n, p) of one leaf and returns the variance (n, n) of <Z_i, Z_j>, or its mean over entries.
No kind adds the product of an entry with itself; the kinds differ in which other pairs they leave out.
"""

import numpy as np


def pairs(g: np.ndarray) -> np.ndarray:
    """|x|^2 |y|^2 + <x, y>^2 for all rows x, y: the sum over all pairs of entries."""
    kernel = g @ g.T
    squares = np.diagonal(kernel)
    return squares[:, None] * squares[None, :] + kernel**2


def itself(g: np.ndarray) -> np.ndarray:
    """2 sum of x_p^2 y_p^2: the pairs of an entry with itself."""
    return 2 * (g**2) @ (g**2).T


def cut(g: np.ndarray, length: int) -> list[np.ndarray]:
    """Runs of `length` entries."""
    return [g[:, first : first + length] for first in range(0, g.shape[1], length)]


def gaussian(g: np.ndarray, dim: int) -> np.ndarray:
    """All pairs."""
    return pairs(g) / dim


def rademacher(g: np.ndarray, dim: int) -> np.ndarray:
    """Pairs of different entries."""
    return (pairs(g) - itself(g)) / dim


def countsketch(g: np.ndarray, dim: int) -> np.ndarray:
    """Pairs of different rows, a row as long as the sketch."""
    return (pairs(g) - sum(map(pairs, cut(g, dim)))) / dim


def srht(g: np.ndarray, dim: int, longest: int = 20) -> np.ndarray:
    """Pairs of different pieces; within a piece a sample without replacement of what a rotation gives."""
    length = 2 ** max(min((g.shape[1] - 1).bit_length(), longest), (dim - 1).bit_length())
    pieces = cut(g, length)
    within = sum(pairs(piece) - itself(piece) for piece in pieces) / dim * (1 - (dim - 1) / (length - 1))
    return (pairs(g) - sum(map(pairs, pieces))) / dim + within


def kronecker(g: np.ndarray, dim: int, blocks: int, shape: tuple[int, int]) -> np.ndarray:
    """One block of k_a x k_g Gaussian factors for gradients of shape (k, o), averaged over the blocks."""
    width = dim // blocks
    ka = next(size for size in range(int(width**0.5), 0, -1) if width % size == 0)
    kg = width // ka
    matrices, variance = g.reshape(len(g), *shape), np.empty((len(g), len(g)))
    for i, w in enumerate(matrices):
        for j, v in enumerate(matrices):
            product = v.T @ w
            square, twice, inner = (product**2).sum(), np.trace(product @ product), np.trace(product)
            norms = (w**2).sum() * (v**2).sum()
            mixed = np.trace(w.T @ w @ v.T @ v)
            from_a = (1 + 1 / kg) * mixed + norms / kg + twice + (square + inner**2) / kg
            variance[i, j] = (square + twice) / kg + from_a / ka
    return variance / blocks
