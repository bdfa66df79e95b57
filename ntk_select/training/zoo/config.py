"""The config file of a zoo, and the experts that it requests."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ntk_select._runtime.configs import Count, Number, Positive, Rate, ShareBelowOne, checked, parse, read_text, record
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.multi_domain import check_sharing
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models import ARCHITECTURES
from ntk_select.tasks.task import Task
from ntk_select.training.augment import AUGMENTATIONS, augmented, automatic
from ntk_select.training.feeding import SMALL
from ntk_select.training.loop import PRECISIONS

LEARNING_RATES = {"scratch": 0.1, "transfer": 0.05}
STARTS = tuple(LEARNING_RATES)
SCHEDULES = ("cosine", "step")


@dataclass(frozen=True)
class SourceConfig:
    """A source data set.

    Args:
      uri: The URI of the task; {data} is replaced by the folder given on the command line.
      epochs: a number, for all starts; or a table with, per start ("scratch", "transfer"), a number or one number per architecture.
      licence: Licence of the images, for the cards.
      augment: a name of `ntk_select.training.augment.AUGMENTATIONS`, "auto" (see `ntk_select.training.augment.automatic`), or options of `augmented`.
      rename: classes that are merged into others.
      images, num_classes: sizes, for a plan without the images.
    """

    uri: str = field(metadata={"example": '"folder:{data}/birds"'})
    epochs: Positive | Mapping[str, Positive | Mapping[str, Positive]] = field(metadata={"example": "20 or { scratch = 20, transfer = 10 }"})
    licence: str = "unknown"
    augment: str | Mapping[str, Any] = field(default="auto", metadata={"example": '"crop" or { shift = 3, flip_horizontal = true }'})
    rename: Mapping[str, str] = field(default_factory=dict, metadata={"example": '{ "old name" = "name of another class" }'})
    images: Count | None = None
    num_classes: Count | None = None

    def augmentation(self, preprocess: Preprocess, task: Task) -> str | Mapping[str, Any]:
        """The value of `augment`, with "auto" resolved for the images of `task`."""
        return automatic(preprocess, task.flips_keep_class) if self.augment == "auto" else self.augment


@dataclass(frozen=True)
class MultiConfig:
    """An expert for many domains.

    Args:
      architecture: Architecture of the network.
      sharing: one of `ntk_select.experts.multi_domain.SHARINGS`.
      epochs, learning_rate: Epochs and learning rate of its training.
      sources: the domains; all sources of the config by default.
      batch_size: images per domain in a step.
      images_per_epoch: Images per domain and epoch, at most. Smaller domains are repeated: all have the same share.
      start: "scratch", or "transfer" from the initial source's expert of this architecture.
    """

    architecture: str
    sharing: str
    epochs: Positive
    learning_rate: Rate
    sources: tuple[str, ...] = ()
    batch_size: Positive = 32
    images_per_epoch: Positive = 100_000
    start: str = "scratch"


@dataclass(frozen=True)
class ZooConfig:
    """A zoo to be trained: every source with every architecture and start, and experts for many domains.

    Args:
      size, resize, mean, std, interpolation: preprocessing of the inputs, as for `Preprocess`.
      architectures: names; empty for multi-domain experts alone.
      sources, multi_domain: Sources and multi-domain experts, by name.
      learning_rate: per start; a number is for all starts.
      initial_source: the source whose experts "transfer" starts from. Required only if something starts so. Default: the first source. Its expert also is
        the common extractor for class means of all sources.
      batch_size, momentum, nesterov, weight_decay: Options of SGD.
      schedule: "cosine" after a linear `warmup` (a share of the steps), or "step": divided by ten after each epoch of `milestones`.
      precision: "float32", or "bfloat16" for activations.
      seed: The seed of all random numbers.
    """

    size: Positive = field(metadata={"example": "32"})
    sources: Mapping[str, SourceConfig] = field(default_factory=dict, metadata={"example": "[sources.NAME]"})
    learning_rate: Rate | Mapping[str, Rate] = field(
        default_factory=lambda: dict(LEARNING_RATES), metadata={"example": "0.1 or { scratch = 0.1, transfer = 0.05 }"}
    )
    initial_source: str = ""
    architectures: tuple[str, ...] = ()
    multi_domain: Mapping[str, MultiConfig] = field(default_factory=dict, metadata={"example": "[multi_domain.NAME]"})
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: Count | None = None
    interpolation: str = "bilinear"
    batch_size: Positive = 64
    momentum: ShareBelowOne = 0.9
    nesterov: bool = True
    weight_decay: Number = 1e-4
    schedule: str = "cosine"
    warmup: ShareBelowOne = 0.0
    milestones: tuple[Count, ...] = ()
    precision: str = "float32"
    seed: Count = 0

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of the zoo's inputs."""
        return Preprocess(self.size, self.mean, self.std, self.resize, self.interpolation)


def read_config(path: str | Path) -> ZooConfig:
    """The config in a TOML file.

    Raises:
      ConfigError: it cannot be read, a field is missing, unknown, of another type or out of range, or a name is unknown.
    """
    path = Path(path).expanduser()
    config = record(ZooConfig, parse(read_text(path), path), str(path))
    try:
        config = _for_all_starts(config)
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _for_all_starts(config: ZooConfig) -> ZooConfig:
    """The same config with an initial source, and with epochs and rates per start."""
    if not config.sources:
        raise ConfigError('there is no source. Try: [sources.NAME], below it uri = "folder:{data}/birds" and epochs = 20')
    initial, rates = config.initial_source, config.learning_rate
    begun = [f"sources.{name}" for name, source in config.sources.items() if isinstance(source.epochs, dict) and "transfer" in source.epochs]
    begun += [f"multi_domain.{name}" for name, multi in config.multi_domain.items() if multi.start == "transfer"]
    if begun and not initial:
        raise ConfigError(
            f"the field 'initial_source' is missing: {', '.join(begun)} starts from its expert (\"transfer\"). Try: initial_source = the name of a source"
        )

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


