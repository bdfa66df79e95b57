"""Choice of the few cheap scores whose mean rank is the consensus, for each target from the targets of other clusters."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

SIZES = (2, 3)
"""Numbers of scores in a consensus."""


def members_for(
    values: Sequence[Float[np.ndarray, "scores draws experts"]],
    accuracies: Sequence[Float[np.ndarray, " experts"]],
    clusters: Sequence[str],
) -> list[tuple[tuple[int, ...], float]]:
    """The scores of the consensus on each target: the pair or triple whose mean rank has the highest mean Spearman correlation on the others.

    Args:
      values: of each target, without NaN; higher is better. All have the same scores in the same order, and any number of probe samples.
      accuracies: of each target.
      clusters: of each target. A target is chosen for without looking at any target of its cluster.

    Returns:
      For each target the indices of the scores, and their mean correlation on the targets of other clusters. Empty with fewer than two scores or
      clusters. Equally good choices: the first, smaller ones before larger ones.

    Cost: (s choose 2) + (s choose 3) rankings of the experts for each target and probe sample.
    """
    if len(set(clusters)) < 2 or len(values[0]) < min(SIZES):
        return []
    choices = [chosen for size in SIZES for chosen in combinations(range(len(values[0])), size)]
    member = np.array([[score in chosen for score in range(len(values[0]))] for chosen in choices])
    quality = np.array([_quality(*target, member) for target in zip(values, accuracies, strict=True)])
    found = []
    for cluster in clusters:
        elsewhere = quality[[other != cluster for other in clusters]]
        means = np.where(np.isnan(elsewhere), 0, elsewhere).mean(axis=0)
        best = int(np.round(means, 12).argmax())
        found.append((choices[best], float(means[best])))
    return found


def _quality(values: Float[np.ndarray, "s d e"], accuracies: Float[np.ndarray, " e"], member: Bool[np.ndarray, "c s"]) -> Float[np.ndarray, " c"]:
    """Spearman's correlation of accuracies and the mean rank of each choice, mean over probe samples; NaN where one side is constant."""
    from scipy.stats import rankdata

    ranks = np.moveaxis(rankdata(values, axis=2), 1, 0)
    with np.errstate(invalid="ignore"):
        return np.mean([_correlations(rankdata(np.round(member @ draw, 6), axis=1), rankdata(accuracies)) for draw in ranks], axis=0)


def _correlations(rows: Float[np.ndarray, "c e"], with_these: Float[np.ndarray, " e"]) -> Float[np.ndarray, " c"]:
    rows, with_these = rows - rows.mean(axis=1, keepdims=True), with_these - with_these.mean()
    return rows @ with_these / np.sqrt((rows**2).sum(axis=1) * (with_these @ with_these))
