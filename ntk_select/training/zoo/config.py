"""The config of a zoo: its sources, networks, experts and schedules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ntk_select._runtime.configs import Count, Number, Positive, Rate, ShareBelowOne
from ntk_select.experts.preprocess import Preprocess
from ntk_select.tasks.task import Task
from ntk_select.training.augment import automatic

LEARNING_RATES = {"scratch": 0.1, "transfer": 0.05}
STARTS = tuple(LEARNING_RATES)
SCHEDULES = ("cosine", "step")


@dataclass(frozen=True)
class SourceConfig:
    """A source data set.

    Args:
      uri: the URI of the task; {data} is replaced by the folder given on the command line.
      epochs: a number, for all starts; or a table with, per start ("scratch", "transfer"), a number or one number per architecture. Without it only
        the experts that are listed one by one (`ExpertConfig`), and the multi-domain ones, are trained on this source.
      classes: patterns of class names, as in "Greek_*"; all by default.
      licence: licence of the images, for the cards.
      augment: a name of `ntk_select.training.augment.AUGMENTATIONS`, "auto" (see `ntk_select.training.augment.automatic`), or options of `augmented`.
      rename: classes that are merged into others.
      images, num_classes: sizes, for a plan without the images.
    """

    uri: str = field(metadata={"example": '"folder:{data}/birds"'})
    epochs: Positive | Mapping[str, Positive | Mapping[str, Positive]] = field(
        default_factory=dict, metadata={"example": "20 or { scratch = 20, transfer = 10 }"}
    )
    classes: tuple[str, ...] = ()
    licence: str = "unknown"
    augment: str | Mapping[str, Any] = field(default="auto", metadata={"example": '"crop" or { shift = 3, flip_horizontal = true }'})
    rename: Mapping[str, str] = field(default_factory=dict, metadata={"example": '{ "old name" = "name of another class" }'})
    images: Count | None = None
    num_classes: Count | None = None

    def augmentation(self, preprocess: Preprocess, task: Task) -> str | Mapping[str, Any]:
        """The value of `augment`, with "auto" resolved for the images of `task`."""
        return automatic(preprocess, task.flips_keep_class) if self.augment == "auto" else self.augment


@dataclass(frozen=True)
class ExpertConfig:
    """An expert that is listed by itself.

    Args:
      source: a source of the config.
      architecture: one of the networks of the config, or of the architectures of the package.
      epochs: epochs of its training.
      start: "scratch", or the name of the expert that it starts from: one of this config with the same network, or a built-in one.
      learning_rate: by default the config's, for "scratch" or "transfer".
    """

    source: str
    architecture: str
    epochs: Positive
    start: str = "scratch"
    learning_rate: Rate | None = None


@dataclass(frozen=True)
class MultiConfig:
    """An expert for many domains.

    Args:
      architecture: architecture of the network.
      sharing: one of `ntk_select.experts.multi_domain.SHARINGS`.
      epochs, learning_rate: epochs and learning rate of its training.
      sources: the domains; all sources of the config by default.
      batch_size: images per domain in a step.
      images_per_epoch: images per domain and epoch, at most. Smaller domains are repeated: all have the same share.
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
    """A zoo to be trained: every source with every architecture and start, experts that are listed one by one, and experts for many domains.

    Args:
      size, resize, mean, std, interpolation: preprocessing of the inputs, as for `Preprocess`.
      architectures: names; empty for listed and multi-domain experts alone.
      networks: networks of this zoo, by name: an architecture of the package and its settings, as in { architecture = "resnet18", widths = [16, 32, 64] }.
        A name may be that of an architecture only for settings of this architecture.
      sources, experts, multi_domain: sources, listed experts and multi-domain experts, by name.
      learning_rate: per start; a number is for all starts.
      initial_source: the source whose experts "transfer" starts from. Required only if something starts so. Default: the first source.
      extractor: the expert of one source with whose features the class means of all sources are also computed, for scores that compare sources. It is
        trained first. Default: the initial source's, of the first architecture.
      batch_size, momentum, nesterov, weight_decay: options of SGD.
      schedule: "cosine" after a linear `warmup` (a share of the steps), or "step": divided by ten after each epoch of `milestones`.
      precision: "float32", or "bfloat16" for activations.
      seed: the seed of all random numbers.
    """

    size: Positive = field(metadata={"example": "32"})
    sources: Mapping[str, SourceConfig] = field(default_factory=dict, metadata={"example": "[sources.NAME]"})
    learning_rate: Rate | Mapping[str, Rate] = field(
        default_factory=lambda: dict(LEARNING_RATES), metadata={"example": "0.1 or { scratch = 0.1, transfer = 0.05 }"}
    )
    initial_source: str = ""
    extractor: str = ""
    architectures: tuple[str, ...] = ()
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata={"example": "[networks.NAME]"})
    experts: Mapping[str, ExpertConfig] = field(default_factory=dict, metadata={"example": "[experts.NAME]"})
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

    def network(self, name: str) -> tuple[str, dict[str, Any]]:
        """Architecture and settings of a network of `networks`; any other name is an architecture without settings."""
        settings = dict(self.networks.get(name, {"architecture": name}))
        return settings.pop("architecture"), settings
