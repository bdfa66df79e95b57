"""Explanation of a forecast: the share of each layer in the kernel, and the deviation of the network from its linearisation after training."""

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
from ntk_select.training.finetuning.trainer import train_fn_of

MAX_PARTS = 12
MAX_IMAGES = 64
"""Number of images from which the explanation is computed, at most."""
FRESH_HEAD = "fresh head"


def some_images(n: int, seed: int) -> Int[np.ndarray, " few"]:
    """Indices of at most `MAX_IMAGES` random images out of n; a batch of moderate size gives nearly the same shares as all images."""
    return np.sort(np.random.default_rng([seed, 3]).permutation(n)[:MAX_IMAGES])


def shares_of_layers(
    network: TrainingNetwork, x: Float[np.ndarray, "n ..."] | NetworkInputs, kernel: TrainingKernel, head: str, *, seed: int = 0
) -> dict[str, float]:
    """Share of each part of the network, including the new head, in the trace of the kernel on at most `MAX_IMAGES` images. Shares sum to 1.

    Parts are the first keys of the parameters' paths (the first two if all first keys are equal); neighbouring parts are merged if there are
    more than `MAX_PARTS`.

    Args:
      network, x, kernel: as for `training_kernel`.
      head: head of the recipe.

    Cost: a forward-mode pass per part.
    """
    if not network.chosen:
        return {FRESH_HEAD: 1.0}
    rows = some_images(len(x), seed)
    paths = [network.names[index].split("/") for index in network.chosen]
    depth = 2 if len({path[0] for path in paths}) == 1 else 1
    keys = ["/".join(path[:depth]) for path in paths]
    parts = [list(map(str, part)) for part in np.array_split(list(dict.fromkeys(keys)), min(MAX_PARTS, len(set(keys))))]
    scale = 1 / (3 * kernel.features.shape[1]) if head == "random" else 0.0
    found = {}
    for part in parts:
        _, change = network.along(x[rows], jax.random.key(seed), [key in part for key in keys])
        found[part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"] = scale * float((np.asarray(change, np.float64) ** 2).sum())
    found[FRESH_HEAD] = float((kernel.features[rows].astype(np.float64) ** 2).sum()) + len(rows)
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}


def nonlinearity_at(
    expert: Expert, x: Float[np.ndarray, "n ..."] | NetworkInputs, labels: Int[np.ndarray, " n"], recipe: Recipe, distance: float, *, seed: int = 0
) -> float:
    """|f - f_lin| / |f_lin - f_0|: deviation from the linearised network at the expected end of training, relative to the change of outputs.

    The weights are moved by `distance` along the negative gradient at the start, and outputs are compared on at most `MAX_IMAGES` images, in the
    batch-norm mode of the recipe. 0: linear; 1: as wrong as no training at all, as for `ntk_select.linearized`'s `Discrepancy.test_outputs`.

    Cost: a gradient, a forward-mode pass and a forward pass.
    """
    rows, classes = some_images(len(x), seed), int(labels.max()) + 1
    images, targets = x[rows], np.eye(classes)[labels[rows]]
    network = with_new_head(expert, classes, head=recipe.head, seed=seed, x=x[:1])
    train_fn, state = train_fn_of(network, recipe.batch_norm), network.state
    program, values = trace(lambda params, images: train_fn({"params": params, **state}, images)[0].logits, network.params, images)
    chosen = select(network.params, None)
    moved, deviation = program.jit(_moved_and_deviation, chosen)(values, jax.tree.leaves(network.params), images, targets, distance)
    return float(deviation / moved) if moved > 0 else 0.0


def _moved_and_deviation(program: Program, chosen: tuple[int, ...], values, leaves, images, targets, distance):
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
