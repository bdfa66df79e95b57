"""ResNet and Wide ResNet, compatible with the published PyTorch weights.

He et al. 2016, with the stride in the 3x3 convolution of a bottleneck as in torchvision, and Zagoruyko & Komodakis 2016.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from ntk_select.models.layers import batch_norm, conv, global_average_pool, stem


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. The last block of a network exposes its last convolution."""

    planes: int
    stride: int = 1
    base_width: int = 64
    is_last: bool = False
    expansion = 1
    last_conv_name = "conv2"

    @nn.compact
    def __call__(self, x, *, train: bool):
        out = conv(self.planes, 3, stride=self.stride, padding=1, name="conv1")(x)
        out = jax.nn.relu(batch_norm(train, "bn1")(out))
        out = _last_conv(self, conv(self.planes, 3, padding=1, name="conv2"), out)
        out = batch_norm(train, "bn2")(out)
        return jax.nn.relu(out + _shortcut(self, x, self.planes, train))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut, with 4 x `planes` output channels."""

    planes: int
    stride: int = 1
    base_width: int = 64
    is_last: bool = False
    expansion = 4
    last_conv_name = "conv3"

    @nn.compact
    def __call__(self, x, *, train: bool):
        width = self.planes * self.base_width // 64
        out = conv(width, 1, name="conv1")(x)
        out = jax.nn.relu(batch_norm(train, "bn1")(out))
        out = conv(width, 3, stride=self.stride, padding=1, name="conv2")(out)
        out = jax.nn.relu(batch_norm(train, "bn2")(out))
        out = _last_conv(self, conv(4 * self.planes, 1, name="conv3"), out)
        out = batch_norm(train, "bn3")(out)
        return jax.nn.relu(out + _shortcut(self, x, 4 * self.planes, train))


def _last_conv(block: nn.Module, layer: nn.Conv, x):
    """Applies the last convolution of a block; in the last block of the network it is exposed to scores."""
    out = layer(x)
    if block.is_last:
        block.sow("intermediates", "conv_inputs", x)
        out = block.perturb("last_conv", out)
    return out


def _shortcut(block: nn.Module, x, features: int, train: bool):
    if block.stride == 1 and x.shape[-1] == features:
        return x
    return batch_norm(train, "downsample_bn")(conv(features, 1, stride=block.stride, name="downsample_conv")(x))


class ResNet(nn.Module):
    """A ResNet.

    Args:
      stage_sizes: blocks of each stage; the first block of every stage but the first halves the image.
      block: `BasicBlock` or `Bottleneck`.
      num_classes: outputs of the head; with 0 there is no head, and the outputs are the pre-logits.
      width: channels of the first stage; doubled in each stage, unless `widths` lists them.
      base_width: width of the inner convolutions of a bottleneck for `width` 64 (128 in a Wide ResNet-50-2).
      stem: one of `layers.STEMS`.
    """

    stage_sizes: Sequence[int]
    block: type[nn.Module]
    num_classes: int = 1000
    width: int = 64
    widths: Sequence[int] | None = None
    base_width: int = 64
    stem: str = "imagenet"

    @property
    def planes(self) -> tuple[int, ...]:
        """Channels of each stage, before a bottleneck's expansion."""
        return tuple(self.widths or (self.width * 2**stage for stage in range(len(self.stage_sizes))))

    @property
    def last_conv(self) -> dict:
        """Arguments of `ntk_select.LastConv`."""
        block = f"layer{len(self.stage_sizes)}_{self.stage_sizes[-1] - 1}"
        padding = 1 if self.block.last_conv_name == "conv2" else 0
        return {
            "path": (block, self.block.last_conv_name, "kernel"),
            "padding": ((padding, padding), (padding, padding)),
            "pooled": (0, self.planes[-1] * self.block.expansion),
        }

    head = ("fc",)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        planes = self.planes
        x = stem(x, self.stem, planes[0], train=train, conv_name="conv1", norm_name="bn1")
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                x = self.block(
                    planes[stage],
                    stride=2 if stage > 0 and index == 0 else 1,
                    base_width=self.base_width,
                    is_last=stage == len(self.stage_sizes) - 1 and index == blocks - 1,
                    name=f"layer{stage + 1}_{index}",
                )(x, train=train)
        x = global_average_pool(x)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, name="fc")(x) if self.num_classes else x
