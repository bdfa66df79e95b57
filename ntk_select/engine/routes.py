"""Which slower routes to the same kernel are there to check against?

Per-example gradients and one contraction (`jacobian_kernel`); pull back and push forward, without any contraction
of gradients (`vector_product_kernel`); the product with a vector alone (`ntk_vector_product`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select.engine.outputs import Outputs
from ntk_select.engine.selection import select
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.probe import InBatches, in_batches
from ntk_select.whole import is_whole

PRECISIONS = ("highest", "high", "default")
_CONTRACTIONS = {"trace": "imp,jmp->ij", "diagonal": "imp,jmp->ijm", "full": "iap,jbp->ijab"}


def hold(fn: Callable, params: Any, chosen: tuple[int, ...]):
    """call(picked, held, x) = fn(params, x); the chosen leaves `picked`; the other arrays `held`.

    What is neither, a Python number say, stays what it is inside `call`.
    """
    leaves, treedef = jax.tree.flatten(params)
    others = tuple(index for index, leaf in enumerate(leaves) if index not in chosen and hasattr(leaf, "dtype"))

    def call(picked, held, x):
        merged = list(leaves)
        for index, leaf in zip((*chosen, *others), (*picked, *held), strict=True):
            merged[index] = leaf
        return fn(jax.tree.unflatten(treedef, merged), x)

    return call, [jnp.asarray(leaves[index]) for index in chosen], [jnp.asarray(leaves[index]) for index in others]


def jacobian_kernel(fn, params, x1, x2, outputs: Outputs, chosen: tuple[int, ...], *, batch_size: int = 8) -> np.ndarray:
    """The kernel from rows of per-example gradients, by `vmap` of `vjp`, and one contraction of them.

    Args:
      fn: fn(params, x) -> (n, c), in which no example influences another.
      params: of fn, any pytree.
      x1, x2: examples; x2 None takes x1 again.
      outputs: which gradients, and how they are paired.
      chosen: indices into `jax.tree.leaves(params)` of the leaves to differentiate; the others are constants.
      batch_size: examples differentiated at a time.

    Returns:
      On the host, in the type of fn's output, of shape `outputs.kernel_shape(n1, n2)`.

    Cost: m backward passes an example, and O(n1 n2 m p) or, for "full", O(n1 n2 m^2 p) for p chosen parameters.
    All n m p entries of the rows are held at once.
    """
    call, picked, held = hold(fn, params, chosen)
    rows_of = jax.jit(partial(_rows, call))

    def rows(x, cotangents):
        return in_batches(partial(rows_of, picked, held), batch_size, x, _for_each(cotangents, len(x)))

    left = rows(x1, outputs.left)
    right = left if x2 is None and outputs.right is outputs.left else rows(x1 if x2 is None else x2, outputs.right)
    with jax.default_matmul_precision("highest"):
        kernel = jnp.einsum(_CONTRACTIONS[outputs.pairing], left, right)
    return np.asarray(kernel / outputs.count if outputs.pairing == "trace" else kernel)


def vector_product_kernel(fn, params, x1, x2, outputs: Outputs, chosen: tuple[int, ...], *, batch_size: int = 8) -> np.ndarray:
    """The kernel column by column: pull a cotangent of one example back to the parameters, push it forward through x1.

    Arguments and result as for `jacobian_kernel`.

    Cost: n2 m backward passes of one example and n1 n2 m forward ones. `batch_size` gradients are held at a time.
    """
    call, picked, held = hold(fn, params, chosen)
    x2 = x1 if x2 is None else x2
    n1, n2, m = len(x1), len(x2), outputs.count
    left, right = _for_each(outputs.left, n1), _for_each(outputs.right, n2)
    pull, push = jax.jit(partial(_pull_each, call)), jax.jit(partial(_push_each, call, outputs.pairing))
    inner = InBatches(batch_size, inner=True)

    def columns(pairs):
        directions = pull(picked, held, x2[pairs // m], right[pairs // m, pairs % m])
        return jnp.moveaxis(inner(partial(push, picked, held, directions, pairs % m), x1, left), 0, 1)

    found = np.asarray(in_batches(columns, batch_size, np.arange(n2 * m)))
    if outputs.pairing == "full":
        return found.reshape(n2, m, n1, m).transpose(2, 0, 3, 1)
    kernel = found.reshape(n2, m, n1).transpose(2, 0, 1)
    return kernel.mean(-1) if outputs.pairing == "trace" else kernel


def ntk_vector_product(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Float[Array, "n1 ..."],
    v: Float[Array, "n2 c"],
    *,
    layers: str | None = None,
    x2: Float[Array, "n2 ..."] | None = None,
    precision: str = "highest",
    batch_size: int | None = None,
) -> Float[Array, "n1 c"]:
    """Theta v, the neural tangent kernel times a vector, without the kernel.

    Entry (i, a) is the sum over j and b of <grad f_a(x_i), grad f_b(x_j)> v_jb. This is the full kernel, not divided
    by c: `numpy.einsum("ijab,jb->ia", ns.ntk(fn, params, x, outputs="full"), v)`. `jax.jit` may be put around it,
    and should be for more than a few products; x and v may then be traced.

    Args:
      fn: fn(params, x) -> (n, c), differentiable forwards and backwards.
      params: of fn, any pytree. Leaves that are not floating-point are constants.
      x: examples of the result.
      v: one number for each example of x2 (of x, where x2 is None) and each output.
      layers: a regular expression searched in the "/"-joined paths of the parameters; None takes all.
      x2: examples that v belongs to, where they are others than x: the result is Theta(x, x2) v.
      precision: of all products on GPUs and TPUs: "highest", "high" or "default".
      batch_size: examples at a time; then no example may influence another. None takes all at once.

    Returns:
      In the type of fn's output. Linear in v; without x2, <v, Theta v> = ||grad of sum(v * f(x))||^2.

    Raises:
      ConfigError: v or fn's output has the wrong shape or type, x is no array, or an option is not allowed.

    Reference: Novak et al. 2022 (NTK-vector products).  Cost: one backward pass of x2, one forward-mode
    pass of x, memory of one gradient and one batch's activations.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown.{did_you_mean(str(precision), PRECISIONS)}")
    if batch_size is not None and (not is_whole(batch_size) or batch_size < 1):
        raise ConfigError(f"batch_size={batch_size!r}; give a whole number from 1, or None for all examples at once.")
    call, picked, held = hold(fn, params, select(params, layers))
    c, dtype = _read_output(partial(call, picked, held), x, "x")
    if x2 is not None and _read_output(partial(call, picked, held), x2, "x2") != (c, dtype):
        raise ConfigError("fn gives another number or type of outputs for x2 than for x.")
    source = x if x2 is None else x2
    if not _is_array(v) or v.shape != (len(source), c) or jnp.issubdtype(v.dtype, jnp.complexfloating):
        given = f"{v.dtype} {v.shape}" if _is_array(v) else type(v).__name__
        raise ConfigError(f"v is {given}; give an array of real numbers ({len(source)}, {c}), one for each example and output.")
    v = jnp.asarray(v).astype(dtype)
    with jax.default_matmul_precision(precision):
        if batch_size is None:
            return _push(call, picked, held, _pull(call, picked, held, source, v), x)
        product = BatchedProduct(call, picked, held, batch_size)
        return product.push(x, product.pull(source, v))


