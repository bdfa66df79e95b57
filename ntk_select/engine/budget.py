"""How much memory may a computation take?"""

import math
import numbers

import jax

from ntk_select.errors import ConfigError
from ntk_select.host_memory import free_memory

MOST_BYTES = 2**60  # of a budget; no machine has as much


def available_memory(memory_gb: float | None) -> int:
    """Bytes that may be used: what is asked for, or most of what the device has free; on the host half of what is free within its limits.

    Raises:
      ConfigError: `memory_gb` is not a positive number.
    """
    if memory_gb is not None:
        if not isinstance(memory_gb, numbers.Real) or isinstance(memory_gb, bool) or not 0 < memory_gb < math.inf:
            raise ConfigError(f"memory_gb={memory_gb!r} must be a positive number of gigabytes, for example memory_gb=4.")
        return int(min(memory_gb * 1e9, MOST_BYTES))
    device = jax.devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return int(0.8 * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    return int(0.5 * free_memory())
