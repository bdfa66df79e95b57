"""95 % intervals: of scores over the choice of images, and of a share of independent images.

Scores: standard errors come from balanced half-samples (the delete-d jackknife). Each class gives
half of its images, without replacement, the same number every time. The spread of a statistic over half-samples, scaled
by their size, estimates its standard error on the whole sample. Unlike a bootstrap there are no
duplicated examples, and the same half-samples serve all experts, so differences between two experts are estimated
from pairs. Intervals use Student's quantiles, because the spread of a class with three images is hardly known.

Reference: Wu 1986, Annals of Statistics 14; Shao & Tu 1995, The Jackknife and Bootstrap, chapter 2; Satterthwaite 1946,
Biometrics Bulletin 2.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

Z95 = 1.959963984540054
"""Standard errors on either side of a 95 % interval of a normal variable."""
MIN_RESAMPLES = 20
MIN_FREEDOM = 2.0
"""Degrees of freedom below which there are no intervals: a class of one or two images would determine the error."""


@dataclass(frozen=True)
class HalfSamples:
    """Index sets with half of each class, and the factors from their spread to an interval.

    Attributes:
      rows: one index set per half-sample; empty where there are no intervals.
      scale: factor from a spread over half-samples to a standard error: sqrt(r / d) for r images used and d left out, of the class where it is
        largest.
      degrees_of_freedom: degrees of freedom of that standard error.
    """

    rows: tuple[np.ndarray, ...]
    scale: float = 1.0
    degrees_of_freedom: float = math.inf

    @cached_property
    def quantile(self) -> float:
        """Standard errors on either side of a 95 % interval: 1.96 where classes are large."""
        from scipy.stats import t  # here, for SciPy takes long to import

        return float(t.ppf(0.975, self.degrees_of_freedom)) if math.isfinite(self.degrees_of_freedom) else Z95

    def standard_error(self, values: Float[np.ndarray, " resamples"]) -> float:
        """Standard error of a statistic on the whole sample, from its values on the half-samples (NaN: no value).

        NaN if fewer than `MIN_RESAMPLES` half-samples have a value, or all have the same.
        """
        known = values[np.isfinite(values)]
        if len(known) < MIN_RESAMPLES or np.ptp(known) <= 1e-12 * np.abs(known).max():
            return float("nan")
        return self.scale * float(np.std(known, ddof=1))

    def margin(self, values: Float[np.ndarray, " resamples"]) -> float:
        """Half the width of the 95 % interval of a statistic. NaN as `standard_error`."""
        return self.quantile * self.standard_error(values)

    def distinguishes(self, best: Float[np.ndarray, " resamples"], other: Float[np.ndarray, " resamples"], difference: float) -> bool:
        """Whether the 95 % interval of a difference, estimated from pairs, excludes zero. False if there is no interval."""
        return bool(abs(difference) > self.margin(best - other))


def half_samples(labels: Int[np.ndarray, " n"], *, resamples: int, seed: int) -> HalfSamples:
    """Random half-samples: the smaller half of a class with an odd number of images. A class with a single image contributes it with probability 1/2.

    There are none if most images are in classes of three or less, whose halves contain no pair of one class, or if classes of one or two
    images have so much weight that `degrees_of_freedom` is below `MIN_FREEDOM` (25 and 2 images: 1.2; 25 and 3: 2.5).
    """
    rng = np.random.default_rng([seed, 0x4A1F])
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    sizes = np.array([len(m) for m in members])
    freedom = degrees_of_freedom(sizes)
    if resamples == 0 or freedom < MIN_FREEDOM or 2 * sizes[sizes >= 4].sum() < sizes.sum():
        return HalfSamples((), float("nan"), freedom)

    def half(places: np.ndarray) -> np.ndarray:
        return rng.permutation(places)[: len(places) // 2 if len(places) > 1 else rng.integers(2)]

    rows = tuple(np.sort(np.concatenate([half(places) for places in members])) for _ in range(resamples))
    return HalfSamples(rows, float(np.sqrt(max(1.0 if n == 1 else (n // 2) / (n - n // 2) for n in sizes))), freedom)


def degrees_of_freedom(sizes: Int[np.ndarray, " c"]) -> float:
    """Satterthwaite's degrees of freedom of the variance of a sum over class means, for equal variances within the classes.

    A class with one image counts as one degree of freedom.
    """
    variances = 1 / np.asarray(sizes, np.float64)
    return float(variances.sum() ** 2 / (variances**2 / np.maximum(np.asarray(sizes) - 1, 1)).sum())


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of Wilson 1927 for a share of n independent images; it stays within 0 .. 1 and has a width at both ends."""
    z = Z95**2
    middle, margin = (share + z / (2 * n)) / (1 + z / n), Z95 / (1 + z / n) * np.sqrt(share * (1 - share) / n + z / (4 * n**2))
    # The share itself is inside, whatever the rounding at 0 and 1.
    return max(min(float(middle - margin), share), 0.0), min(max(float(middle + margin), share), 1.0)
