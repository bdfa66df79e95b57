"""The kernel of a single weight whose inputs and cotangents are known already."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ntk_select.engine.add_leaf import add_leaf
from ntk_select.engine.choice import choose, padded
from ntk_select.engine.cost import Sizes
from ntk_select.engine.placement import Placement
from ntk_select.engine.tile import Tile
from ntk_select.engine.uses import Use


def use_kernel(
    use: Use, inputs: Num[Array, "n ..."], cotangents: Num[Array, "n m ..."], *, space: str | None = None, precision: str = "highest"
) -> Float[np.ndarray, "n n"]:
    """Inner products of the examples' gradients with respect to the weight of one use, summed over m cotangents.

    Args:
      use: for one example, as `read_use` or `conv_use` give it.
      inputs: what entered the use, example by example, without the axis of length one that `use` sees.
      cotangents: of what left it, for m outputs of the network.
      space: "parameter" or "sample" instead of the cheaper one.
      precision: of the products.

    Returns:
      (n, n), symmetric, summed in float64.

    Cost: n^2 times the smaller of m k o and s^2 (k + m o); see `ntk_select.engine.contract`.
    """
    n, m = cotangents.shape[:2]
    dtype = jnp.promote_types(cotangents.dtype, jnp.float32)
    entries = use.groups * use.width_in * use.width_out
    sizes = Sizes(
        use.groups, use.positions, use.width_in, use.width_out, entries, int(np.prod(inputs.shape[1:])), use.taps, jnp.dtype(dtype).itemsize
    )
    choice = choose(sizes, True, m, "trace", n, None, longest=n, space=space)
    if choice.stored == "gradients":
        choice = replace(choice, stored="inputs")
    place = Placement(None)
    with jax.default_matmul_precision(precision):
        left = jax.vmap(jax.vmap(lambda ct: use.outputs(ct[None])))(cotangents).transpose(0, 2, 3, 1, 4)
        entered = inputs[:, None] if choice.stored == "inputs" else jax.vmap(lambda x: use.patches(x[None]))(inputs)
        rest = padded(n) - n
        part = [tuple(jnp.pad(array, ((0, rest), *((0, 0),) * (array.ndim - 1))) for array in (entered, left))]
        tile = Tile("trace", (0, m), (n, n), dtype, True, place)
        tile.start(0, 0)
        add_leaf(tile, choice, (use,), part, part, m=m, symmetric=True)
        tile.flush(0, 0)
    return tile.result(True) * m
