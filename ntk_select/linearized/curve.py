"""How does the loss fall while the linearised network is trained? Prop. 1, for every optimiser that has a closed form."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ntk_select.engine.inputs import check_count, is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import squared_loss
from ntk_select.linearized.modes import MOST_PRODUCTS, TOLERANCE, Modes, all_modes, cleaned, find_modes
from ntk_select.linearized.problem import Problem, checked_outputs, read_problem
from ntk_select.linearized.rules import Rule, read_times

Kernel = Float[Array, "n n"] | Float[Array, "n n c c"] | Callable


def loss_curve(
    kernel: Kernel,
    residual: Float[Array, " n"] | Float[Array, "n c"],
    *,
    lr: float,
    times: Float[Array, " t"] | None = None,
    steps: int | None = None,
    optimizer: str = "flow",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loss: str = "half_sum",
    tolerance: float = TOLERANCE,
    most_products: int = MOST_PRODUCTS,
) -> Float[np.ndarray, " t"]:
    """Training losses of the linearised network under full-batch training, exactly.

    Args:
      kernel: Theta. (n, n): one for all outputs, as `ntk(..., outputs="trace")` gives it (the class-trace approximation, exact
        for a single output); (n, n, c, c): `outputs="full"`, exact; or a function v -> Theta v on arrays like `residual`.
        Eigenvalues of an array below four roundings of its type are taken for zero.
      residual: y - f_0, targets minus outputs before training; targets are +1 and -1, one-hot, or any numbers.
      lr: learning rate. Under flow only lr times t matters.
      times, steps: at these times, or after 0, 1, ..., steps steps; flow takes steps for times as well.
      optimizer: "flow", "gd", "momentum" or "nesterov"; see `Rule`.
      momentum: of the last two, from 0 to below 1.
      weight_decay: strength of weight_decay/2 |w - w_0|^2, towards the start. The losses are without this term.
      loss: "half_sum", "sum" or "mean" of squares; see `squared_loss`. It sets both the gradient and what is returned.
      tolerance: of each loss, relative, when the kernel is a function.
      most_products: with the kernel, when it is a function.

    Returns:
      Losses in float64. They grow without bound, to infinity at last, where lr is above `max_stable_lr`.

    Raises:
      ConfigError: shapes that do not fit, a kernel that is not symmetric or not positive semi-definite, an option that is not
        allowed, or a function that needs more than `most_products` products.

    Reference: Deshpande et al. 2021, Prop. 1 and eq. 1. As printed, with exponent -2 lr Theta t, it holds for "half_sum"; for
    the loss that the paper states, "sum", the exponent is -4 lr Theta t.

    Cost: one eigendecomposition of an (n, n) or (n c, n c) matrix, O(m^3), then O(m) a time; for a function as many products
    as it takes, usually some tens: more for longer times, whose curve depends on smaller eigenvalues.
    """
    rule = Rule(optimizer, lr, momentum, weight_decay)
    when = read_times(rule, times, steps)
    residual = checked_outputs(residual, "residual")
    constants = squared_loss(loss, residual.size)
    problem = read_problem(kernel, residual)
    limits = checked_limits(tolerance, most_products)
    modes = find_modes(problem, residual, lambda modes: modes.squares(rule, constants.slope, when), **limits)
    return constants.value * modes.squares(rule, constants.slope, when)


def max_stable_lr(
    kernel: Kernel | float,
    *,
    size: int | None = None,
    shape: tuple[int, ...] | None = None,
    optimizer: str = "gd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loss: str = "half_sum",
) -> float:
    """The learning rate below which full-batch training of the linearised network converges: 2 / (slope lambda + weight_decay).

    Args:
      kernel: (n, n), (n, n, c, c), a function v -> Theta v, or the largest eigenvalue alone.
      size: n times c, the number of residuals, for loss="mean"; taken from a kernel (n, n, c, c) and from `shape`.
      shape: of the outputs, (n,) or (n, c), where the kernel is a function.
      optimizer, momentum, weight_decay, loss: as for `loss_curve`. Momentum multiplies the rate by 1 + momentum, Nesterov's by
        (1 + momentum) / (1 + 2 momentum); flow has no largest rate.

    Raises:
      ConfigError: as `loss_curve`, or `size` is needed and missing.

    Cost: the largest eigenvalue: O(m^3), or for a function some tens of products (SciPy's eigsh, to five digits).
    """
    rule = Rule(optimizer, 1.0, momentum, weight_decay)
    if size is not None:
        check_count("size", size, 1)
    if is_number(kernel):
        largest = float(kernel)
        if not 0 <= largest < math.inf:
            raise ConfigError(f"kernel={kernel!r}, its largest eigenvalue, must be a number from 0.")
    elif callable(kernel):
        if not isinstance(shape, tuple) or len(shape) not in (1, 2) or min(shape) < 1:
            raise ConfigError(f"A kernel function does not say how many outputs it moves; shape={shape!r}. Type: shape=(n, c)")
        size = math.prod(shape)
        largest = _largest_of_function(read_problem(kernel, np.zeros(shape)))
    else:
        kernel = np.asarray(kernel)
        if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1] or kernel.shape[2:] != kernel.shape[2:][::-1]:
            raise ConfigError(
                f"kernel has shape {kernel.shape}; allowed are (n, n), (n, n, c, c), a function with shape=, or a number, the largest eigenvalue."
            )
        size = math.prod(shape) if size is None and shape is not None else size
        outputs = np.zeros((len(kernel), kernel.shape[2]) if kernel.ndim == 4 else len(kernel))
        size = outputs.size if kernel.ndim == 4 else size
        problem = read_problem(kernel, outputs)
        largest = float(cleaned(np.linalg.eigvalsh(problem.matrix), problem.epsilon)[-1])
    if loss == "mean" and size is None:
        raise ConfigError("loss='mean' divides by the number of residuals, n times c. Type: size=n * c")
    rate = squared_loss(loss, size or 1).slope * largest + weight_decay
    return math.inf if rate == 0 else rule.largest_rate / rate


def _largest_of_function(problem: Problem) -> float:
    """Raises ConfigError where ARPACK does not find it."""
    size = problem.n * problem.c
    start = np.random.default_rng(0).normal(size=size)
    moved = problem.product(start)
    if size == 1 or not moved.any():  # ARPACK takes neither
        return float(moved[0] / start[0])
    operator = LinearOperator((size, size), matvec=lambda v: problem.product(np.asarray(v).reshape(-1)), dtype=np.float64)
    try:
        return float(eigsh(operator, 1, which="LA", tol=1e-5, v0=start, return_eigenvectors=False)[0])
    except ArpackError as error:
        raise ConfigError(f"The kernel function's largest eigenvalue was not found: {error} Give the kernel as an array.") from error


def time_to_loss(
    kernel: Kernel,
    residual: Float[Array, " n"] | Float[Array, "n c"],
    target: float,
    *,
    lr: float,
    optimizer: str = "flow",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loss: str = "half_sum",
    most_steps: int = 1_000_000,
) -> float:
    """The first time, or number of steps, at which the training loss is at most `target`.

    Args:
      target: in the convention of `loss`.
      most_steps: where training is looked at step by step (momentum; descent with weight decay), no further than this.
      kernel, residual, lr, optimizer, momentum, weight_decay, loss: as for `loss_curve`; the kernel as an array.

    Returns:
      A float; a whole number for optimisers that take steps. Infinity where the loss never gets there, or not within `most_steps`.

    Raises:
      ConfigError: as `loss_curve`; a target that is no number; or a kernel that is a function.

    Cost: one eigendecomposition; some tens of evaluations for flow and plain descent, else one a step.
    """
    rule = Rule(optimizer, lr, momentum, weight_decay)
    residual = checked_outputs(residual, "residual")
    constants = squared_loss(loss, residual.size)
    check_count("most_steps", most_steps, 0)
    if not is_number(target):
        raise ConfigError(f"target={target!r} must be a number, a loss.")
    target = float(target)
    if callable(kernel):
        raise ConfigError("time_to_loss needs all eigenvalues: give the kernel as an array, or read the time off loss_curve.")
    modes = all_modes(read_problem(kernel, residual), residual)

    def at(time: float) -> float:
        return float(constants.value * modes.squares(rule, constants.slope, np.array([time]))[0])

    if at(0.0) <= target:
        return 0.0
    stable = rule.rate(modes.values.max(), constants.slope) < rule.largest_rate
    if stable and (not rule.discrete or (rule.optimizer == "gd" and not weight_decay)):  # the loss only falls
        if at(math.inf) >= target:
            return math.inf
        high = 1.0 / rule.rate(modes.values.max(), constants.slope)
        high = math.ceil(high) if rule.discrete else high
        while at(high) > target:
            high *= 2
        if rule.discrete:
            return float(_first_whole(lambda step: at(step) <= target, high))
        return float(brentq(lambda time: at(time) - target, 0.0, high, xtol=1e-14 * high, rtol=1e-13))
    return _searched(rule, constants, modes, target, most_steps)


def _first_whole(holds: Callable[[float], bool], high: int) -> int:
    """The smallest whole number at which a property holds that holds ever after; it holds at `high`."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(float(middle)) else (middle, high)
    return high


def _searched(rule: Rule, constants, modes: Modes, target: float, most_steps: int) -> float:
    first, width = 0, 64
    while first <= most_steps:
        steps = np.arange(first, min(first + width, most_steps + 1), dtype=float)
        below = constants.value * modes.squares(rule, constants.slope, steps) <= target
        if below.any():
            return float(steps[np.argmax(below)])
        first, width = first + width, min(2 * width, 4096)
    return math.inf


def check_tolerance(tolerance) -> None:
    """Raises ConfigError unless it is a number between 0 and 1."""
    if not is_number(tolerance) or not 0 < tolerance < 1:
        raise ConfigError(f"tolerance={tolerance!r} must be a number between 0 and 1.")


def checked_limits(tolerance, most_products) -> dict:
    """Limits of the matrix-free way. Raises ConfigError for values that are not allowed."""
    check_tolerance(tolerance)
    check_count("most_products", most_products, 1)
    return {"tolerance": float(tolerance), "most": int(most_products)}
