"""Networks that NumPy can follow, and tasks of a few small images."""

from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.experts.expert import Taps
from ntk_select.training.checkpoints import Checkpoints

SIDE = 4


def pixels(images):
    """A preprocessing that is not this package's, in float64."""
    return np.stack([np.asarray(image, np.float64) / 255 for image in images])


def flat(_variables, x):
    return x.reshape(len(x), -1)


def linear(variables, x):
    head = variables["params"]["head"]
    return flat(variables, x) @ head["kernel"] + head["bias"]


def _normed(variables, x, mean, var):
    h = flat(variables, x) @ variables["params"]["body"]
    return jnp.tanh((h - mean(h)) / jnp.sqrt(var(h) + 1e-5))


def normed_features(variables, x):
    stats = variables["batch_stats"]
    return _normed(variables, x, lambda _: stats["mean"], lambda _: stats["var"])


def normed(variables, x):
    return normed_features(variables, x) @ variables["params"]["head"]["kernel"]


def normed_in_training(variables, x):
    """As PyTorch: the statistics of the batch, and a tenth of them into the running ones."""
    h, stats = flat(variables, x) @ variables["params"]["body"], variables["batch_stats"]
    features = _normed(variables, x, lambda h: h.mean(0), lambda h: h.var(0))
    new = {name: 0.9 * stats[name] + 0.1 * value for name, value in (("mean", h.mean(0)), ("var", h.var(0, ddof=1)))}
    return Taps(features @ variables["params"]["head"]["kernel"], features), {"batch_stats": new}


def linear_expert(name="linear", params=None, **options):
    """Pixels into a linear head: nothing but the head is learnt."""
    given = {"features_fn": flat, "head": ("head",), "preprocess": pixels}
    return ns.Expert(name, linear, params or {"head": {"kernel": np.zeros((SIDE**2, 5)), "bias": np.zeros(5)}}, **(given | options))


def normed_expert(name="normed", **options):
    """A layer with batch norm and tanh, and a head."""
    rng = np.random.default_rng(5)
    params = {"body": rng.normal(size=(SIDE**2, 6)), "head": {"kernel": np.zeros((6, 4))}}
    given = {"features_fn": normed_features, "head": ("head",), "preprocess": pixels, "train_fn": normed_in_training}
    return ns.Expert(name, normed, params, {"batch_stats": {"mean": rng.normal(size=6), "var": np.full(6, 2.0)}}, **(given | options))


def spots(counts=(12, 12, 12), tests=(4, 4, 4), *, name="spots", seed=0, noise=120):
    """Grey images of noise with a bright column where the class is, in random order."""
    rng = np.random.default_rng(seed)

    def drawn(counts):
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        images = rng.integers(0, noise, (len(labels), SIDE, SIDE), dtype=np.uint8)
        images[np.arange(len(labels)), :, labels] += 100
        return images, labels

    return ns.Task(name, *drawn(counts), tuple("abcd"[: len(counts)]), *drawn(tests))


def sgd_by_hand(x, labels, classes, rate, recipe, seed):
    """(weights, bias, mean loss of each epoch) of a linear classifier by SGD, in NumPy, with the order of batches of `seed`."""
    n, width = x.shape
    end = width**-0.5
    w, b = np.random.default_rng(seed).uniform(-end, end, (width, classes)), np.zeros(classes)
    memory, means = [np.zeros_like(w), np.zeros_like(b)], []
    size = min(recipe.batch_size, n)
    assert n % size == 0
    for epoch in range(recipe.epochs):
        now = rate * 0.1 ** sum(epoch >= milestone for milestone in recipe.decays)
        order, losses = np.random.default_rng([seed, epoch]).permutation(n), []
        for batch in order.reshape(-1, size):
            logits = x[batch] @ w + b
            chances = np.exp(logits - logits.max(1, keepdims=True))
            chances /= chances.sum(1, keepdims=True)
            losses.append(-np.log(chances[np.arange(size), labels[batch]]).mean())
            error = (chances - np.eye(classes)[labels[batch]]) / size
            for place, (value, gradient) in enumerate(((w, x[batch].T @ error), (b, error.sum(0)))):
                change = gradient + recipe.weight_decay * value
                memory[place] = recipe.momentum * memory[place] + change
                value -= now * (change + recipe.momentum * memory[place] if recipe.nesterov else memory[place])
        means.append(np.mean(losses))
    return w, b, means


@pytest.fixture
def every_epoch(monkeypatch):
    """A checkpoint after each epoch, however short it is."""
    monkeypatch.setattr("ntk_select.training.finetuning.trainer.Checkpoints", partial(Checkpoints, every_seconds=0))


@pytest.fixture(scope="session")
def cut():
    """cut(after) is a progress that raises KeyboardInterrupt, as Ctrl-C does, once so many epochs are done."""

    def cut(after):
        def report(done, _total, _name):
            if done >= after:
                raise KeyboardInterrupt

        return report

    return cut


@pytest.fixture(scope="session")
def made():
    """The makers above, by name."""
    return SimpleNamespace(
        linear_expert=linear_expert,
        normed_expert=normed_expert,
        spots=spots,
        sgd_by_hand=sgd_by_hand,
        pixels=pixels,
        flat=flat,
        side=SIDE,
    )
