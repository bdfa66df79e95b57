"""ETran: energy of the features and a discriminant analysis, weighted within the zoo."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.scores.discriminant import analysed, of_own_class
from ntk_select.scores.features import Features, labelled
from ntk_select.scores.zoo_relative import column, min_max

SHARE = 0.005
WEIGHTS = {"energy": 0.15, "lda": 0.85}


def etran_terms(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """The two parts of ETran for one expert.

    `energy`: log sum exp over the features, mean over the half per cent of the images with the lowest (at least one image; public code
    takes none of fewer than 200). `lda`: mean posterior of the true class in a shrunk discriminant analysis.

    Args:
      features: pre-logits. The energy depends on their scale; the analysis does not.
      labels: class ids, any integers.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features. With n - c <= d images any labels fit.

    Reference: Gholami et al. 2023, ETran.  Cost: O(n d min(n, d) + k^3), k the rank.
    """
    from scipy.special import logsumexp

    features, ids, counts = labelled(features, labels)
    energies = np.sort(logsumexp(features.array, axis=1))
    found = analysed(features, ids, counts).posteriors
    lowest = max(1, int(SHARE * len(ids)))
    return {"energy": float(energies[:lowest].mean()), "lda": float(of_own_class(found, ids).mean())}


def etran(terms) -> np.ndarray:
    """0.15 energy + 0.85 lda, each scaled to 0 .. 1 over the experts. Raises UndefinedScoreError if all experts are equal."""
    scaled = min_max(terms)
    return sum(weight * column(scaled, name) for name, weight in WEIGHTS.items())
