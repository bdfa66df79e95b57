"""Values for the names that code blocks of the documentation presuppose: a small network, task and expert."""

import shutil
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import ZOO


def fn(params, x):
    """A network of one hidden layer: logits (n, 2)."""
    return jnp.tanh(x @ params["encoder"]["kernel"]) @ params["head"]["kernel"]


def weights():
    """Parameters of `fn`."""
    rng = np.random.default_rng(0)
    return {"encoder": {"kernel": rng.normal(size=(5, 8))}, "head": {"kernel": rng.normal(size=(8, 2))}}


def examples(n=6):
    """Inputs of `fn`."""
    return np.random.default_rng(1).normal(size=(n, 5))


class Linen(nn.Module):
    """Two convolutions and a head, with batch norm."""

    @nn.compact
    def __call__(self, x, train=False):
        for width in (4, 8):
            x = nn.Conv(width, (3, 3), (4, 4), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


def linen_variables():
    """Its variables, made by NumPy: `init` would compile every operation."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(Linen().init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), shapes)


class Nnx(nnx.Module):
    """The same without batch norm."""

    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), (4, 4), rngs=rngs) for a, b in ((3, 4), (4, 8))])
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.head(x.mean((1, 2)))


def images(per_class=6, classes=2):
    """Grey images of bytes whose brightness depends on the class."""
    noise = np.random.default_rng(2).integers(0, 100, (per_class * classes, 8, 8))
    return (noise + 100 * (np.arange(len(noise)) % classes)[:, None, None]).astype(np.uint8)


def labels(per_class=6, classes=2):
    """Their classes."""
    return np.arange(per_class * classes) % classes


def embedded():
    """An embedded expert."""
    return ZOO["neu_steel-resnet_small"]()


def feature_array(seed=0):
    """Features of twelve images."""
    return np.random.default_rng(seed).normal(size=(12, 3)) + labels()[:, None]


def probabilities():
    """Probabilities of four source classes for these images."""
    return np.random.default_rng(0).dirichlet(np.ones(4), 12)


PLAIN: dict[str, Callable] = {
    "F": feature_array,
    "F1": feature_array,
    "F2": lambda: feature_array(1),
    "P": probabilities,
    "class_names": lambda: ("dark", "bright"),
    "expert": embedded,
    "features": feature_array,
    "fn": lambda: fn,
    "images": images,
    "jax": lambda: jax,
    "labels": labels,
    "logits": lambda: np.log(probabilities()),
    "model": lambda: Nnx(nnx.Rngs(0)),
    "module": Linen,
    "np": lambda: np,
    "ns": lambda: ns,
    "params": weights,
    "task": lambda: load_task("digits"),
    "variables": linen_variables,
    "x": examples,
    "x1": examples,
    "x2": lambda: examples(4),
    "y": labels,
}
"""Name -> function that makes its value, on most pages."""

OF_PAGE: dict[str, dict[str, Callable]] = {
    "docs/guides/forecast.md": {
        "task": lambda: few_digits(25),
    },
    "docs/guides/fine-tuning.md": {
        "task": lambda: few_digits(22),
    },
}
"""The same for names that mean something else on one page."""


def few_digits(per_class):
    """The first three digits with a test set."""
    digits = load_task("digits")
    chosen = np.concatenate([np.flatnonzero(digits.labels == label)[: per_class + 5] for label in range(3)])
    test = np.arange(len(chosen)) % (per_class + 5) >= per_class
    train, test = chosen[~test], chosen[test]
    pixels = np.stack(digits.images)
    return ns.Task("few digits", pixels[train], digits.labels[train], ("0", "1", "2"), pixels[test], digits.labels[test], flips_keep_class=False)


def folders(where: Path) -> None:
    """Writes the folders that blocks name: my_images, and my_zoo with one expert."""
    for index, (image, label) in enumerate(zip(images(), labels(), strict=True)):
        file = where / "my_images" / f"class{label}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    shutil.copytree(ZOO.folder / "neu_steel-resnet_small", where / "my_zoo" / "mine")
