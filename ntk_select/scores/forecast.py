"""The forecast as a score: a value that orders experts, with the accuracy that fine-tuning is expected to reach."""

from typing import Any

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import UndefinedScoreError
from ntk_select.scores.score import ScoreResult


def forecast(
    training_kernel: Num[np.ndarray, "n n"],
    labels: Int[np.ndarray, " n"],
    *,
    recipe: Any = None,
    learning_rates: tuple[float, ...] | None = None,
    seed: int = 0,
) -> ScoreResult:
    """Expected result of fine-tuning on the probe sample, from the kernel of its training.

    Args:
      training_kernel: kernel of the linearised network with a new head, one for all outputs (`TrainingKernel.with_head`).
      labels: class ids, any integers.
      recipe: a `Recipe`; that of the paper if None.
      learning_rates: rates to try; those of the paper if None.
      seed: seed of the division into folds and of the batches.

    Returns:
      The order value (`ntk_select.forecasting.order_value`), higher is better: log c minus the expected loss of held-out images at the rate where it
      is least, plus the evidence of the labels. It orders experts better than the expected accuracy, which varies more with the choice of images.
      Details: `accuracy`, the share of held-out images that are classified correctly, 0 to 1, at the rate that a search by accuracy
      chooses, `learning_rate`; `accuracy_low`, `accuracy_high`, its Wilson interval; `balanced_accuracy`; `distance` (of the weights);
      `loss` and `evidence`, the parts of the value.

    Raises:
      UndefinedScoreError: one class, no class with two images, a kernel that is not finite, or every rate diverges.

    Reference: Deshpande et al. 2021, Prop. 1, for the recipe of section 4.2; `ntk_select.linearized.label_evidence`.
    Cost: see `ntk_select.forecasting.cross_validate`.
    """
    # Imported here: no other score needs Optax.
    from ntk_select.forecasting.cross_validation import best, cross_validate
    from ntk_select.forecasting.order_value import order_value
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe

    rates = LEARNING_RATES if learning_rates is None else learning_rates
    forecasts = cross_validate(training_kernel, labels, recipe or Recipe(), rates, seed=seed)
    found = best(forecasts)
    if found is None:
        raise UndefinedScoreError(
            f"With every learning rate ({', '.join(f'{rate:g}' for rate in rates)}) the simulated training diverges, as real training would. "
            f"Try: learning_rates=[{min(rates) / 10:g}], on the command line --lr {min(rates) / 10:g}"
        )
    known = order_value(forecasts, training_kernel, labels)
    details = {
        "accuracy": found.accuracy,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "balanced_accuracy": found.balanced_accuracy,
        "learning_rate": found.learning_rate,
        "distance": found.distance,
        "loss": known.loss,
        "evidence": known.evidence,
    }
    return ScoreResult(known.value, details=details, on_subset=known.on_subset)
