"""Are these examples and options that the engine can take?"""

import math
import numbers

import jax
import numpy as np

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.whole import is_whole

PRECISIONS = ("highest", "high", "default")


def check_precision(precision) -> None:
    """Raises ConfigError unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown.{did_you_mean(str(precision), PRECISIONS)}")


def check_batch_size(batch_size) -> None:
    """Raises ConfigError unless `batch_size` is None or a positive whole number."""
    if batch_size is not None and (not is_whole(batch_size) or batch_size < 1):
        raise ConfigError(f"batch_size={batch_size!r} must be a positive number of examples, or None to have it chosen.")


def check_count(name: str, value, least: int) -> None:
    """Raises ConfigError unless `value` is a whole number from `least`."""
    if not is_whole(value) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number from {least}.")


def is_number(value) -> bool:
    """Whether it is one real number, a scalar array among them, and not a bool."""
    if getattr(value, "shape", None) == () and getattr(value, "dtype", None) is not None and value.dtype.kind in "fiu":
        value = float(value)
    return isinstance(value, numbers.Real | np.floating | np.integer) and not isinstance(value, bool) and not math.isnan(value)


def check_space(space) -> None:
    """Raises ConfigError unless `space` is None or one of the two spaces."""
    if space not in (None, "parameter", "sample"):
        raise ConfigError(f"space={space!r} is unknown. Allowed: None (the cheaper one), 'parameter', 'sample'.")


def checked_examples(x, name: str, *, shapes: bool = False):
    """Examples as a NumPy array, or with `shapes` only their shape and type."""
    if shapes and isinstance(x, jax.ShapeDtypeStruct):
        array = x
    else:
        try:
            array = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} must be one array of examples (n, ...); given: {type(x).__name__}.") from error
    if array.dtype.kind not in "fiub" and not jax.numpy.issubdtype(array.dtype, jax.numpy.floating):
        raise ConfigError(f"{name} must be one array of numbers (n, ...); given: {type(x).__name__} of type {array.dtype}.")
    if len(array.shape) == 0 or array.shape[0] == 0:
        raise ConfigError(f"{name} has shape {array.shape}; it must be (n, ...) with at least one example.")
    return array


def checked_pair(x1, x2, *, shapes: bool = False):
    """Both sides; x2 may be None. Raises ConfigError unless they are examples of one shape and type."""
    x1 = checked_examples(x1, "x1", shapes=shapes)
    if x2 is None:
        return x1, None
    x2 = checked_examples(x2, "x2", shapes=shapes)
    if x1.shape[1:] != x2.shape[1:] or x1.dtype != x2.dtype:
        raise ConfigError(f"x1 holds {x1.dtype} examples of shape {x1.shape[1:]}, x2 {x2.dtype} of {x2.shape[1:]}; they must be alike.")
    return x1, x2
