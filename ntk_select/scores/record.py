"""A score: its definition, its inputs, and its outcome."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ntk_select.errors import ConfigError, MissingDependencyError, UndefinedScoreError, did_you_mean

PERMUTATIONS = 10
"""Shuffles of the labels behind what a saturated score gives by chance."""


@dataclass(frozen=True)
class ScoreResult:
    """A score's value, with an interval when one was estimated. `float(result)` is the value.

    Attributes:
      value: finite.
      low, high: 95 % interval over the choice of the images.
      details: further numbers that explain the value: its parts, or what it would be by chance.
      per_image: (n,) of which the value is the mean, where it is one: on a part of the images the score is then the mean over that part.
        NaN for images without a part in it.
      remark: why the value says little, in a sentence, where it does.
      by_chance: what shuffled labels give, by "value", the mean over `PERMUTATIONS`; of a zoo-relative score also its terms, and as "value" what
        the expert would have with these among the others as they are. Only where there is a remark.
    """

    value: float
    low: float | None = None
    high: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    per_image: np.ndarray | None = field(default=None, repr=False, compare=False)
    remark: str = ""
    by_chance: Mapping[str, float] = field(default_factory=dict)

    def __float__(self):
        return self.value


@dataclass(frozen=True)
class Unavailable:
    """A score that an expert or a sample cannot have, and why."""

    reason: str


class Input(NamedTuple):
    """What an input of a score is, and how many of its leading axes run over the images of the probe sample."""

    meaning: str
    image_axes: int = 0


INPUTS = {
    "features": Input("pre-logits (n, d) of the probe sample", 1),
    "labels": Input("class ids (n,)", 1),
    "source_probs": Input("softmax (n, s) of the expert's own head over its source classes", 1),
    "gradient_kernel": Input("(n, n), inner products of the gradients of the last convolution", 2),
    "training_kernel": Input("(n, n), inner products of gradients as training with a fresh head sees them", 2),
    "reference_features": Input("pre-logits (n, d') of a small network trained on the task, same images", 1),
    "domain_features": Input("pre-logits (n, d'') of the extractor that made source_means, same images", 1),
    "source_means": Input("class means (s, d'') of the source data, by one extractor for the whole zoo"),
    "own_source_means": Input("class means (s, d) of the source data, by the expert itself"),
    "source_counts": Input("training images of each source class (s,)"),
    "class_counts": Input("training images of each class of the task (c,)"),
    "source_size": Input("number of training images of the source"),
    "source_accuracy": Input("accuracy on the source's own test set, 0 to 1"),
    "num_params": Input("number of parameters"),
    "accuracies_elsewhere": Input("fine-tuned accuracies (t,) on other tasks, the same tasks for all experts"),
    "sparsity_weight": Input("weight of the share of zeros among the feature metrics, 0 to 1"),
    "recipe": Input("a Recipe: how the expert will be fine-tuned"),
    "learning_rates": Input("learning rates that will be tried"),
    "name": Input("the expert's name"),
    "seed": Input("a whole number from 0"),
    "task_key": Input("a text that identifies the task and the images of the probe sample"),
}

Outcome = ScoreResult | Unavailable


def is_telling(outcome: Outcome) -> bool:
    """Whether there is a value that experts can be ordered by: not one that would be about the same for any labels."""
    return isinstance(outcome, ScoreResult) and not outcome.remark


@dataclass(frozen=True)
class Score:
    """A way to guess how well an expert will do after fine-tuning.

    Call it with arrays by name: `SCORES["lfc"](features=F, labels=y)`. Inputs that it does not need are ignored, so
    that everything one forward pass gave can be handed to every score. A score that is relative to the zoo has a value
    only among others: `SCORES["etran"].over([inputs of one expert, inputs of the next, ...])`.

    Attributes:
      fn: the function, taking the names in `needs` and, if given, in `optional`. It returns a number or a `ScoreResult`; that
        of a zoo-relative score returns its terms by name.
      needs: names of `INPUTS`.
      higher_is_better: the direction.
      reference: where it is defined.
      range: what values it can take, in words.
      cost: of one expert once the inputs are there, in words. n images, d features, c classes, s source classes.
      optional: inputs that are used when they are there.
      resampled: whether its interval comes from half-samples of the probe sample: not where that costs too much, or where their spread is
        not its error (measured).
      most_draws: half-samples that its interval takes at most, for a costly score; None for as many as are asked for.
      combine: for a zoo-relative score: from the terms of all experts to their values.
      unit: of the value: "accuracy" for shares that are shown in per cent, "" for plain numbers.
      limits: numbers below and above which no value can lie, or a function that gives them for so many classes; intervals end there.
      saturation: a function of the same inputs by name that says why the score would be about the same for any labels, in a sentence; ""
        where it would not.
    """

    fn: Callable[..., Any]
    needs: tuple[str, ...]
    higher_is_better: bool
    reference: str
    range: str
    cost: str = ""
    optional: tuple[str, ...] = ()
    resampled: bool = True
    most_draws: int | None = None
    combine: Callable[[Sequence[Mapping[str, float]]], np.ndarray] | None = None
    unit: str = ""
    limits: tuple[float, float] | Callable[[int], tuple[float, float]] = (-math.inf, math.inf)
    saturation: Callable[..., str] | None = None

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of all inputs that it looks at: those that it needs, and those that it uses when they are there."""
        return (*self.needs, *self.optional)

    @property
    def needs_images(self) -> bool:
        """Whether anything it looks at is of the task's images."""
        return any(INPUTS[name].image_axes for name in self.takes)

    def limits_for(self, classes: int) -> tuple[float, float]:
        """The limits for a sample with so many classes."""
        return self.limits(classes) if callable(self.limits) else self.limits

    def __call__(self, **inputs: Any) -> Outcome:
        """The score of one expert, or the reason why it has no value on these inputs.

        Raises:
          ConfigError: a name is not an input of any score.
          TaskError: an input is malformed.
        """
        return self.over([inputs])[0]

    def over(self, zoo: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """The score of every expert of a zoo, given the inputs of each. Raises as a single call."""
        return self.combined([self.with_chance(self.evaluate(**inputs), **inputs) for inputs in zoo])

    def evaluate(self, **inputs: Any) -> Outcome:
        """As a call; of a zoo-relative score the terms, as details of a result without a value of its own (0)."""
        for name in inputs:
            if name not in INPUTS:
                raise ConfigError(f"{name!r} is not an input of a score.{did_you_mean(name, INPUTS)}")
        absent = [name for name in self.needs if inputs.get(name) is None]
        if absent:
            return Unavailable("needs " + " and ".join(f"{name} ({INPUTS[name].meaning})" for name in absent))
        try:
            found = self.fn(**{name: inputs[name] for name in self.takes if inputs.get(name) is not None})
        except (UndefinedScoreError, MissingDependencyError) as error:
            return Unavailable(str(error))
        except np.linalg.LinAlgError as error:
            return Unavailable(f"A matrix of this score could not be decomposed ({error}).")
        if self.combine is not None:
            return _finite(ScoreResult(0.0, details=found))
        return _finite(found if isinstance(found, ScoreResult) else ScoreResult(float(found)))

    def with_chance(self, outcome: Outcome, **inputs: Any) -> Outcome:
        """The outcome of `evaluate`; where the score would be about the same for any labels, with a remark and what chance gives.

        Cost: of a saturated score, `PERMUTATIONS` times its own; otherwise little.
        """
        if self.saturation is None or not isinstance(outcome, ScoreResult):
            return outcome
        remark = self.saturation(**{name: inputs[name] for name in self.needs})
        if not remark:
            return outcome
        rng, found = np.random.default_rng(0), []
        for _ in range(PERMUTATIONS):
            shuffled = self.evaluate(**{**inputs, "labels": rng.permutation(np.asarray(inputs["labels"]))})
            if isinstance(shuffled, ScoreResult):
                found.append(shuffled.details if self.combine is not None else {"value": shuffled.value})
        means = {name: float(np.mean([terms[name] for terms in found])) for name in (found[0] if found else ())}
        return replace(outcome, remark=remark, by_chance=means)

    def combined(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """From what `evaluate` gave for every expert of a zoo to their scores."""
        if self.combine is None:
            return list(outcomes)
        known = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, ScoreResult)]
        combined: list[Outcome] = list(outcomes)
        try:
            if len(known) == 1:
                raise UndefinedScoreError(
                    "This score compares the experts of a zoo, and only one has it. Rank at least two, or type: SCORES[...].over([inputs, inputs, ...])"
                )
            values = self.combine([outcomes[index].details for index in known]) if known else []
        except UndefinedScoreError as error:
            for index in known:
                combined[index] = Unavailable(str(error))
        else:
            for place, (index, value) in enumerate(zip(known, values, strict=True)):
                outcome = outcomes[index]
                if outcome.by_chance:
                    terms = [outcomes[other].by_chance if other == index else outcomes[other].details for other in known]
                    outcome = replace(outcome, by_chance={**outcome.by_chance, "value": float(self.combine(terms)[place])})
                combined[index] = _finite(replace(outcome, value=float(value)))
        return combined


def _finite(result: ScoreResult) -> Outcome:
    """NaN and infinity are no values."""
    numbers = {"value": result.value, **result.details}
    for name, number in numbers.items():
        if not math.isfinite(number):
            return Unavailable(f"Its {name} came out as {number} on these inputs.")
    return result
