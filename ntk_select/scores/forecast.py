"""The forecast as a score: the accuracy that fine-tuning is expected to reach."""

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
    """Accuracy after fine-tuning on the probe sample, from the kernel of its training.

    Args:
      training_kernel: kernel of the linearised network with a new head, one for all outputs (`TrainingKernel.with_head`).
      labels: class ids, any integers.
      recipe: a `Recipe`; that of the paper if None.
      learning_rates: rates to try; those of the paper if None.
      seed: seed of the division into folds and of the batches.

    Returns:
      The share of held-out images that are classified correctly at the best rate, 0 to 1, higher is better. Details: `accuracy`, `accuracy_low`,
      `accuracy_high`, `balanced_accuracy`, `loss` (nats), `learning_rate`, `distance` (of the weights).

    Raises:
      UndefinedScoreError: one class, no class with two images, a kernel that is not finite, or every rate diverges.

    Reference: Deshpande et al. 2021, Prop. 1, for the recipe of section 4.2.  Cost: see `ntk_select.forecasting.cross_validate`.
    """
    # Imported here: no other score needs Optax.
    from ntk_select.forecasting.cross_validation import best, cross_validate
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe

    rates = LEARNING_RATES if learning_rates is None else learning_rates
    found = best(cross_validate(training_kernel, labels, recipe or Recipe(), rates, seed=seed))
    if found is None:
        raise UndefinedScoreError(
            f"With every learning rate ({', '.join(f'{rate:g}' for rate in rates)}) the simulated training diverges, as real training would. "
            f"Try: learning_rates=[{min(rates) / 10:g}], on the command line --lr {min(rates) / 10:g}"
        )
    interval = {"accuracy": found.accuracy, "accuracy_low": found.low, "accuracy_high": found.high}
    details = {"balanced_accuracy": found.balanced_accuracy, "loss": found.loss, "learning_rate": found.learning_rate, "distance": found.distance}
    return ScoreResult(found.accuracy, found.low, found.high, {**interval, **details}, found.correct)
