"""How is a planned kernel computed? Tile by tile; within a tile, group of leaves by group; each example's factors once
as long as they fit into memory."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ntk_select.engine.contract import add_gradient_tile, add_pair_tile, form_gradients, host_tile, uses_of
from ntk_select.engine.factors import factors, fill
from ntk_select.engine.memory import swapped
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.plan import Cache, LeafPlan, Plan, formed_bytes, padded, parameter_tile, side_keys, stored_of
from ntk_select.engine.structure import Structure
from ntk_select.errors import ModelError

PIECE = 2**16  # entries of a gradient that are summed in the type of the computation before float64 takes over


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
    place = _Placement(mesh)
    sides = _Sides(structure, plan, place.everywhere(jax.tree.leaves(params)), x1, x2, outputs, place)
    tiles = [tile for tile in plan.tiles() if not sink.done(*tile)]
    steps, count = itertools.count(1), len(tiles) * sum(1 for _ in plan.rounds())
    for i, j in tiles:
        whole = sides.shape(i, j)
        names = [leaf.name for leaf in structure.leaves] if split else [""]
        adders = {name: _Adder(plan, outputs, whole, structure.dtype, float64, place) for name in names}
        for group, left, right in plan.rounds():
            first, second = side_keys(plan, i, j, group, left, right)
            symmetric = first == second
            buffers1 = sides.get(first)
            buffers2 = buffers1 if symmetric else sides.get(second)
            for index, part1, part2 in zip(plan.groups[group], buffers1, buffers2, strict=True):
                leaf = plan.leaves[index]
                adder = adders[leaf.use.name if split else ""]
                adder.start(left, right)
                _add_leaf(structure, plan, leaf, part1, part2, symmetric, adder, place)
            for adder in adders.values():
                adder.flush(left, right)
            if progress is not None:
                progress(next(steps), count, f"tile {i}, {j}")
        result = {name: adder.result(outputs, plan.columns is None and i == j) for name, adder in adders.items()}
        for tile in result.values():
            if not np.isfinite(tile).all():
                raise _not_finite(plan, sides, i, j)
        sink.write(i, j, result)


class _Placement:
    """Where arrays lie: on the default device, or the examples spread over a mesh."""

    def __init__(self, mesh: Mesh | None):
        self.mesh = mesh
        self.devices = 1 if mesh is None else mesh.size

    def on_host(self, dtype) -> bool:
        """Whether NumPy can reach the arrays without a copy and multiply them."""
        return self.mesh is None and jax.devices()[0].platform == "cpu" and dtype in (np.float32, np.float64)

    def everywhere(self, tree):
        return jax.device_put(tree) if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def spread(self, tree):
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names)))

    def padded(self, n: int) -> int:
        multiple = padded(n)
        return multiple if self.mesh is None else -(-multiple // self.devices) * self.devices


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

    def get(self, key):
        """The buffers of one side: for each leaf of the group, arrays with a leading axis of examples, zeros after the last."""
        buffers = self.cache.get(key)
        if buffers is None:
            group = self.plan.groups[key[2]]
            side, number = key[:2]
            cuts = self.data[side][0]
            size = sum(self.plan.leaves[index].stored_bytes for index in group) * self.place.padded(cuts[number + 1] - cuts[number])
            self.cache.make_room(size)
            buffers = self._compute(key)
            self.cache.put(key, buffers, size)
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


class _Adder:
    """The growing tile of one kernel: on the device in the type of the computation, or on the host in float64."""

    def __init__(self, plan, outputs, whole, dtype, float64, place):
        self.plan, self.whole, self.float64, self.dtype, self.place = plan, whole, float64, dtype, place
        self.total = None
        shape = {"trace": (), "diagonal": (outputs.count,), "full": (outputs.count,) * 2}[plan.pairing]
        self.host = np.zeros((*whole, *shape), np.float64 if float64 else dtype)

    def start(self, left: int, right: int) -> None:
        """Begins a round, unless one goes on."""
        if self.total is None:
            chunks = self.plan.chunks
            m1, m2 = (chunks[part + 1] - chunks[part] for part in (left, right))
            shape = {"trace": (), "diagonal": (m1,), "full": (m1, m2)}[self.plan.pairing]
            rows, columns = map(self.place.padded, self.whole)
            self.total = self.place.spread(jnp.zeros((rows, columns, *shape), self.dtype))
            self.round = (left, right)

    def add(self, function, *arguments) -> None:
        """total = function(total, ...)."""
        self.total = function(self.total, *arguments)
        if self.float64:
            self._to_host(*self.round)
            self.total = jnp.zeros_like(self.total)

    def add_host(self, tile: np.ndarray) -> None:
        """Adds a whole tile that is on the host already."""
        self._put(tile, *self.round)

    def flush(self, left: int, right: int) -> None:
        """Ends a round."""
        if self.total is not None:
            self._to_host(left, right)
            self.total = None

    def _to_host(self, left: int, right: int) -> None:
        self._put(np.asarray(self.total), left, right)

    def _put(self, tile: np.ndarray, left: int, right: int) -> None:
        chunks = self.plan.chunks
        cotangents = (slice(chunks[left], chunks[left + 1]), slice(chunks[right], chunks[right + 1]))
        place = {"trace": (), "diagonal": cotangents[:1], "full": cotangents}[self.plan.pairing]
        self.host[(slice(None), slice(None), *place)] += tile[: self.whole[0], : self.whole[1]]

    def result(self, outputs: Outputs, symmetric: bool) -> np.ndarray:
        """The tile; of a tile on the diagonal only the lower part was computed."""
        kernel = self.host
        if symmetric:
            kernel = _mirrored(kernel)
        return kernel / outputs.count if outputs.pairing == "trace" else kernel


def _mirrored(kernel: np.ndarray) -> np.ndarray:
    """The lower part is kept, the upper one is its transpose; on the diagonal the mean of both."""
    other = swapped(kernel)
    below = np.tri(len(kernel), k=-1, dtype=bool).reshape(*kernel.shape[:2], *(1,) * (kernel.ndim - 2))
    return np.where(below, kernel, np.where(below.swapaxes(0, 1), other, (kernel + other) / 2))


def _add_leaf(structure: Structure, plan: Plan, leaf: LeafPlan, part1, part2, symmetric: bool, adder: _Adder, place: _Placement) -> None:
    n1, n2 = (len(jax.tree.leaves(part)[0]) for part in (part1, part2))
    pairing = plan.pairing

    def tiles(size):
        if place.mesh is not None:
            return n1, min(n2, size), [(0, j) for j in range(0, n2, min(n2, size))]
        size1, size2 = (size, size) if n1 == n2 else (min(n1, size), min(n2, size))
        if n1 % size1 or n2 % size2:
            return n1, n2, [(0, 0)]
        pairs = [(i, j) for i in range(0, n1, size1) for j in range(0, i + 1 if symmetric else n2, size2)]
        return size1, size2, pairs

    uses = uses_of(structure.taps, leaf.use.taps)
    if place.mesh is not None:
        part2 = place.everywhere(part2)
    if leaf.space == "sample":
        size1, size2, pairs = tiles(leaf.sizes.pair_tile(max(n1, n2)))
        for i, j in pairs:
            adder.add(lambda total, i=i, j=j: add_pair_tile(pairing, size1, size2, uses, leaf.stored, total, part1, part2, i, j))
        return
    if place.on_host(structure.dtype):
        for rows1, rows2 in _gradients(leaf, uses, plan, part1, part2, symmetric, adder.float64):
            adder.add_host(host_tile(pairing, rows1, rows2))
        return
    size1, size2, pairs = tiles(parameter_tile(max(n1, n2)))
    for rows1, rows2 in _gradients(leaf, uses, plan, part1, part2, symmetric, adder.float64):
        for i, j in pairs:
            adder.add(lambda total, i=i, j=j, a=rows1, b=rows2: add_gradient_tile(pairing, size1, size2, total, a, b, i, j))


def _gradients(leaf: LeafPlan, uses, plan: Plan, part1, part2, symmetric: bool, float64: bool):
    """The gradients of both sides, in pieces that add up to the leaf."""
    if leaf.stored == "gradients":
        r, o = part1.shape[1], part1.shape[3]
        step = max(1, PIECE // o) if float64 else r
        for first in range(0, r, step):
            rows1 = part1 if step >= r else part1[:, first : first + step]
            yield rows1, rows1 if symmetric else (part2 if step >= r else part2[:, first : first + step])
        return
    sizes, m = leaf.sizes, plan.chunks[1] - plan.chunks[0]
    n = max(len(jax.tree.leaves(part)[0]) for part in (part1, part2))
    limit = min(formed_bytes() // (n * m * sizes.item), PIECE if float64 else formed_bytes())  # entries of the leaf at a time
    channels = sizes.width_in // sizes.taps
    a_tap = sizes.groups * channels * sizes.width_out
    at_once = max(1, min(sizes.taps, limit // a_tap)) if leaf.stored == "inputs" else sizes.taps
    for window in _cut(sizes.taps, at_once):
        columns = (window[1] - window[0]) * channels
        for first, last in _cut(columns, max(1, limit // (sizes.groups * sizes.width_out))):
            rows1 = form_gradients(uses, leaf.stored, window, last - first, part1, first)
            yield rows1, rows1 if symmetric else form_gradients(uses, leaf.stored, window, last - first, part2, first)


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    """Pieces of at most `most`, alike but for the last, so that there is little to compile."""
    step = -(-length // -(-length // most))
    return [(first, min(first + step, length)) for first in range(0, length, step)]


def _not_finite(plan: Plan, sides: _Sides, i: int, j: int) -> ModelError:
    """Which leaf, which example?"""
    for group, left, right in plan.rounds():
        for key in side_keys(plan, i, j, group, left, right):
            for index, buffers in zip(plan.groups[group], sides.get(key), strict=True):
                for array in jax.tree.leaves(buffers):
                    good = np.asarray(jnp.isfinite(array).all(axis=tuple(range(1, array.ndim))))
                    if not good.all():
                        example = sides.data[key[0]][0][key[1]] + int(np.argmin(good))
                        return ModelError(
                            f"The gradient with respect to {plan.leaves[index].use.name!r} holds NaN or infinity at example {example}. "
                            "Usual causes: half precision, batch norm in training mode, inputs that were not normalised."
                        )
    return ModelError("The kernel overflows, though all gradients are finite: scale the outputs of the function down, or use float64.")
