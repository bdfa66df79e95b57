"""The order of the experts, which of them cannot be told from the best, and the verdict in words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ntk_select.evaluate.resampling import HalfSamples
from ntk_select.ranking.record import ExpertScores, firsts
from ntk_select.scores import Score, ScoreResult

NAMED = 4
"""Experts that a sentence names; of more it gives the ranks."""


def ordered(rows: list[ExpertScores], deciding: str, score: Score) -> list[ExpertScores]:
    """Best first by the deciding score; behind them those whose value would be about the same for any labels; those without it last, by name."""
    sign = -1 if score.higher_is_better else 1

    def key(row: ExpertScores):
        outcome = row.scores[deciding]
        return (int(bool(outcome.remark)), sign * outcome.value, row.name) if isinstance(outcome, ScoreResult) else (2, 0.0, row.name)

    return [replace(row, rank=position) for position, row in enumerate(sorted(rows, key=key), start=1)]


def contenders(rows: list[ExpertScores], on_halves: dict[str, np.ndarray], deciding: str, halves: HalfSamples) -> tuple[str, ...]:
    """Names of the experts that cannot be told from the best, itself the first, in the order of the ranking.

    They need not be neighbours: one further down with few or noisy values may be among them when those between are not. Where the
    best has no interval they are those of equal value.
    """
    scored = [row for row in rows if isinstance(row.scores[deciding], ScoreResult)]
    if not scored:
        return ()
    scored = [row for row in scored if bool(row.scores[deciding].remark) == bool(scored[0].scores[deciding].remark)]
    best, found = scored[0], [scored[0].name]
    judged = best.name in on_halves and np.isfinite(halves.margin(on_halves[best.name]))
    for row in scored[1:]:
        difference = row.scores[deciding].value - best.scores[deciding].value
        if difference == 0 or (judged and not halves.told_apart(on_halves[best.name], on_halves[row.name], difference)):
            found.append(row.name)
    return tuple(found)


def judgement(
    rows: list[ExpertScores], among: Sequence[str], deciding: str, scores: Mapping[str, Score], *, images: int, draws: int, halved: bool
) -> str:
    """The verdict in one sentence; where the score is an accuracy, what the best is expected to reach; and whom other scores put first.

    Args:
      rows: in order.
      among: of `contenders`.
      deciding: the score that decides.
      scores: all of the ranking.
      images: of the probe sample.
      draws: half-samples that were asked for.
      halved: whether there were any.
    """
    verdict = _verdict(rows, among, deciding, scores[deciding], images, draws, halved)
    return " ".join(filter(None, (verdict, _expected(rows, deciding), _disagreement(rows, deciding, scores))))


def _expected(rows: list[ExpertScores], deciding: str) -> str:
    details = getattr(rows[0].scores[deciding], "details", {}) if rows else {}
    if not {"accuracy", "accuracy_low", "accuracy_high", "learning_rate"} <= details.keys():
        return ""
    reached, low, high = (f"{100 * details[name]:.0f} %" for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return (
        f"{rows[0].name} is expected to answer {reached} of new images correctly after fine-tuning on these (95 %: {low} to {high}), "
        f"with learning rate {details['learning_rate']:g}."
    )


def _disagreement(rows: list[ExpertScores], deciding: str, scores: Mapping[str, Score]) -> str:
    """Whom the other scores that look at the images put first, where that is not the best. Scores that would fit any labels do not count."""
    if not rows or not isinstance(rows[0].scores[deciding], ScoreResult):
        return ""
    others: dict[str, list[str]] = {}
    for name, score in scores.items():
        first = firsts(rows, name, score.higher_is_better)
        if name != deciding and score.needs_images and first and rows[0].name not in first:
            others.setdefault(first[0] if len(first) == 1 else f"{first[0]} (tied with {len(first) - 1})", []).append(name)
    if not others:
        return ""
    told = sorted(others.items(), key=lambda item: -len(item[1]))
    shown = [f"{expert} by {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" for expert, names in told[:NAMED]]
    return f"Other scores disagree; first is {'; '.join(shown)}{f'; and {len(told) - NAMED} others' if len(told) > NAMED else ''}."


def _verdict(rows: list[ExpertScores], among: Sequence[str], deciding: str, score: Score, images: int, draws: int, halved: bool) -> str:
    if not among:
        return f"No expert could be given the score {deciding}."
    best, scored = rows[0], sum(isinstance(row.scores[deciding], ScoreResult) for row in rows)
    equal = [row.name for row in rows if row.name in among and row.scores[deciding].value == best.scores[deciding].value]
    highest = f"{deciding} is {'highest' if score.higher_is_better else 'lowest'} for {best.name}"
    highest += f" and {len(equal) - 1} other{'s' if len(equal) > 2 else ''} of equal value" if len(equal) > 1 else ""
    if not score.needs_images:
        return f"{highest}, and says nothing about the task."
    if best.scores[deciding].remark:
        chance = best.scores[deciding].by_chance.get("value")
        told = "" if chance is None else f": shuffled labels give it {chance:.4g}"
        return f"{highest} on these {images} images, with {best.scores[deciding].value:.4g}, which says little{told}."
    if not score.resampled:
        return f"{highest} on these {images} images. It has no intervals: half-samples of the images cost too much, or do not tell its error."
    if draws == 0:
        return f"{highest} on these {images} images; without draws nothing can be said of how surely."
    if not halved:
        return f"{highest} on these {images} images; some classes have too few of them to say how surely."
    if best.scores[deciding].low is None:
        return f"{highest} on these {images} images; half-samples of them do not tell how surely: it has no value there, or always the same."
    if scored == 1:
        return f"{best.name} is the only expert{'' if len(rows) == 1 else f' with the score {deciding}'}; there is nothing to compare."
    highest += f" on these {images} images"
    close = [name for name in among if name not in equal]
    if not close and scored > len(equal):
        others = "every other expert" if scored == len(rows) else f"the {scored - len(equal)} others that have the score"
        return f"{highest}, ahead of {others} by more than the choice of images explains (95 %)."
    if not close:
        return f"{highest}."
    if len(among) == scored:
        return f"{highest}, but no other expert can be told from it: the choice of images explains the differences (95 %)."
    return f"{highest}; {_those(rows, close)} cannot be told from it (95 %, over the choice of images)."


def _those(rows: list[ExpertScores], others: Sequence[str]) -> str:
    """Names of experts, or their ranks where they are many."""
    if len(others) <= NAMED:
        return " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
    ranks = [row.rank for row in rows if row.name in others]
    starts = [rank for rank in ranks if rank - 1 not in ranks]
    ends = [rank for rank in ranks if rank + 1 not in ranks]
    spans = [f"{start}" if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)]
    return f"the {len(others)} others at rank {', '.join(spans)}"
