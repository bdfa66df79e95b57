"""The training of a recipe, followed in the span of the gradients: mini-batch SGD on cross-entropy with a kernel in the place of the network.

A linearised network's weights are w_0 + J' a, and SGD with momentum and weight decay does to the coefficients a what it does to the weights
(Proposition 1 for the recipe that is used in practice). Only the rows of the kernel that belong to the batch are needed in a step.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ntk_select.linearized.problem import AnyArray
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.step import epoch_of, stepwise


class Batches(NamedTuple):
    """The batches of several trainings with equally many steps.

    Attributes:
      rows: (trainings, epochs, steps, size) places of the examples; a smaller batch is filled up with place 0.
      weights: share of each example in the mean loss of its batch; 0 for what fills up.
    """

    rows: Int[np.ndarray, "q e s b"]
    weights: Float[np.ndarray, "q e s b"]


class Course(NamedTuple):
    """What becomes of the outputs under training, for each of r learning rates and q trainings.

    Attributes:
      log_likelihoods: of the true class of every example after each epoch, in nats.
      right: whether the largest output is that of the true class.
      losses: mean training loss of each epoch, as training sees it.
      distances: |w - w_0| after the last epoch.
      outputs: after the last epoch; None where they were not asked for.
    """

    log_likelihoods: Float[np.ndarray, "r q e n"]
    right: Bool[np.ndarray, "r q e n"]
    losses: Float[np.ndarray, "r q e"]
    distances: Float[np.ndarray, "r q"]
    outputs: Float[np.ndarray, "r q n c"] | None


def draw_batches(chosen: Sequence[Int[np.ndarray, "..."]], recipe: Recipe, images: int, seed: int) -> Batches:
    """Random batches of a recipe, as a fine-tuning on `images` images takes them.

    Args:
      chosen: places of the training examples of each training. Where they are fewer than `images`, an epoch goes through them again.
      images: of the fine-tuning; they decide how many steps an epoch has, and how large its last batch is.
      seed: of the order.
    """
    size = min(recipe.batch_size, images)
    seen, steps = epoch_of(images, size, True)
    rows = np.zeros((len(chosen), recipe.epochs, steps * size), np.int32)
    for training, places in enumerate(chosen):
        for epoch in range(recipe.epochs):
            rng = np.random.default_rng([seed, training, epoch])
            rows[training, epoch, :seen] = np.concatenate([rng.permutation(places) for _ in range(-(-seen // len(places)))])[:seen]
    counts = np.full(steps, size)
    counts[-1] -= steps * size - seen
    weights = (np.arange(size) < counts[:, None]) / counts[:, None]
    shape = (len(chosen), recipe.epochs, steps, size)
    return Batches(rows.reshape(shape), np.broadcast_to(weights, shape))


def simulate(
    kernel: Float[AnyArray, "n n"] | Float[AnyArray, "n n c c"],
    labels: Int[np.ndarray, " n"],
    batches: Batches,
    learning_rates: tuple[float, ...],
    recipe: Recipe,
    *,
    start: Float[AnyArray, "n c"] | None = None,
    classes: int | None = None,
    outputs: bool = True,
) -> Course:
    """Trains the linearised network by a recipe, once for each learning rate and set of batches.

    Args:
      kernel: of all examples, those for training and those held out; one for all outputs (n, n), or (n, n, c, c).
      labels: class ids 0 .. c - 1.
      batches: which examples are trained on, step by step.
      learning_rates: of the first epochs.
      recipe: epochs, milestones, momentum and weight decay (towards the start).
      start: outputs of the network before training; zero if None.
      outputs: keep the outputs themselves.
      classes: c; by default as many as `labels` name.

    Returns:
      A `Course`, in the type of the kernel. What overflows is infinite or NaN.

    Cost: per step n c b products, b the size of a batch (n c^2 b with an (n, n, c, c) kernel), and n^2 c per epoch.
    """
    kernel = jnp.asarray(kernel)
    classes = int(labels.max()) + 1 if classes is None else classes
    targets = jnp.asarray(np.eye(classes)[labels], kernel.dtype)
    start = jnp.zeros_like(targets) if start is None else jnp.asarray(start, kernel.dtype)
    epochs, steps = batches.rows.shape[1:3]
    rates = np.stack([stepwise(rate, epochs, steps, recipe.decays) for rate in learning_rates]).astype(kernel.dtype)
    settings = np.array([recipe.momentum, recipe.weight_decay], kernel.dtype)
    found = _courses(kernel, targets, start, batches.rows, batches.weights.astype(kernel.dtype), rates, settings, recipe.nesterov, outputs)
    return Course(*(None if part is None else np.asarray(part) for part in found))


@partial(jax.jit, static_argnums=(7, 8))
def _courses(kernel, targets, start, rows, weights, rates, settings, nesterov: bool, keep: bool):
    momentum, weight_decay = settings
    with jax.default_matmul_precision("highest"):

        def outputs_at(places, a):
            return start[places] + _product(kernel[places], a)

        def step(state, batch):
            a, velocity = state
            places, share, rate = batch
            outputs, wanted = outputs_at(places, a), targets[places]
            loss = -(wanted * jax.nn.log_softmax(outputs)).sum(axis=1) @ share
            gradient = (weight_decay * a).at[places].add((jax.nn.softmax(outputs) - wanted) * share[:, None])
            velocity = momentum * velocity + gradient
            return (a - rate * (gradient + momentum * velocity if nesterov else velocity), velocity), loss

        def epoch(state, batches):
            state, losses = jax.lax.scan(step, state, batches)
            outputs = start + _product(kernel, state[0])
            likelihoods = (targets * jax.nn.log_softmax(outputs)).sum(axis=1)
            right = (outputs.argmax(axis=1) == targets.argmax(axis=1)) & jnp.isfinite(outputs).all(axis=1)
            return state, (likelihoods, right, losses.mean())

        def one(rate, rows, weights):
            (a, _), (likelihoods, right, losses) = jax.lax.scan(epoch, (jnp.zeros_like(targets), jnp.zeros_like(targets)), (rows, weights, rate))
            moved = _product(kernel, a)
            return likelihoods, right, losses, jnp.sqrt(jnp.maximum((a * moved).sum(), 0)), start + moved if keep else None

        return jax.vmap(lambda rate: jax.vmap(partial(one, rate))(rows, weights))(rates)


def _product(kernel, a):
    """Rows of the kernel times coefficients (n, c)."""
    return kernel @ a if kernel.ndim == 2 else jnp.einsum("bnij,nj->bi", kernel, a)
