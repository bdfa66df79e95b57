"""Losses, their derivatives with respect to the outputs, and targets.

The paper writes the loss as sum (y - f)^2 and solves the flow of half of it (E1 and E2 in docs/equations.md). Both are available by name.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer
from scipy.special import log_softmax, softmax

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.linearized.problem import AnyArray, checked_outputs, host_only

SQUARED = ("half_sum", "sum", "mean")
CROSS_ENTROPY = ("cross_entropy", "cross_entropy_sum")
LOSSES = SQUARED + CROSS_ENTROPY


class SquaredLoss(NamedTuple):
    """`value` times the sum of squared residuals; its derivative with respect to the outputs is `slope` times (f - y)."""

    value: float
    slope: float


def squared_loss(name: str, size: int) -> SquaredLoss:
    """The constants of a squared loss over `size` = n * c residuals.

    "half_sum": 1/2 sum (f - y)^2, whose flow is eq. 1 of the paper as printed; "sum": sum (f - y)^2, the loss that the paper
    states; "mean": the mean over examples and outputs, as `jnp.mean((f - y)**2)` and PyTorch's MSELoss.

    Raises:
      ConfigError: the name is unknown, or is not a squared loss.
    """
    check_loss(name)
    if name not in SQUARED:
        raise ConfigError(f"loss={name!r} has no closed form. Try: ntk_select.linearized.predict(..., loss={name!r}), or one of {', '.join(SQUARED)}")
    return {"half_sum": SquaredLoss(0.5, 1.0), "sum": SquaredLoss(1.0, 2.0), "mean": SquaredLoss(1.0 / size, 2.0 / size)}[name]


def check_loss(name: str) -> None:
    """Raises ConfigError unless `name` is one of `LOSSES`."""
    if name not in LOSSES:
        raise ConfigError(f"loss={name!r} is unknown.{did_you_mean(str(name), LOSSES)}")


def is_mean(name: str) -> bool:
    """Whether the loss is a mean over examples rather than a sum."""
    return name in ("mean", "cross_entropy")


def loss_value(name: str, outputs: Float[np.ndarray, "n ..."], targets: Float[np.ndarray, "n ..."]) -> float:
    """The loss in float64 NumPy; infinity if an output is not finite."""
    if not np.isfinite(outputs).all():
        return np.inf
    if name in CROSS_ENTROPY:
        total = -(targets * log_softmax(outputs, axis=-1)).sum()
        return float(total / len(outputs) if is_mean(name) else total)
    with np.errstate(over="ignore"):  # diverging curves
        return float(squared_loss(name, outputs.size).value * np.square(outputs - targets).sum())


def loss_gradient(name: str, outputs: Float[np.ndarray, "n ..."], targets: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """Derivative of `loss_value` with respect to the outputs."""
    if name in CROSS_ENTROPY:
        gradient = softmax(outputs, axis=-1) * targets.sum(axis=-1, keepdims=True) - targets
        return gradient / len(outputs) if is_mean(name) else gradient
    return squared_loss(name, outputs.size).slope * (outputs - targets)


def example_losses(name: str, outputs: Float[Array | np.ndarray, "n ..."], targets: Float[Array | np.ndarray, "n ..."]) -> Float[Array, " n"]:
    """The loss of each example, whose sum or mean is the loss; in JAX, for training."""
    if name in CROSS_ENTROPY:
        return -(targets * jax.nn.log_softmax(outputs)).sum(axis=-1)
    squares = jnp.square(outputs - targets).reshape(len(outputs), -1)
    return squares.mean(axis=1) if name == "mean" else squared_loss(name, 1).value * squares.sum(axis=1)


def read_outputs_and_targets(outputs, targets, loss: str, name: str, targets_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked outputs and targets of equal shape.

    Raises:
      ConfigError: different shapes, or targets that are not probabilities for cross-entropy.
    """
    outputs, targets = checked_outputs(outputs, name), checked_outputs(targets, targets_name)
    if outputs.shape != targets.shape:
        raise ConfigError(
            f"{targets_name} has shape {targets.shape} for {name} {outputs.shape}; they must be equal. "
            "For class ids, try: ntk_select.linearized.targets(labels)"
        )
    if loss in CROSS_ENTROPY:
        if outputs.ndim == 1 or outputs.shape[1] < 2:
            raise ConfigError(f"loss={loss!r} needs at least two outputs; {name} has shape {outputs.shape}.")
        if (targets < 0).any() or np.abs(targets.sum(axis=1) - 1).max() > 1e-6:
            raise ConfigError(f"loss={loss!r} needs {targets_name} whose rows are probabilities. Try: ntk_select.linearized.targets(labels)")
    return outputs, targets


@host_only
def targets(
    labels: Integer[AnyArray, " n"] | Sequence[int], num_classes: int | None = None, *, encoding: str = "onehot"
) -> Float[np.ndarray, "n ..."]:
    """Regression targets from class ids.

    Args:
      labels: (n,), 0 .. num_classes - 1.
      num_classes: one more than the largest label if None.
      encoding: "onehot": (n, c) of zeros and ones; "pm1": for two classes, (n,) with -1 for class 0 and +1 for class 1, as
        in the binary case of the paper.

    Raises:
      ConfigError: labels that are not such integers, an unknown encoding, or "pm1" without exactly two classes.
    """
    given = np.asarray(labels)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise ConfigError(f"labels has type {given.dtype} and shape {given.shape}; give class ids, integers (n,).")
    c = int(given.max()) + 1 if num_classes is None else num_classes
    if not is_whole(c):
        raise ConfigError(f"num_classes={num_classes!r} must be a whole number, or None.")
    if given.min() < 0 or given.max() >= c:
        raise ConfigError(f"labels run from {given.min()} to {given.max()}; allowed are 0 to {c - 1}. Try: num_classes={int(given.max()) + 1}")
    if encoding == "onehot":
        return np.eye(c)[given]
    if encoding != "pm1":
        raise ConfigError(f"encoding={encoding!r} is unknown. Allowed: onehot, pm1.")
    if c != 2:
        raise ConfigError(f"encoding='pm1' requires two classes; there are {c}. Try: encoding='onehot'")
    return 2.0 * given - 1.0
