"""Checks of arguments: numbers and callables."""

import math
import numbers
from typing import Any

import numpy as np

from ntk_select.errors import ConfigError


def is_whole(value: Any) -> bool:
    """Whether it is an integer of Python or NumPy, but not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(name: str, value, least: int) -> None:
    """Raises ConfigError unless `value` is an integer of at least `least`."""
    if not is_whole(value) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number from {least}.")


def is_number(value) -> bool:
    """Whether it is a real number or a scalar array, but not a bool, NaN or an integer beyond the range of floats."""
    if getattr(value, "shape", None) == () and getattr(value, "dtype", None) is not None and value.dtype.kind in "fiu":
        value = float(value)
    try:
        return isinstance(value, numbers.Real | np.floating | np.integer) and not isinstance(value, bool) and not math.isnan(value)
    except OverflowError:
        return False


def check_progress(progress) -> None:
    """Raises ConfigError unless `progress` is None or callable."""
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress= must be a function of (done, total, what); given: {type(progress).__name__}.")
