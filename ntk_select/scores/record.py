"""What is a score, and what is the outcome of one?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ntk_select.errors import ConfigError, UndefinedScoreError, did_you_mean


@dataclass(frozen=True)
class ScoreResult:
    """A score's value, with an interval when one was estimated. `float(result)` is the value."""

    value: float
    low: float | None = None
    high: float | None = None

    def __float__(self):
        return self.value


@dataclass(frozen=True)
class Unavailable:
    """A score that an expert or a sample cannot have, and why."""

    reason: str


INPUTS = {
    "features": "pre-logits (n, d) of the probe sample",
    "labels": "class ids (n,)",
    "gradient_kernel": "(n, n), inner products of the gradients of the last convolution",
    "name": "the expert's name",
    "seed": "a whole number",
}


@dataclass(frozen=True)
class Score:
    """A way to guess how well an expert will do after fine-tuning.

    Call it with arrays by name: `SCORES["lfc"](features=F, labels=y)`. Inputs that it does not need are ignored, so
    that everything one forward pass gave can be handed to every score.

    Attributes:
      fn: the function, taking the names in `needs` and, if given, in `optional`.
      needs: names of `INPUTS`.
      higher_is_better: the direction.
      reference: where it is defined.
      range: what values it can take, in words.
      optional: inputs that are used when they are there.
      resampled: whether its interval comes from resampling the probe sample.
    """

    fn: Callable[..., float]
    needs: tuple[str, ...]
    higher_is_better: bool
    reference: str
    range: str
    optional: tuple[str, ...] = ()
    resampled: bool = True

    def __call__(self, **inputs: Any) -> ScoreResult | Unavailable:
        """The score, or the reason why it has no value on these inputs.

        Raises:
          ConfigError: a name is not an input of any score.
          TaskError: an input is malformed.
        """
        for name in inputs:
            if name not in INPUTS:
                raise ConfigError(f"{name!r} is not an input of a score.{did_you_mean(name, INPUTS)}")
        absent = [name for name in self.needs if inputs.get(name) is None]
        if absent:
            return Unavailable("needs " + " and ".join(f"{name} ({INPUTS[name]})" for name in absent))
        try:
            return ScoreResult(float(self.fn(**{name: inputs[name] for name in (*self.needs, *self.optional) if inputs.get(name) is not None})))
        except UndefinedScoreError as error:
            return Unavailable(str(error))
