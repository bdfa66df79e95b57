"""Carrying out a sketch: batch by batch; a batch is one program, in which one gradient of one leaf is there at a time.

The engine keeps, for a weight, what entered its operations and the cotangents of what left them. Here they become gradients
(e, t, p): e rows of the sketch, t cotangents that add up in a row, p entries of the leaf in the order of its memory,
those whose gradient is always zero included. So the address of an entry is that of the parameter, whatever the
function does with it.
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

from ntk_select._runtime.memory import MemoryShrunkWarning, is_out_of_memory, reason_of
from ntk_select.errors import ConfigError, ModelError
from ntk_select.kernels.engine.arguments import Outputs, count_examples, default_device, some_examples
from ntk_select.kernels.engine.factors import Stored, factors
from ntk_select.kernels.engine.layer_ops import Conv, Embedding, LayerOp, summing_type
from ntk_select.kernels.engine.plan import passes_of, sizes_of
from ntk_select.kernels.engine.program import evaluate
from ntk_select.kernels.engine.structure import Analysed, LeafUse, Structure
from ntk_select.kernels.sketches import forward
from ntk_select.kernels.sketches.hashing import leaf_keys
from ntk_select.kernels.sketches.projection import FORWARD, KINDS, Layout, Sketch

# Gradients and factors of one batch, all leaves together: few enough on a CPU that memory is mapped once and used again.
BATCH_BYTES = {"cpu": 220e6}
BATCH_BYTES_ELSEWHERE = 8e9
# Gradients of one leaf that are formed at a time: on a CPU they are read again from its caches.
LEAF_BYTES = {"cpu": 10e6}
LEAF_BYTES_ELSEWHERE = 2e9
IN_FLIGHT = (4, 256)  # cotangents that go back through the network together, least and most, if memory allows
MOST_EXAMPLES = 64  # of a single operation at a time


def formed_bytes() -> float:
    """Bytes of gradients of one leaf that are formed at a time."""
    return LEAF_BYTES.get(default_device().platform, LEAF_BYTES_ELSEWHERE)


class Portions(NamedTuple):
    """Examples in a batch, cotangents (or directions) that pass together, and the bytes that they take."""

    batch: int
    together: int
    bytes: int = 0


def portions(structure: Structure, outputs: Outputs, sketch: Sketch, n: int, *, memory: int, batch_size: int | None = None) -> Portions:
    """How much goes through the network at a time.

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
        at_once *= 8  # a random matrix is made for each batch
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
        batch = math.ceil(n / math.ceil(n / batch))  # alike, so that no example is done twice
    return Portions(batch, chunk, needed(batch, chunk))


def layout_of(sketch: Sketch, outputs: Outputs, together: int, *, by_layer: bool = False) -> Layout:
    """What the program of a batch depends on; `together` cotangents or directions pass together."""
    return Layout(sketch.kind, int(sketch.width), int(sketch.blocks), outputs.pairing != "trace", together, formed_bytes(), by_layer)


def keys_of(structure: Structure, sketch: Sketch, outputs: Outputs) -> list[np.ndarray]:
    """Keys of the leaves that are used, (m, blocks, 4); (1, blocks, 4) where each cotangent has a row of its own."""
    if sketch.kind == FORWARD:
        return forward.keys_of(structure, sketch)
    blocks = 1 if KINDS[sketch.kind].independent_columns else sketch.blocks
    numbers = np.arange(outputs.count if outputs.pairing == "trace" else 1)
    return [leaf_keys(sketch.seed, leaf.name, blocks, numbers) for _, leaf in _used(structure)]


