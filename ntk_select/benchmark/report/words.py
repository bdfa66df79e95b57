"""Sentences of the report: what was measured, found and missing, with the terms and the order in which scores, experts and images are named."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import STATIC, Results
from ntk_select.benchmark.report.summary import BEST, CEILING, RANDOM, baselines, ceilings, compared, in_points, measured, of_targets, usable_targets
from ntk_select.evaluate import Interval

TEXTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("texts.toml").read_text(encoding="utf-8"))
"""By figure and table: title, text (caption or note), and what several captions share."""
FIRST = ("forecast", "lfc", "lgc", "leep", "rsa", "domain_similarity", "feature_metrics")
"""Scores of the paper, which are listed first."""
DOMAIN = "@"
"""Separates the domain in the name of an expert that was trained on several."""
MAX_NAMES = 5
"""Names that are listed; further ones are only counted."""
KINDS = {
    "score": ("cells of scores", "scorings of an expert on a probe sample"),
    "forecast": ("cells of forecasts", "forecasts of an expert on a probe sample"),
    "truth": ("fine-tunings", "fine-tunings of experts"),
    "untrained": ("fine-tunings of untrained networks", "fine-tunings of networks with random weights"),
    "search": ("wide searches", "fine-tunings of the reference with the wide search"),
    "kernel": ("kernels", "feature kernels"),
    "synthetic": ("fine-tunings", "synthetic measurements"),
}
"""By role (or kind) of a cell: how captions and the summary call them."""
FOUND = {"forecast": "the forecast", "lfc": "LFC", "lgc": "LGC"}
"""Scores of which the summary speaks; the first of them that was measured is compared with the static leaderboard."""
MIN_TARGETS = 15
"""Below so many clusters of targets a percentile bootstrap over them is known to be too narrow."""
SIGNIFICANT = 0.05
"""p-value below which the summary says that one order is better than another."""


def paper_first(names: Sequence[str]) -> list[str]:
    """The scores of the paper first, then the others in their order."""
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def single_domain(expert: str) -> bool:
    """Whether an expert was trained on one domain."""
    return DOMAIN not in expert


def multi_domain(expert: str) -> bool:
    """Whether an expert is one domain of a network that was trained on several."""
    return DOMAIN in expert


def counted(number: int, noun: str) -> str:
    """As in "1 seed" and "3 seeds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[object]) -> str:
    """As in "a, b", and with many as in "a, b, c, d, e and 7 more"."""
    more = len(names) - MAX_NAMES
    return ", ".join(map(str, names)) if more <= 0 else f"{', '.join(map(str, names[:MAX_NAMES]))} and {more} more"


def seeds_text(seeds: Sequence[int]) -> str:
    """As in "seed 0" and "seeds 0, 1"."""
    return f"seed{'' if len(seeds) == 1 else 's'} {listed(seeds)}"


def shots_text(shots: Images) -> str:
    """As in "20 images per class"."""
    return "all images" if shots is None else f"{counted(shots, 'image')} per class"


def shots_shown(shots: Images) -> int | str:
    """Images per class in a table."""
    return "all" if shots is None else shots


def balanced_text(tasks: Sequence[str]) -> str:
    """The sentence that names the tasks on which accuracy is the mean over classes; empty without any."""
    return f"Accuracy is balanced, the mean over classes, on {', '.join(tasks)}." if tasks else ""


def measured_text(results: Results) -> str:
    """What was measured so far, as in "embedded_benchmark: 23 experts, 8 targets, 3 seeds of fine-tuning"."""
    rows = [row for row in results.finetunings if row["role"] == "truth"]
    experts, tasks, seeds = (len({row[column] for row in rows}) for column in ("expert", "task", "seed"))
    synthetic = " (synthetic numbers)" if results.config.synthetic else ""
    return f"{results.name}{synthetic}: {counted(experts, 'expert')}, {counted(tasks, 'target')}, {counted(seeds, 'seed')} of fine-tuning"


def counts(results: Results) -> dict[str, tuple[int, int]]:
    """Cells with a record and cells requested, by role (or kind)."""
    recorded = {row["key"] for rows in (results.finetunings, results.scores, results.kernels) for row in rows}
    requested = Counter(cell.role or cell.kind for cell in results.cells)
    done = Counter(cell.role or cell.kind for cell in results.cells if cell.key in recorded)
    return {role: (done[role], requested[role]) for role in KINDS if requested[role]}


