"""The config file of a zoo."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ntk_select._runtime.toml_records import KINDS, check_tables, read_toml, record, table_of_tables
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.multi_domain import check_sharing
from ntk_select.experts.preprocess import Preprocess
from ntk_select.tasks.task import Task
from ntk_select.training.augment import AUGMENTATIONS, augmented, automatic
from ntk_select.training.feeding import SMALL
from ntk_select.training.step import PRECISIONS

LEARNING_RATES = {"scratch": 0.1, "transfer": 0.05}
STARTS = tuple(LEARNING_RATES)
SCHEDULES = ("cosine", "step")


@dataclass(frozen=True)
class SourceConfig:
    """A source data set.

    Args:
      uri: of the task; {data} stands for the folder given on the command line.
      epochs: a number, for all starts; or of each start ("scratch", "transfer") a number, or one for each architecture.
      licence: of the images, for the cards.
      augment: a name of `ntk_select.training.augment.AUGMENTATIONS`, "auto" (see `ntk_select.training.augment.automatic`), or options of `augmented`.
      rename: classes joined to others.
      images, num_classes: for a plan where the images are not at hand.
    """

    uri: str = field(metadata={"as": '"folder:{data}/birds"'})
    epochs: int | Mapping[str, Any] = field(metadata={"as": "20 or { scratch = 20, transfer = 10 }"})
    licence: str = "unknown"
    augment: str | Mapping[str, Any] = field(default="auto", metadata={"as": '"crop" or { shift = 3, flip_horizontal = true }'})
    rename: Mapping[str, str] = field(default_factory=dict, metadata={"as": '{ "old name" = "name of another class" }'})
    images: int | None = None
    num_classes: int | None = None

    def augmentation(self, preprocess: Preprocess, task: Task) -> str | Mapping[str, Any]:
        """What `augment` stands for, of the images of `task`."""
        return automatic(preprocess, task.flips_keep_class) if self.augment == "auto" else self.augment


@dataclass(frozen=True)
class MultiConfig:
    """An expert for many domains.

    Args:
      architecture: of the network.
      sharing: one of `ntk_select.experts.multi_domain.SHARINGS`.
      epochs, learning_rate: of its training.
      sources: the domains; all of the config by default.
      batch_size: images of each domain in a step.
      images_per_epoch: of each domain, at most; smaller ones begin again, so that each has the same share.
      start: "scratch", or "transfer" from the initial source's expert of this architecture.
    """

    architecture: str
    sharing: str
    epochs: int
    learning_rate: float
    sources: tuple[str, ...] = ()
    batch_size: int = 32
    images_per_epoch: int = 100_000
    start: str = "scratch"


@dataclass(frozen=True)
class ZooConfig:
    """A zoo to be trained: every source with every architecture and start, and experts for many domains.

    Args:
      size, resize, mean, std, interpolation: how inputs are made, as for `Preprocess`.
      architectures: names; empty for multi-domain experts alone.
      sources, multi_domain: by name.
      learning_rate: of each start; a number is for all.
      initial_source: whose expert "transfer" starts from. Where none starts so it need not be given, and is the first source, by whose expert
        class means of all sources are compared.
      batch_size, momentum, nesterov, weight_decay: of SGD.
      schedule: "cosine" after a linear `warmup` (a share of the steps), or "step": divided by ten after each epoch of `milestones`.
      precision: "float32", or "bfloat16" for activations.
      seed: of everything.
    """

    size: int = field(metadata={"as": "32"})
    sources: Mapping[str, SourceConfig]
    learning_rate: float | Mapping[str, float] = field(
        default_factory=lambda: dict(LEARNING_RATES), metadata={"as": "0.1 or { scratch = 0.1, transfer = 0.05 }"}
    )
    initial_source: str = ""
    architectures: tuple[str, ...] = ()
    multi_domain: Mapping[str, MultiConfig] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: int | None = None
    interpolation: str = "bilinear"
    batch_size: int = 64
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    milestones: tuple[int, ...] = ()
    precision: str = "float32"
    seed: int = 0

    @property
    def preprocess(self) -> Preprocess:
        """How the zoo's inputs are made."""
        return Preprocess(self.size, self.mean, self.std, self.resize, self.interpolation)


def read_config(path: str | Path) -> ZooConfig:
    """The config in a TOML file.

    Raises:
      ConfigError: it cannot be read, a field is missing, unknown, of another type or out of range, or a name means nothing.
    """
    path = Path(path).expanduser()
    found = read_toml(path)
    single = {name: (SourceConfig, entry, f"{path}, [sources.{name}]") for name, entry in table_of_tables(found, "sources", path).items()}
    multi = {name: (MultiConfig, entry, f"{path}, [multi_domain.{name}]") for name, entry in table_of_tables(found, "multi_domain", path).items()}
    own = {**found, "sources": {}, "multi_domain": {}}
    check_tables([(ZooConfig, own, str(path)), *single.values(), *multi.values()])
    if not single:
        raise ConfigError(f'{path}: there is no source. Add one: [sources.NAME], below it uri = "folder:{{data}}/birds" and epochs = 20')
    sources, domains = ({name: record(*table) for name, table in tables.items()} for tables in (single, multi))
    config = _for_all_starts(record(ZooConfig, own | {"sources": sources, "multi_domain": domains}, str(path)), str(path))
    _check(config, str(path))
    return config


