"""Evidence of the labels under the Gaussian process of the linearised network."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.scores.score import ScoreResult


def ntk_evidence(training_kernel: Num[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """Log evidence of the labels, relative to noise, with the kernel of fine-tuning: LogME of the linearised network in place of the features.

    Args:
      training_kernel: kernel of the linearised network with a new head, one for all outputs (`TrainingKernel.with_head`).
      labels: class ids, any integers.

    Returns:
      Nats per image and class, 0 for labels that the kernel does not explain, higher is better. Detail `noise`: variance of the noise, in
      units of the mean eigenvalue, at most 100.

    Raises:
      TaskError: inconsistent shapes, or a kernel that is not finite.
      UndefinedScoreError: one class, one image in every class, a kernel that is constant over all pairs, or one that is not positive semi-definite.

    Reference: see `ntk_select.linearized.label_evidence`.  Cost: O(n^3).
    """
    from ntk_select.linearized.evidence import NOISES, label_evidence

    found = label_evidence(training_kernel, labels)
    return ScoreResult(found.gain, details={"noise": min(found.noise, float(NOISES[-1]))})
