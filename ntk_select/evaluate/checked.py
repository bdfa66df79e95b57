"""Are scores, accuracies and options what the measures can take? Every sentence says what was given and what is allowed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError

# Accuracies are counts of images divided by a count: two that differ by less than this are equal, and only rounding told them apart.
ROUNDING = 1e-12


def numbers(given, name: str) -> np.ndarray:
    """As float64. Raises ConfigError for what is not a number."""
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} are not an array of numbers. Allowed: a float array, NaN where there is no value.") from error


def one_an_expert(given, name: str, experts: int | None = None) -> Float[np.ndarray, " e"]:
    """One number an expert. Raises ConfigError for another shape or no expert."""
    values = numbers(given, name)
    if values.ndim != 1 or not values.size:
        raise ConfigError(f"{name} have the shape {values.shape}. Allowed: one number an expert, at least one expert, (e,).")
    if experts is not None and len(values) != experts:
        raise ConfigError(f"{name} are for {len(values)} experts, and accuracies for {experts}. Give both for the same experts, in the same order.")
    return values


def without_infinity(values: np.ndarray, name: str = "scores") -> np.ndarray:
    """Finite, or NaN for no score. Raises ConfigError for infinity."""
    if np.isinf(values).any():
        raise ConfigError(f"{name} hold infinity. Allowed: finite numbers, and NaN for an expert without a score.")
    return values


def fractions(values: np.ndarray, name: str = "accuracies") -> np.ndarray:
    """Finite and within 0 to 1. Raises ConfigError for anything else."""
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise ConfigError(f"{name} hold {values[wrong][0]:g}. Allowed: 0 to 1 (divide percentages by 100), without NaN.")
    return values


def pair(scores, accuracies) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Scores (NaN: none) and accuracies of the same experts. Raises ConfigError."""
    accuracies = fractions(one_an_expert(accuracies, "accuracies"))
    return without_infinity(one_an_expert(scores, "scores", len(accuracies))), accuracies


def not_negative(given: float, name: str) -> float:
    """One finite number from 0. Raises ConfigError for anything else."""
    value = numbers(given, name)
    if value.ndim or not np.isfinite(value) or value < 0:
        raise ConfigError(f"{name} is {given!r}. Allowed: a finite number, 0 or more.")
    return float(value)


def fraction(given: float, name: str) -> float:
    """One number from 0 to 1. Raises ConfigError for anything else."""
    value = numbers(given, name)
    if value.ndim or not 0 <= value <= 1:
        raise ConfigError(f"{name} is {given!r}. Allowed: an accuracy, 0 to 1.")
    return float(value)


def whole(given: int) -> bool:
    """Whether this is a whole number, True and False not being one."""
    return is_whole(given)


def first(k: int, experts: int) -> int:
    """How many experts are tried. Raises ConfigError unless it is 1 to their number."""
    if not whole(k) or not 1 <= k <= experts:
        raise ConfigError(f"k is {k!r}, and there are {experts} experts. Allowed: a whole number, 1 to {experts}.")
    return int(k)


def names_of_groups(groups: Sequence[str], experts: int) -> np.ndarray:
    """One name an expert. Raises ConfigError for another number of them."""
    if isinstance(groups, str) or len(groups) != experts:
        raise ConfigError(f"groups has the length {len(groups)}, and there are {experts} experts. Give the group of each, as ('resnet', 'densenet').")
    return np.array([str(group) for group in groups])
