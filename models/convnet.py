"""Conv-4, the plain convolutional network of few-shot learning (Vinyals et al. 2016), with mean pooling at the end."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from ntk_select.errors import ModelError
from ntk_select.models.layers import batch_norm, conv, global_average_pool, max_pool, stem


class ConvNet(nn.Module):
    """Blocks of a 3x3 convolution, batch norm and ReLU, without shortcuts, each after 2x2 max pooling but the first; the second block neither, if
    the stem has strides.

    Args:
      widths: channels of each block, two at least; the first is the stem.
      num_classes: outputs of the head; with 0 there is no head, and the outputs are the pre-logits.
      stem: one of `layers.STEMS`.
    """

    widths: Sequence[int] = (64, 64, 64, 64)
    num_classes: int = 1000
    stem: str = "small"

    @property
    def last_conv(self) -> dict:
        """Arguments of `ntk_select.LastConv`."""
        return {"path": (f"conv{len(self.widths)}", "kernel"), "padding": ((1, 1), (1, 1)), "pooled": (0, self.widths[-1])}

    head = ("fc",)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = stem(x, self.stem, self.widths[0], train=train, conv_name="conv1", norm_name="bn1")
        for place, width in enumerate(self.widths[1:], start=2):
            if place > 2 or self.stem == "small":
                if min(x.shape[1:3]) < 2:
                    raise ModelError(f"The input is too small for this network: the feature maps before block {place} have size {x.shape[1:3]}.")
                x = max_pool(x, 2, stride=2)
            is_last = place == len(self.widths)
            if is_last:
                self.sow("intermediates", "conv_inputs", x)
            x = conv(width, 3, padding=1, name=f"conv{place}")(x)
            x = self.perturb("last_conv", x) if is_last else x
            x = jax.nn.relu(batch_norm(train, f"bn{place}")(x))
        x = global_average_pool(x)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, name="fc")(x) if self.num_classes else x