def _check(config: ZooConfig) -> None:
    """Raises ConfigError for what the type of a field does not tell."""

    def one_of(name: str, value, allowed) -> None:
        if value not in allowed:
            raise ConfigError(f"{name} = {value!r} is unknown.{did_you_mean(value, allowed)}")

    try:
        preprocess = config.preprocess
    except (TypeError, ValueError, OverflowError) as error:  # ConfigError is a ValueError
        raise ConfigError(str(error)) from error
    one_of("schedule", config.schedule, SCHEDULES)
    one_of("precision", config.precision, PRECISIONS)
    one_of("initial_source", config.initial_source, config.sources)
    if not config.architectures and not config.multi_domain:
        raise ConfigError('architectures is empty: there is nothing to train. Try: architectures = ["resnet_small"]')
    for start in config.learning_rate:
        one_of("a start in learning_rate", start, STARTS)
    for name, source in config.sources.items():
        for start, epochs in source.epochs.items():
            one_of(f"a start in sources.{name}.epochs", start, config.learning_rate)
            for architecture in config.architectures if isinstance(epochs, dict) else ():
                if architecture not in epochs:
                    raise ConfigError(f"sources.{name}.epochs.{start} has no number for the architecture {architecture!r}.")
        _check_augment(source.augment, preprocess, f"sources.{name}.augment")
    for name, multi in config.multi_domain.items():
        if name in config.sources:
            raise ConfigError(f"{name!r} is the name of a source and of a multi-domain expert. Try: another name for one of them")
        try:
            check_sharing(multi.sharing)
        except ConfigError as error:
            raise ConfigError(f"multi_domain.{name}: {error}") from error
        one_of(f"multi_domain.{name}.start", multi.start, STARTS)
        for source in multi.sources:
            one_of(f"a source of multi_domain.{name}", source, config.sources)


def _check_augment(augment: str | Mapping[str, Any], preprocess: Preprocess, name: str) -> None:
    if isinstance(augment, str):
        if augment not in ("auto", *AUGMENTATIONS):
            raise ConfigError(f"{name} = {augment!r} is unknown.{did_you_mean(augment, ('auto', *AUGMENTATIONS))}")
        return
    options = {key: each.annotation for key, each in inspect.signature(augmented).parameters.items() if each.kind is each.KEYWORD_ONLY}
    for key, value in augment.items():
        if key not in options:
            raise ConfigError(f"{name}: {key!r} is unknown.{did_you_mean(key, options)}")
        checked({int: Count, float: Number}.get(options[key], options[key]), value, f"{name}: {key}")
    if preprocess.size > SMALL:
        raise ConfigError(f"{name}: options are for at most {SMALL} pixels. Above, name one of {', '.join(AUGMENTATIONS)}.")


@dataclass(frozen=True)
class SingleMember:
    """An expert of one source, to be trained."""

    name: str
    architecture: str
    source: str
    start: str
    epochs: int
    learning_rate: float
    initialised_from: str | None

    @property
    def sources(self) -> tuple[str, ...]:
        """Data sets that it is trained on."""
        return (self.source,)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the cards that a trained expert has."""
        return ("card.json",)


@dataclass(frozen=True)
class MultiMember:
    """An expert of many domains, to be trained."""

    name: str
    config: MultiConfig
    sources: tuple[str, ...]
    initialised_from: str | None

    @property
    def architecture(self) -> str:
        """Of the network."""
        return self.config.architecture

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the cards that a trained expert has."""
        return tuple(f"card@{source}.json" for source in self.sources)


Member = SingleMember | MultiMember


def members(config: ZooConfig) -> list[Member]:
    """All experts of the config, those that others start from first."""
    first, found = config.initial_source, []
    for source in sorted(config.sources, key=lambda name: name != first):
        for architecture in config.architectures:
            for start, epochs in sorted(config.sources[source].epochs.items(), key=lambda item: item[0] == "transfer"):
                parent = f"{first}-{architecture}" if start == "transfer" else None
                name = f"{source}-{architecture}" + (f"-from-{first}" if parent else "")
                epochs = epochs[architecture] if isinstance(epochs, dict) else epochs
                found.append(SingleMember(name, architecture, source, start, epochs, config.learning_rate[start], parent))
    for name, multi in config.multi_domain.items():
        parent = f"{first}-{multi.architecture}" if multi.start == "transfer" else None
        found.append(MultiMember(f"{name}-{multi.architecture}", multi, multi.sources or tuple(config.sources), parent))
    return found


def chosen(config: ZooConfig, only: str = "") -> list[Member]:
    """The experts whose name contains `only`.

    Raises:
      ConfigError: there is none, or an architecture is unknown.
    """
    everybody = members(config)
    wanted = [member for member in everybody if only in member.name]
    if not wanted:
        raise ConfigError(f"No expert's name contains {only!r}. Available: {', '.join(member.name for member in everybody)}.")
    for member in wanted:
        if member.architecture not in ARCHITECTURES:
            raise ConfigError(f"The architecture {member.architecture!r} is unknown.{did_you_mean(member.architecture, ARCHITECTURES)}")
    return wanted
