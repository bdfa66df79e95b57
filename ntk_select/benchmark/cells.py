"""Cells, the measurements of a benchmark, and the grid of cells that a config requests."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from ntk_select.benchmark.config import BenchConfig, Images, per_class_of
from ntk_select.benchmark.overlap import overlapping_sources
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.ranking.rank import chosen_scores
from ntk_select.scores import Score
from ntk_select.scores.table import GROUPS, REVISIONS

FORMAT = 1
"""To be raised whenever the same cell gives other numbers than before."""

GROUND_TRUTH = "truth"
"""Kind, and usual role, of cells that fine-tune, as it is named in records."""
KINDS = ("score", GROUND_TRUTH, "kernel", "synthetic")
FROM_TRAINING_IMAGES = {"reference_features", "class_counts"}
"""Inputs of scores that are computed from the training images of the task, not from the probe sample."""
FORECAST = "forecast"
"""Role of the cells of scores that depend on the recipe."""
UNTRAINED = "untrained:"
"""Prefix of the architecture in the name of a network with random weights."""


@dataclass(frozen=True)
class Cell:
    """One measurement. Its key is the digest of everything that determines its numbers.

    Args:
      kind: "score" (all scores of one expert on one probe sample), "truth" (one fine-tuning with its search of a learning rate), "kernel" (a feature
        kernel after some epochs), or "synthetic".
      expert, task: names.
      images: Images per class that scores see, or that are trained on; None for all.
      seed: The seed of the sample of images, and of every other random number.
      role: Purpose of a fine-tuning: "truth", "untrained", or "search" (the reference with `search_rates`); "forecast" for scores that depend on the
        recipe.
      settings: everything else: digests of expert and task, and options.
    """

    kind: str
    expert: str
    task: str
    images: Images
    seed: int
    role: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def key(self) -> str:
        """Hexadecimal digest that names its record."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return hashlib.sha256(json.dumps([FORMAT, known], sort_keys=True).encode()).hexdigest()[:32]

    @property
    def group(self) -> tuple:
        """Cells of one group share compiled programs, images, or a reference network: one worker best does them in sequence."""
        if self.kind == "synthetic":
            return ("synthetic", self.key[:2])
        if self.kind == "score":
            return (self.kind, self.role, self.task, str(self.settings.get("shots", self.images)), self.seed)
        return (self.kind, self.task, str(self.images), self.settings["architecture"], self.seed)


@dataclass(frozen=True)
class ExpertFacts:
    """What is known of an expert before it is loaded.

    Args:
      digest: Digest of its weights.
      source: the data set that it was trained on.
      seen: all data sets that it was trained on, including those of the expert it started from.
      card_digest: Digest of the other entries of its card that scores use.
    """

    name: str
    digest: str
    architecture: str = ""
    source: str = ""
    seen: tuple[str, ...] = ()
    initialised_from: str | None = None
    parameters: int | None = None
    source_images: int | None = None
    source_accuracy: float | None = None
    card_digest: str = ""


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before anything is measured: digests of the training images and of the whole, sizes, and what affects fine-tuning."""

    name: str
    digest: str
    train_digest: str
    train: int
    test: int
    num_classes: int
    licence: str | None = None
    flips_keep_class: bool | None = None
    test_split: str | None = None
    """How test images were held out, for a task without a test set."""


@dataclass(frozen=True)
class Grid:
    """All cells of a benchmark, in the order of measuring.

    Attributes:
      skipped: pairs of expert and task that are left out, with the reason.
    """

    cells: tuple[Cell, ...]
    skipped: Mapping[tuple[str, str], str]


def grid(config: BenchConfig, experts: Mapping[str, ExpertFacts], tasks: Mapping[str, TaskFacts]) -> Grid:
    """The cells of a config: first seeds first, scores before ground truth.

    Raises:
      ConfigError: no expert is left, or the name of an expert is unknown.
    """
    cells, skipped = [], {}
    if config.synthetic is not None:
        cells += _synthetic_cells(config)
    else:
        chosen, scores = chosen_experts(config, experts), scores_of(config)
        for task in config.tasks:
            for name in chosen:
                overlap = overlapping_sources(config, task, experts[name].seen)
                if overlap and config.source_overlap == "skip":
                    skipped[name, task] = f"source overlap ({', '.join(overlap)})"
                    continue
                cells += _score_cells(config, scores, experts[name], tasks[task])
                cells += _fine_tunings(config, experts[name], tasks[task])
            cells += _figure_cells(config, experts, tasks[task])
        cells.sort(key=_order(config))
    return Grid(tuple({cell.key: cell for cell in cells}.values()), skipped)  # a config may name a seed, or a number of images, twice


def chosen_experts(config: BenchConfig, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Names of the experts that take part.

    Raises:
      ConfigError: there is none, or the reference, or an expert of a figure, is unknown.
    """
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in config.experts)]
    if not chosen:
        raise ConfigError(f"experts = {list(config.experts)} matches no expert of the zoo.{did_you_mean(config.experts[0], names)}")
    reference = config.reference
    for name in ([reference] if reference else []) + list(config.kernels.experts if config.kernels else ()):
        if name not in names:
            raise ConfigError(f"There is no expert {name!r} in the zoo.{did_you_mean(name, names)}")
    if reference and reference not in chosen:
        raise ConfigError(
            f"The reference {reference!r} matches none of experts = {list(config.experts)}, so it would not be fine-tuned. Try: its name among them"
        )
    for field_name in ("search_rates", "untrained"):
        if getattr(config, field_name) and not reference:
            raise ConfigError(f'{field_name} needs a reference expert to compare with, and there is none. Try: reference = "NAME"')
    return chosen


