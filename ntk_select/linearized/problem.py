"""Kernel and outputs: types, checks, and their common matrix form.

A kernel is (n, n), shared by all outputs (the class-trace approximation, or a single output); (n, n, c, c); or a function
v -> Theta v on arrays shaped like the outputs, (n,) or (n, c).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Real, Shaped

from ntk_select.errors import ConfigError, not_finite
from ntk_select.kernels.engine.arguments import refuse_tracers
from ntk_select.kernels.sketches.sketched_kernel import SketchedKernel

DOUBLE = 2.0**-52
OVERFLOWS = 1e18
"""Larger coefficients are those of diverged training."""
TRACEABLE = "ns.ntk_fn, ns.ntk_vector_product, or the function returned by ns.linearized.linearize"
SIDES = {"kernel": "x", "cross_kernel": "x_test, x"}

_RENAMED = {"most_products": "max_products", "most_steps": "max_steps"}

AnyArray = Array | np.ndarray
Kernel = Real[AnyArray, "n n"] | Real[AnyArray, "n n c c"] | Callable
CrossKernel = Real[AnyArray, "n2 n"] | Real[AnyArray, "n2 n c c"] | Callable
Values = Real[AnyArray, " n"] | Real[AnyArray, "n c"] | Sequence[Any]
TestValues = Real[AnyArray, " n2"] | Real[AnyArray, "n2 c"] | Sequence[Any]
Examples = PyTree[Shaped[AnyArray, "n ..."]]
TestExamples = PyTree[Shaped[AnyArray, "n2 ..."]]
Times = Real[AnyArray, "..."] | Sequence[float] | float
Batches = Sequence[Int[AnyArray, "..."] | Sequence[int]]


def host_only(function: Callable) -> Callable:
    """Decorator of functions that compute with NumPy: JAX tracers among the arguments raise a ConfigError.

    Old names of keyword arguments are accepted with a DeprecationWarning.
    """

    @wraps(function)
    def checked(*arguments, **options):
        for old in _RENAMED.keys() & options.keys():
            warnings.warn(f"{old}= is deprecated. Try: {_RENAMED[old]}=", DeprecationWarning, stacklevel=2)
            options[_RENAMED[old]] = options.pop(old)
        refuse_tracers(f"ns.linearized.{function.__name__}", TRACEABLE, arguments, options)
        return function(*arguments, **options)

    return checked


@dataclass(eq=False)
class Problem:
    """A kernel and the shape (n, c) of the outputs; outputs (n,) count as (n, 1).

    Attributes:
      matrix: (n, n) or (n c, n c); None for a kernel function.
      row: whether outputs were given as (n,).
      function: v -> Theta v; None for a matrix.
      epsilon: machine epsilon of the dtype in which the kernel was given.
      products: calls of `function` so far.
    """

    matrix: np.ndarray | None
    n: int
    c: int
    row: bool
    function: Callable[[Any], Any] | None = None
    epsilon: float = DOUBLE
    products: int = 0

    @property
    def shared(self) -> bool:
        """Whether all outputs share one (n, n) matrix."""
        return self.matrix is not None and len(self.matrix) == self.n

    def flat(self, v: np.ndarray) -> np.ndarray:
        """Outputs as the columns that `matrix` multiplies: (n, c), or (n c, 1)."""
        v = np.asarray(v, np.float64)
        return v.reshape(self.n, self.c) if self.shared else v.reshape(-1, 1)

    def like(self, v: np.ndarray) -> np.ndarray:
        """Values in the shape in which outputs were given."""
        return v.reshape(self.n) if self.row else v.reshape(self.n, self.c)

    def product(self, v: np.ndarray) -> np.ndarray:
        """Theta v for v of n c numbers, in float64, of the shape of v; NaN where v overflowed.

        Raises:
          ConfigError: the result of a kernel function has another size or is not finite.
        """
        if self.matrix is not None:
            return (self.matrix @ self.flat(v)).reshape(v.shape)
        diverged = np.full_like(v, np.nan)
        if not np.isfinite(v).all():
            return diverged
        self.products += 1
        result = np.asarray(self.function(self.like(v)), np.float64)
        if result.size != v.size:
            raise ConfigError(f"The kernel function returned shape {result.shape} for outputs {self.like(v).shape}; it must return the same shape.")
        if np.isfinite(result).all():
            return result.reshape(v.shape)
        if np.abs(v).max() > OVERFLOWS:
            return diverged
        raise ConfigError(not_finite("The kernel function's product contains"))


def checked_outputs(array, name: str) -> Float[np.ndarray, "n ..."]:
    """A finite float64 array (n,) or (n, c). Raises ConfigError otherwise."""
    try:
        array = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is a {type(array).__name__}; give an array (n,) or (n, c).") from error
    if array.ndim not in (1, 2) or not array.size or not _is_real(array.dtype):
        raise ConfigError(f"{name} has type {array.dtype} and shape {array.shape}; give real numbers (n,) or (n, c), one row per example.")
    return _finite(array, f"{name} holds")


def read_problem(kernel: Kernel, outputs: Float[np.ndarray, "n ..."]) -> Problem:
    """The `Problem` of a kernel and checked outputs (n,) or (n, c).

    Raises:
      ConfigError: incompatible shapes, or a kernel that is not finite or not symmetric.
    """
    n, c = len(outputs), 1 if outputs.ndim == 1 else outputs.shape[1]
    if callable(kernel):
        return Problem(None, n, c, outputs.ndim == 1, kernel)
    matrix = _matrix(kernel, (n, n), c, "kernel")
    if np.abs(matrix - matrix.T).max() > 1e-4 * np.abs(matrix).max():
        raise ConfigError(
            "kernel is not symmetric. It must be the kernel of the training examples with themselves. Try: cross_kernel= for other examples"
        )
    dtype = getattr(kernel, "dtype", np.dtype(np.float64))
    epsilon = float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else DOUBLE
    return Problem((matrix + matrix.T) / 2, n, c, outputs.ndim == 1, epsilon=epsilon)


def read_cross(cross_kernel, problem: Problem, test_outputs: Float[np.ndarray, "n2 ..."]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from coefficients of the training outputs (n c numbers) to the change of the test outputs.

    Both raise ConfigError for incompatible shapes and for values that are not finite.
    """
    shape = test_outputs.shape
    if (len(shape) == 1) != problem.row or (not problem.row and shape[1] != problem.c):
        raise ConfigError(f"test_outputs has shape {shape}; it must have as many columns as outputs: {problem.c}.")
    if not callable(cross_kernel):
        matrix = _matrix(cross_kernel, (shape[0], problem.n), problem.c, "cross_kernel")
        columns = (problem.n, problem.c) if matrix.shape == (shape[0], problem.n) else (-1, 1)
        return lambda v: (matrix @ v.reshape(columns)).reshape(shape)

    def effect(v):
        if not np.isfinite(v).all():
            return np.full(shape, np.nan)
        found = np.asarray(cross_kernel(problem.like(v)), np.float64)
        if found.size != test_outputs.size:
            raise ConfigError(
                f"The function cross_kernel returned shape {found.shape} for {shape[0]} test examples and {problem.c} outputs; it must return {shape}."
            )
        return _finite(found, "The result of the function cross_kernel holds").reshape(shape)

    return effect


