"""What does one cell measure? Rows of its record."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select.experts.expert import Expert
from ntk_select.experts.probe import call, in_batches
from ntk_select.models import fresh_expert, open_zoo
from ntk_select.scores import ScoreResult
from ntk_select.tasks.task import ChosenImages, Task, probe_sample
from ntk_select.training.finetuning.shots import chosen_images
from ntk_select.training.reference import trained_reference

from .cells import FORECAST, UNTRAINED, Cell, ExpertFacts, is_forecast, on_own_source, scores_of
from .config import BenchConfig
from .facts import expert_facts, load

Row = dict[str, Any]
LOADED = 8
"""Experts that a worker keeps in memory."""


class Bench:
    """What a worker knows: the config, and what it has loaded so far.

    Args:
      config: of the benchmark.
      data: stands for {data} in URIs.
      work: folder for checkpoints.
    """

    def __init__(self, config: BenchConfig, data: str | Path | None = None, work: str | Path | None = None):
        self.config, self.data = config, data
        self.work = None if work is None else Path(work)
        self.task = lru_cache(maxsize=None)(self._task)
        self.expert = lru_cache(maxsize=LOADED)(self._expert)
        self.scorer = lru_cache(maxsize=1)(self._scorer)
        self._at: tuple[str, str] | None = None
        self.reference = lru_cache(maxsize=4)(self._reference)

    def turn_to(self, cell: Cell) -> None:
        """Forgets compiled programs with the task that they were for: in hours they would fill the memory."""
        if self._at not in (None, (cell.kind, cell.task)) and cell.kind != "synthetic":
            jax.clear_caches()
        self._at = cell.kind, cell.task

    @cached_property
    def zoo(self) -> Mapping[str, Callable[[], Expert]]:
        """The experts."""
        return open_zoo(list(self.config.zoo))

    @cached_property
    def facts(self) -> dict[str, ExpertFacts]:
        """Of the experts."""
        return expert_facts(self.zoo)

    def _task(self, name: str) -> Task:
        return load(name, self.config.tasks[name], self.data)

    def _expert(self, name: str, seed: int = 0) -> Expert:
        """The expert of a name; the seed is of the weights of an untrained one."""
        if name.startswith(UNTRAINED):
            like = self.expert(self.config.reference)
            return fresh_expert(name, name.removeprefix(UNTRAINED), num_classes=2, preprocess=like.preprocess, seed=seed)
        return replace(self.zoo[name](), name=name)

    def _known(self, task: str, shots: int | None, seed: int) -> Task:
        """The task as someone has it who has labelled so many images of each class."""
        found = self.task(task)
        places = chosen_images(found, shots, seed)
        return replace(found, images=ChosenImages(found.images, places), labels=found.labels[places])

    def _reference(self, task: str, shots: int | None, seed: int) -> Expert:
        """The network of RSA and DDS."""
        return trained_reference(self._known(task, shots, seed), self.config.reference_network, seed=seed)

    def _scorer(self, task: str, images: int | None, shots: int | None, seed: int, role: str = ""):
        from ntk_select._runtime.cache import Cache
        from ntk_select.ranking.inputs import Gatherer
        from ntk_select.ranking.scorer import Scorer

        found = self.task(task)
        scores = {name: score for name, score in scores_of(self.config).items() if is_forecast(score) == (role == FORECAST)}
        needs = {name for score in scores.values() for name in score.takes}
        sample = probe_sample(found, per_class=images or len(found.labels), seed=seed)
        options = {"seed": seed, "batch_size": 32, "cache": Cache(None), "reference": partial(self.reference, task, shots, seed)}
        if role == FORECAST:
            options |= {"recipe": self.config.recipe_of(task), "learning_rates": self.config.learning_rates}
        return Scorer(Gatherer(self._known(task, shots, seed), sample, needs, **options), scores, [])


def measured(bench: Bench, cell: Cell) -> list[Row]:
    """The rows of a cell's record. Whatever an expert or a score raises comes through."""
    bench.turn_to(cell)
    began = time.perf_counter()
    rows = {"score": _score, "truth": _truth, "kernel": _kernel, "synthetic": _synthetic}[cell.kind](bench, cell)
    seconds = time.perf_counter() - began
    return [{**_common(bench, cell), **row, "cell_seconds": seconds, **_versions()} for row in rows]


def _common(bench: Bench, cell: Cell) -> Row:
    facts = bench.facts.get(cell.expert) if cell.kind != "synthetic" else None
    return {
        "key": cell.key,
        "kind": cell.kind,
        "role": cell.role,
        "expert": cell.expert,
        "architecture": facts.architecture if facts else cell.settings.get("architecture", ""),
        "source": facts.source if facts else "",
        "own_source": bool(facts and on_own_source(bench.config, cell.task, facts)),
        "task": cell.task,
        "images_per_class": cell.images,
        "seed": cell.seed,
    }


@lru_cache(maxsize=1)
def _versions() -> Row:
    return {**{f"{name}_version": version(name) for name in ("ntk-select", "jax", "numpy")}, "device": jax.devices()[0].platform}


