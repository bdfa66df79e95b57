"""Correlations of scores and accuracies over the experts, over all of them and within groups.

All are NaN when fewer than three experts have a score, or when one side is the same for all of them.
None changes when the scores are shifted or multiplied by a positive number; all but `pearson` and `fidelity` depend on their order only.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Num

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.target import names_of_groups, pair

MIN_EXPERTS = 3


def pearson(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """Linear correlation, as `scipy.stats.pearsonr`. It is sensitive to outliers.

    Args:
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.

    Returns:
      -1 to 1, or NaN. The mean over random orders is exactly 0.

    Raises:
      ConfigError: other shapes, infinite scores, accuracies outside 0 to 1.

    Cost: O(e).  Used by: Bolya et al. 2021 (PARC).
    """
    known = _known(scores, accuracies)
    return float("nan") if known is None else _pearson(*known)


def fidelity(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """How far twice the difference in score means twice the difference in accuracy: Pearson's r times its absolute value.

    Of the differences in accuracy of all pairs of experts, the share of their sum of squares that is explained by the differences in score
    times one constant (least squares through the origin), with the sign of the constant. A score that orders the experts perfectly, but
    not in proportion, has a Spearman correlation of 1 and a fidelity below 1. It is sensitive to outliers.

    Args:
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.

    Returns:
      -1 to 1, or NaN; 1 if differences are proportional. The mean over random orders is not exactly 0; its absolute value averages 1 / (e - 1).

    Raises:
      ConfigError: as `pearson`.

    Cost: O(e).  Reference: Singh, Hess & Vanschoren 2026, How NOT to benchmark your SITE metric (the property).
    """
    r = pearson(scores, accuracies)
    return r * abs(r)


def spearman(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """Rank correlation, ties with their mean rank, as `scipy.stats.spearmanr`.

    Returns:
      -1 to 1, or NaN. The mean over random orders is exactly 0.

    Raises:
      ConfigError: as `pearson`.

    Cost: O(e log e).  Used by: the paper, figure 6; RSA, DDS.
    """
    known = _known(scores, accuracies)
    return float("nan") if known is None else rank_correlation(*known)


def rank_correlation(a: Num[np.ndarray, " m"], b: Num[np.ndarray, " m"]) -> float:
    """Spearman's correlation of any two vectors of finite numbers, ties with their mean rank; NaN if one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(side) for side in (a, b)]
    return _pearson(*ranks) if all(len(side) and np.ptp(side) > 0 for side in ranks) else float("nan")


def kendall(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """Kendall's tau-b: pairs of experts in the right order minus those in the wrong order, corrected for ties, as `scipy.stats.kendalltau`.

    Returns:
      -1 to 1, or NaN. The mean over random orders is exactly 0.

    Raises:
      ConfigError: as `pearson`.

    Cost: O(e^2) time and memory.
    """
    known = _known(scores, accuracies)
    return float("nan") if known is None else _tau(*map(_signs, known), np.ones(len(known[0])))


def weighted_tau(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """Kendall's tau in which the best experts count most: a pair weighs 1/(r+1) + 1/(r'+1), with the ranks r and r' from 0, the best.

    The mean of two values: ranks by score and ranks by accuracy (ties by the other side). Equals the default of `scipy.stats.weightedtau`.

    Returns:
      -1 to 1, or NaN. The mean over random orders is 0 when no accuracies tie. With ties, above all
      among the best, it is not: subtract `random_expectation`, or report `kendall` as well.

    Raises:
      ConfigError: as `pearson`.

    Cost: O(e^2) time and memory.  Reference: Vigna 2015.  Used by: LogME, SFDA, ETran, NCTI.
    """
    known = _known(scores, accuracies)
    if known is None:
        return float("nan")
    a, b = known
    signs = _signs(a), _signs(b)
    return (_tau(*signs, _hyperbolic(a, b)) + _tau(*signs, _hyperbolic(b, a))) / 2


def _known(scores, accuracies) -> tuple[np.ndarray, np.ndarray] | None:
    scores, accuracies = pair(scores, accuracies)
    scored = ~np.isnan(scores)
    scores, accuracies = scores[scored], accuracies[scored]
    if len(scores) < MIN_EXPERTS or scores.max() == scores.min() or accuracies.max() == accuracies.min():
        return None
    return scores, accuracies


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _signs(side: np.ndarray) -> np.ndarray:
    return np.sign(side[:, None] - side[None])


def _hyperbolic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    weights = np.empty(len(first))
    weights[np.lexsort((second, first))[::-1]] = 1 / np.arange(1, len(first) + 1)
    return weights


def _tau(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """A pair weighs the sum of its two weights, so a weighted sum over rows is half of the sum over all pairs."""
    ab, aa, bb = (weights @ (left * right).sum(axis=1) for left, right in ((a, b), (a, a), (b, b)))
    return float(np.clip(ab / np.sqrt(aa * bb), -1, 1))


Correlation = Callable[[np.ndarray, np.ndarray], float]
CORRELATIONS: dict[str, Correlation] = {"kendall": kendall, "pearson": pearson, "spearman": spearman, "weighted_tau": weighted_tau}


def within_groups(measure: str | Correlation, scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], groups: Sequence[str]) -> float:
    """Mean of a correlation within the groups, each weighted by its experts that have a score.

    Groups with fewer than three such experts, or with an undefined correlation, are left out, with their weight.

    Args:
      measure: "spearman", "kendall", "pearson", "weighted_tau", or a function of scores and accuracies.
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.
      groups: the group of each expert, such as its architecture.

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
        if inside.sum() >= MIN_EXPERTS and np.isfinite(value := correlation(scores[inside], accuracies[inside])):
            found.append(value)
            sizes.append(inside.sum())
    return float(np.average(found, weights=sizes)) if found else float("nan")


def across_groups(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], groups: Sequence[str]) -> float:
    """Pairs of experts of different groups: those in the right order minus those in the wrong order, divided by all that differ in accuracy.

    A pair that ties in the scores counts 0 and stays in the divisor, so a score that does not tell groups apart has the value 0.
    With every expert in a group of its own this is Somers' D, `scipy.stats.somersd(accuracies, scores)`.

    Args:
      scores: higher is better; experts without a score (NaN) are left out.
      accuracies: after fine-tuning, 0 to 1.
      groups: the group of each expert, such as its architecture.

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
        raise ConfigError(f"{measure!r} is not a correlation.{did_you_mean(str(measure), CORRELATIONS)}")
    return CORRELATIONS[measure]
