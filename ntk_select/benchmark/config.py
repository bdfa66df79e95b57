"""What may stand in the config file of a benchmark, and what does it mean?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntk_select._runtime.checks import check_count
from ntk_select._runtime.toml_records import check_tables, read_toml, record, table_of_tables
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.training.finetuning.finetune import CHOICES
from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe, checked_rates

OWN_SOURCE = ("skip", "mark")
JUDGED_BY = ("accuracy", "balanced_accuracy")
MOST = 25
"""Images of a class that the scores see where nothing smaller is asked for: the paper's."""

Images = int | None
"""Images of a class: a number, or None for all of them."""


@dataclass(frozen=True)
class TaskConfig:
    """A target task.

    Args:
      uri: of the task; {data} stands for the folder given on the command line.
      source: names of the data sets that its images are from. An expert that was trained on one of them, or started from such an expert, is on its own source.
      classes: patterns of class names, as in "Greek_*"; all by default.
      shots, probe_seeds, finetune_seeds: for this task, in place of the config's.
      recipe: what differs from the config's recipe.
      judged_by: "accuracy", or "balanced_accuracy", the mean over classes: for a test set in which classes are far from equally many. Both are measured.
      train, test, num_classes: for a plan where the images are not at hand.
    """

    uri: str
    source: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    shots: tuple = ()
    probe_seeds: tuple[int, ...] = ()
    finetune_seeds: tuple[int, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict, metadata={"as": '{ epochs = 10, augment = "crop" }'})
    judged_by: str = "accuracy"
    train: int | None = None
    test: int | None = None
    num_classes: int | None = None


@dataclass(frozen=True)
class KernelsConfig:
    """Feature kernels over the epochs of fine-tuning (figure 8).

    Args:
      experts, tasks: names.
      epochs: after which the kernel is taken, of the recipe's.
      per_class: images of each class in the kernel.
      shots: that are trained on, or "full".
      learning_rate: of the training.
    """

    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    epochs: tuple[int, ...] = (0, 15, 30)
    per_class: int = 10
    shots: int | str = 20
    learning_rate: float = 0.01


@dataclass(frozen=True)
class SyntheticConfig:
    """Made-up cells, to try a cluster, or the report, with a known truth.

    Args:
      experts, tasks, scores: how many.
      signal: correlation of a score with the truth, 0 to 1, of the first score; that of the last is 0.
      noise: standard deviation of accuracies between seeds.
      seconds: that each cell takes.
    """

    experts: int = 20
    tasks: int = 8
    scores: int = 5
    signal: float = 0.8
    noise: float = 0.01
    seconds: float = 0.0


@dataclass(frozen=True)
class BenchConfig:
    """A benchmark: every expert on every task, scored and fine-tuned.

    Args:
      tasks: by name.
      zoo: where the experts are, as for `ntk-select rank`.
      zoo_config: config of the zoo, beside this file, for a plan before the zoo is trained.
      experts: patterns of names.
      reference: the expert whose fine-tuning others are compared with, and the unit of cost.
      scores: names, or "all".
      shots: training images of each class for fine-tuning: numbers, or "full".
      per_class: images of each class that scores see: numbers, or "all". For N shots the largest number up to N and 25 counts; the others show what more or fewer do.
      probe_seeds: draws of the images for scores.
      finetune_seeds: of fine-tuning, and of the draw of its images: those that the scores see with the same seed.
      learning_rates, choose: as for `finetune`.
      recipe: fields of `Recipe`.
      own_source: what becomes of experts on their own source: "skip", or "mark" (measured, and left out of comparisons).
      untrained: architectures that are also fine-tuned from random weights (figure 1).
      search_rates: learning rates among which the reference is also searched (figure 1).
      kernels: of figure 8, if any.
      checkpoints: whether a fine-tuning that was cut goes on where it was; worth it from minutes on.
      reference_network: that RSA and DDS train on each task ("tiny", "resnet18").
      synthetic: made-up cells in place of everything else.
    """

    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    zoo: tuple[str, ...] = ("builtin",)
    zoo_config: str | None = None
    experts: tuple[str, ...] = ("*",)
    reference: str | None = None
    scores: tuple[str, ...] = ("all",)
    shots: tuple = (5, 20)
    per_class: tuple = (5, 20)
    probe_seeds: tuple[int, ...] = (0,)
    finetune_seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = LEARNING_RATES
    choose: str = "validation"
    recipe: Mapping[str, Any] = field(default_factory=dict, metadata={"as": '{ epochs = 10, augment = "crop" }'})
    own_source: str = "skip"
    untrained: tuple[str, ...] = ()
    search_rates: tuple[float, ...] = ()
    kernels: KernelsConfig | None = None
    checkpoints: bool = False
    reference_network: str = "tiny"
    synthetic: SyntheticConfig | None = None

    def recipe_of(self, task: str) -> Recipe:
        """How experts are fine-tuned on a task."""
        return Recipe(**{key: _plain(value) for key, value in {**self.recipe, **self.tasks[task].recipe}.items()})

    def shots_of(self, task: str) -> tuple[Images, ...]:
        """Training images of each class, None for all."""
        return per_class_of(self.tasks[task].shots or self.shots)

    @property
    def probes(self) -> tuple[Images, ...]:
        """Images of each class that scores see, None for all."""
        return per_class_of(self.per_class)

    def probe_of(self, shots: Images) -> Images:
        """Images of each class that the scores see which count for so many shots: never more than those are."""
        most = MOST if shots is None else min(shots, MOST)
        return max((each for each in self.probes if each is not None and each <= most), default=None)

    def shots_seen(self, task: str, probe: Images) -> Images:
        """Training images of each class that scores on `probe` images may know of besides, by a network trained on the task: those of the fewest shots for
        which they count; where they count for none, of the most shots."""
        shots = self.shots_of(task)
        counting = [each for each in shots if self.probe_of(each) == probe]
        order = sorted(counting or shots, key=lambda each: (each is None, each))
        return order[0] if counting else order[-1]

    def finetune_seeds_of(self, task: str) -> tuple[int, ...]:
        """Seeds of fine-tuning on a task."""
        return self.tasks[task].finetune_seeds or self.finetune_seeds

    def probe_seeds_of(self, task: str) -> tuple[int, ...]:
        """Draws of images for the scores of a task."""
        return self.tasks[task].probe_seeds or self.probe_seeds


