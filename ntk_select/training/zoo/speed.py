"""Training speed of an architecture: estimated in seconds from its operations, or measured by a few training steps of the network itself."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.experts.expert import Expert
from ntk_select.kernels.flops import TRAINING, forward_flops
from ntk_select.training.feeding import SMALL, feed
from ntk_select.training.step import begin, cross_entropy, lowered, make_step, sgd

LONGEST = 5.0
"""Seconds that the steps of one architecture are timed for."""
CALIBRATION = 1.0
"""Seconds that the convolutions of an estimate are timed for."""
BUSY = 0.5
"""Share of the cores that others may use before the machine is called busy."""


class Speed(NamedTuple):
    """Training speed of an architecture on one device.

    Attributes:
      flops: forward, of one image, up to the pre-logits.
      width: number of pre-logits, which a linear head follows.
      images_per_second: in training.
      batch: images per step of the measurement.
      measured: whether steps of this architecture were timed; else the speed is its operations at the rate of `training_rate`.
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


def network_of(expert: Expert) -> Network:
    """The network of an expert that is loaded."""
    return _network(expert, expert.variables)


def abstract_network(make: Callable[[], Expert]) -> Network:
    """The network that `make` would initialise: its variables are shapes, and nothing is computed, compiled or allocated."""
    made = []

    def variables():
        made.append(make())
        return made[0].variables

    shapes = jax.eval_shape(variables)
    return _network(made[0], shapes)


def _network(expert: Expert, variables: Any) -> Network:
    head = expert.head_kernel
    return Network(expert.features_fn or expert.apply_fn, variables, (0, 0) if head is None else head.shape)


def estimated_speed(network: Network, size: int, batch: int, rate: float) -> Speed:
    """Operations of the network for images of `size` pixels, divided by the `rate` of this device. Nothing is compiled.

    Correct within about a factor of two on a CPU: networks reach different shares of the rate.
    """
    flops = forward_flops(network.features_fn, network.variables, jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    width, classes = network.head
    return Speed(flops, width, rate / (TRAINING * (flops + 2 * width * classes)), _batch(batch, size), measured=False)


def training_rate(size: int, batch: int, *, precision: str = "float32") -> float:
    """Operations per second of one device in training convolutions.

    Two 3 x 3 convolutions with batch statistics and ReLU, as in the middle of a residual network for images of `size` pixels, are timed forward
    and backward for a second.
    """
    batch, (pixels, channels) = _batch(batch, size), (16, 32) if size <= SMALL else (28, 128)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, pixels, pixels, channels)).astype(np.float32)
    variables = {"params": list(rng.normal(size=(2, 3, 3, channels, channels)).astype(np.float32))}
    variables, x = lowered(variables, x, precision)
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

    Up to `SMALL` pixels, and on accelerators, the batch is taken as it is; a CPU takes at most eight larger images.
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

    seconds, taken = _timed(one, LONGEST)
    return estimated_speed(network_of(expert), size, batch, 0.0)._replace(images_per_second=taken * batch / seconds, measured=True)


def _batch(batch: int, size: int) -> int:
    return batch if size <= SMALL or jax.default_backend() != "cpu" else min(batch, 8)


def _timed(step: Callable[[], Any], longest: float) -> tuple[float, int]:
    """(seconds, steps): at most twenty steps after one that compiles."""
    jax.block_until_ready(step())
    began, taken = time.perf_counter(), 0
    while taken < 20 and (time.perf_counter() - began < longest or not taken):
        jax.block_until_ready(step())
        taken += 1
    return time.perf_counter() - began, taken


def busy() -> str:
    """A sentence where other work keeps this machine busy, so that measured times are too long; empty where it does not, or nothing is known."""
    try:
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # of systems that do not tell
        return ""
    if load <= BUSY * cores:
        return ""
    return f"This machine is busy (load {load:.1f} on {cores} cores): the hours are too high. Plan again when nothing else runs."
