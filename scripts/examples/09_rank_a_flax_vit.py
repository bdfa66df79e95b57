"""Rank vision transformers with the interface of Hugging Face's Flax classes.

Such a model holds a linen module and its params, takes images with `deterministic`, and returns an object with `logits`. The class
below replaces one, to avoid a download; with transformers below version 5, use instead

    model = transformers.FlaxViTForImageClassification.from_pretrained("google/vit-base-patch16-224")

and give the expert the preprocessing of that model: ns.Preprocess(224, mean=(0.5,) * 3, std=(0.5,) * 3).
"""

# %%
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import linen_expert

digits = load_task("digits")
images, labels = np.stack(digits.images), np.asarray(digits.labels)
known = labels < 5
task = ns.Task("digits 5 to 9", images[~known], labels[~known] - 5, digits.class_names[5:])


def preprocess(images):
    """8 x 8 images of bytes as (n, 8, 8, 1) in 0..1."""
    return np.stack(images).astype(np.float32).reshape(-1, 8, 8, 1) / 255


# %% A small replacement: patches of 2 x 2, a class token, two blocks, a classifier on the class token.
class Output(NamedTuple):
    """The output of a Hugging Face model."""

    logits: Any


class ViT(nn.Module):
    """A vision transformer."""

    width: int = 32

    @nn.compact
    def __call__(self, pixel_values, deterministic=True):  # noqa: D102
        x = nn.Conv(self.width, (2, 2), (2, 2), name="patches")(pixel_values).reshape(len(pixel_values), -1, self.width)
        token = self.param("cls_token", nn.initializers.zeros, (1, 1, self.width))
        x = jax.numpy.concatenate([token.repeat(len(x), 0), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for index in range(2):
            x = x + nn.MultiHeadDotProductAttention(4, deterministic=deterministic, name=f"attention_{index}")(nn.LayerNorm()(x))
            y = nn.Dense(self.width, name=f"out_{index}")(nn.gelu(nn.Dense(2 * self.width, name=f"in_{index}")(nn.LayerNorm()(x))))
            x = x + nn.Dropout(0.1, deterministic=deterministic)(y)
        return Output(nn.Dense(5, name="classifier")(nn.LayerNorm()(x)[:, 0]))


class Model(NamedTuple):
    """The part of a `from_pretrained` model that is used here."""

    module: nn.Module
    params: Any


def pretrained(steps):
    """A model trained on the digits 0 to 4."""
    module, x, y = ViT(), preprocess(images[known]), labels[known]
    params, tx = jax.jit(module.init)(jax.random.key(0), x[:1])["params"], optax.adam(2e-3)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": params}, x).logits, y).mean()

        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state, rng = tx.init(params), np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.choice(len(x), 64, replace=False)
        params, state = step(params, state, x[batch], y[batch])
    return Model(module, params)


# %% An expert returns an array of logits: five lines that wrap `model.module`. The params are one level deeper, under the attribute's name.
class Logits(nn.Module):
    """The logits of a Hugging Face model."""

    model: nn.Module

    def __call__(self, x, train=False):  # noqa: D102
        return self.model(x, deterministic=not train).logits


def as_expert(name, model):
    """A model with `module` and `params` as an expert. It has no last convolution."""
    return linen_expert(
        name,
        Logits(model.module),
        {"params": {"model": model.params}},
        np.zeros((1, 8, 8, 1), np.float32),
        head="model/classifier",
        preprocess=preprocess,
        evaluate={"train": False},
        train={"train": True},
    )


trained, untrained = (as_expert(name, pretrained(steps)) for name, steps in (("trained on 0 to 4", 150), ("untrained", 0)))

# %% Scores of features work as they are.
ranking = ns.rank([untrained, trained], task, scores=("lfc", "knn"))
print(ranking)
assert ranking.best == trained.name, "the trained network should be ahead"

# %% LGC differentiates the last convolution by default; a transformer has none, so name the layers: here those after the last attention.
sample = ns.probe_sample(task, per_class=5)
for expert in (trained, untrained):
    value = ns.lgc(expert, preprocess(sample.images), sample.labels, layers=r"model/(in|out)_1/.*")
    print(f"{expert.name}: LGC of its last layers {value:.3f}")
