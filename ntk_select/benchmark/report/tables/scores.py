"""How well does each score pick experts?"""

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.summary import BEST, RANDOM, baselines, measured, usable_targets
from ntk_select.benchmark.report.words import paper_first, shots_text

from .record import Column, Content, Table, in_points, of_targets, shots_shown

MEASURES = (
    ("top_1_gain_points", "gain of the first (points)", 1, "top_k_gain", {"k": 1}),
    ("top_3_gain_points", "gain of the best of 3 (points)", 1, "top_k_gain", {"k": 3}),
    ("trials_to_best", "trials to the best", 1, "trials_to_best", {}),
    ("spearman", "Spearman", 2, "spearman", {}),
    ("kendall", "Kendall", 2, "kendall", {}),
    ("weighted_tau", "weighted tau", 2, "weighted_tau", {}),
    ("regret_points", "regret of the first (points)", 1, "regret", {"k": 1}),
    ("hit_rate_of_3", "best among the first 3", 2, "hit_rate", {"k": 3}),
    ("within_architectures", "mean Spearman within architectures", 2, "within_groups", {}),
    ("across_architectures", "Somers' D across architectures", 2, "across_groups", {}),
)
"""Name in files, title, decimals, measure, options. What ends in _points is in percentage points."""

COLUMNS = (
    Column("score", "score"),
    Column("shots", "images per class", 0),
    Column("targets", "targets", 0),
    Column("with_value", "experts with a value (%)", 0),
    *(Column(name, title, decimals, interval=True) for name, title, decimals, _, _ in MEASURES),
)
PERFECT = ("top_k_gain", "trials_to_best", "hit_rate", "regret")
"""Measures of which the best possible value is worth a cell: brute force."""


def _content(results: Results) -> Content:
    return Content(COLUMNS, [row for shots in results.shots for row in _rows(results, shots)], list(_missing(results)))


def _rows(results: Results, shots: Images) -> list[tuple]:
    found = [(name, _measured(results, shots, measure, options)) for name, _, _, measure, options in MEASURES]
    rows = []
    for score in [*paper_first(results.score_names), RANDOM, BEST]:
        if not any(score in by_score for _, by_score in found):
            continue
        made = score in (RANDOM, BEST)
        targets = usable_targets(results, None if made else score, "trials_to_best", shots)
        count, known = len(targets), None if made else 100 * float(np.mean([np.isfinite(target.scores).mean() for target in targets]))
        cells = [of_targets(by_score.get(score), count) for _, by_score in found]
        shown = [in_points(cell) if name.endswith("_points") else cell for cell, (name, _) in zip(cells, found, strict=True)]
        rows.append((score, shots_shown(shots), count, known, *shown))
    return rows


def _measured(results: Results, shots: Images, measure: str, options: dict) -> dict:
    ends = baselines(results, measure, shots, **options)
    return measured(results, measure, shots, **options) | {name: each for name, each in ends.items() if name == RANDOM or measure in PERFECT}


def _missing(results: Results):
    for shots in results.shots:
        without = [name for name in results.score_names if not usable_targets(results, name, "trials_to_best", shots)]
        if without:
            yield f"With {shots_text(shots)} no target has values of {', '.join(without)}."
        if not usable_targets(results, None, "top_k_gain", shots):
            yield f"With {shots_text(shots)} no target has the accuracy of a reference expert, so that there is no gain over it."
    if not results.shots:
        yield "No expert has been fine-tuned yet."


TABLE = Table(
    "How well each score picks experts",
    "Means over targets with 95 % bootstrap intervals over targets, probe draws and fine-tuning seeds. Gains are in percentage points of accuracy "
    "over the "
    "reference expert. Scores compare experts that never saw the target's source. Experts without a value are tried last, in random order, and "
    "correlations "
    "leave them out, with targets on which fewer than three have one. Within architectures: Spearman's correlation among the experts of one "
    "architecture, the mean over architectures; across: Somers' D over the "
    "pairs of experts of different architectures. Higher is better, but for trials and regret. With few targets these "
    "intervals are too narrow, and with one there is none; the best of several accuracies is too high by their noise.",
    _content,
)
