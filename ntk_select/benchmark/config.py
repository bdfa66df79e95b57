"""The config file of a benchmark: its tasks, experts, scores, shots, seeds and recipe."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ntk_select._runtime.configs import Count, Number, Positive, Rate, Share, parse, read_text, record
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.tasks.probe_sample import PER_CLASS
from ntk_select.training.finetuning.finetune import CHOICES
from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe

SOURCE_OVERLAP = ("skip", "mark")
JUDGED_BY = ("accuracy", "balanced_accuracy")

Images = int | None
"""Images per class: a number, or None for all of them."""

RECIPE = {"example": '{ epochs = 10, augment = "crop" }'}


@dataclass(frozen=True)
class TaskConfig:
    """A target task.

    Args:
      uri: The URI of the task; {data} is replaced by the folder given on the command line.
      source: names of the data sets that its images are from. An expert overlaps with the task's source if it was trained on one of them, or started
        from an expert that was.
      cluster: name of the data set that the target shares with other targets; the bootstrap resamples targets of one cluster together. Empty: a
        cluster of its own.
      classes: patterns of class names, as in "Greek_*"; all by default.
      shots, probe_seeds, finetune_seeds: Values for this task instead of the config's.
      recipe: fields that differ from the config's recipe.
      judged_by: "accuracy", or "balanced_accuracy", the mean over classes, for test sets with very unequal classes. Both are measured.
      train, test, num_classes: sizes, for a plan without the images.
    """

    uri: str
    source: tuple[str, ...] = ()
    cluster: str = ""
    classes: tuple[str, ...] = ()
    shots: tuple[Any, ...] = ()
    probe_seeds: tuple[Count, ...] = ()
    finetune_seeds: tuple[Count, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict, metadata=RECIPE)
    judged_by: str = "accuracy"
    train: Count | None = None
    test: Count | None = None
    num_classes: Count | None = None


@dataclass(frozen=True)
class KernelsConfig:
    """Feature kernels over the epochs of fine-tuning (figure 8).

    Args:
      experts, tasks: names.
      epochs: epochs of the recipe after which the kernel is computed.
      per_class: images per class in the kernel.
      shots: training images per class, or "full".
      learning_rate: The learning rate of the training.
    """

    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    epochs: tuple[Count, ...] = (0, 15, 30)
    per_class: Positive = 10
    shots: Count | str = 20
    learning_rate: Rate = 0.01


@dataclass(frozen=True)
class SyntheticConfig:
    """Simulated cells, for testing a cluster, or the report with a known ground truth.

    Args:
      experts, tasks, scores: how many.
      signal: correlation of the first score with the ground truth, 0 to 1; that of the last score is 0.
      noise: standard deviation of accuracies between seeds.
      seconds: duration of each cell.
    """

    experts: Positive = 20
    tasks: Positive = 8
    scores: Positive = 5
    signal: Share = 0.8
    noise: Number = 0.01
    seconds: Number = 0.0


@dataclass(frozen=True)
class BenchConfig:
    """A benchmark: every expert on every task, scored and fine-tuned.

    Args:
      tasks: The target tasks, by name.
      zoo: where the experts are, as for `ntk-select rank`.
      zoo_config: config of the zoo, relative to this file, for a plan before the zoo is trained.
      experts: patterns of names.
      reference: the expert whose fine-tuning the others are compared with, and the unit of cost.
      scores: names, or "all": here the scores of every group (main, ablation and baselines). `all` of `ntk-select rank` is the main group alone.
      shots: training images per class for fine-tuning: numbers, or "full".
      per_class: images per class that scores see: numbers, or "all". For N shots, the scores that count are those of the largest number up to N and
        25; the others show the effect of more or fewer images.
      probe_seeds: Seeds of the probe samples for scores.
      finetune_seeds: Seeds of fine-tuning and of the sample of its images, which are those of the scores with the same seed.
      learning_rates, choose: Arguments of `finetune`.
      recipe: fields of `Recipe`.
      source_overlap: Treatment of experts trained on a task's source: "skip", or "mark" (measured, and excluded from comparisons).
      untrained: architectures that are also fine-tuned from random weights (figure 1).
      search_rates: learning rates of an additional search for the reference (figure 1).
      kernels: The kernels of figure 8, if any.
      checkpoints: whether interrupted fine-tuning resumes at the last checkpoint; worth it if it takes minutes or more.
      reference_network: network that RSA and DDS train on each task ("tiny", "resnet18").
      synthetic: simulated cells instead of everything else.
    """

    tasks: Mapping[str, TaskConfig] = field(default_factory=dict, metadata={"example": "[tasks.NAME]"})
    zoo: tuple[str, ...] = ("builtin",)
    zoo_config: str | None = None
    experts: tuple[str, ...] = ("*",)
    reference: str | None = None
    scores: tuple[str, ...] = ("all",)
    shots: tuple[Any, ...] = (5, 20)
    per_class: tuple[Any, ...] = (5, 20)
    probe_seeds: tuple[Count, ...] = (0,)
    finetune_seeds: tuple[Count, ...] = (0,)
    learning_rates: tuple[Rate, ...] = LEARNING_RATES
    choose: str = "validation"
    recipe: Mapping[str, Any] = field(default_factory=dict, metadata=RECIPE)
    source_overlap: str = field(default="skip", metadata={"formerly": "own_source"})
    untrained: tuple[str, ...] = ()
    search_rates: tuple[Rate, ...] = ()
    kernels: KernelsConfig | None = field(default=None, metadata={"example": "[kernels]"})
    checkpoints: bool = False
    reference_network: str = "tiny"
    synthetic: SyntheticConfig | None = field(default=None, metadata={"example": "[synthetic]"})

    @property
    def own_source(self) -> str:
        """Deprecated name of `source_overlap`."""
        warnings.warn("BenchConfig.own_source is deprecated. Try: source_overlap", DeprecationWarning, stacklevel=2)
        return self.source_overlap

    def recipe_of(self, task: str) -> Recipe:
        """The recipe of fine-tuning on a task."""
        return Recipe(**{**self.recipe, **self.tasks[task].recipe})

    def shots_of(self, task: str) -> tuple[Images, ...]:
        """Training images per class, None for all."""
        return per_class_of(self.tasks[task].shots or self.shots)

    @property
    def probes(self) -> tuple[Images, ...]:
        """Images per class that scores see, None for all."""
        return per_class_of(self.per_class)

    def probe_of(self, shots: Images) -> Images:
        """Images per class of the scores that count for `shots`: at most `shots`, and at most 25. None if the config has no such number."""
        most = PER_CLASS if shots is None else min(shots, PER_CLASS)
        return max((each for each in self.probes if each is not None and each <= most), default=None)

    def shots_seen(self, task: str, probe: Images) -> Images:
        """Training images per class of the network that RSA and DDS train, for scores on `probe` images: the fewest shots for which these scores
        count. If they count for none, the most shots."""
        shots = self.shots_of(task)
        counting = [each for each in shots if self.probe_of(each) == probe]
        order = sorted(counting or shots, key=lambda each: (each is None, each))
        return order[0] if counting else order[-1]

    def finetune_seeds_of(self, task: str) -> tuple[int, ...]:
        """Seeds of fine-tuning on a task."""
        return self.tasks[task].finetune_seeds or self.finetune_seeds

    def probe_seeds_of(self, task: str) -> tuple[int, ...]:
        """Seeds of the samples of images for the scores of a task."""
        return self.tasks[task].probe_seeds or self.probe_seeds


def per_class_of(values) -> tuple[Images, ...]:
    """Numbers of images per class as written in a config: "full" and "all" are None."""
    return tuple(None if value in ("full", "all") else value for value in values)


def read_config(path: str | Path) -> BenchConfig:
    """The config in a TOML file.

    Raises:
      ConfigError: it cannot be read, a field is missing, unknown, of another type or out of range, or a name is unknown.
    """
    path = Path(path).expanduser()
    return parsed(parse(read_text(path), path), path)


def parsed(found: Mapping[str, Any], path: str | Path) -> BenchConfig:
    """The config in the tables of a TOML file. Raises as `read_config`."""
    config = record(BenchConfig, found, str(path))
    try:
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _check(config: BenchConfig) -> None:
    """Raises ConfigError for what the type of a field does not tell."""
    needed = ("finetune_seeds",)
    if config.synthetic is None:
        needed = ("tasks", "zoo", "experts", "scores", "shots", "per_class", "probe_seeds", "finetune_seeds", "learning_rates")
    for name in needed:
        if not getattr(config, name):
            raise ConfigError(f"{name} is empty. Try: at least one value")
    if config.synthetic is not None:
        return
    _check_name("choose", config.choose, CHOICES)
    _check_name("source_overlap", config.source_overlap, SOURCE_OVERLAP)
    _check_images("per_class", config.per_class)
    for name in config.tasks:
        _check_task(config, name)
    if config.kernels is not None:
        _check_images("kernels.shots", [config.kernels.shots])
        for name in config.kernels.tasks:
            _check_name("a task of kernels", name, config.tasks)
            epochs = config.recipe_of(name).epochs
            if max(config.kernels.epochs, default=0) > epochs:
                raise ConfigError(
                    f"kernels.epochs contains {max(config.kernels.epochs)}, and the recipe of {name!r} has only {epochs} epochs. "
                    f"Try: epochs up to {epochs}"
                )


def _check_task(config: BenchConfig, name: str) -> None:
    task = config.tasks[name]
    _check_name(f"judged_by of {name!r}", task.judged_by, JUDGED_BY)
    _check_images("shots", task.shots or config.shots)
    for shots in config.shots_of(name):
        if config.probe_of(shots) is None:
            least = min((each for each in config.probes if each is not None), default=PER_CLASS)
            raise ConfigError(
                f"scores would see {least} images per class and fine-tuning only {'all' if shots is None else shots} of {name!r}. "
                f"Try: another number up to {PER_CLASS if shots is None else min(shots, PER_CLASS)} in per_class"
            )
    known = [each.name for each in fields(Recipe)]
    for key in (*config.recipe, *task.recipe):
        if key not in known:
            raise ConfigError(f"the recipe of {name!r}: the field {key!r} is unknown.{did_you_mean(key, known)}")
    try:
        config.recipe_of(name)
    except ConfigError as error:
        raise ConfigError(f"the recipe of {name!r}: {error}") from error


def _check_name(name: str, value: str, allowed) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r} is unknown.{did_you_mean(value, allowed)}")


def _check_images(name: str, values) -> None:
    for value in values:
        if value not in ("full", "all") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f'{name} contains {value!r}, which must be a whole number from 1, or "full".')
