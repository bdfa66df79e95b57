"""Which cells failed, and why?"""

from ntk_select.benchmark.report.results import Results

from .record import Column, Content, Table, shots_shown

COLUMNS = (
    Column("kind", "kind"),
    Column("expert", "expert"),
    Column("task", "task"),
    Column("images", "images per class", 0),
    Column("seed", "seed", 0),
    Column("error", "why"),
)


def _content(results: Results) -> Content:
    rows = [(row["kind"], row["expert"], row["task"], shots_shown(row["images"]), row["seed"], row["error"]) for row in results.failures.values()]
    return Content(COLUMNS, rows, [] if rows else ["No cell has failed."])


TABLE = Table("Failures", "Cells that failed when they were last tried. A run tries them again.", _content)
