"""The value by which experts are ordered: their expected loss and the evidence of the labels, in one number."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.forecasting.cross_validation import RateForecast, least_loss
from ntk_select.linearized.evidence import is_constant, label_evidence


class OrderValue(NamedTuple):
    """The order value of an expert, and what it is computed from.

    Attributes:
      classes: number of classes c.
      loss: least expected loss of held-out images among the learning rates, in nats.
      evidence: log evidence of the labels relative to noise, in nats per image and class.
      kernel, labels: kernel of all images, and class ids.
      log_likelihoods: log-likelihoods of the images at the rate with the least loss.
    """

    classes: int
    loss: float
    evidence: float
    kernel: Num[np.ndarray, "n n"]
    labels: Int[np.ndarray, " n"]
    log_likelihoods: Float[np.ndarray, " n"]

    @property
    def value(self) -> float:
        """log c - loss + evidence, higher is better."""
        return float(np.log(self.classes) - self.loss + self.evidence)

    def on_subset(self, rows: Int[np.ndarray, " m"]) -> float:
        """The value on some of the images. Trainings are not simulated again; the evidence is that of these images alone.

        Raises:
          UndefinedScoreError: these images have no evidence, such as images of one class.
        """
        known = self.log_likelihoods[rows]
        known = known[np.isfinite(known)]
        loss = -known.mean() if len(known) else np.nan
        return float(np.log(self.classes) - loss + _evidence(self.kernel[np.ix_(rows, rows)], self.labels[rows]))


def order_value(forecasts: Sequence[RateForecast], kernel: Num[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> OrderValue:
    """The value by which experts are ordered: log c - least expected loss + evidence of the labels.

    The expected loss depends on the recipe, such as on learning rates that are too small, and is measured on few held-out images. The evidence does
    not depend on the recipe, and varies less with the choice of images. Their sum is a heuristic: both are in nats, but per image and per image and
    class. It orders better than the expected accuracy where trainings are long, and about as well where they end early (docs/forecast-method.md).

    Args:
      forecasts: result of `cross_validate` for this kernel and these labels; at least one learning rate does not diverge.
      kernel: kernel of all images, one for all outputs.
      labels: class ids.

    Cost: one eigendecomposition, O(n^3).
    """
    least = least_loss(forecasts)
    kernel, labels = np.asarray(kernel), np.asarray(labels)
    return OrderValue(len(np.unique(labels)), least.loss, _evidence(kernel, labels), kernel, labels, least.log_likelihoods)


def _evidence(kernel, labels) -> float:
    """The evidence; 0 for a constant kernel, which explains nothing. Raises UndefinedScoreError for labels without evidence."""
    return 0.0 if is_constant(kernel) else label_evidence(kernel, labels).gain
