"""Dense random matrices, Rademacher or Gaussian, generated piece by piece from hashes of their addresses and never stored.

Cost: 2 k operations for each entry of the gradient, and k (Gaussian) or k / 32 (Rademacher) random words for each entry of
the leaf and each batch: ten times the gradients and more.

Reference: Johnson & Lindenstrauss 1984; Achlioptas 2003 (signs).
"""

import jax.numpy as jnp
from jax import lax

from ntk_select.kernels.sketches.hashing import accumulate, normals, word_table

ENTRIES = 2**21  # of the matrix at a time


def init(rows: int, width: int, blocks: int, dtype):
    """State (rows, dim). Columns are independent: blocks only group them."""
    return jnp.zeros((rows, width * blocks), dtype)


def entries(kind: str, key, index, columns, dtype):
    """Entries (len(index), len(columns)) of the random matrix, with mean 0 and variance 1."""
    if kind == "gaussian":
        return normals(word_table(key, index, columns)).astype(dtype)
    return _sign(word_table(key, index, columns // 32) >> (columns % 32), dtype)


def update(kind: str, state, gradients, keys):
    """Adds the gradients (e, t, p); keys (t, 1, 4)."""
    e, t, p = gradients.shape
    dim = state.shape[1]
    height = min(p, max(64, ENTRIES // dim))
    pieces = -(-p // height)

    def add_piece(i, state):
        cotangent, piece = i // pieces, i % pieces
        first = jnp.minimum(piece * height, p - height)  # the last piece overlaps the one before instead of being short
        index = first.astype(jnp.uint32) + jnp.arange(height, dtype=jnp.uint32)
        random = _every_column(kind, keys[cotangent, 0], index, dim, state.dtype)
        random = jnp.where((index >= (piece * height).astype(jnp.uint32))[:, None], random, 0)
        part = lax.dynamic_slice(gradients, (0, cotangent, first), (e, 1, height))[:, 0].astype(state.dtype)
        return state + part @ random

    return accumulate(t * pieces, add_piece, state)


def finalize(state):
    """(e, dim), with E[Z Z'] the kernel."""
    return state * state.shape[1] ** -0.5


def _every_column(kind: str, key, index, dim: int, dtype):
    """`entries` of the columns 0 .. dim; one random word gives 32 signs."""
    if kind == "gaussian":
        return entries(kind, key, index, jnp.arange(dim, dtype=jnp.uint32), dtype)
    table = word_table(key, index, jnp.arange(-(-dim // 32), dtype=jnp.uint32))
    digits = table[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)
    return _sign(digits.reshape(len(index), -1)[:, :dim], dtype)


def _sign(words, dtype):
    """+1 or -1 by the last binary digit."""
    return 1 - 2 * (words & jnp.uint32(1)).astype(dtype)
