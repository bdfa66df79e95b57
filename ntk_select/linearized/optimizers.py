"""Full-batch optimisers in closed form along one eigenvector of the kernel.

With w_t - w_0 = J' a_t and r = y - f_0, training on a squared loss is linear in a and decouples along the eigenvectors of the kernel.
For an eigenvalue s, the solution depends on the rate z = lr (slope s + weight_decay):

    residual:      r_t = (weight_decay + slope s p_t) / (weight_decay + slope s) r,     p_0 = 1
    coefficient:   a_t = lr slope u_t r,                                                u_t = (1 - p_t) / z

Flow: p = exp(-z t). Gradient descent: p = (1 - z)^t. Momentum: powers of a 3 x 3 matrix.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int, Real

from ntk_select._runtime.checks import is_number, is_whole
from ntk_select.errors import ConfigError, did_you_mean

MAX_POINTS = 10**8
Scalar = float | np.number | Real[Array | np.ndarray, ""]
OPTIMIZERS = ("flow", "gd", "momentum", "nesterov")


@dataclass(frozen=True)
class Optimizer:
    """Gradient flow or gradient descent on the full batch.

    Args:
      optimizer: "flow": dw/dt = -lr grad; "gd": w <- w - lr grad; "momentum" and "nesterov" as `optax.sgd` and PyTorch's SGD:
        v <- momentum v + grad, w <- w - lr v, or with Nesterov w <- w - lr (grad + momentum v).
      lr: learning rate, positive.
      momentum: momentum from 0 to below 1; only for "momentum" and "nesterov".
      weight_decay: strength of the term weight_decay (w - w_0) added to the gradient: towards the initial weights, not towards zero.

    Raises:
      ConfigError: a value that is not allowed.
    """

    optimizer: str = "flow"
    lr: Scalar = 1.0
    momentum: Scalar = 0.0
    weight_decay: Scalar = 0.0

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer={self.optimizer!r} is unknown.{did_you_mean(str(self.optimizer), OPTIMIZERS)}")
        if not is_number(self.lr) or not 0 < self.lr < math.inf:
            raise ConfigError(f"lr={self.lr!r} must be a positive number.")
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum={self.momentum!r} must be a number from 0 to below 1.")
        if self.momentum and self.optimizer in ("flow", "gd"):
            raise ConfigError(f"momentum={self.momentum!r} requires optimizer='momentum' or 'nesterov', not {self.optimizer!r}.")
        if not is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay={self.weight_decay!r} must be a number of at least 0.")
        for name in ("lr", "momentum", "weight_decay"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def discrete(self) -> bool:
        """Whether it takes steps, rather than following the continuous flow."""
        return self.optimizer != "flow"

    @property
    def largest_rate(self) -> float:
        """The smallest rate z at which a direction no longer converges."""
        mu = self.momentum
        return {"flow": math.inf, "gd": 2.0, "momentum": 2 * (1 + mu), "nesterov": 2 * (1 + mu) / (1 + 2 * mu)}[self.optimizer]

    def to_optax(self) -> optax.GradientTransformation:
        """The same optimiser in Optax, without weight decay; not for the flow."""
        return optax.sgd(self.lr, momentum=self.momentum or None, nesterov=self.optimizer == "nesterov" and self.momentum > 0)

    def rate(self, values: Any, slope: float) -> Any:
        """The rate z of each eigenvalue."""
        return self.lr * (slope * values + self.weight_decay)

    def factors(
        self, values: Float[np.ndarray, " m"], slope: float, times: Real[np.ndarray, " t"] | Sequence[float]
    ) -> tuple[Float[np.ndarray, "t m"], Float[np.ndarray, "t m"]]:
        """r_t / r and a_t / r of each eigenvalue; infinite where training diverges."""
        driven = slope * values
        total = driven + self.weight_decay
        share = np.divide(driven, total, out=np.ones_like(total), where=total > 0)
        with np.errstate(over="ignore", invalid="ignore"):
            p, u = self._solve(self.rate(values, slope), np.asarray(times, np.float64))
            residual = (1 - share) + np.multiply(share, p, out=np.zeros_like(p), where=share > 0)
            return tuple(np.where(np.isnan(factors), np.inf, factors) for factors in (residual, self.lr * slope * u))

    def _solve(self, z: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """p (t, m) and u (t, m). At infinite times u is the pseudo-inverse of z; both are infinite where training diverges."""
        finite, moves, converges = np.isfinite(times), z > 0, z < self.largest_rate
        p, u = np.empty((2, len(times), len(z)))
        solve = self._exponential if self.optimizer in ("flow", "gd") else self._matrix_powers
        p[finite], u[finite] = solve(z, times[finite])
        p[~finite] = np.where(converges, np.where(moves, 0.0, 1.0), np.inf)
        u[~finite] = np.where(converges, np.divide(1.0, z, out=np.zeros_like(z), where=moves), np.inf)
        return p, u

    def _exponential(self, z: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = times[:, None]
        if self.optimizer == "flow":
            p, gained = np.exp(-t * z), -np.expm1(-t * z)
        else:
            small, exponent = z < 0.5, t * np.log1p(-np.minimum(z, 0.5))
            p = np.where(small, np.exp(exponent), (1 - z) ** t)
            gained = np.where(small, -np.expm1(exponent), 1 - p)
        return p, np.divide(gained, z, out=np.broadcast_to(t, p.shape).copy(), where=z > 0)

    def _matrix_powers(self, z: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The state is (u, b, 1), with b the velocity times lr: b <- mu b + z u - 1, u <- u - b."""
        mu, ones, zeros = self.momentum, np.ones_like(z), np.zeros_like(z)
        first = [1 - z, -mu * ones, ones] if self.optimizer == "momentum" else [1 - z - mu * z, -(mu**2) * ones, (1 + mu) * ones]
        step = np.moveaxis(np.array([first, [z, mu * ones, -ones], [zeros, zeros, ones]]), 2, 0)
        state = np.zeros((len(z), 3, 2))  # from (1, 0, 0) for p, from (0, 0, 1) for u
        state[:, 0, 0] = state[:, 2, 1] = 1
        p, u = np.empty((2, len(times), len(z)))
        past = 0
        for index in np.argsort(times, kind="stable"):
            gap = int(times[index]) - past
            if gap:
                state, past = (step if gap == 1 else np.linalg.matrix_power(step, gap)) @ state, past + gap
            p[index], u[index] = state[:, 0, 0], state[:, 0, 1]
        return p, u


