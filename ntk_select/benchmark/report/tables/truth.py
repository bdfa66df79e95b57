"""How accurate is every expert after fine-tuning on every task?"""

from collections import defaultdict

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results

from .record import Column, Content, Table, shots_shown

COLUMNS = (
    Column("task", "task"),
    Column("shots", "images per class", 0),
    Column("expert", "expert"),
    Column("role", "role"),
    Column("accuracy", "accuracy (%)", 2),
    Column("mark", "own source", nothing=""),
    Column("deviation", "± over seeds", 2),
    Column("balanced", "balanced accuracy (%)", 2),
    Column("seeds", "seeds", 0),
    Column("rates", "learning rates chosen"),
    Column("why", "why not, or not all", nothing=""),
)
ROLES = {"truth": "expert", "untrained": "random weights", "search": "wide search"}

Key = tuple[str, Images, str, str]


def _content(results: Results) -> Content:
    found: dict[Key, list[dict]] = defaultdict(list)
    asked: dict[Key, list] = defaultdict(list)
    for row in results.truths:
        found[row["task"], row["images_per_class"], row["expert"], row["role"]].append(row)
    for cell in results.cells:
        if cell.kind in ("truth", "synthetic"):
            asked[cell.task, cell.images, cell.expert, cell.role or "truth"].append(cell)
    keys = dict.fromkeys([*asked, *found])
    rows = [_row(key, found[key], results.own_source(key[2], key[0]), _why_not_all(results, asked[key], found[key])) for key in keys]
    rows += _left_out(results, keys)
    tasks, roles = {name: place for place, name in enumerate(results.task_names)}, list(ROLES.values())
    rows.sort(key=lambda row: (tasks.get(row[0], len(tasks)), row[1] == "all", row[1], roles.index(row[3]), row[2]))
    return Content(COLUMNS, rows)


def _row(key: Key, rows: list[dict], own_source: bool, why: str | None) -> tuple:
    task, shots, expert, role = key
    accuracies = 100 * np.array([row["accuracy"] for row in rows])
    balanced = [row["balanced_accuracy"] for row in rows if row.get("balanced_accuracy") is not None]
    rates = sorted({row["learning_rate"] for row in rows if row.get("learning_rate") is not None}, reverse=True)
    return (
        task,
        shots_shown(shots),
        expert,
        ROLES.get(role, role),
        float(accuracies.mean()) if rows else None,
        "*" if own_source else None,
        float(accuracies.std(ddof=1)) if len(rows) > 1 else None,
        100 * float(np.mean(balanced)) if balanced else None,
        len(rows),
        ", ".join(f"{rate:g}" for rate in rates) or None,
        why,
    )


def _why_not_all(results: Results, asked: list, rows: list[dict]) -> str | None:
    done = {row["key"] for row in rows}
    waiting = [cell for cell in asked if cell.key not in done]
    errors = sorted({results.failures[cell.key]["error"] for cell in waiting if cell.key in results.failures})
    unmeasured = sorted(cell.seed for cell in waiting if cell.key not in results.failures)
    parts = [f"failed: {error}" for error in errors]
    if unmeasured:
        parts.append(f"not measured yet: seed{'s' if len(unmeasured) > 1 else ''} {', '.join(map(str, unmeasured))}")
    return "; ".join(parts) or None


def _left_out(results: Results, keys) -> list[tuple]:
    """Pairs that the config leaves out, at each number of images."""
    return [
        (row["task"], shots_shown(shots), row["expert"], ROLES["truth"], None, None, None, None, 0, None, row["reason"])
        for row in results.skipped
        for shots in (results.config.shots_of(row["task"]) if row["task"] in results.config.tasks else ())
        if (row["task"], shots, row["expert"], "truth") not in keys
    ]


TABLE = Table(
    "All accuracies",
    "Means over seeds of the accuracy (%) on the whole test set, ± their standard deviation. * the expert has seen the task's source, and counts "
    "nowhere else. - there is none, with the "
    "reason. Learning rates as the config chooses them, one a seed.",
    _content,
)
