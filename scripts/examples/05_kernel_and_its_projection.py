"""A kernel and its random projections, with their true, predicted and measured errors.

For one embedded expert and handwritten digits. Each sketch predicts its error (a law in its dimension) and measures it
(the difference between its two halves); both are compared with the true error.
"""

# %%
import numpy as np

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import open_zoo

expert = open_zoo(["builtin"])["fashion_mnist-resnet_small"]()
sample = ns.probe_sample(load_task("digits"), per_class=3)
x, labels = expert.preprocess(sample.images), sample.labels


def network(params, x):
    """Logits (n, c)."""
    return expert.apply_fn({"params": params, **expert.state}, x)


# %% The exact one.
exact = ns.ntk(network, expert.params, x)
score = ns.kernel_label_correlation(exact, labels)
print(f"exact kernel {exact.shape}, correlation with the labels {score:.4f}")

# %% Projected. Each row of z is a gradient of 170 thousand numbers, in `dim`.
print("   dim   error  by the law  by its halves   correlation with the labels")
errors = []
for dim in (256, 2048):
    z = ns.sketch(network, expert.params, x, dim=dim, blocks=2, seed=0)
    estimate = ns.SketchedKernel(z, "countsketch", blocks=2)
    error = np.linalg.norm(estimate.kernel - exact) / np.linalg.norm(exact)
    found = ns.sketched_correlation(estimate, labels)
    print(
        f"{dim:6} {error:7.4f} {estimate.predicted_error():11.4f} {estimate.measured_error():14.4f}   {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    )
    assert error < 3 * estimate.predicted_error(), "the law holds"
    errors.append(error)
assert errors[-1] < errors[0], "more columns are better"

# %% A sketch that is as wide as needed for a standard error of 0.02 of the score.
within = ns.lgc(expert, x, labels, sketch=ns.Sketch(dim="auto", error=0.02))
print(
    f"LGC of the last convolution {ns.lgc(expert, x, labels):.4f}; from {within.dim} columns {within.value:.4f} [{within.low:.4f}, {within.high:.4f}]"
)
assert abs(within.value - ns.lgc(expert, x, labels)) < 0.04
