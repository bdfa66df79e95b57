"""The kernel of a network in training mode, estimated from random directions in parameter space.

With batch norm in training mode, the outputs for one image depend on the whole batch through its statistics: single images have no
gradient of their own. The derivative of all pre-logits of a batch along one direction of the parameters is still a forward-mode pass. The trace
of the kernel over the d pre-logits is the mean over random signs w of J(x) w . J(x') w. Each direction averages over d pre-logits:
few directions suffice.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select._runtime.checks import check_count
from ntk_select._runtime.host import cores
from ntk_select._runtime.memory import is_out_of_memory, reason_of
from ntk_select.errors import ConfigError, MemoryShrunkWarning, ModelError, not_finite
from ntk_select.experts.expert import Expert
from ntk_select.experts.headless import without_head
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.experts.new_head import with_new_head
from ntk_select.kernels.directions import directions_for
from ntk_select.kernels.engine.arguments import leaf_names, select
from ntk_select.kernels.engine.program import Program, outputs_of, trace, value_of
from ntk_select.training.finetuning.recipe import BATCH_NORMS
from ntk_select.training.finetuning.trainer import train_fn_of

PIXELS = 256 * 224**2
"""Pixels per pass: 256 images of 224 x 224."""
RESIDUALS = 2**29
"""Bytes of intermediate results up to which a network is linearised once for all directions."""
SMALL = 64**2
"""Pixels per image up to which one pass does not use all cores of a CPU; several directions are then computed at the same time."""


class TrainingKernel(NamedTuple):
    """Pre-logits of a network and their kernel, from which its training with a new head is simulated.

    Attributes:
      features: pre-logits in the batch-norm mode of training.
      backbone: trace over the d pre-logits of their kernel with respect to the parameters of the backbone.
      directions: number of random directions from which `backbone` is estimated.
    """

    features: Float[np.ndarray, "n d"]
    backbone: Float[np.ndarray, "n n"]
    directions: int

    def with_head(self, head: str = "random") -> Float[np.ndarray, "n n"]:
        """The kernel of each output in expectation over a new head: the backbone's contribution plus the head's own.

        Args:
          head: as for `with_new_head`. "random": weights of variance 1 / 3d; "zero": the backbone has no gradient at the start.
        """
        own = self.features @ self.features.T + 1
        return own + self.backbone / (3 * self.features.shape[1]) if head == "random" else own


def training_kernel(
    expert: Expert,
    x: Float[np.ndarray, "n ..."] | NetworkInputs,
    *,
    batch_norm: str = "train",
    directions: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> TrainingKernel:
    """The kernel of an expert's pre-logits with respect to all parameters below its head.

    Args:
      expert: expert with `features_fn`; with batch norm also `train_fn`, unless batch_norm="frozen".
      x: n network inputs, for training and held out.
      batch_norm: mode of batch norm. "train": with the statistics of the batch, which depend on the weights; "frozen": with the expert's running
        statistics.
      directions: number of random directions; `directions_for(d)` if None.
      seed: seed of the directions.
      progress: called with (directions done, all, what).

    Returns:
      A `TrainingKernel`; `backbone` is an unbiased estimate, of rank at most d times `directions`.

    Raises:
      ConfigError: an option is not allowed, or memory does not suffice for a single image.
      ModelError: the expert has no pre-logits, a state but no `train_fn`, no forward-mode derivatives, or NaN outputs.

    Cost: `directions` forward-mode passes, each as expensive as two forward passes where the intermediate results of the network fit into
    `RESIDUALS` bytes, and as three otherwise. No per-image gradients are stored.
    """
    if batch_norm not in BATCH_NORMS:
        raise ConfigError(f"batch_norm={batch_norm!r} is unknown. Allowed: {', '.join(BATCH_NORMS)}.")
    if directions is not None:
        check_count("directions", directions, 1)
    check_count("seed", seed, 0)
    x = x if isinstance(x, NetworkInputs) else np.asarray(x)
    network = TrainingNetwork(expert, x, batch_norm)
    portions = min(-(-math.prod(x.shape[:-1]) // PIXELS), len(x))
    wanted = (directions or directions_for(network.width)) if network.chosen else 1
    while True:
        try:
            return _estimated(network, x, portions, wanted, seed, progress)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if portions >= len(x):
                raise ConfigError(f"Memory ran out with a single image in the network ({reason_of(error)}). Try: end other programs") from error
            portions = min(2 * portions, len(x))
            warnings.warn(
                f"Memory ran out ({reason_of(error)}). The kernel of {expert.name!r} is computed again in {portions} portions.",
                MemoryShrunkWarning,
                stacklevel=2,
            )


class TrainingNetwork:
    """An expert's pre-logits in training mode as a function of the backbone's parameters.

    Experts of one architecture share compiled programs, whatever their heads.

    Args:
      expert, x, batch_norm: as for `training_kernel`.

    Attributes:
      width: d, the number of pre-logits.
      names: "/"-joined paths of the parameters, in the order of `leaves`.
      chosen: indices of the trained ones.
    """

    def __init__(self, expert: Expert, x, batch_norm: str):
        network = with_new_head(without_head(expert), 1, head="zero", x=x[:1])
        train_fn = train_fn_of(network, batch_norm)
        features = _PreLogits(train_fn) if train_fn is network.train_fn else _FrozenPreLogits(network.features_fn)
        backbone, rest = network.params["backbone"], {"head": network.params["head"], "state": dict(network.state)}
        # What a function captures and does not need, such as the old head, is no part of its program.
        captured = value_of(features) is None
        self._features = (lambda backbone, images: features(backbone, rest, images)) if captured else features
        self._arguments = (backbone,) if captured else (backbone, rest)
        self.name, self.leaves, self.names = expert.name, jax.tree.leaves(self._arguments), leaf_names(backbone)
        self.chosen = select(backbone, None) if self.names else ()
        self.width = jax.eval_shape(self._features, *self._arguments, jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))).shape[1]
        self._programs: dict[tuple, tuple[Program, tuple]] = {}

    def along(self, images, key: jax.Array, mask: Sequence[bool] | None = None) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Pre-logits of a batch, and their derivative along random signs of the parameters.

        Args:
          images: one batch.
          key: random key of the signs.
          mask: whether each chosen leaf is moved; all if None.
        """
        program, values = self._program(images)
        with self._explained():
            return program.jit(_derivative, self.chosen)(values, self.leaves, images, self._signs(key), _moved(self.chosen, mask))

    def at(self, images) -> Callable[[jax.Array], tuple[Float[Array, "n d"], Float[Array, "n d"]]]:
        """`along` of one batch as a function of the key. The network is linearised once if what is kept for that fits into `RESIDUALS` bytes."""
        program, values = self._program(images)
        linearize = program.jit(_linearized, self.chosen)
        with self._explained():
            _, kept = jax.eval_shape(linearize, values, self.leaves, images)
            if sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) > RESIDUALS:
                return lambda key: self.along(images, key)
            features, push = linearize(values, self.leaves, images)

        def along(key):
            with self._explained():
                return features, _pushed(push, [self.leaves[index] for index in self.chosen], self._signs(key))

        return along

    def _program(self, images) -> tuple[Program, tuple]:
        if images.shape not in self._programs:
            self._programs[images.shape] = trace(self._features, *self._arguments, images)
        return self._programs[images.shape]

    def _signs(self, key: jax.Array) -> list[jax.Array]:
        """Random signs for each chosen leaf, more than it has numbers: one program draws those of all leaves of similar size."""
        return [_signs(key, index, max(64, 4 ** math.ceil(math.log(np.size(self.leaves[index]), 4)))) for index in self.chosen]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise ModelError(
                f"Expert {self.name!r} uses a function that has a reverse-mode rule only (jax.custom_vjp), so it has no forward-mode derivative. "
                "Try: give that function a jax.custom_jvp rule"
            ) from error


