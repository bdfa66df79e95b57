"""Bootstrap intervals of a measure, over targets, probe samples and fine-tuning seeds.

A measure is computed once for every probe sample and every multiset of seeds of a target; a replicate only looks values up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, factorial, floor, isfinite, log10, prod

import numpy as np
from jaxtyping import Float, Int

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.measures import Measure, named_measure
from ntk_select.evaluate.target import Target

AXES = ("targets", "draws", "seeds")
MAX_MULTISETS = 200
MIN_RESAMPLES = 100


@dataclass(frozen=True)
class Settings:
    """Number of resamples, level of the interval, seed, and axes that are resampled. Raises ConfigError for invalid values."""

    resamples: int
    level: float
    seed: int
    over: Sequence[str]

    def __post_init__(self):
        if not is_whole(self.resamples) or self.resamples < MIN_RESAMPLES:
            raise ConfigError(f"resamples={self.resamples!r} must be a whole number, {MIN_RESAMPLES} or more; 1000 is usual.")
        if not 0 < self.level < 1:
            raise ConfigError(f"level={self.level!r} must be between 0 and 1, both excluded; 0.95 is usual.")
        if not is_whole(self.seed) or self.seed < 0:
            raise ConfigError(f"seed={self.seed!r} must be a whole number, 0 or more.")
        if isinstance(self.over, str) or not self.over:
            raise ConfigError(f"over={self.over!r} must be one or more of {', '.join(AXES)}, as ('targets',).")
        for axis in self.over:
            if axis not in AXES:
                raise ConfigError(f"over contains {axis!r}.{did_you_mean(str(axis), AXES)}")


@dataclass(frozen=True)
class Table:
    """Values of a measure on one target.

    Attributes:
      values: (probe samples, multisets of seeds), NaN where undefined.
      chances: probabilities of the multisets.
      observed: (probe samples,) with every seed once.
      cluster: number of the cluster of the target, from 0.
    """

    values: Float[np.ndarray, "d m"]
    chances: Float[np.ndarray, " m"]
    observed: Float[np.ndarray, " d"]
    cluster: int

    def __sub__(self, other: "Table") -> "Table":
        """The difference of two measures on the same target; a table with one probe sample is compared with every one of the other."""
        return Table(self.values - other.values, self.chances, self.observed - other.observed, self.cluster)


def tables(measure: Measure, targets: Sequence[Target], settings: Settings) -> list[Table]:
    """One table per target; equal settings give equal multisets of seeds. Raises ConfigError if there is no target."""
    if not targets or not all(isinstance(target, Target) for target in targets):
        raise ConfigError(f"targets has {len(targets)} entries. Allowed: at least one, each made by evaluate.Target(...).")
    clusters = clusters_of(targets)
    return [_table(measure, target, settings, place, cluster) for place, (target, cluster) in enumerate(zip(targets, clusters, strict=True))]


def clusters_of(targets: Sequence[Target]) -> list[int]:
    """Number of the cluster of each target, from 0 in the order of their first targets; a target without a cluster is one of its own."""
    numbers = {}
    return [numbers.setdefault(target.cluster if target.cluster is not None else place, len(numbers)) for place, target in enumerate(targets)]


def _table(measure: Measure, target: Target, settings: Settings, place: int, cluster: int) -> Table:
    everyone = np.ones((1, len(target.accuracies)), int)
    counts, chances = everyone, np.ones(1)
    if "seeds" in settings.over:
        counts, chances = multisets(len(target.accuracies), np.random.default_rng([settings.seed, 1, place]))

    def values(counts):
        columns = [target.mean_accuracies(row) for row in counts]
        return np.array([[float(measure(scores, accuracies, target)) for accuracies in columns] for scores in target.scores])

    return Table(values(counts), chances, values(everyone)[:, 0], cluster)


def multisets(seeds: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, "m s"], Float[np.ndarray, " m"]]:
    """Count of each seed in a resample, and its probability: all C(2s-1, s) multisets up to 200 of them (s <= 5), else 200 at random."""
    if comb(2 * seeds - 1, seeds) > MAX_MULTISETS:
        chosen = rng.integers(seeds, size=(MAX_MULTISETS, seeds))
        return np.array([np.bincount(row, minlength=seeds) for row in chosen]), np.full(MAX_MULTISETS, 1 / MAX_MULTISETS)
    counts = np.array([np.bincount(row, minlength=seeds) for row in combinations_with_replacement(range(seeds), seeds)])
    chances = [factorial(seeds) / prod(map(factorial, row.tolist())) / seeds**seeds for row in counts]
    return counts, np.array(chances)


def mean_of_known(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """Mean over the last axis without NaN; NaN if there is nothing else."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.divide(total, known.sum(axis=-1), out=np.full(total.shape, np.nan), where=known.any(axis=-1))


def observed(found: Sequence[Table]) -> Float[np.ndarray, " t"]:
    """The value of every target: the mean over its probe samples."""
    return np.array([mean_of_known(table.observed) for table in found])


