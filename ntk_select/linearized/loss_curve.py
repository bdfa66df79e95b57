"""The training loss of the linearised network in closed form: Prop. 1, for every optimiser of `optimizers`."""

import math
from bisect import bisect_left

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import squared_loss
from ntk_select.linearized.optimizers import Optimizer, Scalar, read_times
from ntk_select.linearized.problem import Kernel, Problem, Times, Values, checked_outputs, host_only, read_problem
from ntk_select.linearized.spectrum import MOST_PRODUCTS, TOLERANCE, all_modes, eigenvalues_of_kernel, find_modes


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
      optimizer: "flow", "gd", "momentum" or "nesterov", full batch: dw/dt = -lr grad; w <- w - lr grad; and as `optax.sgd`.
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
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    when = read_times(method, times, steps)
    residual = checked_outputs(residual, "residual")
    value, slope = squared_loss(loss, residual.size)

    def squares(modes):
        return modes.squares(method, slope, when)

    return value * squares(find_modes(read_problem(kernel, residual), residual, squares, tolerance=tolerance, most_products=most_products))


@host_only
def max_stable_lr(
    kernel: Kernel | Scalar,
    *,
    size: int | None = None,
    shape: tuple[int, ...] | None = None,
    optimizer: str = "gd",
    momentum: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
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
    method = Optimizer(optimizer, 1.0, momentum, weight_decay)
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
        outputs = np.zeros((len(kernel), *kernel.shape[3:]))
        if kernel.ndim == 4:
            size = outputs.size
        elif size is None and shape is not None:
            size = math.prod(shape)
        problem = read_problem(kernel, outputs)
        largest = float(eigenvalues_of_kernel(np.linalg.eigvalsh(problem.matrix), problem.epsilon)[-1])
    if loss == "mean" and size is None:
        raise ConfigError("loss='mean' divides by the number of residuals, n times c. Type: size=n * c")
    rate = squared_loss(loss, size or 1).slope * largest + weight_decay
    return math.inf if rate == 0 else method.largest_rate / rate


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
    most_steps: int = 1_000_000,
) -> float:
    """The first time, or number of steps, at which the training loss is at most `target`.

    Args:
      target: in the convention of `loss`.
      most_steps: where losses are computed step by step (momentum; descent with weight decay), no further than this.
      kernel, residual, lr, optimizer, momentum, weight_decay, loss: as for `loss_curve`; the kernel as an array.

    Returns:
      A float; a whole number for optimisers that take steps. Infinity where the loss never gets there, or not within `most_steps`.

    Raises:
      ConfigError: as `loss_curve`; a target that is no number; or a kernel that is a function.

    Cost: one eigendecomposition; some tens of evaluations for flow and plain descent, else one a step.
    """
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    residual = checked_outputs(residual, "residual")
    value, slope = squared_loss(loss, residual.size)
    check_count("most_steps", most_steps, 0)
    if not is_number(target):
        raise ConfigError(f"target={target!r} must be a number, a loss.")
    target = float(target)
    if callable(kernel):
        raise ConfigError("time_to_loss needs all eigenvalues: give the kernel as an array, or read the time off loss_curve.")
    modes = all_modes(read_problem(kernel, residual), residual)

    def losses(*times: float) -> np.ndarray:
        return value * modes.squares(method, slope, np.array(times, np.float64))

    if losses(0)[0] <= target:
        return 0.0
    rate = method.rate(modes.values.max(), slope)
    monotone = rate < method.largest_rate and (not method.discrete or (method.optimizer == "gd" and not weight_decay))
    if not monotone:
        first, width = 0, 64
        while first <= most_steps:
            below = losses(*range(first, min(first + width, most_steps + 1))) <= target
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