@dataclass(frozen=True)
class _PreLogits:
    """Pre-logits in training mode. Compared by value: experts with equal functions are traced once."""

    train_fn: Callable

    def __call__(self, backbone, rest, images):
        return self.train_fn(_variables(backbone, rest), images)[0].features


@dataclass(frozen=True)
class _FrozenPreLogits:
    """Pre-logits in evaluation mode, as `_PreLogits`."""

    features_fn: Callable

    def __call__(self, backbone, rest, images):
        return self.features_fn(_variables(backbone, rest), images)


def _variables(backbone, rest):
    return {"params": {"backbone": backbone, "head": rest["head"]}, **rest["state"]}


def of_chosen(program: Program, chosen: tuple[int, ...], values, leaves, images) -> tuple[Callable[[list], Array], list[Array]]:
    """The program's output as a function of the chosen leaves alone, and their values."""

    def output(moved):
        given = list(leaves)
        for index, leaf in zip(chosen, moved, strict=True):
            given[index] = leaf
        return outputs_of(program, values, [*given, images])[0]

    return output, [jnp.asarray(leaves[index]) for index in chosen]


@partial(jax.jit, static_argnums=2)
def _signs(key, index, size: int):
    return jax.random.rademacher(jax.random.fold_in(key, index), (size,), jnp.int8)


