"""The work of training a zoo, before any of it is begun."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ntk_select.kernels.flops import TRAINING
from ntk_select.models import fresh_expert

from .config import ZooConfig
from .members import SingleMember, chosen
from .sources import load_source
from .speed import Speed, abstract_network, estimated_speed, measured_speed, training_rate


@dataclass(frozen=True)
class Work:
    """The training of one expert.

    Args:
      name, architecture: of the expert.
      images: seen in all epochs.
      epochs, steps: of its training.
      flops: of convolutions and matrix products, forward and backward; those of adapters are not in it.
      images_per_second: of this architecture's training step on one device of this machine, estimated or measured; neither reading images nor the
        passes of evaluation at the end are in it.
      measured_batch: images per step of that measurement.
      measured: whether steps of this architecture were timed.
    """

    name: str
    architecture: str
    images: int
    epochs: int
    steps: int
    flops: float
    images_per_second: float
    measured_batch: int
    measured: bool = False

    @property
    def hours(self) -> float:
        """Of one device such as this machine's."""
        return self.images / self.images_per_second / 3600


def plan(
    config: ZooConfig,
    *,
    data: str | Path | None = None,
    only: str = "",
    measure: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Work]:
    """The work of every expert of the config. Nothing is trained or written.

    Operations are counted from the shapes of each architecture; one second of convolutions on noise says how fast this device is. Hours are
    correct within about a factor of two.

    Args:
      config, data, only: as for `train_zoo`. Images are only looked at where the config does not say how many there are.
      measure: whether to time a few training steps of each architecture instead. They are compiled first: minutes for a deep network on a CPU.
      progress: called with (architectures done, architectures, name).

    Raises:
      ConfigError: no expert's name contains `only`, an architecture is unknown, or the config does not say how large a source is and it cannot be read without `data`.
      TaskError, DataError: such a source cannot be read.
    """
    wanted = chosen(config, only)
    sizes = {name: _size(config, name, data) for name in dict.fromkeys(s for member in wanted for s in _sources(member))}
    architectures, measured = list(dict.fromkeys(member.architecture for member in wanted)), {}
    rate = None if measure else training_rate(config.preprocess.size, config.batch_size, precision=config.precision)
    for done, architecture in enumerate(architectures):
        if progress is not None:
            progress(done, len(architectures), architecture)
        measured[architecture] = speed(config, architecture, max(classes for _, classes in sizes.values()), rate)
    return [_work(config, member, sizes, measured[member.architecture]) for member in wanted]


def _sources(member) -> tuple[str, ...]:
    return (member.source,) if isinstance(member, SingleMember) else member.sources


def _size(config: ZooConfig, name: str, data) -> tuple[int, int]:
    """(images, classes) of a source."""
    source = config.sources[name]
    if source.images and source.num_classes:
        return source.images, source.num_classes
    task = load_source(config, name, data, None)
    return len(task.labels), task.num_classes


def _work(config: ZooConfig, member, sizes, measured: Speed) -> Work:
    if isinstance(member, SingleMember):
        batches = [min(config.batch_size, sizes[member.source][0])]
        epochs, steps = member.epochs, sizes[member.source][0] // batches[0]
    else:
        wanted, epochs = member.config, member.config.epochs
        batches = [min(wanted.batch_size, sizes[source][0]) for source in member.sources]
        steps = max(1, *(min(sizes[s][0], wanted.images_per_epoch) // batch for s, batch in zip(member.sources, batches, strict=True)))
    images, flops = epochs * steps * sum(batches), 0.0
    for source, batch in zip(_sources(member), batches, strict=True):
        flops += TRAINING * epochs * steps * batch * (measured.flops + 2 * measured.width * sizes[source][1])
    return Work(
        member.name, member.architecture, images, epochs, epochs * steps, flops, measured.images_per_second, measured.batch, measured.measured
    )


def speed(config: ZooConfig, architecture: str, num_classes: int, rate: float | None) -> Speed:
    """Of an architecture: estimated from the `rate` of this device, or measured where that is None."""

    def fresh():
        return fresh_expert(architecture, architecture, num_classes=num_classes, preprocess=config.preprocess)

    if rate is None:
        return measured_speed(fresh(), config.batch_size, num_classes, precision=config.precision)
    return estimated_speed(abstract_network(fresh), config.preprocess.size, config.batch_size, rate)
