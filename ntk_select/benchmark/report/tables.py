"""Tables of the report: how well scores select, comparisons of pairs of scores, all accuracies, experts, tasks, and what is missing.

`TABLES` declares all of them, those of costs included. A table is a function of the results that gives columns, rows, and sentences on what
is missing.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from ntk_select.benchmark.cells import ExpertFacts
from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report import costs, paper
from ntk_select.benchmark.report.ablations import ablations
from ntk_select.benchmark.report.columns import Column, Content, columns
from ntk_select.benchmark.report.forecast import forecast_accuracy
from ntk_select.benchmark.report.results import Results, images_of, shots_of
from ntk_select.benchmark.report.summary import (
    BEST,
    CEILINGS,
    RANDOM,
    SIZED,
    baselines,
    ceilings,
    compared,
    in_points,
    measured,
    of_targets,
    usable_targets,
)
from ntk_select.benchmark.report.targets import targets
from ntk_select.benchmark.report.words import paper_first, shots_shown, shots_text, single_domain
from ntk_select.evaluate import holm

MEASURES = (
    ("top_1_gain_points", "gain of the first (points)", 1, "top_k_gain", {"k": 1}),
    ("top_3_gain_points", "gain of the best of 3 (points)", 1, "top_k_gain", {"k": 3}),
    ("trials_to_best", "trials to the best", 1, "trials_to_best", {}),
    ("spearman", "Spearman", 2, "spearman", {}),
    ("kendall", "Kendall", 2, "kendall", {}),
    ("weighted_tau", "weighted tau", 2, "weighted_tau", {}),
    ("fidelity", "fidelity", 2, "fidelity", {}),
    ("regret_points", "regret of the first (points)", 1, "regret", {"k": 1}),
    ("hit_rate_of_3", "best among the first 3", 2, "hit_rate", {"k": 3}),
    ("within_architectures", "mean Spearman within architectures", 2, "within_groups", {}),
    ("across_architectures", "Somers' D across architectures", 2, "across_groups", {}),
    ("within_sizes", "mean Spearman within sizes", 2, SIZED, {}),
)
"""Name in files, title, decimals, measure, options. Names that end in _points are in percentage points."""
PERFECT = ("top_k_gain", "trials_to_best", "hit_rate", "regret")
"""Measures of which the best possible value, that of brute force, is informative."""
PAIRED = (
    ("Spearman", "spearman", {}),
    ("gain of the best of 3 (points)", "top_k_gain", {"k": 3}),
    ("trials to the best", "trials_to_best", {}),
)
OURS = ("forecast", "lfc", "lgc")
"""Scores that are compared with all others."""
ROLES = {"truth": "expert", "untrained": "random weights", "search": "wide search"}
ADVICE = (" Try: ", " Type: ")
"""Precede advice on options that a benchmark does not have. Older records have the second."""


def _scores(results: Results) -> Content:
    measures = [Column(name, title, decimals, interval=True) for name, title, decimals, _, _ in MEASURES]
    rows, missing = [], []
    for shots in results.shots:
        rows += _scores_with(results, shots)
        where = f"With {shots_text(shots)} no target has"
        if without := [name for name in results.score_names if not usable_targets(results, name, "trials_to_best", shots)]:
            missing.append(f"{where} values of {', '.join(without)}.")
        if not usable_targets(results, None, "top_k_gain", shots):
            missing.append(f"{where} the accuracy of a reference expert, so there is no gain over it.")
        if not ceilings(results, "spearman", shots):
            missing.append(f"{where} two seeds of fine-tuning, so the ceiling that its noise sets is unknown.")
    missing = missing if results.shots else ["No expert has been fine-tuned yet."]
    return Content(columns("score shots targets with_value", *measures), rows, missing)


def _scores_with(results: Results, shots: Images) -> list[tuple]:
    values = {}
    for name, _, _, measure, options in MEASURES:
        ends = {end: each for end, each in baselines(results, measure, shots, **options).items() if end == RANDOM or measure in PERFECT}
        values[name] = measured(results, measure, shots, **options) | ceilings(results, measure, shots, **options) | ends
    rows = []
    for score in [*paper_first(results.score_names), RANDOM, *CEILINGS, BEST]:
        if not any(score in by_score for by_score in values.values()):
            continue
        found = usable_targets(results, score, "trials_to_best", shots)
        known = None if score in (RANDOM, BEST, *CEILINGS) else 100 * float(np.mean([np.isfinite(target.scores).mean() for target in found]))
        cells = []
        for name, _, _, measure, options in MEASURES:
            cell = of_targets(values[name].get(score), len(usable_targets(results, score, measure, shots, **options)))
            cells.append(in_points(cell) if name.endswith("_points") else cell)
        rows.append((score, shots_shown(shots), len(found), known, *cells))
    return rows


def _paired(results: Results) -> Content:
    families = [
        _family(results, score, shots, *measure) for shots in results.shots for measure in PAIRED for score in OURS if score in results.score_names
    ]
    rows = [row for family in families for row in family]
    missing = [] if rows else ["No two scores have values on the same target yet."]
    return Content(columns("score other shots measure targets difference share p p_holm"), rows, missing)


def _family(results: Results, score: str, shots: Images, title: str, measure: str, options: dict) -> list[tuple]:
    """All comparisons of one score by one measure: their p-values are corrected together."""
    found = []
    for other in [*paper_first(results.score_names), RANDOM]:
        if other != score and (pair := compared(results, score, other, measure, shots, **options)) is not None:
            found.append((other, *pair))
    adjusted = holm(np.array([each.p_value for _, each, _ in found], np.float64)) if found else []
    rows = []
    for (other, each, count), p in zip(found, adjusted, strict=True):
        known = count - each.difference.undefined
        difference = of_targets(in_points(each.difference) if measure == "top_k_gain" else each.difference, count)
        share = 100 * each.share if known > 1 else None
        rows.append((score, other, shots_shown(shots), title, known, difference, share, each.p_value, float(p)))
    return rows


def _consensus(results: Results) -> Content:
    rows, missing = [], []
    for shots in results.shots:
        chosen = results.consensus_of(shots, results.config.probe_of(shots))
        uses = defaultdict(list)
        for task, (names, elsewhere) in chosen.items():
            uses[names].append((task, elsewhere))
        for names, found in sorted(uses.items(), key=lambda use: -len(use[1])):
            elsewhere = float(np.mean([value for _, value in found]))
            rows.append((shots_shown(shots), ", ".join(names), len(found), len(chosen), elsewhere, ", ".join(task for task, _ in found)))
        if not chosen:
            missing.append(f"With {shots_text(shots)} there are not two cheap scores with values everywhere, or not two clusters of targets.")
    names = columns("shots members targets of elsewhere on", Column("targets", "targets", 0))
    return Content(names, rows, missing or ([] if rows else ["No expert has been fine-tuned yet."]))


def _table_1(results: Results) -> Content:
    single = [facts for facts in results.selected.values() if single_domain(facts.name) and facts.source]
    found = {(facts.architecture, start(facts, results), facts.source): facts.source_accuracy for facts in single}
    sources = list(dict.fromkeys(facts.source for facts in single))
    kinds = sorted({key[:2] for key in found}, key=lambda kind: (kind[0], kind[1] != "scratch", kind[1]))
    printed = [source for source in sources if any(source in paper.SINGLE_DOMAIN.get(kind, {}) for kind in kinds)]
    rows = [
        (
            *kind,
            *(_percent(found.get((*kind, source))) for source in sources),
            *(paper.SINGLE_DOMAIN.get(kind, {}).get(source) for source in printed),
        )
        for kind in kinds
    ]
    ours = [Column(name, f"{name} (%)", 2) for name in sources]
    theirs = [Column(f"paper_{name}", f"paper: {name} (%)", 2) for name in printed]
    unknown = sorted(facts.name for facts in single if facts.source_accuracy is None)
    missing = [] if rows else ["Nothing is known of the sources of the experts."]
    missing += [f"No test accuracy is on the cards of {', '.join(unknown)}."] if unknown else []
    return Content([*columns("architecture start"), *ours, *theirs], rows, missing)


def start(facts: ExpertFacts, results: Results) -> str:
    """What an expert was trained from: "scratch", or the source of the expert that it started from."""
    if facts.initialised_from is None:
        return "scratch"
    known = results.experts.get(facts.initialised_from)
    return known.source if known is not None and known.source else facts.initialised_from


def _percent(accuracy: float | None) -> float | None:
    return None if accuracy is None else 100 * accuracy


def _table_2(results: Results) -> Content:
    rows, alone = [], []
    for facts in results.selected.values():
        if single_domain(facts.name):
            continue
        single = _counterpart(facts, results)
        if single is None:
            alone.append(facts.name)
        name, ours, theirs = single and single.name, facts.source_accuracy, single and single.source_accuracy
        difference = None if ours is None or theirs is None else 100 * (ours - theirs)
        rows.append((facts.source, facts.name, _percent(ours), name, _percent(theirs), difference, *_printed(facts)))
    missing = [] if rows else ["No multi-domain expert takes part."]
    missing += [f"There is no single-domain expert of the same architecture for {', '.join(alone)}."] if alone else []
    names = "source multi_domain multi_domain_accuracy single_domain single_domain_accuracy difference_points paper_multi_domain paper_single_domain"
    return Content(columns(names), rows, missing)


def _counterpart(multi: ExpertFacts, results: Results) -> ExpertFacts | None:
    """The single-domain expert of the same source and architecture: with the same start if there is one, else that start itself, else any."""
    kind = multi.source, multi.architecture
    same = [facts for facts in results.experts.values() if single_domain(facts.name) and (facts.source, facts.architecture) == kind]
    begun = multi.initialised_from
    return min(same, key=lambda facts: (facts.initialised_from != begun, facts.name != begun), default=None)


def _printed(multi: ExpertFacts) -> tuple[float | None, float | None]:
    """The paper's accuracies of a multi-domain expert of this kind and of the single-domain one in its table 2."""
    kind = multi.name.partition("-")[0]
    if multi.architecture != paper.MULTI_DOMAIN_ARCHITECTURE or kind not in paper.MULTI_DOMAIN:
        return None, None
    begun = "scratch" if multi.source == "imagenet" else "imagenet"
    return paper.MULTI_DOMAIN[kind].get(multi.source), paper.SINGLE_DOMAIN[multi.architecture, begun].get(multi.source)


