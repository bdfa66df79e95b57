"""Training of a network or its linearisation with any Optax optimiser, with recorded outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from ntk_select._runtime.checks import check_count, is_whole
from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import InBatches
from ntk_select.kernels.engine.arguments import check_batch_size, count_examples, read_examples, some_examples
from ntk_select.kernels.engine.program import Program, outputs_of, trace
from ntk_select.kernels.engine.vector_product import BatchedProduct, hold, padded_batches
from ntk_select.linearized.losses import check_loss, example_losses, is_mean, loss_value, read_outputs_and_targets
from ntk_select.linearized.network import DEFAULT_BATCH, Linearized, as_network, check_network
from ntk_select.linearized.optimizers import Optimizer, read_batches, read_times
from ntk_select.linearized.predict import one_line_summary
from ntk_select.linearized.problem import Batches, Examples, TestExamples, TestValues, Times, Values, host_only


class Trajectory(NamedTuple):
    """A network in training, recorded after t numbers of steps.

    Attributes:
      times: numbers of steps.
      train_outputs, test_outputs: outputs, (t, n, c); `test_outputs` is None without test examples.
      train_losses, test_losses: losses over all examples, without the weight-decay term.
      distances: |w_t - w_0|.
      params: parameters after the last step.
    """

    times: Float[np.ndarray, " t"]
    train_outputs: Float[np.ndarray, "t n ..."]
    train_losses: Float[np.ndarray, " t"]
    distances: Float[np.ndarray, " t"]
    test_outputs: Float[np.ndarray, "t n2 ..."] | None
    test_losses: Float[np.ndarray, " t"] | None
    params: Any

    def __repr__(self):
        return one_line_summary(self)


@host_only
def train(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Examples,
    targets: Values,
    optimizer: optax.GradientTransformation,
    *,
    steps: int | None = None,
    times: Times | None = None,
    params: Any = None,
    layers: Any = None,
    loss: str = "half_sum",
    weight_decay: float = 0.0,
    batches: Batches | None = None,
    x_test: TestExamples | None = None,
    test_targets: TestValues | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Trajectory:
    """Trains a network and records its outputs, losses and distance from the initial weights.

    Args:
      expert_or_fn, params, layers: as for `linearize`; a `Linearized` is trained from its own point of expansion.
      x, targets: preprocessed training examples, and targets in the shape of the outputs.
      optimizer: an Optax optimiser, applied to the gradient of the loss plus weight_decay (w - w_0). It sees the trained leaves as a
        list: masks by path do not work (use `layers`), nor do optimisers that evaluate the loss themselves (L-BFGS).
      steps, times: records after 0, 1, ..., steps steps, or after those in `times`.
      loss: as for `predict`; "half_sum" by default.
      weight_decay: strength of the decay towards the initial weights.
      batches: indices of the examples of each step; None uses all examples at every step.
      x_test, test_targets: test examples and targets, evaluated at every recorded step.
      batch_size: examples per pass through the network, into which each step is divided; 64 if None.
      progress: called with (done, all, "steps").

    Returns:
      A `Trajectory`; losses in float64, outputs in the dtype of the network.

    Raises:
      ConfigError: incompatible shapes, or an option that is not allowed.
      ModelError: outputs for one example depend on other examples.

    Cost: a forward and a backward pass of the batch per step, and a forward pass of all examples per record.
    """
    if isinstance(expert_or_fn, Linearized):
        if params is not None or layers is not None:
            raise ConfigError("A linearised network has its own params and layers. Try: leave params= and layers= out")
        fn, start, chosen = expert_or_fn, expert_or_fn.start, expert_or_fn.chosen
    else:
        network = as_network(expert_or_fn, params, layers)
        fn, start, chosen = network.fn, network.params, network.chosen
    check_batch_size(batch_size)
    check_loss(loss)
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise ConfigError(f"optimizer={optimizer!r} is not an Optax optimiser. Try: optimizer=optax.sgd(0.01)")
    when = read_times(Optimizer("gd", weight_decay=weight_decay), times, steps)
    x = read_examples(x, "x")
    check_network(fn, start, chosen, x)
    run = _Run(fn, start, chosen, loss, batch_size or DEFAULT_BATCH)
    first = run.picked
    outputs = run.outputs(first, x)
    targets = read_outputs_and_targets(outputs, targets, loss, "the network's outputs", "targets")[1]
    rows = None if batches is None else read_batches(batches, count_examples(x), when)
    test_outputs = test_losses = None
    if x_test is not None:
        x_test = read_examples(x_test, "x_test")
        test_outputs = run.outputs(first, x_test)
        if test_targets is not None:
            test_targets = read_outputs_and_targets(test_outputs, test_targets, loss, "the network's test outputs", "test_targets")[1]
    elif test_targets is not None:
        raise ConfigError("test_targets= requires x_test=.")
    leaves, state, update = first, optimizer.init(first), _compiled_update(optimizer, float(weight_decay), first)
    records, recorded, last, everything = {}, set(when.astype(int)), int(when.max()), np.arange(count_examples(x))
    for step in range(last + 1):
        if step in recorded:
            if step:
                outputs, test_outputs = run.outputs(leaves, x), None if x_test is None else run.outputs(leaves, x_test)
            records[step] = (outputs, _distance(leaves, first), test_outputs)
        if step == last:
            break
        gradient = run.gradient(leaves, x, targets, everything if rows is None else rows[step])
        leaves, state = update(leaves, state, gradient, first)
        if progress is not None:
            progress(step + 1, last, "steps")
    train_outputs, distances, test_outputs = zip(*(records[int(time)] for time in when), strict=True)
    losses = np.array([loss_value(loss, f.astype(np.float64), targets) for f in train_outputs])
    if test_targets is not None:
        test_losses = np.array([loss_value(loss, f.astype(np.float64), test_targets) for f in test_outputs])
    test = None if x_test is None else np.stack(test_outputs)
    flat, treedef = jax.tree.flatten(start)
    for index, leaf in zip(chosen, leaves, strict=True):
        flat[index] = leaf
    return Trajectory(when, np.stack(train_outputs), losses, np.array(distances), test, test_losses, jax.tree.unflatten(treedef, flat))


class _Run(BatchedProduct):
    """Outputs of a network, and gradients with respect to its trained leaves, one batch at a time."""

    def __init__(self, fn, start, chosen, loss: str, size: int):
        super().__init__(*hold(fn, start, chosen), size)
        self._loss, self._in_batches = loss, InBatches(size)

    def outputs(self, leaves, x) -> np.ndarray:
        flat, treedef = jax.tree.flatten(x)
        return np.asarray(self._in_batches(lambda *batch: self._run(_outputs, (), leaves, jax.tree.unflatten(treedef, batch)), *flat))

    def gradient(self, leaves, x, targets, batch) -> list[jax.Array]:
        weight, total = 1 / len(batch) if is_mean(self._loss) else 1.0, None
        with jax.default_matmul_precision("highest"):
            for rows, real in padded_batches(len(batch), self._in_batches.size):
                examples = batch[rows]
                part = self._run(_gradient, (self._loss,), leaves, some_examples(x, examples), targets[examples], weight * real)
                total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
        return total

    def _run(self, function, static, leaves, x, *arguments):
        program, values = self._program(x)
        return program.jit(function, *static)(values, leaves, self._held, x, *arguments)


def _outputs(program: Program, values, leaves, held, x):
    return outputs_of(program, values, jax.tree.leaves((leaves, held, x)))[0]


def _gradient(program: Program, loss: str, values, leaves, held, x, targets, weights):
    def total(leaves):
        return (weights * example_losses(loss, _outputs(program, values, leaves, held, x).astype(targets.dtype), targets)).sum()

    return jax.grad(total)(leaves)


def _compiled_update(optimizer: optax.GradientTransformation, weight_decay: float, first: list) -> Callable:
    """update(leaves, state, gradient, first) -> leaves and state. Optimisers with the same operations share the compiled program."""

    def update(leaves, state, gradient, first):
        if weight_decay:
            gradient = [g + weight_decay * (leaf - start) for g, leaf, start in zip(gradient, leaves, first, strict=True)]
        change, state = optimizer.update(gradient, state, leaves)
        return optax.apply_updates(leaves, change), state

    arguments = (first, optimizer.init(first), first, first)
    treedef = jax.tree.structure(jax.eval_shape(update, *arguments))
    program, values = trace(update, *arguments)
    run = program.jit(outputs_of)
    return lambda *arguments: jax.tree.unflatten(treedef, run(values, jax.tree.leaves(arguments)))


def _distance(leaves: list, first: list) -> float:
    with np.errstate(over="ignore"):  # of diverged weights the distance is infinite
        return np.sqrt(sum(float(np.square(np.asarray(a, np.float64) - np.asarray(b)).sum()) for a, b in zip(leaves, first, strict=True)))


def draw_batches(n: int, size: int, steps: int, seed: int = 0) -> list[Int[np.ndarray, " b"]]:
    """Indices of `steps` random mini-batches: each epoch is a new permutation, and its incomplete last batch is dropped.

    Raises:
      ConfigError: `size` is not between 1 and n, or `steps` is not a non-negative integer.
    """
    check_count("steps", steps, 0)
    if not is_whole(size) or not 1 <= size <= n:
        raise ConfigError(f"size={size!r} must be a whole number from 1 to the {n} training examples.")
    found = []
    for epoch in range(-(-steps // (n // size))):
        order = np.random.default_rng([seed, epoch]).permutation(n)
        found += [order[first : first + size] for first in range(0, n - size + 1, size)]
    return found[:steps]
