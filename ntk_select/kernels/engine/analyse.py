"""Analysis of a function at a single example: its program, how it uses each parameter, and whether examples are independent."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from ntk_select._runtime.memory import is_out_of_memory
from ntk_select.errors import ConfigError, GeneralRouteWarning, ModelError, first_line
from ntk_select.kernels.engine.arguments import batch_statistics, leaf_names, select
from ntk_select.kernels.engine.costs import passes_of, sizes_of
from ntk_select.kernels.engine.plan import choose
from ntk_select.kernels.engine.program import Program, trace
from ntk_select.kernels.engine.structure import Analysed, Structure, structure_of

EVALUATION = "Try: use_running_average=True (linen), model.eval() (nnx)"
_TRAINING_MODE = ("TraceContextError", "ModifyScopeVariableError", "InvalidRngError")
_OWN_FRAMES = (str(Path(__file__).parents[2]), str(Path(jaxtyping.__file__).parent), "<@beartype")
ROUNDING, ROUNDING_OF_HALF = 1e-3, 2e-2
"""Largest allowed relative difference (L2) of an output between batches; the second one in half precision."""
GENERAL_SHARE = 0.03
"""Leaves on the general route below this share of the predicted cost are not warned of, such as the class token of a transformer."""


def analyse(fn: Callable, params: Any, x: Any, layers: Any = None, *, chosen: tuple[int, ...] | None = None) -> Analysed:
    """The structure of fn(params, x) -> (n, c) or (n,) in the leaves that `layers` names.

    The function is traced at every call, so captured variables have their current values.

    Args:
      fn, params, layers: See `ntk`.
      x: pytree of arrays or shapes with a leading axis of examples.
      chosen: indices of the leaves, instead of `layers`.

    Raises:
      ConfigError: fn is not a function, cannot be traced at one example, or does not return floating-point outputs (n, c) or (n,).

    Warns:
      GeneralRouteWarning: leaves without structure, unless their share of the predicted cost is below `GENERAL_SHARE`.
      UserWarning: batch statistics among all leaves.
    """
    if not callable(fn):
        call = "lambda params, x: expert.apply_fn({'params': params, **expert.state}, x)" if hasattr(fn, "apply_fn") else "the order fn, params, x"
        raise ConfigError(f"fn must be a function fn(params, x); given: {type(fn).__name__}. Try: {call}")
    if chosen is None and (layers is None or layers == "all"):
        _warn_of_batch_statistics(params)
    chosen = select(params, layers) if chosen is None else chosen
    leaves, treedef = jax.tree.flatten(params)
    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), weak_type=type(leaf) is float) for leaf in leaves]
    example = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)), x
    )

    def of_leaves(given, example):
        # Python integers may be sizes: they stay static.
        given = [leaf if type(leaf) in (bool, int) else value for leaf, value in zip(leaves, given, strict=True)]
        return fn(jax.tree.unflatten(treedef, given), example)

    try:
        program, values = trace(of_leaves, shapes, example)
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        given = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(example))
        training = type(error).__name__ in _TRAINING_MODE
        advice = EVALUATION if training else "Try: a function of a batch; of one example x, jax.vmap(fn, in_axes=(None, 0)) makes one"
        raise ConfigError(
            f"fn(params, x) failed for a single example of shape {given}: {said}. It is called with a leading axis of length one. {advice}"
        ) from error
    _check_outputs(program)
    structure = structure_of(program, len(leaves), chosen, tuple(leaf_names(params)))
    _warn_of_general_leaves(structure, jax.tree.leaves(x)[0].shape[0])
    return Analysed(structure, values, leaves)


def _check_outputs(program: Program) -> None:
    outputs = [program.avals[var] for var in program.outvars]
    is_row = len(outputs) == 1 and outputs[0].shape[:1] == (1,) and len(outputs[0].shape) <= 2 and 0 not in outputs[0].shape
    if not is_row or not jnp.issubdtype(outputs[0].dtype, jnp.floating):
        given = ", ".join(f"{output.dtype}{list(output.shape)}" for output in outputs)
        raise ConfigError(
            f"fn(params, x) returns {given} for one example; it must return one array (n, c) of floating-point outputs, c at least 1."
            + (" Try: a function of one of them, or of jnp.concatenate(outputs, axis=-1)" if len(outputs) > 1 else "")
        )


def check_independent(fn: Callable, params: Any, x: Any, structure: Structure) -> None:
    """Checks that outputs do not depend on the rest of the batch, once per structure and code of fn.

    Raises:
      ModelError: an example influences another one. Such a function has no per-example kernel.

    Cost: two passes of four examples through the network, compiled once.
    """
    fn_code = getattr(getattr(fn, "__func__", fn), "__code__", type(fn))
    if fn_code in structure.independent:
        return
    first = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf[:2]), x)
    known, treedef = jax.tree.flatten(params)

    def both(leaves, x):
        given = jax.tree.unflatten(treedef, [leaf if value is None else value for value, leaf in zip(leaves, known, strict=True)])
        few = jax.tree.map(lambda leaf: jnp.stack([_changed(leaf[min(1, len(leaf) - 1)]), leaf[0]] * 2), x)
        return fn(given, few), jax.vmap(lambda example: fn(given, jax.tree.map(lambda leaf: leaf[None], example))[0])(few)

    arrays = [jax.device_put(leaf) if hasattr(leaf, "dtype") else None for leaf in known]
    try:
        together, alone = jax.device_get(jax.jit(both)(arrays, first))
    except Exception as error:
        if is_out_of_memory(error):
            return  # the computation itself runs in smaller portions or reports the lack of memory
        raise ConfigError(
            f"fn(params, x) failed for several examples together: {type(error).__name__}: {first_line(error)}. It must take any number of examples."
        ) from error
    if together.shape != alone.shape:
        raise ConfigError(f"fn(params, x) returns {together.dtype}{list(together.shape)} for four examples; it must return one row for each.")
    half = any(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.finfo(jnp.result_type(leaf)).bits < 32 for leaf in known)
    together, alone = (np.asarray(side, np.float64).reshape(4, -1) for side in (together, alone))
    allowed = ROUNDING_OF_HALF if half or jnp.finfo(structure.program.avals[structure.program.outvars[0]].dtype).bits < 32 else ROUNDING
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(together - alone, axis=1) > allowed * np.linalg.norm(alone, axis=1)
    if apart.any():
        raise ModelError(
            "fn's outputs for an example depend on the other examples of the batch: batch norm (or dropout) is in training mode, or another mean "
            f"over the batch. Such a function has no kernel. {EVALUATION}"
        )
    structure.independent.add(fn_code)


def _changed(example):
    """A different example, since equal ones would hide a dependence."""
    if not jnp.issubdtype(example.dtype, jnp.floating):
        return jnp.zeros_like(example)
    return example * jnp.asarray(0.5, example.dtype) + jnp.asarray(1, example.dtype)


def general_share(structure: Structure, n: int) -> float:
    """Predicted share of the leaves on the general route in the cost of the kernel of n examples, for outputs="trace" in one tile."""
    m, passes = structure.outputs, passes_of(structure)
    used = [leaf for leaf in structure.leaves if leaf.kind != "unused"]
    work = {leaf: choose(sizes_of(structure, leaf), leaf.structured, m, "trace", n, None, longest=n).work for leaf in used}
    general = sum(work[leaf] for leaf in used if leaf.kind == "general")
    return general / (sum(work.values()) + n * (passes.forward + m * passes.backward))


def _warn_of_batch_statistics(params) -> None:
    if found := batch_statistics(params):
        shown = ", ".join([*found[:3], *(["..."] if len(found) > 3 else [])])
        warnings.warn(
            f"params hold batch statistics, which are differentiated like weights: {shown}. "
            "Try: layers='^params/' (linen), nnx.split(model, nnx.Param, ...) (nnx)",
            stacklevel=_levels_to_the_caller(sys._getframe()),
        )


def _warn_of_general_leaves(structure: Structure, n: int) -> None:
    """Warns if the leaves on the general route take at least `GENERAL_SHARE` of the cost of the kernel of n examples."""
    general = [leaf for leaf in structure.leaves if leaf.kind == "general"]
    if not general or (share := general_share(structure, n)) < GENERAL_SHARE:
        return
    listed = "; ".join(f"{leaf.name} ({leaf.reason})" for leaf in general[:5]) + ("; ..." if len(general) > 5 else "")
    warnings.warn(
        f"{len(general)} of {len(structure.leaves)} leaves take the general route, exact but slow, about {share:.0%} of the cost: {listed}.",
        GeneralRouteWarning,
        stacklevel=_levels_to_the_caller(sys._getframe()),
    )


def _levels_to_the_caller(frame) -> int:
    """Number of stack frames up to the first one outside this package and the runtime type checkers."""
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_FRAMES):
        level, frame = level + 1, frame.f_back
    return level
