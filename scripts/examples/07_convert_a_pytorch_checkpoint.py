"""Convert a PyTorch checkpoint of your own into an expert with the same outputs.

Needs PyTorch and torchvision. Here: a ResNet-18 with seven classes, saved the usual way. The equivalent command:

    ntk-select zoo convert resnet18.pth --arch resnet18 --size 64 --resize 64 --out my_zoo
"""

# %%
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import open_zoo
from ntk_select.models.convert import convert_checkpoint

torch.manual_seed(0)
network = torchvision.models.resnet18(num_classes=7).eval()
folder = Path(tempfile.mkdtemp())
torch.save(network.state_dict(), folder / "resnet18.pth")

# %% Every tensor must match a variable. A file does not record the preprocessing.
card = convert_checkpoint(
    folder / "resnet18.pth", architecture="resnet18", source="nothing yet", preprocess=ns.Preprocess(size=64, resize=64), out=folder / "zoo/mine"
)
print(card)

# %% The same outputs.
expert = open_zoo([folder / "zoo"])["mine"]()
task = load_task("digits")
x = expert.preprocess(task.images[:4])
with torch.inference_mode():
    theirs = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
ours = np.asarray(expert.apply_fn(expert.variables, x))
print(f"largest difference from PyTorch {np.abs(ours - theirs).max():.1e}, logits up to {np.abs(theirs).max():.1f}")
np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)

# %% Ranked.
ranking = ns.rank([expert], task, scores=("lfc", "lgc"), per_class=3)
print(ranking)
