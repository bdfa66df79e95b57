"""What is known of each expert?"""

from collections import defaultdict

from ntk_select.benchmark.report.results import Results

from .record import Column, Content, Table

COLUMNS = (
    Column("expert", "expert"),
    Column("architecture", "architecture"),
    Column("source", "source"),
    Column("start", "started from"),
    Column("seen", "has seen"),
    Column("parameters", "parameters", 0),
    Column("source_images", "source images", 0),
    Column("source_accuracy", "accuracy on its source (%)", 2),
    Column("left_out", "left out on"),
    Column("digest", "digest"),
)


def _content(results: Results) -> Content:
    left_out = defaultdict(list)
    for row in results.skipped:
        left_out[row["expert"]].append(f"{row['task']}: {row['reason']}")
    rows = [
        (
            facts.name,
            facts.architecture,
            facts.source,
            facts.initialised_from,
            ", ".join(facts.seen),
            facts.parameters,
            facts.source_images,
            None if facts.source_accuracy is None else 100 * facts.source_accuracy,
            "; ".join(left_out[facts.name]),
            facts.digest[:12],
        )
        for facts in results.taking_part.values()
    ]
    return Content(COLUMNS, rows, [] if rows else ["The experts are made up: nothing is known of them."])


TABLE = Table("Experts", "What is on the card of each expert, and the tasks on which it was left out, with the reason.", _content)
