"""Style of the figures of a benchmark, and the drawing of each kind of figure from rows of numbers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import fill
from typing import Any

import numpy as np

from ntk_select._runtime.figures import colours, literal, new_figure
from ntk_select.benchmark.cells import ExpertFacts
from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import STATIC, Results, Row
from ntk_select.benchmark.report.summary import BEST, RANDOM
from ntk_select.benchmark.report.words import FIRST, counted, gaps, judged_text, measured_text, shots_text

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B8A000"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW)
"""Distinguishable for colour-blind readers, after Okabe and Ito 2008; the yellow is darker than theirs."""
GREY = "0.55"
ZERO = "0.25"
"""Of the line of the reference."""
MARKERS = "osD^vPX<>p"
ANY = "h"
"""A marker for all architectures, which none of them has."""
NOTE = 8
"""Font size of the line that says what a figure shows."""
LETTERS = 16
"""Of that line, per inch."""


@dataclass(frozen=True)
class Style:
    """Colour and marker of a point or of a line of a legend."""

    colour: Any
    marker: str
    hollow: bool = False
    size: float = 5.5


@dataclass(frozen=True, eq=False)
class Measure:
    """A measure on an axis.

    Attributes:
      measure, options: Name and options of a measure of `ntk_select.evaluate`.
      label: Label of the axis.
      factor: Factor of the unit, such as 100 for percentage points.
      mark: distinguishes it from another one on the same axis.
      hollow: whether its points are.
    """

    measure: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    mark: str = ""
    hollow: bool = False

    @property
    def name(self) -> str:
        """As in "top_3_gain_points"."""
        return f"top_{self.options['k']}_gain_points" if self.measure == "top_k_gain" else self.measure


def begun(results: Results, title: str, width: float, height: float, roles: Sequence[str] = ("truth", "score")):
    """A figure with its title and the line that says what it shows."""
    figure = new_figure(width, height, "A figure of a benchmark")
    figure.suptitle(literal(title), x=0.01, ha="left", fontsize=11)
    missing = gaps(results, roles)
    sentences = (f"{measured_text(results)}.", f"Incomplete: {missing}." if missing else "", judged_text(results, roles))
    note = " ".join(filter(None, sentences))
    figure.supxlabel(literal(fill(note, int(LETTERS * width))), x=0.01, ha="left", fontsize=NOTE, color="0.35")
    return figure


def facts_of(results: Results, expert: str) -> ExpertFacts:
    """Facts of an expert, with words for what is unknown of one without a card."""
    facts = results.experts.get(expert) or ExpertFacts(expert, "")
    return replace(facts, architecture=facts.architecture or "an unknown architecture", source=facts.source or "an unknown source")


def coloured(names: Sequence[str]) -> dict[str, Any]:
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
    """A column for each target in panels below each other, separated by lines; the lowest panel has their names."""
    for axis in panels:
        axis.set_xticks(range(len(tasks)), [literal(task) for task in tasks], rotation=25, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="x", length=0, labelbottom=axis is panels[-1])
        axis.set_xlim(-0.5, max(len(tasks), 1) - 0.5)
        for place in range(1, len(tasks)):
            axis.axvline(place - 0.5, color="0.85", linewidth=0.8, zorder=0)


def places(count: int, width: float = 0.76) -> list[float]:
    """Offsets of so many points within a column of width 1, centred at 0."""
    return [width * ((place + 0.5) / count - 0.5) for place in range(count)]


def point(axis, x: float, y: float, bar: float | None, style: Style) -> None:
    """A point with an error bar of `bar` up and down, if it is given."""
    axis.errorbar(
        *(x, y),
        yerr=bar,
        fmt=style.marker,
        color=style.colour,
        markersize=style.size,
        markerfacecolor="white" if style.hollow else style.colour,
        elinewidth=1,
        markeredgewidth=1.1,
    )


def entry(label: str, style: Style):
    """A point of a legend."""
    from matplotlib.lines import Line2D

    face = "white" if style.hollow else style.colour
    look = {"color": style.colour, "marker": style.marker, "markersize": style.size, "markerfacecolor": face}
    return Line2D([], [], linestyle="none", label=literal(label), **look)


def line_entry(label: str, colour, style: str):
    """A line of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.2, label=literal(label))


def legend(figure, lines: Sequence, **options) -> None:
    """Right of the panels."""
    figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False, **options)


