"""CountSketch without scatter: the sum of signed, rotated rows of the gradient.

The gradient of a leaf is split into rows of the width of the sketch. Each entry gets a random sign, each row is rotated by a
random shift, and the rows are summed. Two entries of one row never collide; two of different rows collide with probability
1 / width: the variance is that of the usual CountSketch without the pairs within a row. With several blocks this is the
sparse Johnson-Lindenstrauss transform with as many non-zeros per column.

Cost: one read of the gradient for each block, whatever the dimension.

Reference: Charikar, Chen & Farach-Colton 2002; Kane & Nelson 2014 (blocks).
"""

import jax.numpy as jnp
from jax import lax

from ntk_select.kernels.engine.arguments import default_device
from ntk_select.kernels.sketches.hashing import accumulate, flipped, words

# Platforms with a fast row gather rotate all rows at once; others one after the other, in place.
AT_ONCE = ("cuda", "rocm", "gpu")


def init(rows: int, width: int, blocks: int, dtype):
    """State (rows, blocks, 2 width): rotated rows extend beyond `width`, and `finalize` folds them."""
    return jnp.zeros((rows, blocks, 2 * width), dtype)


def update(state, gradients, keys, *, at_once: bool | None = None):
    """Adds the gradients (e, t, p); keys (t, blocks, 4)."""
    if at_once is None:
        at_once = default_device().platform in AT_ONCE
    return (_all_rows if at_once else _row_by_row)(state, gradients, keys)


def finalize(state):
    """(e, blocks width), with E[Z Z'] the kernel."""
    e, blocks, twice = state.shape
    return (state[..., : twice // 2] + state[..., twice // 2 :]).reshape(e, -1) * blocks**-0.5


def _row_by_row(state, gradients, keys):
    e, t, p = gradients.shape
    _, blocks, twice = state.shape
    width = twice // 2
    rows, rest = divmod(p, width)
    places = jnp.arange(width, dtype=jnp.uint32)

    def add_row(state, cotangent, block, row, length):
        """Adds entries row * width .. + length of one cotangent to one block."""
        key = keys[cotangent, block]
        first = row.astype(jnp.uint32) * jnp.uint32(width)
        part = lax.dynamic_slice(gradients, (0, cotangent, row * width), (e, 1, length)).astype(state.dtype)
        part = flipped(words(key[:2], first + places[:length]), part)
        at = (0, block, _shifts(key, row.astype(jnp.uint32), width).astype(block.dtype))
        return lax.dynamic_update_slice(state, lax.dynamic_slice(state, at, (e, 1, length)) + part, at)

    if rows:
        step = lambda i, state: add_row(state, i // (rows * blocks), i // rows % blocks, i % rows, width)  # noqa: E731
        state = accumulate(t * blocks * rows, step, state)
    if rest:
        step = lambda i, state: add_row(state, i // blocks, i % blocks, jnp.full_like(i, rows), rest)  # noqa: E731
        state = accumulate(t * blocks, step, state)
    return state


def _all_rows(state, gradients, keys):
    e, t, p = gradients.shape
    _, blocks, twice = state.shape
    width = twice // 2
    rows = -(-p // width)
    padded = jnp.pad(gradients, ((0, 0), (0, 0), (0, rows * width - p))).reshape(e, t, rows, width)
    numbers, places = jnp.arange(rows, dtype=jnp.uint32), jnp.arange(width, dtype=jnp.int32)

    def add_block(i, state):
        cotangent, block = i // blocks, i % blocks
        key = keys[cotangent, block]
        source = (places[None, :] - _shifts(key, numbers, width)[:, None]) % width  # index in its row of the entry that is moved here
        entry = numbers[:, None] * jnp.uint32(width) + source.astype(jnp.uint32)
        rotated = jnp.take_along_axis(padded[:, cotangent], source[None], axis=2).astype(state.dtype)
        return state.at[:, block, :width].add(flipped(words(key[:2], entry)[None], rotated).sum(1))

    return accumulate(t * blocks, add_block, state)


def _shifts(key, row, width: int):
    return (words(key[2:], row) % jnp.uint32(width)).astype(jnp.int32)