def _table_4(results: Results) -> Content:
    rows = []
    for name, facts in results.tasks.items():
        wanted = results.config.tasks[name]
        shots = ", ".join(str(shots_shown(each)) for each in results.config.shots_of(name))
        fine_tuned = {cell.expert for cell in results.cells if (cell.task, cell.role) == (name, "truth")}
        compared = sum(not results.source_overlap(expert, name) for expert in fine_tuned)
        sizes = facts.num_classes, facts.train, facts.test
        rows.append((name, *sizes, shots, ", ".join(wanted.source) or None, compared, facts.licence, wanted.uri))
    unknown = [name for name, facts in results.tasks.items() if facts.licence is None]
    missing = [f"No licence is on record for {', '.join(unknown)}: see where the data are from."] if unknown else []
    shots, source = Column("shots", "fine-tuned with (images per class)"), Column("source", "shares images with")
    names = columns("task classes train test shots source compared licence uri", shots, source)
    return Content(names, rows, missing if rows else ["The tasks are synthetic: nothing is known of them."])


def _paper(_results: Results) -> Content:
    kinds = {f"{kind}_{begun}": f"{kind}, {'scratch' if begun == 'scratch' else 'from ImageNet'}" for kind, begun in paper.SINGLE_DOMAIN}
    titles = {name: f"paper: {title} (%)" for name, title in kinds.items()} | {"reported": "reported by others (%)"}
    titles |= {kind: f"paper: all sources at once, {kind} (%)" for kind in paper.MULTI_DOMAIN}
    numbers = (*paper.SINGLE_DOMAIN.values(), paper.REPORTED, *paper.MULTI_DOMAIN.values())
    rows = [(source, *(column.get(source) for column in numbers)) for source in paper.SOURCES]
    return Content(columns("source", *(Column(name, title, 2) for name, title in titles.items())), rows)


