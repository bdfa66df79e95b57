"""Table 3: cost of selection beside that of trying every expert, and the paper's."""

from collections import defaultdict

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report import paper
from ntk_select.benchmark.report.results import STATIC, Results
from ntk_select.benchmark.report.summary import RANDOM, usable_targets
from ntk_select.benchmark.report.words import paper_first
from ntk_select.evaluate import Target, gain_against_cost

from .costs import Parts, scoring, training_costs, unit
from .record import Column, Content, Table, shots_shown

TOP = 3
BRUTE_FORCE = "brute force"
COLUMNS = (
    Column("score", "way to select"),
    Column("shots", "images per class", 0),
    Column("targets", "targets", 0),
    Column("tried", "experts tried", 1),
    Column("operations", "fine-tuning them, by operations", 2),
    Column("seconds", "by seconds", 2),
    Column("reading", "scoring all: reading images", 3),
    Column("forward", "forward", 3),
    Column("backward", "backward", 3),
    Column("score_alone", "score", 3),
    Column("shared", "reference network", 2),
    Column("scoring", "scoring, sum", 3),
    Column("total", "all, by seconds", 2),
    Column("paper_tried", "paper: fine-tuning them", 2),
    Column("paper_scoring", "paper: scoring all 30", 2),
)
MEASURED = COLUMNS[3:-2]


def _content(results: Results) -> Content:
    rows = [row for shots in results.shots for row in _rows(results, shots)]
    known = any(unit(results, task, shots) for task in results.task_names for shots in results.shots)
    if not known:
        return Content(COLUMNS, [], ["The reference expert was not fine-tuned, or its cost was not recorded: there is no unit of cost."])
    return Content(COLUMNS, rows, [] if rows else [f"No target has accuracies of {TOP} experts and the reference yet."])


def _rows(results: Results, shots: Images) -> list[tuple]:
    every = [target for target in usable_targets(results, None, "top_k_gain", shots, k=TOP) if training_costs(results, target.name, shots)]
    rows = [_row(results, shots, BRUTE_FORCE, every, None)] if every else []
    for name in [*paper_first(results.score_names), RANDOM]:
        targets = every if name == RANDOM else usable_targets(results, name, "top_k_gain", shots, k=TOP)
        targets = [target for target in targets if training_costs(results, target.name, shots)]
        if targets:
            rows.append(_row(results, shots, name, targets, TOP))
    return rows


def _row(results: Results, shots: Images, name: str, targets: list[Target], tried: int | None) -> tuple:
    found = defaultdict(list)
    for target in targets:
        experts = results.truth(target.name, shots).experts
        for column, seconds in (("operations", False), ("seconds", True)):
            costs = training_costs(results, target.name, shots, seconds=seconds)
            known = all(expert in costs for expert in experts)
            tried_for = tried_cost(target, np.array([costs[expert] for expert in experts]), tried, random=name == RANDOM) if known else None
            found[column].append(tried_for)
        found["tried"].append(tried or len(experts))
        parts = _parts(results, target.name, shots, name)
        for part in ("reading", "forward", "backward", "score_alone", "shared"):
            found[part].append(None if parts is None else getattr(parts, part))
        found["scoring"].append(None if parts is None else parts.total)
        both = found["seconds"][-1], found["scoring"][-1]
        found["total"].append(None if None in both else sum(both))
    return name, shots_shown(shots), len(targets), *(_mean(found[column.name]) for column in MEASURED), *printed(name, shots)


def printed(name: str, shots: Images) -> tuple[float | None, float | None]:
    """The paper's costs of fine-tuning the experts that a score puts first, and of scoring all of its own."""
    if name == BRUTE_FORCE:
        return paper.BRUTE_FORCE.get(shots), None
    return tuple(table.get(shots, {}).get(name) for table in (paper.TOP_3, paper.SCORING))


def _parts(results: Results, task: str, shots: Images, name: str) -> Parts | None:
    if name in (BRUTE_FORCE, RANDOM, STATIC):
        return Parts(0.0, 0.0, 0.0, 0.0, 0.0)
    steps = scoring(results, task, shots)
    return None if steps is None else steps.of(name)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def tried_cost(target: Target, costs: np.ndarray, tried: int | None, *, random: bool = False) -> float:
    """What fine-tuning the experts with the highest scores costs; all of them if `tried` is None.

    The mean over draws, and over orders within ties.
    """
    if tried is None:
        return float(costs.sum())
    if random:
        return float(tried * costs.mean())
    accuracies = target.mean_accuracies()
    return float(np.mean([gain_against_cost(scores, accuracies, accuracies[target.reference], costs)[0][tried] for scores in target.scores]))


TABLE = Table(
    "Table 3. What selection costs",
    "In units of one training of the reference expert with one learning rate on the target's training images, means over targets. Fine-tuning an "
    "expert includes "
    "its search of a learning rate. Brute force fine-tunes all experts that take part, a score the three that it puts first. Scoring is of all "
    "experts with "
    "the score alone: passes and scores are medians over the experts of an architecture, as the first of each also compiles. Reading images is "
    "decoding and "
    "resizing them, once for all experts. RSA and DDS train a reference network, compiled once; its time holds the extractor's pass where the same "
    "cell "
    "made it. Seconds of training are the images that were seen by the speed of training; a fine-tuning that was only taken up again has no speed "
    "and is left out. "
    "Seconds are of the machine that measured, with two or more cells at a time where it had as many workers. "
    "Otherwise the extractor's pass, of Domain Similarity too, is not told apart in the records, and not counted; scores share decompositions of "
    "features, which the first of them pays. Of a score of a package that is not installed nobody knows what it needs. The static leaderboard looks "
    "at no image, but needs the whole benchmark first. Columns that begin "
    'with "paper" are printed in its table 3, and were not measured: 30 experts, run-times in units of fine-tuning the ResNet-101 of ImageNet, which is more '
    "than one training if its search is in it; RSA and a random order are not there. It charges forward passes to one score only (0.41 to LFC, 0.02 to LEEP, of the "
    "same images); here each score pays for its own.",
    _content,
)
