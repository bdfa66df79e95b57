"""Execution of a plan: tile by tile on the device, with the factors of each example in an LRU cache.

Within a tile nothing blocks and nothing is transferred: programs are dispatched asynchronously, and the host reads one
boolean per tile (all finite). When memory runs out, tiles are halved; finished tiles are kept.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from ntk_select._runtime.memory import is_out_of_memory, reason_of
from ntk_select.errors import ConfigError, MemoryShrunkWarning, ModelError
from ntk_select.kernels.engine.arguments import Outputs, count_examples, some_examples
from ntk_select.kernels.engine.byte_cache import ByteCache
from ntk_select.kernels.engine.contract import Contraction, contract, finish, layer_kernel, zero_totals
from ntk_select.kernels.engine.costs import Sizes, padded, parameter_block, tuning
from ntk_select.kernels.engine.factors import Stored, factors, fill
from ntk_select.kernels.engine.layer_ops import LayerOp, summing_type
from ntk_select.kernels.engine.plan import Plan, choose, contractions_of, side_keys, stored_of
from ntk_select.kernels.engine.sink import Sink
from ntk_select.kernels.engine.structure import Analysed, Structure


def kernels(
    structure: Structure,
    stored: tuple[Stored, ...],
    contractions: tuple[Contraction, ...],
    pairing: str,
    symmetric: bool,
    values: tuple,
    leaves: list,
    x1: Any,
    x2: Any,
    left: Float[ArrayLike, "_ m c"],
    right: Float[ArrayLike, "_ m c"] | None,
) -> dict[str, Float[Array, "n1 n2 ..."]]:
    """The kernel of one tile of examples: a pure function, traceable and differentiable.

    Args:
      structure, values, leaves: Result of `analyse`.
      stored, contractions: What is stored and how it is contracted, for all leaves that count.
      pairing: Pairing of the cotangents.
      symmetric: x2 and right are None, and both sides are x1.
      x1, x2: examples.
      left, right: cotangents of either side.

    Returns:
      {"": kernel}, or one kernel per leaf.
    """
    run = partial(_kernels, structure, stored, contractions, pairing, symmetric)
    explicit = _explicit_sharding(x1)
    if explicit is not None:  # fn and the engine are written for automatic sharding
        run = jax.sharding.auto_axes(run, out_sharding=explicit)
    return run(values, leaves, x1, x2, left, right)


def _kernels(structure: Structure, stored, contractions, pairing: str, symmetric: bool, values, leaves, x1, x2, left, right):
    n1, m = count_examples(x1), left.shape[1]
    parts1 = _padded_to(padded(n1), factors(structure, stored, values, leaves, x1, left))
    n2, parts2 = n1, parts1
    if not symmetric:
        n2 = count_examples(x2)
        parts2 = _padded_to(padded(n2), factors(structure, stored, values, leaves, x2, right))
    shape = (padded(n1), padded(n2), *tail(pairing, m, m))
    totals = contract(
        contractions,
        pairing,
        symmetric,
        False,
        zero_totals([contraction.name for contraction in contractions], shape, structure.dtype),
        parts1,
        parts2,
    )
    return {name: finish(pairing, symmetric, (n1, n2), m, total) for name, total in totals.items()}


def _explicit_sharding(x) -> NamedSharding | None:
    """Sharding of the kernel, if the sharding of the examples is explicit (part of their type)."""
    sharding = jax.typeof(jax.tree.leaves(x)[0]).sharding
    if sharding.mesh.empty or not any(kind == AxisType.Explicit for kind in sharding.mesh.axis_types):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))


def without_explicit_axes(tree: Any) -> Any:
    """The same arrays on the same devices, with automatic instead of explicit sharding."""

    def same(leaf):
        sharding = getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding) or all(kind == AxisType.Auto for kind in sharding.mesh.axis_types):
            return leaf
        return jax.device_put(leaf, NamedSharding(Mesh(sharding.mesh.devices, sharding.mesh.axis_names), sharding.spec))

    return jax.tree.map(same, tree)


def tail(pairing: str, m1: int, m2: int) -> tuple[int, ...]:
    """Axes of a kernel after those of the examples."""
    return {"trace": (), "diagonal": (m1,), "full": (m1, m2)}[pairing]


def _padded_to(n: int, parts):
    return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, n - len(leaf)), *((0, 0),) * (leaf.ndim - 1))), parts)


def compute(
    analysed: Analysed,
    plan: Plan,
    x1: Any,
    x2: Any,
    outputs: Outputs,
    sink: Sink,
    *,
    split: bool = False,
    float64: bool = False,
    mesh: Mesh | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Computes the tiles that `sink` does not have yet.

    Raises:
      ModelError: a kernel with NaN or infinity; the message names the leaf and the example.
    """
    place = Placement(mesh)
    contractions = [contractions_of(plan, analysed.structure, group, split=split) for group in range(len(plan.groups))]
    tiles = [tile for tile in plan.tiles() if not sink.done(*tile)]
    steps, count = itertools.count(1), len(tiles) * sum(1 for _ in plan.rounds())

    def report(i: int, j: int) -> None:
        if progress is not None:
            progress(next(steps), count, f"tile {i}, {j}")

    sides = _Sides(analysed, plan, x1, x2, outputs, place)
    at_once = _in_one_program(plan) and not float64 and mesh is None
    for i, j in tiles:
        if not plan.leaves:  # no leaf influences the outputs
            found = {"": np.zeros((*sides.shape(i, j), *tail(plan.pairing, outputs.count, outputs.count)), analysed.structure.dtype)}
        elif at_once:
            found = _one_program(sides, contractions[0])
            report(i, j)
        else:
            found = _tile(sides, contractions, i, j, float64, report)
        if not jax.device_get(_finite(found)):
            raise _not_finite(sides, i, j)
        sink.write(i, j, found)


