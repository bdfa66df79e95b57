"""Explanation of a forecast: the kernel's shares by layer, and the network's distance from its linearisation after training."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntk_select.experts.expert import Expert
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.experts.new_head import with_new_head
from ntk_select.forecasting.kernel import TrainingKernel, TrainingNetwork, of_chosen
from ntk_select.kernels.engine.arguments import select
from ntk_select.kernels.engine.program import Program, trace
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.finetuning.run import train_fn_of

MOST_LAYERS = 12
LOOKED_AT = 64
"""Images on which a network is explained."""
FRESH_HEAD = "fresh head"


def some_images(n: int, seed: int) -> Int[np.ndarray, " few"]:
    """Places of at most `LOOKED_AT` of n images, drawn at random: a batch of moderate size serves as well as all of them."""
    return np.sort(np.random.default_rng([seed, 3]).permutation(n)[:LOOKED_AT])


def shares_of_layers(
    network: TrainingNetwork, x: Float[np.ndarray, "n ..."] | NetworkInputs, kernel: TrainingKernel, head: str, *, seed: int = 0
) -> dict[str, float]:
    """The share of the kernel's trace that comes from the parameters of each part of the network, the fresh head among them.

    Parts are the first keys of the paths of the parameters (the second where all begin alike); where there are more than `MOST_LAYERS`,
    neighbours are taken together. The shares add up to 1, and are of `LOOKED_AT` images at most.

    Args:
      network, x, kernel: of `training_kernel`.
      head: of the recipe.

    Cost: a forward-mode pass for each part.
    """
    if not network.chosen:
        return {FRESH_HEAD: 1.0}
    rows = some_images(len(x), seed)
    paths = [network.names[index].split("/") for index in network.chosen]
    depth = 2 if len({path[0] for path in paths}) == 1 else 1
    keys = ["/".join(path[:depth]) for path in paths]
    parts = [list(map(str, part)) for part in np.array_split(list(dict.fromkeys(keys)), min(MOST_LAYERS, len(set(keys))))]
    scale = 1 / (3 * kernel.features.shape[1]) if head == "random" else 0.0
    found = {}
    for part in parts:
        _, change = network.along(x[rows], jax.random.key(seed), [key in part for key in keys])
        found[part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"] = scale * float((np.asarray(change, np.float64) ** 2).sum())
    found[FRESH_HEAD] = float((kernel.features[rows].astype(np.float64) ** 2).sum()) + len(rows)
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}


def linearity(
    expert: Expert, x: Float[np.ndarray, "n ..."] | NetworkInputs, labels: Int[np.ndarray, " n"], recipe: Recipe, distance: float, *, seed: int = 0
) -> float:
    """How far the network is from its linearisation where training is expected to end, relative to how far its outputs move.

    The weights move by `distance` against the first gradient; there |f - f_lin| / |f_lin - f_0| over the outputs of some images, in the mode in
    which the recipe trains. It is the measure of `ntk_select.linearized`'s `Discrepancy.test_outputs` at one point: 0 is linear, 1 is as wrong as
    no training at all.

    Cost: on `LOOKED_AT` images at most, a gradient, a forward-mode pass and a forward pass.
    """
    rows, classes = some_images(len(x), seed), int(labels.max()) + 1
    images, targets = x[rows], np.eye(classes)[labels[rows]]
    network = with_new_head(expert, classes, head=recipe.head, seed=seed, x=x[:1])
    train_fn, state = train_fn_of(network, recipe.batch_norm), network.state
    program, values = trace(lambda params, images: train_fn({"params": params, **state}, images)[0].logits, network.params, images)
    chosen = select(network.params, None)
    moved, off = program.jit(_apart, chosen)(values, jax.tree.leaves(network.params), images, targets, distance)
    return float(off / moved) if moved > 0 else 0.0


def _apart(program: Program, chosen: tuple[int, ...], values, leaves, images, targets, distance):
    outputs, picked = of_chosen(program, chosen, values, leaves, images)

    def norm(parts):
        return jnp.sqrt(sum(jnp.square(part.astype(jnp.promote_types(part.dtype, jnp.float32))).sum() for part in parts))

    with jax.default_matmul_precision("highest"):
        gradient = jax.grad(lambda moved: -(jax.nn.log_softmax(outputs(moved)) * targets).sum() / len(targets))(picked)
        scale = -distance / jnp.maximum(norm(gradient), 1e-30)
        step = [(scale * part).astype(part.dtype) for part in gradient]
        first, change = jax.jvp(outputs, (picked,), (step,))
        there = outputs([leaf + part for leaf, part in zip(picked, step, strict=True)])
        return norm([change]), norm([there - first - change])
