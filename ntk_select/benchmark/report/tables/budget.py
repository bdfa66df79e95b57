"""What is gained over the reference expert for which cost?"""

from functools import partial

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import STATIC, Results
from ntk_select.benchmark.report.summary import RANDOM, usable_targets
from ntk_select.evaluate import Target, gain_against_cost, interval

from .costs import scoring, training_costs
from .record import Column, Content, Table, in_points, of_targets, shots_shown
from .table_3 import tried_cost

TRIALS = (1, 2, 3, 5, 10)
WAYS = ("lfc", "lgc", STATIC, RANDOM)
COLUMNS = (
    Column("score", "way to select"),
    Column("shots", "images per class", 0),
    Column("trials", "experts tried", 0),
    Column("targets", "targets", 0),
    Column("gain_points", "expected gain (points)", 1, interval=True),
    Column("operations", "fine-tuning them, by operations", 2),
    Column("scoring", "scoring, by seconds", 3),
)


def _content(results: Results) -> Content:
    rows = [row for shots in results.shots for name in WAYS for row in _rows(results, shots, name)]
    return Content(COLUMNS, rows, [] if rows else ["No target has the accuracy of a reference expert yet."])


def _rows(results: Results, shots: Images, name: str) -> list[tuple]:
    found = usable_targets(results, None if name == RANDOM else name, "top_k_gain", shots)
    rows = []
    for trials in TRIALS:
        targets = [target for target in found if target.scores.shape[1] >= trials]
        if not targets:
            continue
        gain = interval(partial(gain_after, trials, name == RANDOM), targets)
        costs = [_operations(results, target, shots, trials, name) for target in targets]
        known = [cost for cost in costs if cost is not None]
        operations = float(np.mean(known)) if known else None
        rows.append(
            (
                name,
                shots_shown(shots),
                trials,
                len(targets),
                of_targets(in_points(gain), len(targets)),
                operations,
                _scoring(results, shots, name, targets),
            )
        )
    return rows


def gain_after(trials: int, random: bool, scores, accuracies, target: Target) -> float:
    """Expected gain of the best of the experts tried and of the reference, which stays available."""
    scores = np.zeros(len(accuracies)) if random else scores
    return float(gain_against_cost(scores, accuracies, float(accuracies[target.reference]), np.ones(len(accuracies)))[1][trials])


def _operations(results: Results, target: Target, shots: Images, trials: int, name: str) -> float | None:
    costs, experts = training_costs(results, target.name, shots), results.truth(target.name, shots).experts
    if not all(expert in costs for expert in experts):
        return None
    return tried_cost(target, np.array([costs[expert] for expert in experts]), trials, random=name == RANDOM)


def _scoring(results: Results, shots: Images, name: str, targets: list[Target]) -> float | None:
    if name in (RANDOM, STATIC):
        return 0.0
    found = [steps.of(name) for target in targets if (steps := scoring(results, target.name, shots)) is not None]
    known = [parts.total for parts in found if parts is not None]
    return float(np.mean(known)) if known else None


TABLE = Table(
    "Gain against cost",
    "Expected gain over the reference after so many fine-tunings, in percentage points with 95 % intervals. The reference stays available, so that "
    "no gain is "
    "negative (in the other tables it is not, and a gain can be). Costs are in units of one training of the reference with one learning rate. "
    "The static leaderboard needs the whole benchmark before it costs nothing.",
    _content,
)
