"""What a benchmark logs to a tracker: one run per cell that this call finished."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ntk_select.benchmark.cells import GROUND_TRUTH, Cell
from ntk_select.benchmark.store import Store
from ntk_select.errors import DataError
from ntk_select.training.finetuning.tracked import log_result, log_trial
from ntk_select.training.tracking import Guarded, Log


def track_cell(tracker: Guarded, benchmark: str, store: Store, cell: Cell, error: str | None) -> None:
    """Logs a cell as one run, from its record; a failed one with its error."""
    rows: Sequence[Mapping[str, Any]] = []
    try:
        rows = [] if error else store.record(cell)
    except DataError as unread:  # on a network file system a record of another machine may not be visible yet
        error = f"The cell is done, and its record cannot be read yet: {unread}"
    run = tracker.start(f"{cell.expert} on {cell.task}, {cell.role or cell.kind}, seed {cell.seed}", _params(benchmark, cell))
    if rows:
        _log(partial(tracker.log, run), cell, rows)
    tracker.end(run, error)


def _params(benchmark: str, cell: Cell) -> dict[str, Any]:
    known = {name: getattr(cell, name) for name in ("key", "kind", "role", "expert", "task", "seed")}
    settings = {"architecture": "architecture", "choose": "choose", "rates": "learning_rates"}
    given = {name: cell.settings[key] for key, name in settings.items() if key in cell.settings}
    return {
        "benchmark": benchmark,
        **known,
        "images_per_class": "full" if cell.images is None else cell.images,
        **given,
        **cell.settings.get("recipe", {}),
    }


def _log(log: Log, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
    """The numbers of a record; a score that is unavailable, or has a value only within a whole zoo, has none."""
    first = rows[0]
    if cell.kind == "score":
        log({row["score"]: row["value"] for row in rows}, None)
    elif cell.kind == GROUND_TRUTH:
        log_result(log, first)
        for trial in first["trials"]:
            log_trial(log, trial, first["choose"])
    elif cell.kind == "kernel":
        log({name: first[name] for name in ("lfc", "accuracy", "epochs")}, None)
    else:
        log({"accuracy": first["accuracy"], **{score["score"]: score["value"] for score in first["scores"]}}, None)
    log({"cell_seconds": first["cell_seconds"]}, None)
