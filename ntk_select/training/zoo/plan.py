"""The work of training a zoo, and the training speed of an architecture, before anything is trained.

The speed is estimated in seconds from the operations of the network, or measured with a few training steps.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select._runtime.host import cores
from ntk_select.experts.expert import Expert
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.flops import TRAINING, forward_flops
from ntk_select.training.feeding import SMALL, feed
from ntk_select.training.loop import begin, cast, cross_entropy, make_step, sgd
from ntk_select.training.zoo.config import ZooConfig
from ntk_select.training.zoo.members import Member, SingleMember, chosen
from ntk_select.training.zoo.run import load_source
from ntk_select.training.zoo.single import abstract_expert, fresh_member

MAX_TIMING = 5.0
"""Seconds of timing the training steps of one architecture."""
CALIBRATION = 1.0
"""Seconds of timing the convolutions of an estimate."""
BUSY = 0.5
"""Share of the cores in use above which the machine counts as busy."""


class Speed(NamedTuple):
    """Training speed of an architecture on one device.

    Attributes:
      flops: operations of one image forward, up to the pre-logits.
      width: number of pre-logits, the input of the linear head.
      images_per_second: images per second in training.
      batch: images per step of the measurement.
      measured: whether steps of this architecture were timed; otherwise the speed is estimated from `training_rate`.
    """

    flops: float
    width: int
    images_per_second: float
    batch: int
    measured: bool = True


class Network(NamedTuple):
    """Shapes of a network, from which its operations are counted: a features function, its variables, and the shape of its head, (0, 0) for none."""

    features_fn: Callable[..., Any]
    variables: Any
    head: tuple[int, int]


@dataclass(frozen=True)
class Work:
    """The training of one expert.

    Args:
      name, architecture: name and architecture of the expert.
      images: images seen in all epochs.
      epochs, steps: epochs and steps of its training.
      flops: operations of convolutions and matrix products, forward and backward, without adapters.
      images_per_second: speed of this architecture's training step on one device of this machine, estimated or measured, without reading images and without
        the evaluation at the end.
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
        """Hours on one device such as this machine's."""
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

    Operations are counted from the shapes of each architecture, and the speed of this device is measured by one second of convolutions on noise.
    Hours are correct within about a factor of two.

    Args:
      config, data, only: arguments of `train_zoo`. Images are only read if the config does not give their number.
      measure: whether to time a few training steps of each architecture instead. They are compiled first: minutes for a deep network on a CPU.
      progress: called with (architectures done, architectures, name).

    Raises:
      ConfigError: no expert's name contains `only`, an architecture is unknown, or the size of a source is not in the config and cannot be read without `data`.
      TaskError, DataError: such a source cannot be read.
    """
    wanted = chosen(config, only)
    sizes = {name: _size(config, name, data) for name in dict.fromkeys(s for member in wanted for s in member.sources)}
    most_classes = max(classes for _, classes in sizes.values())
    experts = {member.architecture: (partial(fresh_member, config, member, most_classes, seed=""), config.preprocess) for member in wanted}
    found = speeds(experts, config.batch_size, precision=config.precision, measure=measure, progress=progress)
    return [_work(config, member, sizes, found[member.architecture]) for member in wanted]


def _size(config: ZooConfig, name: str, data: str | Path | None) -> tuple[int, int]:
    """(images, classes) of a source."""
    source = config.sources[name]
    if source.images and source.num_classes:
        return source.images, source.num_classes
    task = load_source(config, name, data, None)
    return len(task.labels), task.num_classes


def _work(config: ZooConfig, member: Member, sizes: dict[str, tuple[int, int]], measured: Speed) -> Work:
    if isinstance(member, SingleMember):
        batches = [min(config.batch_size, sizes[member.source][0])]
        epochs, steps = member.epochs, sizes[member.source][0] // batches[0]
    else:
        wanted, epochs = member.config, member.config.epochs
        batches = [min(wanted.batch_size, sizes[source][0]) for source in member.sources]
        steps = max(1, *(min(sizes[s][0], wanted.images_per_epoch) // batch for s, batch in zip(member.sources, batches, strict=True)))
    images, flops = epochs * steps * sum(batches), 0.0
    for source, batch in zip(member.sources, batches, strict=True):
        flops += TRAINING * epochs * steps * batch * (measured.flops + 2 * measured.width * sizes[source][1])
    return Work(
        member.name, member.architecture, images, epochs, epochs * steps, flops, measured.images_per_second, measured.batch, measured.measured
    )


def speeds(
    experts: Mapping[str, tuple[Callable[[], Expert], Preprocess | None]],
    batch: int,
    *,
    precision: str,
    measure: bool,
    progress: Callable[[int, int, str], None] | None,
) -> dict[str, Speed]:
    """The training speed of each architecture.

    Args:
      experts: pairs by architecture: a function that loads an expert, and None; or one that would initialise it, which is avoided, and its preprocessing.
      batch: images per step.
      precision: precision as for `training_rate`.
      measure: whether to time training steps instead of estimating the speed from the operations.
      progress: called with (architectures done, architectures, name).
    """
    found: dict[str, Speed] = {}
    rates: dict[int, float] = {}  # by pixels
    for done, (architecture, (make, preprocess)) in enumerate(experts.items()):
        if progress is not None:
            progress(done, len(experts), architecture)
        if measure:
            expert = make()
            found[architecture] = measured_speed(expert, batch, network_of(expert).head[1] or 2, precision=precision)
            continue
        if preprocess is not None:
            network = network_of(abstract_expert(make))
        else:
            expert = make()
            network, preprocess = network_of(expert), expert.preprocess
        if preprocess.size not in rates:
            rates[preprocess.size] = training_rate(preprocess.size, batch, precision=precision)
        found[architecture] = estimated_speed(network, preprocess.size, batch, rates[preprocess.size])
    return found


def network_of(expert: Expert) -> Network:
    """The network of an expert, which may be abstract (`abstract_expert`)."""
    head = expert.head_kernel
    return Network(expert.features_fn or expert.apply_fn, expert.variables, (0, 0) if head is None else head.shape)


def estimated_speed(network: Network, size: int, batch: int, rate: float) -> Speed:
    """Speed of a network for images of `size` pixels: the `rate` of this device divided by the operations per image. Nothing is compiled.

    Correct within about a factor of two on a CPU: networks reach different shares of the rate.
    """
    flops = forward_flops(network.features_fn, network.variables, jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    width, classes = network.head
    return Speed(flops, width, rate / (TRAINING * (flops + 2 * width * classes)), _batch(batch, size), measured=False)


def training_rate(size: int, batch: int, *, precision: str = "float32") -> float:
    """Operations per second of one device in training convolutions.

    Times two 3 x 3 convolutions with batch statistics and ReLU, as in the middle of a residual network for images of `size` pixels, forward and
    backward, for one second.
    """
    batch, (pixels, channels) = _batch(batch, size), (16, 32) if size <= SMALL else (28, 128)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, pixels, pixels, channels)).astype(np.float32)
    variables = {"params": list(rng.normal(size=(2, 3, 3, channels, channels)).astype(np.float32))}
    variables, x = cast(variables, x, precision)
    step = jax.jit(jax.grad(_convolutions, argnums=(0, 1)))
    seconds, taken = _timed(lambda: step(variables, x), CALIBRATION)
    return TRAINING * forward_flops(_convolutions, variables, x) * taken / seconds


def _convolutions(variables, x):
    for kernel in variables["params"]:
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu((x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5))
    return (x.astype(jnp.float32) ** 2).mean()


def measured_speed(expert: Expert, batch: int, num_classes: int, *, precision: str = "float32") -> Speed:
    """Speed of a few training steps of an expert with a head for `num_classes`, on noise. Compiling them takes minutes for a deep network on a CPU.

    A CPU gets at most eight images above `SMALL` pixels per step; otherwise the batch is `batch`.
    """
    size = expert.preprocess.size
    batch = _batch(batch, size)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (batch, size, size, 3), np.uint8), rng.integers(0, num_classes, batch)
    prepare = feed(images[:2], labels[:2], expert.preprocess, "crop_flip", 1).prepare
    optimizer = sgd(0.9, 1e-4, nesterov=True)
    step = make_step(cross_entropy(expert.train_fn, prepare, precision=precision), optimizer)
    state, key = begin(expert.variables, optimizer), jax.random.key(0)

    def one():
        nonlocal state
        state, _ = step(state, (images, labels), key, 0.0)
        return state

    seconds, taken = _timed(one, MAX_TIMING)
    return estimated_speed(network_of(expert), size, batch, 0.0)._replace(images_per_second=taken * batch / seconds, measured=True)


def _batch(batch: int, size: int) -> int:
    return batch if size <= SMALL or jax.default_backend() != "cpu" else min(batch, 8)


def _timed(step: Callable[[], Any], longest: float) -> tuple[float, int]:
    """(seconds, steps) of at most twenty steps, after one that compiles."""
    jax.block_until_ready(step())
    began, taken = time.perf_counter(), 0
    while taken < 20 and (time.perf_counter() - began < longest or not taken):
        jax.block_until_ready(step())
        taken += 1
    return time.perf_counter() - began, taken


def busy() -> str:
    """A warning if other programs keep this machine busy: measured times are then too long. Otherwise, or if nothing is known, an empty string."""
    try:
        load, available = os.getloadavg()[0], cores()
    except (AttributeError, OSError):  # not known on this system
        return ""
    if load <= BUSY * available:
        return ""
    return f"This machine is busy (load {load:.1f} on {available} cores): the hours are too high. Try: plan again when nothing else runs"
