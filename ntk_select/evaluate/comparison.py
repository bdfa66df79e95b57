"""Paired comparison of two scores on the same targets and of a score with a random order, with p-values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import ConfigError
from ntk_select.evaluate.bootstrap import AXES, Interval, Settings, Table, interval_of, observed, tables
from ntk_select.evaluate.measures import Measure, expectation_of, named_measure
from ntk_select.evaluate.target import ROUNDING, Target, numbers

MAX_EXACT = 14
RANDOM_SIGNS = 10_000


@dataclass(frozen=True)
class Paired:
    """Score a minus score b, or minus the exact expectation of a random order.

    Attributes:
      difference: the mean over targets with its interval.
      share: share of the replicates in which a has the larger value, ties half; NaN if there is none. Of `regret` and `trials_to_best` smaller
        values are better.
      p_value: two-sided, of the sign-flip test over clusters of targets; NaN if no target has both values.
    """

    difference: Interval
    share: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.difference}, larger in {100 * self.share:.0f} % of the replicates, p = {self.p_value:.2g}"


def paired(
    measure: str | Measure,
    targets_a: Sequence[Target],
    targets_b: Sequence[Target],
    /,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    over: Sequence[str] = AXES,
    **options,
) -> Paired:
    """Compares two scores on the same targets: every replicate has the same clusters of targets, probe samples and seeds for both.

    Only probe samples on which both scores are defined are used. The limitations of `interval` apply.

    Args:
      measure: as `interval`.
      targets_a: at least one.
      targets_b: the same targets in the same order, with the same accuracies and clusters, and as many probe samples or one. One, as of
        a static leaderboard, is compared with every one of the other; several must be of the same probe images.
      resamples: as `interval`.
      level: as `interval`.
      seed: as `interval`.
      over: as `interval`; the p-value does not depend on it.
      **options: as `interval`.

    Raises:
      ConfigError: as `interval`, and targets that are not the same in both.
    """
    settings, measure = Settings(resamples, level, seed, over), named_measure(measure, options)
    tables_a, tables_b = (tables(measure, targets, settings) for targets in (targets_a, targets_b))
    _refuse_unpaired(targets_a, targets_b)
    return _compared(tables_a, tables_b, settings)


def against_random(
    measure: str,
    targets: Sequence[Target],
    /,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    over: Sequence[str] = AXES,
    **options,
) -> Paired:
    """Compares a score with a random order of the same experts: with its exact expectation on every target, not with one random order.

    A single random order, such as that of the score `random`, differs from the expectation by as much as scores differ from each other.

    Args:
      measure: a name that `random_expectation` takes.
      targets: at least one.
      resamples: as `interval`.
      level: as `interval`.
      seed: as `interval`.
      over: as `interval`; the p-value does not depend on it.
      **options: as `interval`.

    Returns:
      The difference, positive where the score has the larger value. A correlation's expectation is 0 (but that of `weighted_tau` with ties).

    Raises:
      ConfigError: as `interval`, and a measure without a known expectation.
    """
    settings, expected = Settings(resamples, level, seed, over), expectation_of(measure, options)
    own, chance = (tables(each, targets, settings) for each in (named_measure(measure, options), expected))
    return _compared(own, chance, settings)


def _compared(tables_a: Sequence[Table], tables_b: Sequence[Table], settings: Settings) -> Paired:
    differences = [a - b for a, b in zip(tables_a, tables_b, strict=True)]
    difference, drawn = interval_of(differences, settings)
    larger, equal = drawn > ROUNDING, np.abs(drawn) <= ROUNDING
    share = float(np.mean(larger + equal / 2)) if len(drawn) else float("nan")
    clusters = np.array([table.cluster for table in differences])
    return Paired(difference, share, sign_flip(observed(differences), clusters, seed=settings.seed))


def sign_flip(differences: Float[np.ndarray, " t"], clusters: Int[np.ndarray, " t"] | None = None, *, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference, under the hypothesis that the sign of the differences of each cluster is random.

    All differences of a cluster change their sign together. Exact over all 2^c signs up to c = 14 clusters, where the smallest possible
    value is 2 / 2^c (0.06 for five clusters: it cannot reach 0.05); else from 10,000 random signs and the observed ones. Targets with NaN
    are left out, and clusters that have no others.

    Args:
      differences: one per target.
      clusters: number of the cluster of each target; None: every target is one.
      seed: of the random signs.

    Reference: Fisher 1935, The Design of Experiments, section 21; Phipson & Smyth 2010 for the random signs; Canay, Romano & Shaikh 2017,
      Econometrica 85, for signs of clusters.
    """
    clusters = np.arange(len(differences)) if clusters is None else clusters
    measured = ~np.isnan(differences)
    if not measured.any():
        return float("nan")
    known = np.bincount(np.unique(clusters[measured], return_inverse=True)[1], differences[measured])
    least = abs(known.sum()) - ROUNDING * np.count_nonzero(measured)
    if len(known) <= MAX_EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(known))[:, None] >> np.arange(len(known)) & 1)
        return float(np.mean(np.abs(signs @ known) >= least))
    signs = 1 - 2 * np.random.default_rng([seed, 3]).integers(2, size=(RANDOM_SIGNS, len(known)))
    return float((1 + np.count_nonzero(np.abs(signs @ known) >= least)) / (1 + RANDOM_SIGNS))


def _refuse_unpaired(targets_a: Sequence[Target], targets_b: Sequence[Target]) -> None:
    if len(targets_a) != len(targets_b):
        raise ConfigError(
            f"One score has {len(targets_a)} targets and the other {len(targets_b)}. Both must have the same targets, in the same order."
        )
    for a, b in zip(targets_a, targets_b, strict=True):
        if a.name != b.name or not np.array_equal(a.accuracies, b.accuracies):
            raise ConfigError(
                f"Target {a.name!r} is paired with {b.name!r} of other name or accuracies. Both must have the same targets, in the same order."
            )
        if a.cluster != b.cluster:
            raise ConfigError(f"Target {a.name!r} has the clusters {a.cluster!r} and {b.cluster!r}. Both scores need the same clusters of targets.")
        if len(a.scores) != len(b.scores) and 1 not in (len(a.scores), len(b.scores)):
            raise ConfigError(
                f"Target {a.name!r} has {len(a.scores)} and {len(b.scores)} probe samples. Both scores need the same number of probe samples, "
                "or one has a single sample."
            )


def holm(p_values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Holm's step-down correction: reject where the result is below 0.05, and the probability of any false rejection is at most 5 %.

    Valid for dependent tests; never weaker than Bonferroni.

    Args:
      p_values: 0 to 1; NaN for a test that could not be made. It stays NaN and does not count.

    Returns:
      Adjusted p-values in the same places, at least as large as given, at most 1.

    Raises:
      ConfigError: not one-dimensional, or outside 0 to 1.

    Cost: O(p log p).  Reference: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    given = numbers(p_values, "p_values")
    known = np.flatnonzero(~np.isnan(given))
    if given.ndim != 1 or ((given[known] < 0) | (given[known] > 1)).any():
        raise ConfigError("p_values are not a vector of numbers from 0 to 1. Allowed: one per test, NaN where there is none.")
    adjusted, order = np.full(given.shape, np.nan), known[np.argsort(given[known])]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return adjusted