def gaps(results: Results, roles: Sequence[str] = ("truth", "score")) -> str:
    """As in "12 of 96 wide searches are missing; 1 cell failed", of the cells of these roles; empty if all have a record."""
    by_role = counts(results)
    roles = ["synthetic"] if results.config.synthetic else [role for role in roles if role in by_role]
    found = [f"{requested - done} of {requested} {KINDS[role][0]}" for role in roles for done, requested in [by_role[role]] if done < requested]
    failed = f"; {counted(len(results.failures), 'cell')} failed" if results.failures else ""
    return f"{' and '.join(filter(None, (', '.join(found[:-1]), found[-1])))} are missing{failed}" if found else ""


def unfinished(results: Results) -> list[str]:
    """Targets that lack experts or seeds, as in "digits, 5 images per class (2 of 23 experts missing: ash, elm; seed 1 left out, ...)"."""
    texts = []
    for truth in results.ground_truths():
        lacks = (
            [f"{len(truth.missing)} of {len(truth.missing) + len(truth.experts)} experts missing: {listed(truth.missing)}"] if truth.missing else []
        )
        lacks += [f"{seeds_text(truth.dropped)} left out, with too few experts"] if truth.dropped else []
        texts += [f"{truth.task}, {shots_text(truth.shots)} ({'; '.join(lacks)})"] if lacks else []
    return texts


def judged_text(results: Results, roles: Sequence[str]) -> str:
    """The sentence that names the tasks of a figure on which accuracy is balanced."""
    kernels = results.config.kernels if "kernel" in roles else None
    return balanced_text([task for task in results.balanced if kernels is None or task in kernels.tasks])


def what_it_is(results: Results) -> list[str]:
    """What was requested: experts, tasks, shots, seeds, probe samples, the reference."""
    trained = [cell for cell in results.cells if cell.kind in ("truth", "synthetic")]
    draws = {cell.seed for cell in results.cells if cell.kind in ("score", "synthetic")}
    tasks = len(results.task_names) or len({cell.task for cell in results.cells})
    numbers = sorted({cell.images for cell in trained}, key=lambda each: (each is None, each))
    synthetic = "These numbers are synthetic, to try the report: no image was used. " if results.config.synthetic else ""
    reference = f"Gains are over the expert {results.config.reference}." if results.config.reference else "There is no reference expert."
    return [
        f"{synthetic}{counted(len(results.measured_experts), 'expert')}, {counted(tasks, 'target task')}, fine-tuning with "
        f"{' and '.join(str(shots_shown(each)) for each in numbers)} images per class, {counted(len({cell.seed for cell in trained}), 'seed')}, "
        f"{counted(len(draws), 'probe sample')}. {reference} {balanced_text(results.balanced)}".rstrip()
    ]


def what_is_missing(results: Results) -> list[str]:
    """Requested measurements without a record, by kind, unfinished targets, and warnings on the config."""
    failed = sum(cell.key in results.failures for cell in results.cells)
    found = [f"{done:,} of {requested:,} {KINDS[role][1]} are done." for role, (done, requested) in counts(results).items() if done < requested]
    if failed:
        found.append(f"{counted(failed, 'measurement')} failed; the table of failures gives the reasons.")
    found += [f"Unfinished: {text}." for text in unfinished(results)]
    return [*(found or ["Nothing: every measurement that the config requests is done."]), *results.warnings]


def what_was_found(results: Results) -> list[str]:
    """Gain, trials and rank correlation of the forecast, LFC and LGC at each number of shots, with a random order and the best possible.

    After the first of them: whether a list of the experts that never looks at the target orders them as well, and what the noise of
    fine-tuning allows.
    """
    found = []
    for shots in results.shots:
        where = f"With {shots_text(shots)}"
        scores = [score for score in FOUND if score in results.score_names and usable_targets(results, score, "trials_to_best", shots)]
        for score in scores:
            targets = len(usable_targets(results, score, "trials_to_best", shots))
            found.append(f"{where}, over {counted(targets, 'target')}, {FOUND[score]} {_verdict(results, score, shots, targets)}.")
            if score == scores[0]:
                found += [f"{where}, {sentence}" for sentence in (*_against_a_list(results, score, shots), *_limit(results, shots))]
    return found or ["There is no target yet with values of the forecast, LFC or LGC and accuracies of three experts."]


