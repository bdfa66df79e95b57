"""The largest stable learning rate of the linearised network, and the default learning rate derived from it."""

import math

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import squared_loss
from ntk_select.linearized.optimizers import Optimizer, Scalar
from ntk_select.linearized.problem import Kernel, Problem, host_only, read_problem
from ntk_select.linearized.spectrum import eigenvalues_of_kernel

SAFE_SHARE = 0.1
"""Share of the largest stable learning rate that is the default learning rate."""


def default_lr(largest_stable: float) -> float:
    """The default learning rate: `SAFE_SHARE` of the largest stable one.

    Raises:
      ConfigError: the largest stable learning rate is infinite, because the kernel is zero.
    """
    if not math.isfinite(largest_stable):
        raise ConfigError(
            "The kernel is zero: these parameters have no gradient at the start. "
            "Try: layers='all', or a head that is not zero, as from with_new_head(expert, classes, head='random')"
        )
    return SAFE_SHARE * largest_stable


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
      kernel: (n, n), (n, n, c, c), a function v -> Theta v, or only the largest eigenvalue.
      size: n times c, the number of residuals, for loss="mean"; inferred from a kernel (n, n, c, c) or from `shape`.
      shape: shape of the outputs, (n,) or (n, c), for a kernel function.
      optimizer, momentum, weight_decay, loss: as for `loss_curve`; the defaults are "gd" and "half_sum". Momentum multiplies the
        result by 1 + momentum, Nesterov momentum by (1 + momentum) / (1 + 2 momentum); it is infinite for the flow.

    Raises:
      ConfigError: as `loss_curve`, or `size` is needed and missing.

    Cost: the largest eigenvalue: O(m^3), or some tens of products with a kernel function (SciPy's eigsh, to five digits).
    """
    method = Optimizer(optimizer, 1.0, momentum, weight_decay)
    squared_loss(loss, 1)  # refuses an unknown one before the eigenvalues are computed
    if size is not None:
        check_count("size", size, 1)
    if is_number(kernel):
        largest = float(kernel)
        if not 0 <= largest < math.inf:
            raise ConfigError(f"kernel={kernel!r}, its largest eigenvalue, must be a number of at least 0.")
    elif callable(kernel):
        if not isinstance(shape, tuple) or len(shape) not in (1, 2) or min(shape) < 1:
            raise ConfigError(f"A kernel function requires the shape of the outputs; given: shape={shape!r}. Try: shape=(n, c)")
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
        raise ConfigError("loss='mean' divides by the number of residuals, n times c. Try: size=n * c")
    rate = squared_loss(loss, size or 1).slope * largest + weight_decay
    return math.inf if rate == 0 else method.largest_rate / rate


def _largest_of_function(problem: Problem) -> float:
    """The largest eigenvalue of a kernel function. Raises ConfigError if ARPACK does not converge."""
    size = problem.n * problem.c
    start = np.random.default_rng(0).normal(size=size)
    moved = problem.product(start)
    if size == 1 or not moved.any():  # ARPACK accepts neither
        return float(moved[0] / start[0])
    operator = LinearOperator((size, size), matvec=lambda v: problem.product(np.asarray(v).reshape(-1)), dtype=np.float64)
    try:
        return float(eigsh(operator, 1, which="LA", tol=1e-5, v0=start, return_eigenvectors=False)[0])
    except ArpackError as error:
        raise ConfigError(f"The kernel function's largest eigenvalue was not found: {error} Try: the kernel as an array") from error
