"""What are the target tasks?"""

from ntk_select.benchmark.report.results import Results

from .record import Column, Content, Table, shots_shown

COLUMNS = (
    Column("task", "task"),
    Column("classes", "classes", 0),
    Column("train", "training images", 0),
    Column("test", "test images", 0),
    Column("shots", "fine-tuned with (images per class)"),
    Column("source", "shares images with"),
    Column("strangers", "experts that take part", 0),
    Column("licence", "licence"),
    Column("uri", "where it is"),
)


def _content(results: Results) -> Content:
    rows = []
    for name, facts in results.tasks.items():
        wanted = results.config.tasks[name]
        shots = ", ".join(str(shots_shown(each)) for each in results.config.shots_of(name))
        strangers = {
            cell.expert for cell in results.cells if cell.task == name and cell.role == "truth" and not results.own_source(cell.expert, name)
        }
        rows.append(
            (name, facts.num_classes, facts.train, facts.test, shots, ", ".join(wanted.source) or None, len(strangers), facts.licence, wanted.uri)
        )
    unknown = [name for name, facts in results.tasks.items() if facts.licence is None]
    missing = [f"No licence is on record for {', '.join(unknown)}: see where the data are from."] if unknown else []
    return Content(COLUMNS, rows, missing if rows else ["The tasks are made up: nothing is known of them."])


TABLE = Table(
    "Table 4. The target tasks",
    "Experts that have seen a source with which a task shares images do not count on it. {data} is a folder on the machine that measured.",
    _content,
)
