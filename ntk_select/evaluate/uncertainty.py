"""How sure is the mean of a measure over targets?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

import numpy as np

from ntk_select.evaluate.bootstrap import AXES, Settings, Table, observed, replicates, tables
from ntk_select.evaluate.measures import Measure, named_measure
from ntk_select.evaluate.target import Target


@dataclass(frozen=True)
class Interval:
    """A mean over targets with its bootstrap interval, printed as 0.41 [0.12, 0.66].

    Attributes:
      value: on what was measured; NaN if no target has a value.
      low: lower end.
      high: upper end.
      resamples: replicates behind the ends.
      undefined: targets left out because the measure has no value on any of their draws.
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

    The value of a target is the mean over its probe draws of measure(scores of the draw, accuracies averaged over seeds). A replicate takes
    as many targets with replacement, and within each as many draws and as many seeds with replacement. Undefined values are left out.

    What the interval does not cover: with one fine-tuning seed no noise of fine-tuning, with one draw none of the probe images. With few
    targets (fewer than about 15) the percentile bootstrap is too narrow. The choice of the experts is not resampled, and experts that
    share a source or an architecture are not independent: the interval is for this zoo. The noise of draws and seeds is also
    part of the spread between targets, so that where it is the larger part the interval is somewhat too wide.
    Accuracies that choose the best of several are too high by their noise, which moves the value and no interval can mend.

    Args:
      measure: a name, such as "spearman", "top_k_gain", "within_groups"; or a function of scores (e,), accuracies (e,) and the target.
      targets: at least one.
      resamples: 100 or more.
      level: between 0 and 1.
      seed: equal seeds give equal intervals.
      over: what is resampled. ("targets",) asks for other tasks with the noise as it was; ("draws", "seeds") for the same tasks again.
      **options: of a measure given by name, such as k=3. `top_k_gain` takes the reference from the target, as the index of an expert.

    Raises:
      ConfigError: an unknown measure or option, no target, a target without reference or groups where they are needed, other settings.

    Cost: d * m calls of the measure a target, with d draws and m = C(2s-1, s) multisets of s seeds (1, 3, 10, 35, 126; 200 from s = 6 on,
      then at random); replicates are lookups.

    Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; Davison & Hinkley 1997, section 3.8.
    """
    settings = Settings(resamples, level, seed, over)
    return interval_of(tables(named_measure(measure, options), targets, settings), settings)[0]


def interval_of(found: Sequence[Table], settings: Settings) -> tuple[Interval, np.ndarray]:
    """The interval, and its replicates that have a value."""
    values, drawn = observed(found), replicates(found, settings)
    drawn, known = drawn[~np.isnan(drawn)], values[~np.isnan(values)]
    tail = (1 - settings.level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]).tolist() if len(drawn) else (float("nan"),) * 2
    value = float(known.mean()) if len(known) else float("nan")
    return Interval(value, low, high, settings.resamples, len(values) - len(known), settings.level), drawn
