"""Which scores have no value, how often, and why?"""

from collections import defaultdict

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import paper_first

from .record import Column, Content, Table, shots_shown

ADVICE = " Type: "
"""Before what a ranking could be given; a benchmark has no such options."""
COLUMNS = (
    Column("score", "score"),
    Column("images", "images per class"),
    Column("without", "without a value", 0),
    Column("of", "of", 0),
    Column("share", "share (%)", 1),
    Column("example", "for example, why"),
)


def _content(results: Results) -> Content:
    asked, reasons = defaultdict(int), defaultdict(list)
    for row in results.scores:
        key = row["score"], row["images_per_class"]
        asked[key] += 1
        if row["value"] is None and row["terms"] is None:
            why = str(row["unavailable"]).partition(ADVICE)[0]
            reasons[key].append(f"{row['task']}, {row['expert']}: {why}")
    order = paper_first(list(dict.fromkeys(score for score, _ in asked)))
    keys = sorted(reasons, key=lambda key: (order.index(key[0]), key[1] is None, key[1]))
    rows = [
        (score, shots_shown(images), len(why), asked[score, images], 100 * len(why) / asked[score, images], min(why))
        for (score, images) in keys
        for why in [reasons[score, images]]
    ]
    return Content(COLUMNS, rows, [] if rows else ["Every score has a value everywhere."])


TABLE = Table(
    "Scores without a value",
    "A score that cannot be had on these images, or for this expert, has no value rather than a made-up one; such experts count as last in "
    "selections, and "
    "correlations leave them out.",
    _content,
)
