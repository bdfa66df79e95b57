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
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.experts.new_head import with_new_head
from ntk_select.kernels.directions import directions_for
from ntk_select.kernels.engine.arguments import leaf_names, select
from ntk_select.kernels.engine.program import Program, outputs_of, trace
from ntk_select.training.finetuning.recipe import BATCH_NORMS
from ntk_select.training.finetuning.trainer import train_fn_of

PIXELS = 256 * 224**2
"""Pixels per pass: 256 images of 224 x 224."""
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
      batch_norm: mode of batch norm. "train": with the statistics of the batch, which depend on the weights; "frozen": with the expert's running statistics.
      directions: number of random directions; `directions_for(d)` if None.
      seed: seed of the directions.
      progress: called with (directions done, all, what).

    Returns:
      A `TrainingKernel`; `backbone` is an unbiased estimate, of rank at most d times `directions`.

    Raises:
      ConfigError: an option is not allowed, or memory does not suffice for a single image.
      ModelError: the expert has no pre-logits, a state but no `train_fn`, no forward-mode derivatives, or NaN outputs.

    Cost: `directions` forward-mode passes, each as expensive as two to three forward passes. No per-image gradients are stored.
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
        network = with_new_head(expert, 1, head="zero", x=x[:1])
        train_fn, head, state = train_fn_of(network, batch_norm), network.params["head"], network.state
        frozen = train_fn is not network.train_fn

        def features(backbone, images):
            variables = {"params": {"backbone": backbone, "head": head}, **state}
            return network.features_fn(variables, images) if frozen else train_fn(variables, images)[0].features

        self.name, self._features, self._backbone = expert.name, features, network.params["backbone"]
        self.leaves, self.names = jax.tree.leaves(self._backbone), leaf_names(self._backbone)
        self.chosen = select(self._backbone, None) if self.leaves else ()
        self.width = jax.eval_shape(features, self._backbone, jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))).shape[1]
        self._programs: dict[tuple, tuple[Program, tuple]] = {}

    def along(self, images, key: jax.Array, mask: Sequence[bool] | None = None) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Pre-logits of a batch, and their derivative along random signs of the parameters.

        Args:
          images: one batch.
          key: random key of the signs.
          mask: whether each chosen leaf is moved; all if None.
        """
        if images.shape not in self._programs:
            self._programs[images.shape] = trace(self._features, self._backbone, images)
        program, values = self._programs[images.shape]
        moved = np.ones(len(self.chosen)) if mask is None else np.asarray(mask, np.float64)
        try:
            return program.jit(_derivative, self.chosen)(values, self.leaves, images, key, moved)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise ModelError(
                f"Expert {self.name!r} uses a function that has a reverse-mode rule only (jax.custom_vjp), so it has no forward-mode derivative. "
                "Try: give that function a jax.custom_jvp rule"
            ) from error


def of_chosen(program: Program, chosen: tuple[int, ...], values, leaves, images) -> tuple[Callable[[list], Array], list[Array]]:
    """The program's output as a function of the chosen leaves alone, and their values."""

    def output(moved):
        given = list(leaves)
        for index, leaf in zip(chosen, moved, strict=True):
            given[index] = leaf
        return outputs_of(program, values, [*given, images])[0]

    return output, [jnp.asarray(leaves[index]) for index in chosen]


def _derivative(program: Program, chosen: tuple[int, ...], values, leaves, images, key, moved):
    features, picked = of_chosen(program, chosen, values, leaves, images)
    signs = [
        jax.random.rademacher(jax.random.fold_in(key, index), leaf.shape, leaf.dtype) * moved[position].astype(leaf.dtype)
        for position, (index, leaf) in enumerate(zip(chosen, picked, strict=True))
    ]
    with jax.default_matmul_precision("highest"):
        return jax.jvp(features, (picked,), (signs,))


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
            return jax.block_until_ready([network.along(x[part], key) for part in parts])

    yield one(0)  # compiles
    if getattr(device, "platform", jax.default_backend()) != "cpu" or math.prod(x.shape[1:-1]) > SMALL:
        yield from map(one, range(1, directions))
        return
    with ThreadPoolExecutor(min(cores(), 4)) as pool:
        yield from pool.map(one, range(1, directions))
