"""The common look of the figures of a benchmark, and what their captions share."""

from collections.abc import Sequence
from dataclasses import replace
from textwrap import fill

from ntk_select._runtime.figures import colours, literal, new_figure
from ntk_select.benchmark.cells import ExpertFacts
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import balanced_text, counted, seeds_text, shots_text

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B8A000"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW)
"""Told apart by colour-blind readers too, after Okabe and Ito 2008; the yellow is darker than theirs."""
GREY = "0.55"
ZERO = "0.25"
"""Of the line where the reference stands."""
MARKERS = "osD^vPX<>p"
NOTE = 8
"""Points of the line that says what a figure is of."""
LETTERS = 16
"""Of that line, in an inch."""

DONE = {
    "truth": "fine-tunings",
    "untrained": "fine-tunings of untrained networks",
    "search": "wide searches",
    "score": "cells of scores",
    "kernel": "kernels",
}


def begun(results: Results, title: str, width: float, height: float, roles: Sequence[str] = ("truth", "score")):
    """A figure with its title and the line that says what it is of."""
    figure = new_figure(width, height, "A figure of a benchmark")
    figure.suptitle(literal(title), x=0.01, ha="left", fontsize=11)
    note = " ".join([f"{of_what(results)}.", f"Incomplete: {missing}." if (missing := gaps(results, roles)) else "", judged_text(results, roles)])
    figure.supxlabel(literal(fill(note.strip(), int(LETTERS * width))), x=0.01, ha="left", fontsize=NOTE, color="0.35")
    return figure


def of_what(results: Results) -> str:
    """As in "embedded_benchmark: 23 experts, 8 targets, 3 seeds of fine-tuning": of what was measured so far."""
    rows = results.of_role("truth")
    experts, tasks, seeds = (len({row[column] for row in rows}) for column in ("expert", "task", "seed"))
    made_up = " (made-up numbers)" if results.config.synthetic else ""
    return f"{results.name}{made_up}: {counted(experts, 'expert')}, {counted(tasks, 'target')}, {counted(seeds, 'seed')} of fine-tuning"


def gaps(results: Results, roles: Sequence[str] = ("truth", "score")) -> str:
    """As in "12 of 96 wide searches are missing, 1 cell failed", of what the config asks for; empty where everything is there."""
    there = {row["key"] for rows in (results.truths, results.scores, results.kernels) for row in rows}
    found = []
    for role in roles:
        asked = [cell.key for cell in results.cells if (cell.role or cell.kind) == ("synthetic" if results.config.synthetic else role)]
        if lost := sum(key not in there for key in asked):
            found.append(f"{lost} of {len(asked)} {DONE[role]}")
        if results.config.synthetic:
            break
    if not found:
        return ""
    failed = f"; {counted(len(results.failures), 'cell')} failed" if results.failures else ""
    return f"{', '.join(found[:-1])}{' and ' if len(found) > 1 else ''}{found[-1]} are missing{failed}"


def unfinished(results: Results) -> str:
    """Targets that lack experts or seeds, as in "digits, 5 images per class (2 of 23 experts missing, seed 1 left out)"."""
    texts = []
    for truth in (truth for shots in results.shots for task in results.task_names if (truth := results.truth(task, shots)) is not None):
        lacks = [f"{len(truth.missing)} of {len(truth.missing) + len(truth.experts)} experts missing"] if truth.missing else []
        lacks += [f"{seeds_text(truth.dropped)} left out"] if truth.dropped else []
        texts += [f"{truth.task}, {shots_text(truth.shots)} ({', '.join(lacks)})"] if lacks else []
    return f"Unfinished: {'; '.join(texts)}." if texts else ""


def judged_text(results: Results, roles: Sequence[str]) -> str:
    """The sentence that says on which tasks of a figure accuracy is balanced."""
    kernels = results.config.kernels if "kernel" in roles else None
    return balanced_text([task for task in results.balanced if kernels is None or task in kernels.tasks])


def caption(results: Results, text: str, roles: Sequence[str] = ("truth", "score"), shared: Sequence[str] = ()) -> tuple[str, ...]:
    """The text below a figure in parts: what is said of this figure alone, then what others may share: `shared`, what it is of, what is missing."""
    missing = gaps(results, roles)
    parts = [text, *shared, judged_text(results, roles), f"{of_what(results)}.", f"Incomplete: {missing}." if missing else "", unfinished(results)]
    return tuple(" ".join(part.split()) for part in parts if part.strip())


def facts_of(results: Results, expert: str) -> ExpertFacts:
    """What is known of an expert, with words for what is not: of one without a card, or a made-up one."""
    facts = results.experts.get(expert) or ExpertFacts(expert, "")
    return replace(facts, architecture=facts.architecture or "an unknown architecture", source=facts.source or "an unknown source")


def coloured(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    return {name: colours("viridis")(place / (len(names) - 1)) for place, name in enumerate(names)}


def marked(names: Sequence[str]) -> dict[str, str]:
    """A marker for each name; they repeat after ten."""
    return {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(names)}


def plain(axis, grid: str) -> None:
    """Without a frame, with a light grid along "x" or "y"."""
    axis.grid(axis=grid, color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def targets_along_x(panels, tasks: Sequence[str]) -> None:
    """A column for each target in panels that lie below each other, parted by lines; the lowest has their names."""
    for axis in panels:
        axis.set_xticks(range(len(tasks)), [literal(task) for task in tasks], rotation=25, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="x", length=0, labelbottom=axis is panels[-1])
        axis.set_xlim(-0.5, max(len(tasks), 1) - 0.5)
        for place in range(1, len(tasks)):
            axis.axvline(place - 0.5, color="0.85", linewidth=0.8, zorder=0)


def places(count: int, width: float = 0.76) -> list[float]:
    """Where so many marks stand within a column of width 1, around its middle."""
    return [width * ((place + 0.5) / count - 0.5) for place in range(count)]


def point(axis, x: float, y: float, bar: float | None, colour, marker: str, *, hollow: bool = False, size: float = 5.5) -> None:
    """A mark with an error bar, if there is one, half a bar up and half down."""
    axis.errorbar(
        x, y, yerr=bar, fmt=marker, color=colour, markersize=size, markerfacecolor="white" if hollow else colour, elinewidth=1, markeredgewidth=1.1
    )


def entry(label: str, colour, marker: str, *, hollow: bool = False, size: float = 5.5):
    """A line of a legend."""
    from matplotlib.lines import Line2D

    face = "white" if hollow else colour
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=size, markerfacecolor=face, label=literal(label))


def line_entry(label: str, colour, style: str):
    """A line of a legend for a line of the figure."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.2, label=literal(label))
