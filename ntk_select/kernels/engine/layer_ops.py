"""Products, convolutions and embeddings as batched matrix products Y = X W.

For one example: X (g, s, k) are the inputs of each of s output positions (im2col patches), W (g, k, o) the weights,
Y (g, s, o) the outputs, for g groups. The gradient with respect to W is X' G, with G the cotangent of Y. A `LayerOp` maps
inputs, outputs and weights of one operation to this form. Windows of a convolution are ordered as k = (tap, channel).
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_select.kernels.engine.program import Eqn


@dataclass(frozen=True)
class Dense:
    """A `dot_general` whose operand number 1 - side is the weight. Axes are of the operands; groups are its batch axes."""

    side: int
    batch: tuple[tuple[int, ...], tuple[int, ...]]
    contract: tuple[tuple[int, ...], tuple[int, ...]]
    free: tuple[tuple[int, ...], tuple[int, ...]]
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    taps: int = 1

    window_exceeds_input = False

    @property
    def groups(self) -> int:
        """g."""
        return _size(self.input_shape, self.batch[0])

    @property
    def positions(self) -> int:
        """s."""
        return _size(self.input_shape, self.free[0])

    @property
    def width_in(self) -> int:
        """k."""
        return _size(self.input_shape, self.contract[0])

    @property
    def width_out(self) -> int:
        """o."""
        return _size(self.weight_shape, self.free[1])

    @property
    def layout(self) -> tuple:
        """Two operations on one weight with equal layouts have the same W, entry by entry."""
        return ("dense", self.batch[1], self.contract[1], self.free[1])

    def patches(self, x):
        """X (g, s, k)."""
        return x.transpose(*self.batch[0], *self.free[0], *self.contract[0]).reshape(self.groups, self.positions, self.width_in)

    def outputs(self, y):
        """Y (g, s, o)."""
        if self.side == 0:
            return y.reshape(self.groups, self.positions, self.width_out)
        return y.reshape(self.groups, self.width_out, self.positions).swapaxes(1, 2)

    def weight(self, w):
        """From (g, k, o) back to the shape of the operand."""
        order = (*self.batch[1], *self.contract[1], *self.free[1])
        return w.reshape([self.weight_shape[axis] for axis in order]).transpose(_inverse(order))


@dataclass(frozen=True)
class Conv:
    """A `conv_general_dilated` whose second operand is the weight.

    Taps of the window that see only padding have no gradient and are omitted, unless `every` is set: several uses of a
    weight must have the same taps.
    """

    dimensions: Any
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    window_dilation: tuple[int, ...]
    groups: int
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    every: bool = False

    @property
    def window(self) -> tuple[int, ...]:
        """Extent of the window along each spatial axis."""
        return tuple(self.weight_shape[axis] for axis in self.dimensions.rhs_spec[2:])

    @cached_property
    def live(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the taps that see any input."""
        axes = []
        for axis, (size, window) in enumerate(zip(self.input_area, self.window, strict=True)):
            step, between, low = self.strides[axis], self.input_dilation[axis], self.padding[axis][0]
            offsets = {p * step - low for p in range(self.area[axis])}
            real = set(range(0, (size - 1) * between + 1, between))
            axes.append([tap for tap in range(window) if self.every or any(tap * self.window_dilation[axis] + o in real for o in offsets)])
        # If all taps see only padding, all are retained, so that shapes stay positive.
        return tuple(itertools.product(*(axes if all(axes) else map(range, self.window))))

    @property
    def taps(self) -> int:
        """Number of live taps."""
        return len(self.live)

    @property
    def input_area(self) -> tuple[int, ...]:
        """Spatial extent of the input."""
        return tuple(self.input_shape[axis] for axis in self.dimensions.lhs_spec[2:])

    @property
    def window_exceeds_input(self) -> bool:
        """Whether the window is larger than the input. XLA swaps the operands of such convolutions, which is slow on CPUs."""
        return math.prod(self.window) > math.prod(self.input_area)

    @property
    def area(self) -> tuple[int, ...]:
        """Spatial extent of the output."""
        return tuple(self.output_shape[axis] for axis in self.dimensions.out_spec[2:])

    @property
    def positions(self) -> int:
        """s."""
        return self.input_shape[self.dimensions.lhs_spec[0]] * math.prod(self.area)

    @property
    def width_in(self) -> int:
        """k."""
        return self.taps * self.weight_shape[self.dimensions.rhs_spec[1]]

    @property
    def width_out(self) -> int:
        """o."""
        return self.weight_shape[self.dimensions.rhs_spec[0]] // self.groups

    @property
    def layout(self) -> tuple:
        """Two operations on one weight with equal layouts have the same W, entry by entry."""
        return ("conv", self.dimensions.rhs_spec, self.groups)

    def _padded(self, x):
        """The input as (n, spatial, channels), with its padding and dilation."""
        n, channels, *spatial = self.dimensions.lhs_spec
        x = x.transpose(n, *spatial, channels)
        edges = [(0, 0, 0), *((low, high, d - 1) for (low, high), d in zip(self.padding, self.input_dilation, strict=True)), (0, 0, 0)]
        return lax.pad(x, jnp.zeros((), x.dtype), edges) if any(edge != (0, 0, 0) for edge in edges) else x

    def patches_of_tap(self, x, number):
        """X (g, s, k / taps) of one live tap; `number` may be traced."""
        x = self._padded(x)
        starts = jnp.array([[t * d for t, d in zip(tap, self.window_dilation, strict=True)] for tap in self.live], jnp.int32)[number]
        extents = [s * (size - 1) + 1 for s, size in zip(self.strides, self.area, strict=True)]
        zero = jnp.zeros_like(starts[0])
        x = lax.dynamic_slice(x, (zero, *starts, zero), (x.shape[0], *extents, x.shape[-1]))
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *self.strides, 1))
        return x.reshape(self.positions, self.groups, -1).transpose(1, 0, 2)

    def patches(self, x):
        """X (g, s, k)."""
        x, views = self._padded(x), []
        for tap in self.live:
            start = [t * d for t, d in zip(tap, self.window_dilation, strict=True)]
            stop = [i + s * (size - 1) + 1 for i, s, size in zip(start, self.strides, self.area, strict=True)]
            views.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *self.strides, 1)))
        taps = views[0][..., None, :] if len(views) == 1 else jnp.stack(views, axis=-2)
        if self.groups == 1:
            return taps.reshape(1, self.positions, len(views) * taps.shape[-1])
        taps = taps.reshape(self.positions, len(views), self.groups, -1)
        return taps.transpose(2, 0, 1, 3).reshape(self.groups, self.positions, -1)

    def outputs(self, y):
        """Y (g, s, o)."""
        n, channels, *spatial = self.dimensions.out_spec
        y = y.transpose(n, *spatial, channels).reshape(self.positions, self.groups, self.width_out)
        return y.transpose(1, 0, 2)

    def product(self, x, w):
        """The convolution itself, as a product of patches and weight."""
        features, channels, *spatial = self.dimensions.rhs_spec
        w = w.transpose(*spatial, channels, features)
        w = jnp.stack([w[tap] for tap in self.live]).reshape(self.width_in, self.groups, self.width_out).swapaxes(0, 1)
        y = jnp.matmul(self.patches(x), w).swapaxes(0, 1)
        order = (self.dimensions.out_spec[0], *self.dimensions.out_spec[2:], self.dimensions.out_spec[1])
        return y.reshape([self.output_shape[axis] for axis in order]).transpose(_inverse(order))

    def weight(self, w):
        """From (g, k, o) of every tap back to the shape of the operand."""
        features, channels, *spatial = self.dimensions.rhs_spec
        w = w.reshape(self.groups, *self.window, -1, self.width_out)
        w = jnp.moveaxis(w, 0, -2).reshape(*self.window, -1, self.groups * self.width_out)
        return w.transpose(_inverse((*spatial, channels, features)))