def _in_one_program(plan: Plan) -> bool:
    """Whether the plan is a single tile, group, chunk and batch."""
    longest = max(plan.rows[-1], plan.columns[-1] if plan.columns else 0)
    return plan.count_tiles() == 1 and len(plan.groups) == 1 and len(plan.chunks) == 2 and plan.batch >= longest


def _one_program(sides: "_Sides", contractions: tuple[Contraction, ...]) -> dict[str, Any]:
    plan, structure = sides.plan, sides.structure
    (x1, left), symmetric = sides.data["rows"][1:], plan.columns is None
    x2, right = (None, None) if symmetric else sides.data["columns"][1:]
    run = structure.jit(kernels, stored_of(plan, 0), contractions, plan.pairing, symmetric)
    return run(sides.values, sides.leaves, *jax.device_put((x1, x2, left, right)))


def _tile(sides: "_Sides", contractions: list, i: int, j: int, float64: bool, report: Callable) -> dict[str, Any]:
    plan, structure, place = sides.plan, sides.structure, sides.place
    whole, chunks = sides.shape(i, j), plan.chunks
    dtype = jnp.dtype("float64") if float64 else structure.dtype
    names = tuple(dict.fromkeys(contraction.name for group in contractions for contraction in group))
    totals = {}
    for group, left, right in plan.rounds():
        first, second = side_keys(plan, i, j, group, left, right)
        symmetric = first == second
        parts1 = sides.get(first)
        parts2 = [] if symmetric else sides.get(second, keep=first)
        # Cotangents that are averaged are summed; others are concatenated.
        address = {"trace": (0, 0), "diagonal": (left, 0), "full": (left, right)}[plan.pairing]
        m1, m2 = (chunks[part + 1] - chunks[part] for part in (left, right))
        with _double(float64):
            if address not in totals:
                shape = (*map(place.padded, whole), *tail(plan.pairing, m1, m2))
                totals[address] = place.spread(structure.jit(_zeros, names, shape, dtype)())
            if place.mesh is not None:
                parts2, symmetric = place.everywhere(parts1 if symmetric else parts2), False
            run = structure.jit(_contract, contractions[group], plan.pairing, symmetric, place.mesh is not None, donate_argnums=0)
            totals[address] = run(totals[address], parts1, parts2)
        del parts1, parts2  # so that only the cache holds references
        report(i, j)
    with _double(float64):
        symmetric = plan.columns is None and i == j
        return structure.jit(_joined, plan.pairing, symmetric, whole, chunks[-1])(totals)


