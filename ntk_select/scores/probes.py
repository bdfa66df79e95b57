"""Probe classifiers, evaluated by leaving one image out: nearest neighbours and a linear probe."""

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.scores.discriminant import of_own_class
from ntk_select.scores.dissimilarity import squared_distances
from ntk_select.scores.features import Features, labelled, one_hot
from ntk_select.scores.score import ScoreResult

TIE = 1e-9
"""Absolute tolerance of votes and relative tolerance of distances."""
STRENGTHS = np.logspace(-6, 3, 28)
"""Ridges of the linear probe, in units of the mean variance of a direction."""


def knn(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"], *, neighbours: int = 1) -> ScoreResult:
    """Accuracy of k-nearest-neighbour classification with Euclidean distance, every image classified by all others.

    Args:
      features: pre-logits.
      labels: class ids, any integers.
      neighbours: k. Images tied for the last place share it, and classes tied for most votes share the answer: the order of the
        images does not matter.

    Returns:
      0 to 1, higher is better; unchanged by scales, rotations and shifts. Details: `balanced`, the mean over classes, and `majority`, the
      share of the largest class: the accuracy of always predicting it.

    Raises:
      UndefinedScoreError: no more images than `neighbours`, one class only, one image in every class, constant features.
      ConfigError: `neighbours` is below 1.

    Reference: Bolya et al. 2021 (1-NN as a baseline).  Cost: O(n^2 d).
    """
    if neighbours < 1:
        raise ConfigError(f"knn: neighbours={neighbours!r} must be at least 1.")
    features, ids, counts = labelled(features, labels)
    if len(ids) <= neighbours:
        raise UndefinedScoreError(f"{len(ids)} images have no {neighbours} neighbours each.")
    distances = squared_distances(features.centred)
    np.fill_diagonal(distances, np.inf)
    last = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
    margin = TIE * (last + (features.centred**2).sum(axis=1, keepdims=True))  # of cancellation in the differences
    surely = distances < last - margin
    tied = ~surely & (distances <= last + margin)
    weights = surely + tied * ((neighbours - surely.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True))
    return _accuracy(weights @ one_hot(ids, len(counts)), ids, counts)


def linear_probe(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """Accuracy of ridge classification, every image classified by the fit to all others, at the ridge with the least squared error.

    One target of 0 or 1 per class, with a bias. The fits without one image follow exactly from the fit to all; their biases are those
    of all images, so that the class frequencies do not reveal the label that is left out.

    Args:
      features: pre-logits.
      labels: class ids, any integers.

    Returns:
      0 to 1, higher is better; unchanged by scales, rotations and shifts. Details: `balanced` and `majority` as for `knn`; `ridge`, in units
      of the mean variance of a direction, chosen among 28 from 1e-6 to 1e3 by the squared error of the images left out (slightly optimistic).

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.

    Reference: Allen 1974 (PRESS); ridge probes in Kornblith et al. 2019, Do better ImageNet models transfer better?
    Cost: O(n d min(n, d)), then O(n k c) for each ridge.
    """
    features, ids, counts = labelled(features, labels)
    left, variances = features.svd.left, features.svd.values**2
    targets = one_hot(ids, len(counts))
    along, mean = left.T @ targets, targets.mean(axis=0)
    best = (np.inf, 0.0, None)
    for strength in STRENGTHS:
        shrinkage = variances / (variances + strength * variances.mean())
        residual = targets - mean - left @ (shrinkage[:, None] * along)
        leverage = 1 / len(ids) + (left**2) @ shrinkage
        left_out = residual / np.maximum(1 - leverage, 1e-12)[:, None]
        error = float((left_out**2).mean())
        if error < best[0]:
            # The bias without an image is lower for its own class, which would lose for uninformative features.
            best = (error, float(strength), targets - left_out + (targets - mean) / (len(ids) - 1))
    _, ridge, predicted = best
    result = _accuracy(predicted, ids, counts)
    return ScoreResult(result.value, details={**result.details, "ridge": ridge})


def _accuracy(votes: Float[np.ndarray, "n c"], ids: np.ndarray, counts: np.ndarray) -> ScoreResult:
    """Accuracy of predicting the class with the most votes; ties share the prediction."""
    winners = votes >= votes.max(axis=1, keepdims=True) - TIE
    correct = of_own_class(winners / winners.sum(axis=1, keepdims=True), ids)
    balanced = np.bincount(ids, correct) / counts
    return ScoreResult(float(correct.mean()), details={"balanced": float(balanced.mean()), "majority": float(counts.max() / counts.sum())})