class BatchedProduct:
    """J' v and J times a direction, batch by batch and compiled once; `call`, `picked` and `held` from `hold`."""

    def __init__(self, call: Callable, picked: list, held: list, batch_size: int):
        self.picked, self._held, self._size = picked, held, batch_size
        self._pull, self._push = jax.jit(partial(_pull, call)), jax.jit(partial(_push, call))

    def pull(self, x, v: Float[Array, "n c"]) -> list[Float[Array, "..."]]:
        """J(x)' v, one array for each picked leaf."""
        total = [jnp.zeros_like(leaf) for leaf in self.picked]
        for rows, real in padded_batches(len(x), self._size):
            part = self._pull(self.picked, self._held, x[rows], jnp.where(real[:, None], v[rows], 0))
            total = [whole + leaf for whole, leaf in zip(total, part, strict=True)]
        return total

    def push(self, x, direction: list[Float[Array, "..."]]) -> Float[Array, "n c"]:
        """J(x) times a direction in the picked leaves."""
        parts = [self._push(self.picked, self._held, direction, x[rows])[: real.sum()] for rows, real in padded_batches(len(x), self._size)]
        return jnp.concatenate(parts)


def _pull(call, picked, held, x, v):
    """J' v, in the shapes of the chosen leaves."""
    return jax.vjp(lambda leaves: call(leaves, held, x), picked)[1](v)[0]


