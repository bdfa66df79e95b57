"""How good are these answers?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Accuracy(NamedTuple):
    """Shares of right answers, 0 .. 1, and the mean cross-entropy.

    Attributes:
      top1: of all images.
      balanced: mean over the classes that have images.
      per_class: (classes,); NaN for classes without images.
      loss: mean cross-entropy in nats, at least 0.
    """

    top1: float
    balanced: float
    per_class: Float[np.ndarray, " c"]
    loss: float


def accuracy(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Accuracy:
    """Of logits that are finite. Of equal logits the first class counts as the answer."""
    from scipy.special import logsumexp

    logits = np.asarray(logits, np.float64)
    right, counts = logits.argmax(1) == labels, np.bincount(labels, minlength=logits.shape[1])
    with np.errstate(invalid="ignore"):
        per_class = np.bincount(labels, right, minlength=logits.shape[1]) / counts
    loss = float((logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]).mean())
    return Accuracy(float(right.mean()), float(per_class[counts > 0].mean()), per_class, max(loss, 0.0))
