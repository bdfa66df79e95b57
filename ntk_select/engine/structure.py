"""Where does a function use each of its parameters?

The function is traced at a single example. A leaf of the parameters may reach the examples
  * as the weight of products and convolutions, as it is or only reshaped: its gradient is X' G, use by use, and its
    kernel can be had without the gradient;
  * as such a weight after a computation of its own (weight standardisation, low-rank adapters): X' G is pulled back;
  * in any other way (scale and shift, gather, scan): ordinary reverse mode, for that leaf alone.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_select.engine.program import Program, trace
from ntk_select.engine.selection import leaf_names
from ntk_select.engine.uses import Conv, Use, read_use
from ntk_select.errors import ConfigError, first_line

_PACKAGE = str(Path(__file__).parent.parent)
_ISOMETRIES = ("reshape", "transpose", "squeeze", "rev", "copy", "copy_p", "convert_element_type", "broadcast_in_dim")
_ELEMENTWISE = ("add", "sub", "mul", "div", "max", "min", "add_any", "pow", "select_n")


class GeneralRouteWarning(UserWarning):
    """A leaf is used in a way whose structure is not known; ordinary reverse mode, one example at a time, serves it."""


class Tap(NamedTuple):
    """A step whose weight depends on the leaves `leaves` and not on the example."""

    step: int
    weight: int
    side: int
    use: Use
    leaves: frozenset[int]
    plain: tuple | None


@dataclass(frozen=True)
class LeafUse:
    """How one leaf is used.

    Attributes:
      index: among the leaves of the parameters.
      name: "/"-joined path.
      taps: numbers of the taps that it feeds.
      kind: "dense" or "conv" (X' G, use by use, from the leaf itself), "derived" (a weight computed from it),
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
        """Whether inputs and cotangents of its uses are all that its kernel needs."""
        return self.kind in ("dense", "conv")


@dataclass(frozen=True, eq=False)
class Structure:
    """The program of a function at one example, and how it uses the leaves that were chosen.

    Attributes:
      program: of fn(leaves, x) with x a single example with a leading axis of length one.
      count: number of leaves, chosen or not; the example is the program's last input.
      leaves: one `LeafUse` a chosen leaf.
      taps: all steps with weights.
      before: the steps that do not depend on the example.
      outputs: c.
      dtype: in which products are summed: that of the outputs, float32 at least.
    """

    program: Program
    count: int
    leaves: tuple[LeafUse, ...]
    taps: tuple[Tap, ...]
    before: frozenset[int]
    outputs: int
    dtype: Any = field(default=jnp.float32)


def read_structure(fn: Callable, params: Any, x, chosen: tuple[int, ...]) -> Structure:
    """The structure of fn(params, x) -> (n, c) in the leaves `chosen`. Kept for the next call with the same function and shapes.

    A function that captures another array since is read anew; as with `jax.jit`, what is changed inside of an object that it
    captures is not seen.

    Raises:
      ConfigError: fn cannot be traced at one example, or does not return (n, c) floating-point outputs.
    """
    leaves, treedef = jax.tree.flatten(params)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), weak_type=type(leaf) is float) for leaf in leaves)
    # Whole numbers of Python may be sizes: they stay what they are.
    fixed = tuple((index, leaf) for index, leaf in enumerate(leaves) if type(leaf) in (bool, int))
    example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    try:
        hash(fn)
    except TypeError:
        return _read.__wrapped__(fn, treedef, shapes, example, chosen, fixed, tuple(leaf_names(params)), None, None)
    precision = (jax.config.jax_default_matmul_precision, jax.config.jax_enable_x64)
    return _read(fn, treedef, shapes, example, chosen, fixed, tuple(leaf_names(params)), precision, _captured(fn))


def _levels_to_the_caller() -> int:
    """How many calls up the code lies that is not this package's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


class _Held:
    """Objects that are the same only if each is the very same object. They are kept, so that no other takes their place."""

    def __init__(self, *objects):
        self.objects = objects

    def __hash__(self):
        return hash(tuple(map(id, self.objects)))

    def __eq__(self, other):
        return len(self.objects) == len(other.objects) and all(a is b for a, b in zip(self.objects, other.objects, strict=True))


def _contents(cell):
    """What a variable of an enclosing function holds; None while it holds nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _captured(fn) -> _Held:
    """What a function reads beside its arguments: cells, globals that it names, attributes of the object whose method it is.

    An object that says itself what it equals (a frozen dataclass, a Flax module) is taken at its word.
    """
    owner, fn = getattr(fn, "__self__", fn), getattr(fn, "__func__", fn)
    if type(owner).__eq__ is not object.__eq__:
        return _Held()
    held = list(vars(owner).values()) if hasattr(owner, "__dict__") else []
    code = getattr(fn, "__code__", None)
    if code is not None:
        held += [fn.__globals__[name] for name in code.co_names if name in fn.__globals__]
        cells = [_contents(cell) for cell in fn.__closure__ or ()]
        held += [content for content in cells if content is not fn]
    return _Held(*held)


