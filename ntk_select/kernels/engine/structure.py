"""Where a function uses each of its parameters.

The function is traced at a single example. A leaf of the parameters may reach the examples
  * as the weight of products, convolutions and embeddings, as it is or only reshaped: its gradient is X' G, operation by
    operation, and its kernel can be had without the gradient;
  * as such a weight after a computation of its own (weight standardisation, low-rank adapters): X' G is pulled back;
  * in any other way (scale and shift, loops without a fixed length): ordinary reverse mode, for that leaf alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from ntk_select._runtime.out_of_memory import is_out_of_memory
from ntk_select.errors import ConfigError, ModelError, first_line
from ntk_select.kernels.engine.arguments import leaf_names, select
from ntk_select.kernels.engine.layer_ops import Conv, LayerOp, read_layer_op, summing_type
from ntk_select.kernels.engine.program import PROGRAMS, Compiled, Program, trace

_OWN_FRAMES = (str(Path(__file__).parent.parent), str(Path(jaxtyping.__file__).parent), "<@beartype")
_ISOMETRIES = ("reshape", "transpose", "squeeze", "rev", "copy", "copy_p", "convert_element_type", "broadcast_in_dim")
_ELEMENTWISE = ("add", "sub", "mul", "div", "max", "min", "add_any", "pow", "select_n")
ROUNDING, ROUNDING_OF_HALF = 1e-3, 2e-2
"""How far, relative to its length, an output may differ in another batch. The latter where half precision is at work."""


class GeneralRouteWarning(UserWarning):
    """A leaf is used in a way whose structure is not known; ordinary reverse mode, one example at a time, serves it."""


class Tap(NamedTuple):
    """A step whose weight depends on the leaves `leaves` and not on the example."""

    step: int
    weight: int
    side: int
    op: LayerOp
    leaves: frozenset[int]
    plain: tuple | None


@dataclass(frozen=True)
class LeafUse:
    """How one leaf is used.

    Attributes:
      index: among the leaves of the parameters.
      name: "/"-joined path.
      taps: numbers of the taps that it feeds.
      kind: "dense", "conv" or "embedding" (X' G from the leaf itself), "derived" (a weight computed from it),
        "elementwise" (scale, shift), "general" (anything else), "unused".
      reason: for the last kinds, which operations use it.
      depth: number of the first step that brings it together with the example.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    taps: tuple[int, ...]
    kind: str
    reason: str = ""
    depth: int = 0

    @property
    def structured(self) -> bool:
        """Whether inputs and cotangents of its operations are all that its kernel needs."""
        return self.kind in ("dense", "conv", "embedding")


class Structure(Compiled):
    """The program of a function at one example, and how it uses the leaves that were chosen. It holds no arrays.

    Attributes:
      program: of fn(leaves, x) with x a single example with a leading axis of length one.
      count: number of leaves, chosen or not; the arrays of the example are the program's other inputs.
      leaves: one `LeafUse` per chosen leaf.
      taps: all steps with weights.
      before: the steps that do not depend on the example.
      outputs: c.
      dtype: in which products are summed: that of the outputs, float32 at least.
    """

    def __init__(self, program: Program, count: int, leaves: tuple[LeafUse, ...], taps: tuple[Tap, ...], before: frozenset[int]):
        super().__init__()
        self.independent = set()  # code of functions that passed `check_independent`
        self.program, self.count, self.leaves, self.taps, self.before = program, count, leaves, taps, before
        output = program.shapes[program.outputs[0]]
        self.outputs = output.shape[1] if len(output.shape) == 2 else 1
        self.dtype = summing_type(output.dtype)

    def ops(self, leaf: LeafUse) -> tuple[LayerOp, ...]:
        """The operations that a leaf is the weight of."""
        return tuple(self.taps[number].op for number in leaf.taps)


class Analysed(NamedTuple):
    """A structure, and the arrays to run it with.

    Attributes:
      structure: the same object for functions with the same operations.
      values: arrays that the function closes over, for the program's constants.
      leaves: of the parameters.
    """

    structure: Structure
    values: tuple
    leaves: list


def analyse(fn: Callable, params: Any, x: Any, layers: Any = None, *, chosen: tuple[int, ...] | None = None) -> Analysed:
    """The structure of fn(params, x) -> (n, c) or (n,) in the leaves that `layers` names.

    The function is traced at every call, so that nothing that it captures or reads can be out of date.

    Args:
      fn, params, layers: as for `ntk`.
      x: pytree of arrays or shapes with a leading axis of examples.
      chosen: indices of the leaves, instead of `layers`.

    Raises:
      ConfigError: fn cannot be traced at one example, or does not return floating-point outputs (n, c) or (n,).

    Warns:
      GeneralRouteWarning: leaves without structure, unless they are below `QUIET_SHARE` of the predicted cost.
    """
    chosen = select(params, layers) if chosen is None else chosen
    leaves, treedef = jax.tree.flatten(params)
    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), weak_type=type(leaf) is float) for leaf in leaves]
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)

    def of_leaves(given, example):
        # Whole numbers of Python may be sizes: they stay what they are.
        given = [leaf if type(leaf) in (bool, int) else value for leaf, value in zip(leaves, given, strict=True)]
        return fn(jax.tree.unflatten(treedef, given), example)

    try:
        program, values = trace(of_leaves, shapes, example)
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        given = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(example))
        raise ConfigError(
            f"fn(params, x) failed for a single example of shape {given}: {said}. It is called with a leading axis of length one."
        ) from error
    _check_outputs(program)
    structure = _structure(program, len(leaves), chosen, tuple(leaf_names(params)))
    from ntk_select.kernels.engine.general_route import warn_of_general_leaves  # here, for it needs the costs of plans, which are made of structures

    warn_of_general_leaves(structure, jax.tree.leaves(x)[0].shape[0])
    return Analysed(structure, values, leaves)


