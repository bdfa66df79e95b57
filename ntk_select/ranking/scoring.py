"""Scores of one expert after another, on the same images and half-samples, with their intervals."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntk_select._runtime.progress import timed
from ntk_select.errors import explained
from ntk_select.evaluate.intervals import HalfSamples
from ntk_select.experts.expert import Expert
from ntk_select.ranking.inputs import ScoreInputs
from ntk_select.ranking.record import ExpertScores
from ntk_select.scores import Features, Score, ScoreResult, Unavailable
from ntk_select.scores.score import Measured, Outcome, is_informative

SMALL = 1_000_000
"""Size of an expert's largest input up to which linear algebra runs in a single thread."""


@dataclass(frozen=True)
class Scored:
    """The scores of one expert, before those of the others are known.

    Attributes:
      row: without rank and intervals; zoo-relative scores are `Terms`.
      on_halves: by informative score its outcomes on the half-samples, as many as it takes.
    """

    row: ExpertScores
    on_halves: Mapping[str, Sequence[Measured]]


class Scorer:
    """Scores one expert after another on the same images and half-samples.

    Args:
      inputs: source of the scores' inputs, from each expert.
      halves: index sets into the probe sample.
    """

    def __init__(self, inputs: ScoreInputs, halves: Sequence[np.ndarray]):
        self.inputs, self.scores, self.halves = inputs, inputs.scores, halves

    def score(self, name: str, load: Callable[[], Expert]) -> Scored:
        """The expert's row and its scores on half-samples."""
        seconds: dict[str, float] = {}
        with timed(seconds, "load"):
            expert = load()
        inputs, reasons = self.inputs.of(name, expert, seconds)
        outcomes, score_seconds = {}, {}
        with _suitable_threads(inputs):
            for key, score in self.scores.items():
                with timed(score_seconds, key):
                    given = {name: value for name, value in inputs.items() if name in score.takes}
                    outcomes[key] = _explained(score, score.with_chance(_evaluated(score, given), **given), reasons)
            seconds["scores"] = sum(score_seconds.values())
            with timed(seconds, "intervals"):
                informative = {key: outcome for key, outcome in outcomes.items() if is_informative(outcome)}
                on_halves = self._on_half_samples(inputs, informative)
        # What a score needs for half-samples, such as a kernel, is not kept.
        outcomes = {key: replace(outcome, on_subset=None) if isinstance(outcome, ScoreResult) else outcome for key, outcome in outcomes.items()}
        card = expert.card
        row = ExpertScores(0, name, card and card.source, card and card.architecture, expert.num_params, outcomes, seconds, score_seconds)
        return Scored(row, on_halves)

    def _on_half_samples(self, inputs: dict[str, Any], outcomes: dict[str, Measured]) -> dict[str, list[Measured]]:
        """The scores on half-samples, as many as each takes. Decompositions of a half-sample are shared by all scores."""
        found: dict[str, list[Measured]] = {name: [] for name in outcomes}
        for index, rows in enumerate(self.halves):
            wanted = {
                name: score
                for name, score in self.scores.items()
                if name in outcomes and score.resampled and index < (score.max_resamples or len(self.halves))
            }
            if not wanted:
                break
            taken: dict[str, Any] = {}
            for name, score in wanted.items():
                if (known := _from_the_whole(outcomes[name], rows)) is not None:
                    found[name].append(known)
                    continue
                for key in score.takes:
                    if key in inputs and key not in taken:
                        taken[key] = _part(inputs[key], score.input(key).image_axes, rows)
                found[name].append(_on_half_sample(score, {key: taken[key] for key in score.takes if key in taken}))
        return found


def compared(scores: Mapping[str, Score], rows: list[ExpertScores]) -> list[ExpertScores]:
    """The rows with the values of zoo-relative scores in place of their terms."""
    for name, score in scores.items():
        outcomes = combined(score, [row.scores[name] for row in rows])
        rows = [replace(row, scores={**row.scores, name: outcome}) for row, outcome in zip(rows, outcomes, strict=True)]
    return rows


