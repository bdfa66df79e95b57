"""Kernel-vector products without the kernel: Theta v = J (J' v), a VJP followed by a JVP."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.arguments import check_batch_size, check_precision, count_examples, select, some_examples
from ntk_select.kernels.engine.program import Program, outputs_of, trace


def hold(fn: Callable, params: Any, chosen: tuple[int, ...]):
    """call(picked, held, x) = fn(params, x); the chosen leaves `picked`; the other arrays `held`.

    Anything else, such as a Python number, stays static inside `call`.
    """
    leaves, treedef = jax.tree.flatten(params)
    others = tuple(index for index, leaf in enumerate(leaves) if index not in chosen and hasattr(leaf, "dtype"))

    def call(picked, held, x):
        merged = list(leaves)
        for index, leaf in zip((*chosen, *others), (*picked, *held), strict=True):
            merged[index] = leaf
        return fn(jax.tree.unflatten(treedef, merged), x)

    return call, [jnp.asarray(leaves[index]) for index in chosen], [jnp.asarray(leaves[index]) for index in others]


def ntk_vector_product(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    v: Real[ArrayLike, "n2 ..."],
    *,
    layers: str | Callable[[str], bool] | None = None,
    x2: Any = None,
    precision: str = "highest",
    batch_size: int | None = None,
) -> Float[Array, "n1 ..."]:
    """Theta v, the neural tangent kernel times a vector, without the kernel.

    Entry (i, a) is the sum over j and b of <grad f_a(x_i), grad f_b(x_j)> v_jb: the full kernel, not divided by c,
    `numpy.einsum("ijab,jb->ia", ns.ntk(fn, params, x, outputs="full"), v)`. Compiled once for functions with the
    same operations; traceable by `jax.jit`, `jax.vmap` and `jax.grad`.

    Args:
      fn: fn(params, x) -> (n, c) or (n,), differentiable in forward and reverse mode.
      params: Parameters of fn, any pytree. Leaves that are not floating-point are constants.
      x: examples of the result; one array or a pytree of arrays.
      v: one number per example of x2 (of x if x2 is None) and output.
      layers: a regular expression searched in the "/"-joined paths of the parameters; None takes all.
      x2: examples of v, if different from x: the result is Theta(x, x2) v.
      precision: Precision of all products on GPUs and TPUs: "highest", "high" or "default".
      batch_size: examples at a time; examples must then be independent. None: all at once.

    Returns:
      In the type of fn's output. Linear in v; without x2, <v, Theta v> = ||grad of sum(v * f(x))||^2.

    Raises:
      ConfigError: v or fn's output has the wrong shape or type, x is not an array, or an option is invalid.

    Reference: Novak et al. 2022 (NTK-vector products).  Cost: one backward pass of x2, one forward-mode
    pass of x, memory of one gradient and one batch's activations.
    """
    check_precision(precision)
    check_batch_size(batch_size)
    call, picked, held = hold(fn, params, select(params, layers))
    with jax.default_matmul_precision(precision):
        shape, dtype = _read_output(partial(call, picked, held), x, "x")
        source, expected = x, shape
        if x2 is not None:
            expected, other = _read_output(partial(call, picked, held), x2, "x2")
            source = x2
            if other != dtype or expected[1:] != shape[1:]:
                raise ConfigError("fn returns another number or dtype of outputs for x2 than for x.")
        if not _is_array(v) or v.shape != expected or jnp.issubdtype(v.dtype, jnp.complexfloating):
            given = f"{v.dtype} {v.shape}" if _is_array(v) else type(v).__name__
            raise ConfigError(f"v is {given}; give an array of real numbers {expected}, one for each example and output.")
        product = BatchedProduct(call, picked, held, batch_size)
        return product.push(x, product.pull(source, v))


class BatchedProduct:
    """J' v and J times a direction, batch by batch, compiled once for functions with the same operations.

    Args:
      call, picked, held: Result of `hold`.
      batch_size: examples at a time; None: all at once.
    """

    def __init__(self, call: Callable, picked: list, held: list, batch_size: int | None):
        self.picked, self._call, self._held, self._size = picked, call, held, batch_size
        self._programs = {}

    def _program(self, x) -> tuple[Program, tuple]:
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(x))
        if shapes not in self._programs:
            self._programs[shapes] = trace(self._call, self.picked, self._held, x)
        return self._programs[shapes]

    def _batches(self, x):
        """For each batch: program, its captured arrays, examples, indices of the batch in these and in x, and a mask without padding."""
        n = count_examples(x)
        on_device = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x))
        for rows, real in padded_batches(n, self._size or n):
            # Device arrays are indexed on the device; from the host only the batch is transferred.
            some, places = (x, rows) if on_device else (some_examples(x, rows), np.arange(len(rows)))
            shapes = jax.eval_shape(partial(some_examples, part=np.arange(len(rows))), x)
            yield *self._program(shapes), *jax.device_put((some, places, rows, real))

    def pull(self, x: Any, v: Real[ArrayLike, "n ..."]) -> list[Float[Array, "..."]]:
        """J(x)' v, one array for each picked leaf."""
        total, v = None, jax.device_put(v)
        for program, values, some, places, rows, real in self._batches(x):
            found = program.jit(_pull)(values, self.picked, self._held, some, places, v, rows, real)
            total = found if total is None else _added(total, found)
        return total

    def push(self, x: Any, direction: list[Float[Array, "..."]]) -> Float[Array, "n ..."]:
        """J(x) times a direction in the picked leaves."""
        parts = [program.jit(_push)(values, self.picked, self._held, direction, *some[:2]) for program, values, *some in self._batches(x)]
        return parts[0] if len(parts) == 1 else _joined(count_examples(x), parts)


