"""What do fine-tuning and scoring cost, in units of one training of the reference expert?

A unit is one training, with one learning rate, on all training images of a target at that number of images per class. The search of a learning
rate costs several: with three rates on four fifths of the images and one on all of them, 3.4.
"""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results

EXPERT_PASS = {"features", "source_probs", "gradient_kernel", "own_source_means"}
"""Inputs of scores that need the images to pass through every expert."""
IMAGES = EXPERT_PASS | {"domain_features"}
"""Inputs of scores that need the images at all."""


@dataclass(frozen=True)
class Parts:
    """Of the cost of one score for all experts of a target. `shared` is None where the records do not tell it apart."""

    reading: float
    forward: float
    backward: float
    score_alone: float
    shared: float | None

    @property
    def total(self) -> float:
        """The sum of what is known."""
        return self.reading + self.forward + self.backward + self.score_alone + (self.shared or 0.0)


@dataclass(frozen=True)
class Scoring:
    """Seconds that the scores of all experts of a target take.

    Attributes:
      reading: decoding and resizing the images, once for all experts.
      forward, backward: passes of all experts, without compilation.
      score: what comes after them, by score.
      shared: the reference network of RSA and DDS with its training, and the extractor's pass where the same cell made it.
      needs: inputs of each score that is at hand.
      unit: that all are divided by.
    """

    reading: float
    forward: float
    backward: float
    score: dict[str, float]
    shared: float
    needs: dict[str, set[str]]
    unit: float

    def of(self, name: str) -> Parts | None:
        """One score alone, in units; None for a score that is not at hand, of which nobody knows what it needs."""
        if (needs := self.needs.get(name)) is None:
            return None
        shared = self.shared if "reference_features" in needs else None if "domain_features" in needs else 0.0
        return Parts(
            self.reading / self.unit if needs & IMAGES else 0.0,
            self.forward / self.unit if needs & EXPERT_PASS else 0.0,
            self.backward / self.unit if "gradient_kernel" in needs else 0.0,
            self.score.get(name, 0.0) / self.unit,
            shared and shared / self.unit,
        )


def unit(results: Results, task: str, shots: Images, *, seconds: bool = False) -> float | None:
    """Operations of one unit, or its seconds without reading, compiling and evaluation: the mean over the seeds of the reference.

    None without its record.
    """
    found = [
        cost / row["images"] * row["train_images"] * row["epochs"]
        for row in _of_experts(results, task, shots)
        if row["expert"] == results.config.reference and (cost := _spent(row, seconds))
    ]
    return float(np.mean(found)) if found else None


def training_costs(results: Results, task: str, shots: Images, *, seconds: bool = False) -> dict[str, float]:
    """Units of fine-tuning each expert with its search: by operations, or by seconds of training. Empty where the unit is unknown."""
    one = unit(results, task, shots, seconds=seconds)
    if not one:
        return {}
    spent = defaultdict(list)
    for row in _of_experts(results, task, shots):
        if (cost := _spent(row, seconds)) is not None:
            spent[row["expert"]].append(cost / one)
    return {expert: float(np.mean(costs)) for expert, costs in spent.items()}


def _spent(row: dict, seconds: bool) -> float | None:
    """Operations, or seconds, of all trainings of a row.

    One that was taken up again saw fewer images than it counts: its speed says what it takes. None where nothing was left to be seen.
    """
    if not seconds:
        return row.get("flops")
    return row["images"] / speed if (speed := row.get("images_per_second")) else None


def scoring(results: Results, task: str, shots: Images) -> Scoring | None:
    """What scores cost on a target with the images that count for these shots; None without records, or without the unit in seconds.

    Passes of an expert: the median over the experts of its architecture and the draws, for the first of them also compiled. Reading images: the
    dearest of all cells, for the first expert pays for the others that see them in the same size. The reference network is trained once for all
    probes that know as many shots: the dearest of them, the median over draws.
    """
    probe = results.config.probe_of(shots) if results.tasks else None
    rows = [row for row in _by_task(results)[task] if row["images_per_class"] == probe]
    seconds = unit(results, task, shots, seconds=True)
    if not rows or not seconds:
        return None
    architecture = {row["expert"]: row["architecture"] for row in rows}
    passes, after = defaultdict(list), defaultdict(list)
    for row in rows:
        for step in ("forward", "backward"):
            passes[row["architecture"], step].append(row[f"{step}_seconds"])
        after[row["score"], row["architecture"]].append(row["score_seconds"])
    total = {step: sum(median(passes[kind, step]) for kind in architecture.values()) for step in ("forward", "backward")}
    names = dict.fromkeys(row["score"] for row in rows)
    score = {name: sum(median(after[name, kind]) for kind in architecture.values() if after[name, kind]) for name in names}
    needs = {name: set(known.takes) for name, known in results.known_scores.items()}
    reading = max(row["preprocess_seconds"] for row in rows)
    return Scoring(reading, total["forward"], total["backward"], score, _shared(results, task, shots), needs, seconds)


def _shared(results: Results, task: str, shots: Images) -> float:
    """A worker that helps, and a run that goes on, train the network again: the dearest cell of a draw counts, and not their sum."""
    seen = results.config.shots_seen(task, results.config.probe_of(shots))
    probes = {probe for probe in results.config.probes if results.config.shots_seen(task, probe) == seen}
    dearest = defaultdict(float)
    for row in _by_task(results)[task]:
        if row["images_per_class"] in probes:
            dearest[row["seed"]] = max(dearest[row["seed"]], row["shared_seconds"])
    return median(dearest.values())


def _by_task(results: Results) -> dict[str, list[dict]]:
    if "score rows by task" not in results.kept:
        found = defaultdict(list)
        for row in results.scores:
            if row.get("forward_seconds") is not None and not results.own_source(row["expert"], row["task"]):
                found[row["task"]].append(row)
        results.kept["score rows by task"] = found
    return results.kept["score rows by task"]


def _of_experts(results: Results, task: str, shots: Images) -> list[dict]:
    return [
        row
        for row in results.of_role("truth")
        if (row["task"], row["images_per_class"]) == (task, shots) and not results.own_source(row["expert"], task)
    ]