def read_times(optimizer: Optimizer, times, steps, *, limit: bool = False) -> Float[np.ndarray, " t"]:
    """`times` as floats, or 0, 1, ..., steps. Discrete optimisers need whole numbers; infinity is allowed with `limit`.

    Raises:
      ConfigError: both or neither is given, or a value is not allowed.
    """
    if (times is None) == (steps is None):
        raise ConfigError("Give either times= or steps=. Try: steps=100 for the curve after 0, 1, ..., 100 steps")
    if steps is not None:
        if not is_whole(steps) or steps < 0:
            raise ConfigError(f"steps={steps!r} must be a whole number from 0. For single points, try: times=[0, 10, 100]")
        if steps > MAX_POINTS:
            raise ConfigError(f"steps={steps} is a curve of more than {MAX_POINTS:,} points. Try: times=[0, {steps // 2}, {steps}]")
        return np.arange(steps + 1.0)
    try:
        given = np.atleast_1d(np.asarray(times, np.float64))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"times= takes numbers; given: {type(times).__name__}.") from error
    if given.ndim != 1 or not given.size or np.isnan(given).any() or (given < 0).any():
        raise ConfigError(f"times= takes a one-dimensional array of non-negative numbers; given: {times!r}.")
    finite = given[np.isfinite(given)]
    if not limit and len(finite) < len(given):
        raise ConfigError("times= must be finite here.")
    between = finite[finite != np.rint(finite)]
    if optimizer.discrete and between.size:
        raise ConfigError(f"optimizer={optimizer.optimizer!r} takes whole steps; times= holds {between[0]}. Try: optimizer='flow'")
    return given


def read_batches(batches, n: int, times: Float[np.ndarray, " t"]) -> list[Int[np.ndarray, " b"]]:
    """One array of indices per step. Raises ConfigError for indices out of range, repeated indices, or too few batches."""
    rows = [np.asarray(batch) for batch in batches]
    last = times[np.isfinite(times)].max(initial=0)
    if len(rows) < last:
        raise ConfigError(f"There are {len(rows)} batches for {int(last)} steps; give one per step.")
    for batch in rows:
        if batch.ndim != 1 or not batch.size or batch.dtype.kind not in "iu" or batch.min() < 0 or batch.max() >= n:
            raise ConfigError(f"Each batch must be a one-dimensional array of indices of the {n} training examples, 0 to {n - 1}; given: {batch!r}.")
        if len(np.unique(batch)) < len(batch):
            raise ConfigError("A batch holds an index twice.")
    return rows
