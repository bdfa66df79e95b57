"""Shared by the tests of kernels: small experts of the families in models/ with random weights."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from ntk_select.models.architectures import build, initialise, make_expert


@pytest.fixture(scope="session")
def random_expert() -> Callable:
    """random_expert(architecture, size, config, *, classes, examples, labels): an expert in which nothing is left at its initial value, and inputs.

    Both in float64. With `labels` there is one input per label, and inputs differ by class.
    """

    def make(architecture, size, config, *, classes=2, examples=3, labels=None):
        network, rng = build(architecture, num_classes=classes, **config), np.random.default_rng(0)

        def randomised(path, leaf):
            if path[-1].key in ("scale", "var"):
                return rng.uniform(0.5, 1.5, leaf.shape)
            return np.asarray(leaf, np.float64) + 0.2 * rng.normal(size=leaf.shape)

        variables = jax.tree_util.tree_map_with_path(randomised, initialise(network, jax.random.key(0), size))
        images = rng.normal(size=(examples if labels is None else len(labels), size, size, 3))
        if labels is not None:
            images += rng.normal(size=(labels.max() + 1, size, size, 3))[labels]
        return make_expert(architecture, network, variables), images

    return make
