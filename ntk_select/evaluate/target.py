"""What was measured on one target task: scores over probe draws, accuracies over fine-tuning seeds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import ConfigError
from ntk_select.evaluate.budget import checked_costs
from ntk_select.evaluate.checked import fractions, names_of_groups, not_negative, numbers, whole, without_infinity

DECIMALS = 12


@dataclass(frozen=True, eq=False)
class Target:
    """One target task. All fields speak of the same e experts in the same order.

    Attributes:
      name: of the task.
      scores: (d, e), one row a probe draw, or (e,) for one draw; higher is better, NaN for an expert without a score.
      accuracies: (s, e), one row a fine-tuning seed, or (e,) for one seed; 0 to 1, without NaN.
      reference: index of the expert that is used without a selection, or None.
      groups: of each expert, such as its architecture, or None.
      costs: of fine-tuning each expert, or None.
      scoring_cost: of the scores of all experts, in the unit of `costs`.

    Raises:
      ConfigError: shapes that do not agree, infinite scores, accuracies outside 0 to 1, a reference that is no index.
    """

    name: str
    scores: Float[np.ndarray, "d e"] | Float[np.ndarray, " e"]
    accuracies: Float[np.ndarray, "s e"] | Float[np.ndarray, " e"]
    reference: int | None = None
    groups: tuple[str, ...] | None = None
    costs: Float[np.ndarray, " e"] | None = None
    scoring_cost: float = 0.0

    def __post_init__(self):
        try:
            self._check()
        except ConfigError as error:
            raise ConfigError(f"Target {self.name!r}: {error}") from error

    def _check(self) -> None:
        accuracies = fractions(_rows(self.accuracies, "accuracies", "seeds"))
        experts = accuracies.shape[1]
        scores = without_infinity(_rows(self.scores, "scores", "draws"))
        if scores.shape[1] != experts:
            raise ConfigError(f"scores are for {scores.shape[1]} experts, and accuracies for {experts}. Give both for the same experts.")
        if self.reference is not None and not (whole(self.reference) and 0 <= self.reference < experts):
            raise ConfigError(f"reference is {self.reference!r}. Allowed: the index of an expert, 0 to {experts - 1}, or None.")
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


def _rows(given, name: str, axis: str) -> np.ndarray:
    """A vector is one row."""
    values = numbers(given, name)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ConfigError(
            f"{name} have the shape {np.shape(given)}. Allowed: ({axis}, experts), or (experts,) for one of the {axis}; at least one of each."
        )
    return values
