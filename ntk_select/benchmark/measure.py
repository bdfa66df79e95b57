"""The work of one worker: it measures cells, and records results and failures."""

import errno
import hashlib
import json
import time
import tomllib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.cache import Cache
from ntk_select.benchmark.cells import FORECAST, GROUND_TRUTH, UNTRAINED, Cell, ExpertFacts, is_forecast, scores_of
from ntk_select.benchmark.config import BenchConfig, parsed
from ntk_select.benchmark.facts import expert_facts, load
from ntk_select.benchmark.overlap import overlapping_sources
from ntk_select.benchmark.store import Store
from ntk_select.errors import NtkSelectError, explained
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import call, in_batches
from ntk_select.models import fresh_expert, open_zoo
from ntk_select.ranking.inputs import ScoreInputs
from ntk_select.ranking.scoring import Scorer
from ntk_select.scores import Terms, Unavailable
from ntk_select.scores.lfc import lfc
from ntk_select.tasks.probe_sample import probe_sample
from ntk_select.tasks.task import ChosenImages, Task
from ntk_select.training.finetuning import finetune
from ntk_select.training.finetuning.recipe import training_images
from ntk_select.training.reference import trained_reference

Row = dict[str, Any]
LOADED = 8
"""Experts that a worker keeps in memory."""
NOT_WRITABLE = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "the permission to write is missing",
}
"""Errors of the result folder, which would fail all other cells as well."""


@dataclass(frozen=True)
class Outcome:
    """Result of a cell.

    Args:
      key: Key of the cell.
      error: why it failed; None if its record is written.
      stop: why no other cell can be written either.
    """

    key: str
    error: str | None = None
    stop: str | None = None


@dataclass(frozen=True)
class Work:
    """Measures cells and writes their records. It consists of strings and can be sent to any worker.

    Args:
      config: the text of the config file.
      place: Path of the config, for error messages.
      out: folder of the results, the same one for all workers.
      data: Folder that replaces {data} in URIs.
    """

    config: str
    place: str
    out: str
    data: str | None = None

    @cached_property
    def bench(self) -> "Bench":
        """Config, tasks and experts of this worker."""
        return Bench(parsed(tomllib.loads(self.config), self.place), self.data, self.out)

    @cached_property
    def store(self) -> Store:
        """The results."""
        return Store(self.out)

    def __call__(self, cell: Cell) -> Outcome:
        """Measures a cell and writes its record, or why it failed."""
        try:
            rows = measured(self.bench, cell)
        except Exception as error:  # an expert is third-party code: whatever it raises must not cost the other cells
            return self.failed(cell, explained(error), "" if isinstance(error, NtkSelectError) else traceback.format_exc())
        try:
            self.store.put(cell, rows)
        except OSError as error:
            return Outcome(cell.key, str(error), _reason(error))
        except Exception as error:  # a third-party score returned values that Parquet cannot store
            return self.failed(cell, explained(error), traceback.format_exc())
        return Outcome(cell.key)

    def failed(self, cell: Cell, error: str, trace: str = "") -> Outcome:
        """Records that a cell failed."""
        try:
            self.store.put_failure(cell, error, trace)
        except OSError as trouble:
            return Outcome(cell.key, error, _reason(trouble))
        return Outcome(cell.key, error)


def _reason(error: OSError) -> str:
    return NOT_WRITABLE.get(error.errno, error.strerror or str(error))