@lru_cache(maxsize=16)
def _read(fn, treedef, shapes, example, chosen, fixed, names, precision, captured) -> Structure:
    del precision, captured  # parts of the key: they are written into the program

    def of_leaves(leaves, x):
        for index, value in fixed:
            leaves[index] = value
        return fn(jax.tree.unflatten(treedef, leaves), x)

    try:
        program = trace(of_leaves, list(shapes), example)
    except Exception as error:
        raise ConfigError(
            f"fn(params, x) failed for a single example of shape {example.shape}: {type(error).__name__}: {first_line(error)}. "
            "It is called with a leading axis of length one."
        ) from error
    outputs = [program.shapes[slot] for slot in program.outputs]
    if (
        len(outputs) != 1
        or len(outputs[0].shape) != 2
        or outputs[0].shape[0] != 1
        or outputs[0].shape[1] == 0
        or not jnp.issubdtype(outputs[0].dtype, jnp.floating)
    ):
        given = ", ".join(f"{output.dtype}{list(output.shape)}" for output in outputs)
        raise ConfigError(f"fn(params, x) returns {given} for one example; it must return one array (n, c) of floating-point outputs, c at least 1.")
    structure = _analyse(program, len(shapes), chosen, names)
    general = [leaf for leaf in structure.leaves if leaf.kind == "general"]
    if general:
        listed = "; ".join(f"{leaf.name} ({leaf.reason})" for leaf in general[:5]) + ("; ..." if len(general) > 5 else "")
        warnings.warn(
            f"{len(general)} of {len(structure.leaves)} leaves take the general route, exact but slow: {listed}.",
            GeneralRouteWarning,
            stacklevel=_levels_to_the_caller(),
        )
    return structure


def _analyse(program: Program, count: int, chosen: tuple[int, ...], names: tuple[str, ...]) -> Structure:
    of_x = {program.inputs[count]}
    feeds = {program.inputs[index]: frozenset([index]) for index in chosen}
    plain = {program.inputs[index]: (index,) for index in chosen}
    taps, other, before, depth = [], {index: set() for index in chosen}, set(), {}
    for index, step in enumerate(program.steps):
        weights = [slot for slot in step.inputs if feeds.get(slot)]
        if not of_x.intersection(step.inputs):
            before.add(index)
            fed = frozenset().union(*(feeds[slot] for slot in weights))
            feeds |= dict.fromkeys(step.outputs, fed)
            if len(weights) == 1 and weights[0] in plain and _moves_only(step, program):
                plain[step.outputs[0]] = (*plain[weights[0]], (step.name, str(sorted((k, str(v)) for k, v in step.settings.items()))))
            continue
        of_x.update(step.outputs)
        if not weights:
            continue
        for leaf in frozenset().union(*(feeds[slot] for slot in weights)):
            depth.setdefault(leaf, index)
        side = 0 if step.inputs[0] in of_x else 1
        use = read_use(step, side, program.shapes) if len(weights) == 1 and weights[0] not in (step.inputs[side],) else None
        if use is not None:
            taps.append(Tap(index, weights[0], side, use, feeds[weights[0]], plain.get(weights[0])))
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
    taps = [tap._replace(use=_with_every_tap(tap.use)) if number in comparable else tap for number, tap in enumerate(taps)]
    output = program.shapes[program.outputs[0]]
    dtype = jnp.promote_types(output.dtype, jnp.float32)
    return Structure(program, count, leaves, tuple(taps), frozenset(before), output.shape[1], dtype)


def _with_every_tap(use: Use) -> Use:
    return replace(use, every=True) if isinstance(use, Conv) else use


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
    views = {(taps[number].plain, taps[number].use.layout) for number in mine}
    if len(views) == 1 and taps[mine[0]].plain is not None:
        return LeafUse(index, name, shape, mine, taps[mine[0]].use.layout[0])
    return LeafUse(index, name, shape, mine, "derived", "computed with before use" if len(views) == 1 else "used in several layouts")