def _against_a_list(results: Results, score: str, shots: Images) -> list[str]:
    """The sentence that compares a score with the static leaderboard by Spearman's correlation; none where they share no target.

    One is said to be better if the interval of the difference, to the decimals shown, leaves out zero and p is below 0.05: over few clusters the
    interval alone is too narrow.
    """
    pair = compared(results, score, STATIC, "spearman", shots)
    difference = of_targets(pair[0].difference, pair[1]) if pair else None
    if difference is None or not isfinite(difference.low):
        return []
    own = measured(results, "spearman", shots, scores=[STATIC])[STATIC]
    a_list = "a list of the experts by their accuracies on the other targets"
    numbers = f"Spearman of the list {_shown(own, 2)}; {FOUND[score]} minus the list {_shown(difference, 2)}, p = {pair[0].p_value:.2g}"
    significant = pair[0].p_value < SIGNIFICANT
    if significant and round(difference.low, 2) > 0:
        return [f"{FOUND[score]} orders the experts better than {a_list} ({numbers})."]
    if significant and round(difference.high, 2) < 0:
        return [f"{a_list} orders them better than {FOUND[score]} ({numbers})."]
    return [f"these targets do not tell whether {FOUND[score]} or {a_list} orders the experts better ({numbers})."]


def _limit(results: Results, shots: Images) -> list[str]:
    limit = ceilings(results, "spearman", shots).get(CEILING)
    if limit is None or not isfinite(limit.value):
        return []
    count = len(usable_targets(results, CEILING, "spearman", shots)) - limit.undefined
    return [
        f"the noise of fine-tuning allows a Spearman correlation of {_shown(of_targets(limit, count), 2)} "
        f"({counted(count, 'target')} with two seeds)."
    ]


def _verdict(results: Results, score: str, shots: Images, targets: int) -> str:
    """As in "gains 1.2 [0.4, 2.0] points over the reference with the best of its first three (...); finds the best expert after ..."."""

    def one(measure: str, **options) -> tuple[Interval | None, dict[str, Interval], int]:
        count = len(usable_targets(results, score, measure, shots, **options))
        own = measured(results, measure, shots, scores=[score], **options).get(score)
        return of_targets(own, count), baselines(results, measure, shots, **options), count

    parts = []
    gain, ends, count = one("top_k_gain", k=3)
    if gain is not None and isfinite(gain.value):
        limits = ", ".join(f"{name.removesuffix(' (exact)')} {100 * ends[name].value:.1f}" for name in (RANDOM, BEST) if name in ends)
        text = f"gains {_shown(in_points(gain), 1)} points over the reference with the best of its first three ({limits})"
        parts.append(text if count == targets else f"{text} on {counted(count, 'target')}")
    trials, ends, _ = one("trials_to_best")
    parts.append(f"finds the best expert after {_shown(trials, 1)} trials" + (f" (random order {ends[RANDOM].value:.1f})" if RANDOM in ends else ""))
    rank, _, _ = one("spearman")
    if isfinite(rank.value):
        parts.append(f"has a Spearman correlation of {_shown(rank, 2)} with accuracy")
    return "; ".join(parts)


def _shown(found: Interval, decimals: int) -> str:
    value, low, high = (f"{round(number, decimals) + 0.0:.{decimals}f}" for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]" if isfinite(found.low) else value


def what_it_does_not_show(results: Results) -> list[str]:
    """Limits of these numbers."""
    targets = max((usable_targets(results, None, "trials_to_best", shots) for shots in results.shots), key=len, default=[])
    most, clusters = len(targets), len({target.cluster for target in targets})
    fewest = min((len(truth.seeds) for truth in results.ground_truths()), default=0)
    known = [results.experts[name] for name in results.measured_experts if name in results.experts]
    sources, kinds = ({getattr(facts, name) for facts in known} for name in ("source", "architecture"))
    narrow = ": intervals over so few are too narrow." if 1 < clusters < MIN_TARGETS else "; there are no intervals." if clusters <= 1 else "."
    of = f" of {counted(clusters, 'data set')}" if clusters < most else ""
    found = [f"{counted(most, 'target')}{of} {'says' if most == 1 else 'say'} little about another task{narrow}"]
    if fewest:
        found.append(f"Accuracies are means over at least {counted(fewest, 'seed')}: the best of several is biased upwards by the remaining noise.")
    if any(cell.kind == "score" for cell in results.cells):
        found.append(
            "A probe sample and a fine-tuning with the same seed share images (with N images per class both use the same ones), and other probe "
            "samples use other images of the same training set; the intervals resample probe samples and seeds as if they were independent."
        )
    if known:
        found.append(
            f"{counted(len(known), 'expert')} {'comes' if len(known) == 1 else 'come'} from {counted(len(sources), 'source')} and "
            f"{counted(len(kinds), 'architecture')}; those that share one are not independent. Another zoo may order the scores differently."
        )
    return found