def scores_of(config: BenchConfig) -> dict[str, Score]:
    """The scores by name, except those that use accuracies on other tasks: the report has a static leaderboard.

    Raises:
      ConfigError: one is unknown, or none is left.
    """
    # "all" of a config means the scores of every group, where that of `rank` means those of the main group.
    names = [each for name in config.scores for each in (GROUPS if name == "all" else (name,))]
    found = {name: score for name, score in chosen_scores(names).items() if "accuracies_elsewhere" not in score.needs}
    if not found:
        raise ConfigError(
            f"scores = {list(config.scores)} names only scores that use accuracies on other tasks. The report has them as static_leaderboard. "
            "Try: another score"
        )
    return found


def is_forecast(score: Score) -> bool:
    """Whether it depends on the recipe of fine-tuning. Its records are then separate from those of the other scores."""
    return "training_kernel" in score.needs


def _score_cells(config: BenchConfig, scores: Mapping[str, Score], expert: ExpertFacts, task: TaskFacts) -> list[Cell]:
    """Two kinds of cells per probe sample: of scores from forward and backward passes alone, and of forecasts."""
    forecasts = sorted(name for name, score in scores.items() if is_forecast(score))
    others = sorted(scores.keys() - set(forecasts))
    needs = {name for score in others for name in scores[score].takes}
    cells = []
    for images in config.probes:
        settings = {"expert": expert.digest, "card": expert.card_digest, "task": task.train_digest, "scores": others}
        if needs & FROM_TRAINING_IMAGES:
            settings["shots"] = config.shots_seen(task.name, images)
        if "reference_features" in needs:
            settings["network"] = config.reference_network
        recipe = {"expert": expert.digest, "task": task.train_digest, "scores": forecasts, **_recipe_settings(config, task, config.learning_rates)}
        if revisions := {name: REVISIONS[name] for name in forecasts if name in REVISIONS}:
            recipe["revisions"] = revisions
        for seed in config.probe_seeds_of(task.name):
            cells += [Cell("score", expert.name, task.name, images, seed, settings=settings)] if others else []
            cells += [Cell("score", expert.name, task.name, images, seed, FORECAST, recipe)] if forecasts else []
    return cells


def _recipe_settings(config: BenchConfig, task: TaskFacts, rates: Sequence[float]) -> dict[str, Any]:
    """What determines a training besides the expert and the images."""
    recipe = config.recipe_of(task.name)
    flips = {"flips_keep_class": False} if recipe.augment == "auto" and task.flips_keep_class is False else {}
    return {"rates": sorted(map(float, rates), reverse=True), "recipe": json.loads(json.dumps(asdict(recipe))), **flips}


def _training_settings(config: BenchConfig, expert: ExpertFacts, task: TaskFacts, rates: Sequence[float], choose: str) -> dict[str, Any]:
    identity = {"expert": expert.digest, "architecture": expert.architecture, "task": task.digest, "choose": choose}
    return {**identity, **_recipe_settings(config, task, rates)}


def _fine_tunings(
    config: BenchConfig, expert: ExpertFacts, task: TaskFacts, role: str = GROUND_TRUTH, rates: Sequence[float] | None = None
) -> list[Cell]:
    settings = _training_settings(config, expert, task, rates or config.learning_rates, config.choose)
    return [
        Cell(GROUND_TRUTH, expert.name, task.name, shots, seed, role, settings)
        for shots in config.shots_of(task.name)
        for seed in config.finetune_seeds_of(task.name)
    ]


def _figure_cells(config: BenchConfig, experts: Mapping[str, ExpertFacts], task: TaskFacts) -> list[Cell]:
    """Cells that only figures need: untrained networks, the wide learning-rate search of the reference, and kernels."""
    cells = []
    for architecture in config.untrained:
        name = UNTRAINED + architecture
        expert = ExpertFacts(name, f"{name}, images as for {experts[config.reference].digest}", architecture)
        cells += _fine_tunings(config, expert, task, "untrained")
    if config.search_rates and not overlapping_sources(config, task.name, experts[config.reference].seen):
        cells += _fine_tunings(config, experts[config.reference], task, "search", config.search_rates)
    if config.kernels is not None and task.name in config.kernels.tasks:
        wanted = config.kernels
        (shots,) = per_class_of([wanted.shots])
        for name in wanted.experts:
            settings = {**_training_settings(config, experts[name], task, [wanted.learning_rate], "given"), "per_class": wanted.per_class}
            cells += [Cell("kernel", name, task.name, shots, 0, settings={**settings, "epochs": epochs}) for epochs in wanted.epochs]
    return cells


def _order(config: BenchConfig):
    """Sorting key of cells: first seeds first, scores before ground truth, figures last; groups together, tasks as in the config."""
    tasks = list(config.tasks)

    def place(cell: Cell) -> tuple:
        seeds = config.probe_seeds_of(cell.task) if cell.kind == "score" else config.finetune_seeds_of(cell.task)
        late = cell.kind == "kernel" or cell.role in ("untrained", "search")
        seed = seeds.index(cell.seed) if cell.seed in seeds else 0
        return seed, late, KINDS.index(cell.kind), tasks.index(cell.task), *map(str, cell.group), str(cell.images), cell.expert

    return place


def _synthetic_cells(config: BenchConfig) -> list[Cell]:
    made = config.synthetic
    settings = {"signal": made.signal, "noise": made.noise, "seconds": made.seconds, "scores": made.scores}
    return [
        Cell("synthetic", f"expert{expert:03d}", f"task{task:03d}", 20, seed, settings=settings)
        for seed in config.finetune_seeds
        for task in range(made.tasks)
        for expert in range(made.experts)
    ]
