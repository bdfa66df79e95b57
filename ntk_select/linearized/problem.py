"""Do a kernel and the outputs that it moves fit together, and how are they laid out?

A kernel comes as (n, n), one for all outputs (the class-trace approximation, or a single output); as (n, n, c, c); or as a
function v -> Theta v on arrays like the outputs, (n,) or (n, c).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ntk_select.errors import ConfigError, not_finite

DOUBLE = 2.0**-52
OVERFLOWS = 1e18  # coefficients beyond it are those of a training that diverged
KERNEL_HINT = "Type: kernel=ntk_select.ntk(fn, params, x, outputs='full') for (n, n, c, c), or 'trace' for (n, n)"


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel and the shape (n, c) of the outputs that it moves; outputs (n,) count as (n, 1).

    Attributes:
      matrix: (n, n), or (n c, n c); None for a function.
      n, c: examples and outputs.
      row: whether outputs came as (n,).
      function: as it was given, else None.
      epsilon: rounding of the type in which the kernel came.
    """

    matrix: np.ndarray | None
    n: int
    c: int
    row: bool
    function: Callable[[Any], Any] | None = None
    epsilon: float = DOUBLE

    @property
    def shared(self) -> bool:
        """Whether one (n, n) matrix serves all outputs."""
        return self.matrix is not None and len(self.matrix) == self.n

    def flat(self, v: np.ndarray) -> np.ndarray:
        """Outputs as columns that `matrix` multiplies: (n, c), or (n c, 1)."""
        v = np.asarray(v, np.float64)
        return v.reshape(self.n, self.c) if self.shared else v.reshape(-1, 1)

    def like(self, v: np.ndarray) -> np.ndarray:
        """Numbers in the shape in which outputs came."""
        return v.reshape(self.n) if self.row else v.reshape(self.n, self.c)

    def product(self, v: np.ndarray) -> np.ndarray:
        """Theta v for v of n c numbers, in float64, of the shape of v."""
        if self.matrix is not None:
            return (self.matrix @ self.flat(v)).reshape(v.shape)
        if not np.isfinite(v).all():  # a training that diverged: what the kernel does to it says nothing
            return np.full_like(v, np.nan)
        result = np.asarray(self.function(self.like(v)), np.float64)
        if result.size != v.size:
            raise ConfigError(f"The kernel function gave {result.shape} for outputs {self.like(v).shape}; it must keep the shape.")
        if not np.isfinite(result).all():
            if np.abs(v).max() > OVERFLOWS:
                return np.full_like(v, np.nan)
            raise ConfigError(not_finite("The kernel function's product holds"))
        return result.reshape(v.shape)


def checked_outputs(array, name: str) -> np.ndarray:
    """A float64 array (n,) or (n, c), finite. Raises ConfigError otherwise."""
    try:
        array = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is a {type(array).__name__}; give an array (n,) or (n, c).") from error
    if array.ndim not in (1, 2) or not array.size or not _is_real(array.dtype):
        raise ConfigError(f"{name} has type {array.dtype} and shape {array.shape}; give real numbers (n,) or (n, c), one row an example.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ConfigError(not_finite(f"{name} holds"))
    return array


def _is_real(dtype) -> bool:
    return dtype.kind in "fiub" or jnp.issubdtype(dtype, jnp.floating)


def read_problem(kernel, outputs: np.ndarray) -> Problem:
    """The problem of a kernel and checked outputs (n,) or (n, c).

    Raises:
      ConfigError: shapes that do not fit, or a kernel that is not finite or not symmetric.
    """
    n, c = len(outputs), 1 if outputs.ndim == 1 else outputs.shape[1]
    if callable(kernel):
        return Problem(None, n, c, outputs.ndim == 1, kernel)
    matrix = _matrix(kernel, (n, n), c, "kernel")
    scale = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > 1e-4 * scale:
        raise ConfigError("kernel is not symmetric. Give the kernel of the training examples with themselves; others go into cross_kernel=.")
    kind = getattr(kernel, "dtype", np.dtype(np.float64))
    epsilon = float(jnp.finfo(kind).eps) if jnp.issubdtype(kind, jnp.floating) else DOUBLE
    return Problem((matrix + matrix.T) / 2, n, c, outputs.ndim == 1, epsilon=epsilon)


def read_cross(cross_kernel, problem: Problem, n_test: int) -> Callable[[np.ndarray], np.ndarray]:
    """Coefficients of the training outputs (n c numbers) to their effect on the test outputs (n_test, c)."""
    if callable(cross_kernel):
        nothing = np.full((n_test, problem.c), np.nan)
        return lambda v: _checked_effect(cross_kernel(problem.like(v)), n_test, problem.c) if np.isfinite(v).all() else nothing
    matrix = _matrix(cross_kernel, (n_test, problem.n), problem.c, "cross_kernel")
    if matrix.shape == (n_test, problem.n):
        return lambda v: matrix @ v.reshape(problem.n, problem.c)
    return lambda v: (matrix @ v.reshape(-1)).reshape(n_test, problem.c)


def check_test_outputs(problem: Problem, test_outputs: np.ndarray) -> None:
    """Raises ConfigError unless test outputs have the columns of the training outputs."""
    if (test_outputs.ndim == 1) != problem.row or (not problem.row and test_outputs.shape[1] != problem.c):
        raise ConfigError(f"test_outputs has shape {test_outputs.shape}; it must have as many columns as outputs, {problem.c}.")


def _checked_effect(effect, n_test: int, c: int) -> np.ndarray:
    effect = np.asarray(effect, np.float64)
    if effect.size != n_test * c:
        raise ConfigError(f"The function cross_kernel gave {effect.shape} for {n_test} test examples and {c} outputs; it must give ({n_test}, {c}).")
    if not np.isfinite(effect).all():
        raise ConfigError(not_finite("What the function cross_kernel gave holds"))
    return effect.reshape(n_test, c)


def _matrix(kernel, shape: tuple[int, int], c: int, name: str) -> np.ndarray:
    try:
        given = np.asarray(kernel)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is a {type(kernel).__name__} that is no array. {KERNEL_HINT}") from error
    if given.shape not in (shape, (*shape, c, c)):
        raise ConfigError(
            f"{name} has shape {given.shape}; for {shape[1]} examples and {c} outputs allowed are {shape} and {(*shape, c, c)}. {KERNEL_HINT}"
        )
    if not _is_real(given.dtype):
        raise ConfigError(f"{name} is {given.dtype}; it must hold real numbers.")
    given = given.astype(np.float64)
    if not np.isfinite(given).all():
        raise ConfigError(not_finite(f"{name} holds"))
    return given if given.ndim == 2 else given.transpose(0, 2, 1, 3).reshape(shape[0] * c, shape[1] * c)