def draw_accuracies(
    results: Results, rows: Sequence[Row], title: str, roles: Sequence[str], styles: Mapping[str, Style], with_network: Collection[str]
):
    """Figure 1: two panels side by side per number of shots, a column per target, a point per network.

    Args:
      styles: Styles by the value of "what" of a row; without a marker, that of the architecture is used.
      with_network: values of "what" whose entries in the legend name the architecture.
    """
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    tasks = [task for task in results.task_names if any(row["target"] == task for row in rows)]
    networks = marked(list(dict.fromkeys(row["architecture"] for row in rows if row["architecture"])))

    def style_of(what: str, network: str | None) -> Style:
        return styles[what] if styles[what].marker else replace(styles[what], marker=networks[network])

    figure = begun(results, title, min(6 + 1.4 * len(tasks), 16), 1.6 + 2.6 * len(shots), roles)
    axes = figure.subplots(len(shots), 2, sharex=True, sharey="row", squeeze=False)
    for line, number in zip(axes, shots, strict=True):
        for axis, panel in zip(line, "ab", strict=True):
            plain(axis, "y")
            for column, task in enumerate(tasks):
                here = [row for row in rows if (row["panel"], row["shots"], row["target"]) == (panel, number, task)]
                for row, place in zip(here, places(len(here), 0.66), strict=True):
                    style = style_of(row["what"], row["architecture"])
                    point(axis, column + place, row["accuracy_percent"], row["sd_percent"], style)
        line[0].set_ylabel(f"{shots_text(number)}\ntest accuracy (%)")
    for place, name in enumerate(("(a) architectures", "(b) learning rates")):
        axes[0, place].set_title(name, fontsize=9, loc="left")
        targets_along_x(axes[:, place], tasks)
    there = {(row["what"], row["architecture"]) for row in rows}
    kinds = [(what, network) for what in styles for network in (None, *networks) if (what, network) in there]
    legend(figure, [entry(f"{what}: {network}" if what in with_network else what, style_of(what, network)) for what, network in kinds])
    return figure


def draw_gains(results: Results, rows: Sequence[Row], title: str, special: Mapping[str, Style]):
    """Figures 2 and 3: a panel per number of shots, a column per target, a point per expert; the reference is the line at zero.

    Args:
      special: Styles by the value of "what" of a row, of those that are no single expert of the zoo.
    """
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    tasks = [task for task in results.task_names if any(row["target"] == task for row in rows)]
    usual = {row["expert"] for row in rows if row.get("what") not in special}
    facts = {name: facts_of(results, name) for name in dict.fromkeys([*results.experts, *(row["expert"] for row in rows)]) if name in usual}
    requested = {(cell.task, cell.images) for cell in results.cells if (cell.role or cell.kind) in ("truth", "synthetic")}
    colour = coloured(list(dict.fromkeys(each.source for each in facts.values())))
    marker = marked(list(dict.fromkeys(each.architecture for each in facts.values())))
    styles = {name: Style(colour[each.source], marker[each.architecture], each.initialised_from is None) for name, each in facts.items()}
    figure = begun(results, title, min(max(4 + 1.15 * len(tasks), 7.5), 16), 1.6 + 2.7 * len(shots), ("truth",))
    panels = figure.subplots(len(shots), 1, sharex=True, squeeze=False)[:, 0]
    for axis, number in zip(panels, shots, strict=True):
        plain(axis, "y")
        axis.axhline(0, color=ZERO, linewidth=1)
        for column, task in enumerate(tasks):
            here = [row for row in rows if (row["shots"], row["target"]) == (number, task)]
            for row, place in zip(here, places(len(here)), strict=True):
                point(axis, column + place, row["gain_points"], row["sd_points"], special.get(row.get("what")) or styles[row["expert"]])
            if not here:
                text = "not yet" if (task, number) in requested else "not requested"
                axis.text(column, 0, text, ha="center", va="bottom", fontsize=7, color="0.5")
        axis.set_title(f"fine-tuned on {shots_text(number)}", fontsize=9, loc="left")
        axis.set_ylabel("gain over the reference\n(percentage points)")
    targets_along_x(panels, tasks)
    lines = [entry(name, style) for name, style in special.items()]
    lines += [entry(f"trained on {source}", Style(each, "s")) for source, each in colour.items()]
    if len(marker) > 1:
        lines += [entry(name, Style("0.3", each)) for name, each in marker.items()]
    hollow = {style.hollow for style in styles.values()}
    if True in hollow:
        lines.append(entry("hollow: from scratch", Style("0.3", ANY, True)))
    if len(hollow) > 1:
        lines.append(entry("filled: from another expert", Style("0.3", ANY)))
    heading = literal(f"line at 0: the reference\n{results.config.reference}")
    legend(figure, lines, title=heading, title_fontsize=8, alignment="left")
    return figure


