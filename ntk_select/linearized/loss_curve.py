"""The training loss of the linearised network in closed form: Prop. 1 for flow, gradient descent and momentum."""

import math
from bisect import bisect_left

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import squared_loss
from ntk_select.linearized.optimizers import Optimizer, Scalar, read_times
from ntk_select.linearized.problem import Kernel, Times, Values, checked_outputs, host_only, read_problem
from ntk_select.linearized.spectrum import MAX_PRODUCTS, TOLERANCE, all_modes, find_modes


@host_only
def loss_curve(
    kernel: Kernel,
    residual: Values,
    *,
    lr: Scalar,
    times: Times | None = None,
    steps: int | None = None,
    optimizer: str = "flow",
    momentum: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    loss: str = "half_sum",
    tolerance: float = TOLERANCE,
    max_products: int = MAX_PRODUCTS,
) -> Float[np.ndarray, " t"]:
    """Exact training losses of the linearised network under full-batch training.

    Args:
      kernel: Theta. (n, n): shared by all outputs, as from `ntk(..., outputs="trace")` (the class-trace approximation, exact
        for a single output); (n, n, c, c): `outputs="full"`, exact; or a function v -> Theta v on arrays shaped like `residual`.
        Eigenvalues of an array below 4 epsilon (of its dtype) times the largest are set to zero.
      residual: y - f_0, targets minus outputs before training; targets are +1 and -1, one-hot, or arbitrary.
      lr: learning rate. For the flow, only lr times t matters.
      times, steps: times of the losses, or losses after 0, 1, ..., steps steps; for the flow, steps are times.
      optimizer: "flow" (default), "gd", "momentum" or "nesterov", full batch: dw/dt = -lr grad; w <- w - lr grad; and as `optax.sgd`.
      momentum: momentum of "momentum" and "nesterov", from 0 to below 1.
      weight_decay: strength of weight_decay/2 |w - w_0|^2, towards the initial weights. Losses are without this term.
      loss: "half_sum" (default), "sum" or "mean" of squares; see `squared_loss`. It determines both the gradient and the returned values.
      tolerance: relative tolerance of each loss, for a kernel function.
      max_products: maximal number of products with a kernel function.

    Returns:
      Losses in float64; they grow without bound, up to infinity, if lr is above `max_stable_lr`.

    Raises:
      ConfigError: incompatible shapes, a kernel that is not symmetric or not positive semi-definite, an option that is not
        allowed, or a kernel function that needs more than `max_products` products.

    Reference: Deshpande et al. 2021, Prop. 1 and eq. 1. As printed, with exponent -2 lr Theta t, it holds for "half_sum"; for
    the loss that the paper states, "sum", the exponent is -4 lr Theta t.

    Cost: one eigendecomposition of an (n, n) or (n c, n c) matrix, O(m^3), then O(m) per time; for a kernel function,
    usually some tens of products, and more for longer times, which depend on smaller eigenvalues.
    """
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    when = read_times(method, times, steps)
    residual = checked_outputs(residual, "residual")
    value, slope = squared_loss(loss, residual.size)

    def squares(modes):
        return modes.squares(method, slope, when)

    return value * squares(find_modes(read_problem(kernel, residual), residual, squares, tolerance=tolerance, max_products=max_products))


@host_only
def time_to_loss(
    kernel: Kernel,
    residual: Values,
    target: Scalar,
    *,
    lr: Scalar,
    optimizer: str = "flow",
    momentum: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    loss: str = "half_sum",
    max_steps: int = 1_000_000,
) -> float:
    """The first time, or number of steps, at which the training loss is at most `target`.

    Args:
      target: training loss to reach, in the convention of `loss`.
      max_steps: limit where losses are computed step by step (momentum; gradient descent with weight decay).
      kernel, residual, lr, optimizer, momentum, weight_decay, loss: as for `loss_curve`, with the same defaults; the kernel as an array.

    Returns:
      A float; a whole number for discrete optimisers. Infinity if the loss is never reached, or not within `max_steps`.

    Raises:
      ConfigError: as `loss_curve`; a target that is not a number; or a kernel function.

    Cost: one eigendecomposition; some tens of evaluations for flow and gradient descent, otherwise one per step.
    """
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    residual = checked_outputs(residual, "residual")
    value, slope = squared_loss(loss, residual.size)
    check_count("max_steps", max_steps, 0)
    if not is_number(target):
        raise ConfigError(f"target={target!r} must be a number, a loss.")
    target = float(target)
    if callable(kernel):
        raise ConfigError("time_to_loss needs all eigenvalues. Try: the kernel as an array, or read the time off loss_curve")
    modes = all_modes(read_problem(kernel, residual), residual)

    def losses(*times: float) -> np.ndarray:
        return value * modes.squares(method, slope, np.array(times, np.float64))

    if losses(0)[0] <= target:
        return 0.0
    rate = method.rate(modes.values.max(), slope)
    monotone = rate < method.largest_rate and (not method.discrete or (method.optimizer == "gd" and not weight_decay))
    if not monotone:
        first, width = 0, 64
        while first <= max_steps:
            below = losses(*range(first, min(first + width, max_steps + 1))) <= target
            if below.any():
                return float(first + np.argmax(below))
            first, width = first + width, min(2 * width, 4096)
        return math.inf
    if losses(math.inf)[0] >= target:
        return math.inf
    high = math.ceil(1.0 / rate) if method.discrete else 1.0 / rate
    while losses(high)[0] > target:
        high *= 2
    if method.discrete:
        return float(bisect_left(range(high + 1), True, key=lambda step: bool(losses(step)[0] <= target)))
    return float(brentq(lambda time: losses(time)[0] - target, 0.0, high, xtol=1e-14 * high, rtol=1e-13))
