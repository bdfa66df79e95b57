"""Which layers, with PyTorch's semantics, are the experts built from?

Images are NHWC, kernels HWIO. Padding is explicit and symmetric, as in PyTorch; "SAME" of XLA pads a strided
convolution on the other side. Batch norm keeps epsilon 1e-5 and PyTorch's momentum 0.1 (0.9 in Flax's words).
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
    """Flax's batch norm, but what it keeps of a batch is the unbiased variance, as in PyTorch. It normalises with the biased one, as both do."""

    def __call__(self, x, use_running_average: bool | None = None):
        """Normalises x over all axes but the last."""
        if self.is_initializing() or nn.merge_param("use_running_average", self.use_running_average, use_running_average):
            return super().__call__(x, use_running_average)
        before = self.get_variable("batch_stats", "var")
        out = super().__call__(x, use_running_average)
        number, kept = x.size // x.shape[-1], self.momentum * before
        self.put_variable("batch_stats", "var", kept + (self.get_variable("batch_stats", "var") - kept) * (number / max(number - 1, 1)))
        return out


def batch_norm(train: bool, name: str) -> BatchNorm:
    """Batch norm over all but the channels; running statistics when not training."""
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


STEMS = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "small_strided": (4, 2, 1)}
"""How a network begins: kernel, stride and padding of its first convolution. "imagenet" pools after it."""


def stem(x, kind: str, features: int, *, train: bool, conv_name: str, norm_name: str):
    """The first convolution, batch norm and ReLU, and for "imagenet" the pooling after them."""
    kernel, stride, padding = STEMS[kind]
    x = conv(features, kernel, stride=stride, padding=padding, name=conv_name)(x)
    x = nn.relu(batch_norm(train, norm_name)(x))
    return max_pool(x, 3, stride=2, padding=1) if kind == "imagenet" else x


def max_pool(x, window: int, *, stride: int, padding: int = 0):
    """Max pooling; padded pixels never win."""
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


def global_average_pool(x):
    """Mean over all positions: (n, h, w, c) to (n, c)."""
    return x.mean(axis=(1, 2))


@functools.cache
def _averaging_matrix(size: int, bins: int) -> np.ndarray:
    starts, stops = (np.arange(bins) * size) // bins, -((-np.arange(1, bins + 1) * size) // bins)
    matrix = np.zeros((bins, size))
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


def adaptive_average_pool(x, bins: int):
    """Average over bins x bins windows that cover the image, overlapping where the size does not divide.

    The same windows as torch.nn.AdaptiveAvgPool2d: floor(i * size / bins) up to ceil((i + 1) * size / bins).
    """
    if 0 in x.shape[1:3]:
        raise ModelError(
            f"Nothing is left of the image before the adaptive pooling (maps of {x.shape[1:3]}); the input is too small for this network."
        )
    rows, columns = (jnp.asarray(_averaging_matrix(size, bins), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("ah,bw,nhwc->nabc", rows, columns, x, precision="highest")


def key_of_batch(x) -> jax.Array:
    """A random key that the batch itself decides: dropout draws other units for other images, and the same ones for the same."""
    return jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(x.astype(jnp.float32).sum(), jnp.uint32))
