"""Simulation of a fine-tuning recipe in function space: mini-batch SGD on cross-entropy, with a kernel instead of the network.

The weights of a linearised network are w_0 + J' a, and SGD with momentum and weight decay acts on the coefficients a exactly as on the weights
(Proposition 1, for the recipe used in practice). A step needs only the rows of the kernel that belong to its batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ntk_select.linearized.problem import AnyArray
from ntk_select.training.feeding import epoch_size
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.loop import step_decay


class Batches(NamedTuple):
    """Batches of several trainings with the same number of steps.

    Attributes:
      rows: (trainings, epochs, steps, size) indices of the examples; smaller batches are padded with index 0.
      weights: weight of each example in the mean loss of its batch; 0 for padding.
    """

    rows: Int[np.ndarray, "q e s b"]
    weights: Float[np.ndarray, "q e s b"]


class SimulatedTraining(NamedTuple):
    """Outputs of the linearised network under r learning rates and q trainings.

    Attributes:
      log_likelihoods: log-likelihood of the true class of every example after each epoch, in nats.
      correct: whether the largest output is that of the true class.
      losses: mean training loss over the batches of each epoch.
      distances: |w - w_0| after the last epoch.
      outputs: outputs after the last epoch; None if not requested.
    """

    log_likelihoods: Float[np.ndarray, "r q e n"]
    correct: Bool[np.ndarray, "r q e n"]
    losses: Float[np.ndarray, "r q e"]
    distances: Float[np.ndarray, "r q"]
    outputs: Float[np.ndarray, "r q n c"] | None


def draw_batches(chosen: Sequence[Int[np.ndarray, "..."]], recipe: Recipe, images: int, seed: int) -> Batches:
    """Random batches as a fine-tuning on `images` images would use them.

    Args:
      chosen: indices of the training examples of each training; if fewer than `images`, an epoch repeats them.
      recipe: number of epochs, and batch size.
      images: number of training images of the fine-tuning; determines the steps per epoch and the size of the last batch.
      seed: seed of the order.
    """
    size = min(recipe.batch_size, images)
    seen, steps = epoch_size(images, size, True)
    rows = np.zeros((len(chosen), recipe.epochs, steps * size), np.int32)
    for training, examples in enumerate(chosen):
        for epoch in range(recipe.epochs):
            rng = np.random.default_rng([seed, training, epoch])
            rows[training, epoch, :seen] = np.concatenate([rng.permutation(examples) for _ in range(-(-seen // len(examples)))])[:seen]
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
) -> SimulatedTraining:
    """Trains the linearised network by a recipe, once per learning rate and training.

    Args:
      kernel: kernel of all examples, for training and held out: (n, n) shared by all outputs, or (n, n, c, c).
      labels: class ids 0 .. c - 1.
      batches: training examples of each step.
      learning_rates: initial learning rates, before any decay.
      recipe: epochs, milestones, momentum and weight decay (towards the initial weights).
      start: outputs of the network before training; zero if None.
      classes: number of classes c; one more than the largest label if None.
      outputs: also return the outputs.

    Returns:
      A `SimulatedTraining`, in the dtype of the kernel. Values that overflow are infinite or NaN.

    Cost: n c b multiplications per step, with batch size b (n c^2 b for a kernel (n, n, c, c)), and n^2 c per epoch.
    """
    kernel = jnp.asarray(kernel)
    classes = int(labels.max()) + 1 if classes is None else classes
    targets = jnp.asarray(np.eye(classes)[labels], kernel.dtype)
    start = jnp.zeros_like(targets) if start is None else jnp.asarray(start, kernel.dtype)
    epochs, steps = batches.rows.shape[1:3]
    rates = np.stack([step_decay(rate, epochs, steps, recipe.decays) for rate in learning_rates]).astype(kernel.dtype)
    settings = np.array([recipe.momentum, recipe.weight_decay], kernel.dtype)
    found = _simulate(kernel, targets, start, batches.rows, batches.weights.astype(kernel.dtype), rates, settings, recipe.nesterov, outputs)
    return SimulatedTraining(*(None if part is None else np.asarray(part) for part in found))


@partial(jax.jit, static_argnums=(7, 8))
def _simulate(kernel, targets, start, rows, weights, rates, settings, nesterov: bool, keep: bool):
    momentum, weight_decay = settings
    with jax.default_matmul_precision("highest"):

        def outputs_at(rows, a):
            return start[rows] + _product(kernel[rows], a)

        def step(state, batch):
            a, velocity = state
            rows, weight, rate = batch
            outputs, wanted = outputs_at(rows, a), targets[rows]
            loss = -(wanted * jax.nn.log_softmax(outputs)).sum(axis=1) @ weight
            gradient = (weight_decay * a).at[rows].add((jax.nn.softmax(outputs) - wanted) * weight[:, None])
            velocity = momentum * velocity + gradient
            return (a - rate * (gradient + momentum * velocity if nesterov else velocity), velocity), loss

        def epoch(state, batches):
            state, losses = jax.lax.scan(step, state, batches)
            outputs = start + _product(kernel, state[0])
            likelihoods = (targets * jax.nn.log_softmax(outputs)).sum(axis=1)
            correct = (outputs.argmax(axis=1) == targets.argmax(axis=1)) & jnp.isfinite(outputs).all(axis=1)
            return state, (likelihoods, correct, losses.mean())

        def one(rate, rows, weights):
            (a, _), (likelihoods, correct, losses) = jax.lax.scan(epoch, (jnp.zeros_like(targets), jnp.zeros_like(targets)), (rows, weights, rate))
            moved = _product(kernel, a)
            return likelihoods, correct, losses, jnp.sqrt(jnp.maximum((a * moved).sum(), 0)), start + moved if keep else None

        return jax.vmap(lambda rate: jax.vmap(partial(one, rate))(rows, weights))(rates)


def _product(kernel, a):
    """Rows of the kernel times coefficients (n, c)."""
    return kernel @ a if kernel.ndim == 2 else jnp.einsum("bnij,nj->bi", kernel, a)
