"""Figures 1 to 8 of the paper, from measured records: the numbers that each draws, its caption, and why it is missing.

`FIGURES` declares them.

    for name in FIGURES:
        content = figure_bytes(results, name, "png")
        print(caption(results, name) if content else why_not(results, name))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_select._runtime.figures import file_content
from ntk_select.benchmark.report import drawing, words
from ntk_select.benchmark.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, RED, Measure, Style
from ntk_select.benchmark.report.results import STATIC, GroundTruth, Results, Row, images_of
from ntk_select.benchmark.report.summary import BEST, RANDOM, Among, baselines, measured, usable_targets
from ntk_select.benchmark.report.words import FIRST, TEXTS, multi_domain, shots_text, single_domain
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate import Interval, top_k_accuracy
from ntk_select.evaluate.target import ROUNDING

MIN_TARGETS = 3
"""With fewer targets, each is shown separately."""

UNTRAINED, TRAINED, REFERENCE, SEARCH = "untrained", "reference's source", "reference", "reference, wide search"
BRUTE_FORCE, CHOSEN = "zoo: best expert (brute force)", "zoo: best of LFC's first three"
CHOSEN_BY, TRIED = "lfc", 3
STYLES = {
    UNTRAINED: Style(GREY, "", hollow=True),
    TRAINED: Style(ORANGE, ""),
    REFERENCE: Style(BLUE, ""),
    SEARCH: Style(BLUE, "", hollow=True),
    BRUTE_FORCE: Style(RED, "*", size=9),
    CHOSEN: Style(GREEN, "D"),
}
BEST_SINGLE, DOMAIN = "best single-domain expert", "domain"

GAIN = "gain over the reference\n(percentage points)"
TOP_1 = Measure("top_k_gain", GAIN, {"k": 1}, 100.0, "first by the score", hollow=True)
TOP_3 = Measure("top_k_gain", GAIN, {"k": 3}, 100.0, "best of its first three")
TRIALS = Measure("trials_to_best", "experts tried until\nthe best is found")
SPEARMAN = Measure("spearman", "Spearman correlation of\nscore and accuracy")
NOT_DRAWN = (Measure("kendall", "Kendall"), Measure("weighted_tau", "weighted tau"))
"""Measures in the file of figure 6 only."""
PROBED = ("lfc", "lgc", "leep", "rsa")
"""Scores of figure 7."""


# Figure 1: accuracies of other networks and learning rates, and of the zoo.


def _accuracies(results: Results) -> list[Row]:
    """Test accuracy in percent by panel, target, shots and what was fine-tuned; sd_percent over seeds (of LFC's choice: over probe samples)."""
    rows = []
    for truth in results.ground_truths():
        zoo = _of_zoo(results, truth)
        a = [*_of_role(results, "untrained", UNTRAINED, truth), *_of_source(results, truth), *zoo]
        b = [*_of_reference(results, truth), *_of_role(results, "search", SEARCH, truth), *zoo]
        rows += [{"panel": panel, "target": truth.task, "shots": truth.shots, **row} for panel, found in (("a", a), ("b", b)) for row in found]
    return rows


def _accuracy_row(what: str, expert: str, architecture: str | None, values: Sequence[float], seeds: int | None = None) -> Row:
    bar = deviation(values)
    return {
        "what": what,
        "expert": expert,
        "architecture": architecture,
        "accuracy_percent": float(100 * np.mean(values)),
        "sd_percent": bar if bar is None else 100 * bar,
        "seeds": len(values) if seeds is None else seeds,
    }


def _of_role(results: Results, role: str, what: str, truth: GroundTruth) -> list[Row]:
    """Fine-tunings with the same seeds as the zoo."""
    table = results.finetuning_table
    table = table[(table["role"] == role) & (table["task"] == truth.task) & (table["images_per_class"] == images_of(truth.shots))]
    groups = table[table["seed"].isin(truth.seeds)].groupby("expert")
    return [_accuracy_row(what, name, rows["architecture"].iloc[0], rows["judged"].tolist()) for name, rows in groups]


def _of_source(results: Results, truth: GroundTruth) -> list[Row]:
    """Experts of the source of the reference, trained from random weights on it alone."""
    reference = results.experts.get(results.config.reference)
    found = []
    for place, name in enumerate(truth.experts if reference is not None and reference.source else ()):
        facts = results.experts[name]
        if facts.source == reference.source and facts.initialised_from is None and single_domain(name):
            found.append(_accuracy_row(TRAINED, name, facts.architecture, truth.accuracies[:, place]))
    return found


def _of_reference(results: Results, truth: GroundTruth) -> list[Row]:
    name = results.config.reference
    if name not in truth.experts:
        return []
    return [_accuracy_row(REFERENCE, name, drawing.facts_of(results, name).architecture, truth.accuracies[:, truth.experts.index(name)])]


def _of_zoo(results: Results, truth: GroundTruth) -> list[Row]:
    best = int(truth.means.argmax())
    found = [_accuracy_row(BRUTE_FORCE, truth.experts[best], None, truth.accuracies[:, best])]
    target = next((each for each in results.targets(CHOSEN_BY, truth.shots) if each.name == truth.task), None)
    if target is not None and target.scores.shape[1] >= TRIED:
        values = [top_k_accuracy(draw, target.mean_accuracies(), TRIED) for draw in target.scores]
        found.append(_accuracy_row(CHOSEN, f"first {TRIED} of {CHOSEN_BY}", None, values, len(truth.seeds)))
    return found


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


# Figures 2 and 3: gain of each expert over the reference.


def gains(truth: GroundTruth, reference: str | None) -> list[Row]:
    """One row per expert of a target in percentage points, in the order of the zoo; empty where the reference was not measured.

    The gain is the mean over seeds of the difference from the reference with the same seed; sd_points is the standard deviation of these
    differences, None with one seed.
    """
    if reference not in truth.experts:
        return []
    over = 100 * (truth.accuracies - truth.accuracies[:, [truth.experts.index(reference)]])
    return [
        {
            "target": truth.task,
            "shots": truth.shots,
            "expert": name,
            "gain_points": float(over[:, place].mean()),
            "sd_points": deviation(over[:, place]),
            "accuracy_percent": float(100 * truth.means[place]),
            "seeds": len(truth.seeds),
        }
        for place, name in enumerate(truth.experts)
    ]


def _single_gains(results: Results) -> list[Row]:
    """One row per target, number of shots and single-domain expert."""
    reference = results.config.reference
    rows = [row for truth in results.ground_truths() for row in gains(truth, reference)]
    return [row for row in rows if single_domain(row["expert"]) and row["expert"] != reference]


def _domain_gains(results: Results) -> list[Row]:
    """One row per target, number of shots and domain, and one for the best single-domain expert, for targets without source overlap."""
    found = []
    for truth in results.ground_truths():
        rows = gains(truth, results.config.reference)
        single = [row for row in rows if single_domain(row["expert"])]
        domains = [{**row, "what": DOMAIN} for row in rows if multi_domain(row["expert"])]
        if domains and single:
            domains.append({**max(single, key=lambda row: row["gain_points"]), "what": BEST_SINGLE})
        found += domains
    return found


# Figures 4 to 7: selection by every score.


def _selected(results: Results, measures: Sequence[Measure], among: Among) -> list[Row]:
    """One row per number of shots, measure and score: value with the ends of its interval, low and high, which are None without a width.

    "targets" is the number of targets behind the value. With fewer than three targets each has its own rows, named by "target".
    """
    rows = []
    for shots in results.shots:
        for each in measures:
            names = [target.name for target in usable_targets(results, None, each.measure, shots, among=among, **each.options)]
            for task in [None] if len(names) >= MIN_TARGETS else names:
                options = {"among": among, "task": task, **each.options}
                found = measured(results, each.measure, shots, **options) | baselines(results, each.measure, shots, **options)
                for score, value in found.items():
                    if np.isfinite(value.value):
                        count = len(usable_targets(results, score, each.measure, shots, **options)) - value.undefined
                        key = {"shots": shots, "target": task, "measure": each.name, "score": score}
                        rows.append({**key, **_numbers(value, each.factor), "targets": count})
    return rows


def _numbers(value: Interval, factor: float, several: bool = True) -> Row:
    """An interval in another unit; without ends if it has no width, or is of too few targets to be shown."""
    wide = several and np.isfinite(value.low) and value.high - value.low > ROUNDING
    low, high = (factor * end if wide else None for end in (value.low, value.high))
    return {"value": factor * value.value, "low": low, "high": high, "undefined_targets": value.undefined}


def in_order(rows: Sequence[Row], by: Measure) -> list[str]:
    """Perfect and random order and the static leaderboard, the paper's scores, and the others by their mean value, the largest first.

    Means over fewer targets are not comparable with the others: these scores come last.
    """
    means, targets = {}, {}
    for score in dict.fromkeys(row["score"] for row in rows):
        values = [row["value"] for row in rows if row["score"] == score and row["measure"] == by.name]
        targets[score] = sum(row["targets"] for row in rows if row["score"] == score)
        means[score] = -np.mean(values) if values else np.inf
    first = [name for name in (BEST, RANDOM, STATIC, *FIRST) if name in means]
    return first + sorted((name for name in means if name not in first), key=lambda name: (-targets[name], means[name], name))


def _of_probes(results: Results) -> list[Row]:
    """One row per measure, score and number of probe images per class, at the most shots; the exact random order is a row without that number."""
    if not results.shots or results.config.synthetic is not None:
        return []
    shots, rows = results.shots[-1], []
    for each in (SPEARMAN, TOP_3):
        probes = sorted(results.config.probes, key=images_of)
        for probe, scores in [*((probe, PROBED) for probe in probes), ("standard", (RANDOM,))]:
            options = {"among": single_domain, "probe": probe, **each.options}
            for score, value in measured(results, each.measure, shots, scores=scores, **options).items():
                if np.isfinite(value.value):
                    count = len(usable_targets(results, score, each.measure, shots, **options))
                    images = None if score == RANDOM else "all" if probe is None else probe
                    key = {"shots": shots, "measure": each.name, "score": score, "images_per_class": images, "targets": count}
                    rows.append(key | _numbers(value, each.factor, count >= MIN_TARGETS))
    return rows if any(row["score"] in PROBED for row in rows) else []


# Figure 8: feature kernels over fine-tuning.


def _kernels(results: Results) -> list[Row]:
    """One row per expert, target and epoch: LFC, test accuracy in percent, and the mean of the kernel within and between classes.

    There is no accuracy before training. The kernel is divided by its largest absolute entry; its diagonal is in neither mean.
    """
    rows = []
    for row in _kernel_records(results):
        kernel, labels = drawing.matrix(row), np.array(row["labels"])
        same, off = labels[:, None] == labels, ~np.eye(len(labels), dtype=bool)
        rows.append(
            {
                "target": row["task"],
                "expert": row["expert"],
                "epochs": row["epochs"],
                "images": len(labels),
                "classes": len(np.unique(labels)),
                "lfc": row["lfc"],
                "accuracy_percent": None if row["accuracy"] is None else 100 * row["accuracy"],
                "within_classes": _mean(kernel[same & off]),
                "between_classes": _mean(kernel[~same]),
            }
        )
    return rows


def _kernel_records(results: Results) -> list[Row]:
    """By target and expert in the order of the config, and epoch."""
    wanted = results.config.kernels
    experts, tasks = (list(wanted.experts), list(wanted.tasks)) if wanted else ([], [])
    return sorted(
        (row for row in results.kernels if row["expert"] in experts and row["task"] in tasks),
        key=lambda row: (tasks.index(row["task"]), experts.index(row["expert"]), row["epochs"]),
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


# Words of captions.


def _filled(results: Results, name: str) -> dict[str, str]:
    """What is filled into the texts of figures."""
    config = results.config
    return {
        "reference": str(config.reference),
        "rates": _rates(config.learning_rates),
        "search_rates": _rates(config.search_rates),
        "most_shots": shots_text(results.shots[-1]) if results.shots else "no images yet",
        "few": _few(data(results, name)) if name in ("figure_4", "figure_5", "figure_6") else "",
        "kernels": _how_kernels(results),
    }


def _rates(rates: Sequence[float]) -> str:
    return f"{words.counted(len(rates), 'rate')}: {', '.join(f'{rate:g}' for rate in rates)}" if rates else "none"


def _few(rows: Sequence[Row]) -> str:
    """The sentences that say that targets are shown separately, and that some scores have values on fewer than others."""
    alone = dict.fromkeys(row["target"] for row in rows if row["target"] is not None)
    texts = [f"Fewer than {MIN_TARGETS} targets, shown separately ({', '.join(alone)})."] if alone else []
    most = {shots: max(row["targets"] for row in rows if row["shots"] == shots) for shots in {row["shots"] for row in rows}}
    if any(row["target"] is None and row["targets"] < most[row["shots"]] for row in rows):
        texts.append(
            "A small number at a point is the number of targets with a value, where it is smaller; such means are not comparable with others."
        )
    return " ".join(texts)


def _how_kernels(results: Results) -> str:
    wanted = results.config.kernels
    if wanted is None:
        return ""
    full = isinstance(wanted.shots, str)
    among = "" if full or wanted.shots >= wanted.per_class else f", {wanted.shots} of the {wanted.per_class} of each class"
    return (
        f"Trained with one seed on {shots_text(None if full else wanted.shots)} with the learning rate {wanted.learning_rate:g}. With the same seed "
        f"the images of the kernel are among those trained on{among}: after epoch 0 LFC is that of training images."
    )


@dataclass(frozen=True)
class Figure:
    """A figure of the report, with its title, caption and the last reason why it is missing in texts.toml.

    Attributes:
      rows: Function of the results: the numbers that are drawn; empty if none was measured.
      draw: Function of the results, such rows and a title: a matplotlib figure.
      roles: Roles of the cells that it needs, of which missing ones are counted.
    """

    rows: Callable[[Results], list[Row]]
    draw: Callable[[Results, list[Row], str], Any]
    roles: Sequence[str] = ("truth", "score")


def _selection(measures: Sequence[Measure], order: Measure, among: Among, *, gains: bool, not_drawn: Sequence[Measure] = ()) -> Figure:
    """Figures 4 to 6. Gains need a reference; in other measures a perfect score has the value 1."""

    def rows(results: Results) -> list[Row]:
        found = _selected(results, (*measures, *not_drawn), among) if results.config.reference or not gains else []
        return found if gains else [row for row in found if row["score"] != BEST]

    return Figure(rows, lambda results, rows, title: drawing.draw_selection(results, rows, measures, in_order(rows, order), title))


OF_FIGURE_1 = ("truth", "untrained", "search")
FIGURES: dict[str, Figure] = {
    "figure_1": Figure(
        _accuracies,
        lambda results, rows, title: drawing.draw_accuracies(results, rows, title, OF_FIGURE_1, STYLES, (UNTRAINED, TRAINED)),
        OF_FIGURE_1,
    ),
    "figure_2": Figure(_single_gains, lambda results, rows, title: drawing.draw_gains(results, rows, title, {}), ("truth",)),
    "figure_3": Figure(
        _domain_gains, lambda results, rows, title: drawing.draw_gains(results, rows, title, {BEST_SINGLE: Style(BLACK, "D", size=7)}), ("truth",)
    ),
    "figure_4": _selection((TOP_1, TOP_3), TOP_3, single_domain, gains=True),
    "figure_5": _selection((TOP_1, TOP_3), TOP_3, multi_domain, gains=True),
    "figure_6": _selection((TRIALS, SPEARMAN), SPEARMAN, single_domain, gains=False, not_drawn=NOT_DRAWN),
    "figure_7": Figure(_of_probes, lambda results, rows, title: drawing.draw_probes(results, rows, (SPEARMAN, TOP_3), PROBED, title)),
    "figure_8": Figure(_kernels, lambda results, _, title: drawing.draw_kernels(results, _kernel_records(results), title, ("kernel",)), ("kernel",)),
}
"""All figures, by the names of their files."""


def data(results: Results, name: str) -> list[Row]:
    """The numbers that a figure draws, all rows with the same columns; empty if there is no figure. Raises ConfigError for an unknown name."""
    figure = _named(name)
    return [dict(row) for row in results.once(("figure", name), lambda: figure.rows(results))]


def draw(results: Results, name: str) -> Any:
    """A matplotlib figure; only if it has numbers. Raises as `figure_bytes`."""
    return _named(name).draw(results, data(results, name), TEXTS[name]["title"])


def figure_bytes(results: Results, name: str, file_format: str) -> bytes | None:
    """A figure as "png", "svg" or "pdf", the same bytes for the same results; None if nothing of it was measured, see `why_not`.

    Raises:
      ConfigError: there is no such figure.
      MissingDependencyError: matplotlib is not installed.
    """
    return file_content(draw(results, name), file_format) if data(results, name) else None


def why_not(results: Results, name: str) -> str | None:
    """Why there is no such figure of these results, in a sentence; None if there is one. Raises ConfigError for an unknown name."""
    if data(results, name):
        return None
    reference = results.config.reference
    if name in ("figure_3", "figure_5") and not any(map(multi_domain, results.selected)):
        return "No multi-domain expert takes part."
    if name in ("figure_2", "figure_3", "figure_4", "figure_5"):
        if reference is None:
            return "The config names no reference expert over which a gain could be taken."
        if not any(reference in truth.experts for truth in results.ground_truths()):
            return f"The reference expert {reference!r} was fine-tuned on none of the compared targets yet."
    if name == "figure_7" and results.config.synthetic is not None:
        return "Synthetic scores use no images."
    if name in ("figure_6", "figure_7") and not results.shots:
        return "No fine-tuning was measured yet."
    if name == "figure_7" and not set(PROBED) & set(results.score_names):
        return f"No expert has a value of {', '.join(PROBED)} yet."
    if name == "figure_8" and results.config.kernels is None:
        return "The config requests no kernels."
    return TEXTS[name]["nothing"].format(**_filled(results, name))


def caption(results: Results, name: str) -> str:
    """What a figure shows, of what, and what is missing. Raises ConfigError for an unknown name."""
    return " ".join(caption_parts(results, name))


def caption_parts(results: Results, name: str) -> tuple[str, ...]:
    """The caption in parts: first the text of this figure alone, then sentences that several figures may share. Raises as `caption`."""
    roles = _named(name).roles
    missing, texts = words.gaps(results, roles), TEXTS[name]
    parts = (
        texts["text"].format(**_filled(results, name)),
        texts.get("shared", ""),
        words.judged_text(results, roles),
        f"{words.measured_text(results)}.",
        f"Incomplete: {missing}." if missing else "",
        f"Unfinished: {unfinished}." if (unfinished := "; ".join(words.unfinished(results))) else "",
    )
    return tuple(" ".join(part.split()) for part in parts if part.strip())


def _named(name: str) -> Figure:
    if name not in FIGURES:
        raise ConfigError(f"There is no figure {name!r}.{did_you_mean(name, FIGURES)}")
    return FIGURES[name]
