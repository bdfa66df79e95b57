"""Floating-point operations of one pass of a network, counted from its program, independent of the device."""

import math
from collections.abc import Callable

from ntk_select.kernels.engine.program import trace

TRAINING = 3
"""A training step in forward passes: one forward, and one each for the gradients of activations and of weights."""


def forward_flops(fn: Callable, *arguments) -> float:
    """Operations of fn's convolutions and matrix products; a multiplication with its addition counts as two.

    Not counted: elementwise operations (as usual), bodies of loops (`scan`, `while`), and operations on which no output depends.

    Args:
      fn: any JAX function.
      arguments: arrays, trees of arrays, or their shapes (`jax.ShapeDtypeStruct`); nothing is computed.
    """
    (program, _), total = trace(fn, *arguments), 0.0
    wanted = set(program.outvars)
    for eqn in reversed(program.eqns):
        if wanted.isdisjoint(eqn.outvars):
            continue
        wanted.update(eqn.invars)
        if eqn.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(program.avals[eqn.invars[0]].shape[axis] for axis in contracted)
        elif eqn.name == "conv_general_dilated":
            kernel, layout = program.avals[eqn.invars[1]].shape, eqn.params["dimension_numbers"].rhs_spec
            inner = math.prod(kernel[axis] for axis in layout[1:])
        else:
            continue
        total += 2.0 * inner * math.prod(program.avals[eqn.outvars[0]].shape)
    return total
