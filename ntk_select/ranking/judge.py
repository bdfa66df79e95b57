"""Order of the experts, contenders for the first place, and the verdict in words, with the measured predictive power of the score."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ntk_select.evaluate.intervals import HalfSamples
from ntk_select.ranking.record import OF_ACCURACY, ExpertScores, firsts
from ntk_select.scores import Score, ScoreResult

NAMED = 4
"""Largest number of experts that a sentence names; for more it gives their ranks."""


def ordered(rows: list[ExpertScores], deciding: str, score: Score) -> list[ExpertScores]:
    """Best first by the deciding score; then experts whose value is not informative; last, by name, experts without a value."""
    sign = -1 if score.higher_is_better else 1

    def key(row: ExpertScores):
        outcome = row.scores[deciding]
        return (int(bool(outcome.remark)), sign * outcome.value, row.name) if isinstance(outcome, ScoreResult) else (2, 0.0, row.name)

    return [replace(row, rank=position) for position, row in enumerate(sorted(rows, key=key), start=1)]


def contenders(rows: list[ExpertScores], on_halves: dict[str, np.ndarray], deciding: str, halves: HalfSamples) -> tuple[str, ...]:
    """Names of the experts that cannot be distinguished from the best, starting with the best, in the order of the ranking.

    They need not be neighbours: an expert with noisy values can be among them although experts above it are not. If the
    best has no interval, they are the experts of equal value.
    """
    scored = [row for row in rows if isinstance(row.scores[deciding], ScoreResult)]
    if not scored:
        return ()
    scored = [row for row in scored if bool(row.scores[deciding].remark) == bool(scored[0].scores[deciding].remark)]
    best, found = scored[0], [scored[0].name]
    has_error = best.name in on_halves and np.isfinite(halves.margin(on_halves[best.name]))
    for row in scored[1:]:
        difference = row.scores[deciding].value - best.scores[deciding].value
        if difference == 0 or (has_error and not halves.distinguishes(on_halves[best.name], on_halves[row.name], difference)):
            found.append(row.name)
    return tuple(found)


def judgement(
    rows: list[ExpertScores], among: Sequence[str], deciding: str, scores: Mapping[str, Score], *, images: int, resamples: int, halved: bool
) -> str:
    """The verdict in one sentence; for a forecast the expected accuracy of the best; and the experts that other scores put first.

    Args:
      rows: the experts in order.
      among: the result of `contenders`.
      deciding: name of the score that determines the order.
      scores: all scores of the ranking.
      images: size of the probe sample.
      resamples: number of half-samples requested.
      halved: whether there were any.
    """
    verdict = _verdict(rows, among, deciding, scores[deciding], images, resamples, halved)
    return " ".join(filter(None, (verdict, _expected(rows, deciding), _disagreement(rows, deciding, scores))))


def _expected(rows: list[ExpertScores], deciding: str) -> str:
    details = getattr(rows[0].scores[deciding], "details", {}) if rows else {}
    if not details.keys() >= {*OF_ACCURACY}:
        return ""
    reached, low, high = (f"{100 * details[name]:.0f} %" for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return (
        f"{rows[0].name} is expected to classify {reached} of new images correctly after fine-tuning on these (95 %: {low} to {high}), "
        f"with learning rate {details['learning_rate']:g}."
    )


def _disagreement(rows: list[ExpertScores], deciding: str, scores: Mapping[str, Score]) -> str:
    """The experts that other scores put first, except scores that do not depend on the images or are not informative."""
    if not rows or not isinstance(rows[0].scores[deciding], ScoreResult):
        return ""
    others: dict[str, list[str]] = {}
    for name, score in scores.items():
        first = firsts(rows, name, score.higher_is_better)
        if name != deciding and score.needs_images and first and rows[0].name not in first:
            others.setdefault(first[0] if len(first) == 1 else f"{first[0]} (tied with {len(first) - 1})", []).append(name)
    if not others:
        return ""
    by_votes = sorted(others.items(), key=lambda item: -len(item[1]))
    shown = [f"{expert} by {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" for expert, names in by_votes[:NAMED]]
    return f"Other scores disagree; first is {'; '.join(shown)}{f'; and {len(by_votes) - NAMED} others' if len(by_votes) > NAMED else ''}."


def _verdict(rows: list[ExpertScores], among: Sequence[str], deciding: str, score: Score, images: int, resamples: int, halved: bool) -> str:
    if not among:
        return f"No expert has the score {deciding}."
    best, scored = rows[0], sum(isinstance(row.scores[deciding], ScoreResult) for row in rows)
    equal = [row.name for row in rows if row.name in among and row.scores[deciding].value == best.scores[deciding].value]
    highest = f"{deciding} is {'highest' if score.higher_is_better else 'lowest'} for {best.name}"
    highest += f" and {len(equal) - 1} other{'s' if len(equal) > 2 else ''} of equal value" if len(equal) > 1 else ""
    if not score.needs_images:
        return f"{highest}, and does not depend on the task."
    here = f"{highest} on these {images} images"
    if best.scores[deciding].remark:
        chance = best.scores[deciding].by_chance.get("value")
        compared = "" if chance is None else f": shuffled labels give it {chance:.4g}"
        return f"{here}, with {best.scores[deciding].value:.4g}, which is not informative{compared}."
    if not score.resampled:
        return f"{here}. It has no intervals: half-samples of the images cost too much, or do not estimate its error."
    if resamples == 0:
        return f"{here}; without half-samples (resamples=0) its uncertainty is not known."
    if not halved:
        return f"{here}; some classes have too few of them to estimate the uncertainty."
    if best.scores[deciding].low is None:
        return f"{here}; half-samples of them give no uncertainty: it has no value there, or always the same."
    if scored == 1:
        return f"{best.name} is the only expert{'' if len(rows) == 1 else f' with the score {deciding}'}; there is nothing to compare."
    close = [name for name in among if name not in equal]
    if not close and (count := scored - len(equal)):
        others = "every other expert" if scored == len(rows) else f"the {'only other' if count == 1 else f'{count} others'} with the score"
        return f"{here}, ahead of {others} by more than the choice of images explains (95 %)."
    if not close:
        return f"{here}."
    if len(among) == scored:
        return f"{here}, but no other expert can be distinguished from it: the choice of images explains the differences (95 %)."
    return f"{here}; {_those(rows, close)} cannot be distinguished from it (95 %, over the choice of images)."


def _those(rows: list[ExpertScores], others: Sequence[str]) -> str:
    """Names of experts, or their ranks where they are many."""
    if len(others) <= NAMED:
        return " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
    ranks = [row.rank for row in rows if row.name in others]
    starts = [rank for rank in ranks if rank - 1 not in ranks]
    ends = [rank for rank in ranks if rank + 1 not in ranks]
    spans = [f"{start}" if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)]
    return f"the {len(others)} others at rank {', '.join(spans)}"