def rows(
    structure: Structure, layout: Layout, values: tuple, leaves: list, x: Any, cotangents: Float[Array, "n_or_1 m c"], keys: list
) -> dict[str, Float[Array, "n ..."]]:
    """The rows of examples that are in memory together: a pure function, traceable and differentiable.

    Args:
      structure, values, leaves: from `analyse`.
      layout: from `layout_of`.
      x, cotangents: of the examples.
      keys: from `keys_of`.

    Returns:
      {"": rows} or {path of the leaf: rows}; (n, dim) or, where cotangents stay apart, (n, m, dim).
    """
    if layout.kind == FORWARD:
        return forward.rows(structure, layout, values, leaves, x, cotangents, keys)
    kind, n, m, apart = KINDS[layout.kind], count_examples(x), cotangents.shape[1], layout.apart
    chunk = min(layout.together, m)
    count = -(-m // chunk)
    names = [leaf.name for leaf in structure.leaves] if layout.by_layer else [""]
    input_keys = [key[0] for key in keys]

    def init():
        return {name: kind.init(n * (chunk if apart else 1), layout.width, layout.blocks, structure.dtype) for name in names}

    def update(states, cotangents, keys):
        found = factors(structure, _stored(structure), values, leaves, x, cotangents)
        parts = list(zip(found, input_keys, keys, strict=True))
        for alike in _alike(structure, layout):
            position, leaf = _used(structure)[alike[0]]
            back = _moved_back(structure, position, values, leaves) if _is_moved(structure, leaf) else None
            ops = structure.ops(leaf) if leaf.structured else ()
            add = partial(_with_leaf, layout, math.prod(leaf.shape) * chunk, ops, back)
            name = leaf.name if layout.by_layer else ""
            if len(alike) == 1:
                states[name] = add(states[name], parts[alike[0]])
            else:
                stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(parts[number] for number in alike))
                states[name], _ = lax.scan(lambda state, part, add=add: (add(state, part), None), states[name], stacked)
        return states

    def finalize(states):
        return {name: kind.finalize(state) for name, state in states.items()}

    # Chunks are filled up with cotangents that are zero.
    cotangents = _in_chunks(cotangents, 1, count, chunk)
    if apart:
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
    """An axis, filled up with zeros, as (count, ..., chunk, ...)."""
    missing = count * chunk - array.shape[axis]
    filled = jnp.pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)]) if missing else jnp.asarray(array)
    return jnp.moveaxis(filled.reshape(*array.shape[:axis], count, chunk, *array.shape[axis + 1 :]), axis, 0)


def _used(structure: Structure) -> list[tuple[int, LeafUse]]:
    return [(position, leaf) for position, leaf in enumerate(structure.leaves) if leaf.kind != "unused"]


def _stored(structure: Structure) -> tuple[Stored, ...]:
    return tuple(Stored(position, "inputs" if leaf.structured else "gradients") for position, leaf in _used(structure))


def _alike(structure: Structure, layout: Layout) -> list[list[int]]:
    """Numbers of the used leaves, those together that one piece of code can serve."""
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
    """The function that takes a gradient of the operand back through the reshapes and transpositions before it."""
    leaf = structure.leaves[position]
    missing = [None] * (len(structure.program.invars) - structure.count)

    def weight(moved):
        arguments = [*leaves, *missing]
        arguments[leaf.index] = moved
        return evaluate(structure.program, values, arguments, only=structure.params_only)[structure.taps[leaf.taps[0]].weight]

    out, pull = jax.vjp(weight, jnp.asarray(leaves[leaf.index]))
    return lambda gradient: pull(gradient.reshape(out.shape).astype(out.dtype))[0]


