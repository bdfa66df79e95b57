"""Rank PyTorch networks of your own, and features that PyTorch has computed.

Needs PyTorch and torchax: uv pip install -e '.[torch]'. A convolutional network and a transformer are trained on the digits 0 to 4; the task is to
classify 5 to 9. Networks of timm need no code, only their names:

    ntk-select rank --task my_images --zoo 'timm:resnet*.a1_in1k' timm:vit_tiny_patch16_224
"""

# %%
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import ntk_select as ns
from ntk_select.data import load_task

digits = load_task("digits")
images, labels = np.stack(digits.images), np.asarray(digits.labels)
known = labels < 5
task = ns.Task("digits 5 to 9", images[~known], labels[~known] - 5, digits.class_names[5:])


def preprocess(images):
    """8 x 8 images of bytes as (n, 8, 8, 1) in 0..1, channels last. For photographs, `ns.Preprocess` resizes, crops and normalises."""
    return np.stack(images).astype(np.float32).reshape(-1, 8, 8, 1) / 255


def as_tensor(images):
    """The same with channels first, as PyTorch takes them."""
    return torch.from_numpy(preprocess(images).transpose(0, 3, 1, 2).copy())


# %% Two networks, as one writes them in PyTorch.
class Convolutions(nn.Module):
    """Two convolutions with batch norm, mean over the pixels, a linear head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x):  # noqa: D102
        return self.head(self.body(x).mean((2, 3)))


class Transformer(nn.Module):
    """Patches of 2 x 2, two blocks with attention and dropout, mean over the patches, a linear head."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x):  # noqa: D102
        return self.head(self.blocks(self.patches(x).flatten(2).mT + self.positions).mean(1))


def trained(network, steps=100):
    """The network after some steps of Adam on the digits 0 to 4."""
    x, y = as_tensor(images[known]), torch.from_numpy(labels[known]).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for batch in torch.randint(len(x), (steps, 64)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    return network.eval()


torch.manual_seed(0)
torch.set_num_threads(1)  # such small networks gain nothing from more
networks = {"convolutions": trained(Convolutions()), "transformer": trained(Transformer()), "untrained": Convolutions().eval()}

# %% As experts.
# The head and the last convolution are found. A transformer has no last convolution: its LGC is that of the last block.
x = np.zeros((1, 8, 8, 1), np.float32)
experts = {name: ns.torch_expert(name, network, x, preprocess=preprocess) for name, network in networks.items()}
for expert in experts.values():
    print(expert, expert.last_conv or expert.last_block)

# %% The same logits as PyTorch.
for name, expert in experts.items():
    with torch.inference_mode():
        theirs = networks[name](as_tensor(task.images[:4])).numpy()
    np.testing.assert_allclose(expert.apply_fn(expert.variables, preprocess(task.images[:4])), theirs, rtol=1e-3, atol=1e-4)

# %% The ranking.
ranking = ns.rank(experts, task, scores=("lfc", "lgc", "knn"))
print(ranking)
assert ranking["convolutions"].rank < ranking["untrained"].rank, "the trained network should be ahead of the untrained one"

# %% Without the network: features that PyTorch computes, in a file.
# There is one row for each training image, in the order of the task. Scores that need the network are unavailable, the others are the same.
folder = Path(tempfile.mkdtemp())
network = networks["convolutions"]
with torch.inference_mode():
    features = network.body(as_tensor(task.images)).mean((2, 3))
    logits = network.head(features)
np.savez(folder / "convolutions.npz", features=features.numpy(), logits=logits.numpy(), labels=task.labels)
of_features = ns.rank(f"features:{folder}", task, scores=("lfc", "lgc", "knn"))
print(of_features)
np.testing.assert_allclose(of_features["convolutions"].scores["lfc"].value, ranking["convolutions"].scores["lfc"].value, rtol=1e-3)