def replicates(found: Sequence[Table], settings: Settings) -> Float[np.ndarray, " r"]:
    """The mean over all targets of the resampled clusters, each occurrence with its own probe samples and seeds. NaN if nothing is defined."""
    rng = np.random.default_rng([settings.seed, 2])
    clusters = np.array([table.cluster for table in found])
    sizes = np.bincount(clusters)
    shape = (settings.resamples, len(sizes))
    chosen = rng.integers(len(sizes), size=shape) if "targets" in settings.over else np.broadcast_to(np.arange(len(sizes)), shape)
    values = np.full((*shape, sizes.max()), np.nan)
    for place, table in enumerate(found):
        here = chosen == table.cluster
        times, samples = np.count_nonzero(here), len(table.values)
        rows = rng.integers(samples, size=(times, samples)) if "draws" in settings.over else np.broadcast_to(np.arange(samples), (times, samples))
        columns = rng.choice(len(table.chances), size=times, p=table.chances)
        values[here, np.count_nonzero(clusters[:place] == table.cluster)] = mean_of_known(table.values[rows, columns[:, None]])
    return mean_of_known(values.reshape(len(values), -1))


@dataclass(frozen=True)
class Interval:
    """A mean over targets with its bootstrap interval, printed as 0.41 [0.12, 0.66].

    Attributes:
      value: mean over the measured targets, each counted once, whatever its cluster; NaN if no target has a value.
      low, high: ends of the interval, quantiles of the replicates; NaN if none has a value.
      resamples: number of replicates.
      undefined: targets left out because the measure has no value on any of their probe samples.
      level: share of the replicates between the ends.
    """

    value: float
    low: float
    high: float
    resamples: int
    undefined: int = 0
    level: float = 0.95

    def __str__(self) -> str:
        width = self.high - self.low
        decimals = min(6, max(2, 1 - floor(log10(width)))) if isfinite(width) and width > 0 else 2
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(number + 0.0 for number in (self.value, self.low, self.high)), d=decimals)


def interval(
    measure: str | Measure,
    targets: Sequence[Target],
    /,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    over: Sequence[str] = AXES,
    **options,
) -> Interval:
    """The mean of a measure over targets, and a percentile interval of the bootstrap.

    The value of a target is the mean over its probe samples of measure(scores, accuracies averaged over seeds). A
    replicate resamples the clusters of targets with replacement, as many as there are, each with all its targets, and within each target
    the probe samples and the seeds; it is the mean over all targets drawn. Targets are their own clusters unless `Target.cluster` names one.
    Undefined values are left out.

    Not covered: the noise of fine-tuning if there is one fine-tuning seed, and that of the probe images if there is one probe sample. With few
    clusters (fewer than about 15), or clusters of very unequal sizes, the percentile bootstrap is too narrow. The choice of the experts is not
    resampled, and experts that share a source or an architecture are not independent: the interval is for this zoo. The noise of probe samples
    and seeds is also part of the spread between targets, so the interval is somewhat too wide where that noise dominates.
    Accuracies that are the best of several are biased upwards by their noise, which shifts the value and is not covered either.

    Args:
      measure: a name, such as "spearman", "top_k_gain", "within_groups"; or a function of scores (e,), accuracies (e,) and the target.
      targets: at least one.
      resamples: 100 or more.
      level: between 0 and 1.
      seed: equal seeds give equal intervals.
      over: what is resampled; "targets" are their clusters, "draws" the probe samples. ("targets",): other tasks with the same noise;
        ("draws", "seeds"): the same tasks, measured again.
      **options: options of a measure given by name, such as k=3. `top_k_gain` takes the reference from the target, as the index of an expert.

    Raises:
      ConfigError: an unknown measure or option, no target, a target without reference or groups where they are needed, other settings.

    Cost: d * m calls of the measure per target, with d probe samples and m = C(2s-1, s) multisets of s seeds (1, 3, 10, 35, 126; 200 from s = 6 on,
      then at random); replicates are lookups.

    Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; Davison & Hinkley 1997, section 3.8. Clusters: Field &
      Welsh 2007, JRSS B 69; Cameron, Gelbach & Miller 2008, Review of Economics and Statistics 90.
    """
    settings = Settings(resamples, level, seed, over)
    return interval_of(tables(named_measure(measure, options), targets, settings), settings)[0]


def interval_of(found: Sequence[Table], settings: Settings) -> tuple[Interval, np.ndarray]:
    """The interval, and the replicates that have a value."""
    values, drawn = observed(found), replicates(found, settings)
    drawn, known = drawn[~np.isnan(drawn)], values[~np.isnan(values)]
    tail = (1 - settings.level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]).tolist() if len(drawn) else (float("nan"),) * 2
    value = float(known.mean()) if len(known) else float("nan")
    return Interval(value, low, high, settings.resamples, len(values) - len(known), settings.level), drawn