def values_on_halves(name: str, score: Score, found: Sequence[Scored]) -> dict[str, np.ndarray]:
    """By expert, the values of a score on the half-samples; NaN where it has none."""
    known = [each for each in found if name in each.on_halves]
    samples = [combined(score, each) for each in zip(*(each.on_halves[name] for each in known), strict=True)]
    values = [[outcome.value if isinstance(outcome, ScoreResult) else np.nan for outcome in sample] for sample in samples]
    return {each.row.name: np.array([sample[place] for sample in values]) for place, each in enumerate(known)}


def with_intervals(
    row: ExpertScores, scores: dict[str, Score], on_halves: dict[str, dict[str, np.ndarray]], halves: HalfSamples, classes: int
) -> ExpertScores:
    """The row with the intervals that half-samples give, cut at the limits of each score."""
    outcomes = dict(row.scores)
    for name, score in scores.items():
        outcome, values = outcomes[name], on_halves[name].get(row.name)
        if is_informative(outcome) and outcome.low is None and values is not None and np.isfinite(margin := halves.margin(values)):
            low, high = score.limits_for(classes)
            outcomes[name] = replace(outcome, low=max(outcome.value - margin, low), high=min(outcome.value + margin, high))
    return replace(row, scores=outcomes)


def combined(score: Score, outcomes: Sequence[Measured]) -> list[Outcome]:
    """As `Score.combined`; an exception makes this score unavailable and has no other effect."""
    try:
        return score.combined(outcomes)
    except Exception as error:
        return [outcome if isinstance(outcome, Unavailable) else Unavailable(explained(error)) for outcome in outcomes]


def _suitable_threads(inputs: dict[str, Any]) -> AbstractContextManager:
    """One thread for the linear algebra of small inputs: waiting for a second thread takes longer than the work (measured: up to 20 times)."""
    if max(np.size(value.array if isinstance(value, Features) else value) for value in inputs.values()) > SMALL:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    importlib.import_module("scipy.linalg")  # only libraries that are loaded can be limited
    return threadpool_limits(1)


def _on_half_sample(score: Score, inputs: dict[str, Any]) -> Measured:
    """The score on a half-sample; unavailable where it is saturated, since its spread is then no estimate of an error."""
    outcome = _evaluated(score, inputs)
    if isinstance(outcome, Unavailable) or score.saturation is None:
        return outcome
    saturated = score.saturation(**{name: inputs[name] for name in score.needs})
    return Unavailable(saturated) if saturated else outcome


def _evaluated(score: Score, inputs: dict[str, Any]) -> Measured:
    """The score; an exception makes this score unavailable and has no other effect."""
    try:
        return score.evaluate(**inputs)
    except Exception as error:
        return Unavailable(explained(error))


def _from_the_whole(outcome: Measured, rows: np.ndarray) -> Outcome | None:
    """A score on some of the images from what it yielded on all of them; None if it has to be computed again."""
    if not isinstance(outcome, ScoreResult):
        return None
    if outcome.per_image is not None:
        return _mean(outcome.per_image[rows])
    return None if outcome.on_subset is None else _on_subset(outcome.on_subset, rows)


def _mean(parts: np.ndarray) -> Outcome:
    """A score that is a mean over images, on some of them."""
    known = parts[np.isfinite(parts)]
    return ScoreResult(float(known.mean())) if len(known) else Unavailable("None of these images has a part in it.")


def _on_subset(value: Callable[[np.ndarray], float], rows: np.ndarray) -> Outcome:
    """A score on some of the images, by its own function."""
    try:
        found = float(value(rows))
    except Exception as error:
        return Unavailable(explained(error))
    return ScoreResult(found) if np.isfinite(found) else Unavailable("It is not finite on these images.")


def _part(value: Any, image_axes: int, rows: np.ndarray) -> Any:
    """An input on a subset of the images."""
    if isinstance(value, Features):
        return value.take(rows)
    return value if image_axes == 0 else value[rows] if image_axes == 1 else value[np.ix_(rows, rows)]


def _explained(score: Score, outcome: Measured, reasons: dict[str, str]) -> Measured:
    """The outcome; if an input is absent for a known reason, with that reason."""
    known = [reasons[name] for name in score.needs if reasons.get(name)]
    return Unavailable(known[0]) if known and isinstance(outcome, Unavailable) else outcome
