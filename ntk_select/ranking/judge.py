"""In which order do the experts stand, how many of the first cannot be told apart, and how is that said?"""

from dataclasses import replace

import numpy as np

from ntk_select.ranking.record import ExpertScores
from ntk_select.resampling import HalfSamples
from ntk_select.scores import Score, ScoreResult


def ordered(rows: list[ExpertScores], deciding: str, score: Score) -> list[ExpertScores]:
    """Best first by the deciding score; those without it last, by name."""
    sign = -1 if score.higher_is_better else 1

    def key(row: ExpertScores):
        outcome = row.scores[deciding]
        return (0, sign * outcome.value, row.name) if isinstance(outcome, ScoreResult) else (1, 0.0, row.name)

    return [replace(row, rank=position) for position, row in enumerate(sorted(rows, key=key), start=1)]


def tied_with_the_best(rows: list[ExpertScores], on_halves: dict[str, np.ndarray], deciding: str, halves: HalfSamples) -> int:
    """How many of the first experts cannot be told from the best: up to the last one that cannot. 1 where the best has no interval."""
    scored = [row for row in rows if isinstance(row.scores[deciding], ScoreResult)]
    if not scored:
        return 0
    best, tied = scored[0], 1
    for position, row in enumerate(scored[1:], start=2):
        difference = row.scores[deciding].value - best.scores[deciding].value
        pair = on_halves[best.name], on_halves[row.name]
        if difference == 0 or (np.isfinite(halves.standard_error(pair[0] - pair[1])) and not halves.told_apart(*pair, difference)):
            tied = position
    return tied


def judgement(rows: list[ExpertScores], tied: int, deciding: str, score: Score, *, images: int, draws: int, halved: bool) -> str:
    """The verdict in one sentence; and where the score is an accuracy, what the best is expected to reach, in another."""
    return f"{_verdict(rows, tied, deciding, score, images, draws, halved)}{_expected(rows, deciding)}"


def _expected(rows: list[ExpertScores], deciding: str) -> str:
    details = getattr(rows[0].scores[deciding], "details", {}) if rows else {}
    if not {"accuracy", "accuracy_low", "accuracy_high", "learning_rate"} <= details.keys():
        return ""
    reached, low, high = (f"{100 * details[name]:.0f} %" for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return (
        f" {rows[0].name} is expected to answer {reached} of new images rightly after fine-tuning on these (95 %: {low} to {high}), "
        f"with learning rate {details['learning_rate']:g}."
    )


def _verdict(rows: list[ExpertScores], tied: int, deciding: str, score: Score, images: int, draws: int, halved: bool) -> str:
    if tied == 0:
        return f"No expert could be given the score {deciding}."
    best, scored = rows[0].name, sum(isinstance(row.scores[deciding], ScoreResult) for row in rows)
    if not score.needs_images:
        return f"{best} comes first by {deciding}, which says nothing about the task."
    if not score.resampled:
        return f"{best} comes first by {deciding}, which has no intervals: it costs too much to be taken again and again."
    if draws == 0:
        return f"{best} comes first by {deciding}; without draws nothing can be said of how surely."
    if rows[0].scores[deciding].low is None or not halved:
        return f"{best} comes first by {deciding}; so few images a class are too few to say how surely."
    if scored == 1:
        return f"{best} is the only expert{'' if len(rows) == 1 else f' with the score {deciding}'}; there is nothing to compare."
    if tied == 1:
        others = "all others" if scored == len(rows) else f"the {scored - 1} others that have the score"
        return f"{best} is ahead of {others} by {deciding} on these {images} images (95 %)."
    if tied == scored:
        return f"No expert can be told from the best by {deciding} on these {images} images (95 %)."
    return f"1 to {tied} cannot be told apart by {deciding} on these {images} images (95 %)."
