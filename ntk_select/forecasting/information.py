"""Information about the labels: by how many nats per image a forecast is better than guessing. It decides the order of experts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.errors import UndefinedScoreError
from ntk_select.forecasting.cross_validation import RateForecast, least_loss
from ntk_select.linearized.evidence import label_evidence


class Information(NamedTuple):
    """Information of an expert about the labels of a probe sample.

    Attributes:
      classes: number of classes c.
      loss: least expected loss of held-out images among the learning rates, in nats.
      evidence: log evidence of the labels relative to noise, in nats per image and class.
      kernel, labels, log_likelihoods: what both are computed from; the log-likelihoods are those of the rate with the least loss.
    """

    classes: int
    loss: float
    evidence: float
    kernel: Num[np.ndarray, "n n"]
    labels: Int[np.ndarray, " n"]
    log_likelihoods: Float[np.ndarray, " n"]

    @property
    def value(self) -> float:
        """log c - loss + evidence: 0 for guessing, higher is better."""
        return float(np.log(self.classes) - self.loss + self.evidence)

    def on_subset(self, rows: Int[np.ndarray, " m"]) -> float:
        """The value on some of the images. Trainings are not simulated again; the evidence is that of these images alone."""
        loss = -np.nanmean(self.log_likelihoods[rows])
        return float(np.log(self.classes) - loss + _evidence(self.kernel[np.ix_(rows, rows)], self.labels[rows]))


def information(forecasts: Sequence[RateForecast], kernel: Num[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> Information | None:
    """The information of an expert; None if every learning rate diverges.

    The expected loss depends on the recipe, such as on learning rates that are too small, and is measured on few images. The evidence does not
    depend on the recipe and varies less with the choice of images. Their sum orders experts better than either, and better than the
    expected accuracy (scripts/results/evidence.md).

    Args:
      forecasts: result of `cross_validate` for this kernel and these labels.
      kernel: kernel of all images, one for all outputs.
      labels: class ids, any integers.

    Cost: one eigendecomposition, O(n^3).
    """
    least = least_loss(forecasts)
    if least is None:
        return None
    kernel, labels = np.asarray(kernel), np.asarray(labels)
    return Information(len(np.unique(labels)), least.loss, _evidence(kernel, labels), kernel, labels, least.log_likelihoods)


def _evidence(kernel, labels) -> float:
    try:
        return label_evidence(kernel, labels).gain
    except UndefinedScoreError:  # a constant kernel explains nothing
        return 0.0
