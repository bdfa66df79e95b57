"""The training loop: SGD, cross-entropy, the compiled step, epochs that can be resumed, and learning-rate schedules."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from ntk_select._runtime.xla_options import known_options
from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.expert import Taps, Variables

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_LAG = 8
"""Steps after which a loss is read: it has been computed by then, and reading it does not block."""

_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE", "xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}
"""XLA's options for steps on one CPU. Convolutions by Eigen use all cores (by default YNNPACK computes them, most of them on one core), and fewer
transpositions are fused, which is faster. Measured by scripts/benchmarks/finetune.py."""

Loss = Callable[[Variables, Any, jax.Array], tuple[jax.Array, Variables]]


class TrainState(NamedTuple):
    """Variables {"params": ..., **state} of a network in training, and the state of the optimiser."""

    variables: Variables
    optimizer: Any


class DivergedError(ModelError):
    """A loss, or a weight after the last step, is not finite, or a loss exceeds the ceiling."""

    def __init__(self, epoch: int, step: int, ceiling: float = float("inf")):
        high = "" if ceiling == float("inf") else f", or the loss is above {ceiling:.3g}"
        super().__init__(f"Training diverged in epoch {epoch}, step {step}: the loss or a weight is not finite{high}. Try: a smaller learning rate")
        self.epoch, self.step = epoch, step


@lru_cache(maxsize=32)
def sgd(momentum: float = 0.9, weight_decay: float = 1e-4, *, nesterov: bool = True) -> optax.GradientTransformation:
    """SGD as in PyTorch, without the learning rate: `make_step` applies it, and one program serves all rates and schedules."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum, nesterov=nesterov))


def begin(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step. Arrays are copied."""
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
      train_fn: as in `Expert`: ({"params": ..., **state}, x) -> (`Taps`, new state).
      prepare: (key, images) -> network inputs, compiled with the step, e.g. augmentation. None: the images are the inputs.
      precision: "bfloat16" computes activations and their gradients in bfloat16; weights, statistics and the loss stay in float32.

    Raises:
      ConfigError: `precision` is unknown.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown.{did_you_mean(str(precision), PRECISIONS)}")
    return _CrossEntropy(train_fn, prepare, precision)


@dataclass(frozen=True)
class _CrossEntropy:
    """Hashable: equal losses share compiled steps."""

    train_fn: Callable
    prepare: Callable | None
    precision: str

    def __call__(self, variables, batch, key):
        images, labels = batch
        inputs = images if self.prepare is None else self.prepare(key, images)
        taps, changed = self.train_fn(*cast(variables, inputs, self.precision))
        return mean_cross_entropy(taps.logits, labels), changed


def mean_cross_entropy(logits, labels):
    """Mean cross-entropy of a batch, in float32 or wider."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def cast(variables: Variables, inputs, precision: str):
    """Parameters and inputs in the type in which a step computes. "float32" leaves them unchanged, also where they are float64."""
    if precision == "float32":
        return variables, inputs
    kind = PRECISIONS[precision]
    return {**variables, "params": jax.tree.map(lambda leaf: leaf.astype(kind), variables["params"])}, inputs.astype(kind)


def make_step(loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh | None = None):
    """step(state, batch, key, learning_rate) -> (state, loss), compiled at its first call. The buffers of the given state are donated.

    Equal losses of `cross_entropy` share one step and its compiled programs.

    Args:
      loss: (variables, batch, key) -> (loss, changed entries of the state).
      optimizer: Optax optimiser without the learning rate, e.g. `sgd()`.
      mesh: shards the leading axis of the batch over its devices; weights are replicated, and batch norm sees the whole batch.

    Raises:
      ConfigError: at a step, if the batch size is not a multiple of the number of devices.
    """
    try:
        # Other losses may hold images, which a cached program would keep in memory.
        return (_shared_step if isinstance(loss, _CrossEntropy) else _new_step)(loss, optimizer, mesh)
    except TypeError:  # a part is not hashable
        return _new_step(loss, optimizer, mesh)


def _new_step(loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh | None):
    whole, spread = (None, None) if mesh is None else (NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(mesh.axis_names)))

    options = known_options(_CPU_OPTIONS) if mesh is None and jax.default_backend() == "cpu" else None

    @partial(jax.jit, donate_argnums=0, compiler_options=options)
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
                fitting = mesh.size * max(len(part) // mesh.size, 1)
                raise ConfigError(f"A batch of {len(part)} examples cannot be shared evenly by {mesh.size} devices. Try: batch_size={fitting}")
        return step(jax.device_put(state, whole), jax.device_put(batch, spread), key, learning_rate)

    return step if mesh is None else spread_step


_shared_step = lru_cache(maxsize=16)(_new_step)


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
    """Trains for all epochs of a schedule.

    Random numbers depend on `seed` and the epoch alone: training resumed from a saved state gives the same weights.

    Args:
      step: result of `make_step`.
      state: initial state, e.g. `begin(variables, optimizer)`; its buffers are donated.
      batches: (random generator) -> the batches of one epoch, one per step, e.g. `ntk_select.training.feeding.InMemory`.
      learning_rates: learning rate of each step, (epochs, steps).
      first_epoch: epochs already done.
      after_epoch: called with (epochs done, state, mean loss). The state is donated to the next step: copy what is to be saved.
      ceiling: training has diverged once a loss exceeds it.

    Raises:
      DivergedError: a loss, or a weight after the last step, is not finite, or a loss exceeds `ceiling`. Detected within a few steps.
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


def step_decay(learning_rate: float, epochs: int, steps: int, milestones: Sequence[int], factor: float = 0.1) -> Float[np.ndarray, "epochs steps"]:
    """Learning rates multiplied by `factor` after each of the epochs in `milestones`."""
    passed = np.array([sum(epoch >= milestone for milestone in milestones) for epoch in range(epochs)])
    return np.repeat((learning_rate * factor**passed)[:, None], steps, axis=1)


def warmup_cosine(learning_rate: float, epochs: int, steps: int, warmup: float) -> Float[np.ndarray, "epochs steps"]:
    """Linear warm-up over the fraction `warmup` of all steps, then cosine decay to zero."""
    total = epochs * steps
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, int(warmup * total), total)
    return np.asarray(jax.vmap(schedule)(jnp.arange(total)), np.float64).reshape(epochs, steps)