def _outputs(program: Program, values, picked, held, x, places):
    (outputs,) = outputs_of(program, values, jax.tree.leaves((picked, held, some_examples(x, places))))
    return outputs


def _pull(program: Program, values, picked, held, x, places, v, rows, real):
    """J' v of a batch, in the shapes of the chosen leaves."""
    out, pull = jax.vjp(lambda picked: _outputs(program, values, picked, held, x, places), picked)
    v = v[rows].astype(out.dtype)
    return pull(v * real.reshape(-1, *(1,) * (v.ndim - 1)).astype(v.dtype))[0]


def _push(program: Program, values, picked, held, direction, x, places):
    """J of a batch times a direction in the parameters, (b, c)."""
    return jax.jvp(lambda picked: _outputs(program, values, picked, held, x, places), (picked,), (direction,))[1]


@partial(jax.jit, static_argnums=0)
def _joined(n: int, parts: list) -> Array:
    return jnp.concatenate(parts)[:n]


@jax.jit
def _added(total: list, part: list) -> list:
    return jax.tree.map(jnp.add, total, part)


def padded_batches(n: int, size: int):
    """Indices of each batch, the last one padded with the last example, and the mask of those that are not padding."""
    for first in range(0, n, min(size, n)):
        index = np.arange(first, first + min(size, n))
        yield np.minimum(index, n - 1), index < n


def _is_array(x) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _read_output(call, x, name: str):
    """Shape and type of the outputs."""
    leaves = jax.tree.leaves(x)
    if not leaves or not all(_is_array(leaf) and leaf.shape and leaf.shape[0] for leaf in leaves):
        given = f"an array {x.shape}" if _is_array(x) else f"a {type(x).__name__}"
        raise ConfigError(f"{name} is {given}; give one array with the examples along its first axis.")
    out, n = jax.eval_shape(call, x), leaves[0].shape[0]
    if not _is_array(out) or len(out.shape) not in (1, 2) or out.shape[0] != n or not jnp.issubdtype(out.dtype, jnp.floating):
        given = f"{out.dtype} {out.shape}" if _is_array(out) else type(out).__name__
        raise ConfigError(f"fn(params, {name}) gives {given}; it must give floating-point outputs ({n}, c), one row for each example.")
    return out.shape, out.dtype
