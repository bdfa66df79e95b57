"""AlexNet as in torchvision (Krizhevsky 2014, "One weird trick")."""

import flax.linen as nn
import jax

from ntk_select.models.layers import adaptive_average_pool, conv, max_pool


class AlexNet(nn.Module):
    """Five convolutions with biases and no norm, then three dense layers. Pre-logits: the output of the last ReLU, 4096 channels."""

    num_classes: int = 1000
    hidden: int = 4096

    @property
    def last_conv(self) -> dict:
        """Arguments of `ntk_select.LastConv`. Not `pooled`, since dense layers mix the channels."""
        return {"path": ("conv5", "kernel"), "padding": ((1, 1), (1, 1))}

    head = ("fc8",)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = jax.nn.relu(conv(64, 11, stride=4, padding=2, use_bias=True, name="conv1")(x))
        x = max_pool(x, 3, stride=2)
        x = jax.nn.relu(conv(192, 5, padding=2, use_bias=True, name="conv2")(x))
        x = max_pool(x, 3, stride=2)
        x = jax.nn.relu(conv(384, 3, padding=1, use_bias=True, name="conv3")(x))
        x = jax.nn.relu(conv(256, 3, padding=1, use_bias=True, name="conv4")(x))
        self.sow("intermediates", "conv_inputs", x)
        x = self.perturb("last_conv", conv(256, 3, padding=1, use_bias=True, name="conv5")(x))
        x = max_pool(jax.nn.relu(x), 3, stride=2)
        x = adaptive_average_pool(x, 6)
        # PyTorch flattens channels first; the weights of fc6 expect that order.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = jax.nn.relu(nn.Dense(self.hidden, name="fc6")(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = jax.nn.relu(nn.Dense(self.hidden, name="fc7")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, name="fc8")(x) if self.num_classes else x