def _double(float64: bool):
    return jax.enable_x64(True) if float64 else nullcontext()


def _zeros(structure: Structure, names: tuple[str, ...], shape, dtype):
    del structure
    return zero_totals(names, shape, dtype)


def _contract(structure: Structure, contractions, pairing: str, symmetric: bool, spread: bool, totals, parts1, parts2):
    del structure
    return contract(contractions, pairing, symmetric, spread, totals, parts1, parts1 if symmetric else parts2)


def _joined(structure: Structure, pairing: str, symmetric: bool, shape, m: int, totals: dict) -> dict[str, Any]:
    """Kernels from their sums per chunk of the left and of the right cotangents."""
    del structure
    lefts, rights = (sorted({address[side] for address in totals}) for side in (0, 1))
    found = {}
    for name in totals[0, 0]:
        rows = [_side_by_side([totals[left, right][name] for right in rights], 3) for left in lefts]
        found[name] = finish(pairing, symmetric, shape, m, _side_by_side(rows, 2))
    return found


def _side_by_side(parts: list, axis: int):
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


@jax.jit
def _finite(tiles: dict[str, Array]):
    return jnp.stack([jnp.isfinite(tile).all() for tile in tiles.values()]).all()


class Placement:
    """Placement of arrays: on the default device, or with the examples sharded over a mesh."""

    def __init__(self, mesh: Mesh | None):
        # Explicit axes, as jax.make_mesh gives them, would bind arrays to a context.
        self.mesh = None if mesh is None else Mesh(mesh.devices, mesh.axis_names)
        self.devices = 1 if mesh is None else mesh.size

    def everywhere(self, tree):
        """Replicates arrays."""
        return jax.device_put(tree) if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def spread(self, tree):
        """Shards arrays along their leading axis of examples."""
        return tree if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names)))

    def padded(self, n: int) -> int:
        """Length of a buffer for n examples."""
        multiple = padded(n)
        return multiple if self.mesh is None else -(-multiple // self.devices) * self.devices


class _Sides:
    """Gradients and factors of the examples of a tile side, computed on demand, in an LRU cache with a byte budget."""

    def __init__(self, analysed: Analysed, plan: Plan, x1, x2, outputs: Outputs, place: Placement):
        self.structure, self.plan, self.place = analysed.structure, plan, place
        self.values, self.leaves = place.everywhere(analysed.values), place.everywhere(analysed.leaves)
        self.data = {"rows": (plan.rows, x1, outputs.left)}
        if plan.columns is not None:
            self.data["columns"] = (plan.columns, x2, outputs.right)
        self.cache = ByteCache(max(0, plan.memory - (plan.peak_bytes - plan.stored_bytes)) * place.devices)

    def shape(self, i: int, j: int) -> tuple[int, int]:
        """Examples on either side of tile (i, j)."""
        columns = self.plan.rows if self.plan.columns is None else self.plan.columns
        return self.plan.rows[i + 1] - self.plan.rows[i], columns[j + 1] - columns[j]

    def get(self, key, keep=None):
        """Buffers of one side: for each leaf of the group, arrays with a leading axis of examples, zero-padded."""
        buffers = self.cache.get(key)
        if buffers is None:
            group = self.plan.groups[key[2]]
            side, number = key[:2]
            bounds = self.data[side][0]
            size = sum(self.plan.leaves[index].stored_bytes for index in group) * self.place.padded(bounds[number + 1] - bounds[number])
            self.cache.make_room(size, keep)
            buffers = self._compute(key)
            self.cache.put(key, buffers, size, keep)
        return buffers

    def _compute(self, key):
        side, number, group, chunk = key
        bounds, x, cotangents = self.data[side]
        first, last = bounds[number], bounds[number + 1]
        n, stored, place = last - first, stored_of(self.plan, group), self.place
        chosen = cotangents[:, self.plan.chunks[chunk] : self.plan.chunks[chunk + 1]]
        shared, batch = len(chosen) == 1, min(self.plan.batch, n)
        if place.mesh is not None:
            x, chosen, n, first, batch = self._for_mesh(x, chosen, first, last, batch)
        empty = self.structure.jit(_empty, stored, place.padded(last - bounds[number]), chosen.shape[1])
        buffers = place.spread(empty(self.values, self.leaves))
        run = self.structure.jit(_fill_from, stored, batch, donate_argnums=0)
        shared_cotangents = place.everywhere(chosen) if shared else None
        for start in range(0, n, batch):
            start = min(start, n - batch)  # the last batch overlaps the one before instead of being short
            part, some, offset = slice(first + start, first + start + batch), x, first + start
            if _on_host(x):  # only the batch is transferred; device arrays are sliced on the device
                some, offset = some_examples(x, part), 0
            given = shared_cotangents if shared else place.spread(jax.device_put(chosen[part]))
            where = jax.device_put((np.int32(start), np.int32(offset)))
            buffers = run(buffers, *where, self.values, self.leaves, place.spread(jax.device_put(some)), given)
        return buffers

    def _for_mesh(self, x, chosen, first: int, last: int, batch: int):
        """Examples and cotangents on the host, padded to a multiple of the number of devices."""
        n, whole = last - first, self.place.padded(last - first)
        index = np.minimum(np.arange(whole), n - 1) + first
        x = some_examples(jax.device_get(x), index)
        if len(chosen) > 1:
            chosen = np.where((np.arange(whole) < n)[:, None, None], chosen[index], 0)
        return x, chosen, whole, 0, min(whole, self.place.padded(batch))


def _on_host(x) -> bool:
    return not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x))


