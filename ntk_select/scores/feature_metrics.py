"""Feature Metrics: sparsity of the expert's features on the task's images. A reconstruction.

Ueno & Kondo (submitted to ICLR 2020) combine two sparsity metrics; neither their formulas nor the weights are published.
This version uses two common measures of sparsity, so its values differ from theirs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Num

from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.evaluate.correlations import rank_correlation
from ntk_select.scores.features import Features, as_features
from ntk_select.scores.zoo_relative import column, standardised_terms

NEAR_ZERO = 0.01
"""Features below this share of the image's largest count as zero."""
EQUAL_WEIGHTS = 0.5


def feature_metrics_terms(features: Num[np.ndarray, "n d"] | Features, sparsity_weight: float = EQUAL_WEIGHTS) -> dict[str, float]:
    """Two measures of sparsity for one expert, means over the images; labels are not used.

    `zeros`: share of features below 1 % of the image's largest. `hoyer`: (sqrt d - |a|_1 / |a|_2) / (sqrt d - 1), 0 for equal
    features, 1 for a single one that is not zero.

    Args:
      features: pre-logits after a ReLU.
      sparsity_weight: weight of `zeros`, 0 to 1; see `sparsity_weights`.

    Raises:
      UndefinedScoreError: negative features (no ReLU before them), a single feature, or an image whose features are all zero.
      ConfigError: `sparsity_weight` out of range.

    Reference: a reconstruction, see the module; Hurley & Rickard 2009 for the measures.  Cost: O(n d).
    """
    if not 0 <= sparsity_weight <= 1:
        raise ConfigError(f"sparsity_weight={sparsity_weight!r} must be from 0 to 1.")
    rows = as_features(features).array
    if rows.min() < 0:
        raise UndefinedScoreError("The features have negative values, so they are not the output of a ReLU; sparsity is defined after one.")
    if rows.shape[1] == 1:
        raise UndefinedScoreError("One feature alone is neither sparse nor dense.")
    largest = rows.max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise UndefinedScoreError(f"Image {int(np.argmin(largest))} has features that are all zero.")
    unit = rows / largest
    root = np.sqrt(rows.shape[1])
    hoyer = (root - unit.sum(axis=1) / np.linalg.norm(unit, axis=1)) / (root - 1)
    return {"zeros": float((unit < NEAR_ZERO).mean()), "hoyer": float(hoyer.mean()), "weight": float(sparsity_weight)}


def feature_metrics(terms: Sequence[Mapping[str, float]]) -> Float[np.ndarray, " experts"]:
    """weight * zeros + (1 - weight) * hoyer, both with mean 0 and variance 1 over the experts. Raises where all are equal."""
    weight = column(terms, "weight")
    scaled = standardised_terms([{name: term[name] for name in ("zeros", "hoyer")} for term in terms])
    return weight * column(scaled, "zeros") + (1 - weight) * column(scaled, "hoyer")


def sparsity_weights(measured: Mapping[str, tuple[Sequence[Mapping[str, float]], Float[np.ndarray, " experts"]]]) -> dict[str, float]:
    """For each task, the weight of `zeros` that ranks the experts best on the other tasks.

    Args:
      measured: per task, the terms of its experts and their accuracies after fine-tuning; at least two tasks.

    Returns:
      For each task, the weight among 0, 0.01, .. 1 with the highest mean Spearman correlation on the other tasks (the median of
      ties). Tasks whose experts do not differ are ignored.

    Raises:
      ConfigError: fewer than two tasks.
    """
    if len(measured) < 2:
        raise ConfigError(f"Weights for a task are fitted on the others; {len(measured)} task was given, two are needed.")
    weights = np.linspace(0, 1, 101)
    curves = {}
    for task, (terms, accuracies) in measured.items():
        try:
            values = [feature_metrics([{**term, "weight": weight} for term in terms]) for weight in weights]
            curves[task] = np.nan_to_num([rank_correlation(each, np.asarray(accuracies)) for each in values])
        except UndefinedScoreError:
            curves[task] = np.zeros(len(weights))
    fitted = {}
    for task in measured:
        mean = np.mean([curve for other, curve in curves.items() if other != task], axis=0)
        fitted[task] = float(np.median(weights[mean >= mean.max() - 1e-12]))
    return fitted
