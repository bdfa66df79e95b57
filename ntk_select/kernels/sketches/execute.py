"""Execution of a sketch, batch by batch; each batch is one program that holds the gradients of one leaf at a time.

The engine's factors of a weight (inputs and output cotangents of its operations) are turned into gradients (e, t, p): e rows
of the sketch, t cotangents that are summed in a row, p entries of the leaf in memory order, including those whose gradient
is always zero. The address of an entry is thus that of the parameter, whatever the function does with it.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from ntk_select._runtime.memory import is_out_of_memory, reason_of
from ntk_select.errors import ConfigError, MemoryShrunkWarning, ModelError
from ntk_select.kernels.engine.arguments import Outputs, count_examples, default_device, some_examples
from ntk_select.kernels.engine.costs import passes_of, sizes_of
from ntk_select.kernels.engine.factors import Stored, factors
from ntk_select.kernels.engine.layer_ops import Conv, Embedding, LayerOp, summing_type
from ntk_select.kernels.engine.program import evaluate
from ntk_select.kernels.engine.structure import Analysed, LeafUse, Structure
from ntk_select.kernels.sketches import forward
from ntk_select.kernels.sketches.hashing import leaf_keys
from ntk_select.kernels.sketches.projection import FORWARD, KINDS, Layout, Sketch

# Gradients and factors of one batch, all leaves together; small enough on a CPU that allocations are reused.
BATCH_BYTES = {"cpu": 220e6}
BATCH_BYTES_ELSEWHERE = 8e9
# Gradients of one leaf formed at a time; on a CPU they fit into its caches.
LEAF_BYTES = {"cpu": 10e6}
LEAF_BYTES_ELSEWHERE = 2e9
IN_FLIGHT = (4, 256)  # smallest and largest number of cotangents per backward pass, memory permitting
MAX_EXAMPLES = 64  # at a time, for a single operation


def formed_bytes() -> float:
    """Bytes of gradients of one leaf formed at a time."""
    return LEAF_BYTES.get(default_device().platform, LEAF_BYTES_ELSEWHERE)


class Portions(NamedTuple):
    """Examples per batch, cotangents (or directions) per pass, and the bytes that they need."""

    batch: int
    together: int
    bytes: int = 0


def portions(structure: Structure, outputs: Outputs, sketch: Sketch, n: int, *, memory: int, batch_size: int | None = None) -> Portions:
    """Batch sizes that fit into memory.

    Raises:
      ConfigError: not even one example with one cotangent fits into `memory` bytes.
    """
    if sketch.kind == FORWARD:
        return Portions(*forward.portions(structure, outputs, sketch, n, memory=memory, batch_size=batch_size))
    passes, m = passes_of(structure), outputs.count
    sizes = [sizes_of(structure, leaf) for leaf in structure.leaves if leaf.kind != "unused"]
    stored = [(size.stored("inputs", 0), size.stored("inputs", 1)) if size.entering else (0, size.entries * size.item) for size in sizes]
    largest = max((size.entries * size.item for size in sizes), default=0)
    each = sum(size.entries * size.item for size in sizes) + sum(each for _, each in stored)
    at_once = BATCH_BYTES.get(default_device().platform, BATCH_BYTES_ELSEWHERE) / max(1, each)
    if KINDS[sketch.kind].independent_columns:
        at_once *= 8  # the random matrix is generated once per batch
    flight = int(min(max(at_once, IN_FLIGHT[0]), IN_FLIGHT[1]))
    rows = 1 if outputs.pairing == "trace" else m
    item = jnp.dtype(structure.dtype).itemsize

    def needed(batch: int, chunk: int) -> int:
        factors = sum(shared + chunk * (each - shared) for shared, each in stored)
        way_back = 2 * passes.activations + chunk * 4 * passes.largest
        formed = max(3 * min(batch * chunk * largest, formed_bytes()), 3 * chunk * largest)
        return int(batch * (way_back + factors + 4 * rows * sketch.dim * item) + formed)

    chunk, batch = math.ceil(m / math.ceil(m / flight)), min(n, batch_size or max(1, flight // m))
    while needed(batch, chunk) > memory and batch > 1 and batch_size is None:
        batch = math.ceil(batch / 2)
    while needed(batch, chunk) > memory and chunk > 1:
        chunk = math.ceil(chunk / 2)
    if needed(batch, chunk) > memory:
        least = needed(batch, chunk)
        raise ConfigError(
            f"Sketching {batch} example{'s' if batch > 1 else ''} at a time needs about {least / 1e9:.2g} GB, above the budget of {memory / 1e9:.2g} GB. "
            f"Try: memory_gb={math.ceil(1.1 * least / 1e8) / 10:.1f} or more, a smaller dim=, or layers= a smaller part of the network."
        )
    if batch_size is None:
        batch = math.ceil(n / math.ceil(n / batch))  # equal batches, so that no example is computed twice
    return Portions(batch, chunk, needed(batch, chunk))


def layout_of(sketch: Sketch, outputs: Outputs, together: int, *, by_layer: bool = False) -> Layout:
    """Static arguments of the program of a batch, for `together` cotangents or directions per pass."""
    return Layout(sketch.kind, int(sketch.width), int(sketch.blocks), outputs.pairing != "trace", together, formed_bytes(), by_layer)


def keys_of(structure: Structure, sketch: Sketch, outputs: Outputs) -> list[np.ndarray]:
    """Keys of the used leaves, (m, blocks, 4); (1, blocks, 4) if each cotangent has a row of its own."""
    if sketch.kind == FORWARD:
        return forward.keys_of(structure, sketch)
    blocks = 1 if KINDS[sketch.kind].independent_columns else sketch.blocks
    numbers = np.arange(outputs.count if outputs.pairing == "trace" else 1)
    return [leaf_keys(sketch.seed, leaf.name, blocks, numbers) for _, leaf in _used(structure)]


def rows(
    structure: Structure, layout: Layout, values: tuple, leaves: list, x: Any, cotangents: Float[Array, "n_or_1 m c"], keys: list
) -> dict[str, Float[Array, "n ..."]]:
    """The rows of one batch of examples: a pure function, traceable and differentiable.

    Args:
      structure, values, leaves: Result of `analyse`.
      layout: Result of `layout_of`.
      x, cotangents: Examples and their cotangents.
      keys: Result of `keys_of`.

    Returns:
      {"": rows} or {path of the leaf: rows}; (n, dim) or, with one row per cotangent, (n, m, dim).
    """
    if layout.kind == FORWARD:
        return forward.rows(structure, layout, values, leaves, x, cotangents, keys)
    kind, n, m, per_cotangent = KINDS[layout.kind], count_examples(x), cotangents.shape[1], layout.per_cotangent
    chunk = min(layout.together, m)
    count = -(-m // chunk)
    names = [leaf.name for leaf in structure.leaves] if layout.by_layer else [""]
    input_keys = [key[0] for key in keys]

    def init():
        return {name: kind.init(n * (chunk if per_cotangent else 1), layout.width, layout.blocks, structure.dtype) for name in names}

    def update(states, cotangents, keys):
        found = factors(structure, _stored(structure), values, leaves, x, cotangents)
        parts = list(zip(found, input_keys, keys, strict=True))
        for group in _groups(structure, layout):
            position, leaf = _used(structure)[group[0]]
            back = _moved_back(structure, position, values, leaves) if _is_moved(structure, leaf) else None
            ops = structure.ops(leaf) if leaf.structured else ()
            add = partial(_with_leaf, layout, math.prod(leaf.shape) * chunk, ops, back)
            name = leaf.name if layout.by_layer else ""
            if len(group) == 1:
                states[name] = add(states[name], parts[group[0]])
            else:
                stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(parts[number] for number in group))
                states[name], _ = lax.scan(lambda state, part, add=add: (add(state, part), None), states[name], stacked)
        return states

    def finalize(states):
        return {name: kind.finalize(state) for name, state in states.items()}

    # The last chunk is padded with zero cotangents.
    cotangents = _in_chunks(cotangents, 1, count, chunk)
    if per_cotangent:
        one = lambda _, some: (None, finalize(update(init(), some, keys)))  # noqa: E731
        done = lax.scan(one, None, cotangents)[1] if count > 1 else one(None, cotangents[0])[1]
        return {name: part.reshape(count, n, chunk, -1).swapaxes(0, 1).reshape(n, count * chunk, -1)[:, :m] for name, part in done.items()}
    keys = [_in_chunks(key, 0, count, chunk) for key in keys]
    if count == 1:
        states = update(init(), cotangents[0], [key[0] for key in keys])
    else:
        states, _ = lax.scan(lambda states, some: (update(states, *some), None), init(), (cotangents, keys))
    return {name: found * m**-0.5 for name, found in finalize(states).items()}


def _in_chunks(array, axis: int, count: int, chunk: int):
    """Splits an axis, padded with zeros, to (count, ..., chunk, ...)."""
    missing = count * chunk - array.shape[axis]
    filled = jnp.pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)]) if missing else jnp.asarray(array)
    return jnp.moveaxis(filled.reshape(*array.shape[:axis], count, chunk, *array.shape[axis + 1 :]), axis, 0)


def _used(structure: Structure) -> list[tuple[int, LeafUse]]:
    return [(position, leaf) for position, leaf in enumerate(structure.leaves) if leaf.kind != "unused"]


def _stored(structure: Structure) -> tuple[Stored, ...]:
    return tuple(Stored(position, "inputs" if leaf.structured else "gradients") for position, leaf in _used(structure))


def _groups(structure: Structure, layout: Layout) -> list[list[int]]:
    """Indices of the used leaves, grouped by those that one `lax.scan` can process."""
    groups = {}
    for number, (_, leaf) in enumerate(_used(structure)):
        ops = structure.ops(leaf) if leaf.structured else math.prod(leaf.shape)
        alone = layout.by_layer or _is_moved(structure, leaf)
        groups.setdefault(number if alone else (ops,), []).append(number)
    return list(groups.values())


def _is_moved(structure: Structure, leaf: LeafUse) -> bool:
    """Whether a weight is reshaped or transposed before its use."""
    return leaf.structured and len(structure.taps[leaf.taps[0]].plain) > 1


def _moved_back(structure: Structure, position: int, values, leaves) -> Callable:
    """The VJP of the reshapes and transpositions before the operand."""
    leaf = structure.leaves[position]
    missing = [None] * (len(structure.program.invars) - structure.count)

    def weight(moved):
        arguments = [*leaves, *missing]
        arguments[leaf.index] = moved
        return evaluate(structure.program, values, arguments, only=structure.params_only)[structure.taps[leaf.taps[0]].weight]

    out, pull = jax.vjp(weight, jnp.asarray(leaves[leaf.index]))
    return lambda gradient: pull(gradient.reshape(out.shape).astype(out.dtype))[0]


def _with_leaf(layout: Layout, entries: int, ops: tuple[LayerOp, ...], back: Callable | None, state, part):
    """Adds one leaf; a wide one in pieces of a few examples.

    Args:
      layout: Layout of the sketch.
      entries: number of entries of the gradients of one example.
      ops: Operations of a weight; empty if the gradients are given.
      back: Result of `_moved_back`, or None.
      state: State of the kind.
      part: the factors or gradients, and the keys of the leaf.
    """
    found, input_key, keys = part
    kind, n = KINDS[layout.kind], len(jax.tree.leaves(found)[0])
    ops = tuple(replace(op, every=True) if isinstance(op, Conv) else op for op in ops)
    item = jax.tree.leaves(state)[0].dtype.itemsize
    pieces = math.ceil(n / min(n, max(1, layout.formed_bytes // max(1, entries * item))))
    size = math.ceil(n / pieces)
    each = len(jax.tree.leaves(state)[0]) // n

    def update(state, found):
        if ops and kind.update_factors is not None:
            return kind.update_factors(state, ops, layout.per_cotangent, found, input_key, keys)
        gradients = _leaf_gradients(ops, back, found) if ops else found[:, 0]
        return kind.update(state, gradients.reshape(-1, 1, gradients.shape[2]) if layout.per_cotangent else gradients, keys)

    if pieces == 1:
        return update(state, found)

    def step(i, new):
        start = jnp.minimum(i * size, n - size)  # the last piece overlaps the one before: it starts from the old state
        take = lambda array, start, size: lax.dynamic_slice_in_dim(array, start, size)  # noqa: E731
        rows = update(
            jax.tree.map(lambda array: take(array, start * each, size * each), state), jax.tree.map(lambda array: take(array, start, size), found)
        )
        return jax.tree.map(lambda array, part: lax.dynamic_update_slice_in_dim(array, part, start * each, 0), new, rows)

    return lax.fori_loop(0, pieces, step, state)


def _leaf_gradients(ops: tuple[LayerOp, ...], back: Callable | None, found) -> Float[Array, "n m p"]:
    """Gradients of a weight in memory order, from inputs and cotangents."""
    total = sum(jax.vmap(partial(_outer, op))(x, cotangents) for op, (x, cotangents) in zip(ops, found, strict=True))
    total = jax.vmap(jax.vmap(ops[0].weight))(total)
    total = total if back is None else jax.vmap(jax.vmap(back))(total)
    return total.reshape(*total.shape[:2], -1)


def _outer(op: LayerOp, x, cotangents):
    """X' G (m, g, k, o) of one example, from cotangents (g, s, m, o)."""
    cotangents = cotangents.transpose(2, 0, 1, 3)
    if isinstance(op, Embedding):
        zeros = jnp.zeros((len(cotangents), 1, op.width_in, op.width_out), cotangents.dtype)
        return zeros.at[:, :, op.rows(x)].add(cotangents, mode="drop", wrap_negative_indices=False)
    patches = op.patches(x)
    dtype = jnp.promote_types(patches.dtype, cotangents.dtype)
    # One product per cotangent: the result has the layout in which it is read next.
    return jnp.matmul(patches.swapaxes(1, 2)[None].astype(dtype), cotangents.astype(dtype))


