"""SFDA: discriminant analysis of features after a step that simulates fine-tuning."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.scores.discriminant import analysed, of_own_class, posteriors, shrunk, within
from ntk_select.scores.features import Features, class_means, labelled
from ntk_select.scores.score import ScoreResult


def sfda(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """Mean posterior probability of the true class in a discriminant analysis of features that were mixed with those of other classes.

    A first analysis with the covariance within classes shrunk by exp(-5 |S_w|); its confidence q in an image's class (softmax
    of the posteriors) mixes the image, q x + (1 - q) mean of the other classes' means; the second analysis gives the score.

    Args:
      features: pre-logits. They are scaled so that an image's squared distance from the mean is 1 on average: published code does
        not scale them, so the shrinkage can fall to 1e-10 and the covariance of few images is singular.
      labels: class ids, any integers.

    Returns:
      0 to 1, higher is better; unchanged by scales, rotations and shifts. Detail `before_mixing`: the same for the first analysis.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features. With n - c <= d images any labels fit.

    Reference: Shao et al. 2022, Not all models are equal.  Cost: O(n d min(n, d) + k^3), k the rank.
    """
    from scipy.special import softmax

    features, ids, counts = labelled(features, labels)
    rows, amount, first = analysed(features, ids, counts)
    confidence = of_own_class(softmax(first, axis=1), ids)[:, None]
    means = class_means(rows, ids, counts)
    others = (means.sum(axis=0) - means) / (len(counts) - 1)
    mixed = confidence * rows + (1 - confidence) * others[ids]
    spread = float(((mixed - mixed.mean(axis=0)) ** 2).sum() / len(ids))
    second = posteriors(mixed, ids, counts, shrunk(within(mixed, ids, counts), amount, spread, features.width))
    return ScoreResult(float(of_own_class(second, ids).mean()), details={"before_mixing": float(of_own_class(first, ids).mean())})
