"""One score from several: the mean rank of the experts."""

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.evaluate.target import DECIMALS, numbers, without_infinity


def consensus(scores: Float[np.ndarray, "k e"]) -> Float[np.ndarray, " e"]:
    """Mean rank of each expert over k scores, as the share of the ranked experts that it exceeds.

    The rank of an expert by one score is (r - 1/2) / m, with r from 1, the worst, to m, the number of experts that have this score; ties have
    their mean rank. Its mean over these experts is 1/2 for every m, so a score of few experts favours none of them, and one that is equal for
    all says nothing. An expert without one of the scores is ranked by the others. Rounded to 12 decimals: the same ranks by other scores must tie.

    Args:
      scores: one row per score, of any scale; higher is better, NaN for an expert without it.

    Returns:
      0 to 1, higher is better; NaN for an expert without any score. An increasing function of a score changes nothing.

    Raises:
      ConfigError: another shape, or infinite scores.

    Cost: O(k e log e).  Reference: Borda 1781; Dwork, Kumar, Naor & Sivakumar 2001, Rank Aggregation Methods for the Web.
    """
    from scipy.stats import rankdata

    scores = without_infinity(numbers(scores, "scores"))
    if scores.ndim != 2 or not scores.size:
        raise ConfigError(f"scores have the shape {scores.shape}. Allowed: (scores, experts), at least one of each. Try: numpy.stack([lfc, leep])")
    ranks = rankdata(scores, axis=1, nan_policy="omit")
    known = ~np.isnan(scores)
    shares = np.where(known, (ranks - 0.5) / np.maximum(known.sum(axis=1, keepdims=True), 1), 0)
    means = np.divide(shares.sum(axis=0), count := known.sum(axis=0), out=np.full(scores.shape[1], np.nan), where=count > 0)
    return np.round(means, DECIMALS)
