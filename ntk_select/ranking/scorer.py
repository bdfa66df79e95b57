"""Scoring one expert after another, on the same images and half-samples."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from ntk_select._runtime.progress import timed
from ntk_select.errors import explained
from ntk_select.experts.expert import Expert
from ntk_select.ranking.inputs import Gatherer
from ntk_select.ranking.record import ExpertScores
from ntk_select.scores import INPUTS, Features, Score, ScoreResult, Unavailable
from ntk_select.scores.record import Outcome, is_telling

SMALL = 1_000_000
"""Numbers in the features up to which a single thread is enough."""


class Scorer:
    """Scores one expert after another on the same images and half-samples."""

    def __init__(self, gatherer: Gatherer, scores: dict[str, Score], halves: Sequence[np.ndarray]):
        self.gatherer, self.scores, self.halves = gatherer, scores, halves
        self._halves: dict[str, dict[str, list[Outcome]]] = {}

    def score(self, name: str, load: Callable[[], Expert]) -> ExpertScores:
        """The expert's row: zoo-relative scores with their terms only, and nothing with its interval yet."""
        seconds: dict[str, float] = {}
        with timed(seconds, "load"):
            expert = load()
        inputs, reasons = self.gatherer.of(name, expert, seconds)
        outcomes, score_seconds = {}, {}
        for key, score in self.scores.items():
            with timed(score_seconds, key):
                outcomes[key] = _explained(score, score.with_chance(_evaluated(score, inputs), **inputs), reasons)
        seconds["scores"] = sum(score_seconds.values())
        with timed(seconds, "intervals"), _suitable_threads(inputs):
            self._halves[name] = self._on_halves(inputs, {key: outcome for key, outcome in outcomes.items() if is_telling(outcome)})
        card = expert.card
        return ExpertScores(0, name, card and card.source, card and card.architecture, expert.num_params, outcomes, seconds, score_seconds)

    def _on_halves(self, inputs: dict[str, Any], outcomes: dict[str, ScoreResult]) -> dict[str, list[Outcome]]:
        """The scores on half-samples; nothing for one that ignores the images. Scores share what they ask of a half-sample."""
        names = list(outcomes)
        found: dict[str, list[Outcome]] = {name: [] for name in names}
        for draw, rows in enumerate(self.halves):
            wanted = [name for name in names if self.scores[name].resampled and draw < (self.scores[name].most_draws or len(self.halves))]
            if not wanted:
                break
            used = {key for name in wanted if outcomes[name].per_image is None for key in self.scores[name].takes}
            taken = {key: _taken(key, value, rows) for key, value in inputs.items() if key in used}
            for name in wanted:
                parts = outcomes[name].per_image
                found[name].append(_on_half(self.scores[name], taken) if parts is None else _mean(parts[rows]))
        return found

    def compared(self, rows: list[ExpertScores]) -> list[ExpertScores]:
        """The rows with zoo-relative scores compared."""
        for name, score in self.scores.items():
            outcomes = combined(score, [row.scores[name] for row in rows])
            rows = [replace(row, scores={**row.scores, name: outcome}) for row, outcome in zip(rows, outcomes, strict=True)]
        return rows

    def on_halves(self, name: str, rows: list[ExpertScores]) -> dict[str, np.ndarray]:
        """By expert, the values of a score on the half-samples; NaN where it has none."""
        experts = [row.name for row in rows if name in self._halves[row.name]]
        draws = zip(*(self._halves[expert][name] for expert in experts), strict=True)
        values = [[outcome.value if isinstance(outcome, ScoreResult) else np.nan for outcome in combined(self.scores[name], draw)] for draw in draws]
        return {expert: np.array([draw[place] for draw in values]) for place, expert in enumerate(experts)}


def _suitable_threads(inputs: dict[str, Any]) -> AbstractContextManager:
    """One thread for the linear algebra of small half-samples: several wait for each other longer than they work (measured: 3 times)."""
    features = inputs.get("features")
    if features is not None and features.array.size > SMALL:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _on_half(score: Score, inputs: dict[str, Any]) -> Outcome:
    """The score on a half-sample; none where it would fit any labels there: its spread says nothing of the whole sample."""
    outcome = _evaluated(score, inputs)
    saturated = isinstance(outcome, ScoreResult) and score.saturation is not None and score.saturation(**{name: inputs[name] for name in score.needs})
    return Unavailable(saturated) if saturated else outcome


def _evaluated(score: Score, inputs: dict[str, Any]) -> Outcome:
    """The score; whatever it raises costs this score alone."""
    try:
        return score.evaluate(**inputs)
    except Exception as error:  # a score of somebody else's is foreign code
        return Unavailable(explained(error))


def combined(score: Score, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """As `Score.combined`; whatever it raises costs this score alone."""
    try:
        return score.combined(outcomes)
    except Exception as error:
        return [outcome if isinstance(outcome, Unavailable) else Unavailable(explained(error)) for outcome in outcomes]


def _mean(parts: np.ndarray) -> Outcome:
    """A score that is a mean over images, on some of them."""
    known = parts[np.isfinite(parts)]
    return ScoreResult(float(known.mean())) if len(known) else Unavailable("None of these images has a part in it.")


def _taken(name: str, value: Any, rows: np.ndarray) -> Any:
    """An input of a subset of the images."""
    if isinstance(value, Features):
        return value.take(rows)
    axes = INPUTS[name].image_axes
    return value if axes == 0 else value[rows] if axes == 1 else value[np.ix_(rows, rows)]


def _explained(score: Score, outcome: Outcome, reasons: dict[str, str]) -> Outcome:
    """Says why an input is absent, where that is known."""
    known = [reasons[name] for name in score.needs if reasons.get(name)]
    return Unavailable(known[0]) if known and isinstance(outcome, Unavailable) else outcome
