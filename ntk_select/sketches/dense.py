"""Dense random matrices, Rademacher or Gaussian: made tile by tile from their addresses, multiplied, forgotten.

Cost: 2 k operations for each entry of the gradient, and k (Gaussian) or k / 32 (Rademacher) random words for each entry of
the leaf and each batch: ten times the gradients and more.

Reference: Johnson & Lindenstrauss 1984; Achlioptas 2003 (signs).
"""

import jax.numpy as jnp
from jax import lax

from ntk_select.sketches.bits import normals, word_table

TILE = 2**21  # entries of the matrix at a time


def empty(rows: int, width: int, blocks: int, dtype):
    """The sketch before anything is added, (rows, dim). Columns are independent: blocks are but a way to group them."""
    return jnp.zeros((rows, width * blocks), dtype)


def entries(kind: str, key, index, columns, dtype):
    """Entries (len(index), len(columns)) of the random matrix, with mean 0 and variance 1."""
    if kind == "gaussian":
        return normals(word_table(key, index, columns)).astype(dtype)
    return _sign(word_table(key, index, columns // 32) >> (columns % 32), dtype)


def add(kind: str, total, gradients, keys):
    """`total` with the gradients (e, t, p) added; keys (t, 1, 4)."""
    e, t, p = gradients.shape
    dim = total.shape[1]
    height = min(p, max(64, TILE // dim))
    tiles = -(-p // height)

    def add_tile(i, total):
        cotangent, tile = i // tiles, i % tiles
        first = jnp.minimum(tile * height, p - height)  # the last tile begins earlier instead of being short
        index = (first + jnp.arange(height)).astype(jnp.uint32)
        random = _every_column(kind, keys[cotangent, 0], index, dim, total.dtype)
        random = jnp.where((index >= (tile * height).astype(jnp.uint32))[:, None], random, 0)
        part = lax.dynamic_slice(gradients, (0, cotangent, first), (e, 1, height))[:, 0].astype(total.dtype)
        return total + part @ random

    return lax.fori_loop(0, t * tiles, add_tile, total)


def finished(total):
    """(e, dim), with E[Z Z'] the kernel."""
    return total * total.shape[1] ** -0.5


def _every_column(kind: str, key, index, dim: int, dtype):
    """`entries` of the columns 0 .. dim; of signs, one random word serves 32 neighbours."""
    if kind == "gaussian":
        return entries(kind, key, index, jnp.arange(dim, dtype=jnp.uint32), dtype)
    table = word_table(key, index, jnp.arange(-(-dim // 32), dtype=jnp.uint32))
    bits = table[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)
    return _sign(bits.reshape(len(index), -1)[:, :dim], dtype)


def _sign(words, dtype):
    """+1 or -1 by the last bit."""
    return 1 - 2 * (words & jnp.uint32(1)).astype(dtype)
