"""In which order are the experts tried, and what is the best of the first few worth on average over ties?

Experts with equal scores are tried in random order, those without a score after all others, also in random order.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Order:
    """The experts from the highest score to the lowest.

    Attributes:
      experts: their indices; within a group of ties in no meaningful order.
      bounds: group g of ties is `experts[bounds[g]:bounds[g + 1]]`.
    """

    experts: Int[np.ndarray, " e"]
    bounds: Int[np.ndarray, " g"]

    def __iter__(self):
        """The groups of ties, the best first."""
        return (self.experts[start:stop] for start, stop in zip(self.bounds[:-1], self.bounds[1:], strict=True))


def order_of(scores: Float[np.ndarray, " e"]) -> Order:
    """Highest first, NaN last. Cost: O(e log e)."""
    keys = np.where(np.isnan(scores), -np.inf, scores)
    experts = np.argsort(-keys, kind="stable")
    keys = keys[experts]
    return Order(experts, np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [len(keys)]]))


def chance_of_best(n: int, m: int) -> Float[np.ndarray, " n"]:
    """The chance that the i-th smallest of n values is the largest of m that are drawn without replacement: C(i-1, m-1) / C(n, m)."""
    i = np.arange(n, 1, -1)
    return np.cumprod(np.concatenate([[m / n], (i - m) / (i - 1)]))[::-1]


def expected_best(order: Order, accuracies: Float[np.ndarray, " e"], k: int, floor: float = -np.inf) -> float:
    """The exact mean, over random orders within ties, of the best accuracy among the first k experts, or of `floor` where that is higher."""
    best, left = floor, k
    for group in order:
        if not left:
            break
        values = np.sort(accuracies[group])
        if left < len(group):
            # Differences to the least, and no more than the largest: rounding must not lift a mean of equal values above them.
            base = max(best, values[0])
            return float(min(base + chance_of_best(len(group), left) @ np.maximum(values - base, 0), max(base, values[-1])))
        best, left = max(best, values[-1]), left - len(group)
    return float(best)
