"""Rank two Flax networks of your own, one in linen and one in nnx, and compute their kernels.

Both are the same small convolutional network with batch norm. The linen one is trained on the digits 0 to 4; the nnx one
is not trained. The task is to classify 5 to 9.
"""

# %%
import flax.linen as nn
import jax
import numpy as np
import optax
from flax import nnx

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import linen_expert, nnx_expert

digits = load_task("digits")
images, labels = np.stack(digits.images), np.asarray(digits.labels)
known = labels < 5
task = ns.Task("digits 5 to 9", images[~known], labels[~known] - 5, digits.class_names[5:])


def preprocess(images):
    """8 x 8 images of bytes as (n, 8, 8, 1) in 0..1. For photographs, `ns.Preprocess` resizes, crops and normalises."""
    return np.stack(images).astype(np.float32).reshape(-1, 8, 8, 1) / 255


# %% A linen network.
class Linen(nn.Module):
    """Two convolutions, batch norm, mean over the pixels, a linear head."""

    @nn.compact
    def __call__(self, x, train=False):  # noqa: D102
        for width in (32, 64):
            x = nn.Conv(width, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


module, x, y = Linen(), preprocess(images[known]), labels[known]
variables = module.init(jax.random.key(0), x[:1])
tx = optax.adam(1e-2)


@jax.jit
def step(variables, state, x, y):
    """One step on cross-entropy."""

    def loss(params):
        logits, changed = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), changed

    gradients, changed = jax.grad(loss, has_aux=True)(variables["params"])
    updates, state = tx.update(gradients, state)
    return {"params": optax.apply_updates(variables["params"], updates), **changed}, state


state, rng = tx.init(variables["params"]), np.random.default_rng(0)
for _ in range(150):
    batch = rng.choice(len(x), 64, replace=False)
    variables, state = step(variables, state, x[batch], y[batch])

# %% As an expert.
# One input is passed through it to find the pre-logits and the geometry of the last convolution. Its channels
# are only normalised, rectified and pooled on their way to the head (`pooled=True`): LGC then costs one backward pass for any number of classes.
trained = linen_expert(
    "trained on 0 to 4", module, variables, x[:1], head="head", last_conv="Conv_1", preprocess=preprocess, pooled=True, train={"train": True}
)
print(trained, trained.last_conv)


# %% An nnx network.
class Nnx(nnx.Module):
    """The same."""

    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), use_bias=False, rngs=rngs) for a, b in ((1, 32), (32, 64))])
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for width in (32, 64)])
        self.head = nnx.Linear(64, 5, rngs=rngs)

    def __call__(self, x):  # noqa: D102
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.head(x.mean((1, 2)))


fresh = nnx_expert("untrained", Nnx(nnx.Rngs(0)), x[:1], head="head", last_conv="convs/1", preprocess=preprocess, pooled=True)

# %% The ranking.
ranking = ns.rank([fresh, trained], task, scores=("lfc", "lgc", "knn"))
print(ranking)
assert ranking.best == trained.name, "the trained network should be ahead"

# %% The exact kernel of both: `apply_fn` takes all variables, the kernel differentiates the parameters.
sample = preprocess(ns.probe_sample(task, per_class=5).images)
for expert in (trained, fresh):
    kernel = ns.ntk(lambda params, x, expert=expert: expert.apply_fn({"params": params, **expert.state}, x), expert.params, sample)
    correlation = ns.kernel_label_correlation(kernel, np.repeat(np.arange(5), 5))
    print(f"{expert.name}: kernel {kernel.shape}, correlation with the labels {correlation:.3f}")
    assert ns.certify(kernel).holds
