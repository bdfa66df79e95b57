"""How sure is a score, given the few images it saw?

Balanced half-samples (the delete-half jackknife): each class gives half of its images, without replacement. The
spread of a statistic over half-samples estimates its standard error on the whole sample, without the duplicated
examples of a bootstrap, whose self-pairs would lift every kernel score. The same half-samples serve all experts, so
that the difference between two experts can be judged as a pair.

Reference: Wu 1986, Annals of Statistics 14; Shao & Tu 1995, The Jackknife and Bootstrap, chapter 2.
"""

import numpy as np
from jaxtyping import Float, Int

Z95 = 1.959963984540054


def half_samples(labels: Int[np.ndarray, " n"], *, draws: int, seed: int) -> list[np.ndarray]:
    """Index sets with half of each class; of an odd class the spare image is kept every other time at random.

    A class with one image is always kept, since dropping it would change the number of classes. When every class has
    one image there are no half-samples, and the list is empty.
    """
    rng = np.random.default_rng([seed, 0x4A1F])
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if max(map(len, members)) == 1:
        return []
    return [np.sort(np.concatenate([rng.permutation(m)[: max(1, (len(m) + int(rng.integers(2))) // 2)] for m in members])) for _ in range(draws)]


def standard_error(values: Float[np.ndarray, " draws"]) -> float:
    """Standard error of the statistic on the whole sample, from its values on half-samples."""
    return float(np.std(values, ddof=1))


def told_apart(best: Float[np.ndarray, " draws"], other: Float[np.ndarray, " draws"], difference: float) -> bool:
    """Whether a difference exceeds 1.96 standard errors, estimated from paired half-samples."""
    return abs(difference) > Z95 * standard_error(best - other)