def _plain(value):
    return tuple(value) if isinstance(value, list) else value


def per_class_of(values) -> tuple[Images, ...]:
    """Numbers of images of a class as they stand in a config: "full" and "all" are None."""
    return tuple(None if value in ("full", "all") else value for value in values)


def read_config(path: str | Path) -> BenchConfig:
    """The config in a TOML file.

    Raises:
      ConfigError: it cannot be read, a field is missing, unknown, of another type or out of range, or a name means nothing.
    """
    path = Path(path).expanduser()
    return parsed(read_toml(path), path)


def parsed(found: Mapping[str, Any], path: Path) -> BenchConfig:
    """The config in what stood in a TOML file. Raises as `read_config`."""
    tasks = {name: (TaskConfig, entry, f"{path}, [tasks.{name}]") for name, entry in table_of_tables(found, "tasks", path).items()}
    tables = {}
    for key, kind in (("kernels", KernelsConfig), ("synthetic", SyntheticConfig)):
        if key in found:
            if not isinstance(found[key], dict):
                raise ConfigError(f"{path}: {key} must be a table, as in [{key}].")
            tables[key] = (kind, found[key], f"{path}, [{key}]")
    own = {"tasks": {}, **found}
    check_tables([(BenchConfig, own, str(path)), *tasks.values(), *tables.values()], given=dict.fromkeys(("tasks", *tables)))
    inner = {"tasks": {name: record(*table) for name, table in tasks.items()}} | {key: record(*table) for key, table in tables.items()}
    config = record(BenchConfig, own, str(path), given=inner)
    _check(config, str(path))
    return config


def _check(config: BenchConfig, where: str) -> None:
    def one_of(name: str, value, allowed) -> None:
        if value not in allowed:
            raise ConfigError(f"{where}: {name} = {value!r} is unknown.{did_you_mean(str(value), allowed)}")

    def some(name: str, values) -> None:
        if not values:
            raise ConfigError(f"{where}: {name} is empty; give at least one.")

    if config.synthetic is not None:
        for name in ("experts", "tasks", "scores"):
            check_count(f"{where}: synthetic.{name}", getattr(config.synthetic, name), 1)
        if config.synthetic.signal > 1:
            raise ConfigError(f"{where}: synthetic.signal = {config.synthetic.signal} must lie from 0 to 1.")
        some("finetune_seeds", config.finetune_seeds)
        return
    some("tasks", config.tasks)
    for name in ("zoo", "experts", "scores", "shots", "per_class", "probe_seeds", "finetune_seeds"):
        some(name, getattr(config, name))
    one_of("choose", config.choose, CHOICES)
    one_of("own_source", config.own_source, OWN_SOURCE)
    _check_images(f"{where}: per_class", config.per_class)
    try:
        for rates in (config.learning_rates, config.search_rates or config.learning_rates):
            checked_rates(rates)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    for name in config.tasks:
        one_of(f"judged_by of {name!r}", config.tasks[name].judged_by, JUDGED_BY)
        _check_images(f"{where}: shots", config.tasks[name].shots or config.shots)
        least = min((each for each in config.probes if each is not None), default=MOST)
        for shots in config.shots_of(name):
            if config.probe_of(shots) is None:
                raise ConfigError(
                    f"{where}: scores would see {least} images of each class and fine-tuning only {'all' if shots is None else shots} of {name!r}. "
                    f"Add a number up to {MOST if shots is None else min(shots, MOST)} to per_class."
                )
        try:
            config.recipe_of(name)
        except TypeError as error:
            raise ConfigError(
                f"{where}: the recipe of {name!r}: {str(error).removeprefix('Recipe.__init__() ')}. Fields: those of ntk_select.Recipe."
            ) from error
        except ConfigError as error:
            raise ConfigError(f"{where}: the recipe of {name!r}: {error}") from error
    if config.kernels is not None:
        for name in config.kernels.tasks:
            one_of("a task of kernels", name, config.tasks)
            for epochs in config.kernels.epochs:
                if epochs > config.recipe_of(name).epochs:
                    raise ConfigError(f"{where}: kernels.epochs holds {epochs}; the recipe of {name!r} has {config.recipe_of(name).epochs}.")
        _check_images(f"{where}: kernels.shots", [config.kernels.shots])
        check_count(f"{where}: kernels.per_class", config.kernels.per_class, 1)
        try:
            checked_rates(config.kernels.learning_rate)
        except ConfigError as error:
            raise ConfigError(f"{where}: kernels: {error}") from error


def _check_images(name: str, values) -> None:
    for value in values:
        if value in ("full", "all"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f'{name} holds {value!r}, which must be a whole number above 0, or "full".')
