"""Kronecker sketches: inputs and cotangents are projected apart, so that the gradient of a weight is never formed.

A weight's gradient is a sum over positions of outer products, X' G. With Gaussian A and B, A X' G B' is one small product
after X A' and G B'. Cotangents that share a row stand side by side in G. Leaves that are no weights have no factors; a
CountSketch of the same width serves them.

The price: a layer whose gradient has low rank (one position: dense layers, 1 x 1 maps) is seen through A and B with
relative variance 2 / k_a + 2 / k_g instead of 2 / (k_a k_g). Many small blocks are better than one large one.

Cost: s (k k_a + o k_g + k_a k_g) products for each use and block, in the letters of `engine.uses`, and no memory that grows with
the leaf. Forming the gradient takes s k o: fewer, unless k and o are well above sqrt(dim blocks).
"""

import jax
import jax.numpy as jnp

from ntk_select.engine.uses import Conv, Use
from ntk_select.sketches import countsketch
from ntk_select.sketches.bits import normals, word_table
from ntk_select.sketches.leaf_gradients import every_tap, of_live_taps


def empty(rows: int, width: int, blocks: int, dtype):
    """The sketch before anything is added: (rows, blocks, k_a, k_g) for weights, and a CountSketch for the other leaves."""
    return jnp.zeros((rows, blocks, *split(width)), dtype), countsketch.empty(rows, width, blocks, dtype)


def split(width: int) -> tuple[int, int]:
    """(k_a, k_g) with k_a k_g the width, as equal as can be."""
    smaller = next(size for size in range(int(width**0.5), 0, -1) if width % size == 0)
    return smaller, width // smaller


def add(total, gradients, keys):
    """`total` with the gradients (e, t, p) of a leaf that is no weight added; keys (1 + t, blocks, 4)."""
    return total[0], countsketch.add(total[1], gradients, keys[1:])


def add_factors(uses: tuple[Use, ...], apart: bool, total, factors, keys):
    """`total` with the weight of some uses added, from what entered and the cotangents of what left (see `Stored`).

    Args:
      uses: of the weight.
      apart: each cotangent has a row of its own.
      total: from `empty`.
      factors: for each use inputs (n, ...) and cotangents (n, g, s, m, o).
      keys: (1 + t, blocks, 4): of A, then of B for each cotangent.
    """
    products, others = total
    ka, kg = products.shape[2:]
    use, dtype = uses[0], products.dtype
    entering = use.width_in // use.taps * (len(every_tap(use)) if isinstance(use, Conv) else use.taps)

    def of_inputs(key):  # (g, k, k_a)
        table = normals(word_table(key[:2], _numbers(use.groups * entering), _numbers(ka)))
        return of_live_taps(use, table.reshape(use.groups, entering, ka)).astype(dtype)

    def of_cotangents(key):  # (g, o, k_g)
        table = normals(word_table(key[2:], _numbers(use.groups * use.width_out), _numbers(kg)))
        return table.reshape(use.groups, use.width_out, kg).astype(dtype)

    a, b = jax.vmap(of_inputs)(keys[0]), jax.vmap(jax.vmap(of_cotangents))(keys[1:])
    for one, (x, cotangents) in zip(uses, factors, strict=True):
        left = jnp.einsum("ngsk,bgka->nbgsa", jax.vmap(one.patches)(x).astype(dtype), a)
        if apart:
            right = jnp.einsum("ngsmo,bgoc->nmbgsc", cotangents.astype(dtype), b[0])
            part = jnp.einsum("nbgsa,nmbgsc->nmbac", left, right).reshape(products.shape)
        else:
            part = jnp.einsum("nbgsa,nbgsc->nbac", left, jnp.einsum("ngsmo,mbgoc->nbgsc", cotangents.astype(dtype), b))
        products = products + part
    return products, others


def finished(total):
    """(e, blocks width), with E[Z Z'] the kernel."""
    products, others = total
    return products.reshape(len(products), -1) * products[0].size ** -0.5 + countsketch.finished(others)


def _numbers(count: int):
    return jnp.arange(count, dtype=jnp.uint32)
