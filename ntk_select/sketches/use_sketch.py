"""The sketch of a single weight whose inputs and cotangents are known already."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ntk_select.engine.uses import Use
from ntk_select.sketches.bits import leaf_keys
from ntk_select.sketches.driver import add_leaf, finished, leaf_bytes
from ntk_select.sketches.kinds import KINDS
from ntk_select.sketches.spec import Sketch

MOST_EXAMPLES = 64  # at a time


def use_sketch(
    use: Use, inputs: Num[Array, "n ..."], cotangents: Num[Array, "n ..."], sketch: Sketch, name: str, *, precision: str = "highest"
) -> Float[np.ndarray, "n k"]:
    """Z with E[Z Z'] the inner products of the examples' gradients with respect to the weight of one use.

    Args:
      use: for one example, as `read_use` or `conv_use` give it.
      inputs: what entered the use, example by example, without the axis of length one that `use` sees.
      cotangents: of what left it.
      sketch: with dimension and blocks as numbers; any kind but "jvp".
      name: path of the weight.
      precision: of the products.
    """
    kind, n = KINDS[sketch.kind], len(inputs)
    dtype = jnp.dtype(jnp.promote_types(cotangents.dtype, jnp.float32))
    blocks = 1 if kind.independent_columns else sketch.blocks
    keys = jnp.asarray(leaf_keys(sketch.seed, name, blocks, np.array([0, 0] if kind.add_factors else [0])))
    size = min(n, MOST_EXAMPLES)
    some = min(size, max(1, int(leaf_bytes() // (use.groups * use.width_in * use.width_out * dtype.itemsize))))
    rows = np.empty((n, sketch.dim), dtype)
    with jax.default_matmul_precision(precision):
        for start in range(0, n, size):
            start = min(start, n - size)
            part = slice(start, start + size)
            left = jax.vmap(lambda ct: use.outputs(ct[None]))(cotangents[part])[:, :, :, None]
            found, total = [(inputs[part][:, None], left)], kind.empty(size, sketch.width, sketch.blocks, dtype)
            for first in range(0, size, some):
                total = add_leaf(sketch.kind, (use,), False, min(some, size - first), total, found, keys, first, first)
            rows[part] = finished(sketch.kind, total)
    return rows
