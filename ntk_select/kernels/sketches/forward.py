"""Sketches by forward mode: JVPs along random directions in the parameters, for all outputs at once.

Z = J w for random sign vectors w: the same numbers as kind "rademacher", without any gradient. Outputs that are averaged
("trace") share their directions: one direction gives one column per output.

Cost: two forward passes per direction and example, memory of a few directions, only ordinary convolutions. Faster than
reverse mode with a dense matrix if there are many outputs.

Reference: Novak et al. 2022 (forward-mode products); as a random projection it is the plain definition.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.arguments import Outputs, default_device
from ntk_select.kernels.engine.costs import passes_of
from ntk_select.kernels.engine.program import evaluate
from ntk_select.kernels.engine.structure import Structure
from ntk_select.kernels.sketches import dense
from ntk_select.kernels.sketches.hashing import leaf_keys
from ntk_select.kernels.sketches.projection import Layout, Sketch

DIRECTIONS = 64  # per forward pass, memory permitting
IN_FLIGHT = {"cpu": 64}  # examples times directions
IN_FLIGHT_ELSEWHERE = 4096


def columns_per_direction(outputs: Outputs) -> int:
    """Columns per direction: one for each averaged output."""
    return outputs.count if outputs.pairing == "trace" else 1


def directions(outputs: Outputs, sketch: Sketch) -> int:
    """Directions per block. Raises ConfigError if one direction needs more columns than a block has."""
    m = columns_per_direction(outputs)
    if sketch.width < m:
        raise ConfigError(
            f"kind='jvp' needs one column for each of {m} outputs per direction, but a block has {sketch.width} columns. "
            f"Try: dim={m * sketch.blocks * math.ceil(32 / sketch.blocks)} or more, or fewer blocks."
        )
    return sketch.width // m


def portions(structure: Structure, outputs: Outputs, sketch: Sketch, n: int, *, memory: int, batch_size: int | None = None) -> tuple[int, int]:
    """Examples per batch, and directions per forward pass.

    Raises:
      ConfigError: one example with one direction does not fit into `memory` bytes, or a block is too narrow for a direction.
    """
    passes, per_block = passes_of(structure), directions(outputs, sketch)
    size = sum(math.prod(leaf.shape) for leaf in structure.leaves) * jnp.dtype(structure.dtype).itemsize
    flight = IN_FLIGHT.get(default_device().platform, IN_FLIGHT_ELSEWHERE)
    least = 2 * size + 3 * passes.activations
    if least > memory:
        raise ConfigError(
            f"One direction and one example need about {least / 1e9:.2g} GB, above the budget of {memory / 1e9:.2g} GB. "
            f"Try: memory_gb={math.ceil(1.1 * least / 1e8) / 10:.1f} or more, or layers= a smaller part of the network."
        )
    together = min(per_block, DIRECTIONS, max(1, int(memory / 4 / max(1, size))))
    room = max(1, int(memory / 2 / max(1, 3 * passes.activations * together)))
    return min(n, batch_size or min(max(1, flight // together), room)), together


def keys_of(structure: Structure, sketch: Sketch) -> list[np.ndarray]:
    """Keys (4,) of the leaves."""
    return [leaf_keys(sketch.seed, leaf.name, 1, np.array([0]))[0, 0] for leaf in structure.leaves]


def rows(
    structure: Structure, layout: Layout, values: tuple, leaves: list, x: Any, cotangents: Float[Array, "n_or_1 m c"], keys: list
) -> dict[str, Float[Array, "n ..."]]:
    """The rows of one batch of examples, as `execute.rows`; traceable and differentiable."""
    program, chosen, m = structure.program, [leaf.index for leaf in structure.leaves], cotangents.shape[1]
    each = 1 if layout.per_cotangent else m
    per_block = layout.width // each
    # A direction is numbered by its first column.
    columns = (layout.width * np.arange(layout.blocks)[:, None] + each * np.arange(per_block)).astype(np.uint32).ravel()
    count = len(columns)
    parts = -(-count // layout.together)
    columns = np.resize(columns, (parts, -(-count // parts)))  # equal parts, so that few directions are computed twice

    def outputs(picked):
        merged = list(leaves)
        for index, leaf in zip(chosen, picked, strict=True):
            merged[index] = leaf
        one = lambda example: evaluate(program, values, [*merged, *(leaf[None] for leaf in jax.tree.leaves(example))])  # noqa: E731
        return jax.vmap(lambda example: one(example)[program.outvars[0]].reshape(-1))(x)

    picked = [jnp.asarray(leaves[index]) for index in chosen]

    def push(column):
        return jax.jvp(outputs, (picked,), ([_direction(leaf, key, column) for leaf, key in zip(picked, keys, strict=True)],))[1]

    push = jax.vmap(push)
    moved = push(columns[0])[None] if len(columns) == 1 else lax.map(push, jnp.asarray(columns))  # (.., together, n, c)
    moved = moved.reshape(-1, *moved.shape[2:])[:count].astype(structure.dtype)
    pairs = "dnc,mc->ndm" if len(cotangents) == 1 else "dnc,nmc->ndm"
    moved = jnp.einsum(pairs, moved, (cotangents[0] if len(cotangents) == 1 else cotangents).astype(moved.dtype))
    if layout.per_cotangent:
        return {"": moved.swapaxes(1, 2) * count**-0.5}
    flat = moved.reshape(len(moved), layout.blocks, per_block * m)
    filled = jnp.pad(flat, ((0, 0), (0, 0), (0, layout.width - per_block * m)))  # columns without a direction are zero
    return {"": filled.reshape(len(moved), -1) * (count * m) ** -0.5}


def _direction(leaf, key, column):
    """Random signs in the shape of a leaf: one column of the matrix of kind "rademacher"."""
    index = jnp.arange(leaf.size, dtype=jnp.uint32)
    return dense.entries("rademacher", key, index, column[None], leaf.dtype)[:, 0].reshape(leaf.shape)
