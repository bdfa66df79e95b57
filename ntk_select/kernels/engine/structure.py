"""Classification of the uses of each parameter in a traced function.

A leaf of the parameters may be
  * the weight of products, convolutions or embeddings, unchanged or only reshaped and transposed: its gradient is X' G per
    operation, and its kernel needs no gradient;
  * an input of a computed weight (weight standardisation, low-rank adapters): X' G is pulled back by a VJP;
  * used in any other way (scale and shift, loops of unknown length): ordinary reverse mode for that leaf alone.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp

from ntk_select.kernels.engine.layer_ops import Conv, LayerOp, read_layer_op, summing_type
from ntk_select.kernels.engine.program import PROGRAMS, Compiled, Program

_ISOMETRIES = ("reshape", "transpose", "squeeze", "rev", "copy", "copy_p", "convert_element_type", "broadcast_in_dim")
_ELEMENTWISE = ("add", "sub", "mul", "div", "max", "min", "add_any", "pow", "select_n")


class Tap(NamedTuple):
    """An equation whose weight depends on the leaves `leaves` and not on the example; `eqn` is its index."""

    eqn: int
    weight: int
    side: int
    op: LayerOp
    leaves: frozenset[int]
    plain: tuple | None


@dataclass(frozen=True)
class LeafUse:
    """Use of one leaf.

    Attributes:
      index: among the leaves of the parameters.
      name: "/"-joined path.
      taps: indices of the taps whose weights depend on it.
      kind: "dense", "conv" or "embedding" (X' G from the leaf itself), "derived" (a weight computed from it),
        "elementwise" (scale, shift), "general" (anything else), "unused".
      reason: Of the last kinds, the primitives that use it.
      depth: index of the first equation that combines it with the example.
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
        """Whether its kernel follows from the inputs and output cotangents of its operations alone."""
        return self.kind in ("dense", "conv", "embedding")


class Structure(Compiled):
    """The program of a function at one example, and the uses of the selected leaves. It holds no arrays.

    Attributes:
      program: Program of fn(leaves, x) with x a single example with a leading axis of length one.
      count: number of leaves, selected or not; the program's other inputs are the arrays of the example.
      leaves: one `LeafUse` per selected leaf.
      taps: all equations with weights.
      params_only: indices of the equations that do not depend on the example.
      outputs: c.
      dtype: accumulation dtype: that of the outputs, float32 at least.
    """

    def __init__(self, program: Program, count: int, leaves: tuple[LeafUse, ...], taps: tuple[Tap, ...], params_only: frozenset[int]):
        super().__init__()
        self.independent = set()  # code of functions that passed `check_independent`
        self.program, self.count, self.leaves, self.taps, self.params_only = program, count, leaves, taps, params_only
        output = program.avals[program.outvars[0]]
        self.outputs = output.shape[1] if len(output.shape) == 2 else 1
        self.dtype = summing_type(output.dtype)

    def ops(self, leaf: LeafUse) -> tuple[LayerOp, ...]:
        """The operations whose weight is the leaf."""
        return tuple(self.taps[number].op for number in leaf.taps)


class Analysed(NamedTuple):
    """A structure, and the arrays to run it with.

    Attributes:
      structure: the same object for functions with the same operations.
      values: arrays that the function closes over, for the program's `constvars`.
      leaves: Leaves of the parameters.
    """

    structure: Structure
    values: tuple
    leaves: list


@lru_cache(maxsize=2 * PROGRAMS)
def structure_of(program: Program, count: int, chosen: tuple[int, ...], names: tuple[str, ...]) -> Structure:
    """The structure of a traced function in the leaves `chosen`; cached, so that equal programs share compiled code."""
    of_x = set(program.invars[count:])
    feeds = {program.invars[index]: frozenset([index]) for index in chosen}
    plain = {program.invars[index]: (index,) for index in chosen}
    taps, other, params_only, depth = [], {index: set() for index in chosen}, set(), {}
    for number, eqn in enumerate(program.eqns):
        weights = [var for var in eqn.invars if feeds.get(var)]
        if not of_x.intersection(eqn.invars):
            params_only.add(number)
            fed = frozenset().union(*(feeds[var] for var in weights))
            feeds |= dict.fromkeys(eqn.outvars, fed)
            if len(weights) == 1 and weights[0] in plain and _moves_only(eqn, program):
                plain[eqn.outvars[0]] = (*plain[weights[0]], (eqn.name, str(sorted((k, str(v)) for k, v in eqn.params.items()))))
            continue
        of_x.update(eqn.outvars)
        if not weights:
            continue
        for leaf in frozenset().union(*(feeds[var] for var in weights)):
            depth.setdefault(leaf, number)
        side = 0 if eqn.invars[0] in of_x else 1
        op = read_layer_op(eqn, side, program.avals) if len(weights) == 1 else None
        if op is not None:
            taps.append(Tap(number, weights[0], side, op, feeds[weights[0]], plain.get(weights[0])))
            continue
        for var in weights:
            for leaf in feeds[var]:
                other[leaf].add(eqn.name)
    for var in program.outvars:
        if var not in of_x:
            for leaf in feeds.get(var, ()):
                other[leaf].add("output")
    leaves = tuple(_leaf(index, names[index], program.avals[program.invars[index]].shape, taps, other[index]) for index in chosen)
    leaves = tuple(replace(leaf, depth=depth.get(leaf.index, 0)) for leaf in leaves)
    comparable = {number for leaf in leaves for number in leaf.taps if not leaf.structured or len(leaf.taps) > 1}
    taps = [tap._replace(op=_with_every_tap(tap.op)) if number in comparable else tap for number, tap in enumerate(taps)]
    return Structure(program, count, leaves, tuple(taps), frozenset(params_only))


def _with_every_tap(op: LayerOp) -> LayerOp:
    return replace(op, every=True) if isinstance(op, Conv) else op


def _moves_only(eqn, program: Program) -> bool:
    """Whether the equation permutes the entries of its one input, so inner products are preserved."""
    sizes = [program.avals[var].size for var in (eqn.invars[0], eqn.outvars[0])]
    return eqn.name in _ISOMETRIES and sizes[0] == sizes[1] and jnp.issubdtype(program.avals[eqn.outvars[0]].dtype, jnp.floating)


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
