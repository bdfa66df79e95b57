"""The projected gradients of any function: one call."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from ntk_select.engine.budget import available_memory
from ntk_select.engine.inputs import check_batch_size, check_precision, checked_examples
from ntk_select.engine.outputs import Outputs, read_outputs
from ntk_select.engine.selection import select
from ntk_select.engine.structure import Structure, read_structure
from ntk_select.errors import ConfigError
from ntk_select.out_of_memory import MemoryShrunkWarning, in_words, is_out_of_memory
from ntk_select.sketches import driver, forward
from ntk_select.sketches.kinds import FORWARD, KINDS
from ntk_select.sketches.spec import MOST_DIM, Sketch
from ntk_select.sketches.store import open_store

ENTRY_ERROR = 0.02


def sketch(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Shaped[Array, "n ..."],
    *,
    dim: int | str = "auto",
    kind: str = "countsketch",
    seed: int = 0,
    outputs: Any = "trace",
    layers: str | Callable[[str], bool] | None = None,
    blocks: int | None = None,
    error: float | None = None,
    by_layer: bool = False,
    memory_gb: float | None = None,
    precision: str = "highest",
    batch_size: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Float[np.ndarray, "n ... k"] | dict[str, Float[np.ndarray, "n ... k"]]:
    """Gradients of fn's outputs, projected at random: Z with E[Z Z'] = ntk(fn, params, x).

    The projection is a function of the seed, the path of each leaf and the place of each entry in it, so that Z does not
    depend on the order of the leaves, the batches, or the device (up to rounding). Leaves add up: Z of all of them is the
    sum of the Z of each. Two calls with the same seed and different examples belong together: Z1 Z2' estimates
    ntk(fn, params, x1, x2).

    Args:
      fn, params, outputs, layers, memory_gb, precision, batch_size: as for `ntk`. Of `outputs`, "full" and "diagonal" keep
        the outputs apart.
      x: examples.
      dim: columns; "auto" takes 2 / error^2, which keeps the standard error of every entry below `error` times the norms
        of its two gradients.
      kind: "countsketch": signed, turned and added rows, one read of each gradient whatever the dimension.
        "srht": signs, Hadamard transform, sample; a little less variance for layers shorter than the sketch.
        "rademacher", "gaussian": dense matrices, the yardstick, k operations for each entry of each gradient.
        "kronecker": of inputs and cotangents apart, no weight gradient is formed; larger error for layers of few positions.
        "jvp": forward mode; for functions with very many outputs, or where gradients have no room.
      seed: any whole number. Different seeds are independent.
      blocks: independent sketches side by side, dim / blocks columns each; see `Sketch`.
      error: see `dim`; 0.02 if None.
      by_layer: return {path of the leaf: its Z} instead of their sum; not for "jvp".
      out: folder that receives Z batch by batch. Interrupted work resumes there, and more examples after the same ones cost
        only the new rows. The result is then a read-only memory map.
      progress: called with (done, all, what) after each batch.

    Returns:
      (n, dim); "full" and "diagonal": (n, c, dim). In the type of the outputs, float32 at least.

    Raises:
      ConfigError: arguments that do not fit, or memory in which not one example has room.
      ModelError: NaN or infinity; the message names the example and, where it can, the leaf.

    Warns:
      GeneralRouteWarning: as `ntk`.
      MemoryShrunkWarning: memory ran out, and the work went on with fewer examples at a time.

    Reference: Deshpande et al. 2021, section 3.2 (10,000 dimensions); variance: `SketchedKernel`.  Cost: per-example
    gradients, and per example and parameter one read for each block (countsketch), log2 (srht) or `dim` operations
    (dense); for "jvp" `dim` forward passes in all, divided by c for the trace.
    """
    asked = Sketch(dim, kind, seed, blocks, error)
    check_precision(precision)
    check_batch_size(batch_size)
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress= takes a function of (done, all, what); given: {type(progress).__name__}.")
    if by_layer and (kind == FORWARD or out is not None):
        raise ConfigError("by_layer=True takes reverse mode and memory. Type: another kind than 'jvp', and no out=; or layers= one layer at a time")
    if out is not None and (not isinstance(out, (str, Path)) or out == ""):
        raise ConfigError(f"out= takes the path of a folder; given: {type(out).__name__ if out != '' else 'an empty text'}.")
    asked = decided(asked)
    x, chosen = checked_examples(x, "x"), select(params, layers)
    with jax.default_matmul_precision(precision):
        structure = read_structure(fn, params, x, chosen)
        wanted = read_outputs(outputs, len(x), None, structure.outputs, structure.dtype)
        memory = available_memory(memory_gb)
        rows_of = _by_rows(structure, params, wanted, asked, memory, batch_size, by_layer)
        if out is not None:
            return _stored(open_store(out, structure, params, x, wanted, asked, precision=precision), rows_of, x, progress)
        found = driver.all_rows(rows_of(x, slice(None)), len(x), progress)
    return found if by_layer else found[""]


def decided(asked: Sketch, least_blocks: int = 1) -> Sketch:
    """With dimension and blocks as numbers: the dimension that bounds the error of an entry, if it is "auto".

    Raises:
      ConfigError: "auto" for a kind whose error depends on the gradients, or an error below what `MOST_DIM` columns give.
    """
    if asked.dim != "auto":
        return asked.with_blocks(least_blocks)
    if asked.kind == FORWARD or not KINDS[asked.kind].law:
        raise ConfigError(
            f"dim='auto' needs a kind whose error is known beforehand, and that of {asked.kind!r} depends on the gradients. "
            "Type: dim=8192, or another kind; ns.lgc(..., sketch=...) measures its error."
        )
    error = ENTRY_ERROR if asked.error is None else asked.error
    blocks = asked.blocks or least_blocks
    dim = rounded_up(2 / error**2, blocks)
    if dim > MOST_DIM:
        raise ConfigError(
            f"error={error} needs {dim} columns, more than {MOST_DIM}. Type: error={(2 / MOST_DIM) ** 0.5:.2g} or more, or the exact ns.ntk."
        )
    return replace(asked, dim=dim, blocks=blocks, error=None)


def rounded_up(dim: float, blocks: int) -> int:
    """The next multiple of 64 columns a block."""
    return 64 * blocks * max(1, math.ceil(dim / (64 * blocks) - 1e-9))


def _by_rows(structure: Structure, params, wanted: Outputs, asked: Sketch, memory: int, batch_size, by_layer: bool):
    """rows_of(x, part): the portions of the examples x, which are `part` of those that the cotangents belong to."""

    def portioned(x, part, batch_size):
        """How many examples go through the network together, and the portions."""
        outputs = wanted if len(wanted.left) == 1 else replace(wanted, left=wanted.left[part], right=wanted.right[part])
        offset = part.start or 0
        if asked.kind == FORWARD:
            sizes = forward.portions(structure, outputs, asked, len(x), memory=memory, batch_size=batch_size)
            return sizes.batch, forward.batches(structure, params, x, outputs, asked, sizes, offset=offset)
        sizes = driver.portions(structure, outputs, asked, len(x), memory=memory, batch_size=batch_size)
        return sizes.batch, driver.batches(structure, params, x, outputs, asked, sizes, by_layer=by_layer, offset=offset)

    def rows_of(x, part):
        done, first, size = 0, part.start or 0, batch_size
        while done < len(x):
            try:
                size, portions = portioned(x[done:], slice(first + done, first + len(x)), size)
                begin = done
                for start, rows in portions:
                    yield begin + start, rows
                    done = begin + start + len(next(iter(rows.values())))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = in_words(error)
                before = min(size or len(x), len(x) - done)
                size = before // 2
            else:
                return
            if size == 0:
                raise ConfigError(
                    f"Memory ran out even with one example at a time ({said}). End other programs, or type: a smaller dim=, "
                    "layers= a smaller part of the network, or out= a folder, for a sketch that is itself too large."
                )
            warnings.warn(
                f"Memory ran out with {before} examples at a time ({said}). The work goes on with {size}.", MemoryShrunkWarning, stacklevel=3
            )

    return rows_of


def _stored(store, rows_of, x, progress):
    missing = sum(stop - start for start, stop in store.missing)
    done = 0
    for first, last in store.missing:
        for start, portion in rows_of(x[first:last], slice(first, last)):
            store.write(first + start, portion[""])
            if progress is not None:
                progress(min(missing, done + start + len(portion[""])), missing, f"examples {first + start} to {first + start + len(portion[''])}")
        done += last - first
    return store.result()
