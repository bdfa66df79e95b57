"""Which value has every score for every expert, on each draw of images?"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ntk_select.benchmark.report.truths import Row, enough
from ntk_select.scores import Score, ScoreResult, Unavailable

ByDraw = dict[int, dict[str, float]]
"""Seed of the draw -> expert -> value."""


def known_scores(names: Iterable[str]) -> dict[str, Score]:
    """The scores of these names, those of installed packages among them; without those that are not to be had here."""
    from ntk_select.ranking.rank import chosen_scores

    found = {}
    for name in names:
        try:
            found |= chosen_scores([name])
        except Exception:  # the package that measured it is not installed, or is broken: foreign code may raise anything
            continue
    return found


def score_values(rows: Iterable[Row], own_source: Callable[[str, str], bool], scores: Mapping[str, Score]) -> dict[tuple, ByDraw]:
    """(score, task, images of a class) -> values, such that higher is better.

    Scores that compare the zoo are combined over the experts that are strangers to the task's source; NaN where the score is not at hand.

    Args:
      rows: of scores.
      own_source: whether an expert has seen the source of a task.
      scores: that are at hand, by name.
    """
    found: dict[tuple, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if not own_source(row["expert"], row["task"]):
            found[row["score"], row["task"], row["images_per_class"], row["seed"]][row["expert"]] = row
    values: dict[tuple, ByDraw] = defaultdict(dict)
    for (score, task, images, seed), by_expert in found.items():
        sign = 1 if next(iter(by_expert.values()))["higher_is_better"] else -1
        of_draw = _of_draw(list(by_expert.values()), scores.get(score))
        values[score, task, images][seed] = {expert: sign * value for expert, value in zip(by_expert, of_draw, strict=True)}
    return values


def _of_draw(rows: Sequence[Row], score: Score | None) -> list[float]:
    if all(row["terms"] is None or row["value"] is not None for row in rows):
        return [np.nan if row["value"] is None else row["value"] for row in rows]
    if score is None:
        return [np.nan] * len(rows)
    from ntk_select.ranking.scorer import combined

    outcomes = [Unavailable(row["unavailable"] or "") if row["terms"] is None else ScoreResult(0.0, details=json.loads(row["terms"])) for row in rows]
    return [outcome.value if isinstance(outcome, ScoreResult) else np.nan for outcome in combined(score, outcomes)]


def of_experts(by_draw: ByDraw, experts: Sequence[str]) -> np.ndarray | None:
    """(draws, experts); NaN for an expert without a value. None where none has one: that would only be a random order.

    Draws that lack more than a tenth of the experts that the fullest one has are left out.
    """
    measured = {draw: len(set(found) & set(experts)) for draw, found in by_draw.items()}
    kept = [found for draw, found in sorted(by_draw.items()) if enough(measured[draw], max(measured.values()))]
    values = np.array([[found.get(expert, np.nan) for expert in experts] for found in kept])
    return None if np.isnan(values).all() else values
