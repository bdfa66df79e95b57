"""Rank two functions of your own for a task.

Any function of (variables, images) can be an expert; here: raw pixels, and pixels that are permuted differently in every
image, which should have low scores.
"""

# %%
import numpy as np

import ntk_select as ns
from ntk_select.data import load_task

task = load_task("digits")


# %%
def logits(variables, x):
    """A linear model: its last weights are what LGC differentiates."""
    return x.reshape(len(x), -1) @ variables["params"]["head"]["kernel"]


def features(_, x):
    """What enters the head."""
    return x.reshape(len(x), -1)


def pixels(images):
    """8 x 8 images as numbers in 0..1."""
    return np.stack(images).astype(np.float32) / 255


def scrambled(images):
    """The same numbers, in another order in every image."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(image.ravel()) for image in pixels(images)])


weights = {"head": {"kernel": np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)}}
experts = [
    ns.Expert(name, logits, weights, features_fn=features, head=("head",), last_conv=("head", "kernel"), preprocess=preprocess)
    for name, preprocess in (("pixels", pixels), ("scrambled", scrambled))
]

# %%
ranking = ns.rank(experts, task, scores=("lfc", "lgc", "random"))
print(ranking)
assert ranking.best == "pixels", "scrambled pixels must not win"
assert ranking.contenders == ("pixels",), "and not be a tie"
