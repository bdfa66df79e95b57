"""How does the linearised network move where there is no closed form: cross-entropy, mini-batches?

Every gradient lies in the span of the examples' gradients, so that the weights are w_0 + J' a and it is enough to follow the
n c coefficients a. An optimiser that takes steps does to a exactly what it does to the weights.
"""

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.optimize import NoConvergence, newton_krylov

from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import loss_gradient
from ntk_select.linearized.problem import Problem
from ntk_select.linearized.rules import Rule

ODE_TOLERANCE = 1e-10


def stepped(
    problem: Problem, outputs: np.ndarray, targets: np.ndarray, rule: Rule, loss: str, times: np.ndarray, *, batches=None
) -> Float[np.ndarray, "t size"]:
    """Coefficients after each number of steps in `times`. Cost: one product with the kernel a step."""
    a = np.zeros(outputs.size)
    velocity = np.zeros_like(a)
    wanted = {int(time) for time in times}
    found = {0: a}
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(int(times.max())):
            now = outputs + problem.product(a).reshape(outputs.shape)
            if batches is None:
                gradient = loss_gradient(loss, now, targets)
            else:
                rows = batches[step]
                gradient = np.zeros_like(now)
                gradient[rows] = loss_gradient(loss, now[rows], targets[rows])
            gradient = gradient.reshape(-1) + rule.weight_decay * a
            velocity = rule.momentum * velocity + gradient
            move = gradient + rule.momentum * velocity if rule.optimizer == "nesterov" else velocity
            a = a - rule.lr * move
            if step + 1 in wanted:
                found[step + 1] = a
    return np.stack([found[int(time)] for time in times])


def flowed(problem: Problem, outputs: np.ndarray, targets: np.ndarray, rule: Rule, loss: str, times: np.ndarray) -> Float[np.ndarray, "t size"]:
    """Coefficients at `times` under gradient flow, by an explicit method of order 8 with steps under control.

    Raises:
      ConfigError: the solver gave up.
    """

    def velocity(_, a):
        now = outputs + problem.product(a).reshape(outputs.shape)
        return -rule.lr * (loss_gradient(loss, now, targets).reshape(-1) + rule.weight_decay * a)

    order, back = np.unique(times, return_inverse=True)
    if order[-1] == 0:
        return np.zeros((len(times), outputs.size))
    # Coefficients are as large as lr times gradient times time: what is below that by the tolerance does not count.
    scale = rule.lr * np.abs(loss_gradient(loss, outputs, targets)).max() * order[-1]
    start = np.zeros(outputs.size)
    found = solve_ivp(velocity, (0.0, order[-1]), start, "DOP853", order, rtol=ODE_TOLERANCE, atol=ODE_TOLERANCE * max(scale, 1e-300))
    if not found.success:
        raise ConfigError(f"The flow could not be followed to time {order[-1]:g}: {found.message} Type: a smaller lr or shorter times")
    return found.y.T[back]


def limit(problem: Problem, outputs: np.ndarray, targets: np.ndarray, rule: Rule, loss: str) -> Float[np.ndarray, " size"]:
    """Coefficients at the minimum of loss + weight_decay/2 |w - w_0|^2: there gradient + weight_decay a = 0.

    Raises:
      ConfigError: the solver gave up.
    """

    def excess(scaled):
        now = outputs + problem.product(scaled / rule.weight_decay).reshape(outputs.shape)
        return loss_gradient(loss, now, targets).reshape(-1) + scaled

    start = -loss_gradient(loss, outputs, targets).reshape(-1)
    tolerance = 1e-11 * np.abs(start).max()
    try:
        return newton_krylov(excess, np.zeros_like(start), f_tol=tolerance, method="lgmres", maxiter=200) / rule.weight_decay
    except NoConvergence as error:
        raise ConfigError(f"The limit of training with weight_decay={rule.weight_decay:g} was not found. Type: a larger weight_decay") from error


def checked_batches(batches, n: int, times: np.ndarray) -> list[np.ndarray]:
    """One array of places a step. Raises ConfigError for places that do not exist, or too few batches."""
    rows = [np.asarray(batch) for batch in batches]
    last = times[np.isfinite(times)].max(initial=0)
    if len(rows) < last:
        raise ConfigError(f"There are {len(rows)} batches for {int(last)} steps; give one a step.")
    for batch in rows:
        if batch.ndim != 1 or not batch.size or batch.dtype.kind not in "iu" or batch.min() < 0 or batch.max() >= n:
            raise ConfigError(f"Each batch must be a row of places among the {n} training examples, 0 to {n - 1}; given: {batch!r}.")
        if len(np.unique(batch)) < len(batch):
            raise ConfigError("A batch names an example twice.")
    return rows
