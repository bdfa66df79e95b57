"""Gain of a user who fine-tunes the experts with the highest scores.

Experts with equal scores are tried in random order, those without a score last. Every number here is the exact mean over these orders,
by order statistics: nothing is sampled. All scores equal is therefore the same as a random choice.
"""

import numpy as np
from jaxtyping import Float

from ntk_select.evaluate.checked import ROUNDING, first, fraction, not_negative, pair
from ntk_select.evaluate.order import expected_best, order_of


def top_k_accuracy(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], k: int = 3) -> float:
    """Expected accuracy of the best of the k experts with the highest scores.

    The best is known only after all k are fine-tuned, and if it is picked on test accuracies the maximum is too high by their noise:
    give accuracies of a validation set, or several fine-tuning seeds.

    Args:
      scores: higher is better, NaN for an expert without a score.
      accuracies: after fine-tuning, 0 to 1.
      k: 1 to the number of experts.

    Returns:
      0 to 1; not smaller for a larger k.

    Raises:
      ConfigError: other shapes, infinite scores, accuracies outside 0 to 1, a k that is not allowed.

    Cost: O(e log e).
    """
    scores, accuracies = pair(scores, accuracies)
    return expected_best(order_of(scores), accuracies, first(k, len(accuracies)))


def top_k_gain(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], reference: float, k: int = 3) -> float:
    """`top_k_accuracy` minus the accuracy of the reference expert: what the selection adds to the default choice.

    Args:
      scores: as `top_k_accuracy`.
      accuracies: as `top_k_accuracy`.
      reference: accuracy of the expert that is used without a selection, 0 to 1. It is not added to the k.
      k: as `top_k_accuracy`.

    Returns:
      -1 to 1, in units of accuracy. Negative where the reference is better than all k.

    Raises:
      ConfigError: as `top_k_accuracy`, and a reference outside 0 to 1.

    Used by: the paper, section 4.3 (k = 3, over an ImageNet expert).
    """
    return top_k_accuracy(scores, accuracies, k) - fraction(reference, "reference")


def regret(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], k: int = 1) -> float:
    """How much accuracy is lost against trying all experts: the best of all minus `top_k_accuracy`.

    Returns:
      0 to 1; 0 means that nothing is lost. Lower is better.

    Raises:
      ConfigError: as `top_k_accuracy`.

    Used by: Renggli et al., Which Model to Transfer; SHiFT.
    """
    scores, accuracies = pair(scores, accuracies)
    return max(0.0, float(accuracies.max()) - top_k_accuracy(scores, accuracies, k))


def trials_to_best(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], tolerance: float = 0.0) -> float:
    """Expected number of experts that are tried, in the order of the scores, until one is as good as the best of all.

    Among n experts with equal scores of which b are good, the first good one is the (n + 1) / (b + 1)-th on average.

    Args:
      scores: as `top_k_accuracy`.
      accuracies: as `top_k_accuracy`.
      tolerance: an expert is good when its accuracy is within this of the best. The best can be several. Differences below 1e-12 are none.

    Returns:
      1 to the number of experts e; (e + 1) / 2 for a random order and one best expert. Lower is better.

    Raises:
      ConfigError: as `top_k_accuracy`, and a negative tolerance.

    Used by: the paper, section 4.3 (fewer than 7 of 30).
    """
    scores, accuracies = pair(scores, accuracies)
    good, before = _good(accuracies, tolerance), 0
    for group in order_of(scores):
        if found := np.count_nonzero(good[group]):
            break
        before += len(group)
    return before + (len(group) + 1) / (found + 1)


def hit_rate(scores: Float[np.ndarray, " e"], accuracies: Float[np.ndarray, " e"], k: int = 3, tolerance: float = 0.0) -> float:
    """Probability that an expert as good as the best of all is among the k with the highest scores.

    Args:
      scores: as `top_k_accuracy`.
      accuracies: as `top_k_accuracy`.
      k: as `top_k_accuracy`.
      tolerance: as `trials_to_best`.

    Returns:
      0 to 1; only ties make it a fraction. k / e for a random order and one best expert.

    Raises:
      ConfigError: as `top_k_accuracy`, and a negative tolerance.
    """
    scores, accuracies = pair(scores, accuracies)
    good = _good(accuracies, tolerance).astype(float)
    return expected_best(order_of(scores), good, first(k, len(accuracies)))


def _good(accuracies: np.ndarray, tolerance: float) -> np.ndarray:
    return accuracies >= accuracies.max() - not_negative(tolerance, "tolerance") - ROUNDING
