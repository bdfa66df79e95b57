"""Training a network, or its linearisation, with any Optax optimiser, and looking at it on the way."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from ntk_select.engine.inputs import check_batch_size, check_count, checked_examples, is_number
from ntk_select.engine.routes import hold, padded_batches
from ntk_select.engine.selection import select
from ntk_select.errors import ConfigError
from ntk_select.expert import Expert
from ntk_select.linearized.losses import example_losses, is_mean, loss_value
from ntk_select.linearized.network import BATCH, Linearized, as_network
from ntk_select.linearized.predict import checked_pair, in_one_line
from ntk_select.linearized.rules import Rule, read_times
from ntk_select.linearized.stepped import checked_batches
from ntk_select.probe import InBatches
from ntk_select.whole import is_whole


class Trajectory(NamedTuple):
    """A network at each of t numbers of steps.

    Attributes:
      times: numbers of steps.
      train_outputs, test_outputs: (t, n, c); the latter None without test examples.
      train_losses, test_losses: over all examples, without the term of the weight decay.
      distances: |w_t - w_0|.
      params: at the end.
    """

    times: Float[np.ndarray, " t"]
    train_outputs: Float[np.ndarray, "t n ..."]
    train_losses: Float[np.ndarray, " t"]
    distances: Float[np.ndarray, " t"]
    test_outputs: Float[np.ndarray, "t n2 ..."] | None
    test_losses: Float[np.ndarray, " t"] | None
    params: Any

    def __repr__(self):
        return in_one_line(self)


def optimizer_of(rule: Rule) -> optax.GradientTransformation:
    """The Optax optimiser of a rule that takes steps; its weight decay is the business of `train`."""
    return optax.sgd(rule.lr, momentum=rule.momentum or None, nesterov=rule.optimizer == "nesterov" and rule.momentum > 0)


def train(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Shaped[Array, "n ..."],
    targets: Float[Array, " n"] | Float[Array, "n c"],
    optimizer: optax.GradientTransformation,
    *,
    steps: int | None = None,
    times: Sequence[int] | None = None,
    params: Any = None,
    layers: Any = None,
    loss: str = "half_sum",
    weight_decay: float = 0.0,
    batches: Sequence[Int[np.ndarray, " b"]] | None = None,
    x_test: Shaped[Array, "n2 ..."] | None = None,
    test_targets: Float[Array, "n2 ..."] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Trajectory:
    """Trains and records.

    Args:
      expert_or_fn, params, layers: as for `linearize`; a `Linearized` is trained from its own start.
      x, targets: training examples, preprocessed, and what is to be learnt, in the shape of the outputs.
      optimizer: an Optax optimiser of the gradient of the loss plus weight_decay (w - w_0). It sees the trained leaves as a
        list, so that masks by path do not apply (`layers` does that); those that evaluate the loss themselves (L-BFGS) do not.
      steps, times: record after 0, 1, ..., steps steps, or after those in `times`.
      loss: as for `predict`.
      weight_decay: towards the start.
      batches: for each step the places of its examples; None takes all of them at every step.
      x_test, test_targets: looked at whenever something is recorded.
      batch_size: examples in one pass through the network; a step is cut into such passes. None takes 64.
      progress: called with (done, all, "steps").

    Returns:
      A `Trajectory`; losses in float64, of outputs in the network's own type.

    Raises:
      ConfigError: shapes that do not fit, or an option that is not allowed.

    Cost: a forward and a backward pass of the batch a step, a forward pass of everything a record.
    """
    if isinstance(expert_or_fn, Linearized):
        if params is not None or layers is not None:
            raise ConfigError("A linearised network is trained from its own start in its own layers: leave params and layers out.")
        fn, start, chosen = expert_or_fn, expert_or_fn.start, expert_or_fn.chosen
    else:
        network = as_network(expert_or_fn, params, layers)
        fn, start, chosen = network.fn, network.params, select(network.params, network.layers)
    check_batch_size(batch_size)
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise ConfigError(f"optimizer={optimizer!r} is no Optax optimiser. Type: optimizer=optax.sgd(0.01)")
    if not is_number(weight_decay) or weight_decay < 0:
        raise ConfigError(f"weight_decay={weight_decay!r} must be a number from 0.")
    when = read_times(Rule("gd", 1.0), times, steps)
    x = checked_examples(x, "x")
    run = _Run(fn, start, chosen, loss, batch_size or BATCH)
    start, start_test = run.outputs(run.first, x), None
    targets = checked_pair(start, targets, loss, "the network's outputs", "targets")[1]
    rows = None if batches is None else checked_batches(batches, len(x), when)
    if x_test is not None:
        x_test = checked_examples(x_test, "x_test")
        if test_targets is not None:
            start_test = run.outputs(run.first, x_test)
            _, test_targets = checked_pair(start_test, test_targets, loss, "the network's test outputs", "test_targets")
    elif test_targets is not None:
        raise ConfigError("test_targets= need x_test= beside them.")
    leaves, state, seen = run.first, optimizer.init(run.first), {}
    update = jax.jit(partial(_update, optimizer, float(weight_decay)))
    last, wanted = int(when.max()), {int(time) for time in when}
    everything = np.arange(len(x))
    for step in range(last + 1):
        if step in wanted:
            distance = np.sqrt(sum(float(np.square(np.asarray(a, np.float64) - np.asarray(b)).sum()) for a, b in zip(leaves, run.first, strict=True)))
            outputs = run.outputs(leaves, x) if step else start
            test = start_test if not step and start_test is not None else None if x_test is None else run.outputs(leaves, x_test)
            seen[step] = (outputs, distance, test)
        if step == last:
            break
        batch = everything if rows is None else rows[step]
        leaves, state = update(leaves, state, run.gradient(leaves, x, targets, batch), run.first)
        if progress is not None:
            progress(step + 1, last, "steps")
    records = [seen[int(time)] for time in when]
    train_outputs = np.stack([record[0] for record in records])
    test_outputs = None if x_test is None else np.stack([record[2] for record in records])
    test_losses = None if test_targets is None else np.array([loss_value(loss, f.astype(np.float64), test_targets) for f in test_outputs])
    return Trajectory(
        when,
        train_outputs,
        np.array([loss_value(loss, f.astype(np.float64), targets) for f in train_outputs]),
        np.array([record[1] for record in records]),
        test_outputs,
        test_losses,
        run.whole(leaves),
    )


class _Run:
    """Outputs and gradients of a network in its trained leaves, batch by batch."""

    def __init__(self, fn, start, chosen, loss: str, size: int):
        self._start, self._chosen, self._loss = start, chosen, loss
        self._in_batches = InBatches(size)
        call, self.first, self._held = hold(fn, start, chosen)
        self._outputs = jax.jit(call)

        def total(leaves, held, x, targets, weights):
            return (weights * example_losses(loss, call(leaves, held, x), targets)).sum()

        self._gradient = jax.jit(jax.grad(total))

    def outputs(self, leaves, x) -> np.ndarray:
        return np.asarray(self._in_batches(partial(self._outputs, leaves, self._held), x))

    def gradient(self, leaves, x, targets, batch):
        share = 1 / len(batch) if is_mean(self._loss) else 1.0
        whole = None
        with jax.default_matmul_precision("highest"):
            for rows, real in padded_batches(len(batch), self._in_batches.size):
                places = batch[rows]
                part = self._gradient(leaves, self._held, x[places], targets[places], share * real)
                whole = part if whole is None else [a + b for a, b in zip(whole, part, strict=True)]
        return whole

    def whole(self, leaves):
        """All parameters, the trained leaves among them."""
        flat, treedef = jax.tree.flatten(self._start)
        for index, leaf in zip(self._chosen, leaves, strict=True):
            flat[index] = leaf
        return jax.tree.unflatten(treedef, flat)


def _update(optimizer, weight_decay, leaves, state, gradient, first):
    if weight_decay:
        gradient = [g + weight_decay * (leaf - start) for g, leaf, start in zip(gradient, leaves, first, strict=True)]
    change, state = optimizer.update(gradient, state, leaves)
    return optax.apply_updates(leaves, change), state


def draw_batches(n: int, size: int, steps: int, seed: int = 0) -> list[Int[np.ndarray, " b"]]:
    """Places of `steps` mini-batches: epoch after epoch in a new order, what is left over of an epoch is dropped.

    Raises:
      ConfigError: `size` is not between 1 and n, or `steps` is no whole number from 0.
    """
    check_count("steps", steps, 0)
    if not is_whole(size) or not 1 <= size <= n:
        raise ConfigError(f"size={size!r} must be a whole number from 1 to the {n} training examples.")
    epochs, found = 0, []
    while len(found) < steps:
        order = np.random.default_rng([seed, epochs]).permutation(n)
        found += [order[first : first + size] for first in range(0, n - size + 1, size)]
        epochs += 1
    return found[:steps]
