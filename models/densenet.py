"""DenseNet, compatible with the published PyTorch weights (Huang et al. 2017)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntk_select.models.layers import batch_norm, conv, global_average_pool, stem


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; the output is concatenated with the input."""

    growth: int
    bottleneck: int = 4
    is_last: bool = False

    @nn.compact
    def __call__(self, x, *, train: bool):
        out = jax.nn.relu(batch_norm(train, "norm1")(x))
        out = conv(self.bottleneck * self.growth, 1, name="conv1")(out)
        out = jax.nn.relu(batch_norm(train, "norm2")(out))
        inputs, out = out, conv(self.growth, 3, padding=1, name="conv2")(out)
        if self.is_last:
            self.sow("intermediates", "conv_inputs", inputs)
            out = self.perturb("last_conv", out)
        return jnp.concatenate([x, out], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution to half the channels, 2x2 average pooling."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        out = jax.nn.relu(batch_norm(train, "norm")(x))
        out = conv(x.shape[-1] // 2, 1, name="conv")(out)
        return nn.avg_pool(out, (2, 2), (2, 2))


class DenseNet(nn.Module):
    """A DenseNet.

    Args:
      block_sizes: layers of each dense block.
      growth: channels added by each layer.
      num_classes: outputs of the head; with 0 there is no head, and the outputs are the pre-logits.
      initial: channels of the stem.
      bottleneck: channels of the 1x1 convolutions, as a multiple of `growth`.
      stem: one of `layers.STEMS`.
    """

    block_sizes: Sequence[int]
    growth: int = 32
    num_classes: int = 1000
    initial: int = 64
    bottleneck: int = 4
    stem: str = "imagenet"

    @property
    def num_features(self) -> int:
        """Number of pre-logits."""
        channels = self.initial
        for index, layers in enumerate(self.block_sizes):
            channels = (channels // 2 if index else channels) + layers * self.growth
        return channels

    @property
    def last_conv(self) -> dict:
        """Arguments of `ntk_select.LastConv`. Its channels are the last ones of the pre-logits."""
        layer = f"denseblock{len(self.block_sizes)}_denselayer{self.block_sizes[-1]}"
        return {
            "path": (layer, "conv2", "kernel"),
            "padding": ((1, 1), (1, 1)),
            "pooled": (self.num_features - self.growth, self.num_features),
        }

    head = ("classifier",)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = stem(x, self.stem, self.initial, train=train, conv_name="conv0", norm_name="norm0")
        for block, layers in enumerate(self.block_sizes, start=1):
            if block > 1:
                x = Transition(name=f"transition{block - 1}")(x, train=train)
            for layer in range(1, layers + 1):
                is_last = block == len(self.block_sizes) and layer == layers
                x = DenseLayer(self.growth, self.bottleneck, is_last, name=f"denseblock{block}_denselayer{layer}")(x, train=train)
        x = jax.nn.relu(batch_norm(train, "norm5")(x))
        x = global_average_pool(x)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, name="classifier")(x) if self.num_classes else x
