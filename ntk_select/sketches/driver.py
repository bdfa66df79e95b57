"""How is a sketch computed? Batch by batch; within a batch leaf by leaf, so that one gradient of one leaf is there at a time."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ntk_select.engine.contract import uses_of
from ntk_select.engine.cost import passes_of, sizes_of
from ntk_select.engine.factors import Stored, factors
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.structure import LeafUse, Structure
from ntk_select.errors import ConfigError, ModelError
from ntk_select.sketches.bits import leaf_keys
from ntk_select.sketches.kinds import KINDS
from ntk_select.sketches.leaf_gradients import is_moved, joined_rows, moved_back, use_gradients
from ntk_select.sketches.spec import Sketch

# Gradients and factors of one batch, all leaves together: few enough on a CPU that memory is mapped once and used again.
BATCH_BYTES = {"cpu": 220e6}
BATCH_BYTES_ELSEWHERE = 8e9
# Gradients of one leaf that are formed at a time: on a CPU they are read again from its caches.
LEAF_BYTES = {"cpu": 10e6}
LEAF_BYTES_ELSEWHERE = 2e9
IN_FLIGHT = (4, 256)  # cotangents that go back through the network together, least and most, if memory allows


class Portions(NamedTuple):
    """Examples in a batch, cotangents in a chunk, and the bytes that they take."""

    batch: int
    chunk: int
    bytes: int


def portions(structure: Structure, outputs: Outputs, sketch: Sketch, n: int, *, memory: int, batch_size: int | None = None) -> Portions:
    """How much goes through the network at a time.

    Raises:
      ConfigError: not even one example with one cotangent fits into `memory` bytes.
    """
    passes, m = passes_of(structure), outputs.count
    sizes = [sizes_of(structure, leaf) for leaf in structure.leaves if leaf.kind != "unused"]
    kept = [(size.stored("inputs", 0), size.stored("inputs", 1)) if size.entering else (0, size.entries * size.item) for size in sizes]
    largest = max((size.entries * size.item for size in sizes), default=0)
    platform = jax.default_backend()
    each = sum(size.entries * size.item for size in sizes) + sum(each for _, each in kept)
    at_once = BATCH_BYTES.get(platform, BATCH_BYTES_ELSEWHERE) / max(1, each)
    if KINDS[sketch.kind].independent_columns:
        at_once *= 8  # a random matrix is made for each batch
    flight = int(min(max(at_once, IN_FLIGHT[0]), IN_FLIGHT[1]))
    rows = 1 if outputs.pairing == "trace" else m
    item = jnp.dtype(structure.dtype).itemsize

    def needed(batch: int, chunk: int) -> int:
        stored = sum(shared + chunk * (each - shared) for shared, each in kept)
        way_back = 2 * passes.activations + chunk * 4 * passes.largest
        formed = max(3 * min(batch * chunk * largest, leaf_bytes()), 3 * chunk * largest)
        return int(batch * (way_back + stored + 4 * rows * sketch.dim * item) + formed)

    chunk, batch = math.ceil(m / math.ceil(m / flight)), min(n, batch_size or max(1, flight // m))
    while needed(batch, chunk) > memory and batch > 1 and batch_size is None:
        batch = math.ceil(batch / 2)
    while needed(batch, chunk) > memory and chunk > 1:
        chunk = math.ceil(chunk / 2)
    if needed(batch, chunk) > memory:
        least = needed(batch, chunk)
        raise ConfigError(
            f"Sketching {batch} example{'s' if batch > 1 else ''} at a time needs about {least / 1e9:.2g} GB, above the budget of {memory / 1e9:.2g} GB. "
            f"Type: memory_gb={math.ceil(1.1 * least / 1e8) / 10:.1f} or more, a smaller dim=, or layers= a smaller part of the network."
        )
    if batch_size is None:
        batch = math.ceil(n / math.ceil(n / batch))  # alike, so that no example is done twice
    return Portions(batch, chunk, needed(batch, chunk))


def batches(
    structure: Structure, params: Any, x: np.ndarray, outputs: Outputs, sketch: Sketch, sizes: Portions, *, by_layer: bool = False, offset: int = 0
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The sketch in portions: (number of the first example, {"": rows} or {path of the leaf: rows}).

    Rows are (b, dim) or, where cotangents stay apart, (b, m, dim). The last portion begins earlier instead of being short.
    `offset` is what the number of the first example is called in errors.

    Raises:
      ModelError: NaN or infinity.
    """
    leaves, values = jax.device_put(jax.tree.leaves(params)), jax.device_put(structure.program.values)
    work = _Work(structure, sketch, leaves, values, outputs, by_layer)
    n, batch = len(x), min(sizes.batch, len(x))
    for start in range(0, n, batch):
        start = min(start, n - batch)
        rows = work.rows(x[start : start + batch], slice(start, start + batch), sizes.chunk)
        for found in rows.values():
            finite = np.isfinite(found.reshape(batch, -1)).all(1)
            if not finite.all():
                bad = start + int(np.argmin(finite))
                raise not_finite(offset + bad, work.faulty_leaf(x[bad : bad + 1], slice(bad, bad + 1)))
        yield start, rows


