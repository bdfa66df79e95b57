"""How is a network trained, step by step and epoch by epoch, so that it can be cut and resumed?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, Shaped

from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.expert import Taps, Variables

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_LAG = 8
"""Steps after which a loss is looked at: it is there by then, and looking costs no waiting."""

Loss = Callable[[Variables, Any, jax.Array], tuple[jax.Array, Variables]]


class TrainState(NamedTuple):
    """A network in training: {"params": ..., **state}, and what the optimiser remembers."""

    variables: Variables
    optimizer: Any


class DivergedError(ModelError):
    """The loss, or in the end a weight, is no longer finite, or the loss is far above that of guessing."""

    def __init__(self, epoch: int, step: int, ceiling: float = float("inf")):
        high = "" if ceiling == float("inf") else f", or the loss is above {ceiling:.3g}"
        super().__init__(f"Training diverged in epoch {epoch}, step {step}: the loss or a weight is not finite{high}. Lower the learning rate.")
        self.epoch, self.step = epoch, step


@lru_cache(maxsize=32)
def sgd(momentum: float = 0.9, weight_decay: float = 1e-4, *, nesterov: bool = True) -> optax.GradientTransformation:
    """PyTorch's SGD as Optax has it, without the learning rate, which `make_step` multiplies by: one program serves all rates and schedules."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum, nesterov=nesterov))


