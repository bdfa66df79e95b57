"""How good is an expert on the other targets? The static leaderboard: a baseline that never looks at the target."""

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.evaluate.checked import fractions, numbers


def leave_one_out(accuracies_by_target: Float[np.ndarray, "t e"]) -> Float[np.ndarray, "t e"]:
    """Scores of a static leaderboard. A benchmark in which it does well is one in which the same experts win everywhere.

    The score of an expert for a target is the mean, over the other targets on which it was measured, of its accuracy minus the mean accuracy
    of the experts measured there: easy targets do not count more. If experts were measured on different targets, those that met
    weak rivals are favoured.

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
