"""Selection of experts by their scores: order of trial, gain, regret, cost, and the static leaderboard.

Experts with equal scores are tried in random order, those without a score last. Every number is the exact mean over these orders,
by order statistics: nothing is sampled. All scores equal is therefore the same as a random choice.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import ConfigError
from ntk_select.evaluate.target import ROUNDING, checked_costs, first, fraction, fractions, not_negative, numbers, pair


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


def top_k_accuracy(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], k: int = 3) -> float:
    """Expected accuracy of the best of the k experts with the highest scores.

    The best is known only after all k are fine-tuned. The maximum of test accuracies is biased upwards by their noise: use accuracies
    of a validation set, or several fine-tuning seeds.

    Args:
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.
      k: 1 to the number of experts.

    Returns:
      0 to 1; not smaller for a larger k.

    Raises:
      ConfigError: other shapes, infinite scores, accuracies outside 0 to 1, a k that is not allowed.

    Cost: O(e log e).
    """
    scores, accuracies = pair(scores, accuracies)
    return expected_best(order_of(scores), accuracies, first(k, len(accuracies)))


def top_k_gain(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], reference: float, k: int = 3) -> float:
    """`top_k_accuracy` minus the accuracy of the reference expert: the gain over the default choice.

    Args:
      scores: as `top_k_accuracy`.
      accuracies: as `top_k_accuracy`.
      reference: accuracy of the expert that is used without a selection, 0 to 1. It is not added to the k.
      k: as `top_k_accuracy`.

    Returns:
      -1 to 1, in units of accuracy. Negative where the reference is better than all k.

    Raises:
      ConfigError: as `top_k_accuracy`, and a reference outside 0 to 1.

    Used by: the paper, section 4.3 (k = 3, over an ImageNet expert).
    """
    return top_k_accuracy(scores, accuracies, k) - fraction(reference, "reference")


def regret(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], k: int = 1) -> float:
    """Accuracy lost compared with trying all experts: the best of all minus `top_k_accuracy`.

    Returns:
      0 to 1, lower is better.

    Raises:
      ConfigError: as `top_k_accuracy`.

    Used by: Renggli et al., Which Model to Transfer; SHiFT.
    """
    scores, accuracies = pair(scores, accuracies)
    return max(0.0, float(accuracies.max()) - top_k_accuracy(scores, accuracies, k))


def trials_to_best(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], tolerance: float = 0.0) -> float:
    """Expected number of experts that are tried, in the order of the scores, until one is as good as the best of all.

    Among n experts with equal scores of which b are good, the first good one is the (n + 1) / (b + 1)-th on average.

    Args:
      scores: as `top_k_accuracy`.
      accuracies: as `top_k_accuracy`.
      tolerance: an expert is good when its accuracy is within this of the best. The best can be several. Differences below 1e-12 are none.

    Returns:
      1 to the number of experts e; (e + 1) / 2 for a random order and one best expert. Lower is better.

    Raises:
      ConfigError: as `top_k_accuracy`, and a negative tolerance.

    Used by: the paper, section 4.3 (fewer than 7 of 30).
    """
    scores, accuracies = pair(scores, accuracies)
    good, before = _good(accuracies, tolerance), 0
    for group in order_of(scores):
        if found := np.count_nonzero(good[group]):
            break
        before += len(group)
    return before + (len(group) + 1) / (found + 1)


def hit_rate(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], k: int = 3, tolerance: float = 0.0) -> float:
    """Probability that an expert as good as the best of all is among the k with the highest scores.

    Args:
      scores: as `top_k_accuracy`.
      accuracies: as `top_k_accuracy`.
      k: as `top_k_accuracy`.
      tolerance: as `trials_to_best`.

    Returns:
      0 to 1; only ties make it a fraction. k / e for a random order and one best expert.

    Raises:
      ConfigError: as `top_k_accuracy`, and a negative tolerance.
    """
    scores, accuracies = pair(scores, accuracies)
    good = _good(accuracies, tolerance).astype(float)
    return expected_best(order_of(scores), good, first(k, len(accuracies)))


def _good(accuracies: np.ndarray, tolerance: float) -> np.ndarray:
    return accuracies >= accuracies.max() - not_negative(tolerance, "tolerance") - ROUNDING


def gain_against_cost(
    scores: Float[np.ndarray, " e"],
    accuracies: Float[np.ndarray, " e"],
    reference: float,
    costs: Float[np.ndarray, " e"],
    scoring_cost: float = 0.0,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The budget curve: point j is after the j experts with the highest scores, 0 to e.

    Point 0 has the cost of scoring only. The reference is always available and costs nothing
    (add its cost to `scoring_cost` if it must be fine-tuned). The order is that of the scores, whatever the costs.

    Both arrays are exact means over random orders within ties: of the cost of j trials (within a group of ties every trial costs their mean),
    and of the gain after j trials. A point is thus the mean cost and the mean gain of j trials. Within a group of ties with different
    costs this is not the mean gain at a fixed budget; without ties it is.

    Args:
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.
      reference: accuracy of the expert that is used without a selection, 0 to 1.
      costs: cost of fine-tuning each expert, any unit, 0 or more.
      scoring_cost: cost of the scores of all experts, in the same unit.

    Returns:
      Cumulated costs and expected gains, e + 1 of each, neither ever decreasing. The gain is 0 at first and at least 0.

    Raises:
      ConfigError: other shapes, infinite scores, accuracies outside 0 to 1, costs that are negative, infinite or NaN.

    Cost: O(e^2).
    """
    scores, accuracies = pair(scores, accuracies)
    reference = fraction(reference, "reference")
    costs = checked_costs(costs, len(accuracies))
    order = order_of(scores)
    spent = np.concatenate([[not_negative(scoring_cost, "scoring_cost")], *(np.full(len(group), costs[group].mean()) for group in order)])
    best = [expected_best(order, accuracies, k, floor=reference) for k in range(len(accuracies) + 1)]
    return np.cumsum(spent), np.maximum.accumulate(best) - reference


def leave_one_out(accuracies_by_target: Float[np.ndarray, "t e"]) -> Float[np.ndarray, "t e"]:
    """Scores of a static leaderboard, which never looks at the target. It is good on a benchmark in which the same experts win everywhere.

    The score of an expert for a target is the mean, over the other targets on which it was measured, of its accuracy minus the mean accuracy
    of the experts measured there: easy targets do not count more. If experts were measured on different targets, those with
    weak competitors are favoured.

    Args:
      accuracies_by_target: 0 to 1, NaN where an expert was not measured.

    Returns:
      -1 to 1, higher is better; NaN for an expert that was measured on no other target. Row i does not depend on row i of the input.

    Raises:
      ConfigError: another shape, or accuracies outside 0 to 1.

    Cost: O(t^2 e).
    """
    accuracies = numbers(accuracies_by_target, "accuracies_by_target")
    if accuracies.ndim != 2 or not accuracies.size:
        raise ConfigError(f"accuracies_by_target has the shape {accuracies.shape}. Allowed: (targets, experts), at least one of each.")
    measured = ~np.isnan(accuracies)
    fractions(accuracies[measured], "accuracies_by_target")
    means = np.where(measured, accuracies, 0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    above = np.where(measured, accuracies - means[:, None], 0)
    scores = np.full(accuracies.shape, np.nan)
    for target in range(len(accuracies)):
        others = np.arange(len(accuracies)) != target
        np.divide(above[others].sum(axis=0), count := measured[others].sum(axis=0), out=scores[target], where=count > 0)
    return scores
