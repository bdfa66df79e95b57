"""Figure 1: a choice among experts beside other architectures and other learning rates."""

import numpy as np

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.truths import Truth
from ntk_select.benchmark.report.words import counted, shots_text, single_domain
from ntk_select.evaluate import top_k_accuracy

from .gains import deviation
from .look import BLUE, GREEN, GREY, ORANGE, RED, begun, caption, entry, facts_of, marked, places, plain, point, targets_along_x

TITLE = "A zoo against other architectures, and against other learning rates"
UNTRAINED, TRAINED, REFERENCE, SEARCH = "untrained", "reference's source", "reference", "reference, wide search"
BEST, CHOSEN = "zoo: best expert (brute force)", "zoo: best of LFC's first three"
CHOSEN_BY, FIRST = "lfc", 3
COLOURS = {UNTRAINED: GREY, TRAINED: ORANGE, REFERENCE: BLUE, SEARCH: BLUE, BEST: RED, CHOSEN: GREEN}
ROLES = ("truth", "untrained", "search")


def data(results: Results) -> list[dict]:
    """Test accuracy in percent by panel, target, shots and what was fine-tuned; sd_percent over seeds (of LFC's choice: over draws of its images)."""
    rows = []
    for shots in results.shots:
        for task in results.task_names:
            if (truth := results.truth(task, shots)) is None:
                continue
            zoo = _zoo(results, truth)
            a = [*_of_role(results, "untrained", UNTRAINED, truth), *_trained(results, truth), *zoo]
            b = [*_reference(results, truth), *_of_role(results, "search", SEARCH, truth), *zoo]
            rows += [{"panel": panel, "target": task, "shots": shots, **row} for panel, found in (("a", a), ("b", b)) for row in found]
    return rows


def nothing(_results: Results) -> str:
    """Why there is no figure."""
    return "No fine-tuning was measured yet."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        "Test accuracy (a) of untrained architectures, of the same trained on the source of the reference (it is one of "
        f"them), and of the zoo; (b) of the reference with the learning rates of the config ({_rates(results.config.learning_rates)}), and with a wide search "
        f"({_rates(results.config.search_rates)}). "
        "The zoo is all experts that are strangers to the target. Brute force picks on test accuracies, so that it is too high by their noise; of "
        f"LFC's first {FIRST} the best is picked on test accuracies too, which is optimistic. "
        "Bars are one standard deviation between seeds, for LFC's choice between draws of the images that it sees. "
        "The paper's figure 1 draws test error against 5, 10 and 20 images per class: (a) of AlexNet, ResNet-18, ResNet-101 and Wide ResNet-101, untrained "
        "and trained on ImageNet, at the learning rate 0.005; (b) of the ImageNet ResNet-101 at 0.01, 0.005 and 0.001. Its zoo is the single-domain "
        "experts without those of ImageNet, and its error is the lowest, most of all with few images.",
        ROLES,
    )


def draw(results: Results):
    """Both panels side by side, a row for each number of shots."""
    rows = data(results)
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    tasks = [task for task in results.task_names if any(row["target"] == task for row in rows)]
    networks = marked(list(dict.fromkeys(row["architecture"] for row in rows if row["architecture"])))
    figure = begun(results, TITLE, min(6 + 1.4 * len(tasks), 16), 1.6 + 2.6 * len(shots), ROLES)
    axes = figure.subplots(len(shots), 2, sharex=True, sharey="row", squeeze=False)
    for line, number in zip(axes, shots, strict=True):
        for axis, panel in zip(line, "ab", strict=True):
            plain(axis, "y")
            for column, task in enumerate(tasks):
                here = [row for row in rows if (row["panel"], row["shots"], row["target"]) == (panel, number, task)]
                for row, place in zip(here, places(len(here), 0.66), strict=True):
                    style = _style(row, networks)
                    point(axis, column + place, row["accuracy_percent"], row["sd_percent"], COLOURS[row["what"]], **style)
        line[0].set_ylabel(f"{shots_text(number)}\ntest accuracy (%)")
    for place, name in enumerate(("(a) architectures", "(b) learning rates")):
        axes[0, place].set_title(name, fontsize=9, loc="left")
        targets_along_x(axes[:, place], tasks)
    there = {(row["what"], row["architecture"]) for row in rows}
    lines = [
        entry(
            f"{what}: {network}" if what in (UNTRAINED, TRAINED) else what,
            COLOURS[what],
            **_style({"what": what, "architecture": network}, networks),
        )
        for what in COLOURS
        for network in (None, *networks)
        if (what, network) in there
    ]
    figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _style(row: dict, networks: dict[str, str]) -> dict:
    marker = {BEST: "*", CHOSEN: "D"}.get(row["what"]) or networks[row["architecture"]]
    return {"marker": marker, "hollow": row["what"] in (UNTRAINED, SEARCH), "size": 9 if marker == "*" else 5.5}


def _row(what: str, expert: str, architecture: str | None, values, bar: float | None, seeds: int) -> dict:
    return {
        "what": what,
        "expert": expert,
        "architecture": architecture,
        "accuracy_percent": float(100 * np.mean(values)),
        "sd_percent": bar if bar is None else 100 * bar,
        "seeds": seeds,
    }


def _of_role(results: Results, role: str, what: str, truth: Truth) -> list[dict]:
    """With the seeds of the zoo."""
    found: dict[str, list[dict]] = {}
    for row in results.of_role(role):
        if (row["task"], row["images_per_class"]) == (truth.task, truth.shots) and row["seed"] in truth.seeds:
            found.setdefault(row["expert"], []).append(row)
    return [
        _row(what, name, rows[0]["architecture"], accuracies := [results.judged(row) for row in rows], deviation(accuracies), len(rows))
        for name, rows in sorted(found.items())
    ]


def _trained(results: Results, truth: Truth) -> list[dict]:
    """Experts of the source of the reference, trained from random weights on it alone."""
    if results.config.reference not in results.experts:
        return []
    source, found = results.experts[results.config.reference].source, []
    if not source:
        return []
    for place, name in enumerate(truth.experts):
        facts = results.experts[name]
        if facts.source == source and facts.initialised_from is None and single_domain(name):
            values = truth.accuracies[:, place]
            found.append(_row(TRAINED, name, facts.architecture, values, deviation(values), len(values)))
    return found


def _reference(results: Results, truth: Truth) -> list[dict]:
    name = results.config.reference
    if name not in truth.experts:
        return []
    values = truth.accuracies[:, truth.experts.index(name)]
    return [_row(REFERENCE, name, facts_of(results, name).architecture, values, deviation(values), len(values))]


def _zoo(results: Results, truth: Truth) -> list[dict]:
    means = truth.accuracies.mean(axis=0)
    best = truth.accuracies[:, int(means.argmax())]
    found = [_row(BEST, truth.experts[int(means.argmax())], None, best, deviation(best), len(best))]
    target = next((each for each in results.targets(CHOSEN_BY, truth.shots) if each.name == truth.task), None)
    if target is not None and target.scores.shape[1] >= FIRST:
        values = [top_k_accuracy(draw, target.mean_accuracies(), FIRST) for draw in target.scores]
        found.append(_row(CHOSEN, f"first {FIRST} of {CHOSEN_BY}", None, values, deviation(values), len(truth.seeds)))
    return found


def _rates(rates) -> str:
    return f"{counted(len(rates), 'rate')}: {', '.join(f'{rate:g}' for rate in rates)}" if rates else "none"