def _ground_truth(results: Results) -> Content:
    table = results.finetuning_table
    found = dict(iter(table.groupby(["task", "images_per_class", "expert", "role"], sort=False)))
    requested = defaultdict(list)
    for cell in results.cells:
        if cell.kind in ("truth", "synthetic"):
            requested[cell.task, images_of(cell.images), cell.expert, cell.role or "truth"].append(cell)
    rows = []
    for key in dict.fromkeys([*requested, *found]):
        task, images, expert, role = key
        records = found.get(key, table.iloc[:0])
        accuracies, balanced = 100 * records["accuracy"].to_numpy(), records["balanced_accuracy"].dropna()
        rates = sorted(set(records["learning_rate"].dropna()), reverse=True)
        rows.append(
            (
                task,
                shots_shown(shots_of(images)),
                expert,
                ROLES.get(role, role),
                float(accuracies.mean()) if len(accuracies) else None,
                "*" if results.source_overlap(expert, task) else None,
                float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None,
                100 * float(balanced.to_numpy().mean()) if len(balanced) else None,
                len(accuracies),
                ", ".join(f"{rate:g}" for rate in rates) or None,
                _why_not_all(results, [cell for cell in requested[key] if cell.key not in set(records["key"])]),
            )
        )
    for row in results.skipped:
        shots = results.config.shots_of(row["task"]) if row["task"] in results.config.tasks else ()
        absent = [each for each in shots if (row["task"], images_of(each), row["expert"], "truth") not in requested.keys() | found.keys()]
        rows += [(row["task"], shots_shown(each), row["expert"], ROLES["truth"], *[None] * 4, 0, None, row["reason"]) for each in absent]
    tasks, roles = {name: place for place, name in enumerate(results.task_names)}, list(ROLES.values())
    rows.sort(key=lambda row: (tasks.get(row[0], len(tasks)), row[1] == "all", row[1], roles.index(row[3]), row[2]))
    return Content(columns("task shots expert role accuracy mark deviation balanced seeds rates why"), rows)


