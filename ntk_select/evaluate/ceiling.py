"""How well any score can do, given the noise of fine-tuning.

Fine-tuned again with another seed, an expert has another accuracy. A score that knows the expected accuracy of every expert therefore does not
order the measured accuracies perfectly. `noise_ceiling` estimates its Spearman correlation; for other measures, `other_seed` takes the
accuracy of another fine-tuning as the score.

Noise is what differs between the seeds. What they share, such as the test images, counts as a property of the target.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.evaluate.bootstrap import Interval, interval
from ntk_select.evaluate.correlations import spearman
from ntk_select.evaluate.target import Target, fractions, rows_of


def noise_ceiling(accuracies: Float[np.ndarray, "s e"] | Float[np.ndarray, " e"]) -> float:
    """Spearman correlation that the expected accuracies of the experts can be expected to have with their mean accuracies over s seeds.

    With r the mean Spearman correlation between two seeds, the reliability of the mean is R = s r / (1 + (s - 1) r), and the ceiling
    sqrt(max(R, 0)). Exact for Pearson's correlation and noise that is equally large for all experts. In ranks, of normal accuracies and many
    experts, it is at most 0.01 too high. For few experts it is noisy, and a score can exceed it by chance: with 24 experts and two seeds its
    standard deviation is 0.06, 0.13 and 0.23 where one seed has the reliability 0.7, 0.5 and 0.3, and its mean within 0.04 of the
    truth; for accuracies that are noise alone its mean is 0.25 instead of 0.

    Args:
      accuracies: 0 to 1, one row per fine-tuning seed.

    Returns:
      0 to 1. NaN with one seed, fewer than three experts, or a seed in which all accuracies are equal.

    Raises:
      ConfigError: another shape, or accuracies outside 0 to 1.

    Cost: O(s^2 e log e).  Reference: Spearman 1910 and Brown 1910, British Journal of Psychology 3 (R); Spearman 1904, American Journal of
      Psychology 15 (its root).
    """
    accuracies = fractions(rows_of(accuracies, "accuracies", "seeds"))
    between = [spearman(one, other) for one, other in combinations(accuracies, 2)]
    if not between:
        return float("nan")
    r, seeds = float(np.mean(between)), len(accuracies)
    return 0.0 if r <= 0 else float(np.sqrt(seeds * r / (1 + (seeds - 1) * r)))


def ceiling(targets: Sequence[Target], /, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of `noise_ceiling` over targets, of the experts that have a score, with a bootstrap interval over clusters of targets.

    It is to be read next to interval("spearman", targets). Seeds are not resampled: a seed that is drawn twice would agree with itself and
    look like accuracies without noise. That is why the ceiling is not one of the measures by name, which are given means over resampled seeds.

    Args:
      targets: at least one. Those with one seed have no value and are counted as undefined. The values of the scores do not matter, only
        which of them are NaN.
      resamples: as `interval`.
      level: as `interval`.
      seed: as `interval`.

    Returns:
      0 to 1; NaN if no target has two seeds.

    Raises:
      ConfigError: as `interval`.

    Cost: one `noise_ceiling` per target and probe sample; replicates are lookups.
    """
    return interval(_of_scored, targets, resamples=resamples, level=level, seed=seed, over=("targets",))


def _of_scored(scores: np.ndarray, _, target: Target) -> float:
    scored = ~np.isnan(scores)
    return noise_ceiling(target.accuracies[:, scored]) if scored.any() else float("nan")


def other_seed(target: Target) -> tuple[Target, ...]:
    """The target once for each of its s seeds: the accuracies are those of the seed, the score is the mean accuracy over all other seeds.

    The value of a measure on them is what s - 1 fine-tunings of every expert achieve as a score for another one. They are one cluster, so
    `interval` takes the mean over all s choices and resamples them together:

        again = [each for target in targets for each in other_seed(target)]
        interval("trials_to_best", again)

    A score is compared with it on the same single accuracies: replace(each, scores=target.scores) for the same entries. Targets with more
    seeds weigh more. With two seeds the score is as noisy as the accuracies, so a perfect score could do better still.

    Args:
      target: two seeds or more. An expert without a score on any probe sample has none here either.

    Returns:
      s targets of one probe sample and one seed, of the same name, reference, groups and costs, in the cluster of the target or, if it has
      none, in one with its name.

    Raises:
      ConfigError: the target has one seed.

    Cost: O(s e).
    """
    seeds = len(target.accuracies)
    if seeds < 2:
        raise ConfigError(f"Target {target.name!r} has one fine-tuning seed. Required: two or more. Try: leave it out, or measure another seed.")
    scored = ~np.isnan(target.scores).all(axis=0)
    others = [target.mean_accuracies(np.arange(seeds) != own) for own in range(seeds)]
    cluster = target.name if target.cluster is None else target.cluster
    return tuple(
        replace(target, scores=np.where(scored, score, np.nan), accuracies=accuracies, cluster=cluster)
        for score, accuracies in zip(others, target.accuracies, strict=True)
    )