def _with_leaf(layout: Layout, entries: int, ops: tuple[LayerOp, ...], back: Callable | None, state, part):
    """`state` with one leaf added; of a wide one a few examples at a time.

    Args:
      layout: of the sketch.
      entries: of the gradients of one example.
      ops: of a weight; none for gradients that are there.
      back: from `_moved_back`, or None.
      state: of the kind.
      part: what `factors` found, and the keys of the leaf, see `kronecker`.
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
            return kind.update_factors(state, ops, layout.apart, found, input_key, keys)
        gradients = _leaf_gradients(ops, back, found) if ops else found[:, 0]
        return kind.update(state, gradients.reshape(-1, 1, gradients.shape[2]) if layout.apart else gradients, keys)

    if pieces == 1:
        return update(state, found)

    def step(i, new):
        start = jnp.minimum(i * size, n - size)  # the last piece begins earlier: it is added to the state of before
        take = lambda array, start, size: lax.dynamic_slice_in_dim(array, start, size)  # noqa: E731
        rows = update(
            jax.tree.map(lambda array: take(array, start * each, size * each), state), jax.tree.map(lambda array: take(array, start, size), found)
        )
        return jax.tree.map(lambda array, part: lax.dynamic_update_slice_in_dim(array, part, start * each, 0), new, rows)

    return lax.fori_loop(0, pieces, step, state)


def _leaf_gradients(ops: tuple[LayerOp, ...], back: Callable | None, found) -> Float[Array, "n m p"]:
    """Gradients of a weight in the order of its memory, from inputs and cotangents."""
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
    # A product for each cotangent: the result lies as it is read next, and needs no transposition.
    return jnp.matmul(patches.swapaxes(1, 2)[None].astype(dtype), cotangents.astype(dtype))


class Batches:
    """The sketch of all examples, a batch at a time; made for one call."""

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
        """Examples and cotangents on the device. What is there is cut there; from the host only the part comes."""
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
            f"{of} holds NaN or infinity at example {example}. Usual causes: half precision, batch norm in training mode, inputs that were not normalised."
        )

    def run(self, first: int, last: int, batch_size: int | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(number of the first example, rows) of batches from `first` to `last`; the last one begins earlier instead of being short.

        Where memory runs out, the work goes on with half as many examples.

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
            warnings.warn(
                f"Memory ran out with {before} examples at a time ({said}). The work goes on with {size}.", MemoryShrunkWarning, stacklevel=3
            )


def _rows_and_check(structure: Structure, layout: Layout, values, leaves, x, cotangents, keys):
    found = rows(structure, layout, values, leaves, x, cotangents, keys)
    finite = [jnp.isfinite(part).all(axis=tuple(range(1, part.ndim))) for part in found.values()]
    return found, jnp.stack(finite).all(axis=0)


@partial(jax.jit, static_argnums=0)
def _slice_of(size: int, x, start):
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), x)


def sketch_of_op(
    op: LayerOp, inputs: Num[Array, "n ..."], cotangents: Num[Array, "n ..."], sketch: Sketch, name: str, *, precision: str = "highest"
) -> Float[np.ndarray, "n k"]:
    """Z with E[Z Z'] the inner products of the examples' gradients with respect to the weight of one operation.

    Args:
      op: for one example, as `read_layer_op` or `conv_op` give it.
      inputs: what entered the operation, example by example, without the axis of length one that `op` sees.
      cotangents: of what left it.
      sketch: with dimension and blocks as numbers; any kind but "jvp".
      name: path of the weight.
      precision: of the products.
    """
    keys = jax.device_put(leaf_keys(sketch.seed, name, 1 if KINDS[sketch.kind].independent_columns else sketch.blocks, np.array([0])))
    layout = Layout(sketch.kind, int(sketch.width), int(sketch.blocks), False, 1, formed_bytes())
    parts = [slice(start, start + MOST_EXAMPLES) for start in range(0, len(inputs), MOST_EXAMPLES)]
    with jax.default_matmul_precision(precision):
        rows = [jax.device_get(_op_rows(layout, op, *jax.device_put((inputs[part], cotangents[part])), keys)) for part in parts]
    return np.concatenate(rows)


@partial(jax.jit, static_argnums=(0, 1))
def _op_rows(layout: Layout, op: LayerOp, inputs, cotangents, keys):
    kind, dtype = KINDS[layout.kind], summing_type(cotangents.dtype)
    left = jax.vmap(lambda cotangent: op.outputs(cotangent[None]))(cotangents)[:, :, :, None]
    state, entries = kind.init(len(inputs), layout.width, layout.blocks, dtype), op.groups * op.width_in * op.width_out
    return kind.finalize(_with_leaf(layout, entries, (op,), None, state, ([(inputs[:, None], left)], keys[0], keys)))
