"""Conv-4 computes what a plain NumPy network computes, and its declared last convolution gives the kernel of explicit Jacobians."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest

from ntk_select import Preprocess
from ntk_select.errors import ModelError
from ntk_select.kernels.gradients import gradient_kernel
from ntk_select.models.architectures import build, fresh_expert, initialise, make_expert
from ntk_select.models.state_dict import fitting, state_dict_layout

pytestmark = pytest.mark.usefixtures("quickly")

STEMS = {"small": (3, 1, 1), "small_strided": (4, 2, 1), "imagenet": (7, 2, 3)}
"""Kernel size, stride and padding of the first convolution, as documented."""


def random_expert(widths, stem, size, classes=3):
    """In float64, with no parameter and no statistic at its initial value."""
    network, rng = build("conv4", num_classes=classes, widths=widths, stem=stem), np.random.default_rng(0)

    def randomised(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))

    shapes = jax.eval_shape(partial(initialise, network, size=size), jax.random.key(0))
    return make_expert("mine", network, jax.tree_util.tree_map_with_path(randomised, shapes)), rng.normal(size=(4, size, size, 3))


def by_hand(expert, x, widths, stem):
    """Logits in NumPy: sums over windows."""
    params, stats = expert.params, expert.state["batch_stats"]

    def conv(x, kernel, stride, padding):
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("nijcab,abco->nijo", windows, kernel)

    def pool(x, window, padding):
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
        return np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(1, 2))[:, ::2, ::2].max((4, 5))

    def block(x, place, stride, padding):
        x, of, seen = conv(x, params[f"conv{place}"]["kernel"], stride, padding), params[f"bn{place}"], stats[f"bn{place}"]
        return np.maximum((x - seen["mean"]) / np.sqrt(seen["var"] + 1e-5) * of["scale"] + of["bias"], 0)

    x = block(x, 1, *STEMS[stem][1:])
    if stem != "small_strided":  # strides stand for the first pooling
        x = pool(x, 3, 1) if stem == "imagenet" else pool(x, 2, 0)
    for place in range(2, len(widths) + 1):
        x = block(x if place == 2 else pool(x, 2, 0), place, 1, 1)
    return x.mean((1, 2)) @ params["fc"]["kernel"] + params["fc"]["bias"]


@pytest.mark.parametrize(
    ("widths", "stem", "size"),
    [((3, 5), "small", 7), ((3, 4, 5, 2), "small_strided", 18), ((2, 3, 4), "imagenet", 21), ((2, 3, 4, 5), "small", 8)],
    ids=str,
)
def test_logits_are_those_of_a_plain_network(widths, stem, size):
    expert, x = random_expert(widths, stem, size)
    found = jax.jit(expert.apply_fn)(expert.variables, x)
    np.testing.assert_allclose(found, by_hand(expert, x, widths, stem), rtol=1e-9, atol=1e-11)
    assert np.ptp(np.asarray(found), axis=0).min() > 1e-3


@pytest.mark.parametrize(("widths", "stem", "size"), [((3, 5), "small_strided", 8), ((3, 4, 5), "small", 9)], ids=str)
def test_the_kernel_of_the_declared_last_convolution_is_that_of_explicit_jacobians(widths, stem, size):
    expert, x = random_expert(widths, stem, size)
    last = f"conv{len(widths)}"

    def logits(kernel, example):
        return expert.apply_fn({"params": {**expert.params, last: {"kernel": kernel}}, **expert.state}, example[None])[0]

    jacobian = jax.jit(jax.jacrev(logits))
    rows = np.stack([np.asarray(jacobian(expert.params[last]["kernel"], example)).reshape(3, -1) for example in x])
    expected = np.einsum("icp,jcp->ij", rows, rows) / 3
    np.testing.assert_allclose(gradient_kernel(expert, x), expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("widths", "stem", "classes"), [((64, 64, 64, 64), "small", 1000), ((24, 32, 64, 64), "small_strided", 10), ((5, 7), "imagenet", 0)], ids=str
)
def test_the_number_of_parameters_is_that_of_the_closed_form(widths, stem, classes):
    network = build("conv4", num_classes=classes, widths=widths, stem=stem)
    shapes = jax.eval_shape(partial(initialise, network, size=32), jax.random.key(0))["params"]
    kernels = STEMS[stem][0] ** 2 * 3 * widths[0] + sum(9 * before * after for before, after in itertools.pairwise(widths))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == kernels + 2 * sum(widths) + (widths[-1] + 1) * classes


def test_the_default_has_four_blocks_of_64_channels():
    assert build("conv4", num_classes=5) == build("conv4", num_classes=5, widths=[64] * 4, stem="small")


def test_an_image_that_pooling_would_shrink_to_nothing_is_refused():
    with pytest.raises(ModelError, match=r"The input is too small for this network: the feature maps before block 4 have size \(1, 1\)"):
        fresh_expert("mine", "conv4", num_classes=2, preprocess=Preprocess(7), config={"widths": (2, 2, 2, 2)})


def test_tensors_of_a_state_dict_have_the_names_of_the_layers():
    layout = state_dict_layout("conv4")
    assert layout.body["conv1.weight"] == (64, 3, 3, 3)
    assert layout.body["bn4.running_var"] == (64,)
    state = {name: np.zeros(shape, np.float32) for name, shape in layout.body.items()}
    assert fitting(state) == ["conv4"]
    assert fitting({**state, "conv5.weight": np.zeros((64, 64, 3, 3), np.float32)}) == []