class Batches:
    """Sketches all examples of one call, batch by batch."""

    def __init__(self, analysed: Analysed, outputs: Outputs, sketch: Sketch, x: Any, memory: int, *, by_layer: bool = False):
        self.structure, self.outputs, self.sketch, self.x, self.memory, self.by_layer = analysed.structure, outputs, sketch, x, memory, by_layer
        self.values, self.leaves, self.keys = jax.device_put((analysed.values, analysed.leaves, keys_of(analysed.structure, sketch, outputs)))

    def rows(self, start: int, stop: int, together: int) -> dict[str, np.ndarray]:
        """The rows of the examples from `start` to `stop`.

        Raises:
          ModelError: NaN or infinity.
        """
        run = self.structure.jit(_rows_and_check, layout_of(self.sketch, self.outputs, together, by_layer=self.by_layer))
        found, finite = jax.device_get(run(self.values, self.leaves, *self._part(start, stop), self.keys))
        if not finite.all():
            raise self._not_finite(start + int(np.argmin(finite)))
        return found

    def _part(self, start: int, stop: int):
        """Examples and cotangents on the device. Device arrays are sliced there; from the host only the part is transferred."""
        x, left = self.x, self.outputs.left
        if not isinstance(jax.tree.leaves(x)[0], jax.Array):
            x = some_examples(x, slice(start, stop))
        elif stop - start < count_examples(x):
            x = _slice_of(stop - start, x, jax.device_put(np.int32(start)))
        return jax.device_put((x, left if len(left) == 1 else left[start:stop]))

    def _not_finite(self, example: int) -> ModelError:
        of = "A sketched gradient"
        if self.sketch.kind != FORWARD:
            found = self.structure.jit(factors, _stored(self.structure))(self.values, self.leaves, *self._part(example, example + 1))
            for (_, leaf), parts in zip(_used(self.structure), jax.device_get(found), strict=True):
                if not all(np.isfinite(np.asarray(array, np.float64)).all() for array in jax.tree.leaves(parts)):
                    of = f"The gradient with respect to {leaf.name!r}"
                    break
        return ModelError(
            f"{of} contains NaN or infinity at example {example}. Usual causes: half precision, batch norm in training mode, inputs that were not normalised."
        )

    def run(self, first: int, last: int, batch_size: int | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(number of the first example, rows) of batches from `first` to `last`; the last one overlaps the one before instead of being short.

        When memory runs out, the batch size is halved.

        Raises:
          ConfigError: memory runs out with a single example.
          ModelError: NaN or infinity.

        Warns:
          MemoryShrunkWarning: each time that batches are halved.
        """
        done, size = first, batch_size
        while done < last:
            try:
                sizes = portions(self.structure, self.outputs, self.sketch, last - done, memory=self.memory, batch_size=size)
                size = min(sizes.batch, last - done)
                for start in range(done, last, size):
                    start = min(start, last - size)
                    yield start, self.rows(start, start + size, sizes.together)
                    done = start + size
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = reason_of(error)
            before = min(size or last - first, last - done)
            size = before // 2
            if size == 0:
                raise ConfigError(
                    f"Memory ran out even with one example at a time ({said}). Try: ending other programs, a smaller dim=, "
                    "layers= a smaller part of the network, or out= a folder, for a sketch that is itself too large."
                )
            warnings.warn(f"Memory ran out with {before} examples at a time ({said}). Continuing with {size}.", MemoryShrunkWarning, stacklevel=3)


def _rows_and_check(structure: Structure, layout: Layout, values, leaves, x, cotangents, keys):
    found = rows(structure, layout, values, leaves, x, cotangents, keys)
    finite = [jnp.isfinite(part).all(axis=tuple(range(1, part.ndim))) for part in found.values()]
    return found, jnp.stack(finite).all(axis=0)


@partial(jax.jit, static_argnums=0)
def _slice_of(size: int, x, start):
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), x)


def sketch_of_op(op: LayerOp, inputs: Num[Array, "n ..."], cotangents: Num[Array, "n ..."], sketch: Sketch, name: str) -> Float[np.ndarray, "n k"]:
    """Z with E[Z Z'] the inner products of the examples' gradients with respect to the weight of one operation.

    Args:
      op: The operation on one example, as `read_layer_op` or `conv_op` give it.
      inputs: Inputs of the operation per example, without the axis of length one that `op` expects.
      cotangents: Cotangents of its output.
      sketch: The sketch, with numbers as dimension and blocks, of any kind but "jvp".
      name: path of the weight.
    """
    keys = jax.device_put(leaf_keys(sketch.seed, name, 1 if KINDS[sketch.kind].independent_columns else sketch.blocks, np.array([0])))
    layout = Layout(sketch.kind, int(sketch.width), int(sketch.blocks), False, 1, formed_bytes())
    parts = [slice(start, start + MAX_EXAMPLES) for start in range(0, len(inputs), MAX_EXAMPLES)]
    with jax.default_matmul_precision("highest"):
        rows = [jax.device_get(_op_rows(layout, op, *jax.device_put((inputs[part], cotangents[part])), keys)) for part in parts]
    return np.concatenate(rows)


@partial(jax.jit, static_argnums=(0, 1))
def _op_rows(layout: Layout, op: LayerOp, inputs, cotangents, keys):
    kind, dtype = KINDS[layout.kind], summing_type(cotangents.dtype)
    left = jax.vmap(lambda cotangent: op.outputs(cotangent[None]))(cotangents)[:, :, :, None]
    state, entries = kind.init(len(inputs), layout.width, layout.blocks, dtype), op.groups * op.width_in * op.width_out
    return kind.finalize(_with_leaf(layout, entries, (op,), None, state, ([(inputs[:, None], left)], keys[0], keys)))
