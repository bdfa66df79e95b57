"""The empirical neural tangent kernel of any function: one call, and the plan behind it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from ntk_select.engine.budget import available_memory
from ntk_select.engine.driver import compute
from ntk_select.engine.inputs import check_batch_size, check_precision, check_space, checked_pair
from ntk_select.engine.memory import InMemory
from ntk_select.engine.neural_tangents import neural_tangents_kernel
from ntk_select.engine.outputs import read_outputs
from ntk_select.engine.plan import Plan
from ntk_select.engine.planning import make_plan
from ntk_select.engine.routes import jacobian_kernel, vector_product_kernel
from ntk_select.engine.selection import select
from ntk_select.engine.shrink import compute_shrinking
from ntk_select.engine.store import open_store
from ntk_select.engine.structure import read_structure
from ntk_select.errors import ConfigError, did_you_mean

METHODS = ("auto", "structured", "jacobian", "vector-product", "neural-tangents")
OTHER_ROUTES = {"jacobian": jacobian_kernel, "vector-product": vector_product_kernel, "neural-tangents": neural_tangents_kernel}


def ntk(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x1: Shaped[Array, "n1 ..."],
    x2: Shaped[Array, "n2 ..."] | None = None,
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
) -> Float[np.ndarray, "n1 n2 ..."] | dict[str, Float[np.ndarray, "n1 n2 ..."]]:
    """Inner products of the gradients of fn's outputs at the examples x1 and x2: exact, at finite width.

    With J_i the Jacobian (c, p) of fn(params, x)[i] in the chosen parameters, "full" is J_i J_j'.

    Args:
      fn: fn(params, x) -> (n, c), any JAX function (Flax linen or nnx, plain). It is called with one example at a
        time, so that no example influences another; batch norm must be in evaluation mode. A function that is
        hashable (at module level, or a frozen dataclass) is analysed and compiled once. As with `jax.jit`, what it
        captures must not change in place: pass what changes as parameters. `jax.checkpoint` inside has no effect.
      params: what is differentiated, any pytree; leaves that are not floating-point are held fixed.
      x1, x2: examples; without x2 the kernel is that of x1 with itself, and symmetry saves half.
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
      accumulate: "float64" sums the kernel on the host in float64: layer by layer, in parameter space over pieces of at
        most 2^16 parameters.
      by_layer: return {path of the leaf: its kernel} instead of their sum.
      batch_size: examples in one pass through the network; chosen if None.
      out: folder that receives the kernel tile by tile. Interrupted work resumes there, and more examples after the
        same ones cost only the new tiles. The result is then a read-only memory map.
      tile: examples along a tile, with `out`; 512 if None.
      mesh: devices over which the examples are spread.
      space: "parameter" or "sample" contracts all weights in that space, against the cost model; for measurements.
      progress: called with (done, all, what) after each portion.

    Returns:
      "trace", "sum", cotangents: (n1, n2); "diagonal": (n1, n2, c); "full": (n1, n2, c, c). In the type of the
      outputs, float32 at least; float64 with accumulate="float64". Without x2 exactly symmetric.

    Raises:
      ConfigError: arguments that do not fit, or memory in which not one example has room.
      ModelError: NaN or infinity; the message names the leaf and the example.

    Warns:
      GeneralRouteWarning: a leaf is used in a way that the engine does not know; it is exact, but slow.
      MemoryShrunkWarning: memory ran out, and the work went on in smaller tiles.

    Reference: Jacot et al. 2018; structured contraction as in Novak et al. 2022, computed here from inputs and
    cotangents of each use.  Cost: see `ntk_plan`. One forward and m backward passes an example, m the cotangents, and
    for each layer the smaller of two contractions.
    """
    check_precision(precision)
    check_space(space)
    check_batch_size(batch_size)
    x1, x2 = checked_pair(x1, x2)
    n1, n2 = len(x1), None if x2 is None else len(x2)
    if mesh is not None and method not in OTHER_ROUTES and not isinstance(mesh, Mesh):
        raise ConfigError(
            f"mesh= takes a jax.sharding.Mesh; given: {type(mesh).__name__}. Type: mesh=jax.sharding.Mesh(jax.devices(), ('examples',))"
        )
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress= takes a function of (done, all, what); given: {type(progress).__name__}.")
    if method not in METHODS:
        raise ConfigError(f"method={method!r} is unknown.{did_you_mean(method, METHODS)}")
    if accumulate not in (None, "float64"):
        raise ConfigError(f"accumulate={accumulate!r} is unknown. Allowed: None (the type of the outputs) or 'float64'.")
    if out is not None and by_layer:
        raise ConfigError("by_layer=True keeps one kernel a layer in memory and cannot go to disk. Type: out=None, or layers= one layer at a time")
    if out is not None and (not isinstance(out, (str, Path)) or out == ""):
        raise ConfigError(f"out= takes the path of a folder; given: {type(out).__name__ if out != '' else 'an empty text'}.")
    if tile is not None and out is None:
        raise ConfigError(f"tile={tile!r} cuts a kernel that goes to disk. Type: out= a folder, or leave tile out")
    chosen = select(params, layers)
    with jax.default_matmul_precision(precision):
        structure = read_structure(fn, params, x1, chosen)
        wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
        if method in OTHER_ROUTES:
            if by_layer or out is not None or mesh is not None or accumulate is not None:
                raise ConfigError(f"by_layer, out, mesh and accumulate belong to the engine, not to method={method!r}. Type: method='structured'")
            return OTHER_ROUTES[method](fn, params, x1, x2, wanted, chosen, **({} if batch_size is None else {"batch_size": batch_size}))
        store = None if out is None else open_store(out, structure, params, x1, x2, wanted, precision=precision, accumulate=accumulate, tile=tile)
        options = {"batch_size": batch_size, "split": by_layer, "space": space, "devices": 1 if mesh is None else mesh.size}
        planned = partial(make_plan, structure, wanted, n1, n2, **options)
        plan = planned(memory=available_memory(memory_gb), cuts=None if store is None else store.cuts)

        def work(plan, sink):
            compute(structure, plan, params, x1, x2, wanted, sink, split=by_layer, float64=accumulate == "float64", mesh=mesh, progress=progress)

        if store is None:
            names = tuple(leaf.name for leaf in structure.leaves) if by_layer else ("",)
            shape = wanted.kernel_shape(n1, n1 if n2 is None else n2)
            store = InMemory(plan, shape, np.float64 if accumulate == "float64" else structure.dtype, names)
        sink = compute_shrinking(plan, planned, store, work)
    return sink.result(by_layer)


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
    """What `ntk` with the same arguments would do, layer by layer, and what it should cost. Print it.

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
    x1, x2 = checked_pair(x1, x2, shapes=True)
    n1, n2 = x1.shape[0], None if x2 is None else x2.shape[0]
    check_space(space)
    check_batch_size(batch_size)
    structure = read_structure(fn, params, x1, select(params, layers))
    wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
    return make_plan(structure, wanted, n1, n2, memory=available_memory(memory_gb), batch_size=batch_size, split=by_layer, space=space)
