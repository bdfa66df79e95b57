"""Layers with PyTorch's semantics, of which the architectures are built.

Images are NHWC, kernels HWIO. Padding is explicit and symmetric as in PyTorch, since "SAME" pads strided convolutions
asymmetrically. Batch norm has epsilon 1e-5 and PyTorch's momentum 0.1 (0.9 in Flax).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.errors import ModelError

CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, kernel: int, *, stride: int = 1, padding: int = 0, use_bias: bool = False, name: str) -> nn.Conv:
    """A square convolution with symmetric zero padding."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=use_bias,
        kernel_init=CONV_INIT,
        name=name,
    )


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm with PyTorch's running variance, which is unbiased. Batches are normalised with the biased variance, as in both."""

    def __call__(self, x, use_running_average: bool | None = None):
        """Normalises x over all axes but the last."""
        if self.is_initializing() or nn.merge_param("use_running_average", self.use_running_average, use_running_average):
            return super().__call__(x, use_running_average)
        before = self.get_variable("batch_stats", "var")
        out = super().__call__(x, use_running_average)
        number, decayed = x.size // x.shape[-1], self.momentum * before
        self.put_variable("batch_stats", "var", decayed + (self.get_variable("batch_stats", "var") - decayed) * (number / max(number - 1, 1)))
        return out


def batch_norm(train: bool, name: str) -> BatchNorm:
    """Batch norm over all axes but the channels, with running statistics in evaluation mode."""
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


STEMS = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "small_strided": (4, 2, 1)}
"""Kernel size, stride and padding of the first convolution. "imagenet" is followed by max pooling."""


def stem(x, kind: str, features: int, *, train: bool, conv_name: str, norm_name: str):
    """First convolution, batch norm and ReLU, and for "imagenet" max pooling."""
    kernel, stride, padding = STEMS[kind]
    x = conv(features, kernel, stride=stride, padding=padding, name=conv_name)(x)
    x = nn.relu(batch_norm(train, norm_name)(x))
    return max_pool(x, 3, stride=2, padding=1) if kind == "imagenet" else x


def max_pool(x, window: int, *, stride: int, padding: int = 0):
    """Max pooling with padding of -infinity."""
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


def global_average_pool(x):
    """Mean over positions: (n, h, w, c) to (n, c)."""
    return x.mean(axis=(1, 2))


@functools.cache
def _averaging_matrix(size: int, bins: int) -> np.ndarray:
    starts, stops = (np.arange(bins) * size) // bins, -((-np.arange(1, bins + 1) * size) // bins)
    matrix = np.zeros((bins, size))
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


def adaptive_average_pool(x, bins: int):
    """Average over bins x bins windows that cover the image, overlapping if the size is not a multiple of `bins`.

    The windows are those of torch.nn.AdaptiveAvgPool2d: floor(i * size / bins) up to ceil((i + 1) * size / bins).
    """
    if 0 in x.shape[1:3]:
        raise ModelError(f"The input is too small for this network: the feature maps before the adaptive pooling have size {x.shape[1:3]}.")
    rows, columns = (jnp.asarray(_averaging_matrix(size, bins), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("ah,bw,nhwc->nabc", rows, columns, x, precision="highest")


def key_of_batch(x) -> jax.Array:
    """A random key that is a function of the batch: dropout is reproducible and differs between batches."""
    return jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(x.astype(jnp.float32).sum(), jnp.uint32))
