"""Kernel ridge regression on the residual: the limit of training with weight decay towards the initial weights."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg

from ntk_select._runtime.checks import is_number
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import read_outputs_and_targets
from ntk_select.linearized.optimizers import Scalar
from ntk_select.linearized.problem import CrossKernel, Kernel, TestValues, Values, checked_outputs, host_only, read_cross, read_problem
from ntk_select.linearized.spectrum import check_tolerance


class Ridge(NamedTuple):
    """Kernel ridge regression.

    Attributes:
      coefficients: a = (Theta + ridge)^-1 (y - f_0).
      train_outputs: f_0 + Theta a.
      test_outputs: the same with the cross kernel; None without one.
    """

    coefficients: Float[np.ndarray, "n ..."]
    train_outputs: Float[np.ndarray, "n ..."]
    test_outputs: Float[np.ndarray, "n2 ..."] | None

    def __repr__(self):
        return f"Ridge({', '.join(f'{name} {None if array is None else array.shape}' for name, array in self._asdict().items())})"


@host_only
def kernel_ridge(
    kernel: Kernel,
    targets: Values,
    *,
    ridge: Scalar,
    outputs: Values | None = None,
    cross_kernel: CrossKernel | None = None,
    test_outputs: TestValues | None = None,
    tolerance: float = 1e-10,
) -> Ridge:
    """Kernel ridge regression around the outputs before training.

    Args:
      kernel, cross_kernel: as for `predict`.
      targets: y, on the training examples.
      ridge: absolute ridge, positive. Training a squared loss with weight decay converges to ridge = weight_decay / slope, where slope is 1
        for "half_sum", 2 for "sum", 2 / (n c) for "mean".
      outputs, test_outputs: f_0; zero if None.
      tolerance: relative residual of the linear system, for a kernel function.

    Raises:
      ConfigError: incompatible shapes, a ridge that is not positive or too small for a singular kernel.

    Reference: scikit-learn's KernelRidge with kernel="precomputed" gives the same for f_0 = 0.  Cost: a Cholesky factorisation,
    O(m^3) for a matrix (m, m); conjugate gradients for a kernel function.
    """
    targets = checked_outputs(targets, "targets")
    outputs, targets = read_outputs_and_targets(np.zeros_like(targets) if outputs is None else outputs, targets, "half_sum", "outputs", "targets")
    if not is_number(ridge) or not 0 < ridge < math.inf:
        raise ConfigError(f"ridge={ridge!r} must be a positive number.")
    check_tolerance(tolerance)
    problem = read_problem(kernel, outputs)
    residual = targets - outputs
    if problem.matrix is not None:
        try:
            factor = cho_factor(problem.matrix + ridge * np.eye(len(problem.matrix)))
        except LinAlgError as error:
            raise ConfigError(f"kernel + ridge is not positive definite at ridge={ridge:g}. Try: a larger ridge, or the kernel in float64") from error
        a = cho_solve(factor, problem.flat(residual)).reshape(-1)
    else:
        operator = LinearOperator((residual.size,) * 2, matvec=lambda v: problem.product(v.reshape(-1)) + ridge * v.reshape(-1), dtype=np.float64)
        a, failed = cg(operator, residual.reshape(-1), rtol=tolerance, maxiter=10 * residual.size)
        if failed:
            raise ConfigError(f"Conjugate gradients did not reach tolerance={tolerance:g} at ridge={ridge:g}. Try: a larger ridge or tolerance")
    test = None
    if cross_kernel is not None:
        if callable(cross_kernel) and test_outputs is None:
            raise ConfigError("A function cross_kernel= requires test_outputs=, for the number of test examples. Try: test_outputs=np.zeros((n2, c))")
        start = np.zeros((len(cross_kernel), *outputs.shape[1:])) if test_outputs is None else checked_outputs(test_outputs, "test_outputs")
        test = start + read_cross(cross_kernel, problem, start)(a)
    elif test_outputs is not None:
        raise ConfigError("test_outputs= requires cross_kernel=.")
    return Ridge(problem.like(a), outputs + problem.product(a).reshape(outputs.shape), test)
