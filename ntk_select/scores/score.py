"""Scores and their results: the contract between a score, its inputs and a ranking."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ntk_select.errors import ConfigError, MissingDependencyError, UndefinedScoreError, did_you_mean
from ntk_select.scores.features import as_features

PERMUTATIONS = 10
"""Number of label permutations behind `by_chance`."""


@dataclass(frozen=True)
class ScoreResult:
    """A score's value, with an interval if one was estimated. `float(result)` is the value.

    Attributes:
      value: finite.
      low, high: 95 % interval, from half-samples of the images.
      details: further numbers that explain the value, such as its parts.
      per_image: (n,), for a score that is a mean over images: the part of each image, NaN for images without one. On a subset of the
        images the score is the mean over the subset.
      on_subset: for a score that costs much: its value on some of the images, given their indices, without computing it again.
      remark: one sentence on why the value is not informative; "" if it is.
      by_chance: present with a remark only; "value" is the mean score over `PERMUTATIONS` permutations of the labels. For a zoo-relative
        score also the mean of each term; "value" is then the score that this expert would have with them, the other experts unchanged.
    """

    value: float
    low: float | None = None
    high: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    per_image: np.ndarray | None = field(default=None, repr=False, compare=False)
    on_subset: Callable[[np.ndarray], float] | None = field(default=None, repr=False, compare=False)
    remark: str = ""
    by_chance: Mapping[str, float] = field(default_factory=dict)

    def __float__(self):
        return self.value


@dataclass(frozen=True)
class Terms:
    """One expert's part of a zoo-relative score, which has a value only once the terms of all experts are known (`Score.combined`).

    Attributes:
      details: the terms by name.
      remark, by_chance: as in `ScoreResult`, terms in place of values.
    """

    details: Mapping[str, float]
    remark: str = ""
    by_chance: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unavailable:
    """A score that is not defined for an expert or a sample, and the reason."""

    reason: str


Outcome = ScoreResult | Unavailable
Measured = ScoreResult | Terms | Unavailable
"""What one expert yields: `Terms` where the score is relative to the zoo."""


def is_informative(outcome: Measured) -> bool:
    """Whether experts can be ordered by this outcome: it has a value, and one that permuted labels would change."""
    return not isinstance(outcome, Unavailable) and not outcome.remark


@dataclass(frozen=True)
class Input:
    """An input of a score.

    Attributes:
      meaning: content and shape, in words.
      image_axes: number of leading axes that run over the images of the probe sample; a half-sample takes a part of each.
      compute: the function of a score's own input (`Score.inputs`), of (expert, sample), an `Expert` and the
        `ProbeSample`, that returns the input. Any exception makes the score unavailable for this expert. None for the inputs in `INPUTS`,
        which the ranking computes.
    """

    meaning: str
    image_axes: int = 0
    compute: Callable[[Any, Any], Any] | None = None


INPUTS = {
    "features": Input("pre-logits (n, d) of the probe sample", 1),
    "labels": Input("class ids (n,)", 1),
    "source_probs": Input("softmax (n, s) of the expert's own head over its source classes", 1),
    "gradient_kernel": Input("(n, n), inner products of the gradients of the last convolution", 2),
    "training_kernel": Input("(n, n), kernel of training with a new head", 2),
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
    "task_key": Input("a string that identifies the task and the images of the probe sample"),
}


@dataclass(frozen=True)
class Score:
    """An estimate of how well an expert will do after fine-tuning.

    Call it with arrays by name: `SCORES["lfc"](features=F, labels=y)`. Inputs of other scores are ignored, so the same inputs can be passed
    to every score. A zoo-relative score needs several experts: `SCORES["etran"].over([inputs of one expert, inputs of the next, ...])`.

    Attributes:
      fn: the function, taking the names in `needs` and, if given, in `optional`. It returns a number or a `ScoreResult`; for a
        zoo-relative score it returns the expert's terms by name.
      needs: names of `INPUTS` or of `inputs`.
      higher_is_better: the direction.
      reference: where it is defined.
      range: its range, in words.
      cost: its cost for one expert once the inputs are computed, in words. n images, d features, c classes, s source classes.
      optional: inputs that are used when they are there.
      resampled: whether its interval comes from half-samples of the probe sample; False if these cost too much, or if their spread does not
        estimate the error (measured). Such scores have no interval, unless `fn` returns one.
      max_resamples: largest number of half-samples for a costly score; None for no limit.
      combine: the function of a zoo-relative score from the terms of all experts to their values.
      unit: "accuracy" for a share that is shown in per cent, "" for a plain number.
      shown: of a built-in score, name of a detail that tables show before the value: an accuracy with its interval, details NAME_low and NAME_high.
      limits: bounds of the values, or a function from the number of classes to them; intervals are cut there.
      saturation: a function of the inputs in `needs` that returns one sentence where the score would be about the same for any labels, "" elsewhere.
      inputs: inputs of this score's own, by name, each with the function that computes it.
      group: "main" for scores of `--scores all`; "ablation" for variants, and scores that rank like a main score;
        "baseline" for scores that do not look at the images of the task.
      most_draws: deprecated name of `max_resamples`.

    Raises:
      ConfigError: unknown input, custom input without `compute`, or one with the name of a built-in input.
    """

    fn: Callable[..., Any]
    needs: tuple[str, ...]
    higher_is_better: bool = True
    reference: str = ""
    range: str = ""
    cost: str = ""
    optional: tuple[str, ...] = ()
    resampled: bool = True
    max_resamples: int | None = None
    combine: Callable[[Sequence[Mapping[str, float]]], np.ndarray] | None = None
    unit: str = ""
    shown: str = ""
    limits: tuple[float, float] | Callable[[int], tuple[float, float]] = (-math.inf, math.inf)
    saturation: Callable[..., str] | None = None
    inputs: Mapping[str, Input] = field(default_factory=dict, hash=False)
    group: Literal["main", "ablation", "baseline"] = "main"
    most_draws: InitVar[int | None] = None

    def __post_init__(self, most_draws: int | None):
        if most_draws is not None:
            warnings.warn("Score(most_draws=...) is deprecated. Try: Score(max_resamples=...)", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "max_resamples", most_draws)
        for name, own in self.inputs.items():
            if name in INPUTS:
                raise ConfigError(f"{name!r} is a built-in input. Choose another name for the score's own input. Try: 'my_{name}'")
            if own.compute is None:
                raise ConfigError(f"The input {name!r} has no `compute`. Try: Input({own.meaning!r}, compute=lambda expert, sample: ...)")
        if isinstance(self.needs, str) or isinstance(self.optional, str):
            raise ConfigError(f"needs and optional are tuples of names; given: {self.needs!r} and {self.optional!r}. Try: needs=('labels',)")
        for name in self.takes:
            if name not in INPUTS and name not in self.inputs:
                raise ConfigError(f"{name!r} is not an input of scores.{did_you_mean(name, {**INPUTS, **self.inputs})}")

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of all inputs that it uses: those in `needs` and in `optional`."""
        return (*self.needs, *self.optional)

    def input(self, name: str) -> Input:
        """The definition of one of its inputs."""
        return self.inputs[name] if name in self.inputs else INPUTS[name]

    @property
    def needs_images(self) -> bool:
        """Whether it depends on the images of the task."""
        return any(self.input(name).image_axes for name in self.takes)

    def limits_for(self, classes: int) -> tuple[float, float]:
        """The limits for a sample with this number of classes."""
        return self.limits(classes) if callable(self.limits) else self.limits

    def shows_accuracy(self, outcome: ScoreResult) -> bool:
        """Whether tables show an accuracy for this outcome, besides its value."""
        return self.shown in outcome.details

    def displayed(self, outcome: ScoreResult) -> tuple[float, float | None, float | None]:
        """What tables and figures show: an accuracy and its interval if it shows one, otherwise the value and its interval."""
        if not self.shows_accuracy(outcome):
            return outcome.value, outcome.low, outcome.high
        return outcome.details[self.shown], outcome.details.get(f"{self.shown}_low"), outcome.details.get(f"{self.shown}_high")

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

    def evaluate(self, **inputs: Any) -> Measured:
        """As a call for one expert; `Terms` where the score is relative to the zoo."""
        for name in inputs:
            if name not in INPUTS and name not in self.inputs:
                raise ConfigError(f"{name!r} is not an input of a score.{did_you_mean(name, {**INPUTS, **self.inputs})}")
        absent = [name for name in self.needs if inputs.get(name) is None]
        if absent:
            return Unavailable("needs " + " and ".join(f"{name} ({self.input(name).meaning})" for name in absent))
        given = {name: inputs[name] for name in self.takes if inputs.get(name) is not None}
        if "features" in given:
            given["features"] = as_features(given["features"])
        try:
            found = self.fn(**given)
        except (UndefinedScoreError, MissingDependencyError) as error:
            return Unavailable(str(error))
        except np.linalg.LinAlgError as error:
            return Unavailable(f"A matrix of this score could not be decomposed ({error}).")
        if self.combine is not None:
            return _finite(Terms(found))
        return _finite(found if isinstance(found, ScoreResult) else ScoreResult(float(found)))

    def with_chance(self, outcome: Measured, **inputs: Any) -> Measured:
        """The outcome of `evaluate`; where the score is saturated, with a remark and its value for permuted labels.

        Cost: of a saturated score, `PERMUTATIONS` times its own; otherwise little.
        """
        if self.saturation is None or isinstance(outcome, Unavailable):
            return outcome
        remark = self.saturation(**{name: inputs[name] for name in self.needs})
        if not remark:
            return outcome
        rng, found = np.random.default_rng(0), []
        for _ in range(PERMUTATIONS):
            permuted = self.evaluate(**{**inputs, "labels": rng.permutation(np.asarray(inputs["labels"]))})
            if not isinstance(permuted, Unavailable):
                found.append(permuted.details if isinstance(permuted, Terms) else {"value": permuted.value})
        means = {name: float(np.mean([terms[name] for terms in found])) for name in (found[0] if found else ())}
        return replace(outcome, remark=remark, by_chance=means)

    def combined(self, outcomes: Sequence[Measured]) -> list[Outcome]:
        """The scores of the experts of a zoo, from what `evaluate` gave for each; only `Terms` are changed."""
        known = [outcome for outcome in outcomes if isinstance(outcome, Terms)]
        if not known:
            return list(outcomes)
        try:
            if len(known) == 1:
                raise UndefinedScoreError(
                    "This score compares the experts of a zoo, and only one has it. Try: at least two experts, or SCORES[...].over([inputs, inputs, ...])"
                )
            values = iter(self._valued(known))
        except UndefinedScoreError as error:
            values = iter([Unavailable(str(error))] * len(known))
        return [next(values) if isinstance(outcome, Terms) else outcome for outcome in outcomes]

    def _valued(self, zoo: Sequence[Terms]) -> list[Outcome]:
        results = []
        for place, (terms, value) in enumerate(zip(zoo, self.combine([each.details for each in zoo]), strict=True)):
            by_chance = dict(terms.by_chance)
            if by_chance:
                others = [each.by_chance if each is terms else each.details for each in zoo]
                by_chance["value"] = float(self.combine(others)[place])
            results.append(_finite(ScoreResult(float(value), details=terms.details, remark=terms.remark, by_chance=by_chance)))
        return results


def _finite(result: ScoreResult | Terms) -> Measured:
    """Unavailable in place of NaN and infinity."""
    numbers = {"value": result.value} if isinstance(result, ScoreResult) else {}
    for name, number in {**numbers, **result.details}.items():
        if not math.isfinite(number):
            return Unavailable(f"Its {name} is {number} on these inputs.")
    return result
