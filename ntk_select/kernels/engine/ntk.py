"""The empirical neural tangent kernel of any function: the driver, the traceable function, and the plan behind both."""

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
from ntk_select.kernels.engine.execute import InMemory, compute, compute_within_memory, kernels, without_explicit_axes
from ntk_select.kernels.engine.jacobian import jacobian_kernel, vector_product_kernel
from ntk_select.kernels.engine.neural_tangents import neural_tangents_kernel
from ntk_select.kernels.engine.plan import Plan, contractions_of, make_plan, stored_of
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
    """Inner products of the gradients of fn's outputs at the examples x1 and x2: exact, at finite width.

    With J_i the Jacobian (c, p) of fn(params, x)[i] in the chosen parameters, "full" is J_i J_j'.

    Args:
      fn: fn(params, x) -> (n, c) or (n,), any JAX function (Flax linen or nnx, plain). It is differentiated at one
        example at a time; batch norm must be in evaluation mode. It is traced at every call, and compiled once for all
        functions with the same operations, whatever arrays they capture. `jax.checkpoint` inside has no effect.
      params: what is differentiated, any pytree; leaves that are not floating-point are held fixed.
      x1, x2: examples, an array or a pytree of arrays (n, ...); without x2 the kernel is that of x1 with itself, and symmetry saves half.
      outputs: "trace": the mean over the c outputs of their kernels, as neural-tangents has it; "sum": of the sum of
        the outputs; "full"; "diagonal": the c kernels apart; or cotangents, (c,) or (n1, c), to combine the outputs
        of each example with; with x2 a pair of them.
      layers: a regular expression that is searched in the "/"-joined paths of the parameters, or a function path -> bool;
        None takes all. Batch statistics are no parameters: leave them out.
      method: "structured" ("auto") is the engine; "jacobian", "vector-product" and "neural-tangents" are slower
        routes to the same numbers, to check it.
      memory_gb: budget of the engine on each device; by default half of the host's free memory, or most of the device's.
      precision: of products, "highest" (true float32 also where the hardware would round to TF32 or bfloat16),
        "high" (three products of rounded numbers) or "default" (what the hardware likes).
      accumulate: "float64" sums the kernel in float64: layer by layer, in parameter space over about a thousand products.
      by_layer: return {path of the leaf: its kernel} instead of their sum.
      batch_size: examples in one pass through the network; chosen if None.
      out: folder that receives the kernel tile by tile. Interrupted work resumes there, and more examples after the
        same ones cost only the new tiles. The result is then read from there, chunk by chunk.
      tile: examples along a tile, with `out`; 512 if None.
      mesh: devices over which the examples are spread.
      space: "parameter" or "sample" contracts all weights in that space, against the cost model; for measurements.
      progress: called with (done, all, what) when each portion is begun.

    Returns:
      "trace", "sum", cotangents: (n1, n2); "diagonal": (n1, n2, c); "full": (n1, n2, c, c). In the type of the
      outputs, float32 at least; float64 with accumulate="float64". Without x2 exactly symmetric. It stays on the device,
      unless the budget of memory, accumulate="float64", `out` or another method leads it to the host.

    Raises:
      ConfigError: arguments that do not fit, tracers (see `ntk_fn`), or memory in which not one example has room.
      ModelError: an example influences another one; NaN or infinity, where the message names the leaf and the example.

    Warns:
      GeneralRouteWarning: a leaf is used in a way that the engine does not know, which is exact but slow, and is a noticeable part of the cost.
      MemoryShrunkWarning: memory ran out, and the work went on in smaller tiles.

    Reference: Jacot et al. 2018; structured contraction as in Novak et al. 2022, computed here from inputs and
    cotangents of each operation.  Cost: see `ntk_plan`. One forward and m backward passes per example, m the cotangents, and
    for each layer the smaller of two contractions.
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
    if mesh is not None and not other and not isinstance(mesh, Mesh):
        raise ConfigError(f"mesh= takes a jax.sharding.Mesh; given: {type(mesh).__name__}. Try: mesh=jax.sharding.Mesh(jax.devices(), ('examples',))")
    if accumulate not in (None, "float64"):
        raise ConfigError(f"accumulate={accumulate!r} is unknown. Allowed: None (the type of the outputs) or 'float64'.")
    if out is not None and by_layer:
        raise ConfigError("by_layer=True keeps one kernel a layer in memory and cannot go to disk. Try: out=None, or layers= one layer at a time")
    check_folder(out)
    if tile is not None and out is None:
        raise ConfigError(f"tile={tile!r} cuts a kernel that goes to disk. Try: out= a folder, or leave tile out")
    if tile is not None and (not is_whole(tile) or tile < 1):
        raise ConfigError(f"tile={tile!r} must be a positive number of examples.")
    with jax.default_matmul_precision(precision):
        analysed = analyse(fn, params, x1, layers)
        structure = analysed.structure
        wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
        check_independent(fn, params, x1, structure)
        if other:
            if by_layer or out is not None or mesh is not None or accumulate is not None:
                raise ConfigError(f"by_layer, out, mesh and accumulate belong to the engine, not to method={method!r}. Try: method='structured'")
            return _by_other_method(method, fn, params, analysed, x1, x2, wanted, {} if batch_size is None else {"batch_size": batch_size})
        store = None if out is None else _open_kernel(out, analysed, params, x1, x2, wanted, precision, accumulate, tile)
        options = {"batch_size": batch_size, "split": by_layer, "space": space, "devices": 1 if mesh is None else mesh.size}
        planned = partial(make_plan, structure, wanted, n1, n2, **options)
        plan = planned(memory=available_memory(memory_gb), cuts=None if store is None else store.cuts)

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
    """The sink of kernels that go to disk; `cuts` are the ends of its tiles."""

    def __init__(self, store: BlockStore, cuts: tuple):
        self.store, self.cuts = store, cuts

    def _region(self, i: int, j: int) -> tuple[slice, slice]:
        columns = self.cuts[0] if self.cuts[1] is None else self.cuts[1]
        return slice(*self.cuts[0][i : i + 2]), slice(*columns[j : j + 2])

    def done(self, i: int, j: int) -> bool:
        return self.store.is_done(*self._region(i, j))

    def write(self, i: int, j: int, tiles: dict[str, Any]) -> None:
        self.store.write(np.asarray(tiles[""]), *self._region(i, j))

    def recut(self, plan: Plan) -> "_KernelOnDisk":
        return _KernelOnDisk(self.store, (plan.rows, plan.columns))

    def result(self, by_layer: bool = False) -> Any:
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
    return _KernelOnDisk(store, store.cuts)


def ntk_fn(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    precision: str = "highest",
) -> Callable[..., Float[Array, "n1 n2 ..."]]:
    """The kernel as a function of parameters and examples that JAX can trace: for what fits on the device at once.

    Args:
      fn, outputs, layers, precision: as for `ntk`.
      params, x: parameters and examples, or `jax.ShapeDtypeStruct`s of their shapes; they tell how fn is analysed, and the
        number of examples for which the cheaper space of each layer is chosen. Arrays are also used to check that no example
        influences another.

    Returns:
      kernel(params, x1, x2=None) -> (n1, n2), or (n1, n2, c, c), (n1, n2, c) as for `ntk`. It may be put into `jax.jit`,
      `jax.vmap`, `jax.grad`, `jax.jacfwd` and their like, and takes sharded arrays. Examples may be another number than in x.

    Raises:
      ConfigError: arguments that do not fit.
      ModelError: an example influences another one.

    Example:
      >>> kernel = ns.ntk_fn(fn, params, x)
      >>> jax.grad(lambda params: kernel(params, x).sum())(params)

    Reference and cost as for `ntk`; everything is held in memory together.
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
            cuts = (0, n1), None if n2 is None else (0, n2)
            plan = make_plan(structure, wanted, n1, n2, memory=2**62, cuts=cuts, batch_size=max(n1, n2 or 0), chunks=1)
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
      fn, params, outputs, layers, memory_gb, batch_size, by_layer: as for `ntk`.
      x1, x2: arrays or `jax.ShapeDtypeStruct`s.
      space: "parameter" or "sample" prices one way for all layers instead of the cheaper one for each.

    Returns:
      A `Plan`: predicted operations, bytes and peak memory, and for each layer the way and the reason.

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
