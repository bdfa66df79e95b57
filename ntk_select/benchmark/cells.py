"""Cells, the pieces of a benchmark, and the grid of them that a config asks for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.scores import Score

from .config import BenchConfig, Images, per_class_of

FORMAT = 1
"""To be raised whenever the same cell gives other numbers than before."""

KINDS = ("score", "truth", "kernel", "synthetic")
OF_TRAINING_IMAGES = {"reference_features", "class_counts"}
"""Inputs of scores that come from the images that are fine-tuned on, and not from the few that scores see."""
FORECAST = "forecast"
"""The role of the cells of such scores."""
UNTRAINED = "untrained:"
"""Before the name of an architecture: a network with random weights."""


@dataclass(frozen=True)
class Cell:
    """One measurement, whose record is known by the digest of everything that decides its numbers.

    Args:
      kind: "score" (all scores of one expert on one draw of images), "truth" (one fine-tuning with its search of a learning rate), "kernel" (a feature kernel
        after some epochs), or "synthetic".
      expert, task: names.
      images: of each class: that scores see, or that are trained on; None for all.
      seed: of the draw of images, and of everything else that is drawn.
      role: what a truth is for: "truth", "untrained", or "search" (the reference with `search_rates`); "forecast" of scores that depend on
        the recipe.
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
        """Hexadecimal digest by which its record is found."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return hashlib.sha256(json.dumps([FORMAT, known], sort_keys=True).encode()).hexdigest()[:32]

    @property
    def group(self) -> tuple:
        """Cells of one group share compiled programs, images, or a reference network: they are best done by one worker, one after the other."""
        if self.kind == "synthetic":
            return ("synthetic", self.key[:2])
        if self.kind == "score":
            return (self.kind, self.role, self.task, str(self.settings.get("shots", self.images)), self.seed)
        return (self.kind, self.task, str(self.images), self.settings["architecture"], self.seed)


@dataclass(frozen=True)
class ExpertFacts:
    """What a benchmark needs to know of an expert before it is loaded.

    Args:
      digest: of its weights.
      source: the data set that it was trained on.
      seen: all data sets that it has seen, those of the expert it started from included.
      card_digest: of what else its card says and scores look at.
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
    """What a benchmark needs to know of a task: digests of training images and of the whole, sizes, and what else decides a fine-tuning."""

    name: str
    digest: str
    train_digest: str
    train: int
    test: int
    num_classes: int
    licence: str | None = None
    flips_keep_class: bool | None = None


@dataclass(frozen=True)
class Grid:
    """All cells of a benchmark, in the order in which they are best done, and what was left out.

    Attributes:
      skipped: by expert and task, why.
    """

    cells: tuple[Cell, ...]
    skipped: Mapping[tuple[str, str], str]


def grid(config: BenchConfig, experts: Mapping[str, ExpertFacts], tasks: Mapping[str, TaskFacts]) -> Grid:
    """The cells of a config: of the first seeds before those of the second, truth after scores.

    Raises:
      ConfigError: no expert is left, or a name of an expert means nothing.
    """
    if config.synthetic is not None:
        return Grid(tuple({cell.key: cell for cell in _synthetic(config)}.values()), {})
    chosen, scores = chosen_experts(config, experts), scores_of(config)
    cells, skipped = [], {}
    for task in config.tasks:
        for name in chosen:
            own = on_own_source(config, task, experts[name])
            if own and config.own_source == "skip":
                skipped[name, task] = f"own source ({', '.join(own)})"
                continue
            cells += _scores(config, scores, experts[name], tasks[task]) + _truths(config, experts[name], tasks[task])
        cells += _for_figures(config, task, experts, tasks[task])
    once = {cell.key: cell for cell in cells}  # a seed, or a number of images, may stand twice in a config
    return Grid(tuple(sorted(once.values(), key=_order(config))), skipped)


