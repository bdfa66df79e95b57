"""Public functions of the exact NTK: `ntk` (driver), `ntk_fn` (traceable) and `ntk_plan` (predicted cost)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ntk_select._runtime.checks import check_progress, is_whole
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.kernels.engine.analyse import analyse, check_independent
from ntk_select.kernels.engine.arguments import (
    Outputs,
    available_memory,
    check_batch_size,
    check_folder,
    check_precision,
    check_space,
    count_examples,
    read_outputs,
    read_two_sides,
    refuse_tracers,
)
from ntk_select.kernels.engine.digest import digest_of_function, digest_of_params, digests_of_examples
from ntk_select.kernels.engine.execute import compute, compute_within_memory, kernels, without_explicit_axes
from ntk_select.kernels.engine.jacobian import jacobian_kernel, vector_product_kernel
from ntk_select.kernels.engine.neural_tangents import neural_tangents_kernel
from ntk_select.kernels.engine.plan import Plan, contractions_of, make_plan, stored_of
from ntk_select.kernels.engine.sink import InMemory
from ntk_select.kernels.engine.store import BlockStore, open_store
from ntk_select.kernels.engine.structure import Analysed

METHODS = ("auto", "structured", "jacobian", "vector-product", "neural-tangents")
BLOCK = 512  # examples along a block of a kernel on disk


def ntk(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    method: str = "auto",
    memory_gb: float | None = None,
    precision: str = "highest",
    accumulate: str | None = None,
    by_layer: bool = False,
    batch_size: int | None = None,
    out: str | Path | None = None,
    tile: int | None = None,
    mesh: Mesh | None = None,
    space: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Any:
    """The exact empirical neural tangent kernel: inner products of the gradients of fn's outputs at x1 and x2.

    With J_i the Jacobian (c, p) of fn(params, x)[i] in the selected parameters, entry (i, j) of "full" is J_i J_j'.

    Args:
      fn: fn(params, x) -> (n, c) or (n,), any JAX function (Flax linen or nnx, plain). It is differentiated at one
        example at a time; batch norm must be in evaluation mode. It is traced at every call and compiled once for all
        functions with the same operations, whatever arrays they capture. `jax.checkpoint` inside fn has no effect.
      params: any pytree; its floating-point leaves are differentiated, all others are held fixed.
      x1, x2: examples, an array or a pytree of arrays (n, ...); x2=None means x1, and symmetry saves half of the work.
      outputs: "trace": mean of the kernels of the c outputs, as in neural-tangents; "sum": kernel of the summed outputs;
        "full": all pairs of outputs; "diagonal": the c kernels separately; or cotangents, (c,) or (n1, c), that combine
        the outputs of each example; with x2 a pair of them.
      layers: a regular expression searched in the "/"-joined paths of the parameters, or a predicate path -> bool; None
        or "all" means all. Batch statistics are not parameters: exclude them.
      method: "structured" ("auto") is this engine; "jacobian", "vector-product" and "neural-tangents" are slower routes to
        the same kernel, for cross-checks; they take no by_layer, out, mesh, accumulate or space.
      memory_gb: memory budget per device; default: half of the free host memory, or 80% of the free device memory.
      precision: Precision of matrix products, as in `jax.lax.Precision`: "highest" (float32, no TF32 or bfloat16), "high" (three passes)
        or "default" (fastest on the hardware).
      accumulate: "float64" accumulates the kernel in float64, per layer and, in parameter space, per thousand products.
      by_layer: return {path of the leaf: its kernel} instead of their sum.
      batch_size: examples in one pass through the network; None: automatic.
      out: folder to which the kernel is written tile by tile. Interrupted work resumes there, and appended examples cost
        only the new tiles. The result is then a `StoredArray` that reads chunks on demand.
      tile: examples along a tile, with `out`; None: 512.
      mesh: devices over which the examples are sharded.
      space: "parameter" or "sample" overrides the cost model for all weights; for measurements.
      progress: called with (done, total, description) before each portion.

    Returns:
      "trace", "sum", cotangents: (n1, n2); "diagonal": (n1, n2, c); "full": (n1, n2, c, c). In the dtype of the
      outputs, float32 at least; float64 with accumulate="float64". Exactly symmetric without x2. On the device, unless
      several tiles, accumulate="float64", `out` or another method require the host.

    Raises:
      ConfigError: invalid arguments, tracers (see `ntk_fn`), or not enough memory for one example.
      ModelError: an example influences another one; NaN or infinity, where the message names the leaf and the example.

    Warns:
      GeneralRouteWarning: a leaf without known structure, exact but slow, takes a noticeable share of the cost.
      UserWarning: batch statistics are among params, with layers=None.
      MemoryShrunkWarning: memory ran out, and the computation continued with smaller tiles.

    Reference: Jacot et al. 2018; structured contraction as in Novak et al. 2022, here from inputs and cotangents of each
    operation.  Cost: see `ntk_plan`. One forward and m backward passes per example, for m cotangents, and for each layer
    the cheaper of two contractions.
    """
    check_precision(precision)
    check_space(space)
    check_batch_size(batch_size)
    check_progress(progress)
    refuse_tracers("ns.ntk", "ns.ntk_fn(fn, params, x)(params, x), which can", params, x1, x2, () if isinstance(outputs, str) else outputs)
    x1, x2 = without_explicit_axes(read_two_sides(x1, x2))
    n1, n2 = count_examples(x1), None if x2 is None else count_examples(x2)
    if method not in METHODS:
        raise ConfigError(f"method={method!r} is unknown.{did_you_mean(str(method), METHODS)}")
    other = method not in ("auto", "structured")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ConfigError(f"mesh= takes a jax.sharding.Mesh; given: {type(mesh).__name__}. Try: mesh=jax.sharding.Mesh(jax.devices(), ('examples',))")
    if accumulate not in (None, "float64"):
        raise ConfigError(f"accumulate={accumulate!r} is unknown. Allowed: None (the type of the outputs) or 'float64'.")
    if out is not None and by_layer:
        raise ConfigError(
            "by_layer=True keeps one kernel per layer in memory and cannot be combined with out=. Try: out=None, or layers= one layer at a time"
        )
    if other and (by_layer or out is not None or mesh is not None or accumulate is not None or space is not None):
        raise ConfigError(
            f"by_layer, out, mesh, accumulate and space belong to the engine, not to method={method!r}. Try: method='structured', or omit them"
        )
    check_folder(out)
    if tile is not None and out is None:
        raise ConfigError(f"tile={tile!r} is the tile size of a kernel on disk. Try: out= a folder, or omit tile")
    if tile is not None and (not is_whole(tile) or tile < 1):
        raise ConfigError(f"tile={tile!r} must be a positive number of examples.")
    memory = available_memory(memory_gb)
    with jax.default_matmul_precision(precision):
        analysed = analyse(fn, params, x1, layers)
        structure = analysed.structure
        wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
        check_independent(fn, params, x1, structure)
        if other:
            return _by_other_method(method, fn, params, analysed, x1, x2, wanted, {} if batch_size is None else {"batch_size": batch_size})
        store = None if out is None else _open_kernel(out, analysed, params, x1, x2, wanted, precision, accumulate, tile)
        options = {"batch_size": batch_size, "split": by_layer, "space": space, "devices": 1 if mesh is None else mesh.size}
        planned = partial(make_plan, structure, wanted, n1, n2, **options)
        plan = planned(memory=memory, tile_bounds=None if store is None else store.tile_bounds)

        def work(plan, sink):
            compute(analysed, plan, x1, x2, wanted, sink, split=by_layer, float64=accumulate == "float64", mesh=mesh, progress=progress)

        if store is None:
            names = tuple(leaf.name for leaf in structure.leaves) if by_layer else ("",)
            shape = wanted.kernel_shape(n1, n1 if n2 is None else n2)
            store = InMemory(plan, shape, np.float64 if accumulate == "float64" else structure.dtype, names)
        sink = compute_within_memory(plan, planned, store, work)
    return sink.result(by_layer)


def _by_other_method(method: str, fn, params, analysed: Analysed, x1, x2, wanted: Outputs, options: dict) -> np.ndarray:
    if method == "neural-tangents":
        return neural_tangents_kernel(fn, params, x1, x2, wanted, tuple(leaf.index for leaf in analysed.structure.leaves), **options)
    route = {"jacobian": jacobian_kernel, "vector-product": vector_product_kernel}[method]
    return route(analysed, x1, x2, wanted, **options)


class _KernelOnDisk:
    """Sink of kernels on disk."""

    def __init__(self, store: BlockStore, tile_bounds: tuple):
        self.store, self.tile_bounds = store, tile_bounds

    def _region(self, i: int, j: int) -> tuple[slice, slice]:
        rows, columns = self.tile_bounds
        return slice(*rows[i : i + 2]), slice(*(rows if columns is None else columns)[j : j + 2])

    def done(self, i: int, j: int) -> bool:
        return self.store.is_done(*self._region(i, j))

    def write(self, i: int, j: int, tiles: dict[str, Any]) -> None:
        self.store.write(np.asarray(tiles[""]), *self._region(i, j))

    def retile(self, plan: Plan) -> "_KernelOnDisk":
        return _KernelOnDisk(self.store, (plan.rows, plan.columns))

    def result(self, by_layer: bool) -> Any:
        del by_layer
        return self.store.result()


def _open_kernel(out, analysed: Analysed, params, x1, x2, outputs: Outputs, precision: str, accumulate, tile) -> _KernelOnDisk:
    structure = analysed.structure
    described = {
        "fn": digest_of_function(analysed),
        "params": digest_of_params(params),
        "layers": [leaf.name for leaf in structure.leaves],
        "outputs": f"{outputs.pairing} of {outputs.count}",
        "x1": " ".join(f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in jax.tree.leaves(x1)),
        "x2": x2 is not None,
        "precision": precision,
        "accumulate": accumulate,
    }
    sides = {"x1": digests_of_examples(x1, outputs.left)} | ({} if x2 is None else {"x2": digests_of_examples(x2, outputs.right)})
    dtype, tail = np.float64 if accumulate == "float64" else structure.dtype, outputs.kernel_shape(0, 0)[2:]
    store = open_store(out, described, sides, what="kernel", symmetric=x2 is None, tail=tail, dtype=dtype, block=int(tile or BLOCK))
    return _KernelOnDisk(store, store.tile_bounds)


def ntk_fn(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    precision: str = "highest",
) -> Callable[..., Float[Array, "n1 n2 ..."]]:
    """The kernel as a traceable function of parameters and examples, for kernels that fit on the device at once.

    Args:
      fn, outputs, layers, precision: See `ntk`.
      params, x: parameters and examples, or `jax.ShapeDtypeStruct`s, for the analysis of fn and the choice of the
        cheaper contraction per layer. Arrays are also used to check that no example influences another.

    Returns:
      kernel(params, x1, x2=None) -> (n1, n2), or (n1, n2, c, c), (n1, n2, c) as for `ntk`. Composes with `jax.jit`,
      `jax.vmap`, `jax.grad`, `jax.jacfwd` and sharded arrays. The number of examples may differ from that of x.

    Raises:
      ConfigError: invalid arguments.
      ModelError: an example influences another one.

    Example:
      >>> kernel = ns.ntk_fn(fn, params, x)
      >>> jax.grad(lambda params: kernel(params, x).sum())(params)

    Reference and cost as for `ntk`; everything is in memory at once.
    """
    check_precision(precision)
    x, _ = read_two_sides(x, None, shapes=True)
    with jax.default_matmul_precision(precision):
        analysed = analyse(fn, params, x, layers)
        read_outputs(outputs, count_examples(x), None, analysed.structure.outputs, analysed.structure.dtype)
        if not any(isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer) for leaf in jax.tree.leaves((params, x))):
            check_independent(fn, params, x, analysed.structure)

    def kernel(params: Any, x1: Any, x2: Any = None) -> Float[Array, "n1 n2 ..."]:
        x1, x2 = read_two_sides(x1, x2)
        n1, n2 = count_examples(x1), None if x2 is None else count_examples(x2)
        with jax.default_matmul_precision(precision):
            analysed = analyse(fn, params, x1, layers)
            structure = analysed.structure
            wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
            tile_bounds = (0, n1), None if n2 is None else (0, n2)
            plan = make_plan(structure, wanted, n1, n2, memory=2**62, tile_bounds=tile_bounds, batch_size=max(n1, n2 or 0), chunks=1)
            if not plan.leaves:
                return jnp.zeros(wanted.kernel_shape(n1, n1 if n2 is None else n2), structure.dtype)
            run = structure.jit(kernels, stored_of(plan, 0), contractions_of(plan, structure, 0, split=False), plan.pairing, x2 is None)
            left, right = jax.device_put((wanted.left, None if x2 is None else wanted.right))
            return run(analysed.values, analysed.leaves, x1, x2, left, right)[""]

    return kernel


def ntk_plan(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    memory_gb: float | None = None,
    batch_size: int | None = None,
    by_layer: bool = False,
    space: str | None = None,
) -> Plan:
    """The plan of `ntk` with the same arguments, layer by layer, and its predicted cost. Print it.

    Args:
      fn, params, outputs, layers, memory_gb, batch_size, by_layer: See `ntk`.
      x1, x2: arrays or `jax.ShapeDtypeStruct`s.
      space: "parameter" or "sample" for all layers, instead of the cheaper one for each.

    Returns:
      A `Plan`: predicted operations, bytes and peak memory, and the contraction of each layer.

    Raises:
      ConfigError: as for `ntk`.

    Cost: traces fn once; nothing is compiled or run.
    """
    check_space(space)
    check_batch_size(batch_size)
    x1, x2 = read_two_sides(x1, x2, shapes=True)
    n1, n2 = count_examples(x1), None if x2 is None else count_examples(x2)
    structure = analyse(fn, params, x1, layers).structure
    wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
    return make_plan(structure, wanted, n1, n2, memory=available_memory(memory_gb), batch_size=batch_size, split=by_layer, space=space)