def _check_outputs(program: Program) -> None:
    outputs = [program.shapes[slot] for slot in program.outputs]
    is_row = len(outputs) == 1 and outputs[0].shape[:1] == (1,) and len(outputs[0].shape) <= 2 and 0 not in outputs[0].shape
    if not is_row or not jnp.issubdtype(outputs[0].dtype, jnp.floating):
        given = ", ".join(f"{output.dtype}{list(output.shape)}" for output in outputs)
        raise ConfigError(f"fn(params, x) returns {given} for one example; it must return one array (n, c) of floating-point outputs, c at least 1.")


def levels_to_the_caller(frame) -> int:
    """How many calls up the code lies that is neither this package's nor that of a check of its types."""
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_FRAMES):
        level, frame = level + 1, frame.f_back
    return level


def check_independent(fn: Callable, params: Any, x: Any, structure: Structure) -> None:
    """Compares the outputs of a few examples together with those of each alone, once per structure and code of fn.

    Raises:
      ModelError: an example influences another one. Such a function has no kernel.

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
            return  # the work itself goes on in smaller portions, or says what is lacking
        raise ConfigError(
            f"fn(params, x) failed for several examples together: {type(error).__name__}: {first_line(error)}. It must take any number of examples."
        ) from error
    if together.shape != alone.shape:
        raise ConfigError(f"fn(params, x) returns {together.dtype}{list(together.shape)} for four examples; it must return one row for each.")
    half = any(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.finfo(jnp.result_type(leaf)).bits < 32 for leaf in known)
    together, alone = (np.asarray(side, np.float64).reshape(4, -1) for side in (together, alone))
    allowed = ROUNDING_OF_HALF if half or jnp.finfo(structure.program.shapes[structure.program.outputs[0]].dtype).bits < 32 else ROUNDING
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(together - alone, axis=1) > allowed * np.linalg.norm(alone, axis=1)
    if apart.any():
        raise ModelError(
            "fn's outputs for an example depend on the other examples of the batch: batch norm (or dropout) is in training mode, or another mean "
            "over the batch. Such a function has no kernel. Type: use_running_average=True (linen), model.eval() (nnx)"
        )
    structure.independent.add(fn_code)


def _changed(example):
    """Another example, so that equal ones cannot hide that they influence each other."""
    if not jnp.issubdtype(example.dtype, jnp.floating):
        return jnp.zeros_like(example)
    return example * jnp.asarray(0.5, example.dtype) + jnp.asarray(1, example.dtype)


@lru_cache(maxsize=2 * PROGRAMS)
def _structure(program: Program, count: int, chosen: tuple[int, ...], names: tuple[str, ...]) -> Structure:
    of_x = set(program.inputs[count:])
    feeds = {program.inputs[index]: frozenset([index]) for index in chosen}
    plain = {program.inputs[index]: (index,) for index in chosen}
    taps, other, before, depth = [], {index: set() for index in chosen}, set(), {}
    for number, step in enumerate(program.steps):
        weights = [slot for slot in step.inputs if feeds.get(slot)]
        if not of_x.intersection(step.inputs):
            before.add(number)
            fed = frozenset().union(*(feeds[slot] for slot in weights))
            feeds |= dict.fromkeys(step.outputs, fed)
            if len(weights) == 1 and weights[0] in plain and _moves_only(step, program):
                plain[step.outputs[0]] = (*plain[weights[0]], (step.name, str(sorted((k, str(v)) for k, v in step.settings.items()))))
            continue
        of_x.update(step.outputs)
        if not weights:
            continue
        for leaf in frozenset().union(*(feeds[slot] for slot in weights)):
            depth.setdefault(leaf, number)
        side = 0 if step.inputs[0] in of_x else 1
        op = read_layer_op(step, side, program.shapes) if len(weights) == 1 and weights[0] not in (step.inputs[side],) else None
        if op is not None:
            taps.append(Tap(number, weights[0], side, op, feeds[weights[0]], plain.get(weights[0])))
            continue
        for slot in weights:
            for leaf in feeds[slot]:
                other[leaf].add(step.name)
    for slot in program.outputs:
        if slot not in of_x:
            for leaf in feeds.get(slot, ()):
                other[leaf].add("output")
    leaves = tuple(_leaf(index, names[index], program.shapes[program.inputs[index]].shape, taps, other[index]) for index in chosen)
    leaves = tuple(replace(leaf, depth=depth.get(leaf.index, 0)) for leaf in leaves)
    comparable = {number for leaf in leaves for number in leaf.taps if not leaf.structured or len(leaf.taps) > 1}
    taps = [tap._replace(op=_with_every_tap(tap.op)) if number in comparable else tap for number, tap in enumerate(taps)]
    return Structure(program, count, leaves, tuple(taps), frozenset(before))


def _with_every_tap(op: LayerOp) -> LayerOp:
    return replace(op, every=True) if isinstance(op, Conv) else op


def _moves_only(step, program: Program) -> bool:
    """Whether the step gives every entry of its one input one place in its output, so that inner products stay."""
    sizes = [program.shapes[slot].size for slot in (step.inputs[0], step.outputs[0])]
    return step.name in _ISOMETRIES and sizes[0] == sizes[1] and jnp.issubdtype(program.shapes[step.outputs[0]].dtype, jnp.floating)


def _leaf(index: int, name: str, shape, taps: list[Tap], other: set[str]) -> LeafUse:
    mine = tuple(number for number, tap in enumerate(taps) if index in tap.leaves)
    if other:
        kind = "elementwise" if not mine and other <= set(_ELEMENTWISE) else "general"
        return LeafUse(index, name, shape, mine, kind, "used by " + ", ".join(sorted(other)))
    if not mine:
        return LeafUse(index, name, shape, (), "unused")
    views = {(taps[number].plain, taps[number].op.layout) for number in mine}
    if len(views) == 1 and taps[mine[0]].plain is not None:
        return LeafUse(index, name, shape, mine, taps[mine[0]].op.layout[0])
    return LeafUse(index, name, shape, mine, "derived", "computed with before use" if len(views) == 1 else "used in several layouts")
