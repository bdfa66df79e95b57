"""How is a planned kernel computed? Tile by tile; within a tile, group of leaves by group; each example's factors once
as long as they fit into memory."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ntk_select.engine.add_leaf import add_leaf
from ntk_select.engine.contract import uses_of
from ntk_select.engine.factors import factors, fill
from ntk_select.engine.kept import Cache
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.placement import Placement
from ntk_select.engine.plan import Plan, side_keys, stored_of
from ntk_select.engine.structure import Structure
from ntk_select.engine.tile import Tile
from ntk_select.errors import ModelError


class Sink(Protocol):
    """Where tiles go."""

    def done(self, i: int, j: int) -> bool:
        """Whether tile (i, j) is there already."""

    def write(self, i: int, j: int, tiles: dict[str, np.ndarray]) -> None:
        """Takes tile (i, j): {"": kernel}, or one kernel a leaf."""


def compute(
    structure: Structure,
    plan: Plan,
    params: Any,
    x1: np.ndarray,
    x2: np.ndarray | None,
    outputs: Outputs,
    sink: Sink,
    *,
    split: bool = False,
    float64: bool = False,
    mesh: Mesh | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Computes what `sink` does not have yet.

    Raises:
      ModelError: a kernel with NaN or infinity; the message names the leaf and the example.
    """
    place = Placement(mesh)
    sides = _Sides(structure, plan, place.everywhere(jax.tree.leaves(params)), x1, x2, outputs, place)
    tiles = [tile for tile in plan.tiles() if not sink.done(*tile)]
    steps, count = itertools.count(1), len(tiles) * sum(1 for _ in plan.rounds())
    for i, j in tiles:
        whole = sides.shape(i, j)
        names = [leaf.name for leaf in structure.leaves] if split else [""]
        growing = {name: Tile(plan.pairing, plan.chunks, whole, structure.dtype, float64, place) for name in names}
        for group, left, right in plan.rounds():
            first, second = side_keys(plan, i, j, group, left, right)
            symmetric = first == second
            buffers1 = sides.get(first)
            buffers2 = buffers1 if symmetric else sides.get(second, keep=first)
            for index, part1, part2 in zip(plan.groups[group], buffers1, buffers2, strict=True):
                leaf = plan.leaves[index]
                tile = growing[leaf.use.name if split else ""]
                tile.start(left, right)
                uses, m = uses_of(structure.taps, leaf.use.taps), plan.chunks[left + 1] - plan.chunks[left]
                add_leaf(tile, leaf.choice, uses, part1, part2, m=m, symmetric=symmetric)
            del buffers1, buffers2, part1, part2  # so that the cache alone decides what stays
            for tile in growing.values():
                tile.flush(left, right)
            if progress is not None:
                progress(next(steps), count, f"tile {i}, {j}")
        result = {name: tile.result(plan.columns is None and i == j) for name, tile in growing.items()}
        for tile in result.values():
            if not np.isfinite(tile).all():
                raise _not_finite(plan, sides, i, j)
        sink.write(i, j, result)


class _Sides:
    """Gradients and factors of the examples between two cuts, computed when asked for and kept while there is room."""

    def __init__(self, structure, plan, leaves, x1, x2, outputs, place):
        self.structure, self.plan, self.leaves, self.place = structure, plan, leaves, place
        self.data = {"rows": (plan.rows, x1, outputs.left)}
        if plan.columns is not None:
            self.data["columns"] = (plan.columns, x2, outputs.right)
        self.values = place.everywhere(structure.program.values)
        self.cache = Cache(max(0, plan.memory - (plan.peak_bytes - plan.stored_bytes)) * place.devices)

    def shape(self, i: int, j: int) -> tuple[int, int]:
        """Examples on either side of tile (i, j)."""
        columns = self.plan.rows if self.plan.columns is None else self.plan.columns
        return self.plan.rows[i + 1] - self.plan.rows[i], columns[j + 1] - columns[j]

    def get(self, key, keep=None):
        """The buffers of one side: for each leaf of the group, arrays with a leading axis of examples, zeros after the last."""
        buffers = self.cache.get(key)
        if buffers is None:
            group = self.plan.groups[key[2]]
            side, number = key[:2]
            cuts = self.data[side][0]
            size = sum(self.plan.leaves[index].stored_bytes for index in group) * self.place.padded(cuts[number + 1] - cuts[number])
            self.cache.make_room(size, keep)
            buffers = self._compute(key)
            self.cache.put(key, buffers, size, keep)
        return buffers

    def _compute(self, key):
        side, number, group, chunk = key
        cuts, x, cotangents = self.data[side]
        first, last = cuts[number], cuts[number + 1]
        n = last - first
        stored, batch = stored_of(self.plan, group), min(self.plan.batch, n)
        chosen = cotangents[:, self.plan.chunks[chunk] : self.plan.chunks[chunk + 1]]
        x, chosen = x[first:last], chosen if len(chosen) == 1 else chosen[first:last]
        buffers = self._empty(stored, x[:1], chosen[:1], self.place.padded(n))
        if self.place.mesh is not None:
            batch = min(self.place.padded(n), self.place.padded(batch))
            x = np.concatenate([x, np.repeat(x[:1], self.place.padded(n) - n, axis=0)])
            chosen = chosen if len(chosen) == 1 else np.concatenate([chosen, np.zeros_like(chosen, shape=(len(x) - n, *chosen.shape[1:]))])
            n = len(x)
        for start in range(0, n, batch):
            start = min(start, n - batch)  # the last batch begins earlier instead of being short
            part = slice(start, start + batch)
            some = chosen if len(chosen) == 1 else chosen[part]
            some = self.place.everywhere(some) if len(some) == 1 else self.place.spread(some)
            buffers = fill(self.structure, stored, buffers, start, self.values, self.leaves, self.place.spread(x[part]), some)
        return buffers

    def _empty(self, stored, x, cotangents, n: int):
        shapes = jax.eval_shape(partial(factors, self.structure, stored), self.values, self.leaves, x, cotangents)
        return jax.tree.map(lambda leaf: self.place.spread(jnp.zeros((n, *leaf.shape[1:]), leaf.dtype)), shapes)


def _not_finite(plan: Plan, sides: _Sides, i: int, j: int) -> ModelError:
    """Which leaf, which example?"""
    for group, left, right in plan.rounds():
        for key in side_keys(plan, i, j, group, left, right):
            for index, buffers in zip(plan.groups[group], sides.get(key), strict=True):
                for array in jax.tree.leaves(buffers):
                    good = np.asarray(jnp.isfinite(array).all(axis=tuple(range(1, array.ndim))))
                    if not good.all():
                        side = "" if plan.columns is None else " of x1" if key[0] == "rows" else " of x2"
                        example = sides.data[key[0]][0][key[1]] + int(np.argmin(good))
                        return ModelError(
                            f"The gradient with respect to {plan.leaves[index].use.name!r} holds NaN or infinity at example {example}{side}. "
                            "Usual causes: half precision, batch norm in training mode, inputs that were not normalised."
                        )
    return ModelError("The kernel overflows, though all gradients are finite: scale the outputs of the function down, or use float64.")
