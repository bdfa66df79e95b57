"""Port a PyTorch network that `zoo convert` does not support: the ResNet-20 for CIFAR, in linen, with the tensors of a checkpoint.

The layers have PyTorch's names, and a dozen lines map tensors to variables. Here the checkpoint contains random numbers; replace it
by your own.
"""

# %%
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import linen_expert
from ntk_select.models.convert import read_checkpoint


# %% The network. Padding is explicit, as PyTorch pads; JAX's "SAME" pads a strided convolution on the other side.
class Block(nn.Module):
    """Two convolutions and a shortcut without parameters: every other pixel, zeros for the new channels."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):  # noqa: D102
        norm = {"use_running_average": not train, "momentum": 0.9, "epsilon": 1e-5}
        y = nn.Conv(self.width, (3, 3), self.stride, padding=1, use_bias=False, name="conv1")(x)
        y = nn.relu(nn.BatchNorm(**norm, name="bn1")(y))
        y = nn.Conv(self.width, (3, 3), padding=1, use_bias=False, name="conv2")(y)
        y = nn.BatchNorm(**norm, name="bn2")(y)
        more = (self.width - x.shape[-1]) // 2
        return nn.relu(y + jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (more, more))))


class ResNet20(nn.Module):
    """He et al. 2016, section 4.2, with n = 3."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train=False):  # noqa: D102
        x = nn.Conv(16, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn1")(x))
        for stage, width in enumerate((16, 32, 64), 1):
            for index in range(3):
                x = Block(width, stride=2 if stage > 1 and index == 0 else 1, name=f"layer{stage}.{index}")(x, train)
        return nn.Dense(self.num_classes, name="linear")(x.mean((1, 2)))


# %% The tensor of each variable: PyTorch has (out, in, height, width) and (out, in), Flax (height, width, in, out) and (in, out).
WORDS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def ported(state, shapes):
    """The variables of these shapes from the tensors of a state dict; one that is missing, or of another shape, is an error."""
    found = {}
    for path, leaf in flatten_dict(shapes).items():
        array = state[".".join((*path[1:-1], WORDS[path[-1]]))]
        found[path] = array.transpose(AXES[array.ndim])
        assert found[path].shape == leaf.shape, path
    return unflatten_dict(found)


module, x = ResNet20(), np.zeros((1, 32, 32, 3), np.float32)
shapes = jax.eval_shape(module.init, jax.random.key(0), x)

# %% A stand-in for your checkpoint: random numbers under PyTorch's names, with the prefix of DataParallel.
rng, file = np.random.default_rng(0), Path(tempfile.mkdtemp()) / "resnet20.safetensors"
state = {}
for path, leaf in flatten_dict(shapes).items():
    shape = tuple(leaf.shape[axis] for axis in np.argsort(AXES[len(leaf.shape)]))
    numbers = rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else rng.uniform(0.5, 1, shape)
    state[".".join(("module", *path[1:-1], WORDS[path[-1]]))] = numbers.astype(np.float32)
save_file(state, file)

variables = ported(read_checkpoint(file), shapes)

# %% As an expert.
# The channels of the last convolution are only normalised, rectified and averaged on their way to the head: pooled=True.
preprocess = ns.Preprocess(32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
resnet20 = linen_expert(
    "resnet20",
    module,
    variables,
    x,
    head="linear",
    last_conv="layer3.2/conv2",
    preprocess=preprocess,
    pooled=True,
    evaluate={"train": False},
    train={"train": True},
)
print(resnet20, resnet20.last_conv)
assert resnet20.num_params == 269_722, "the 0.27 million of the paper"

# %% The ranking.
# If you have outputs of the original, compare them first: np.testing.assert_allclose(resnet20.apply_fn(variables, inputs), logits, rtol=1e-3)
ranking = ns.rank([resnet20], load_task("digits"), scores=("lfc", "lgc", "knn"), per_class=3)
print(ranking)
