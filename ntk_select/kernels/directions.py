"""Gradient kernel of an expert, estimated along random directions of the parameters by forward-mode derivatives of whole batches.

`ns.sketch` with kind "jvp" gives the same estimate image by image, for any function and within a memory budget. Here the images of a batch share each
direction, and the network below the chosen layers is evaluated once for all directions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import in_batches
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.kernels.engine.arguments import leaf_names
from ntk_select.kernels.gradients import narrow_inputs

DERIVATIVES = 4096
"""Number of outputs times directions for a sufficient average; wide networks need fewer directions."""
MIN_DIRECTIONS, MAX_DIRECTIONS = 2, 16


def directions_for(width: int) -> int:
    """Default number of random directions for `width` outputs."""
    return min(max(MIN_DIRECTIONS, DERIVATIVES // width), MAX_DIRECTIONS)


def directional_kernel(
    expert: Expert,
    x: Float[np.ndarray, "n ..."] | NetworkInputs,
    *,
    layers: str = "last_conv",
    outputs: str = "trace",
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[Float[np.ndarray, "n n"], int]:
    """An unbiased estimate of `gradient_kernel`, and the number of random directions.

    Args:
      expert, x, layers, batch_size: See `gradient_kernel`.
      outputs: "trace" or "features".
      seed: seed of the directions.

    Returns:
      J w (J w)' / c, averaged over random signs w: float64, positive semi-definite. With m directions and c outputs the relative error of an entry is
      about sqrt(2 / (m c)).

    Raises:
      ConfigError, ModelError: as for `gradient_kernel`.

    Cost: one forward pass, and per direction two passes through the layers from the chosen ones on. It does not grow with the number of outputs.
    """
    fn, variables, _, chosen = narrow_inputs(expert, layers, outputs)
    names, (leaves, treedef) = leaf_names(variables), jax.tree.flatten(variables)
    moved = tuple(index for index, name in enumerate(names) if chosen(name) and jnp.issubdtype(jnp.result_type(leaves[index]), jnp.floating))
    width = jax.eval_shape(fn, variables, x[:1]).shape[-1]
    directions = directions_for(width)
    keys, leaves = jax.random.split(jax.random.key(seed), directions), jax.device_put(leaves)
    rows = np.asarray(in_batches(lambda batch: _along(fn, treedef, moved, leaves, batch, keys), batch_size, x), np.float64).reshape(len(x), -1)
    return rows @ rows.T / (directions * width), directions


@partial(jax.jit, static_argnums=(0, 1, 2))
def _along(fn, treedef, moved: tuple[int, ...], leaves, x, keys):
    """Derivatives (n, m, c) of the outputs along m directions of random signs."""

    def outputs(picked):
        given = list(leaves)
        for index, leaf in zip(moved, picked, strict=True):
            given[index] = leaf
        return fn(jax.tree.unflatten(treedef, given), x)

    picked = [leaves[index] for index in moved]

    def along(key):
        signs = [jax.random.rademacher(jax.random.fold_in(key, place), leaf.shape, leaf.dtype) for place, leaf in enumerate(picked)]
        return jax.jvp(outputs, (picked,), (signs,))[1]

    return jnp.moveaxis(jax.vmap(along)(keys), 0, 1)
