"""How far do scores and accuracies order the experts alike? Correlations over the experts that have a score.

All are NaN when fewer than three experts have a score, or when one side is the same for all of them.
None changes when the scores are shifted or multiplied by a positive number; all but `pearson` see only their order.
"""

import numpy as np
from jaxtyping import Float

from ntk_select.evaluate.checked import pair

LEAST_EXPERTS = 3


def pearson(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """Linear correlation, as `scipy.stats.pearsonr`. It is moved by one expert far from the others.

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


def spearman(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"]) -> float:
    """Correlation of ranks, those that tie with the mean of theirs, as `scipy.stats.spearmanr`.

    Returns:
      -1 to 1, or NaN. The mean over random orders is exactly 0.

    Raises:
      ConfigError: as `pearson`.

    Cost: O(e log e).  Used by: the paper, figure 6; RSA, DDS.
    """
    from scipy.stats import rankdata

    known = _known(scores, accuracies)
    return float("nan") if known is None else _pearson(*(rankdata(side) for side in known))


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
      among the best, it is not: subtract `random_expectation`, or report `kendall` beside it.

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
    if len(scores) < LEAST_EXPERTS or scores.max() == scores.min() or accuracies.max() == accuracies.min():
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
    """A pair weighs the sum of its two weights, so that a weighted sum over rows is half of the sum over all pairs."""
    ab, aa, bb = (weights @ (left * right).sum(axis=1) for left, right in ((a, b), (a, a), (b, b)))
    return float(np.clip(ab / np.sqrt(aa * bb), -1, 1))
