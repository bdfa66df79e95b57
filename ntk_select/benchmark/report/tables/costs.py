"""What do fine-tuning and scoring cost, in units of one training of the reference expert?

A unit is one training, with one learning rate, on all training images of a target at that number of images a class. The search of a learning rate costs
several: with three rates on four fifths of the images and one on all of them, 3.4.
"""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.scores import SCORES

EXPERT_PASS = {"features", "source_probs", "gradient_kernel", "own_source_means"}
"""Inputs of scores that need the images to pass through every expert."""


@dataclass(frozen=True)
class Scoring:
    """Seconds that the scores of all experts of a target take.

    Attributes:
      forward, backward: passes of all experts, without compilation.
      score: what comes after them, by score.
      shared: the reference network of RSA and DDS, its training included.
    """

    forward: float
    backward: float
    score: dict[str, float]
    shared: float

    def of(self, name: str) -> tuple[float, float, float, float | None]:
        """Forward, backward, score, shared of one score alone; shared is None where the records do not tell it apart."""
        known = SCORES.get(name)
        needs = set() if known is None else {*known.needs, *known.optional}
        shared = self.shared if "reference_features" in needs else None if "domain_features" in needs else 0.0
        backward = self.backward if "gradient_kernel" in needs else 0.0
        return self.forward if needs & EXPERT_PASS else 0.0, backward, self.score.get(name, 0.0), shared


def unit_seconds(results: Results, task: str, shots: Images) -> float | None:
    """Seconds of one unit, without reading, compiling and evaluation: the mean over the seeds of the reference. None without its record."""
    found = [
        row["train_seconds"] / (row["images"] / (row["train_images"] * row["epochs"]))
        for row in _of_experts(results, task, shots)
        if row["expert"] == results.config.reference and row.get("images") and row.get("train_seconds")
    ]
    return float(np.mean(found)) if found else None


def training_costs(results: Results, task: str, shots: Images, *, seconds: bool = False) -> dict[str, float]:
    """Units of fine-tuning each expert with its search: by operations, or by seconds of training. Empty where the unit is unknown."""
    unit = unit_seconds(results, task, shots) if seconds else results.reference_flops(task, shots)
    if not unit:
        return {}
    spent = defaultdict(list)
    for row in _of_experts(results, task, shots):
        if (cost := row.get("train_seconds" if seconds else "flops")) is not None:
            spent[row["expert"]].append(cost / unit)
    return {expert: float(np.mean(costs)) for expert, costs in spent.items()}


def scoring(results: Results, task: str, shots: Images) -> Scoring | None:
    """What scores cost on a target with the images that count for these shots; None without records.

    Passes of an expert: the median over the experts of its architecture and the draws, for the first of them also compiled. The reference network is
    trained once for all probes that know as many shots: the dearest of them, the median over draws.
    """
    probe = results.config.probe_of(shots) if results.tasks else None
    rows = [row for row in _by_task(results)[task] if row["images_per_class"] == probe]
    if not rows:
        return None
    architecture = {row["expert"]: row["architecture"] for row in rows}
    passes, after = defaultdict(list), defaultdict(list)
    for row in rows:
        passes[row["architecture"], "forward"].append(row["preprocess_seconds"] + row["forward_seconds"])
        passes[row["architecture"], "backward"].append(row["backward_seconds"])
        after[row["score"], row["architecture"]].append(row["score_seconds"])
    total = {step: sum(median(passes[kind, step]) for kind in architecture.values()) for step in ("forward", "backward")}
    names = dict.fromkeys(row["score"] for row in rows)
    score = {name: sum(median(after[name, kind]) for kind in architecture.values() if after[name, kind]) for name in names}
    return Scoring(total["forward"], total["backward"], score, _shared(results, task, shots))


def _shared(results: Results, task: str, shots: Images) -> float:
    seen = results.config.shots_seen(task, results.config.probe_of(shots))
    probes = {probe for probe in results.config.probes if results.config.shots_seen(task, probe) == seen}
    spent: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in _by_task(results)[task]:
        if row["images_per_class"] in probes:
            spent[row["seed"], row["images_per_class"]][row["key"]] = row["shared_seconds"]
    dearest = defaultdict(float)
    for (seed, _), by_cell in spent.items():
        dearest[seed] = max(dearest[seed], sum(by_cell.values()))
    return median(dearest.values())


def _by_task(results: Results) -> dict[str, list[dict]]:
    if "score rows by task" not in results.kept:
        found = defaultdict(list)
        for row in results.scores:
            if not row["own_source"] and row.get("forward_seconds") is not None:
                found[row["task"]].append(row)
        results.kept["score rows by task"] = found
    return results.kept["score rows by task"]


def _of_experts(results: Results, task: str, shots: Images) -> list[dict]:
    return [row for row in results.of_role("truth") if (row["task"], row["images_per_class"]) == (task, shots) and not row["own_source"]]
