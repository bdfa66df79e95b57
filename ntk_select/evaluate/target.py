"""Measurements of one target task, and checks of scores, accuracies and options.

Every error message states what was given and what is allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError

DECIMALS = 12
"""Decimals of accuracies averaged over seeds."""
ROUNDING = 1e-12
"""Accuracies are counts of images divided by a count: a smaller difference is a rounding error."""


@dataclass(frozen=True, eq=False)
class Target:
    """Measurements of one target task. All fields have the same e experts in the same order.

    Attributes:
      name: name of the task.
      scores: (d, e), one row per probe sample, or (e,) for a single one; higher is better, NaN for an expert without a score.
      accuracies: (s, e), one row per fine-tuning seed, or (e,) for a single one; 0 to 1, without NaN.
      reference: index of the expert that is used without a selection, or None.
      groups: the group of each expert, such as its architecture, or None.
      costs: cost of fine-tuning each expert, or None.
      scoring_cost: cost of scoring all experts, in the unit of `costs`.
      cluster: name of the group of targets that are not independent of it, such as the data set that its images are from; None: a cluster
        of its own.

    Raises:
      ConfigError: shapes that do not agree, infinite scores, accuracies outside 0 to 1, a reference that is not an index, a cluster that is
        not a name.
    """

    name: str
    scores: Float[np.ndarray, "d e"] | Float[np.ndarray, " e"]
    accuracies: Float[np.ndarray, "s e"] | Float[np.ndarray, " e"]
    reference: int | None = None
    groups: tuple[str, ...] | None = None
    costs: Float[np.ndarray, " e"] | None = None
    scoring_cost: float = 0.0
    cluster: str | None = None

    def __post_init__(self):
        try:
            self._check()
        except ConfigError as error:
            raise ConfigError(f"Target {self.name!r}: {error}") from error

    def _check(self) -> None:
        accuracies = fractions(rows_of(self.accuracies, "accuracies", "seeds"))
        experts = accuracies.shape[1]
        scores = without_infinity(rows_of(self.scores, "scores", "probe samples"))
        if scores.shape[1] != experts:
            raise ConfigError(f"scores are for {scores.shape[1]} experts, and accuracies for {experts}. Both must be for the same experts.")
        if self.reference is not None and not (is_whole(self.reference) and 0 <= self.reference < experts):
            raise ConfigError(f"reference={self.reference!r} must be the index of an expert, 0 to {experts - 1}, or None.")
        if self.cluster is not None and not (isinstance(self.cluster, str) and self.cluster):
            raise ConfigError(f"cluster={self.cluster!r} must be a name, or None for a cluster of its own. Try: cluster='cifar10'")
        self._set("accuracies", accuracies)
        self._set("scores", scores)
        self._set("scoring_cost", not_negative(self.scoring_cost, "scoring_cost"))
        if self.groups is not None:
            self._set("groups", tuple(names_of_groups(self.groups, experts).tolist()))
        if self.costs is not None:
            self._set("costs", checked_costs(self.costs, experts))

    def _set(self, field: str, value) -> None:
        if isinstance(value, np.ndarray):
            value = value.copy()
            value.flags.writeable = False
        object.__setattr__(self, field, value)

    def mean_accuracies(self, counts: Int[np.ndarray, " s"] | None = None) -> Float[np.ndarray, " e"]:
        """Mean over the seeds, each as often as `counts` says (once if None).

        Rounded to 12 decimals: the same accuracies in another order of seeds must tie.
        """
        counts = np.ones(len(self.accuracies)) if counts is None else counts
        return np.round(counts @ self.accuracies / counts.sum(), DECIMALS)


def rows_of(given, name: str, axis: str) -> np.ndarray:
    """The values as a matrix; a vector becomes one row."""
    values = numbers(given, name)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ConfigError(
            f"{name} have the shape {np.shape(given)}. Allowed: ({axis}, experts), or (experts,) for one of the {axis}; at least one of each."
        )
    return values


def numbers(given, name: str) -> np.ndarray:
    """The values as float64. Raises ConfigError if they are not numbers."""
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} are not an array of numbers. Allowed: a float array, NaN where there is no value.") from error


def one_per_expert(given, name: str, experts: int | None = None) -> Float[np.ndarray, " e"]:
    """One number per expert. Raises ConfigError for another shape or no expert."""
    values = numbers(given, name)
    if values.ndim != 1 or not values.size:
        raise ConfigError(f"{name} have the shape {values.shape}. Allowed: one number per expert, at least one expert, (e,).")
    if experts is not None and len(values) != experts:
        raise ConfigError(
            f"{name} are for {len(values)} experts, and accuracies for {experts}. Both must be for the same experts, in the same order."
        )
    return values


def without_infinity(scores: np.ndarray) -> np.ndarray:
    """The scores, finite or NaN. Raises ConfigError for infinity."""
    if np.isinf(scores).any():
        raise ConfigError("scores contain infinite values. Allowed: finite numbers, and NaN for an expert without a score.")
    return scores


def fractions(values: np.ndarray, name: str = "accuracies") -> np.ndarray:
    """The values, finite and from 0 to 1. Raises ConfigError for anything else."""
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise ConfigError(f"{name} contain {values[wrong][0]:g}. Allowed: 0 to 1 (divide percentages by 100), without NaN.")
    return values


def pair(scores, accuracies) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Scores (NaN: none) and accuracies of the same experts. Raises ConfigError."""
    accuracies = fractions(one_per_expert(accuracies, "accuracies"))
    return without_infinity(one_per_expert(scores, "scores", len(accuracies))), accuracies


def not_negative(given: float, name: str) -> float:
    """One finite number from 0. Raises ConfigError for anything else."""
    value = numbers(given, name)
    if value.ndim or not np.isfinite(value) or value < 0:
        raise ConfigError(f"{name}={given!r} must be a finite number, 0 or more.")
    return float(value)


def fraction(given: float, name: str) -> float:
    """One number from 0 to 1. Raises ConfigError for anything else."""
    value = numbers(given, name)
    if value.ndim or not 0 <= value <= 1:
        raise ConfigError(f"{name}={given!r} must be an accuracy, 0 to 1.")
    return float(value)


def first(k: int, experts: int) -> int:
    """Checks 1 <= k <= number of experts. Raises ConfigError."""
    if not is_whole(k) or not 1 <= k <= experts:
        raise ConfigError(f"k={k!r} must be a whole number from 1 to {experts}, the number of experts.")
    return int(k)


def names_of_groups(groups: Sequence[str], experts: int) -> np.ndarray:
    """One name per expert. Raises ConfigError for another number of them."""
    if isinstance(groups, str) or len(groups) != experts:
        raise ConfigError(
            f"groups has the length {len(groups)}, and there are {experts} experts. Try: the group of each, as in ('resnet', 'densenet')"
        )
    return np.array([str(group) for group in groups])


def checked_costs(costs: Float[np.ndarray, " e"], experts: int) -> Float[np.ndarray, " e"]:
    """One cost per expert. Raises ConfigError for negative, infinite and NaN."""
    costs = one_per_expert(costs, "costs", experts)
    if not (np.isfinite(costs) & (costs >= 0)).all():
        raise ConfigError("costs contain a number that is negative, infinite or NaN. Allowed: 0 or more for every expert.")
    return costs