def _push(call, picked, held, direction, x):
    """J times a direction in the parameters, (n, c)."""
    return jax.jvp(lambda leaves: call(leaves, held, x), (picked,), (direction,))[1]


def _single(call, held, leaves, example):
    return call(leaves, held, example[None])[0]


def _rows(call, picked, held, x, cotangents):
    """Gradients (b, m, p) of b examples, each for its m cotangents."""

    def one(example, vs):
        out, pull = jax.vjp(lambda leaves: _single(call, held, leaves, example), picked)
        gradients = jax.vmap(lambda v: pull(v)[0])(vs.astype(out.dtype))
        return jnp.concatenate([leaf.reshape(len(vs), -1).astype(out.dtype) for leaf in gradients], axis=1)

    return jax.vmap(one)(x, cotangents)


def _pull_each(call, picked, held, x, v):
    """For each of k examples and its one cotangent a direction in the parameters."""

    def one(example, v):
        out, pull = jax.vjp(lambda leaves: _single(call, held, leaves, example), picked)
        return pull(v.astype(out.dtype))[0]

    return jax.vmap(one)(x, v)


def _push_each(call, pairing, picked, held, directions, like, x, left):
    """(b, k), each of b examples' outputs along k directions, paired with its cotangents number `like`; "full": with all m."""

    def outputs(leaves):
        return jax.vmap(lambda example: _single(call, held, leaves, example))(x)

    moved = jax.vmap(lambda direction: jax.jvp(outputs, (picked,), (direction,))[1])(directions)
    left = left.astype(moved.dtype)
    return jnp.einsum("kic,iac->ika", moved, left) if pairing == "full" else jnp.einsum("kic,ikc->ik", moved, left[:, like])


def _for_each(cotangents: np.ndarray, n: int) -> np.ndarray:
    return np.broadcast_to(cotangents, (n, *cotangents.shape[1:]))


def padded_batches(n: int, size: int):
    """Indices of each batch, the last filled up with the last example, and which of them are not filling."""
    for first in range(0, n, min(size, n)):
        index = np.arange(first, first + min(size, n))
        yield np.minimum(index, n - 1), index < n


def _is_array(x) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _read_output(call, x, name: str):
    """Number and type of the outputs."""
    if not _is_array(x) or not x.shape or not x.shape[0]:
        given = f"an array {x.shape}" if _is_array(x) else f"a {type(x).__name__}"
        raise ConfigError(f"{name} is {given}; give one array with the examples along its first axis.")
    out = jax.eval_shape(call, x)
    if not _is_array(out) or len(out.shape) != 2 or out.shape[0] != len(x) or not jnp.issubdtype(out.dtype, jnp.floating):
        given = f"{out.dtype} {out.shape}" if _is_array(out) else type(out).__name__
        raise ConfigError(f"fn(params, {name}) gives {given}; it must give floating-point outputs ({len(x)}, c), one row for each example.")
    return out.shape[1], out.dtype
