"""A check: what is computed, how far two devices may differ in it, and what one device alone must satisfy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Values = dict[str, Any]
"""What a check computes: arrays by name."""
EXACT = (0.0, 0.0)


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
      name: what is computed.
      run: computes it; a second call shows whether the device repeats its numbers.
      allowed: largest relative distance between two devices, in float32 and in float64, by name of the value. Values without an entry are
        for `laws` alone.
      laws: values -> {identity: (relative distance of its two sides, largest allowed)}, on each device.
      order: {name of a value with places: name of the value that orders them}. Places may differ only where the values are too close to tell.
      flops: floating-point operations of a run, for the rate.
      peak: name of the check whose rate is the device's peak.
      repeats: timed runs after the first; the fastest counts.
      bytes: device memory that it needs.
      drawn: whether random numbers depend on the type, so that float32 and float64 cannot be compared.
    """

    name: str
    run: Callable[[], Values]
    allowed: dict[str, tuple[float, float]] = field(default_factory=dict)
    laws: Callable[[Values], dict[str, tuple[float, float]]] = lambda _: {}
    order: dict[str, str] = field(default_factory=dict)
    flops: float = 0.0
    peak: str = ""
    repeats: int = 1
    bytes: float = 1e9
    drawn: bool = False


def distance(found, expected) -> float:
    """Norm of the difference over the norm of `expected`; infinity for another shape or a number that is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    apart, scale = np.linalg.norm(found - expected), np.linalg.norm(expected)
    return float(apart / scale if scale else (0.0 if apart == 0 else np.inf))


def misplaced(found, expected, values, allowed: float) -> int:
    """Pairs in another order, of those whose values differ by more than two errors of the size `allowed`."""
    values, found, expected = (np.asarray(array, np.float64) for array in (values, found, expected))
    i, j = np.triu_indices(len(values), 1)
    decided = np.abs(values[i] - values[j]) > 2 * allowed * np.linalg.norm(values)
    return int((np.sign(found[i] - found[j]) != np.sign(expected[i] - expected[j]))[decided].sum())
