"""LEEP and NCE: prediction of the labels from the expert's predictions of its source classes."""

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import TaskError, UndefinedScoreError, not_finite
from ntk_select.kernels.alignment import checked_classes
from ntk_select.scores.features import one_hot
from ntk_select.scores.score import ScoreResult

OWN = 0.5
"""Share of an image's source-class statistics that comes from the image itself, above which any labels are fitted."""

_ALONE = (
    "{share:.0%} of the statistics of an image's source classes come from that image itself: there are too few images for so many source classes, "
    "and any labels would fit. Try: a larger per_class"
)


def leep(source_probs: Float[np.ndarray, "n s"], labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """Log expected empirical prediction: mean log probability of the labels by the classifier that passes through source classes.

    With P(y, z) = 1/n sum over images of class y of the probability of source class z, the mean of log sum_z P(y_i | z) p_iz.

    Args:
      source_probs: softmax of the expert's own head, rows sum to 1.
      labels: class ids, any integers.

    Returns:
      0 or below, higher is better. For an uninformative head it is minus the entropy of the labels (detail
      `label_entropy`). Source classes without mass are ignored; no image has probability zero.

    Raises:
      TaskError: inconsistent shapes, or rows that are not probabilities.
      UndefinedScoreError: images that are alone in their source classes (any labels would then fit), one class only, or one image in
        every class.

    Reference: Nguyen et al. 2020, LEEP, eq. 2.  Cost: O(n s c).
    """
    probs, ids, counts = _checked(source_probs, labels)
    joint = one_hot(ids, len(counts)).T @ probs
    mass = joint.sum(axis=0)
    given_source = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    own = np.divide(probs**2, mass, out=np.zeros_like(probs), where=mass > 0).sum(axis=1).mean()
    if own > OWN:
        raise UndefinedScoreError(_ALONE.format(share=own))
    likelihood = np.minimum((given_source[ids] * probs).sum(axis=1), 1)  # rounding can exceed it
    return ScoreResult(float(np.log(likelihood).mean()), details={"label_entropy": entropy(counts)})


def nce(source_probs: Float[np.ndarray, "n s"], labels: Int[np.ndarray, " n"]) -> ScoreResult:
    """Negative conditional entropy -H(Y | Z) of the labels given the most probable source class.

    Args:
      source_probs, labels: as for `leep`.

    Returns:
      Between minus the entropy of the labels (detail `label_entropy`; at least -log c) and 0; higher is better. No smoothing. A source
      class with a single image counts as certain, so the value is optimistic for many source classes and few images; detail
      `alone` is the share of such images.

    Raises: as `leep`.

    Reference: Tran et al. 2019, Transferability and hardness of supervised classification tasks.  Cost: O(n s).
    """
    probs, ids, counts = _checked(source_probs, labels)
    source = probs.argmax(axis=1)
    joint = np.zeros((len(counts), probs.shape[1]))
    np.add.at(joint, (ids, source), 1)
    mass = joint.sum(axis=0)
    alone = float((mass == 1).sum() / len(ids))
    if alone > OWN:
        raise UndefinedScoreError(_ALONE.format(share=alone))
    present = joint > 0
    value = (joint[present] * np.log((joint / np.maximum(mass, 1))[present])).sum() / len(ids)
    return ScoreResult(float(value), details={"label_entropy": entropy(counts), "alone": alone})


def entropy(counts: Int[np.ndarray, " c"]) -> float:
    """Entropy of a label drawn from the sample, in nats."""
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _checked(source_probs, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probs = np.asarray(source_probs, np.float64)
    if probs.ndim != 2 or 0 in probs.shape:
        raise TaskError(f"source_probs have shape {probs.shape}; they must be (n, s), one row per example.")
    if not np.isfinite(probs).all():
        raise TaskError(not_finite("source_probs contain"))
    sums = probs.sum(axis=1, keepdims=True)
    if probs.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise TaskError(
            f"source_probs must be probabilities, rows sum to 1; they range from {probs.min():.3g} to {probs.max():.3g} and row sums from "
            f"{sums.min():.3g} to {sums.max():.3g}. For logits, try: jax.nn.softmax(logits, axis=-1)"
        )
    return probs / sums, *checked_classes(labels, len(probs), "rows of source_probs")
