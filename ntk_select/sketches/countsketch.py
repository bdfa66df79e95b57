"""CountSketch without scatter: signed, turned rows of the gradient, added up.

The gradient of a leaf is cut into rows as long as the sketch. Each entry gets a random sign, each row is turned by a random
shift, and the rows are added. Two entries of one row never meet; two of different rows meet with probability 1 / width: a
CountSketch whose variance is that of the usual one without the pairs of a row. With several blocks it is the sparse
Johnson-Lindenstrauss transform with as many non-zeros a column.

Cost: one read of the gradient for each block, whatever the dimension.

Reference: Charikar, Chen & Farach-Colton 2002; Kane & Nelson 2014 (blocks).
"""

import jax
import jax.numpy as jnp
from jax import lax

from ntk_select.sketches.bits import flipped, words

# Where a gather of whole rows is fast, all rows are turned at once; elsewhere one after the other, in place.
AT_ONCE = ("cuda", "rocm", "gpu")


def empty(rows: int, width: int, blocks: int, dtype):
    """The sketch before anything is added, (rows, blocks, 2 width): a turned row runs on beyond the end, for `finished` to fold."""
    return jnp.zeros((rows, blocks, 2 * width), dtype)


def add(total, gradients, keys, *, at_once: bool | None = None):
    """`total` with the gradients (e, t, p) added; keys (t, blocks, 4)."""
    if at_once is None:
        at_once = jax.default_backend() in AT_ONCE
    return (_all_rows if at_once else _row_by_row)(total, gradients, keys)


def finished(total):
    """(e, blocks width), with E[Z Z'] the kernel."""
    e, blocks, twice = total.shape
    return (total[..., : twice // 2] + total[..., twice // 2 :]).reshape(e, -1) * blocks**-0.5


def _row_by_row(total, gradients, keys):
    e, t, p = gradients.shape
    _, blocks, twice = total.shape
    width = twice // 2
    rows, rest = divmod(p, width)
    places = jnp.arange(width, dtype=jnp.uint32)

    def add_row(total, cotangent, block, row, length):
        """Adds entries row * width .. + length of one cotangent to one block."""
        key = keys[cotangent, block]
        first = row.astype(jnp.uint32) * jnp.uint32(width)
        part = lax.dynamic_slice(gradients, (0, cotangent, row * width), (e, 1, length)).astype(total.dtype)
        part = flipped(words(key[:2], first + places[:length]), part)
        at = (0, block, _shifts(key, row.astype(jnp.uint32), width).astype(block.dtype))
        return lax.dynamic_update_slice(total, lax.dynamic_slice(total, at, (e, 1, length)) + part, at)

    if rows:
        step = lambda i, total: add_row(total, i // (rows * blocks), i // rows % blocks, i % rows, width)  # noqa: E731
        total = lax.fori_loop(0, t * blocks * rows, step, total)
    if rest:
        step = lambda i, total: add_row(total, i // blocks, i % blocks, jnp.full_like(i, rows), rest)  # noqa: E731
        total = lax.fori_loop(0, t * blocks, step, total)
    return total


def _all_rows(total, gradients, keys):
    e, t, p = gradients.shape
    _, blocks, twice = total.shape
    width = twice // 2
    rows = -(-p // width)
    padded = jnp.pad(gradients, ((0, 0), (0, 0), (0, rows * width - p))).reshape(e, t, rows, width)
    numbers, places = jnp.arange(rows, dtype=jnp.uint32), jnp.arange(width, dtype=jnp.int32)

    def add_block(i, total):
        cotangent, block = i // blocks, i % blocks
        key = keys[cotangent, block]
        source = (places[None, :] - _shifts(key, numbers, width)[:, None]) % width  # which entry of its row comes here
        entry = numbers[:, None] * jnp.uint32(width) + source.astype(jnp.uint32)
        turned = jnp.take_along_axis(padded[:, cotangent], source[None], axis=2).astype(total.dtype)
        return total.at[:, block, :width].add(flipped(words(key[:2], entry)[None], turned).sum(1))

    return lax.fori_loop(0, t * blocks, add_block, total)


def _shifts(key, row, width: int):
    return (words(key[2:], row) % jnp.uint32(width)).astype(jnp.int32)
