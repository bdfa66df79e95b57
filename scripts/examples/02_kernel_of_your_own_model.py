"""The exact neural tangent kernel of a function of your own.

Any JAX function (params, x) -> (n, c) has one; here: two convolutions and a linear layer, without any framework, on
handwritten digits. The kernel is checked against explicit Jacobians.
"""

# %%
import tempfile
from pathlib import Path

import jax
import numpy as np

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.kernels.heat_map import heat_map

sample = ns.probe_sample(load_task("digits"), per_class=8)
x = np.stack(sample.images).astype(np.float32)[..., None] / 255


# %%
def network(params, x):
    """Logits (n, 10) of images (n, 8, 8, 1)."""
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(x, params[name]["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + params[name]["bias"])
    return x.reshape(len(x), -1) @ params["head"]["kernel"]


rng = np.random.default_rng(0)
shapes = {"first": (3, 3, 1, 16), "second": (3, 3, 16, 32), "head": (128, 10)}
params = {name: {"kernel": rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)} for name, shape in shapes.items()}
for name in ("first", "second"):
    params[name]["bias"] = np.zeros(shapes[name][-1], np.float32)

# %% The plan: algorithm and cost of each layer. Nothing is computed yet.
print(ns.ntk_plan(network, params, x))

# %% The kernel, layer by layer; their sum is the whole.
layers = ns.ntk(network, params, x, by_layer=True)
kernel = sum(layers.values())
brute_force = ns.ntk(network, params, x, method="jacobian")
error = np.abs(kernel - brute_force).max() / np.abs(brute_force).max()
print(f"\n{kernel.shape} kernel; largest difference from explicit Jacobians {error:.1e} of the largest entry")
assert error < 1e-5, "the engine must be exact"

# %% Share of each layer in the trace; a check that the kernel is positive semi-definite.
shares = {name: np.trace(layer) / np.trace(kernel) for name, layer in layers.items()}
for name, share in sorted(shares.items(), key=lambda item: -item[1]):
    print(f"{share:7.1%}  {name}")
assert abs(sum(shares.values()) - 1) < 1e-5, "the layers add up to the whole"

certificate = ns.certify(kernel)
print(certificate)
assert certificate.holds

# %% Correlation with the labels before any training.
correlation = ns.kernel_label_correlation(kernel, sample.labels)
shuffled = ns.kernel_label_correlation(kernel, rng.permutation(sample.labels))
print(f"correlation with the labels {correlation:.3f}; with shuffled labels {shuffled:.3f}")
assert correlation > 2 * shuffled

picture = Path(tempfile.mkdtemp()) / "kernel.png"
picture.write_bytes(heat_map(kernel, sample.labels, sample.class_names, title="two convolutions, not trained, on digits"))
print(f"wrote {picture}")
