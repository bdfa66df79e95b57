"""Two slower routes to the same kernel, to cross-check the engine: explicit Jacobians J J', and columns J (J' v)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select.experts.forward import InBatches
from ntk_select.kernels.engine.arguments import Outputs, count_examples
from ntk_select.kernels.engine.program import outputs_of
from ntk_select.kernels.engine.structure import Analysed, Structure

_CONTRACTIONS = {"trace": "imp,jmp->ij", "diagonal": "imp,jmp->ijm", "full": "iap,jbp->ijab"}


def jacobian_kernel(analysed: Analysed, x1: Any, x2: Any, outputs: Outputs, *, batch_size: int = 8) -> Float[np.ndarray, "n1 n2 ..."]:
    """The kernel from explicit per-example Jacobians, by `vmap` of `vjp`, and one contraction.

    Args:
      analysed: Analysis of the function and the leaves to differentiate; the other leaves are constants.
      x1, x2: examples; x2 None means x1.
      outputs: cotangents, and how they are paired.
      batch_size: examples differentiated at a time.

    Returns:
      On the host, in the type of fn's output, of shape `outputs.kernel_shape(n1, n2)`.

    Cost: m backward passes per example, and O(n1 n2 m p) or, for "full", O(n1 n2 m^2 p) for p chosen parameters.
    All n m p entries of the Jacobians are held in memory.
    """
    rows_of = partial(analysed.structure.jit(_rows), analysed.values, analysed.leaves)
    in_batches = InBatches(batch_size, precision=None)

    def rows(x, cotangents):
        leaves, treedef = jax.tree.flatten(x)
        run = lambda cotangents, *leaves: rows_of(jax.tree.unflatten(treedef, leaves), cotangents)  # noqa: E731
        return in_batches(run, _for_each(cotangents, count_examples(x)), *leaves)

    left = rows(x1, outputs.left)
    right = left if x2 is None else rows(x2, outputs.right)
    kernel = jnp.einsum(_CONTRACTIONS[outputs.pairing], left, right)
    return np.asarray(kernel / outputs.count if outputs.pairing == "trace" else kernel)


def vector_product_kernel(analysed: Analysed, x1: Any, x2: Any, outputs: Outputs, *, batch_size: int = 8) -> Float[np.ndarray, "n1 n2 ..."]:
    """The kernel column by column: a VJP at one example of x2, then a JVP at all examples of x1.

    Arguments and result as for `jacobian_kernel`.

    Cost: n2 m backward passes of one example and n1 n2 m forward ones. `batch_size` gradients are held in memory.
    """
    structure, given = analysed.structure, (analysed.values, analysed.leaves)
    x2 = x1 if x2 is None else x2
    n1, n2, m = count_examples(x1), count_examples(x2), outputs.count
    left, right = _for_each(outputs.left, n1), _for_each(outputs.right, n2)
    pull, push = structure.jit(_pull_each), structure.jit(_push_each, outputs.pairing)
    inner, outer = InBatches(batch_size, inner=True, precision=None), InBatches(batch_size, precision=None)
    leaves, treedef = jax.tree.flatten(x1)

    def columns(pairs):
        directions = pull(*given, jax.tree.map(lambda leaf: leaf[pairs // m], x2), right[pairs // m, pairs % m])
        run = lambda left, *leaves: push(*given, directions, pairs % m, jax.tree.unflatten(treedef, leaves), left)  # noqa: E731
        return jnp.moveaxis(inner(run, left, *leaves), 0, 1)

    found = np.asarray(outer(columns, np.arange(n2 * m)))
    if outputs.pairing == "full":
        return found.reshape(n2, m, n1, m).transpose(2, 0, 3, 1)
    kernel = found.reshape(n2, m, n1).transpose(2, 0, 1)
    return kernel.mean(-1) if outputs.pairing == "trace" else kernel


def _single(structure: Structure, values, leaves, picked, example):
    merged = list(leaves)
    for leaf, value in zip(structure.leaves, picked, strict=True):
        merged[leaf.index] = value
    (output,) = outputs_of(structure.program, values, [*merged, *(leaf[None] for leaf in jax.tree.leaves(example))])
    return output.reshape(-1)


def _picked(structure: Structure, leaves) -> list:
    return [jnp.asarray(leaves[leaf.index]) for leaf in structure.leaves]


def _rows(structure: Structure, values, leaves, x, cotangents) -> Float[Array, "b m p"]:
    """Gradients of b examples, each for its m cotangents."""

    def one(example, vs):
        out, pull = jax.vjp(lambda picked: _single(structure, values, leaves, picked, example), _picked(structure, leaves))
        gradients = jax.vmap(lambda v: pull(v)[0])(vs.astype(out.dtype))
        return jnp.concatenate([leaf.reshape(len(vs), -1).astype(out.dtype) for leaf in gradients], axis=1)

    return jax.vmap(one)(x, cotangents)


def _pull_each(structure: Structure, values, leaves, x, v):
    """VJP of each of k examples for one cotangent: directions in the parameters."""

    def one(example, v):
        out, pull = jax.vjp(lambda picked: _single(structure, values, leaves, picked, example), _picked(structure, leaves))
        return pull(v.astype(out.dtype))[0]

    return jax.vmap(one)(x, v)


def _push_each(structure: Structure, pairing, values, leaves, directions, like, x, left):
    """(b, k), each of b examples' outputs along k directions, paired with cotangent `like` of each example; "full": with all m."""

    def outputs(picked):
        return jax.vmap(lambda example: _single(structure, values, leaves, picked, example))(x)

    moved = jax.vmap(lambda direction: jax.jvp(outputs, (_picked(structure, leaves),), (direction,))[1])(directions)
    left = left.astype(moved.dtype)
    return jnp.einsum("kic,iac->ika", moved, left) if pairing == "full" else jnp.einsum("kic,ikc->ik", moved, left[:, like])


def _for_each(cotangents: np.ndarray, n: int) -> np.ndarray:
    return np.broadcast_to(cotangents, (n, *cotangents.shape[1:]))