def chosen_experts(config: BenchConfig, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Names of the experts that take part.

    Raises:
      ConfigError: none does, or the reference, or an expert of a figure, is not there.
    """
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in config.experts)]
    if not chosen:
        raise ConfigError(f"experts = {list(config.experts)} fits no expert of the zoo.{did_you_mean(config.experts[0], names)}")
    if config.reference and config.reference in names and config.reference not in chosen:
        raise ConfigError(
            f"The reference {config.reference!r} fits none of experts = {list(config.experts)}, so that it would not be fine-tuned. Add it to them."
        )
    named = [config.reference] if config.reference else []
    if config.kernels:
        named += config.kernels.experts
    for name in named:
        if name not in names:
            raise ConfigError(f"There is no expert {name!r} in the zoo.{did_you_mean(name, names)}")
    for field_name in ("search_rates", "untrained"):
        if getattr(config, field_name) and not config.reference:
            raise ConfigError(f'{field_name} is beside the reference expert, and there is none. Add: reference = "NAME"')
    return chosen


def on_own_source(config: BenchConfig, task: str, expert: ExpertFacts) -> tuple[str, ...]:
    """The sources of a task that an expert has seen."""
    return tuple(source for source in config.tasks[task].source if source in expert.seen)


def _scores(config: BenchConfig, scores: Mapping[str, Score], expert: ExpertFacts, task: TaskFacts) -> list[Cell]:
    of_passes = {name: score for name, score in scores.items() if not is_forecast(score)}
    found = _forecasts(config, sorted(scores.keys() - of_passes.keys()), expert, task)
    if not of_passes:
        return found
    settings = {"expert": expert.digest, "card": expert.card_digest, "task": task.train_digest, "scores": sorted(of_passes)}
    needs = {name for score in of_passes.values() for name in score.takes}
    for images in config.probes:
        known = {}
        if needs & OF_TRAINING_IMAGES:
            known["shots"] = config.shots_seen(task.name, images)
        if "reference_features" in needs:
            known["network"] = config.reference_network
        found += [Cell("score", expert.name, task.name, images, seed, settings={**settings, **known}) for seed in config.probe_seeds_of(task.name)]
    return found


def is_forecast(score: Score) -> bool:
    """Whether it depends on how experts are fine-tuned, so that its records are kept apart from those of the other scores."""
    return "training_kernel" in score.needs


def _forecasts(config: BenchConfig, names: Sequence[str], expert: ExpertFacts, task: TaskFacts) -> list[Cell]:
    settings = {
        "expert": expert.digest,
        "task": task.train_digest,
        "scores": list(names),
        **_training_settings(config, task, config.learning_rates),
    }
    cells = [(images, seed) for images in config.probes for seed in config.probe_seeds_of(task.name)] if names else []
    return [Cell("score", expert.name, task.name, images, seed, FORECAST, settings) for images, seed in cells]


def scores_of(config: BenchConfig) -> dict[str, Score]:
    """The scores by name, but those that look at accuracies on other tasks: the report has a static leaderboard.

    Raises:
      ConfigError: one is unknown, or none is left.
    """
    from ntk_select.ranking.rank import chosen_scores

    found = {name: score for name, score in chosen_scores(config.scores).items() if "accuracies_elsewhere" not in score.needs}
    if not found:
        raise ConfigError(
            f"scores = {list(config.scores)} names only scores that look at accuracies elsewhere. The report has them as static_leaderboard; add another."
        )
    return found


def _truth_settings(config: BenchConfig, expert: ExpertFacts, task: TaskFacts, rates: Sequence[float], choose: str) -> dict[str, Any]:
    return {
        "expert": expert.digest,
        "architecture": expert.architecture,
        "task": task.digest,
        "choose": choose,
        **_training_settings(config, task, rates),
    }


def _training_settings(config: BenchConfig, task: TaskFacts, rates: Sequence[float]) -> dict[str, Any]:
    recipe = config.recipe_of(task.name)
    unflipped = {"flips_keep_class": False} if recipe.augment == "auto" and task.flips_keep_class is False else {}
    return {
        "rates": sorted(map(float, rates), reverse=True),
        "recipe": json.loads(json.dumps(asdict(recipe))),
        **unflipped,
    }


def _truths(config: BenchConfig, expert: ExpertFacts, task: TaskFacts, role: str = "truth", rates: Sequence[float] = ()) -> list[Cell]:
    settings = _truth_settings(config, expert, task, rates or config.learning_rates, config.choose)
    return [
        Cell("truth", expert.name, task.name, shots, seed, role, settings)
        for shots in config.shots_of(task.name)
        for seed in config.finetune_seeds_of(task.name)
    ]


def _for_figures(config: BenchConfig, task: str, experts: Mapping[str, ExpertFacts], facts: TaskFacts) -> list[Cell]:
    cells = []
    for architecture in config.untrained:
        name = UNTRAINED + architecture
        digest = f"{name}, images as for {experts[config.reference].digest}"
        cells += _truths(config, ExpertFacts(name, digest, architecture), facts, "untrained")
    if config.search_rates and not on_own_source(config, task, experts[config.reference]):
        cells += _truths(config, experts[config.reference], facts, "search", config.search_rates)
    if config.kernels is not None and task in config.kernels.tasks:
        wanted = config.kernels
        (shots,) = per_class_of([wanted.shots])
        for name in wanted.experts:
            settings = _truth_settings(config, experts[name], facts, [wanted.learning_rate], "given")
            cells += [
                Cell("kernel", name, task, shots, 0, settings={**settings, "epochs": epochs, "per_class": wanted.per_class})
                for epochs in wanted.epochs
            ]
    return cells


def _order(config: BenchConfig):
    """First seeds first, scores before truth, figures last; cells of a group together, tasks as the config has them."""
    tasks = {name: place for place, name in enumerate(config.tasks)}

    def place(cell: Cell) -> tuple:
        seeds = config.probe_seeds_of(cell.task) if cell.kind == "score" else config.finetune_seeds_of(cell.task)
        late = cell.kind == "kernel" or cell.role in ("untrained", "search")
        return (
            seeds.index(cell.seed) if cell.seed in seeds else 0,
            late,
            KINDS.index(cell.kind),
            tasks[cell.task],
            *map(str, cell.group),
            str(cell.images),
            cell.expert,
        )

    return place


def _synthetic(config: BenchConfig) -> list[Cell]:
    made = config.synthetic
    settings = {"signal": made.signal, "noise": made.noise, "seconds": made.seconds, "scores": made.scores}
    return [
        Cell("synthetic", f"expert{e:03d}", f"task{t:03d}", 20, seed, settings=settings)
        for seed in config.finetune_seeds
        for t in range(made.tasks)
        for e in range(made.experts)
    ]
