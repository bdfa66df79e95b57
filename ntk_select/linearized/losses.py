"""Losses and their derivatives in the outputs.

The paper writes the loss as sum (y - f)^2 and solves the flow of half of it (E1 and E2 in README.md): here both have a name.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import log_softmax, softmax

from ntk_select.errors import ConfigError, did_you_mean

SQUARED = ("half_sum", "sum", "mean")
CROSS_ENTROPY = ("cross_entropy", "cross_entropy_sum")
LOSSES = SQUARED + CROSS_ENTROPY


class SquaredLoss(NamedTuple):
    """`value` times the sum of the squared residuals; its derivative in the outputs is `slope` times (f - y)."""

    value: float
    slope: float


def squared_loss(name: str, size: int) -> SquaredLoss:
    """The constants of a squared loss over `size` = n * c residuals.

    "half_sum": 1/2 sum (f - y)^2, whose flow is eq. 1 of the paper as printed; "sum": sum (f - y)^2, the loss that the paper
    states; "mean": the mean over examples and outputs, as `jnp.mean((f - y)**2)` and PyTorch's MSELoss.

    Raises:
      ConfigError: the name is unknown, or not that of a squared loss.
    """
    check_loss(name)
    if name not in SQUARED:
        raise ConfigError(
            f"loss={name!r} has no closed form. Type: ntk_select.linearized.predict(..., loss={name!r}), or one of {', '.join(SQUARED)}"
        )
    return {"half_sum": SquaredLoss(0.5, 1.0), "sum": SquaredLoss(1.0, 2.0), "mean": SquaredLoss(1.0 / size, 2.0 / size)}[name]


def check_loss(name: str) -> None:
    """Raises ConfigError unless `name` is one of `LOSSES`."""
    if name not in LOSSES:
        raise ConfigError(f"loss={name!r} is unknown.{did_you_mean(str(name), LOSSES)}")


def is_mean(name: str) -> bool:
    """Whether the loss of a batch is the mean over its examples, rather than the sum."""
    return name in ("mean", "cross_entropy")


def loss_value(name: str, outputs: Float[np.ndarray, "n ..."], targets: Float[np.ndarray, "n ..."]) -> float:
    """The loss on the host, in float64; infinity where an output overflowed."""
    if not np.isfinite(outputs).all():
        return np.inf
    if name in CROSS_ENTROPY:
        total = -(targets * log_softmax(outputs, axis=-1)).sum()
        return float(total / len(outputs) if is_mean(name) else total)
    with np.errstate(over="ignore"):  # a curve may diverge
        return float(squared_loss(name, outputs.size).value * np.square(outputs - targets).sum())


def loss_gradient(name: str, outputs: Float[np.ndarray, "n ..."], targets: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """Derivative of `loss_value` in the outputs."""
    if name in CROSS_ENTROPY:
        gradient = softmax(outputs, axis=-1) * targets.sum(axis=-1, keepdims=True) - targets
        return gradient / len(outputs) if is_mean(name) else gradient
    return squared_loss(name, outputs.size).slope * (outputs - targets)


def example_losses(name: str, outputs: Float[Array | np.ndarray, "n ..."], targets: Float[Array | np.ndarray, "n ..."]) -> Float[Array, " n"]:
    """The contribution of each example to the sum, or to the mean; in JAX, to train with."""
    if name in CROSS_ENTROPY:
        return -(targets * jax.nn.log_softmax(outputs)).sum(axis=-1)
    squares = jnp.square(outputs - targets).reshape(len(outputs), -1)
    return squares.mean(axis=1) if name == "mean" else squared_loss(name, 1).value * squares.sum(axis=1)
