"""Is it a whole number?"""

from typing import Any

import numpy as np


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of Python or NumPy, and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
