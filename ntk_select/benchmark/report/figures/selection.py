"""Selection by every score, by several measures, drawn as bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ntk_select._runtime.figures import literal
from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import STATIC, Results
from ntk_select.benchmark.report.summary import BEST, RANDOM, Among, baselines, measured, usable_targets
from ntk_select.benchmark.report.words import FIRST, shots_text
from ntk_select.evaluate import Interval
from ntk_select.evaluate.checked import ROUNDING

from .look import BLACK, BLUE, GREY, ORANGE, RED, ZERO, begun, entry, line_entry, places, plain

LEAST_TARGETS = 3
"""With fewer, each is shown by itself."""
INTERVALS = "Bars are 95 % intervals (bootstrap over targets, draws of images and seeds); too narrow with few targets, and none where nothing was drawn twice."


@dataclass(frozen=True, eq=False)
class Wanted:
    """A measure, its options, what one reads on its axis, the factor of its unit, and what sets it apart from another one on the same axis."""

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


GAIN = "gain over the reference\n(percentage points)"
TOP_1 = Wanted("top_k_gain", GAIN, {"k": 1}, 100.0, "first by the score", hollow=True)
TOP_3 = Wanted("top_k_gain", GAIN, {"k": 3}, 100.0, "best of its first three")


def selected(results: Results, wanted: Sequence[Wanted], among: Among | None) -> list[dict]:
    """One row a number of shots, measure and score: value with the ends of its interval, low and high, which are None where it has no width.

    "targets" says how many the value is the mean of, and "target" which it is, if with fewer than three targets each stands by itself.
    """
    rows = []
    for shots in results.shots:
        for each in wanted:
            names = [target.name for target in usable_targets(results, None, each.measure, shots, among=among, **each.options)]
            for task in [None] if len(names) >= LEAST_TARGETS else names:
                options = {"among": among, "task": task, **each.options}
                found = measured(results, each.measure, shots, **options) | baselines(results, each.measure, shots, **options)
                for score, value in found.items():
                    if not np.isfinite(value.value):
                        continue
                    count = len(usable_targets(results, None if score in (RANDOM, BEST) else score, each.measure, shots, **options))
                    rows.append(
                        {
                            "shots": shots,
                            "target": task,
                            "measure": each.name,
                            "score": score,
                            **numbers(value, each.factor),
                            "targets": count - value.undefined,
                        }
                    )
    return rows


def numbers(value: Interval, factor: float, several: bool = True) -> dict:
    """An interval in another unit; without ends where it has no width, or is of too few to be shown."""
    wide = several and np.isfinite(value.low) and value.high - value.low > ROUNDING
    return {
        "value": factor * value.value,
        "low": factor * value.low if wide else None,
        "high": factor * value.high if wide else None,
        "undefined_targets": value.undefined,
    }


def in_order(rows: Sequence[dict], by: Wanted) -> list[str]:
    """Perfect and random order and the static leaderboard, the paper's scores, and the others by their mean value, the largest first.

    Means of fewer targets than others have are not to be compared with theirs: these scores come last.
    """
    means, targets = {}, {}
    for score in dict.fromkeys(row["score"] for row in rows):
        values = [row["value"] for row in rows if row["score"] == score and row["measure"] == by.name]
        targets[score] = sum(row["targets"] for row in rows if row["score"] == score)
        means[score] = -np.mean(values) if values else np.inf
    first = [name for name in (BEST, RANDOM, STATIC, *FIRST) if name in means]
    return first + sorted((name for name in means if name not in first), key=lambda name: (-targets[name], means[name], name))


def draw_selection(results: Results, rows: Sequence[dict], wanted: Sequence[Wanted], order: Sequence[str], title: str):
    """A panel for each number of shots, target and kind of axis, a line for each score. Dashed or dotted: a random order."""
    columns = list(dict.fromkeys((row["shots"], row["target"]) for row in rows))
    labels = list(dict.fromkeys(each.label for each in wanted))
    panels = [(label, *column) for column in columns for label in labels]
    figure = begun(results, title, 2.4 + max(2.4 * len(panels), 6), 1.9 + 0.21 * len(order))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, shots, task) in zip(axes, panels, strict=True):
        on_axis = [each for each in wanted if each.label == label]
        here = {each: {row["score"]: row for row in _of(rows, each, shots, task)} for each in on_axis}
        if on_axis[0].measure == "top_k_gain":
            axis.axvline(0, color=ZERO, linewidth=1)
        for each, apart in zip(on_axis, places(len(on_axis), 0.5), strict=True):
            _dots(axis, here[each], [(score, place + apart) for place, score in enumerate(order)], each.hollow)
        counts = {row["targets"] for found in here.values() for row in found.values()}
        most = f"mean of {'' if len(counts) == 1 else f'{min(counts)} to '}{max(counts)} targets" if counts else "no target has a value"
        axis.set_title(literal(f"fine-tuned on {shots_text(shots)}\n{task or most}"), fontsize=8)
        axis.set_xlabel(label, fontsize=8)
        plain(axis, "x")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
        axis.tick_params(axis="y", length=0)
        for part in ((BEST, RANDOM, STATIC), (BEST, RANDOM, STATIC, *FIRST)):
            axis.axhline(sum(name in part for name in order) - 0.5, color="0.8", linewidth=0.8)
    axes[0].set_yticks(range(len(order)), [literal(name) for name in order], fontsize=8)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    marks = [entry(each.mark, "0.3", "o", hollow=each.hollow) for each in wanted if each.mark]
    if any(row["score"] == RANDOM for row in rows):
        styles = {_style(each.hollow): each.mark for each in wanted}
        marks += [line_entry(f"random order{', ' * bool(mark)}{mark}", ORANGE, style) for style, mark in styles.items()]
    if any(each.measure == "top_k_gain" for each in wanted):
        marks.append(line_entry("the reference", ZERO, "-"))
    figure.legend(handles=marks, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _style(hollow: bool) -> str:
    """Of the line of a random order."""
    return ":" if hollow else "--"


def _of(rows: Sequence[dict], wanted: Wanted, shots: Images, task: str | None) -> list[dict]:
    return [row for row in rows if (row["measure"], row["shots"], row["target"]) == (wanted.name, shots, task)]


def _dots(axis, rows: dict[str, dict], lines: Sequence[tuple[str, float]], hollow: bool) -> None:
    if RANDOM in rows:
        axis.axvline(rows[RANDOM]["value"], color=ORANGE, linewidth=1.2, linestyle=_style(hollow))
    for score, place in lines:
        if (row := rows.get(score)) is None:
            continue
        colour = {BEST: RED, RANDOM: ORANGE, STATIC: BLACK}.get(score, BLUE if score in FIRST else GREY)
        if row["low"] is not None:
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.3, solid_capstyle="round")
        axis.plot(row["value"], place, "o", color=colour, markersize=4.5, markerfacecolor="white" if hollow else colour)
        if row["targets"] < max(each["targets"] for each in rows.values()):
            axis.annotate(f"{row['targets']}", (row["value"], place), (3.5, 2), textcoords="offset points", fontsize=6, color="0.4")


def few(rows: Sequence[dict]) -> str:
    """The sentences that say that targets stand by themselves, and that some scores have values on fewer than others, if it is so."""
    alone = dict.fromkeys(row["target"] for row in rows if row["target"] is not None)
    texts = [f"Fewer than {LEAST_TARGETS} targets: each by itself ({', '.join(alone)})."] if alone else []
    if any(
        row["targets"] < most
        for row in rows
        if (most := max(each["targets"] for each in rows if each["shots"] == row["shots"])) and row["target"] is None
    ):
        texts.append("A small number at a mark says that a score has values on so many targets only; such means are not to be compared with others.")
    return " ".join(texts)