def _score(bench: Bench, cell: Cell) -> list[Row]:
    scorer = bench.scorer(cell.task, cell.images, cell.settings.get("shots", cell.images), cell.seed, cell.role)
    before = dict(scorer.gatherer.seconds)
    row = scorer.score(cell.expert, lambda: bench.expert(cell.expert))
    shared = {step: value - before.get(step, 0.0) for step, value in scorer.gatherer.seconds.items()}
    spent = {f"{step}_seconds": row.seconds.get(step, 0.0) for step in ("load", "preprocess", "forward", "backward")}
    rows = []
    for name, outcome in row.scores.items():
        known, relative = isinstance(outcome, ScoreResult), scorer.scores[name].combine is not None
        rows.append(
            {
                "score": name,
                "value": outcome.value if known and not relative else None,
                "terms": json.dumps(dict(outcome.details)) if known and (relative or cell.role == FORECAST) else None,
                "unavailable": None if known else outcome.reason,
                "higher_is_better": scorer.scores[name].higher_is_better,
                "score_seconds": row.score_seconds[name] + row.seconds.get("forecast", 0.0),
                "images": len(scorer.gatherer.sample),
                **spent,
                "shared_seconds": sum(shared.values()),
            }
        )
    return rows


def _truth(bench: Bench, cell: Cell) -> list[Row]:
    from ntk_select.training.finetuning import finetune

    rates = cell.settings["rates"]
    result = finetune(
        bench.expert(cell.expert, cell.seed) if cell.role == "untrained" else bench.expert(cell.expert),
        bench.task(cell.task),
        shots=cell.images,
        learning_rates=rates,
        extend=False,
        choose=cell.settings["choose"],
        recipe=bench.config.recipe_of(cell.task),
        seed=cell.seed,
        progress=False,
        checkpoints=bench.work / "checkpoints" if bench.config.checkpoints and bench.work is not None else None,
    )
    result.forget()
    record = result.to_dict()
    seconds = {f"{step}_seconds": record["seconds"].get(step, 0.0) for step in ("read", "compile", "train", "evaluate")}
    kept = (
        "train_images",
        "test_images",
        "learning_rate",
        "choose",
        "accuracy",
        "balanced_accuracy",
        "test_loss",
        "images",
        "flops",
        "images_per_second",
    )
    trials = [
        {
            "learning_rate": t.learning_rate,
            "accuracy": t.accuracy,
            "loss": t.loss,
            "last_training_loss": t.losses[-1] if t.losses else None,
            "diverged": t.diverged or "",
        }
        for t in result.trials
    ]
    epochs = bench.config.recipe_of(cell.task).epochs
    return [{**{name: record[name] for name in kept}, "losses": record["losses"], "trials": trials, "epochs": epochs, **seconds}]


def _kernel(bench: Bench, cell: Cell) -> list[Row]:
    """The feature kernel of the same images, of an expert that was fine-tuned for some epochs of its recipe."""
    from ntk_select.scores.lfc import lfc
    from ntk_select.training.finetuning import finetune

    expert, task, epochs = bench.expert(cell.expert), bench.task(cell.task), cell.settings["epochs"]
    sample = probe_sample(task, per_class=cell.settings["per_class"], seed=cell.seed)
    recipe, accuracy = bench.config.recipe_of(cell.task), None
    if epochs:
        begun = replace(recipe, epochs=epochs, milestones=recipe.decays)
        options = {"learning_rates": cell.settings["rates"], "extend": False, "recipe": begun, "seed": cell.seed, "progress": False}
        result = finetune(expert, task, shots=cell.images, **options)
        judged = bench.config.tasks[cell.task].judged_by
        expert, accuracy = result.tuned, result.balanced_accuracy if judged == "balanced_accuracy" else result.accuracy
    x = expert.preprocess(sample.images)
    features = np.asarray(in_batches(lambda batch: call(expert.features_fn, expert.variables, batch), 32, x))
    kernel = features @ features.T
    scaled = (kernel / np.abs(kernel).max()).astype(np.float16)
    return [
        {
            "epochs": epochs,
            "kernel": scaled.ravel().astype(np.float32).tolist(),
            "labels": sample.labels.tolist(),
            "class_names": list(sample.class_names),
            "lfc": float(lfc(features, sample.labels)),
            "accuracy": accuracy,
        }
    ]


def _synthetic(_bench: Bench, cell: Cell) -> list[Row]:
    """Accuracy of an expert on a task, and scores that know more or less of it: the first by `signal`, the last by nothing."""
    settings = cell.settings
    if settings["seconds"]:
        time.sleep(settings["seconds"])
    expert, pair, draw = (_numbers(*parts) for parts in ((cell.expert,), (cell.expert, cell.task), (cell.expert, cell.task, cell.seed)))
    quality = 0.5 * expert.normal() + np.sqrt(0.75) * pair.normal()
    accuracy = float(np.clip(0.7 + 0.1 * quality + settings["noise"] * draw.normal(), 0, 1))
    count = settings["scores"]
    shares = [settings["signal"] * (1 - place / max(count - 1, 1)) for place in range(count)]
    scores = [
        {"score": f"score{place}", "value": float(share * quality + np.sqrt(1 - share**2) * draw.normal())} for place, share in enumerate(shares)
    ]
    return [{"accuracy": accuracy, "scores": scores}]


def _numbers(*parts) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big"))
