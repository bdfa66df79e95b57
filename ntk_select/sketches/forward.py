"""Sketches by forward mode: random directions in the parameters are pushed through the network, all outputs at once.

Z = J w for directions w of random signs: the numbers of kind "rademacher", without any gradient. Outputs that are averaged
("trace") do not need directions of their own: one direction gives a column for each of them.

Cost: two forward passes a direction and example, memory of a few directions; ordinary convolutions only. It beats reverse mode
with a dense matrix where outputs are many.

Reference: Novak et al. 2022 (forward-mode products); as a random projection it is the plain definition.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.engine.cost import passes_of
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.program import run
from ntk_select.engine.structure import Structure
from ntk_select.errors import ConfigError
from ntk_select.sketches import dense
from ntk_select.sketches.bits import leaf_keys
from ntk_select.sketches.driver import not_finite
from ntk_select.sketches.spec import Sketch

DIRECTIONS = 64  # pushed together, if memory allows
IN_FLIGHT = {"cpu": 64}  # examples times directions
IN_FLIGHT_ELSEWHERE = 4096


def check(sketch: Sketch, outputs: Outputs) -> None:
    """Raises ConfigError where one direction would not even fill a block."""
    m = columns_a_direction(outputs)
    if sketch.width < m:
        raise ConfigError(
            f"kind='jvp' gives a column for each of the {m} outputs of a direction, and a block has {sketch.width} columns. "
            f"Type: dim={m * sketch.blocks * math.ceil(32 / sketch.blocks)} or more, or fewer blocks."
        )


def columns_a_direction(outputs: Outputs) -> int:
    """How many columns one direction fills: averaged outputs stand side by side."""
    return outputs.count if outputs.pairing == "trace" else 1


class Portions(NamedTuple):
    """Examples in a batch, and directions that are pushed together."""

    batch: int
    together: int


def portions(structure: Structure, outputs: Outputs, sketch: Sketch, n: int, *, memory: int, batch_size: int | None = None) -> Portions:
    """How much goes through the network at a time.

    Raises:
      ConfigError: not even one example with one direction fits into `memory` bytes, or a direction does not fill a block.
    """
    check(sketch, outputs)
    passes = passes_of(structure)
    size = sum(math.prod(leaf.shape) for leaf in structure.leaves) * jnp.dtype(structure.dtype).itemsize
    flight = IN_FLIGHT.get(jax.default_backend(), IN_FLIGHT_ELSEWHERE)
    least = 2 * size + 3 * passes.activations
    if least > memory:
        raise ConfigError(
            f"One direction and one example take about {least / 1e9:.2g} GB, above the budget of {memory / 1e9:.2g} GB. "
            f"Type: memory_gb={math.ceil(1.1 * least / 1e8) / 10:.1f} or more, or layers= a smaller part of the network."
        )
    together = min(sketch.width // columns_a_direction(outputs), DIRECTIONS, max(1, int(memory / 4 / max(1, size))))
    room = max(1, int(memory / 2 / max(1, 3 * passes.activations * together)))
    return Portions(min(n, batch_size or min(max(1, flight // together), room)), together)


def batches(
    structure: Structure, params: Any, x: np.ndarray, outputs: Outputs, sketch: Sketch, sizes: Portions, *, offset: int = 0
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """As `driver.batches`, without the single leaves."""
    leaves, values = jax.device_put(jax.tree.leaves(params)), jax.device_put(structure.program.values)
    n, batch, together = len(x), min(sizes.batch, len(x)), sizes.together
    each = columns_a_direction(outputs)
    directions = sketch.width // each
    keys = [jnp.asarray(leaf_keys(sketch.seed, leaf.name, 1, np.array([0]))[0, 0]) for leaf in structure.leaves]
    for start in range(0, n, batch):
        start = min(start, n - batch)
        part, blocks = jax.device_put(x[start : start + batch]), []
        cotangents = outputs.left if len(outputs.left) == 1 else outputs.left[start : start + batch]
        for block in range(sketch.blocks):
            found = []
            for first in range(0, directions, together):
                # A direction's number is that of the first column that it fills; the last portion begins earlier.
                begin = min(first, directions - together)
                columns = block * sketch.width + each * np.arange(begin, begin + together, dtype=np.uint32)
                moved = _pushed(structure, values, leaves, keys, columns.astype(np.uint32), part, jnp.asarray(cotangents))
                found.append(np.asarray(moved)[:, first - begin :])  # (b, directions, m)
            blocks.append(_as_columns(np.concatenate(found, axis=1), sketch.width, outputs.pairing == "trace"))
        rows = np.concatenate(blocks, axis=-1) * np.asarray((sketch.blocks * directions * each) ** -0.5, structure.dtype)
        finite = np.isfinite(rows.reshape(batch, -1)).all(1)
        if not finite.all():
            raise not_finite(offset + start + int(np.argmin(finite)))
        yield start, {"": rows}


def _as_columns(moved: np.ndarray, width: int, side_by_side: bool) -> np.ndarray:
    """(b, directions, m) as (b, width) or (b, m, width); columns that no direction fills are zero."""
    if not side_by_side:
        return moved.swapaxes(1, 2)
    flat = moved.reshape(len(moved), -1)
    return np.pad(flat, ((0, 0), (0, width - flat.shape[1])))


@partial(jax.jit, static_argnums=0)
def _pushed(structure: Structure, values, leaves, keys, columns, x, cotangents):
    """J w of every example, for the direction of each column, paired with the cotangents: (b, directions, m)."""
    program, chosen = structure.program, [leaf.index for leaf in structure.leaves]

    def outputs(picked):
        merged = list(leaves)
        for index, leaf in zip(chosen, picked, strict=True):
            merged[index] = leaf
        one = lambda example: run(program, values, [*merged, example[None]])[program.outputs[0]][0]  # noqa: E731
        return jax.vmap(one)(x)

    def push(column):
        return jax.jvp(outputs, ([leaves[index] for index in chosen],), ([_direction(leaves[leaf.index], key, column) for leaf, key in pairs],))[1]

    pairs = list(zip(structure.leaves, keys, strict=True))
    moved = jax.vmap(push)(columns).astype(structure.dtype)  # (directions, b, c)
    if len(cotangents) == 1:
        return jnp.einsum("dbc,mc->bdm", moved, cotangents[0].astype(moved.dtype))
    return jnp.einsum("dbc,bmc->bdm", moved, cotangents.astype(moved.dtype))


def _direction(leaf, key, column):
    """Random signs in the shape of a leaf: one column of the matrix of kind "rademacher"."""
    index = jnp.arange(leaf.size, dtype=jnp.uint32)
    return dense.entries("rademacher", key, index, column[None], leaf.dtype)[:, 0].reshape(leaf.shape)