class Bench:
    """A config with the tasks and experts that were loaded so far.

    Args:
      config: The config of the benchmark.
      data: Folder that replaces {data} in URIs.
      work: Folder for checkpoints.
    """

    def __init__(self, config: BenchConfig, data: str | Path | None = None, work: str | Path | None = None):
        self.config, self.data = config, data
        self.work = None if work is None else Path(work)
        self.task = lru_cache(maxsize=None)(lambda name: load(name, config.tasks[name], data))
        self.expert = lru_cache(maxsize=LOADED)(self._expert)
        self.scorer = lru_cache(maxsize=1)(self._scorer)
        self.reference = lru_cache(maxsize=4)(self._reference)
        self._programs: tuple[str, str] | None = None

    def free_programs(self, cell: Cell) -> None:
        """Frees compiled programs at a change of task or kind of cell: within hours they would fill the memory."""
        if self._programs not in (None, (cell.kind, cell.task)) and cell.kind != "synthetic":
            jax.clear_caches()
        self._programs = cell.kind, cell.task

    @cached_property
    def zoo(self) -> Mapping[str, Callable[[], Expert]]:
        """The experts."""
        return open_zoo(list(self.config.zoo))

    @cached_property
    def facts(self) -> dict[str, ExpertFacts]:
        """Facts of the experts."""
        return expert_facts(self.zoo)

    def _expert(self, name: str, seed: int = 0) -> Expert:
        """The expert of a name; the seed is for the weights of an untrained one."""
        if name.startswith(UNTRAINED):
            like = self.expert(self.config.reference)
            return fresh_expert(name, name.removeprefix(UNTRAINED), num_classes=2, preprocess=like.preprocess, seed=seed)
        return replace(self.zoo[name](), name=name)

    def _with_shots(self, task: str, shots: int | None, seed: int) -> Task:
        """The task with only `shots` training images per class, those of fine-tuning with the same seed."""
        found = self.task(task)
        places = training_images(found, shots, seed)
        return replace(found, images=ChosenImages(found.images, places), labels=found.labels[places])

    def _reference(self, task: str, shots: int | None, seed: int) -> Expert:
        """The network of RSA and DDS."""
        return trained_reference(self._with_shots(task, shots, seed), self.config.reference_network, seed=seed)

    def _scorer(self, task: str, images: int | None, shots: int | None, seed: int, role: str) -> Scorer:
        found = self.task(task)
        scores = {name: score for name, score in scores_of(self.config).items() if is_forecast(score) == (role == FORECAST)}
        sample = probe_sample(found, per_class=images or len(found.labels), seed=seed)
        options = {"seed": seed, "batch_size": 32, "cache": Cache(None), "reference": partial(self.reference, task, shots, seed)}
        if role == FORECAST:
            options |= {"recipe": self.config.recipe_of(task), "learning_rates": self.config.learning_rates}
        return Scorer(ScoreInputs(self._with_shots(task, shots, seed), sample, scores, **options), [])


def measured(bench: Bench, cell: Cell) -> list[Row]:
    """The rows of a cell's record. Exceptions of experts and scores propagate."""
    bench.free_programs(cell)
    began = time.perf_counter()
    rows = {"score": _scores, GROUND_TRUTH: _fine_tuning, "kernel": _kernel, "synthetic": _synthetic}[cell.kind](bench, cell)
    seconds = time.perf_counter() - began
    return [{**_origin(bench, cell), **row, "cell_seconds": seconds, **_versions()} for row in rows]


def _origin(bench: Bench, cell: Cell) -> Row:
    facts = bench.facts.get(cell.expert) if cell.kind != "synthetic" else None
    return {
        "key": cell.key,
        "kind": cell.kind,
        "role": cell.role,
        "expert": cell.expert,
        "architecture": facts.architecture if facts else cell.settings.get("architecture", ""),
        "source": facts.source if facts else "",
        "own_source": bool(facts and overlapping_sources(bench.config, cell.task, facts.seen)),
        "task": cell.task,
        "images_per_class": cell.images,
        "seed": cell.seed,
    }


@lru_cache(maxsize=1)
def _versions() -> Row:
    return {**{f"{name}_version": version(name) for name in ("ntk-select", "jax", "numpy")}, "device": jax.devices()[0].platform}


def _scores(bench: Bench, cell: Cell) -> list[Row]:
    """All scores of an expert on one probe sample."""
    scorer = bench.scorer(cell.task, cell.images, cell.settings.get("shots", cell.images), cell.seed, cell.role)
    before = dict(scorer.inputs.seconds)
    row = scorer.score(cell.expert, lambda: bench.expert(cell.expert)).row
    shared = sum(value - before.get(step, 0.0) for step, value in scorer.inputs.seconds.items())
    spent = {f"{step}_seconds": row.seconds.get(step, 0.0) for step in ("load", "preprocess", "forward", "backward")}
    rows = []
    for name, outcome in row.scores.items():
        known, relative = not isinstance(outcome, Unavailable), isinstance(outcome, Terms)
        rows.append(
            {
                "score": name,
                "value": outcome.value if known and not relative else None,
                "terms": json.dumps(dict(outcome.details)) if known and (relative or cell.role == FORECAST) else None,
                "unavailable": None if known else outcome.reason,
                "higher_is_better": scorer.scores[name].higher_is_better,
                "score_seconds": row.score_seconds[name] + row.seconds.get("forecast", 0.0),
                "images": len(scorer.inputs.sample),
                **spent,
                "shared_seconds": shared,
            }
        )
    return rows


