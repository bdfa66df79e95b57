"""What does each expert gain over the reference on a target, and how is that drawn?"""

from collections.abc import Sequence

import numpy as np

from ntk_select._runtime.figures import literal
from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import shots_text

from .look import ZERO, begun, coloured, entry, facts_of, marked, places, plain, point, targets_along_x

ANY = "h"
"""A mark that stands for those of all architectures, and for none of them."""
BAR = "Bars are one standard deviation of the gain between seeds."


def gains(results: Results, task: str, shots: Images) -> list[dict]:
    """One row an expert in percentage points, in the order of the zoo; empty where the reference was not measured.

    The gain is the mean over seeds of the difference from the reference with the same seed; sd_points is the standard deviation of these
    differences, None with one seed.
    """
    truth, reference = results.truth(task, shots), results.config.reference
    if truth is None or reference not in truth.experts:
        return []
    over = 100 * (truth.accuracies - truth.accuracies[:, [truth.experts.index(reference)]])
    return [
        {
            "target": task,
            "shots": shots,
            "expert": name,
            "gain_points": float(over[:, place].mean()),
            "sd_points": deviation(over[:, place]),
            "accuracy_percent": float(100 * truth.accuracies[:, place].mean()),
            "seeds": len(truth.seeds),
        }
        for place, name in enumerate(truth.experts)
    ]


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def nothing(results: Results) -> str:
    """Why there are no gains."""
    if results.config.reference is None:
        return "The config names no reference expert over which a gain could be taken."
    return f"The reference expert {results.config.reference!r} was fine-tuned on no target yet."


def draw_gains(results: Results, rows: Sequence[dict], title: str, special: dict[str, tuple[str, str]] | None = None):
    """A panel for each number of shots, a column for each target, a mark for each expert; the reference is the line at zero.

    Args:
      special: by the value of "what" of a row, colour and marker of those that stand for no single expert of the zoo.
    """
    special = special or {}
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    tasks = [task for task in results.task_names if any(row["target"] == task for row in rows)]
    usual = [row["expert"] for row in rows if row.get("what") not in special]
    facts = {name: facts_of(results, name) for name in (*results.experts, *usual) if name in usual}
    asked = {(cell.task, cell.images) for cell in results.cells if (cell.role or cell.kind) in ("truth", "synthetic")}
    colour = coloured(list(dict.fromkeys(each.source for each in facts.values())))
    marker = marked(list(dict.fromkeys(each.architecture for each in facts.values())))
    figure = begun(results, title, min(max(4 + 1.15 * len(tasks), 7.5), 16), 1.6 + 2.7 * len(shots), ("truth",))
    panels = figure.subplots(len(shots), 1, sharex=True, squeeze=False)[:, 0]
    for axis, number in zip(panels, shots, strict=True):
        plain(axis, "y")
        axis.axhline(0, color=ZERO, linewidth=1)
        for column, task in enumerate(tasks):
            here = [row for row in rows if (row["shots"], row["target"]) == (number, task)]
            for row, place in zip(here, places(len(here)), strict=True):
                at = (column + place, row["gain_points"], row["sd_points"])
                if row.get("what") in special:
                    point(axis, *at, *special[row["what"]], size=7)
                else:
                    each = facts[row["expert"]]
                    point(axis, *at, colour[each.source], marker[each.architecture], hollow=each.initialised_from is None)
            if not here:
                axis.text(column, 0, "not yet" if (task, number) in asked else "not asked", ha="center", va="bottom", fontsize=7, color="0.5")
        axis.set_title(f"fine-tuned on {shots_text(number)}", fontsize=9, loc="left")
        axis.set_ylabel("gain over the reference\n(percentage points)")
    targets_along_x(panels, tasks)
    lines = [entry(name, *style) for name, style in special.items()]
    lines += [entry(f"trained on {source}", each, "s") for source, each in colour.items()]
    if len(marker) > 1:
        lines += [entry(name, "0.3", each) for name, each in marker.items()]
    began = {each.initialised_from is None for each in facts.values()}
    if True in began:
        lines += [entry("hollow: from scratch", "0.3", ANY, hollow=True)]
    if len(began) > 1:
        lines += [entry("filled: from another expert", "0.3", ANY)]
    figure.legend(
        handles=lines,
        loc="outside right upper",
        fontsize=8,
        frameon=False,
        title=literal(f"line at 0: the reference\n{results.config.reference}"),
        title_fontsize=8,
        alignment="left",
    )
    return figure
