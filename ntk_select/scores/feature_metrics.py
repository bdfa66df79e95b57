"""Feature Metrics: are the expert's features sparse on the task's images? A reconstruction.

The paper's competitor (Ueno & Kondo, submitted to ICLR 2020) combines two sparsity metrics by weights that no source at hand states.
This is a labelled stand-in with two usual measures; it makes no claim to give their numbers.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num

from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.scores.dissimilarity import spearman
from ntk_select.scores.features import Features, as_features
from ntk_select.scores.zoo import Terms, column, standardised_terms

NEAR_ZERO = 0.01
"""Of an image's largest feature: below it a feature counts as zero."""
EVEN = 0.5


def feature_metrics_terms(features: Num[np.ndarray, "n d"] | Features, sparsity_weight: float = EVEN) -> dict[str, float]:
    """Two measures of sparsity for one expert, means over the images; labels play no part.

    `zeros`: share of features below 1 % of the image's largest. `hoyer`: (sqrt d - |a|_1 / |a|_2) / (sqrt d - 1), 0 for equal
    features, 1 for a single one that is not zero.

    Args:
      features: pre-logits after a ReLU.
      sparsity_weight: of `zeros`, 0 to 1; see `sparsity_weights`.

    Raises:
      UndefinedScoreError: negative features (no ReLU before them), a single feature, or an image whose features are all zero.
      ConfigError: `sparsity_weight` out of range.

    Reference: a reconstruction, see the module; Hurley & Rickard 2009 for the measures.  Cost: O(n d).
    """
    if not 0 <= sparsity_weight <= 1:
        raise ConfigError(f"sparsity_weight={sparsity_weight!r} must lie in 0 .. 1.")
    rows = as_features(features).array
    if rows.min() < 0:
        raise UndefinedScoreError("The features have negative values, so that no ReLU made them; sparsity is defined after one.")
    if rows.shape[1] == 1:
        raise UndefinedScoreError("One feature alone is neither sparse nor dense.")
    largest = rows.max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise UndefinedScoreError(f"Image {int(np.argmin(largest))} has features that are all zero.")
    unit = rows / largest
    root = np.sqrt(rows.shape[1])
    hoyer = (root - unit.sum(axis=1) / np.linalg.norm(unit, axis=1)) / (root - 1)
    return {"zeros": float((unit < NEAR_ZERO).mean()), "hoyer": float(hoyer.mean()), "weight": float(sparsity_weight)}


def feature_metrics(terms: Terms) -> Float[np.ndarray, " experts"]:
    """weight * zeros + (1 - weight) * hoyer, both with mean 0 and variance 1 over the experts. Raises where all are equal."""
    weight = column(terms, "weight")
    scaled = standardised_terms([{name: term[name] for name in ("zeros", "hoyer")} for term in terms])
    return weight * column(scaled, "zeros") + (1 - weight) * column(scaled, "hoyer")


def sparsity_weights(measured: Mapping[str, tuple[Terms, Float[np.ndarray, " experts"]]]) -> dict[str, float]:
    """For each task, the weight of `zeros` that orders the experts best on all other tasks; never fitted on the task itself.

    Args:
      measured: by task, the terms of its experts and their accuracies after fine-tuning; at least two tasks.

    Returns:
      By task, the weight among 0, 0.01, .. 1 with the highest mean Spearman correlation on the other tasks (the middle of those
      that tie). A task whose experts do not differ plays no part.

    Raises:
      ConfigError: fewer than two tasks.
    """
    if len(measured) < 2:
        raise ConfigError(f"Weights for a task are fitted on the others; {len(measured)} task was given, two are needed.")
    weights = np.linspace(0, 1, 101)
    curves = {}
    for task, (terms, accuracies) in measured.items():
        try:
            curves[task] = np.array([spearman(feature_metrics([{**term, "weight": w} for term in terms]), np.asarray(accuracies)) for w in weights])
        except UndefinedScoreError:
            curves[task] = np.zeros(len(weights))
    fitted = {}
    for task in measured:
        mean = np.mean([curve for other, curve in curves.items() if other != task], axis=0)
        fitted[task] = float(np.median(weights[mean >= mean.max() - 1e-12]))
    return fitted
