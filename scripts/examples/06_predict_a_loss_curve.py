"""Predict the loss curve of fine-tuning, then fine-tune and compare.

Near its pre-trained weights a network is almost linear in them, and its kernel determines how training goes (Proposition 1 of
Deshpande et al. 2021). Here: an embedded expert with a new head, sixty digits, thirty steps of gradient descent.
"""

# %%
import tempfile
from pathlib import Path

import numpy as np

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import open_zoo

L = ns.linearized
original = open_zoo(["builtin"])["fashion_mnist-resnet_small"]()
sample = ns.probe_sample(load_task("digits"), per_class=6)
x, targets = original.preprocess(sample.images), np.eye(10, dtype=np.float32)[sample.labels]
training = np.arange(len(x)) % 3 > 0
expert = ns.with_new_head(original, num_classes=10)

# %% The kernel gives the largest stable learning rate, and the loss curve at any other.
kernel = L.network_kernel(expert, x[training], x[~training])
lr = 0.1 * L.max_stable_lr(kernel.kernel, loss="mean")
print(f"kernel {kernel.kernel.shape}; learning rate {lr:.4f}")

# %% The formula, the linearised network trained, and the network itself trained.
found = L.compare_training(
    expert, x[training], targets[training], lr=lr, steps=30, loss="mean", x_test=x[~training], test_targets=targets[~training], kernel=kernel
)
print(found)

apart = found.discrepancy()
np.testing.assert_allclose(
    found.formula.train_losses, found.linear.train_losses, rtol=1e-4, err_msg="the formula is exact for the linearised network"
)
assert apart.loss.max() < 0.2, "and close to the real one at this learning rate"
assert found.real.train_losses[-1] < 0.7 * found.real.train_losses[0], "which did learn"

picture = found.report(Path(tempfile.mkdtemp()) / "curves.png", title="predicted and real", loss="mean")
print(f"wrote {picture}")