def leaf_bytes() -> float:
    """Bytes of gradients of one leaf that are formed at a time."""
    return LEAF_BYTES.get(jax.default_backend(), LEAF_BYTES_ELSEWHERE)


class _Work:
    """What stays the same from batch to batch."""

    def __init__(self, structure: Structure, sketch: Sketch, leaves, values, outputs: Outputs, by_layer: bool):
        self.structure, self.sketch, self.leaves, self.values, self.outputs, self.by_layer = structure, sketch, leaves, values, outputs, by_layer
        self.apart = outputs.pairing != "trace"
        self.used = [(position, leaf) for position, leaf in enumerate(structure.leaves) if leaf.kind != "unused"]
        self.stored = tuple(Stored(position, "inputs" if leaf.structured else "gradients") for position, leaf in self.used)
        self.keys = {}

    def rows(self, x, part: slice, chunk: int) -> dict[str, np.ndarray]:
        """The rows of one batch."""
        m, x = self.outputs.count, jax.device_put(x)
        cotangents = self.outputs.left if len(self.outputs.left) == 1 else self.outputs.left[part]
        totals, done = {}, []
        for first in range(0, m, chunk):
            last = min(first + chunk, m)
            if self.apart or not totals:
                totals = self._empty(len(x) * (last - first if self.apart else 1))
            found = list(factors(self.structure, self.stored, self.values, self.leaves, x, jnp.asarray(cotangents[:, first:last])))
            for number, (position, leaf) in enumerate(self.used):
                name = leaf.name if self.by_layer else ""
                totals[name] = self._add(totals[name], position, leaf, found[number], range(first, last))
                found[number] = None
            if self.apart or last == m:
                done.append({name: np.asarray(finished(self.sketch.kind, total)) for name, total in totals.items()})
        if self.apart:
            return {name: np.concatenate([part[name].reshape(len(x), -1, self.sketch.dim) for part in done], axis=1) for name in done[0]}
        return {name: rows * np.asarray(m**-0.5, rows.dtype) for name, rows in done[0].items()}

    def faulty_leaf(self, x, part: slice) -> str | None:
        """The first leaf with a gradient that is not finite."""
        cotangents = self.outputs.left if len(self.outputs.left) == 1 else self.outputs.left[part]
        found = factors(self.structure, self.stored, self.values, self.leaves, jnp.asarray(x), jnp.asarray(cotangents))
        for (_, leaf), parts in zip(self.used, found, strict=True):
            if not all(np.isfinite(np.asarray(array, np.float64)).all() for array in jax.tree.leaves(parts)):
                return leaf.name
        return None

    def _empty(self, rows: int) -> dict[str, Any]:
        names = [leaf.name for leaf in self.structure.leaves] if self.by_layer else [""]
        width, blocks = self.sketch.width, self.sketch.blocks
        return {name: KINDS[self.sketch.kind].empty(rows, width, blocks, self.structure.dtype) for name in names}

    def _add(self, total, position: int, leaf: LeafUse, found, cotangents: range):
        """Adds one leaf; of a wide one a few examples at a time."""
        kind, keys = self.sketch.kind, self._keys(leaf.name, cotangents)
        uses = uses_of(self.structure.taps, leaf.taps) if leaf.structured else ()
        moved = position if leaf.structured and is_moved(self.structure, leaf) and KINDS[kind].add_factors is None else None
        n = len(jax.tree.leaves(found)[0])
        a_row = math.prod(leaf.shape) * jnp.dtype(self.structure.dtype).itemsize * len(cotangents)
        size = min(n, max(1, int(leaf_bytes() // max(1, a_row))))
        for start in range(0, n, size):
            some = min(size, n - start)
            if moved is not None:
                part = jax.tree.map(lambda array, a=start, b=start + some: array[a:b], found)
                gradients = moved_back(self.structure, position, self.values, self.leaves, _formed(uses, part))
                total = add_leaf(kind, (), self.apart, some, total, gradients[:, None], keys, start, 0)
            else:
                total = add_leaf(kind, uses, self.apart, some, total, found, keys, start, start)
        return total

    def _keys(self, name: str, cotangents: range):
        """Keys of the cotangents of a leaf; those in rows of their own share one."""
        address = (name, cotangents.start, cotangents.stop)
        if address not in self.keys:
            numbers = [0] if self.apart else list(cotangents)
            if KINDS[self.sketch.kind].add_factors is not None:
                numbers = [0, *numbers]
            blocks = 1 if KINDS[self.sketch.kind].independent_columns else self.sketch.blocks
            self.keys[address] = jnp.asarray(leaf_keys(self.sketch.seed, name, blocks, np.array(numbers)))
        return self.keys[address]


def not_finite(example: int, leaf: str | None = None) -> ModelError:
    """What is said of gradients that are not finite."""
    of = "A sketched gradient" if leaf is None else f"The gradient with respect to {leaf!r}"
    return ModelError(
        f"{of} holds NaN or infinity at example {example}. Usual causes: half precision, batch norm in training mode, inputs that were not normalised."
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def add_leaf(kind: str, uses: tuple, apart: bool, size: int, total, found, keys, row, start):
    """`total` with the gradients of `size` examples added to the rows from example `row` on.

    Args:
      kind: of the sketch.
      uses: of a weight; none for gradients that are there.
      apart: cotangents have rows of their own.
      size: number of examples.
      total: what has grown so far.
      found: of each use what entered and the cotangents of what left (see `Stored`); or gradients (n, 1, m, p).
      keys: of the leaf.
      row, start: number of the first example in `total`, and in `found`.
    """
    found = jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, size), found)
    if uses and KINDS[kind].add_factors is not None:
        add = partial(KINDS[kind].add_factors, uses, apart)
        return _in_rows(lambda rows: add(rows, found, keys), total, row, size, _cotangents(found) if apart else 1)
    gradients = joined_rows(use_gradients(uses, found) if uses else found[:, 0], apart)
    return _in_rows(lambda rows: KINDS[kind].add(rows, gradients, keys), total, row, size, len(gradients) // size)


def _in_rows(add, total, row, size: int, each: int):
    """`total` with `size` examples' rows, `each` of them, replaced by what `add` makes of them."""
    rows = jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, row * each, size * each), total)
    return jax.tree.map(lambda array, new: lax.dynamic_update_slice_in_dim(array, new, row * each, 0), total, add(rows))


def _cotangents(found) -> int:
    return found[0][1].shape[3]


@partial(jax.jit, static_argnums=0)
def _formed(uses: tuple, found):
    return use_gradients(uses, found)


@partial(jax.jit, static_argnums=0)
def finished(kind: str, total):
    """Z (e, dim)."""
    return KINDS[kind].finished(total)


def all_rows(portioned: Iterator[tuple[int, dict[str, np.ndarray]]], n: int, progress: Callable[[int, int, str], None] | None = None):
    """All portions put together: {name: (n, ...)}."""
    whole = {}
    for start, portion in portioned:
        for name, rows in portion.items():
            whole.setdefault(name, np.empty((n, *rows.shape[1:]), rows.dtype))[start : start + len(rows)] = rows
        if progress is not None:
            stop = start + len(next(iter(portion.values())))
            progress(stop, n, f"{stop} of {n} examples")
    return whole
