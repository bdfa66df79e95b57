"""How many floating-point operations does one pass of a network take? Counted from its program, whatever the device."""

import math
from collections.abc import Callable

from ntk_select.kernels.engine.program import trace

TRAINING = 3
"""A training step in forward passes: one forward, and one each for the gradients of activations and of weights."""


def forward_flops(fn: Callable, *arguments) -> float:
    """Operations of fn's convolutions and matrix products; a multiplication with its addition counts as two.

    Elementwise work is left out, as is usual, and so is what happens inside loops (`scan`, `while`), and what no output depends on, such as an old
    head beside the features.

    Args:
      fn: any JAX function.
      arguments: arrays, trees of arrays, or their shapes (`jax.ShapeDtypeStruct`); nothing is computed.
    """
    (program, _), total = trace(fn, *arguments), 0.0
    wanted = set(program.outputs)
    for step in reversed(program.steps):
        if wanted.isdisjoint(step.outputs):
            continue
        wanted.update(step.inputs)
        if step.name == "dot_general":
            (contracted, _), _ = step.settings["dimension_numbers"]
            inner = math.prod(program.shapes[step.inputs[0]].shape[axis] for axis in contracted)
        elif step.name == "conv_general_dilated":
            kernel, layout = program.shapes[step.inputs[1]].shape, step.settings["dimension_numbers"].rhs_spec
            inner = math.prod(kernel[axis] for axis in layout[1:])
        else:
            continue
        total += 2.0 * inner * math.prod(program.shapes[step.outputs[0]].shape)
    return total
