"""A made-up benchmark with everything that figures ask for: does it hold what a real one holds, and can parts of it be missing?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tomllib import loads

import numpy as np

from ntk_select.benchmark.cells import ExpertFacts, TaskFacts, grid, on_own_source
from ntk_select.benchmark.config import parsed
from ntk_select.benchmark.report.results import Results

EXPERTS = {
    f"{source}-{network}{'-from-photos' * began}": ExpertFacts(
        f"{source}-{network}{'-from-photos' * began}",
        f"{source}{network}{began}",
        network,
        source,
        (source, *["photos"] * began),
        f"photos-{network}" if began else None,
    )
    for source in ("photos", "textures", "letters")
    for network in ("net_a", "net_b")
    for began in (False, True)
    if source != "photos" or not began
} | {
    f"many-net_a@{source}": ExpertFacts(f"many-net_a@{source}", f"many{source}", "net_a", source, ("photos", "textures", "letters"), "photos-net_a")
    for source in ("photos", "textures", "letters")
}
CONFIG = """
reference = "photos-net_a"
shots = [5, 20]
per_class = [5, 10, 20]
scores = ["lfc", "lgc", "leep", "rsa", "random", "hscore", "logme"]
probe_seeds = [0, 1]
finetune_seeds = [0, 1]
untrained = ["net_a", "net_b"]
search_rates = [0.1, 0.01]
[kernels]
experts = ["photos-net_a", "letters-net_a"]
tasks = ["birds"]
epochs = [0, 5]
per_class = 3
[tasks.birds]
uri = "birds"
[tasks.planes]
uri = "planes"
[tasks.cars]
uri = "cars"
[tasks.greek]
uri = "greek"
source = ["letters"]
"""


def world(text: str = CONFIG, experts: Mapping[str, ExpertFacts] = EXPERTS, seed: int = 0, signal: float = 0.9) -> Results:
    """Every cell of the config with made-up numbers; LFC knows the accuracies, as `signal` says, and no other score knows anything."""
    rng = np.random.default_rng(seed)
    config = parsed(loads(text), Path("made_up.toml"))
    tasks = {name: TaskFacts(name, name, name, 100, 100, 5) for name in config.tasks}
    cells = grid(config, experts, tasks).cells
    quality = {(expert, task): rng.normal() for expert in [*experts, *(f"untrained:{n}" for n in config.untrained)] for task in tasks}
    truths, scores, kernels = [], [], []
    for cell in cells:
        facts = experts.get(cell.expert)
        common = {
            "key": cell.key,
            "role": cell.role,
            "expert": cell.expert,
            "architecture": facts.architecture if facts else cell.settings["architecture"],
            "own_source": bool(facts and on_own_source(config, cell.task, facts)),
            "task": cell.task,
            "images_per_class": cell.images,
            "seed": cell.seed,
        }
        known = quality[cell.expert, cell.task]
        if cell.kind == "truth":
            base = 0.7 + 0.08 * known - 0.1 * (cell.images == 5) - 0.2 * (cell.role == "untrained") + 0.01 * (cell.role == "search")
            accuracy = float(np.clip(base + 0.01 * rng.normal(), 0, 1))
            truths.append({**common, "accuracy": accuracy, "balanced_accuracy": accuracy})
        elif cell.kind == "score":
            for place, name in enumerate(config.scores):
                value = signal * known * (place == 0) + np.sqrt(1 - (signal * (place == 0)) ** 2) * rng.normal()
                scores.append({**common, "score": name, "value": float(value), "terms": None, "unavailable": None, "higher_is_better": True})
        else:
            kernels.append({**common, **_kernel(rng, cell.settings["epochs"], cell.settings["per_class"])})
    return Results("made_up", config, text, experts, tasks, cells, truths, scores, kernels)


def without(results: Results, keep) -> Results:
    """The same as if only some rows had been measured so far."""
    return replace(results, **{name: [row for row in getattr(results, name) if keep(row)] for name in ("truths", "scores", "kernels")})


def _kernel(rng, epochs: int, per_class: int) -> dict:
    labels = np.repeat(np.arange(4), per_class)
    features = rng.normal(size=(len(labels), 6)) + 0.3 * epochs * np.eye(6)[labels]
    kernel = features @ features.T
    return {
        "epochs": epochs,
        "kernel": (kernel / np.abs(kernel).max()).ravel().tolist(),
        "labels": labels.tolist(),
        "lfc": 0.1 + 0.05 * epochs,
        "accuracy": 0.5 if epochs else None,
    }


def test_a_made_up_benchmark_has_a_record_for_every_cell_of_its_config():
    made = world()
    assert {row["key"] for rows in (made.truths, made.scores, made.kernels) for row in rows} == {cell.key for cell in made.cells}
    assert {row["role"] for row in made.truths} == {"truth", "untrained", "search"}
    assert made.shots == (5, 20)
    assert len(made.truth("birds", 5).experts) == len(EXPERTS)
    assert not any("letters" in name or "@" in name for name in made.truth("greek", 5).experts)


def test_parts_of_it_can_be_missing():
    some = without(world(), lambda row: row["task"] == "cars")
    assert some.truth("birds", 5) is None
    assert some.truth("cars", 5) is not None