def begin(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, in arrays of its own."""
    variables = jax.tree.map(jnp.array, dict(variables))
    return TrainState(variables, optimizer.init(variables["params"]))


def cross_entropy(
    train_fn: Callable[[Variables, Any], tuple[Taps, Variables]],
    prepare: Callable[[jax.Array, Any], Any] | None = None,
    *,
    precision: str = "float32",
) -> Loss:
    """The mean cross-entropy of a batch (images, labels), as `make_step` takes it.

    Args:
      train_fn: an expert's: ({"params": ..., **state}, x) -> (`Taps`, new state).
      prepare: (key, images) -> network inputs, compiled with the step; augmentation goes here. None for inputs as they are.
      precision: "bfloat16" computes outputs and gradients of activations in bfloat16; weights, statistics and the loss stay in float32.

    Raises:
      ConfigError: `precision` is unknown.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown.{did_you_mean(str(precision), PRECISIONS)}")
    return _CrossEntropy(train_fn, prepare, precision)


@dataclass(frozen=True)
class _CrossEntropy:
    """Equal for equal parts, so that compilations are shared."""

    train_fn: Callable
    prepare: Callable | None
    precision: str

    def __call__(self, variables, batch, key):
        images, labels = batch
        inputs = images if self.prepare is None else self.prepare(key, images)
        taps, changed = self.train_fn(*lowered(variables, inputs, self.precision))
        return mean_cross_entropy(taps.logits, labels), changed


def mean_cross_entropy(logits, labels):
    """Of a batch, in float32 at least."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def lowered(variables: Variables, inputs, precision: str):
    """Parameters and inputs in the type that a step computes in. "float32" leaves them as they are, float64 as well."""
    if precision == "float32":
        return variables, inputs
    kind = PRECISIONS[precision]
    return {**variables, "params": jax.tree.map(lambda leaf: leaf.astype(kind), variables["params"])}, inputs.astype(kind)


def make_step(loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh | None = None):
    """step(state, batch, key, learning_rate) -> (state, loss), compiled at its first call. The state that goes in is used up.

    Equal losses of `cross_entropy` share one step and its compilations.

    Args:
      loss: (variables, batch, key) -> (loss, what of the variables' state has changed).
      optimizer: without the learning rate, e.g. `sgd()`.
      mesh: spreads the leading axis of the batch over its devices; weights lie on all of them, batch norm sees the whole batch.

    Raises:
      ConfigError: at a step, when the batch cannot be shared evenly.
    """
    try:
        # Other losses may hold images, which must not stay in memory for the sake of a program.
        return (_shared_step if isinstance(loss, _CrossEntropy) else _new_step)(loss, optimizer, mesh)
    except TypeError:  # parts that cannot be hashed
        return _new_step(loss, optimizer, mesh)


def _new_step(loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh | None):
    whole, spread = (None, None) if mesh is None else (NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(mesh.axis_names)))

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch, key, learning_rate):
        def objective(params):
            return loss({**state.variables, "params": params}, batch, key)

        (value, changed), gradient = jax.value_and_grad(objective, has_aux=True)(state.variables["params"])
        direction, memory = optimizer.update(gradient, state.optimizer, state.variables["params"])
        params = jax.tree.map(lambda leaf, change: leaf - jnp.asarray(learning_rate, leaf.dtype) * change, state.variables["params"], direction)
        return TrainState({**state.variables, **changed, "params": params}, memory), value

    def spread_step(state: TrainState, batch, key, learning_rate):
        for part in jax.tree.leaves(batch):
            if len(part) % mesh.size:
                raise ConfigError(f"A batch of {len(part)} examples cannot be shared evenly by {mesh.size} devices. Give a multiple of {mesh.size}.")
        return step(jax.device_put(state, whole), jax.device_put(batch, spread), key, learning_rate)

    return step if mesh is None else spread_step


_shared_step = lru_cache(maxsize=16)(_new_step)


class InMemory:
    """Batches of arrays in random order.

    Args:
      images, labels: of n examples.
      batch_size: at most n.
      rest: keep the smaller batch that is left over at the end of an epoch, unless it is a single example; else it is dropped.

    Attributes:
      seen: examples in an epoch.
      steps: batches in an epoch.
    """

    def __init__(self, images: Shaped[np.ndarray, "n ..."], labels: Int[np.ndarray, " n"], batch_size: int, *, rest: bool = False):
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.seen, self.steps = epoch_of(len(images), batch_size, rest)

    def __call__(self, rng: np.random.Generator) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """One epoch."""
        order = rng.permutation(len(self.images))[: self.seen]
        for first in range(0, self.seen, self.batch_size):
            chosen = order[first : first + self.batch_size]
            yield self.images[chosen], self.labels[chosen]


def epoch_of(n: int, batch_size: int, rest: bool) -> tuple[int, int]:
    """(examples, batches) of an epoch over n examples. A rest of one example is never kept: batch norm has nothing to say of it."""
    left = n % batch_size if rest and n % batch_size > 1 else 0
    return n // batch_size * batch_size + left, n // batch_size + bool(left)


def train_epochs(
    step: Callable[[TrainState, Any, jax.Array, Any], tuple[TrainState, jax.Array]],
    state: TrainState,
    batches: Callable[[np.random.Generator], Iterable[Any]],
    learning_rates: Float[np.ndarray, "epochs steps"],
    *,
    seed: Sequence[int],
    first_epoch: int = 0,
    after_epoch: Callable[[int, TrainState, float], None] | None = None,
    ceiling: float = float("inf"),
) -> TrainState:
    """Takes step after step, epoch after epoch.

    Every random draw depends on `seed` and the epoch alone, so that training from a kept state goes on as if it had not been cut.

    Args:
      step: of `make_step`.
      state: to begin with, e.g. `begin(variables, optimizer)`; it is used up.
      batches: (generator of random numbers) -> the batches of one epoch, e.g. `InMemory`; as many as there are steps.
      learning_rates: of each step.
      first_epoch: from 0.
      after_epoch: called with (epochs done, state, mean loss). It must not keep the state, only copies.
      ceiling: a loss above it counts as diverged.

    Raises:
      DivergedError: a loss or, in the end, a weight is not finite, or a loss is above `ceiling`. It is noticed within a few steps.
    """
    for epoch in range(first_epoch, len(learning_rates)):
        key = jax.random.key(int(np.random.default_rng([*seed, epoch, 1]).integers(2**31)))
        losses = []
        for index, batch in enumerate(batches(np.random.default_rng([*seed, epoch]))):
            state, value = step(state, batch, jax.random.fold_in(key, index), float(learning_rates[epoch, index]))
            losses.append(value)
            if index >= _LAG and not (np.isfinite(value := float(losses[index - _LAG])) and value <= ceiling):
                raise DivergedError(epoch + 1, index - _LAG + 1, ceiling)
        found = np.array(jax.device_get(losses), np.float64)
        sound = np.isfinite(found) & (found <= ceiling)
        if not sound.all():
            raise DivergedError(epoch + 1, int(np.argmin(sound)) + 1, ceiling)
        if epoch + 1 == len(learning_rates) and not _finite(state.variables):
            raise DivergedError(epoch + 1, len(found), ceiling)
        if after_epoch is not None:
            after_epoch(epoch + 1, state, float(found.mean()))
    return state


@jax.jit
def _finite(variables):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)]).all()


def stepwise(learning_rate: float, epochs: int, steps: int, milestones: Sequence[int], factor: float = 0.1) -> Float[np.ndarray, "epochs steps"]:
    """Learning rates that are multiplied by `factor` after each of the epochs in `milestones`."""
    passed = np.array([sum(epoch >= milestone for milestone in milestones) for epoch in range(epochs)])
    return np.repeat((learning_rate * factor**passed)[:, None], steps, axis=1)


def warmup_cosine(learning_rate: float, epochs: int, steps: int, warmup: float) -> Float[np.ndarray, "epochs steps"]:
    """Learning rates that rise over a share `warmup` of all steps and fall to nothing along a cosine."""
    total = epochs * steps
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, int(warmup * total), total)
    return np.asarray(jax.vmap(schedule)(jnp.arange(total)), np.float64).reshape(epochs, steps)
