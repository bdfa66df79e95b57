"""Does a score order the experts within an architecture, or does it only tell architectures apart?"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.checked import names_of_groups, pair
from ntk_select.evaluate.correlations import LEAST_EXPERTS, kendall, pearson, spearman, weighted_tau

Correlation = Callable[[np.ndarray, np.ndarray], float]
CORRELATIONS: dict[str, Correlation] = {"kendall": kendall, "pearson": pearson, "spearman": spearman, "weighted_tau": weighted_tau}


def within_groups(measure: str | Correlation, scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], groups: Sequence[str]) -> float:
    """Mean of a correlation within the groups, each weighted by its experts that have a score.

    Groups with fewer than three such experts, or with an undefined correlation, are left out, with their weight.

    Args:
      measure: "spearman", "kendall", "pearson", "weighted_tau", or a function of scores and accuracies.
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.
      groups: of each expert, such as its architecture.

    Returns:
      -1 to 1, or NaN when no group is left. Unchanged when the scores of one group are all shifted.

    Raises:
      ConfigError: an unknown measure, other shapes, infinite scores, accuracies outside 0 to 1, another number of groups.
    """
    scores, accuracies = pair(scores, accuracies)
    groups = names_of_groups(groups, len(scores))
    correlation, found, sizes = _named(measure), [], []
    for group in np.unique(groups):
        inside = (groups == group) & ~np.isnan(scores)
        if inside.sum() >= LEAST_EXPERTS and np.isfinite(value := correlation(scores[inside], accuracies[inside])):
            found.append(value)
            sizes.append(inside.sum())
    return float(np.average(found, weights=sizes)) if found else float("nan")


def across_groups(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], groups: Sequence[str]) -> float:
    """Pairs of experts of different groups: those in the right order minus those in the wrong order, divided by all that differ in accuracy.

    A pair that ties in the scores counts 0 and stays in the divisor, so that a score that does not tell groups apart has the value 0.
    With every expert in a group of its own this is Somers' D, `scipy.stats.somersd(accuracies, scores)`.

    Args:
      scores: higher is better; experts without a score (NaN) are left out.
      accuracies: after fine-tuning, 0 to 1.
      groups: of each expert, such as its architecture.

    Returns:
      -1 to 1, or NaN when no two experts of different groups differ in accuracy. The mean over random orders is 0.

    Raises:
      ConfigError: as `within_groups`.

    Cost: O(e^2) time and memory.
    """
    scores, accuracies = pair(scores, accuracies)
    groups = names_of_groups(groups, len(scores))
    scored = ~np.isnan(scores)
    scores, accuracies, groups = scores[scored], accuracies[scored], groups[scored]
    signs = np.sign(accuracies[:, None] - accuracies) * (groups[:, None] != groups)
    pairs = np.count_nonzero(signs)
    return float((signs * np.sign(scores[:, None] - scores)).sum() / pairs) if pairs else float("nan")


def _named(measure: str | Correlation) -> Correlation:
    if callable(measure):
        return measure
    if measure not in CORRELATIONS:
        raise ConfigError(f"{measure!r} is no correlation.{did_you_mean(str(measure), CORRELATIONS)}")
    return CORRELATIONS[measure]
