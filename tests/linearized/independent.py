"""Training a linearised network by definition: Jacobians by reverse mode, and a loop with Optax over all weights.

Nothing of ntk_select is used here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import log_softmax

SQUARED = ("half_sum", "sum", "mean")
LOSSES = {
    "half_sum": lambda f, y: 0.5 * jnp.sum((f - y) ** 2),
    "sum": lambda f, y: jnp.sum((f - y) ** 2),
    "mean": lambda f, y: jnp.mean((f - y) ** 2),
    "cross_entropy": lambda f, y: optax.losses.softmax_cross_entropy(f, y).mean(),
    "cross_entropy_sum": lambda f, y: optax.losses.softmax_cross_entropy(f, y).sum(),
}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers in float64."""
    return np.random.default_rng(seed).normal(size=shape)


def network(params, x):
    """Two layers with tanh, n inputs to outputs (n, c)."""
    return jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"]) @ params["last"]["kernel"] + params["last"]["bias"]


def parameters(d: int, width: int, c: int, seed: int = 0) -> dict:
    """Of `network`."""
    return {
        "first": {"kernel": draw(d, width, seed=seed) / np.sqrt(d), "bias": 0.3 * draw(width, seed=seed + 1)},
        "last": {"kernel": draw(width, c, seed=seed + 2) / np.sqrt(width), "bias": 0.1 * draw(c, seed=seed + 3)},
    }


def flat_jacobian(fn, params, x) -> np.ndarray:
    """(n, c, p): the leaves side by side, in the order of the tree."""
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(fn))(params, x))
    return np.concatenate([np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)


class World(NamedTuple):
    """A network, its examples, where its outputs start, and their Jacobians; outputs are (n,) or (n, c)."""

    fn: object
    params: object
    x: np.ndarray
    x_test: np.ndarray
    outputs: np.ndarray
    test_outputs: np.ndarray
    targets: np.ndarray
    test_targets: np.ndarray
    jacobian: np.ndarray
    test_jacobian: np.ndarray

    @property
    def kernel(self) -> np.ndarray:
        """(n, n) of outputs (n,), else (n, n, c, c)."""
        return gram(self.jacobian, self.jacobian)

    @property
    def cross(self) -> np.ndarray:
        """(n2, n) or (n2, n, c, c)."""
        return gram(self.test_jacobian, self.jacobian)


def gram(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products of gradients (n, p) or (n, c, p)."""
    return left @ right.T if left.ndim == 2 else np.einsum("iap,jbp->ijab", left, right)


def square(kernel: np.ndarray) -> np.ndarray:
    """A kernel (n1, n2, c, c) as a matrix (n1 c, n2 c); one that is a matrix as it is."""
    if kernel.ndim == 2:
        return kernel
    n1, n2, c, _ = kernel.shape
    return np.block([[kernel[i, j] for j in range(n2)] for i in range(n1)]).reshape(n1 * c, n2 * c)


def world(c: int, *, n: int = 12, n2: int = 5, d: int = 4, width: int = 6, seed: int = 0) -> World:
    """A small network and random labels. With one output all outputs are (n,) and targets -1 or +1, else one-hot."""
    params, x, x_test = parameters(d, width, c, seed), draw(n, d, seed=seed + 10), draw(n2, d, seed=seed + 11)
    labels = np.random.default_rng(seed + 12).integers(0, max(c, 2), n + n2)
    labels[: max(c, 2)] = np.arange(max(c, 2))
    goal = np.eye(c)[labels] if c > 1 else 2.0 * labels - 1.0
    found = [
        np.asarray(network(params, x)),
        np.asarray(network(params, x_test)),
        flat_jacobian(network, params, x),
        flat_jacobian(network, params, x_test),
    ]
    if c == 1:
        found = [array[:, 0] for array in found]
    return World(network, params, x, x_test, *found[:2], goal[:n], goal[n:], *found[2:])


class Path(NamedTuple):
    """Weights' displacement (t, p) after 0, 1, ... steps, and what follows from it."""

    moved: np.ndarray
    outputs: np.ndarray
    losses: np.ndarray
    distances: np.ndarray


def train(world: World, loss: str, *, lr: float, steps: int, momentum=0.0, nesterov=False, weight_decay=0.0, batches=None) -> Path:
    """Trains f_0 + J (w - w_0) with `optax.sgd` on jax.grad of the loss plus weight_decay (w - w_0)."""
    rows = np.tile(np.arange(len(world.outputs)), (steps, 1)) if batches is None else np.array(batches)
    moved = np.asarray(_weights(world.jacobian, world.outputs, world.targets, rows, lr, momentum, weight_decay, loss=loss, nesterov=nesterov))
    outputs = world.outputs + np.einsum("...p,tp->t...", world.jacobian, moved)
    return Path(moved, outputs, losses(loss, outputs, world.targets), np.linalg.norm(moved, axis=1))


@partial(jax.jit, static_argnames=("loss", "nesterov"))
def _weights(jacobian, outputs, targets, rows, lr, momentum, weight_decay, *, loss, nesterov):
    tx = optax.sgd(lr, momentum=momentum, nesterov=nesterov)

    def objective(moved, places):
        return LOSSES[loss](outputs[places] + jacobian[places] @ moved, targets[places])

    def step(carry, places):
        moved, state = carry
        change, state = tx.update(jax.grad(objective)(moved, places) + weight_decay * moved, state)
        moved = optax.apply_updates(moved, change)
        return (moved, state), moved

    start = jnp.zeros(jacobian.shape[-1])
    found = jax.lax.scan(step, (start, tx.init(start)), rows)[1]
    return jnp.concatenate([start[None], found])


def train_outputs(kernel, outputs, targets, loss: str, *, lr: float, steps: int, momentum=0.0, nesterov=False, weight_decay=0.0) -> np.ndarray:
    """Training in function space with one kernel (n, n) for all outputs, Theta x I: outputs (t, n, c)."""
    return np.asarray(_outputs(kernel, outputs, targets, lr, momentum, weight_decay, loss=loss, nesterov=nesterov, steps=steps))


@partial(jax.jit, static_argnames=("loss", "nesterov", "steps"))
def _outputs(kernel, outputs, targets, lr, momentum, weight_decay, *, loss, nesterov, steps):
    tx = optax.sgd(lr, momentum=momentum, nesterov=nesterov)

    def step(carry, _):
        now, state = carry
        change, state = tx.update(kernel @ jax.grad(LOSSES[loss])(now, targets) + weight_decay * (now - outputs), state)
        now = optax.apply_updates(now, change)
        return (now, state), now

    found = jax.lax.scan(step, (outputs, tx.init(outputs)), length=steps)[1]
    return jnp.concatenate([outputs[None], found])


def losses(loss: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Losses of outputs (t, n, ...) at each of t times, in NumPy."""
    axes = tuple(range(1, outputs.ndim))
    if loss in SQUARED:
        return {"half_sum": 0.5, "sum": 1.0, "mean": 1 / targets.size}[loss] * ((outputs - targets) ** 2).sum(axis=axes)
    with np.errstate(over="ignore", invalid="ignore"):
        total = -(targets * log_softmax(outputs, axis=-1)).sum(axis=axes)
    return total / len(targets) if loss == "cross_entropy" else total


def slope(loss: str, size: int) -> float:
    """Derivative of the loss in the outputs, in units of f - y."""
    return {"half_sum": 1.0, "sum": 2.0, "mean": 2.0 / size}[loss]


def largest(kernel: np.ndarray) -> float:
    """The largest eigenvalue."""
    return float(np.linalg.eigvalsh(square(kernel))[-1])
