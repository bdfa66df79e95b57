"""PARC: rank correlation of the distances between images with whether their labels differ."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.scores.dissimilarity import correlation_distances, pairs, standardised
from ntk_select.scores.features import Features, labelled
from ntk_select.scores.score import ScoreResult

COMPONENTS = 32


def parc(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"], *, components: int | None = COMPONENTS) -> ScoreResult:
    """100 times the Spearman correlation, over pairs of images, of dissimilar features (1 - Pearson) with different labels.

    Args:
      features: pre-logits; every feature is scaled to mean 0 and variance 1. Where there are more than `components`, the first
        principal components are used instead, each with the sign by which the image largest in it is positive (Pearson's
        correlation over components depends on their signs).
      labels: class ids, any integers.
      components: number of components, at least 2; None for all.

    Returns:
      -100 to 100, higher is better; unchanged by positive scales and by shifts of single features. As labels only say same or different, it equals
      100 (2 AUC - 1) sqrt(3 q (1 - q)) where ties are rare, q the share of pairs of one class: its largest value decreases with
      the number of classes (17 for 100 large ones): compare within one task only. Details: `auc`, the probability that a pair of
      different classes is further apart than one of the same, and `largest`, the score at an auc of 1.

    Raises:
      UndefinedScoreError: fewer than 2 features that vary, one class only, one image in every class, constant features, or an
        image whose components are all equal, or images that are all equally far apart.
      ConfigError: `components` is below 2.

    Reference: Bolya et al. 2021, Scalable diverse model selection for accessible transfer learning.
    Cost: O(n d min(n, d) + n^2 log n).
    """
    from scipy.stats import rankdata

    if components is not None and components < 2:
        raise ConfigError(f"parc: components={components!r} must be at least 2, or None.")
    features, ids, _ = labelled(features, labels)
    rows = standardised(features)
    if rows.shape[1] < 2:
        raise UndefinedScoreError("One feature alone has no correlation over features; two that vary are needed.")
    if components is not None and components < rows.shape[1]:
        principal = Features(rows).svd.coordinates[:, :components]
        rows = principal if principal.shape[1] > 1 else rows
    ranks = rankdata(pairs(correlation_distances(rows)))
    different = pairs(ids[:, None] != ids)
    far, near = int(different.sum()), int((~different).sum())
    auc = (ranks[different].sum() - far * (far + 1) / 2) / (far * near)
    spread = ranks.std()
    if spread == 0:
        raise UndefinedScoreError("All pairs of images are equally far apart, so there is nothing to rank.")
    share = far / (far + near)
    # Pearson's correlation of ranks with a 0/1 variable: difference of the two mean ranks.
    largest = 0.5 * (far + near) * np.sqrt(share * (1 - share)) / spread
    value = np.clip((2 * auc - 1) * largest, -1, 1)
    return ScoreResult(100 * float(value), details={"auc": float(auc), "largest": 100 * float(min(largest, 1))})