def _why_not_all(results: Results, waiting: list) -> str | None:
    """Why the cells without a record have none."""
    parts = [f"failed: {error}" for error in sorted({results.failures[cell.key]["error"] for cell in waiting if cell.key in results.failures})]
    if unmeasured := sorted(cell.seed for cell in waiting if cell.key not in results.failures):
        parts.append(f"not measured yet: seed{'s' if len(unmeasured) > 1 else ''} {', '.join(map(str, unmeasured))}")
    return "; ".join(parts) or None


def _experts(results: Results) -> Content:
    left_out = defaultdict(list)
    for row in results.skipped:
        left_out[row["expert"]].append(f"{row['task']}: {row['reason']}")
    rows = []
    for facts in results.selected.values():
        origin = facts.name, facts.architecture, facts.source, facts.initialised_from, ", ".join(facts.seen)
        size = facts.parameters, facts.source_images, _percent(facts.source_accuracy)
        rows.append((*origin, *size, "; ".join(left_out[facts.name]), facts.digest[:12]))
    names = columns("expert architecture source start seen parameters source_images source_accuracy left_out digest")
    return Content(names, rows, [] if rows else ["The experts are synthetic: nothing is known of them."])


def _unavailable(results: Results) -> Content:
    table = results.score_table
    order = paper_first(list(dict.fromkeys(table["score"])))
    rows = []
    for (score, images), found in table.groupby(["score", "images_per_class"]):
        without = found[found["value"].isna() & found["terms"].isna()]
        reasons = [f"{row.task}, {row.expert}: {_without_advice(str(row.unavailable))}" for row in without.itertuples()]
        if reasons:
            counts = len(reasons), len(found), 100 * len(reasons) / len(found)
            rows.append((score, shots_shown(shots_of(images)), *counts, min(reasons)))
    rows.sort(key=lambda row: order.index(row[0]))
    names = columns("score images without of share example", Column("share", "share (%)", 1))
    return Content(names, rows, [] if rows else ["Every score has a value everywhere."])


def _without_advice(reason: str) -> str:
    for advice in ADVICE:
        reason = reason.partition(advice)[0]
    return reason


def _failures(results: Results) -> Content:
    failures = results.failures.values()
    rows = [(row["kind"], row["expert"], row["task"], shots_shown(row["images"]), row["seed"], row["error"]) for row in failures]
    return Content(columns("kind expert task images seed error"), rows, [] if rows else ["No cell has failed."])


TABLES: dict[str, Callable[[Results], Content]] = {
    "scores": _scores,
    "targets": targets,
    "ablations": ablations,
    "forecast": forecast_accuracy,
    "consensus": _consensus,
    "table_1": _table_1,
    "table_2": _table_2,
    "table_3": costs.table_3,
    "table_4": _table_4,
    "paper": _paper,
    "budget": costs.budget,
    "paired": _paired,
    "truth": _ground_truth,
    "experts": _experts,
    "unavailable": _unavailable,
    "failures": _failures,
}
"""What builds each table, by the name of its file and in the order of the page; titles and notes are in texts.toml."""


def content(results: Results, name: str) -> Content:
    """A table of `TABLES`, cached in the results."""
    return results.once(("table", name), lambda: TABLES[name](results))
