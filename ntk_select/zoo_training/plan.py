"""How much work is a zoo, before any of it is begun?"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ntk_select.expert import Expert
from ntk_select.feeding import SMALL, feed
from ntk_select.flops import TRAINING, forward_flops
from ntk_select.plugins import builtin
from ntk_select.training import begin, cross_entropy, make_step, sgd

from .config import ZooConfig
from .members import SingleMember, chosen
from .sources import load_source

LONGEST = 5.0
"""Seconds that the speed of an architecture is measured for."""


@dataclass(frozen=True)
class Work:
    """The training of one expert.

    Args:
      name, architecture: of the expert.
      images: seen in all epochs.
      epochs, steps: of its training.
      flops: of convolutions and matrix products, forward and backward; those of adapters are not in it.
      images_per_second: of this architecture's training step on one device of this machine; neither reading images nor the passes of evaluation
        at the end are in it.
      measured_batch: of that measurement.
    """

    name: str
    architecture: str
    images: int
    epochs: int
    steps: int
    flops: float
    images_per_second: float
    measured_batch: int

    @property
    def hours(self) -> float:
        """Of one device such as this machine's."""
        return self.images / self.images_per_second / 3600


def plan(
    config: ZooConfig,
    *,
    data: str | Path | None = None,
    only: str = "",
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Work]:
    """The work of every expert of the config. Nothing is trained or written; a few steps on noise are timed for each architecture.

    Args:
      config, data, only: as for `train_zoo`. Images are only looked at where the config does not say how many there are.
      progress: called with (architectures measured, architectures, name).

    Raises:
      ConfigError: no expert's name contains `only`, an architecture is unknown, or the config does not say how large a source is and it cannot be read without `data`.
      TaskError, DataError: such a source cannot be read.
    """
    wanted = chosen(config, only)
    sizes = {name: _size(config, name, data) for name in dict.fromkeys(s for member in wanted for s in _sources(member))}
    architectures, measured = list(dict.fromkeys(member.architecture for member in wanted)), {}
    for done, architecture in enumerate(architectures):
        if progress is not None:
            progress(done, len(architectures), architecture)
        measured[architecture] = speed(config, architecture, max(classes for _, classes in sizes.values()))
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


def _work(config: ZooConfig, member, sizes, measured: "Speed") -> Work:
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
    return Work(member.name, member.architecture, images, epochs, epochs * steps, flops, measured.images_per_second, measured.batch)


class Speed(NamedTuple):
    """Of the training of an architecture on one device.

    Attributes:
      flops: of one image's way to the pre-logits.
      width: number of pre-logits, which a linear head follows.
      images_per_second, batch: of the measurement.
    """

    flops: float
    width: int
    images_per_second: float
    batch: int


def speed(config: ZooConfig, architecture: str, num_classes: int) -> Speed:
    """Measured by a few steps on noise.

    Up to `SMALL` pixels, and on accelerators, the config's batch is taken; a CPU gets eight images at most.
    """
    expert = builtin("fresh_expert")(architecture, architecture, num_classes=num_classes, preprocess=config.preprocess)
    return speed_of(expert, config.batch_size, num_classes, precision=config.precision)


def speed_of(expert: Expert, batch: int, num_classes: int, *, precision: str = "float32") -> Speed:
    """As `speed`, of an expert with a head for so many classes; a CPU takes eight images at most where they are large."""
    size = expert.preprocess.size
    batch = batch if size <= SMALL or jax.default_backend() != "cpu" else min(batch, 8)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (batch, size, size, 3), np.uint8), rng.integers(0, num_classes, batch)
    prepare = feed(images[:2], labels[:2], expert.preprocess, "crop_flip", 1).prepare
    optimizer = sgd(0.9, 1e-4, nesterov=True)
    step = make_step(cross_entropy(expert.train_fn, prepare, precision=precision), optimizer)
    state, key = begin(expert.variables, optimizer), jax.random.key(0)
    state, _ = jax.block_until_ready(step(state, (images, labels), key, 0.0))  # compiles
    began, taken = time.perf_counter(), 0
    while taken < 20 and (time.perf_counter() - began < LONGEST or not taken):
        state, _ = jax.block_until_ready(step(state, (images, labels), key, 0.0))
        taken += 1
    seconds = time.perf_counter() - began
    one = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    return Speed(forward_flops(expert.features_fn, expert.variables, one), expert.head_kernel.shape[0], taken * batch / seconds, batch)
