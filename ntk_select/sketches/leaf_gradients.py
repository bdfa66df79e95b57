"""What is the gradient of one leaf, entry by entry in the leaf's own order?

The engine keeps, for a weight, what entered its uses and the cotangents of what left them. Here they become gradients
(e, t, p): e rows of the sketch, t cotangents that add up in a row, p entries of the leaf in the order of its memory,
those whose gradient is always zero included. So the address of an entry is that of the parameter, whatever the
function does with it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ntk_select.engine.program import run
from ntk_select.engine.structure import LeafUse, Structure
from ntk_select.engine.uses import Conv, Use


def is_moved(structure: Structure, leaf: LeafUse) -> bool:
    """Whether a weight is reshaped or transposed before its use."""
    return leaf.structured and len(structure.taps[leaf.taps[0]].plain) > 1


def joined_rows(gradients, apart: bool):
    """(n, m, p) as (e, t, p): cotangents in rows of their own, or together in the row of their example."""
    n, m, p = gradients.shape
    return gradients.reshape(n * m, 1, p) if apart else gradients


def use_gradients(uses: tuple[Use, ...], factors):
    """Gradients (n, m, p) of the weight operand of some uses, from inputs and cotangents."""
    total = 0
    for use, (x, cotangents) in zip(uses, factors, strict=True):
        patches = jax.vmap(use.patches)(x)
        # A product for each cotangent: the result lies as it is read next, and needs no transposition.
        product = jnp.matmul(patches.swapaxes(2, 3)[:, None], cotangents.transpose(0, 3, 1, 2, 4))
        total = total + product
    total = jax.vmap(jax.vmap(partial(_as_operand, uses[0])))(total)
    return total.reshape(*total.shape[:2], -1)


def _as_operand(use: Use, gradient):
    """(g, k, o) in the shape of the operand; taps that only meet padding have gradient zero."""
    return use.weight(with_every_tap(use, gradient))


def with_every_tap(use: Use, values):
    """(g, k, ...) of the taps that count, with zeros for the others."""
    if not isinstance(use, Conv):
        return values
    order = every_tap(use)
    if len(order) == use.taps:
        return values
    taps = values.reshape(use.groups, use.taps, -1, *values.shape[2:])
    places = {tap: number for number, tap in enumerate(use.live)}
    zero = jnp.zeros_like(taps[:, 0])
    return jnp.stack([taps[:, places[tap]] if tap in places else zero for tap in order], axis=1).reshape(use.groups, -1, *values.shape[2:])


def of_live_taps(use: Use, values):
    """(g, k of every tap, ...): the taps that count alone."""
    if not isinstance(use, Conv) or len(every_tap(use)) == use.taps:
        return values
    places = [number for number, tap in enumerate(every_tap(use)) if tap in set(use.live)]
    taps = values.reshape(use.groups, len(every_tap(use)), -1, *values.shape[2:])
    return jnp.stack([taps[:, place] for place in places], axis=1).reshape(use.groups, -1, *values.shape[2:])


def every_tap(use: Conv) -> list[tuple[int, ...]]:
    """All taps of the window, in order."""
    taps = [()]
    for size in use.window:
        taps = [(*tap, place) for tap in taps for place in range(size)]
    return taps


@partial(jax.jit, static_argnums=(0, 1))
def moved_back(structure: Structure, position: int, values, leaves, gradients):
    """Gradients (n, m, p) of the weight operand of a leaf, taken back through the reshapes and transpositions before it."""
    leaf, program = structure.leaves[position], structure.program

    def weight(moved):
        arguments = [*leaves, None]
        arguments[leaf.index] = moved
        return run(program, values, arguments, only=_moves(structure, leaf))[structure.taps[leaf.taps[0]].weight]

    out, pull = jax.vjp(weight, leaves[leaf.index])
    back = jax.vmap(jax.vmap(lambda gradient: pull(gradient.reshape(out.shape).astype(out.dtype))[0]))(gradients)
    return back.reshape(*gradients.shape[:2], -1)


def _moves(structure: Structure, leaf: LeafUse) -> frozenset[int]:
    """The steps between a leaf and its use."""
    program, wanted, slot = structure.program, set(), structure.taps[leaf.taps[0]].weight
    made = {output: (number, step) for number, step in enumerate(program.steps) for output in step.outputs}
    while slot != program.inputs[leaf.index]:
        number, step = made[slot]
        wanted.add(number)
        (slot,) = [one for one in step.inputs if one not in program.literals]
    return frozenset(wanted)