def draw_selection(results: Results, rows: Sequence[Row], measures: Sequence[Measure], order: Sequence[str], title: str):
    """Figures 4 to 6: a panel per number of shots, target and kind of axis, a line per score. Dashed or dotted lines: a random order."""
    columns = list(dict.fromkeys((row["shots"], row["target"]) for row in rows))
    labels = list(dict.fromkeys(each.label for each in measures))
    panels = [(label, *column) for column in columns for label in labels]
    figure = begun(results, title, 2.4 + max(2.4 * len(panels), 6), 1.9 + 0.21 * len(order))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, shots, task) in zip(axes, panels, strict=True):
        on_axis = [each for each in measures if each.label == label]
        here = [{row["score"]: row for row in rows if _is_of(row, each, shots, task)} for each in on_axis]
        if on_axis[0].measure == "top_k_gain":
            axis.axvline(0, color=ZERO, linewidth=1)
        for each, found, apart in zip(on_axis, here, places(len(on_axis), 0.5), strict=True):
            _dots(axis, found, [(score, place + apart) for place, score in enumerate(order)], each.hollow)
        axis.set_title(literal(f"fine-tuned on {shots_text(shots)}\n{task or _number_of_targets(here)}"), fontsize=8)
        axis.set_xlabel(label, fontsize=8)
        plain(axis, "x")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
        axis.tick_params(axis="y", length=0)
        for part in ((BEST, RANDOM, STATIC), (BEST, RANDOM, STATIC, *FIRST)):
            axis.axhline(sum(name in part for name in order) - 0.5, color="0.8", linewidth=0.8)
    axes[0].set_yticks(range(len(order)), [literal(name) for name in order], fontsize=8)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    marks = [entry(each.mark, Style("0.3", "o", each.hollow)) for each in measures if each.mark]
    if any(row["score"] == RANDOM for row in rows):
        styles = {_dashes(each.hollow): each.mark for each in measures}
        marks += [line_entry(f"random order{', ' * bool(mark)}{mark}", ORANGE, style) for style, mark in styles.items()]
    if any(each.measure == "top_k_gain" for each in measures):
        marks.append(line_entry("the reference", ZERO, "-"))
    legend(figure, marks)
    return figure


def _is_of(row: Row, measure: Measure, shots: Images, task: str | None) -> bool:
    return (row["measure"], row["shots"], row["target"]) == (measure.name, shots, task)


def _number_of_targets(found: Sequence[Mapping[str, Row]]) -> str:
    counts = {row["targets"] for by_score in found for row in by_score.values()}
    return f"mean of {'' if len(counts) == 1 else f'{min(counts)} to '}{max(counts)} targets" if counts else "no target has a value"


def _dashes(hollow: bool) -> str:
    """Of the line of a random order."""
    return ":" if hollow else "--"


def _dots(axis, rows: Mapping[str, Row], lines: Sequence[tuple[str, float]], hollow: bool) -> None:
    if RANDOM in rows:
        axis.axvline(rows[RANDOM]["value"], color=ORANGE, linewidth=1.2, linestyle=_dashes(hollow))
    for score, place in lines:
        if (row := rows.get(score)) is None:
            continue
        colour = {BEST: RED, RANDOM: ORANGE, STATIC: BLACK}.get(score, BLUE if score in FIRST else GREY)
        if row["low"] is not None:
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.3, solid_capstyle="round")
        axis.plot(row["value"], place, "o", color=colour, markersize=4.5, markerfacecolor="white" if hollow else colour)
        if row["targets"] < max(each["targets"] for each in rows.values()):
            axis.annotate(f"{row['targets']}", (row["value"], place), (3.5, 2), textcoords="offset points", fontsize=6, color="0.4")


