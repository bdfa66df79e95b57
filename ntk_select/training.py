"""How is a network trained from labelled images, epoch by epoch, so that it can be cut and resumed?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int, Shaped

from ntk_select.errors import ModelError


class TrainState(NamedTuple):
    """A network in training: {"params": ..., **state}, and what the optimiser remembers."""

    variables: Mapping[str, Any]
    optimizer: Any


def train_epochs(
    train_fn: Callable[[Mapping[str, Any], Any], tuple[Any, Mapping[str, Any]]],
    state: TrainState,
    optimizer: optax.GradientTransformation,
    images: Shaped[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    *,
    epochs: int,
    batch_size: int,
    seed: Sequence[int],
    prepare: Callable[[Any, Any], Any] | None = None,
    first_epoch: int = 0,
    after_epoch: Callable[[int, TrainState, float], None] | None = None,
) -> TrainState:
    """Minimises the cross-entropy over epochs of mini-batches in random order; what is left over of an epoch is dropped.

    Every random draw depends on `seed` and the epoch alone, so that training from a kept state goes on as if it had not been cut.

    Args:
      train_fn: an expert's, in training mode: ({"params": ..., **state}, x) -> (logits, new state).
      state: to begin with, e.g. TrainState(variables, optimizer.init(variables["params"])).
      optimizer: with its schedule and weight decay.
      images, labels: in memory, as `prepare` takes them.
      epochs: the last one's number; `first_epoch` is that of the first, from 0.
      batch_size: at most n.
      seed: of the order and of `prepare`.
      prepare: (key, images of a batch) -> network inputs, compiled with the step; augmentation goes here. None for inputs as they are.
      after_epoch: called with (epochs done, state, mean loss).

    Raises:
      ModelError: the loss is no longer finite, with the epoch in which that happened.
    """

    @jax.jit
    def step(state: TrainState, images, labels, key):
        inputs = images if prepare is None else prepare(key, images)

        def loss(params):
            logits, updates = train_fn({**state.variables, "params": params}, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables["params"])
        change, memory = optimizer.update(gradient, state.optimizer, state.variables["params"])
        params = optax.apply_updates(state.variables["params"], change)
        return TrainState({**state.variables, **updates, "params": params}, memory), value

    for epoch in range(first_epoch, epochs):
        rng = np.random.default_rng([*seed, epoch])
        order = rng.permutation(len(images))
        key = jax.random.key(int(rng.integers(2**31)))
        losses = []
        for index in range(len(images) // batch_size):
            chosen = order[index * batch_size : (index + 1) * batch_size]
            state, value = step(state, images[chosen], labels[chosen], jax.random.fold_in(key, index))
            losses.append(value)
        mean_loss = float(jnp.mean(jnp.stack(losses)))
        if not np.isfinite(mean_loss):
            raise ModelError(f"Training diverged: the mean loss of epoch {epoch + 1} is {mean_loss}. Lower the learning rate.")
        if after_epoch is not None:
            after_epoch(epoch + 1, state, mean_loss)
    return state