def _moved(chosen: tuple[int, ...], mask: Sequence[bool] | None) -> np.ndarray:
    return np.ones(len(chosen), np.float32) if mask is None else np.asarray(mask, np.float32)


def _in_shape_of(picked, signs, moved=None):
    """The signs in the shapes and types of the leaves; zero for those that are not moved."""
    shaped = [sign[: leaf.size].reshape(leaf.shape).astype(leaf.dtype) for leaf, sign in zip(picked, signs, strict=True)]
    return shaped if moved is None else [sign * moved[place].astype(sign.dtype) for place, sign in enumerate(shaped)]


def _derivative(program: Program, chosen: tuple[int, ...], values, leaves, images, signs, moved):
    features, picked = of_chosen(program, chosen, values, leaves, images)
    with jax.default_matmul_precision("highest"):
        return jax.jvp(features, (picked,), (_in_shape_of(picked, signs, moved),))


def _linearized(program: Program, chosen: tuple[int, ...], values, leaves, images):
    features, picked = of_chosen(program, chosen, values, leaves, images)
    with jax.default_matmul_precision("highest"):
        return jax.linearize(features, picked)


@jax.jit
def _pushed(push, picked, signs):
    with jax.default_matmul_precision("highest"):
        return push(_in_shape_of(picked, signs))


@jax.jit
def _added(total, change):
    with jax.default_matmul_precision("highest"):
        return total + change @ change.T


def _estimated(network: TrainingNetwork, x, portions: int, directions: int, seed: int, progress) -> TrainingKernel:
    order = np.random.default_rng(seed).permutation(len(x)) if portions > 1 else np.arange(len(x))
    parts, back = np.array_split(order, portions), np.argsort(order)
    features, total = None, None
    for direction, found in enumerate(_in_threads(network, x, parts, directions, seed)):
        if progress is not None:
            progress(direction + 1, directions, f"kernel of {network.name}")
        change = jnp.concatenate([change for _, change in found])[back]
        if features is None:
            features = np.asarray(jnp.concatenate([own for own, _ in found])[back])
            total = jnp.zeros((len(x), len(x)), change.dtype)
        total = _added(total, change)
    kernel = np.asarray(total) / directions
    if not (np.isfinite(features).all() and np.isfinite(kernel).all()):
        raise ModelError(not_finite(f"Pre-logits of expert {network.name!r} in training, or their derivatives, contain"))
    return TrainingKernel(features, kernel, directions)


def _in_threads(network: TrainingNetwork, x, parts: list, directions: int, seed: int) -> Iterator[list]:
    """Results of `along` for each direction, in order."""

    device = jax.config.jax_default_device  # a thread-local setting

    def one(direction: int) -> list:
        with jax.default_device(device):
            key = jax.random.fold_in(jax.random.key(seed), direction)
            return jax.block_until_ready([derivative(key) for derivative in derivatives])

    # Of several portions, only one at a time is in memory.
    derivatives = [network.at(x[parts[0]])] if len(parts) == 1 else [lambda key, part=part: network.along(x[part], key) for part in parts]
    if getattr(device, "platform", jax.default_backend()) != "cpu" or math.prod(x.shape[1:-1]) > SMALL:
        yield from map(one, range(directions))
        return
    with ThreadPoolExecutor(min(cores(), 4)) as pool:
        yield from pool.map(one, range(directions))