def _empty(structure: Structure, stored, n: int, m: int, values, leaves):
    program = structure.program
    example = [jax.ShapeDtypeStruct(program.avals[var].shape, program.avals[var].dtype) for var in program.invars[structure.count :]]
    cotangents = jax.ShapeDtypeStruct((1, m, structure.outputs), structure.dtype)
    shapes = jax.eval_shape(partial(factors, structure, stored), values, leaves, example, cotangents)
    return jax.tree.map(lambda leaf: jnp.zeros((n, *leaf.shape[1:]), leaf.dtype), shapes)


def _fill_from(structure: Structure, stored, batch: int, buffers, start, offset, values, leaves, x, cotangents):
    x = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, offset, batch, 0), x)
    return fill(structure, stored, buffers, start, values, leaves, x, cotangents)


def _not_finite(sides: _Sides, i: int, j: int) -> ModelError:
    """The error that names the leaf and the example."""
    plan = sides.plan
    for group, left, right in plan.rounds():
        for key in side_keys(plan, i, j, group, left, right):
            for index, buffers in zip(plan.groups[group], sides.get(key), strict=True):
                for array in jax.tree.leaves(buffers):
                    good = np.isfinite(np.asarray(array, np.float64)).all(axis=tuple(range(1, array.ndim)))
                    if not good.all():
                        side = "" if plan.columns is None else " of x1" if key[0] == "rows" else " of x2"
                        example = sides.data[key[0]][0][key[1]] + int(np.argmin(good))
                        return ModelError(
                            f"The gradient with respect to {plan.leaves[index].use.name!r} contains NaN or infinity at example {example}{side}. "
                            "Usual causes: half precision, batch norm in training mode, inputs that were not normalised."
                        )
    return ModelError("The kernel overflows, though all gradients are finite: scale the outputs of the function down, or use float64.")


