"""A synthetic benchmark with everything that figures and tables need, and what reads its raw rows."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tomllib import loads

import numpy as np

from ntk_select.benchmark.cells import ExpertFacts, TaskFacts, grid
from ntk_select.benchmark.config import parsed
from ntk_select.benchmark.overlap import overlapping_sources
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.tables import content as table

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
    """Every cell of the config with random numbers; LFC is correlated with the accuracies by `signal`, and no other score is."""
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
            "own_source": bool(facts and overlapping_sources(config, cell.task, facts.seen)),
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
    return replace(results, **{name: [row for row in getattr(results, name) if keep(row)] for name in ("finetunings", "scores", "kernels")})


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


TRAINED, READING = 50, 7.0
PASSES = {"net_a": (0.2, 0.05), "net_b": (0.5, 0.11)}
"""Seconds of forward and backward by architecture, once compiled."""


def with_costs(results):
    """The same with operations and seconds: a fine-tuning is 3.4 trainings; first passes also compile, and the first expert reads."""
    facts = results.experts
    first = {facts[name].architecture: name for name in reversed(facts)}
    truths = []
    for place, row in enumerate(results.finetunings):
        one = {"net_a": 2e9, "net_b": 3e9}[row["architecture"]] * row["images_per_class"]
        seconds = 3.4 * one / 1e9 * (1 + 0.01 * (place % 3))
        truths.append(
            {
                **row,
                "train_images": TRAINED,
                "epochs": 4,
                "images": 3.4 * 4 * TRAINED,
                "flops": 3.4 * one,
                "train_seconds": seconds,
                "images_per_second": 3.4 * 4 * TRAINED / seconds,
                "learning_rate": 0.01,
            }
        )
    scores = []
    for row in results.scores:
        forward, backward = PASSES[row["architecture"]]
        compiling = 9 * (row["expert"] == first[row["architecture"]])
        reading = READING if row["expert"] == next(iter(facts)) else 0.01
        times = {"preprocess_seconds": reading, "forward_seconds": forward + compiling, "backward_seconds": backward + compiling}
        scores.append({**row, **times, "score_seconds": 0.001, "shared_seconds": 30.0 * (row["expert"] == "photos-net_a")})
    cards = {name: replace(each, source_accuracy=0.5 + 0.01 * place, parameters=1000 + place) for place, (name, each) in enumerate(facts.items())}
    return replace(results, finetunings=truths, scores=scores, experts=cards)


def with_forecasts(results, seed=5):
    """The same with a forecast of every fine-tuning on as many images as scores see: its accuracy with noise, 3 points too low."""
    rng, rows = np.random.default_rng(seed), []
    for row in (row for row in results.finetunings if row["role"] == "truth"):
        value = float(np.clip(row["accuracy"] - 0.03 + 0.04 * rng.normal(), 0, 1))
        terms = {"accuracy": value, "accuracy_low": value - 0.05, "accuracy_high": value + 0.05, "loss": 1.0}
        common = {name: row[name] for name in ("key", "expert", "architecture", "own_source", "task", "images_per_class", "seed")}
        rows.append({**common, "role": "forecast", "score": "forecast", "value": value, "terms": json.dumps(terms), "higher_is_better": True})
    return replace(results, scores=[*results.scores, *rows])


def with_config(results, text):
    """The same records under another config."""
    return replace(results, config=parsed(loads(text), Path("edited.toml")), config_text=text)


def rows_of(results, name):
    content = table(results, name)
    return [dict(zip((column.name for column in content.columns), row, strict=True)) for row in content.rows]


def one(rows, **wanted):
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def raw(results, shots):
    """task -> experts, mean accuracies over seeds; by loops over rows."""
    found = {}
    for task in results.tasks:
        rows = [r for r in results.finetunings if (r["role"], r["task"], r["images_per_class"], r["own_source"]) == ("truth", task, shots, False)]
        names = list(dict.fromkeys(r["expert"] for r in rows))
        found[task] = names, np.array([np.mean([r["accuracy"] for r in rows if r["expert"] == name]) for name in names])
    return found


def draws(results, score, task, shots, names):
    """One row per draw, in the order of the names."""
    values = {
        (r["seed"], r["expert"]): r["value"]
        for r in results.scores
        if (r["score"], r["task"], r["images_per_class"]) == (score, task, shots) and not r["own_source"]
    }
    return [np.array([values[seed, name] for name in names]) for seed in sorted({seed for seed, _ in values})]
