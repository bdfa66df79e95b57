"""NCTI: distance of the features from neural collapse on the task, compared within the zoo."""

import math

import numpy as np
from jaxtyping import Int, Num

from ntk_select.scores.discriminant import LEAST, of_own_class, posteriors, shrunk, within
from ntk_select.scores.features import Features, class_means, labelled
from ntk_select.scores.zoo_relative import column, min_max

COMPONENTS = 64
SHRINKING = 32


def ncti_terms(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """The three parts of NCTI for one expert, after the first 64 principal components (or all, where there are fewer).

    The covariance within classes is shrunk by exp(-variance of the first 32 components). `nuclear`: nuclear norm of the images along the
    discriminant axes; `posterior`: mean posterior of the true class; `collapse`: log of the sum over classes of the nuclear
    norms of their posteriors (small if the images of a class have similar posteriors).

    Args:
      features: pre-logits; the shrinkage depends on their scale, as published.
      labels: class ids, any integers.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.

    Reference: Wang et al. 2023, How far pre-trained models are from neural collapse on the target dataset informs their
    transferability.  Cost: O(n d min(n, d) + n c^2).
    """
    from scipy.linalg import solve_triangular, svdvals

    features, ids, counts = labelled(features, labels)
    rows = features.svd.coordinates[:, :COMPONENTS]
    variances = (rows**2).sum(axis=0) / (len(ids) - 1)
    amount = max(math.exp(-variances[:SHRINKING].sum()), LEAST)
    whole = float((rows**2).sum() / len(ids))
    covariance = shrunk(within(rows, ids, counts), amount, whole, rows.shape[1])
    means = class_means(rows, ids, counts)
    # The discriminant axes solve B a = s W a; with W = L L' and B = M M' they are L'^-1 times the left singular vectors of L^-1 M.
    factor = np.linalg.cholesky(covariance)
    whitened = solve_triangular(factor, means.T * np.sqrt(counts / len(ids)), lower=True)
    leading = np.linalg.svd(whitened, full_matrices=False)[0][:, : len(counts) - 1]
    axes = solve_triangular(factor, leading, lower=True, trans="T")
    found = posteriors(rows, ids, counts, covariance)
    own = [svdvals(found[ids == label]).sum() for label in range(len(counts))]
    return {
        "nuclear": float(svdvals(rows @ axes).sum()),
        "posterior": float(of_own_class(found, ids).mean()),
        "collapse": math.log(sum(own)),
    }


def ncti(terms) -> np.ndarray:
    """nuclear + posterior - collapse, each scaled to 0 .. 1 over the experts. Raises UndefinedScoreError if all are equal."""
    scaled = min_max(terms)
    return column(scaled, "nuclear") + column(scaled, "posterior") - column(scaled, "collapse")
