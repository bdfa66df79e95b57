"""What each target is like, and how well its experts were ordered."""

from math import isfinite

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.columns import Column, Content, columns
from ntk_select.benchmark.report.forecast import FORECAST
from ntk_select.benchmark.report.results import CONSENSUS, STATIC, Results
from ntk_select.benchmark.report.summary import CEILING, MIN_EXPERTS, RANDOM, by_target
from ntk_select.benchmark.report.words import shots_shown

SPREAD = ("best", "median", "worst")
NOT_OTHERS = (FORECAST, STATIC, CONSENSUS)
"""Among the scores other than these the table has the one that orders the experts of a target best."""


def targets(results: Results) -> Content:
    """One row per target and number of shots."""
    rows = [row for shots in results.shots for row in _with(results, shots)]
    special = (
        *(Column(name, f"{name} accuracy (%)", 2) for name in SPREAD),
        Column("ceiling", "Spearman: ceiling", 2),
        *(Column(name, name.replace("_", " "), 2) for name in NOT_OTHERS),
        Column("other", "best other score"),
        Column("other_spearman", "its Spearman", 2),
        Column("trials_random", "trials to the best: random order", 1),
        Column("trials_forecast", "forecast", 1),
    )
    names = " ".join(["target cluster shots experts seeds", *(column.name for column in special)])
    return Content(columns(names, *special), rows, [] if rows else ["No target has accuracies of three experts yet."])


def _with(results: Results, shots: Images) -> list[tuple]:
    found = {score: by_target(results, score, "spearman", shots) for score in (*results.score_names, CEILING)}
    trials = {score: by_target(results, score, "trials_to_best", shots) for score in (RANDOM, FORECAST)}
    rows = []
    for task in results.task_names:
        truth = results.ground_truth(task, shots)
        if truth is None or len(truth.experts) < MIN_EXPERTS:
            continue
        here = {score: values[task] for score, values in found.items() if isfinite(values.get(task, np.nan))}
        others = [score for score in here if score not in (*NOT_OTHERS, CEILING)]
        other = max(others, key=here.get, default=None)
        spread = (100 * float(each) for each in (truth.means.max(), np.median(truth.means), truth.means.min()))
        rows.append(
            (
                task,
                results.cluster(task),
                shots_shown(shots),
                len(truth.experts),
                len(truth.seeds),
                *spread,
                *(here.get(score) for score in (CEILING, *NOT_OTHERS)),
                other,
                here.get(other),
                *(values.get(task) for values in trials.values()),
            )
        )
    return rows
