"""What would the mean over targets have been with other targets, probe draws and fine-tuning seeds? The replicates of a bootstrap.

A measure is computed once for every draw and every multiset of seeds of a target; a replicate only looks values up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, factorial, prod

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.checked import whole
from ntk_select.evaluate.measures import Measure
from ntk_select.evaluate.target import Target

AXES = ("targets", "draws", "seeds")
MOST_MULTISETS = 200
LEAST_RESAMPLES = 100


@dataclass(frozen=True)
class Settings:
    """How often, at what level, from which seed and over what is resampled. Raises ConfigError for what is not allowed."""

    resamples: int
    level: float
    seed: int
    over: Sequence[str]

    def __post_init__(self):
        if not whole(self.resamples) or self.resamples < LEAST_RESAMPLES:
            raise ConfigError(f"resamples is {self.resamples!r}. Allowed: a whole number, {LEAST_RESAMPLES} or more; 1000 is usual.")
        if not 0 < self.level < 1:
            raise ConfigError(f"level is {self.level!r}. Allowed: between 0 and 1, both excluded; 0.95 is usual.")
        if not whole(self.seed) or self.seed < 0:
            raise ConfigError(f"seed is {self.seed!r}. Allowed: a whole number, 0 or more.")
        if isinstance(self.over, str) or not self.over:
            raise ConfigError(f"over is {self.over!r}. Allowed: one or more of {', '.join(AXES)}, as ('targets',).")
        for axis in self.over:
            if axis not in AXES:
                raise ConfigError(f"over holds {axis!r}.{did_you_mean(str(axis), AXES)}")


@dataclass(frozen=True)
class Table:
    """A measure on one target.

    Attributes:
      values: (draws, multisets of seeds), NaN where undefined.
      chances: of the multisets.
      observed: (draws,) with every seed once.
    """

    values: Float[np.ndarray, "d m"]
    chances: Float[np.ndarray, " m"]
    observed: Float[np.ndarray, " d"]

    def __sub__(self, other: "Table") -> "Table":
        """The difference of two measures on the same target; a table with one draw holds for all draws of the other."""
        return Table(self.values - other.values, self.chances, self.observed - other.observed)


def tables(measure: Measure, targets: Sequence[Target], settings: Settings) -> list[Table]:
    """One a target; equal settings give equal multisets of seeds. Raises ConfigError where there is no target."""
    if not targets or not all(isinstance(target, Target) for target in targets):
        raise ConfigError(f"targets holds {len(targets)} entries. Allowed: at least one, each made by evaluate.Target(...).")
    return [_table(measure, target, settings, place) for place, target in enumerate(targets)]


def _table(measure: Measure, target: Target, settings: Settings, place: int) -> Table:
    everyone = np.ones((1, len(target.accuracies)), int)
    counts, chances = everyone, np.ones(1)
    if "seeds" in settings.over:
        counts, chances = multisets(len(target.accuracies), np.random.default_rng([settings.seed, 1, place]))

    def values(counts):
        columns = [target.mean_accuracies(row) for row in counts]
        return np.array([[float(measure(draw, accuracies, target)) for accuracies in columns] for draw in target.scores])

    return Table(values(counts), chances, values(everyone)[:, 0])


def multisets(seeds: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, "m s"], Float[np.ndarray, " m"]]:
    """How often each seed is in a resample, and its chance: all C(2s-1, s) multisets up to 200 of them (s <= 5), else 200 at random."""
    if comb(2 * seeds - 1, seeds) > MOST_MULTISETS:
        chosen = rng.integers(seeds, size=(MOST_MULTISETS, seeds))
        return np.array([np.bincount(row, minlength=seeds) for row in chosen]), np.full(MOST_MULTISETS, 1 / MOST_MULTISETS)
    counts = np.array([np.bincount(row, minlength=seeds) for row in combinations_with_replacement(range(seeds), seeds)])
    chances = [factorial(seeds) / prod(map(factorial, row.tolist())) / seeds**seeds for row in counts]
    return counts, np.array(chances)


def mean_of_known(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """Over the last axis without its NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.divide(total, known.sum(axis=-1), out=np.full(total.shape, np.nan), where=known.any(axis=-1))


def observed(found: Sequence[Table]) -> Float[np.ndarray, " t"]:
    """The value of every target: the mean over its draws."""
    return np.array([mean_of_known(table.observed) for table in found])


def replicates(found: Sequence[Table], settings: Settings) -> Float[np.ndarray, " r"]:
    """The mean over resampled targets, each with draws and seeds of its own, even when it comes twice. NaN where nothing is defined."""
    rng = np.random.default_rng([settings.seed, 2])
    shape = (settings.resamples, len(found))
    chosen = rng.integers(len(found), size=shape) if "targets" in settings.over else np.broadcast_to(np.arange(len(found)), shape)
    values = np.empty(shape)
    for place, table in enumerate(found):
        here = chosen == place
        times, draws = np.count_nonzero(here), len(table.values)
        rows = rng.integers(draws, size=(times, draws)) if "draws" in settings.over else np.broadcast_to(np.arange(draws), (times, draws))
        columns = rng.choice(len(table.chances), size=times, p=table.chances)
        values[here] = mean_of_known(table.values[rows, columns[:, None]])
    return mean_of_known(values)
