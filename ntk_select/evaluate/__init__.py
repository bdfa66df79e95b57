"""Evaluation of scores: measures on one target, the exact expectation of a random order, and intervals over targets.

    lfc = [Target("birds", scores, accuracies, reference=0), ...]
    print(interval("spearman", lfc), interval("top_k_gain", lfc, k=3), paired("spearman", lfc, lgc), against_random("top_k_gain", lfc, k=3))

Scores (e,) are higher for better experts and NaN where an expert has none; accuracies (e,) are 0 to 1. Selections handle ties and experts
without a score by the exact mean over random orders; correlations leave experts without a score out. The baseline of every measure is the
exact expectation over all orders of the experts (`random_expectation`, `against_random`), never a single random order. What the noise of
fine-tuning leaves to be reached is the ceiling (`ceiling`, `other_seed`).
"""

from ntk_select.evaluate.bootstrap import Interval, interval
from ntk_select.evaluate.ceiling import ceiling, noise_ceiling, other_seed
from ntk_select.evaluate.comparison import Paired, against_random, holm, paired
from ntk_select.evaluate.consensus import consensus
from ntk_select.evaluate.correlations import across_groups, fidelity, kendall, pearson, spearman, weighted_tau, within_groups
from ntk_select.evaluate.measures import MEASURES, random_expectation
from ntk_select.evaluate.selection import (
    gain_against_cost,
    hit_rate,
    leave_one_out,
    regret,
    top_k_accuracy,
    top_k_gain,
    trials_to_best,
)
from ntk_select.evaluate.target import Target

__all__ = [
    "MEASURES",
    "Interval",
    "Paired",
    "Target",
    "across_groups",
    "against_random",
    "ceiling",
    "consensus",
    "fidelity",
    "gain_against_cost",
    "hit_rate",
    "holm",
    "interval",
    "kendall",
    "leave_one_out",
    "noise_ceiling",
    "other_seed",
    "paired",
    "pearson",
    "random_expectation",
    "regret",
    "spearman",
    "top_k_accuracy",
    "top_k_gain",
    "trials_to_best",
    "weighted_tau",
    "within_groups",
]
