"""What was found, what is missing, and what does it not show, in sentences?"""

from collections import Counter
from math import isfinite

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.summary import BEST, RANDOM, baselines, measured, usable_targets
from ntk_select.benchmark.report.truths import Truth
from ntk_select.benchmark.report.words import balanced_text, counted, listed, seeds_text, shots_text
from ntk_select.evaluate import Interval

from .record import in_points, of_targets

KINDS = {
    ("score", ""): "scorings of an expert on a draw of images",
    ("truth", "truth"): "fine-tunings of experts",
    ("truth", "untrained"): "fine-tunings of networks with random weights",
    ("truth", "search"): "fine-tunings of the reference with the wide search",
    ("kernel", ""): "feature kernels",
    ("synthetic", ""): "made-up measurements",
}
SCORES = {"lfc": "LFC", "lgc": "LGC"}
SURE = 15
"""Targets below which a percentile bootstrap over them is known to be too narrow."""


def what_it_is(results: Results) -> list[str]:
    """What was measured on what."""
    experts = len(results.measured_experts)
    tasks = len(results.task_names) or len({cell.task for cell in results.cells})
    numbers = sorted({cell.images for cell in results.cells if _trains(cell)}, key=lambda each: (each is None, each))
    shots = " and ".join("all" if each is None else str(each) for each in numbers)
    seeds, draws = (
        len({cell.seed for cell in results.cells if _trains(cell)}),
        len({cell.seed for cell in results.cells if cell.kind in ("score", "synthetic")}),
    )
    made = "These numbers are made up, to try the report: no image was seen. " if results.config.synthetic else ""
    reference = f"Gains are over the expert {results.config.reference}." if results.config.reference else "There is no reference expert."
    return [
        f"{made}{counted(experts, 'expert')}, {counted(tasks, 'target task')}, fine-tuning with {shots} images per class, {counted(seeds, 'seed')}, "
        f"{counted(draws, 'draw')} of the images that scores see. {reference} {balanced_text(results.balanced)}".rstrip()
    ]


def _trains(cell) -> bool:
    return cell.kind in ("truth", "synthetic")


def what_is_missing(results: Results) -> list[str]:
    """Counts of measurements that are not there, of each kind."""
    done = {row["key"] for rows in (results.truths, results.scores, results.kernels) for row in rows}
    asked = Counter((cell.kind, cell.role) for cell in results.cells)
    there = Counter((cell.kind, cell.role) for cell in results.cells if cell.key in done)
    failed = sum(cell.key in results.failures for cell in results.cells)
    found = [f"{there[kind]:,} of {asked[kind]:,} {text} are there." for kind, text in KINDS.items() if there[kind] < asked[kind]]
    if failed:
        found.append(f"{counted(failed, 'measurement')} failed; the table of failures says why.")
    found += [
        _unfinished(truth)
        for shots in results.shots
        for task in results.task_names
        if (truth := results.truth(task, shots)) is not None and (truth.missing or truth.dropped)
    ]
    return [*(found or ["Nothing: every measurement that the config asks for is there."]), *results.warnings]


def _unfinished(truth: Truth) -> str:
    experts = f"accuracies of {len(truth.experts)} of {len(truth.experts) + len(truth.missing)} experts" if truth.missing else "accuracies"
    without = f" (not of {listed(truth.missing)})" if truth.missing else ""
    dropped = f"; {seeds_text(truth.dropped)} left out, as too few of these experts were fine-tuned with it" if truth.dropped else ""
    what = f"{experts}{without}, with {seeds_text(truth.seeds)}{dropped}"
    return f"{truth.task} with {shots_text(truth.shots)} has {what}: what is said of it is of those."


def what_was_found(results: Results) -> list[str]:
    """Gain, trials and rank correlation of LFC and LGC at each number of images, beside a random order and the best possible."""
    found = []
    for shots in results.shots:
        where = f"With {shots_text(shots)}"
        for score, title in SCORES.items():
            if score not in results.score_names or not (targets := len(usable_targets(results, score, "trials_to_best", shots))):
                continue
            parts = [part for part in (_gain(results, score, shots), _trials(results, score, shots), _rank(results, score, shots)) if part]
            found.append(f"{where}, over {counted(targets, 'target')}, {title} {'; '.join(parts)}.")
    return found or ["There is no target yet with values of LFC or LGC and accuracies of three experts."]


def _gain(results: Results, score: str, shots: Images) -> str:
    own, ends = measured(results, "top_k_gain", shots, k=3).get(score), baselines(results, "top_k_gain", shots, k=3)
    if own is None or not isfinite(own.value):
        return ""
    targets = len(usable_targets(results, score, "top_k_gain", shots, k=3))
    limits = ", ".join(f"{name.removesuffix(' (exact)')} {100 * ends[name].value:.1f}" for name in (RANDOM, BEST) if name in ends)
    text = f"gains {_interval(in_points(of_targets(own, targets)), 1)} points over the reference with the best of its first three ({limits})"
    return text if targets == len(usable_targets(results, score, "trials_to_best", shots)) else f"{text} on {counted(targets, 'target')}"


def _trials(results: Results, score: str, shots: Images) -> str:
    own, ends = measured(results, "trials_to_best", shots)[score], baselines(results, "trials_to_best", shots)
    random = f" (random order {ends[RANDOM].value:.1f})" if RANDOM in ends else ""
    targets = len(usable_targets(results, score, "trials_to_best", shots))
    return f"meets the best expert after {_interval(of_targets(own, targets), 1)} trials{random}"


def _rank(results: Results, score: str, shots: Images) -> str:
    own = measured(results, "spearman", shots)[score]
    targets = len(usable_targets(results, score, "spearman", shots))
    return f"has a Spearman correlation of {_interval(of_targets(own, targets), 2)} with accuracy" if isfinite(own.value) else ""


def what_it_does_not_show(results: Results) -> list[str]:
    """Limits of these numbers."""
    most = max((len(usable_targets(results, None, "trials_to_best", shots)) for shots in results.shots), default=0)
    fewest = min((len(t.seeds) for s in results.shots for n in results.task_names if (t := results.truth(n, s)) is not None), default=0)
    known = [results.experts[name] for name in results.measured_experts if name in results.experts]
    sources, kinds = ({getattr(facts, name) for facts in known} for name in ("source", "architecture"))
    found = [
        f"{counted(most, 'target')} {'says' if most == 1 else 'say'} little of another task"
        + (": intervals over so few are too narrow." if 1 < most < SURE else "; there are no intervals." if most <= 1 else ".")
    ]
    if fewest:
        found.append(f"Accuracies are means over {counted(fewest, 'seed')} at least: the best of several is too high by what noise is left.")
    if any(cell.kind == "score" for cell in results.cells):
        found.append(
            "A draw of the images that scores see and a fine-tuning with the same seed share images (with N images per class both see the same ones), "
            "and other draws see other images of the same training set; the intervals resample draws and seeds as if they knew nothing of each other."
        )
    if known:
        found.append(
            f"{counted(len(known), 'expert')} {'comes' if len(known) == 1 else 'come'} from {counted(len(sources), 'source')} and "
            f"{counted(len(kinds), 'architecture')}; those that share one are not independent. Another zoo may order the scores otherwise."
        )
    return found


def _interval(found: Interval, decimals: int) -> str:
    text = f"{found.value + 0.0:.{decimals}f}"
    return f"{text} [{found.low + 0.0:.{decimals}f}, {found.high + 0.0:.{decimals}f}]" if isfinite(found.low) else text
