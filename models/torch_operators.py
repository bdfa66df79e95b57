"""Operators of PyTorch that torchax lacks, or computes otherwise than PyTorch, on arrays of JAX in PyTorch's layouts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntk_select.models.grouped_conv import on_cpu


def replaced_operators(torch, ordinary: Callable[[Any], Callable]) -> dict[Any, Callable]:
    """The functions by operator of PyTorch.

    Args:
      torch: PyTorch.
      ordinary: operator -> torchax's own function.
    """
    aten = torch.ops.aten
    return {
        torch.nn.functional.linear: linear,
        aten.convolution: on_cpu(ordinary(aten.convolution)),
        aten.avg_pool2d: avg_pool2d,
        aten.adaptive_max_pool2d: adaptive_max_pool2d,
        aten.pad: partial(pad, ordinary(aten.pad)),
        aten._fft_c2r: inverse_real_fft,
        aten._upsample_bilinear2d_aa: partial(resize_with_antialiasing, "linear"),
        aten._upsample_bicubic2d_aa: partial(resize_with_antialiasing, "cubic"),
    }


def linear(input: Float[Array, "... d"], weight: Float[Array, "c d"], bias: Float[Array, " c"] | None = None) -> Float[Array, "... c"]:
    """`torch.nn.functional.linear`. torchax's own has other names of arguments."""
    output = jnp.einsum("...d,cd->...c", input, weight)
    return output if bias is None else output + bias


def avg_pool2d(
    input: Float[Array, "*n c h w"],
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Float[Array, "*n c p q"]:
    """`torch.nn.functional.avg_pool2d`. torchax's own divides wrongly where a window of `ceil_mode` reaches over the border."""
    size = _pair(kernel_size)
    stride, padding = _pair(stride or size), _pair(padding)
    windows = [_windows(*one, ceil_mode) for one in zip(input.shape[-2:], size, stride, padding, strict=True)]
    lead = (1,) * (input.ndim - 2)
    reach = [(0, 0)] * len(lead) + [
        (before, max((len(starts) - 1) * step + one - before - side, 0))
        for starts, one, step, before, side in zip(windows, size, stride, padding, input.shape[-2:], strict=True)
    ]
    total = jax.lax.reduce_window(input, np.zeros((), input.dtype), jax.lax.add, (*lead, *size), (*lead, *stride), reach)
    if divisor_override is not None:
        return total / divisor_override
    counts = []
    for starts, one, before, side in zip(windows, size, padding, input.shape[-2:], strict=True):
        low, high = (-before, side + before) if count_include_pad else (0, side)
        counts.append(np.minimum(starts + one, high) - np.maximum(starts, low))
    return total / jnp.asarray(np.outer(*counts), input.dtype)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    values = (values,) if isinstance(values, int) else tuple(values)
    return values * 2 if len(values) == 1 else values


def _windows(side: int, size: int, step: int, padding: int, ceil_mode: bool) -> Int[np.ndarray, " p"]:
    """First positions of the windows along an axis; with `ceil_mode` the last one begins within the image or the padding before it."""
    room = side + 2 * padding - size
    count = (-(-room // step) if ceil_mode else room // step) + 1
    if ceil_mode and (count - 1) * step >= side + padding:
        count -= 1
    return np.arange(count) * step - padding


def adaptive_max_pool2d(input: Float[Array, "*n c h w"], output_size: Sequence[int]) -> tuple[Float[Array, "*n c p q"], Int[Array, "*n c p q"]]:
    """`torch.nn.functional.adaptive_max_pool2d`: maxima, and their positions in the flattened images."""
    (height, width), (rows, columns) = input.shape[-2:], output_size
    values, positions = [], []
    for row in range(rows):
        for column in range(columns):
            top, bottom = row * height // rows, -(-(row + 1) * height // rows)
            left, right = column * width // columns, -(-(column + 1) * width // columns)
            window = input[..., top:bottom, left:right].reshape(*input.shape[:-2], -1)
            values.append(window.max(-1))
            place = window.argmax(-1)
            positions.append((top + place // (right - left)) * width + left + place % (right - left))
    shape = (*input.shape[:-2], rows, columns)
    return jnp.stack(values, -1).reshape(shape), jnp.stack(positions, -1).reshape(shape)


def pad(ordinary: Callable, input: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """`torch.nn.functional.pad`. torchax's own refuses negative widths, which crop."""
    if mode != "constant":
        return ordinary(input, pad, mode, value)
    widths = [(pad[index], pad[index + 1], 0) for index in range(len(pad) - 2, -1, -2)]
    return jax.lax.pad(input, jnp.asarray(value or 0, input.dtype), [(0, 0, 0)] * (input.ndim - len(widths)) + widths)


def inverse_real_fft(input: Array, dim: Sequence[int], normalization: int, last_dim_size: int) -> Array:
    """`torch.fft.irfftn` over the axes `dim`, the last one of `last_dim_size` values. torchax's own forgets that size with several axes."""
    sizes = [*(input.shape[axis] for axis in dim[:-1]), last_dim_size]
    return jnp.fft.irfftn(input, s=sizes, axes=dim, norm=("forward", "ortho", "backward")[normalization])


def resize_with_antialiasing(
    method: str,
    input: Float[Array, "n c h w"],
    output_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Float[Array, "n c p q"]:
    """`torch.nn.functional.interpolate` with antialias=True. torchax's own does not work with current releases of JAX."""
    if align_corners:
        raise NotImplementedError("interpolate with antialias=True and align_corners=True")
    scales = [given or size / side for given, size, side in zip((scales_h, scales_w), output_size, input.shape[-2:], strict=True)]
    shape = (*input.shape[:-2], *output_size)
    return jax.image.scale_and_translate(input, shape, (2, 3), jnp.asarray(scales, jnp.float32), jnp.zeros(2), method, antialias=True)
