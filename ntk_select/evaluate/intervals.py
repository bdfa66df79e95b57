"""The normal quantile of 95 % intervals, and the interval of a share of independent images."""

import numpy as np

Z95 = 1.959963984540054
"""Standard errors on either side of a 95 % interval of a normal variable."""


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of Wilson 1927 for a share of n independent images; it stays within 0 .. 1 and has a width at both ends."""
    z = Z95**2
    middle, margin = (share + z / (2 * n)) / (1 + z / n), Z95 / (1 + z / n) * np.sqrt(share * (1 - share) / n + z / (4 * n**2))
    # The share itself is inside, whatever the rounding at 0 and 1.
    return max(min(float(middle - margin), share), 0.0), min(max(float(middle + margin), share), 1.0)
