"""Public functions of sketches: `sketch` (driver) and `sketch_fn` (traceable)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ntk_select._runtime.checks import check_progress
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.analyse import analyse, check_independent
from ntk_select.kernels.engine.arguments import (
    Outputs,
    available_memory,
    check_batch_size,
    check_folder,
    check_precision,
    count_examples,
    read_examples,
    read_outputs,
    refuse_tracers,
)
from ntk_select.kernels.engine.digest import digest_of_function, digest_of_params, digests_of_examples
from ntk_select.kernels.engine.store import BlockStore, StoredArray, open_store
from ntk_select.kernels.engine.structure import Analysed
from ntk_select.kernels.sketches import execute, forward
from ntk_select.kernels.sketches.hashing import SCHEME
from ntk_select.kernels.sketches.projection import FORWARD, Sketch, decided


def sketch(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    dim: int | np.integer | str = "auto",
    kind: str = "countsketch",
    seed: int | np.integer = 0,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    blocks: int | np.integer | None = None,
    error: float | np.floating | None = None,
    by_layer: bool = False,
    memory_gb: float | None = None,
    precision: str = "highest",
    batch_size: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Float[np.ndarray, "n ... k"] | StoredArray | dict[str, Float[np.ndarray, "n ... k"]]:
    """Random projection of the gradients of fn's outputs: Z with E[Z Z'] = ntk(fn, params, x).

    The projection is a function of the seed, the path of each leaf and the index of each entry in it, so Z does not
    depend on the order of the leaves, on batches, or on the device (up to rounding). Z of all leaves is the sum of the Z
    of each. With the same seed and different examples, Z1 Z2' estimates ntk(fn, params, x1, x2).

    Args:
      fn, params, outputs, layers, memory_gb, precision, batch_size: See `ntk`. `outputs` "full" and "diagonal" give
        one row per output.
      x: examples, an array or a pytree of arrays (n, ...).
      dim: columns; "auto" means 2 / error^2, which bounds the standard error of every entry by `error` times the norms of
        its two gradients.
      kind: "countsketch": sum of signed, rotated rows; one read of each gradient, whatever the dimension.
        "srht": signs, Hadamard transform, sampling; slightly less variance for layers shorter than the sketch.
        "rademacher", "gaussian": dense matrices, the reference; dim operations per entry of each gradient.
        "kronecker": inputs and cotangents are projected separately, without weight gradients; larger error for layers with
        few positions.
        "jvp": forward mode, for functions with very many outputs or gradients that do not fit into memory.
      seed: any integer. Different seeds are independent.
      blocks: number of independent sketches of dim / blocks columns each; see `Sketch`.
      error: see `dim`; 0.02 if None.
      by_layer: return {path of the leaf: its Z} instead of their sum; not for "jvp".
      out: folder to which Z is written batch by batch. Interrupted work resumes there, and appended examples cost only the
        new rows. The result is then a `StoredArray` that reads chunks on demand.
      progress: called with (done, total, description) after each batch.

    Returns:
      (n, dim); "full" and "diagonal": (n, c, dim). In the dtype of the outputs, float32 at least; on the host.

    Raises:
      ConfigError: invalid arguments, tracers (see `sketch_fn`), or not enough memory for one example.
      ModelError: an example influences another one; NaN or infinity, where the message names the example and, if possible,
        the leaf.

    Warns:
      GeneralRouteWarning: as `ntk`.
      MemoryShrunkWarning: memory ran out, and the computation continued with smaller batches.

    Reference: Deshpande et al. 2021, section 3.3 (10,000 dimensions); variance: `SketchedKernel`.  Cost: per-example
    gradients, and per example and parameter one read per block (countsketch), log2 (srht) or `dim` operations (dense);
    for "jvp" `dim` forward passes in total, divided by c for the trace.
    """
    projection = decided(Sketch(dim, kind, seed, blocks, error))
    check_precision(precision)
    check_batch_size(batch_size)
    check_progress(progress)
    check_folder(out)
    if by_layer and (kind == FORWARD or out is not None):
        raise ConfigError(
            "by_layer=True needs reverse mode and a result in memory. Try: another kind than 'jvp' and no out=, or layers= one layer at a time"
        )
    refuse = partial(refuse_tracers, "ns.sketch", "ns.sketch_fn(fn, params, x)(params, x), which can")
    refuse(params, x, outputs)
    x = read_examples(x, "x")
    n, memory = count_examples(x), available_memory(memory_gb)
    with jax.default_matmul_precision(precision):
        analysed = analyse(fn, params, x, layers)
        refuse(analysed.values)
        structure = analysed.structure
        wanted = read_outputs(outputs, n, None, structure.outputs, structure.dtype)
        check_independent(fn, params, x, structure)
        batches = execute.Batches(analysed, wanted, projection, x, memory, by_layer=by_layer)
        if out is None:
            return _in_memory(batches, n, batch_size, progress)
        described, tail = _described(analysed, params, x, wanted, projection, precision), (wanted.count,) if wanted.pairing != "trace" else ()
        sides = {"x": digests_of_examples(x, wanted.left)}
        store = open_store(out, described, sides, what="sketch", symmetric=False, tail=(*tail, int(projection.dim)), dtype=np.dtype(structure.dtype))
        return _on_disk(store, batches, batch_size, progress)


def sketch_fn(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    dim: int | np.integer | str = "auto",
    kind: str = "countsketch",
    seed: int | np.integer = 0,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    blocks: int | np.integer | None = None,
    precision: str = "highest",
) -> Callable[[Any, Any], Float[Array, "n ... k"]]:
    """The sketch as a traceable function of parameters and examples, for sketches that fit on the device at once.

    Args:
      fn, dim, kind, seed, outputs, layers, blocks, precision: See `sketch`.
      params, x: parameters and examples, or `jax.ShapeDtypeStruct`s, for the analysis of fn. Arrays are also used
        to check that no example influences another.

    Returns:
      rows(params, x) -> (n, dim), or (n, c, dim), with the numbers of `sketch`. Composes with `jax.jit`, `jax.vmap`,
      `jax.grad` and `jax.jacfwd`. The number of examples may differ from that of x.

    Raises:
      ConfigError: invalid arguments.
      ModelError: an example influences another one.

    Example:
      >>> rows = ns.sketch_fn(fn, params, x, dim=1024)
      >>> jax.grad(lambda params: (rows(params, x) ** 2).sum())(params)

    Reference and cost as for `sketch`; everything is in memory at once.
    """
    projection = decided(Sketch(dim, kind, seed, blocks))
    check_precision(precision)

    def read(params, x, *, shapes: bool = False):
        x = read_examples(x, "x", shapes=shapes)
        analysed = analyse(fn, params, x, layers)
        wanted = read_outputs(outputs, count_examples(x), None, analysed.structure.outputs, analysed.structure.dtype)
        together = min(forward.directions(wanted, projection), forward.DIRECTIONS) if kind == FORWARD else wanted.count
        return analysed, wanted, execute.layout_of(projection, wanted, together)

    with jax.default_matmul_precision(precision):
        analysed, _, _ = read(params, x, shapes=True)
        given = jax.tree.leaves((params, x))
        if not any(isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct) for leaf in given):
            check_independent(fn, params, x, analysed.structure)

    def rows(params: Any, x: Any) -> Float[Array, "n ... k"]:
        with jax.default_matmul_precision(precision):
            (structure, values, leaves), wanted, layout = read(params, x)
            keys = execute.keys_of(structure, projection, wanted)
            return structure.jit(execute.rows, layout)(*jax.device_put((values, leaves, x, wanted.left, keys)))[""]

    return rows


def _in_memory(batches: execute.Batches, n: int, batch_size: int | None, progress):
    """All batches concatenated: an array, or one per leaf."""
    found = {}
    for start, portion in batches.run(0, n, batch_size):
        for name, rows in portion.items():
            found.setdefault(name, np.empty((n, *rows.shape[1:]), rows.dtype))[start : start + len(rows)] = rows
        if progress is not None:
            stop = start + len(next(iter(portion.values())))
            progress(stop, n, f"{stop} of {n} examples")
    return found if batches.by_layer else found[""]


def _on_disk(store: BlockStore, batches: execute.Batches, batch_size: int | None, progress) -> StoredArray:
    """Computes the missing rows."""
    missing, done = store.missing, 0
    count = sum(stop - start for start, stop in missing)
    for first, last in missing:
        for start, portion in batches.run(first, last, batch_size):
            stop = start + len(portion[""])
            store.write(portion[""], slice(start, stop))
            if progress is not None:
                progress(done + stop - first, count, f"examples {start} to {stop}")
        done += last - first
    return store.result()


def _described(analysed: Analysed, params, x, outputs: Outputs, projection: Sketch, precision: str) -> dict[str, Any]:
    """Description of a sketch on disk."""
    return {
        "scheme": SCHEME,
        "kind": projection.kind,
        "dim": int(projection.dim),
        "blocks": int(projection.blocks),
        "seed": int(projection.seed),
        "fn": digest_of_function(analysed),
        "params": digest_of_params(params),
        "layers": [leaf.name for leaf in analysed.structure.leaves],
        "outputs": f"{outputs.pairing} of {outputs.count}",
        "x1": " ".join(f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in jax.tree.leaves(x)),
        "precision": precision,
    }
