"""Paired comparisons of the forecast, LFC and LGC with the other scores, and with a random order, on the same targets."""

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.summary import RANDOM, usable_targets
from ntk_select.benchmark.report.words import paper_first
from ntk_select.evaluate import Paired, Target, against_random, holm, paired

from .record import Column, Content, Table, in_points, of_targets, shots_shown

OURS = ("forecast", "lfc", "lgc")
MEASURES = (("Spearman", "spearman", {}), ("gain of the best of 3 (points)", "top_k_gain", {"k": 3}))
COLUMNS = (
    Column("score", "score"),
    Column("other", "minus"),
    Column("shots", "images per class", 0),
    Column("measure", "measure"),
    Column("targets", "targets", 0),
    Column("difference", "difference", 2, interval=True),
    Column("share", "larger in (%)", 0),
    Column("p", "p", 4),
    Column("p_holm", "p, Holm", 4),
)


def _content(results: Results) -> Content:
    rows = [
        row
        for shots in results.shots
        for title, measure, options in MEASURES
        for score in OURS
        if score in results.score_names
        for row in _family(results, score, shots, title, measure, options)
    ]
    return Content(COLUMNS, rows, [] if rows else ["No two scores have values on the same target yet."])


def _family(results: Results, score: str, shots: Images, title: str, measure: str, options: dict) -> list[tuple]:
    """All comparisons of one score by one measure: they are corrected together."""
    found = []
    for other in [*paper_first(results.score_names), RANDOM]:
        pairs = _pairs(results, score, other, shots, measure, options) if other != score else []
        if pairs:
            found.append((other, len(pairs), _compared(results, (score, other, shots), pairs, measure, options)))
    adjusted = holm(np.array([each.p_value for _, _, each in found], np.float64)) if found else []
    return [
        (
            score,
            other,
            shots_shown(shots),
            title,
            count - each.difference.undefined,
            of_targets(in_points(each.difference) if measure == "top_k_gain" else each.difference, count),
            100 * each.share if count - each.difference.undefined > 1 else None,
            each.p_value,
            float(p),
        )
        for (other, count, each), p in zip(found, adjusted, strict=True)
    ]


def _pairs(results: Results, a: str, b: str, shots: Images, measure: str, options: dict) -> list[tuple[Target, Target]]:
    """The targets on which both have values, of as many draws or one. A random order has one on every target."""
    if b == RANDOM:
        return [(target, target) for target in usable_targets(results, a, measure, shots, **options)]
    first, second = (usable_targets(results, name, measure, shots, **options) for name in (a, b))
    there = {target.name: target for target in second}
    pairs = [(target, there[target.name]) for target in first if target.name in there]
    return [(x, y) for x, y in pairs if len(x.scores) == len(y.scores) or 1 in (len(x.scores), len(y.scores))]


def _compared(results: Results, key: tuple, pairs: list[tuple[Target, Target]], measure: str, options: dict) -> Paired:
    key = ("paired", *key, measure, *sorted(options.items()))
    if key not in results.kept:
        first, second = ([pair[place] for pair in pairs] for place in (0, 1))
        results.kept[key] = against_random(measure, first, **options) if RANDOM in key else paired(measure, first, second, **options)
    return results.kept[key]


TABLE = Table(
    "The forecast, LFC and LGC against the other scores",
    "The mean difference over targets with its 95 % interval, the share of the bootstrap replicates in which the first is larger, and the p-value of "
    "the test that flips the sign of each target. Holm's correction is over the others that one score is compared with by one measure at one number "
    "of images. A random order is its exact expectation. With t targets no p-value is below 2/2^t.",
    _content,
)