def _matrix(kernel, shape: tuple[int, int], c: int, name: str) -> np.ndarray:
    hint = f"Try: {name}=ntk_select.ntk(fn, params, {SIDES[name]}, outputs='full') for (n, n, c, c), or 'trace' for (n, n)"
    if isinstance(kernel, SketchedKernel):
        raise ConfigError(f"{name} is a SketchedKernel, not an array. Try: its attribute `kernel`, for outputs (n,) or the trace")
    try:
        given = np.asarray(kernel)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is a {type(kernel).__name__} which is not an array. {hint}") from error
    if given.shape not in (shape, (*shape, c, c)):
        raise ConfigError(f"{name} has shape {given.shape}; for {shape[1]} examples and {c} outputs allowed are {shape} and {(*shape, c, c)}. {hint}")
    if not _is_real(given.dtype):
        raise ConfigError(f"{name} has type {given.dtype}; it must hold real numbers.")
    given = _finite(given, f"{name} holds")
    return given if given.ndim == 2 else given.transpose(0, 2, 1, 3).reshape(shape[0] * c, shape[1] * c)


def _is_real(dtype) -> bool:
    return dtype.kind in "fiub" or jnp.issubdtype(dtype, jnp.floating)


def _finite(array: np.ndarray, words: str) -> np.ndarray:
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ConfigError(not_finite(words))
    return array