def _for_all_starts(config: ZooConfig, where: str) -> ZooConfig:
    """The same with the initial source, and epochs and rates of every start."""
    initial, rates = config.initial_source, config.learning_rate
    begun = [f"sources.{name}" for name, source in config.sources.items() if isinstance(source.epochs, dict) and "transfer" in source.epochs]
    begun += [f"multi_domain.{name}" for name, multi in config.multi_domain.items() if multi.start == "transfer"]
    if begun and not initial:
        raise ConfigError(f"{where}: the field 'initial_source' is missing: {', '.join(begun)} starts from its expert (\"transfer\"). Name a source.")

    def starts(name: str) -> tuple[str, ...]:
        return STARTS if initial and name != initial else STARTS[:1]

    return replace(
        config,
        initial_source=initial or next(iter(config.sources)),
        learning_rate=LEARNING_RATES | rates if isinstance(rates, dict) else dict.fromkeys(STARTS, rates),
        sources={
            name: source if isinstance(source.epochs, dict) else replace(source, epochs=dict.fromkeys(starts(name), source.epochs))
            for name, source in config.sources.items()
        },
    )


def _check(config: ZooConfig, where: str) -> None:
    def one_of(name: str, value, allowed) -> None:
        if value not in allowed:
            raise ConfigError(f"{where}: {name} = {value!r} is unknown.{did_you_mean(str(value), allowed)}")

    def positive(name: str, value) -> None:
        if not value > 0:
            raise ConfigError(f"{where}: {name} = {value!r} must be above 0.")

    try:
        preprocess = config.preprocess
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from error
    one_of("schedule", config.schedule, SCHEDULES)
    one_of("precision", config.precision, PRECISIONS)
    one_of("initial_source", config.initial_source, config.sources)
    positive("batch_size", config.batch_size)
    if not config.architectures and not config.multi_domain:
        raise ConfigError(f'{where}: architectures is empty: there is nothing to train. Name some, as in architectures = ["resnet_small"]')
    if not 0 <= config.warmup < 1 or not 0 <= config.momentum < 1:
        raise ConfigError(f"{where}: warmup = {config.warmup} and momentum = {config.momentum} must lie from 0 to below 1.")
    for start, rate in config.learning_rate.items():
        one_of("a start in learning_rate", start, STARTS)
        positive(f"learning_rate.{start}", rate)
    for name, source in config.sources.items():
        for start, epochs in source.epochs.items():
            one_of(f"a start in sources.{name}.epochs", start, config.learning_rate)
            for each in epochs.values() if isinstance(epochs, dict) else [epochs]:
                if not KINDS["int"][0](each) or not each:
                    raise ConfigError(f"{where}: sources.{name}.epochs.{start} = {each!r} must be a whole number above 0.")
            for architecture in config.architectures if isinstance(epochs, dict) else ():
                if architecture not in epochs:
                    raise ConfigError(f"{where}: sources.{name}.epochs.{start} says nothing of the architecture {architecture!r}.")
        _check_augment(source.augment, preprocess, f"{where}: sources.{name}.augment")
    for name, multi in config.multi_domain.items():
        if name in config.sources:
            raise ConfigError(f"{where}: {name!r} is the name of a source and of a multi-domain expert. Rename one.")
        try:
            check_sharing(multi.sharing)
        except ConfigError as error:
            raise ConfigError(f"{where}: multi_domain.{name}: {error}") from error
        one_of(f"multi_domain.{name}.start", multi.start, STARTS)
        for source in multi.sources:
            one_of(f"a source of multi_domain.{name}", source, config.sources)
        for key in ("epochs", "learning_rate", "batch_size", "images_per_epoch"):
            positive(f"multi_domain.{name}.{key}", getattr(multi, key))


def _check_augment(augment, preprocess: Preprocess, where: str) -> None:
    if isinstance(augment, str):
        if augment not in ("auto", *AUGMENTATIONS):
            raise ConfigError(f"{where} = {augment!r} is unknown.{did_you_mean(augment, ('auto', *AUGMENTATIONS))}")
        return
    known = {name: each.annotation.__name__ for name, each in inspect.signature(augmented).parameters.items() if each.kind is each.KEYWORD_ONLY}
    for key, value in augment.items():
        if key not in known:
            raise ConfigError(f"{where}: {key!r} is unknown.{did_you_mean(key, known)}")
        check, words = KINDS[known[key]]
        if not check(value):
            raise ConfigError(f"{where}: {key} = {value!r} must be {words}.")
    if preprocess.size > SMALL:
        raise ConfigError(f"{where}: options are for at most {SMALL} pixels. Above, name one of {', '.join(AUGMENTATIONS)}.")
