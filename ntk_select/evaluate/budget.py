"""What is gained over the reference expert for which cost, as one expert after the other is tried?"""

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.evaluate.checked import fraction, not_negative, one_an_expert, pair
from ntk_select.evaluate.order import expected_best, order_of


def gain_against_cost(
    scores: Float[np.ndarray, " e"],
    accuracies: Float[np.ndarray, " e"],
    reference: float,
    costs: Float[np.ndarray, " e"],
    scoring_cost: float = 0.0,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The budget curve: point j is after the j experts with the highest scores, 0 to e.

    At point 0 the scores are paid and nothing is tried. The reference stays available throughout and costs nothing here
    (add its cost to `scoring_cost` if it must be fine-tuned). Cheap experts are not preferred: the order is that of the scores.

    Both arrays are exact means over random orders within ties: of the cost of j trials (within a group of ties every trial costs their mean),
    and of the gain after j trials. A point is thus what j trials cost and bring on average. Inside a group of ties whose costs differ
    this is not the mean gain at a fixed budget; without ties the curve is exact in every sense.

    Args:
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.
      reference: accuracy of the expert that is used without a selection, 0 to 1.
      costs: of fine-tuning each expert, any unit, 0 or more.
      scoring_cost: of the scores of all experts, in the same unit.

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


def checked_costs(costs: Float[np.ndarray, " e"], experts: int) -> Float[np.ndarray, " e"]:
    """One cost an expert. Raises ConfigError for negative, infinite and NaN."""
    costs = one_an_expert(costs, "costs", experts)
    if not (np.isfinite(costs) & (costs >= 0)).all():
        raise ConfigError("costs hold a number that is negative, infinite or NaN. Allowed: 0 or more for every expert.")
    return costs