@dataclass(frozen=True)
class Embedding:
    """A `gather` of whole rows of a table. X is one-hot, and never materialised in sample space."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    dtype: Any
    clip: bool
    taps: int = 1

    window_exceeds_input = False
    groups = 1
    layout = ("embedding",)

    @property
    def positions(self) -> int:
        """s."""
        return math.prod(self.input_shape[:-1])

    @property
    def width_in(self) -> int:
        """k."""
        return self.weight_shape[0]

    @property
    def width_out(self) -> int:
        """o."""
        return math.prod(self.weight_shape[1:])

    def rows(self, x):
        """The row of the table that each position reads, (s,)."""
        rows = x.reshape(self.positions)
        return jnp.clip(rows, 0, self.width_in - 1) if self.clip else rows

    def patches(self, x):
        """X (1, s, k)."""
        return jax.nn.one_hot(self.rows(x), self.width_in, dtype=self.dtype)[None]

    def outputs(self, y):
        """Y (1, s, o)."""
        return y.reshape(1, self.positions, self.width_out)

    def weight(self, w):
        """From (1, k, o) back to the shape of the table."""
        return w.reshape(self.weight_shape)


LayerOp = Dense | Conv | Embedding


def summing_type(*dtypes) -> jnp.dtype:
    """Accumulation dtype for products of these: float64 if one is float64, otherwise float32."""
    return jnp.dtype("float64" if any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes) else "float32")


def read_layer_op(eqn: Eqn, side: int, avals: dict[int, jax.ShapeDtypeStruct]) -> LayerOp | None:
    """The operation of an equation whose operand 1 - side is the weight; None if it is none of the three kinds."""
    if len(eqn.invars) != 2 or any(avals[var].size == 0 for var in (*eqn.invars, *eqn.outvars)):
        return None
    if not all(jnp.issubdtype(avals[var].dtype, jnp.floating) for var in (eqn.invars[1 - side], *eqn.outvars)):
        return None
    x, w = avals[eqn.invars[side]].shape, avals[eqn.invars[1 - side]].shape
    if eqn.name == "dot_general":
        contract, batch = eqn.params["dimension_numbers"]
        contract, batch = tuple(map(tuple, contract)), tuple(map(tuple, batch))
        free = tuple(
            tuple(axis for axis in range(len(shape)) if axis not in contract[index] + batch[index])
            for index, shape in enumerate(avals[var].shape for var in eqn.invars)
        )
        order = (side, 1 - side)
        return Dense(side, *(tuple(pair[index] for index in order) for pair in (batch, contract, free)), x, w)
    if eqn.name == "conv_general_dilated" and side == 0 and eqn.params["batch_group_count"] == 1:
        return Conv(
            eqn.params["dimension_numbers"],
            tuple(eqn.params["window_strides"]),
            tuple(map(tuple, eqn.params["padding"])),
            tuple(eqn.params["lhs_dilation"]),
            tuple(eqn.params["rhs_dilation"]),
            eqn.params["feature_group_count"],
            x,
            w,
            avals[eqn.outvars[0]].shape,
        )
    if eqn.name == "gather" and side == 1 and _takes_rows(eqn.params, x, w, avals[eqn.outvars[0]].shape):
        return Embedding(x, w, avals[eqn.invars[0]].dtype, eqn.params["mode"] == lax.GatherScatterMode.CLIP)
    return None


def _takes_rows(params, indices, table, output) -> bool:
    """Whether each index takes a whole row along the first axis of the table."""
    numbers = params["dimension_numbers"]
    return (
        tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(params["slice_sizes"]) == (1, *table[1:])
        and output == (*indices[:-1], *table[1:])
        and tuple(numbers.offset_dims) == tuple(range(len(indices) - 1, len(output)))
    )


def conv_op(input_shape, weight_shape, *, strides, padding) -> Conv:
    """The operation of a plain NHWC convolution with its weight (kh, kw, cin, cout), for one example of `input_shape` (h, w, cin)."""
    dimensions = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    area = [
        (size + sum(edge) - window) // stride + 1
        for size, edge, window, stride in zip(input_shape[:2], padding, weight_shape[:2], strides, strict=True)
    ]
    output_shape = (1, *area, weight_shape[3])
    return Conv(dimensions, tuple(strides), tuple(padding), (1, 1), (1, 1), 1, (1, *input_shape), tuple(weight_shape), output_shape)


def _size(shape, axes) -> int:
    return math.prod(shape[axis] for axis in axes)


def _inverse(order) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
