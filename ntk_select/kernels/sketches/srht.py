"""SRHT, the subsampled randomised Hadamard transform: signs, a fast Walsh-Hadamard transform, a random sample of its entries.

The gradient of a leaf is padded to a power of two and, beyond 2^`LONGEST` entries, split into pieces. Each piece has its
own signs and its own sample without replacement, whose entries get random signs again, so that pieces and leaves are
independent. A piece no longer than the sketch is rotated without loss if the width is a power of two; otherwise it is
padded to the next power of two and sampled.

Cost: log2(padded length) additions per entry, as products with small Hadamard matrices; a piece is padded at least to the
width of the sketch.

Reference: Ailon & Chazelle 2006; Tropp 2011.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from ntk_select.kernels.sketches.hashing import accumulate, flipped, permuted, words

LONGEST = 20  # log2 of the longest piece, unless the sketch is wider
RADIX = 5  # log2 of the size of the Hadamard matrices in a product


def init(rows: int, width: int, blocks: int, dtype):
    """State (rows, blocks, width)."""
    return jnp.zeros((rows, blocks, width), dtype)


def piece_log2(p: int, width: int) -> int:
    """log2 of the length of the pieces of a leaf with p entries."""
    return max(min((p - 1).bit_length(), LONGEST), (width - 1).bit_length())


def update(state, gradients, keys):
    """Adds the gradients (e, t, p); keys (t, blocks, 4)."""
    e, t, p = gradients.shape
    _, blocks, width = state.shape
    log2 = piece_log2(p, width)
    length = 2**log2
    pieces = -(-p // length)
    padded = jnp.pad(gradients, ((0, 0), (0, 0), (0, pieces * length - p)))
    sample = jnp.arange(width, dtype=jnp.uint32)

    def add_piece(i, state):
        cotangent, block, piece = i // (blocks * pieces), i // pieces % blocks, i % pieces
        key = keys[cotangent, block]
        first = piece.astype(jnp.uint32) * jnp.uint32(length)
        part = lax.dynamic_slice(padded, (0, cotangent, piece * length), (e, 1, length))[:, 0].astype(state.dtype)
        moved = hadamard(flipped(words(key[:2], first + jnp.arange(length, dtype=jnp.uint32)), part))
        own = words(key[2:], piece.astype(jnp.uint32) + jnp.arange(2, dtype=jnp.uint32) * jnp.uint32(2**31))
        taken = jnp.take(moved, permuted(own, sample, log2).astype(jnp.int32), axis=1)
        taken = flipped(words(own ^ jnp.uint32(0x5851F42D), sample), taken)
        at = (0, block, 0)
        return lax.dynamic_update_slice(state, lax.dynamic_slice(state, at, (e, 1, width)) + taken[:, None], at)

    return accumulate(t * blocks * pieces, add_piece, state)


def finalize(state):
    """(e, blocks width), with E[Z Z'] the kernel."""
    e, blocks, width = state.shape
    return state.reshape(e, -1) * (blocks * width) ** -0.5


def hadamard(x):
    """The Walsh-Hadamard transform of rows whose length is a power of two, unnormalised: squared norms are multiplied by the length."""
    e, length = x.shape
    left = (length - 1).bit_length()
    before = 1
    while left:
        radix = min(RADIX, left)
        x = x.reshape(e, before, 2**radix, -1)
        x = jnp.einsum("ehab,ac->ehcb", x, jnp.asarray(_matrix(radix), x.dtype))
        before, left = before * 2**radix, left - radix
    return x.reshape(e, length)


def _matrix(log2: int) -> np.ndarray:
    """The Hadamard matrix of size 2^log2."""
    matrix = np.ones((1, 1))
    for _ in range(log2):
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    return matrix
