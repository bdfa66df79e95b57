"""Figure 7: number of images per class that scores need."""

from collections.abc import Sequence

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.summary import RANDOM, baselines, measured, usable_targets
from ntk_select.benchmark.report.words import counted, shots_text, single_domain

from .look import ZERO, begun, caption, coloured, entry, line_entry, marked, places, plain
from .selection import INTERVALS, LEAST_TARGETS, TOP_3, Wanted, numbers

TITLE = "Scores on more images"
SCORES = ("lfc", "lgc", "leep", "rsa")
WANTED = (Wanted("spearman", "Spearman correlation of\nscore and accuracy"), TOP_3)


def data(results: Results, scores: Sequence[str] = SCORES) -> list[dict]:
    """One row a measure, score and number of images per class that it saw, at the most shots; the exact random order is a row without that number."""
    if not results.shots or results.config.synthetic is not None:
        return []
    shots, rows = results.shots[-1], []
    for each in WANTED:
        for probe in sorted(results.config.probes, key=lambda images: (images is None, images)):
            options = {"among": single_domain, "probe": probe, **each.options}
            for score, value in measured(results, each.measure, shots, scores=scores, **options).items():
                if not np.isfinite(value.value):
                    continue
                count = len(usable_targets(results, score, each.measure, shots, **options))
                rows.append(_row(each, score, shots, probe, count) | numbers(value, each.factor, count >= LEAST_TARGETS))
        for score, value in baselines(results, each.measure, shots, among=single_domain, **each.options).items():
            if score == RANDOM and np.isfinite(value.value):
                count = len(usable_targets(results, None, each.measure, shots, among=single_domain, **each.options))
                rows.append(_row(each, score, shots, None, count) | numbers(value, each.factor, count >= LEAST_TARGETS))
    return rows if any(row["score"] in scores for row in rows) else []


def _row(wanted: Wanted, score: str, shots: Images, probe: Images, targets: int) -> dict:
    images = None if score == RANDOM else "all" if probe is None else probe
    return {"shots": shots, "measure": wanted.name, "score": score, "images_a_class": images, "targets": targets}


def nothing(results: Results) -> str:
    """Why there is no figure."""
    if results.config.synthetic is not None:
        return "Made-up scores saw no images."
    if not results.shots:
        return "No fine-tuning was measured yet."
    if not set(SCORES) & set(results.score_names):
        return f"No expert has a value of {', '.join(SCORES)} yet."
    return f"No target has values of {', '.join(SCORES)} for three single-domain experts that were fine-tuned on {shots_text(results.shots[-1])}."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        f"Among single-domain experts{', fine-tuned on ' + shots_text(results.shots[-1]) if results.shots else ''}. The dashed line is a "
        "random order, exactly. With fewer than "
        f"{LEAST_TARGETS} targets there are no bars. "
        "RSA trains a network on images of the task; with the images per class that count for fewer shots it knows those shots only. "
        "The paper's figure 7 is the gain of the best of three, of scores that see 25, 50 and all images per class: it grows with the images for LFC, LEEP "
        "and RSA, and 25 are enough.",
        shared=[INTERVALS],
    )


def draw(results: Results, scores: Sequence[str] = SCORES):
    """A panel for each measure, a line for each score."""
    rows = data(results, scores)
    there = [score for score in scores if any(row["score"] == score for row in rows)]
    images = list(dict.fromkeys(row["images_a_class"] for row in rows if row["score"] != RANDOM))
    colour, marker, beside = coloured(there), marked(there), dict(zip(there, places(len(there), 0.3), strict=True))
    figure = begun(results, TITLE, 8.6, 3.9)
    wanted = [each for each in WANTED if any(row["measure"] == each.name and row["score"] != RANDOM for row in rows)]
    for axis, each in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
        plain(axis, "y")
        here = [row for row in rows if row["measure"] == each.name]
        if each.measure == "top_k_gain":
            axis.axhline(0, color=ZERO, linewidth=1)
        for row in here:
            if row["score"] == RANDOM:
                axis.axhline(row["value"], color="0.5", linewidth=1, linestyle="--")
        for score in there:
            points = [row for row in here if row["score"] == score]
            x = [images.index(row["images_a_class"]) + beside[score] for row in points]
            axis.plot(x, [row["value"] for row in points], f"-{marker[score]}", color=colour[score], markersize=5, linewidth=1.3)
            for place, row in zip(x, points, strict=True):
                if row["low"] is not None:
                    axis.plot([place, place], [row["low"], row["high"]], color=colour[score], linewidth=1)
        axis.set_xticks(range(len(images)), [str(each) for each in images])
        axis.set_xlim(-0.5, len(images) - 0.5)
        axis.set_xlabel("images of a class that scores see")
        axis.set_ylabel(f"gain of the {each.mark} over\nthe reference (percentage points)" if each.mark else each.label)
        counts = [row["targets"] for row in here]
        targets = counted(max(counts), "target") if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} targets"
        axis.set_title(f"fine-tuned on {shots_text(results.shots[-1])}; {targets}", fontsize=9, loc="left")
    lines = [entry(score, colour[score], marker[score]) for score in there]
    if any(row["score"] == RANDOM for row in rows):
        lines.append(line_entry("random order", "0.5", "--"))
    if any(each.measure == "top_k_gain" for each in wanted):
        lines.append(line_entry("the reference", ZERO, "-"))
    figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False)
    return figure
