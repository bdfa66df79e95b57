"""Kronecker sketches: inputs and cotangents are projected separately; weight gradients are never formed.

The gradient of a weight is a sum over positions of outer products, X' G. With Gaussian A and B the sketch is
(X A)' (G B), a small product. Cotangents that share a row are concatenated in G. Leaves that are not weights have no
factors and get a CountSketch of the same width.

Gradients of low rank (one position: dense layers, 1 x 1 maps) have a relative variance of 2 / k_a + 2 / k_g instead of
2 / (k_a k_g). Many small blocks are better than one large one.

Cost: s (k k_a + o k_g + k_a k_g) products for each operation and block, in the letters of `engine.layer_ops`, and no memory that
grows with the leaf. Forming the gradient takes s k o operations: fewer, unless k and o are well above sqrt(dim blocks).
"""

import jax
import jax.numpy as jnp

from ntk_select.kernels.engine.layer_ops import Embedding, LayerOp
from ntk_select.kernels.sketches import countsketch
from ntk_select.kernels.sketches.hashing import normals, word_table


def init(rows: int, width: int, blocks: int, dtype):
    """State: (rows, blocks, k_a, k_g) for weights, and that of a CountSketch for the other leaves."""
    return jnp.zeros((rows, blocks, *split(width)), dtype), countsketch.init(rows, width, blocks, dtype)


def split(width: int) -> tuple[int, int]:
    """(k_a, k_g) with k_a k_g = width, as equal as possible."""
    smaller = next(size for size in range(int(width**0.5), 0, -1) if width % size == 0)
    return smaller, width // smaller


def update(state, gradients, keys):
    """Adds the gradients (e, t, p) of a leaf that is not a weight; keys (t, blocks, 4)."""
    return state[0], countsketch.update(state[1], gradients, keys)


def update_factors(state, ops: tuple[LayerOp, ...], per_cotangent: bool, factors, input_key, keys):
    """Adds a weight, from the inputs and output cotangents of its operations (see `Stored`).

    Args:
      state: Result of `init`.
      ops: Operations of the weight, all taps of windows included.
      per_cotangent: each cotangent has a row of its own.
      factors: Per operation, inputs (n, ...) and cotangents (n, g, s, m, o).
      input_key: (blocks, 4), of A.
      keys: (t, blocks, 4), of B for each cotangent.
    """
    products, others = state
    ka, kg = products.shape[2:]
    op, dtype = ops[0], products.dtype

    def matrix(key, groups: int, height: int, width: int):  # (g, height, width)
        table = normals(word_table(key, jnp.arange(groups * height, dtype=jnp.uint32), jnp.arange(width, dtype=jnp.uint32)))
        return table.reshape(groups, height, width).astype(dtype)

    a = jax.vmap(lambda key: matrix(key[:2], op.groups, op.width_in, ka))(input_key)
    b = jax.vmap(jax.vmap(lambda key: matrix(key[2:], op.groups, op.width_out, kg)))(keys)
    for one, (x, cotangents) in zip(ops, factors, strict=True):
        left = _projected_inputs(one, x, a)
        if per_cotangent:
            right = jnp.einsum("ngsmo,bgoc->nmbgsc", cotangents.astype(dtype), b[0])
            part = jnp.einsum("nbgsa,nmbgsc->nmbac", left, right).reshape(products.shape)
        else:
            part = jnp.einsum("nbgsa,nbgsc->nbac", left, jnp.einsum("ngsmo,mbgoc->nbgsc", cotangents.astype(dtype), b))
        products = products + part
    return products, others


def _projected_inputs(op: LayerOp, x, a):
    """X A (n, b, g, s, k_a)."""
    if isinstance(op, Embedding):
        picked = a.at[:, :, jax.vmap(op.rows)(x)].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return picked.transpose(2, 0, 1, 3, 4)
    return jnp.einsum("ngsk,bgka->nbgsa", jax.vmap(op.patches)(x).astype(a.dtype), a)


def finalize(state):
    """(e, blocks width), with E[Z Z'] the kernel."""
    products, others = state
    return products.reshape(len(products), -1) * products[0].size ** -0.5 + countsketch.finalize(others)