RESULT_FIELDS = (
    *("train_images", "test_images", "learning_rate", "choose", "accuracy", "balanced_accuracy", "test_loss"),
    *("images", "flops", "images_per_second", "losses"),
)
"""Entries of a fine-tuning's result that its record has too."""


def _fine_tuning(bench: Bench, cell: Cell) -> list[Row]:
    """One fine-tuning, with its search of a learning rate."""
    recipe = bench.config.recipe_of(cell.task)
    result = finetune(
        bench.expert(cell.expert, cell.seed) if cell.role == "untrained" else bench.expert(cell.expert),
        bench.task(cell.task),
        shots=cell.images,
        learning_rates=cell.settings["rates"],
        extend=False,
        choose=cell.settings["choose"],
        recipe=recipe,
        seed=cell.seed,
        progress=False,
        checkpoints=bench.work / "checkpoints" if bench.config.checkpoints and bench.work is not None else None,
    )
    result.delete_checkpoints()
    found = result.to_dict()
    seconds = {f"{step}_seconds": found["seconds"].get(step, 0.0) for step in ("read", "compile", "train", "evaluate")}
    trials = [
        {
            "learning_rate": trial.learning_rate,
            "accuracy": trial.accuracy,
            "loss": trial.loss,
            "last_training_loss": trial.losses[-1] if trial.losses else None,
            "diverged": trial.diverged or "",
        }
        for trial in result.trials
    ]
    return [{**{name: found[name] for name in RESULT_FIELDS}, "trials": trials, "epochs": recipe.epochs, **seconds}]


def _kernel(bench: Bench, cell: Cell) -> list[Row]:
    """The feature kernel of an expert after some epochs of fine-tuning, always on the same images."""
    expert, task, epochs = bench.expert(cell.expert), bench.task(cell.task), cell.settings["epochs"]
    sample = probe_sample(task, per_class=cell.settings["per_class"], seed=cell.seed)
    accuracy = None
    if epochs:
        recipe = bench.config.recipe_of(cell.task)
        begun = replace(recipe, epochs=epochs, milestones=recipe.decays)
        options = {"learning_rates": cell.settings["rates"], "extend": False, "recipe": begun, "seed": cell.seed, "progress": False}
        result = finetune(expert, task, shots=cell.images, **options)
        expert, accuracy = result.tuned, getattr(result, bench.config.tasks[cell.task].judged_by)
    x = expert.preprocess(sample.images)
    features = np.asarray(in_batches(lambda batch: call(expert.features_fn, expert.variables, batch), 32, x))
    kernel = features @ features.T
    rounded = (kernel / np.abs(kernel).max()).astype(np.float16).astype(np.float32)  # compresses better
    return [
        {
            "epochs": epochs,
            "kernel": rounded.ravel().tolist(),
            "labels": sample.labels.tolist(),
            "class_names": list(sample.class_names),
            "lfc": float(lfc(features, sample.labels)),
            "accuracy": accuracy,
        }
    ]


def _synthetic(_bench: Bench, cell: Cell) -> list[Row]:
    """A simulated accuracy, and scores that correlate with it: the first by `signal`, the last not at all."""
    settings = cell.settings
    if settings["seconds"]:
        time.sleep(settings["seconds"])
    expert, pair, draw = (_rng(*parts) for parts in ((cell.expert,), (cell.expert, cell.task), (cell.expert, cell.task, cell.seed)))
    quality = 0.5 * expert.normal() + np.sqrt(0.75) * pair.normal()
    accuracy = float(np.clip(0.7 + 0.1 * quality + settings["noise"] * draw.normal(), 0, 1))
    count = settings["scores"]
    shares = [settings["signal"] * (1 - place / max(count - 1, 1)) for place in range(count)]
    scores = [
        {"score": f"score{place}", "value": float(share * quality + np.sqrt(1 - share**2) * draw.normal())} for place, share in enumerate(shares)
    ]
    return [{"accuracy": accuracy, "scores": scores}]


def _rng(*parts) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big"))