def compute_within_memory(plan: Plan, planned: Callable[..., Plan], sink: Sink, work: Callable[[Plan, Sink], None]) -> Sink:
    """Runs `work`, and again with halved tiles whenever memory runs out. Returns the complete sink.

    Args:
      plan: the first plan.
      planned: planned(memory=bytes, tile_bounds=bounds) makes another plan, or raises ConfigError if none fits.
      sink: destination of the tiles.
      work: work(plan, sink) computes the missing tiles.

    Raises:
      ConfigError: memory runs out with tiles of a single example.

    Warns:
      MemoryShrunkWarning: each time that tiles are halved.
    """
    while True:
        try:
            work(plan, sink)
            return sink
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said = reason_of(error)
        # Outside of `except`, so that the failed work and its arrays are released.
        before, plan = plan, _smaller(plan, planned, said)
        warnings.warn(
            f"Memory ran out with tiles of {_longest(before)} examples ({said}). Continuing with tiles of {_longest(plan)}.",
            MemoryShrunkWarning,
            stacklevel=3,
        )
        sink = sink.retile(plan)


def _smaller(plan: Plan, planned: Callable[..., Plan], said: str) -> Plan:
    """A plan with shorter tiles, for half the memory or, if nothing fits by the estimate, for the same."""
    for memory in (min(plan.memory, plan.peak_bytes) // 2, plan.memory):
        bounds = plan.rows, plan.columns
        while any(b - a > 1 for side in bounds if side for a, b in itertools.pairwise(side)):
            bounds = tuple(side and tuple(sorted({*side, *((a + b) // 2 for a, b in itertools.pairwise(side))})) for side in bounds)
            with suppress(ConfigError):
                return planned(memory=memory, tile_bounds=bounds)
    raise ConfigError(
        f"Memory ran out even with tiles of {_longest(plan)} example{'s' if _longest(plan) > 1 else ''} ({said}). Try: "
        "ending other programs, layers= a smaller part of the network, outputs='sum', or out= a folder, for a kernel that is itself too large."
    )


def _longest(plan: Plan) -> int:
    return max(b - a for side in (plan.rows, plan.columns or ()) for a, b in itertools.pairwise(side))


def kernel_of_op(
    op: LayerOp, inputs: Num[ArrayLike, "n ..."], cotangents: Num[ArrayLike, "n m ..."], *, space: str | None = None
) -> Float[np.ndarray, "n n"]:
    """Inner products of the examples' gradients with respect to the weight of one operation, summed over m cotangents.

    Args:
      op: The operation on one example, as `read_layer_op` or `conv_op` give it.
      inputs: Inputs of the operation per example, without the axis of length one that `op` expects.
      cotangents: Cotangents of its output, for m outputs of the network.
      space: "parameter" or "sample"; None: the cheaper one.

    Returns:
      (n, n), symmetric, summed in float64.

    Cost: n^2 times the smaller of m k o and s^2 (k + m o); see `ntk_select.kernels.engine.contract`.
    """
    n, m = cotangents.shape[:2]
    item = summing_type(cotangents.dtype).itemsize
    entries = op.groups * op.width_in * op.width_out
    sizes = Sizes(op.groups, op.positions, op.width_in, op.width_out, entries, math.prod(inputs.shape[1:]), item)
    choice = choose(sizes, True, m, "trace", n, None, longest=n, space=space)
    stored = "inputs" if choice.stored == "gradients" else choice.stored
    block = sizes.pair_block(padded(n)) if choice.space == "sample" else parameter_block(n)
    contraction = Contraction("", (op,), choice.space, stored, block, max(64, int(tuning().formed // (padded(n) * m * item))))
    with jax.default_matmul_precision("highest"), jax.enable_x64(True):
        return np.asarray(_kernel_of_op(contraction, inputs, cotangents))


@partial(jax.jit, static_argnums=0)
def _kernel_of_op(contraction: Contraction, inputs, cotangents):
    (op,), n = contraction.ops, len(cotangents)
    left = jax.vmap(jax.vmap(lambda ct: op.outputs(ct[None])))(cotangents).transpose(0, 2, 3, 1, 4)
    entered = inputs[:, None] if contraction.stored == "inputs" else jax.vmap(lambda x: op.patches(x[None]))(inputs)
    return layer_kernel(contraction, _padded_to(padded(n), [(entered, left)]), n)