def draw_probes(results: Results, rows: Sequence[Row], measures: Sequence[Measure], scores: Sequence[str], title: str):
    """Figure 7: a panel per measure, a line per score over the number of probe images per class."""
    there = [score for score in scores if any(row["score"] == score for row in rows)]
    images = list(dict.fromkeys(row["images_per_class"] for row in rows if row["score"] != RANDOM))
    colour, marker, apart = coloured(there), marked(there), dict(zip(there, places(len(there), 0.3), strict=True))
    figure = begun(results, title, 8.6, 3.9)
    measures = [each for each in measures if any(row["measure"] == each.name and row["score"] != RANDOM for row in rows)]
    for axis, each in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        plain(axis, "y")
        here = [row for row in rows if row["measure"] == each.name]
        if each.measure == "top_k_gain":
            axis.axhline(0, color=ZERO, linewidth=1)
        for row in here:
            if row["score"] == RANDOM:
                axis.axhline(row["value"], color="0.5", linewidth=1, linestyle="--")
        for score in there:
            points = [row for row in here if row["score"] == score]
            x = [images.index(row["images_per_class"]) + apart[score] for row in points]
            axis.plot(x, [row["value"] for row in points], f"-{marker[score]}", color=colour[score], markersize=5, linewidth=1.3)
            for place, row in zip(x, points, strict=True):
                if row["low"] is not None:
                    axis.plot([place, place], [row["low"], row["high"]], color=colour[score], linewidth=1)
        axis.set_xticks(range(len(images)), [str(each) for each in images])
        axis.set_xlim(-0.5, len(images) - 0.5)
        axis.set_xlabel("probe images per class")
        axis.set_ylabel(f"gain of the {each.mark} over\nthe reference (percentage points)" if each.mark else each.label)
        counts = [row["targets"] for row in here]
        targets = counted(max(counts), "target") if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} targets"
        axis.set_title(f"fine-tuned on {shots_text(results.shots[-1])}; {targets}", fontsize=9, loc="left")
    lines = [entry(score, Style(colour[score], marker[score])) for score in there]
    if any(row["score"] == RANDOM for row in rows):
        lines.append(line_entry("random order", "0.5", "--"))
    if any(each.measure == "top_k_gain" for each in measures):
        lines.append(line_entry("the reference", ZERO, "-"))
    legend(figure, lines)
    return figure


def draw_kernels(results: Results, rows: Sequence[Row], title: str, roles: Sequence[str]):
    """Figure 8: a row of panels per expert and target, a column per epoch. `rows` are records of kernels."""
    lines = list(dict.fromkeys((row["expert"], row["task"]) for row in rows))
    epochs = sorted({row["epochs"] for row in rows})
    figure = begun(results, title, 1.6 + 2.9 * len(epochs), 1.2 + 2.9 * len(lines), roles)
    axes = figure.subplots(len(lines), len(epochs), squeeze=False)
    image, lowest = None, min(0.0, *(min(row["kernel"]) for row in rows))
    for line, pair in enumerate(lines):
        for column, epoch in enumerate(epochs):
            axis = axes[line, column]
            axis.set_xticks([]), axis.set_yticks([])
            row = next((row for row in rows if (row["expert"], row["task"], row["epochs"]) == (*pair, epoch)), None)
            if row is None:
                axis.text(0.5, 0.5, f"epoch {epoch}:\nnot yet", ha="center", va="center", fontsize=8, color="0.5", transform=axis.transAxes)
            else:
                image = _kernel_panel(axis, row, lowest)
        axes[line, 0].set_ylabel(literal(f"{pair[0]}\non {pair[1]}"), fontsize=8)
    figure.colorbar(image, ax=axes, label="inner product of features / largest", shrink=0.6)
    return figure


def _kernel_panel(axis, row: Row, lowest: float):
    image = axis.imshow(matrix(row), cmap="viridis", vmin=lowest, vmax=1, interpolation="nearest")
    for place in np.flatnonzero(np.diff(row["labels"])) + 0.5:
        axis.axvline(place, color="white", linewidth=0.5)
        axis.axhline(place, color="white", linewidth=0.5)
    accuracy = "" if row["accuracy"] is None else f", accuracy {100 * row['accuracy']:.1f} %"
    axis.set_title(f"epoch {row['epochs']}: LFC {row['lfc']:.3f}{accuracy}", fontsize=8)
    return image


def matrix(row: Row) -> np.ndarray:
    """The kernel of a record, (images, images)."""
    size = len(row["labels"])
    return np.array(row["kernel"]).reshape(size, size)
