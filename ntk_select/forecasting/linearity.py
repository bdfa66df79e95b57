"""Where does the kernel come from, and is the network linear as far as the training is expected to move it?"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntk_select.expert import Expert
from ntk_select.finetuning.recipe import Recipe
from ntk_select.finetuning.run import train_fn_of
from ntk_select.forecasting.kernel import TrainingKernel, TrainingNetwork
from ntk_select.new_head import with_new_head

MOST_LAYERS = 12
TRUSTED = 0.5
"""Nonlinearity up to which a forecast is called linear."""


def shares_of_layers(
    network: TrainingNetwork, x: Float[np.ndarray, "n ..."], kernel: TrainingKernel, head: str, *, seed: int = 0
) -> dict[str, float]:
    """The share of the kernel's trace that comes from the parameters of each part of the network, the fresh head among them.

    Parts are the first keys of the paths of the parameters, or less than that where there are more than `MOST_LAYERS`: neighbours are taken
    together. The shares add up to 1.

    Args:
      network, x, kernel: of `training_kernel`.
      head: of the recipe.

    Cost: a forward-mode pass for each part.
    """
    paths = [network.names[index].split("/") for index in network.chosen]
    depth = 2 if len({path[0] for path in paths}) == 1 else 1
    keys = ["/".join(path[:depth]) for path in paths]
    parts = np.array_split(np.array(list(dict.fromkeys(keys))), min(MOST_LAYERS, len(set(keys))))
    traces = []
    for part in parts:
        _, change = network.along(x, jax.random.key(seed), [key in set(part) for key in keys])
        traces.append(float((np.asarray(change, np.float64) ** 2).sum()))
    own = float((kernel.features.astype(np.float64) ** 2).sum()) + len(x)
    scale = 1 / (3 * kernel.features.shape[1]) if head == "random" else 0.0
    found = {part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}": scale * trace for part, trace in zip(parts, traces, strict=True)}
    found["head"] = own
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}


def linearity(
    expert: Expert, x: Float[np.ndarray, "n ..."], labels: Int[np.ndarray, " n"], recipe: Recipe, distance: float, *, seed: int = 0
) -> float:
    """How far the network is from its linearisation where training is expected to end, relative to how far its outputs move.

    The weights move by `distance` against the first gradient; there |f - f_lin| / |f_lin - f_0| over the outputs of all images, in the mode in
    which the recipe trains. It is the measure of `ntk_select.linearized`'s `Discrepancy.test_outputs` at one point: 0 is linear, 1 is as wrong as
    no training at all.

    Cost: a gradient, a forward-mode pass and a forward pass.
    """
    network = with_new_head(expert, int(labels.max()) + 1, seed=seed, x=x[:1])
    train_fn, state = train_fn_of(network, recipe.batch_norm), network.state
    targets = np.eye(int(labels.max()) + 1)[labels]
    moved, off = _apart(train_fn, network.params, state, x, targets, distance)
    return float(off / moved) if moved > 0 else 0.0


@partial(jax.jit, static_argnums=0)
def _apart(train_fn, params, state, x, targets, distance):
    def outputs(params):
        return train_fn({"params": params, **state}, x)[0].logits

    def norm(tree):
        return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))

    with jax.default_matmul_precision("highest"):
        gradient = jax.grad(lambda params: -(jax.nn.log_softmax(outputs(params)) * targets).sum() / len(targets))(params)
        scale = -distance / jnp.maximum(norm(gradient), 1e-30)
        step = jax.tree.map(lambda leaf: scale * leaf, gradient)
        first, change = jax.jvp(outputs, (params,), (step,))
        return norm(change), norm(outputs(jax.tree.map(jnp.add, params, step)) - first - change)
