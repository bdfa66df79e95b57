"""Floating-point operations of one pass of a network, counted from its program, independent of the device."""

from collections.abc import Callable

from ntk_select.kernels.engine.costs import product_flops
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
        total += product_flops(eqn, program.avals)
    return total
