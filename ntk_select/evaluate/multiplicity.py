"""Which p-values still say something after many were looked at?"""

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.evaluate.checked import numbers


def holm(p_values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Holm's step-down correction: reject where the result is below 0.05, and a false rejection anywhere has at most 5 % chance.

    It holds for tests that depend on each other in any way, and is never weaker than Bonferroni.

    Args:
      p_values: 0 to 1; NaN for a test that could not be made. It stays NaN and is not counted.

    Returns:
      Adjusted p-values in the same places, at least as large as given, at most 1.

    Raises:
      ConfigError: not one-dimensional, or outside 0 to 1.

    Cost: O(p log p).  Reference: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    given = numbers(p_values, "p_values")
    known = np.flatnonzero(~np.isnan(given))
    if given.ndim != 1 or ((given[known] < 0) | (given[known] > 1)).any():
        raise ConfigError("p_values are not a row of numbers from 0 to 1. Allowed: one a test, NaN where there is none.")
    adjusted, order = np.full(given.shape, np.nan), known[np.argsort(given[known])]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return adjusted
