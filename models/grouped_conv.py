"""Grouped 2-D convolutions on CPUs, as operations that XLA computes fast.

XLA's CPU backend has no fast grouped convolution: one of 32 groups and its gradient took 250 times as long as an equal sum of ordinary ones. A
convolution of one channel per group is a sum over the taps of its window here, any other a convolution per group. Accelerators keep the grouped one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_GROUPS = 64
"""Largest number of groups with a convolution of their own; compilation time grows with it."""


def on_cpu(ordinary: Callable) -> Callable:
    """The convolution of PyTorch (aten.convolution, of arrays) with fast groups on CPUs.

    Args:
      ordinary: (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups) -> output.
    """

    def convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
        given = (stride, padding, dilation, transposed, output_padding)
        if groups == 1 or transposed or input.ndim != 4 or jax.default_backend() != "cpu":
            return ordinary(input, weight, bias, *given, groups)
        stride, padding, dilation = ((value * 2 if len(value) == 1 else value) for value in map(tuple, (stride, padding, dilation)))
        if input.shape[1] == groups == weight.shape[0]:
            output = depthwise(input, weight, stride, padding, dilation)
        elif groups <= MAX_GROUPS:
            parts = zip(jnp.split(input, groups, axis=1), jnp.split(weight, groups), strict=True)
            output = jnp.concatenate([ordinary(part, kernel, None, *given, 1) for part, kernel in parts], axis=1)
        else:
            return ordinary(input, weight, bias, *given, groups)
        return output if bias is None else output + bias[:, None, None]

    return convolution


def depthwise(
    images: Float[Array, "n c h w"],
    weight: Float[Array, "c 1 kh kw"],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Float[Array, "n c p q"]:
    """The convolution of each channel with its own window, as a sum of shifted images."""
    padded = jnp.pad(images, ((0, 0), (0, 0), *((side, side) for side in padding)))
    reach = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:], strict=True)]
    sizes = [(side - far) // step + 1 for side, far, step in zip(padded.shape[2:], reach, stride, strict=True)]
    total = jnp.zeros((), images.dtype)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            starts = row * dilation[0], column * dilation[1]
            stops = [start + (size - 1) * step + 1 for start, size, step in zip(starts, sizes, stride, strict=True)]
            shifted = jax.lax.slice(padded, (0, 0, *starts), (*padded.shape[:2], *stops), (1, 1, *stride))
            total = total + weight[:, 0, row, column, None, None] * shifted
    return total
