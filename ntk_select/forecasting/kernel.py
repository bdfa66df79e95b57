"""The kernel of a network as its training sees it, estimated from random directions in the space of its parameters.

With batch norm in training mode the outputs for one image depend on the weights through the statistics of the batch as well. No image has a
gradient of its own then, but the derivative of all pre-logits of a batch along a direction of the parameters is one forward-mode pass. The
kernel's trace over the d pre-logits is the mean, over random signs w, of J(x) w . J(x') w; each direction averages over d pre-logits, so that
few are enough.
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
from ntk_select._runtime.out_of_memory import MemoryShrunkWarning, in_words, is_out_of_memory
from ntk_select.errors import ConfigError, ModelError, not_finite
from ntk_select.experts.expert import Expert
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.experts.new_head import with_new_head
from ntk_select.kernels.engine.arguments import leaf_names, select
from ntk_select.kernels.engine.program import Program, outputs_of, trace
from ntk_select.training.finetuning.finetune import cores
from ntk_select.training.finetuning.recipe import BATCH_NORMS
from ntk_select.training.finetuning.run import train_fn_of

LEAST_DIRECTIONS, MOST_DIRECTIONS = 2, 16
DERIVATIVES = 4096
"""Pre-logits times directions that are enough: wide networks average over many pre-logits."""
PIXELS = 256 * 224**2
"""Of the images that pass together; 256 of 224 pixels."""
SMALL = 64**2
"""Pixels of an image up to which a pass leaves cores of a CPU idle, so that several directions pass at the same time."""


class TrainingKernel(NamedTuple):
    """What the linearised training of a network with a fresh head needs to know of it.

    Attributes:
      features: pre-logits, as training sees them.
      backbone: trace over the d pre-logits of their kernel in the parameters of the backbone.
      directions: behind `backbone`.
    """

    features: Float[np.ndarray, "n d"]
    backbone: Float[np.ndarray, "n n"]
    directions: int

    def with_head(self, head: str = "random") -> Float[np.ndarray, "n n"]:
        """The kernel of each output, in expectation over a fresh head: of the backbone under the head, plus the head's own.

        Args:
          head: of `with_new_head`: "random" has weights of variance 1 / 3d, under "zero" the backbone does not move at the start.
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
    """The kernel of an expert's pre-logits in all parameters below its head.

    Args:
      expert: with `features_fn`; of one with batch norm also `train_fn`, unless batch_norm="frozen".
      x: n network inputs, those that are trained on and those that are held out.
      batch_norm: "train": with the statistics of the batch, which depend on the weights; "frozen": with the expert's own.
      directions: random directions; as `directions_for` says if None.
      seed: of the directions.
      progress: called with (directions done, all, what).

    Returns:
      A `TrainingKernel`; `backbone` is an unbiased estimate of rank d times `directions` at most.

    Raises:
      ConfigError: an option that is not allowed, or memory for not one image.
      ModelError: no pre-logits, no `train_fn` though there is a state, a network without forward-mode derivatives, or NaN.

    Cost: `directions` forward-mode passes, each two to three forward passes; nothing of the size of n gradients is held.
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
                raise ConfigError(f"Memory ran out with a single image in the network ({in_words(error)}). End other programs.") from error
            portions = min(2 * portions, len(x))
            warnings.warn(
                f"Memory ran out ({in_words(error)}). The kernel of {expert.name!r} is begun again in {portions} portions.",
                MemoryShrunkWarning,
                stacklevel=2,
            )


def directions_for(width: int) -> int:
    """As many random directions as are taken where none are asked for, for so many pre-logits."""
    return min(max(LEAST_DIRECTIONS, DERIVATIVES // width), MOST_DIRECTIONS)


class TrainingNetwork:
    """An expert's pre-logits as training sees them, as a function of the backbone's parameters.

    Experts of one architecture share what is compiled, whatever head they had.

    Args:
      expert, x, batch_norm: as for `training_kernel`.

    Attributes:
      width: d, the number of pre-logits.
      names: "/"-joined paths of the parameters, in the order of `leaves`.
      chosen: places of those that are trained.
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
        self.width = jax.eval_shape(features, self._backbone, jax.ShapeDtypeStruct(x.shape, x.dtype)).shape[1]
        self._programs: dict[tuple, tuple[Program, tuple]] = {}

    def along(self, images, key: jax.Array, among: Sequence[bool] | None = None) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Pre-logits, and their derivative along random signs of the parameters.

        Args:
          images: of one batch.
          key: of the signs.
          among: for each chosen leaf whether it is moved; all if None.
        """
        if images.shape not in self._programs:
            self._programs[images.shape] = trace(self._features, self._backbone, images)
        program, values = self._programs[images.shape]
        moved = np.ones(len(self.chosen)) if among is None else np.asarray(among, np.float64)
        try:
            return program.jit(_derivative, self.chosen)(values, self.leaves, images, key, moved)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise ModelError(
                f"Expert {self.name!r} uses a function with a reverse rule only (jax.custom_vjp), so that it cannot be differentiated along a "
                "direction. Give that function a jax.custom_jvp rule."
            ) from error


def of_chosen(program: Program, chosen: tuple[int, ...], values, leaves, images) -> tuple[Callable[[list], Array], list[Array]]:
    """The program's output as a function of the chosen leaves alone, and where these are now."""

    def output(moved):
        given = list(leaves)
        for index, leaf in zip(chosen, moved, strict=True):
            given[index] = leaf
        return outputs_of(program, values, [*given, images])[0]

    return output, [jnp.asarray(leaves[index]) for index in chosen]


def _derivative(program: Program, chosen: tuple[int, ...], values, leaves, images, key, moved):
    features, picked = of_chosen(program, chosen, values, leaves, images)
    signs = [
        jax.random.rademacher(jax.random.fold_in(key, index), leaf.shape, leaf.dtype) * moved[place].astype(leaf.dtype)
        for place, (index, leaf) in enumerate(zip(chosen, picked, strict=True))
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
        raise ModelError(not_finite(f"Pre-logits of expert {network.name!r} in training, or their derivatives, hold"))
    return TrainingKernel(features, kernel, directions)


def _in_threads(network: TrainingNetwork, x, parts: list, directions: int, seed: int) -> Iterator[list]:
    """What `along` gives for each direction, in their order."""

    device = jax.config.jax_default_device  # of this thread; others do not know it

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
