"""Fixtures of the tests of the command line: a zoo of small experts and a task of a few images, as files."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select import Card, Expert, Preprocess
from ntk_select.models import build, initialise
from ntk_select.models.expert_folder import write_expert

CONFIG = {"stage_sizes": [1], "widths": [3], "stem": "small"}


@pytest.fixture(scope="session")
def write_zoo(tmp_path_factory):
    """write_zoo("ash", ...) gives the folder of experts of these names."""

    def write(*names: str, num_classes: int = 2, folder: str = "my zoo") -> str:
        place, rng = tmp_path_factory.mktemp(folder), np.random.default_rng(0)
        shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=num_classes, **CONFIG), size=8), jax.random.key(0))
        for name in names:
            variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
            write_expert(place / name, variables, Card(name, "resnet18", "trees", Preprocess(size=8), "", num_classes, config=CONFIG))
        return str(place)

    return write


@pytest.fixture(scope="session")
def write_task(tmp_path_factory):
    """write_task("things") gives the URI of 24 dark and bright images; with `tested`, every third is a test image as well."""

    def write(name: str = "bright things", *, tested: bool = False) -> str:
        path, labels = tmp_path_factory.mktemp("data") / f"{name}.npz", np.repeat([0, 1], 12)
        images = np.random.default_rng(1).integers(0, 100, (24, 8, 8), dtype=np.uint8)
        images[labels == 1] += 100
        tests = {"test_images": images[::3], "test_labels": labels[::3]} if tested else {}
        np.savez(path, images=images, labels=labels, class_names=np.array(["dark", "bright"]), **tests)
        return f"npz:{path}"

    return write


@pytest.fixture(scope="session")
def dense_zoo():
    """In place of `open_zoo`: a zoo of one dense network, "ash", which compiles in little time."""
    rng = np.random.default_rng(0)

    def features(variables, x):
        return jnp.tanh(x.reshape(len(x), -1) @ variables["params"]["hidden"] / 10)

    def logits(variables, x):
        head = variables["params"]["head"]
        return features(variables, x) @ head["kernel"] + head["bias"]

    hidden, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((8 * 8 * 3, 6), (6, 4)))
    params = {"hidden": hidden, "head": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}
    card = Card("ash", "dense", "trees", Preprocess(size=8), "", 4)
    options = {"features_fn": features, "head": ("head",), "last_conv": ("hidden",), "card": card, "preprocess": card.preprocess}
    expert = Expert("ash", logits, params, **options)
    return lambda _: {"ash": lambda: expert}
