"""When memory runs out outside the engine's tiles - in forward mode, in products with vectors, in training - the work goes on as well."""

import importlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, MemoryShrunkWarning
from ntk_select.experts.expert import Expert, LastConv, Taps
from ntk_select.experts.forward import forward as forward_pass
from ntk_select.kernels.engine import execute, jacobian, sink
from ntk_select.kernels.sketches import execute as sketching
from ntk_select.kernels.sketches import forward

N = 12
ntk_module = importlib.import_module("ntk_select.kernels.engine.ntk")  # the package gives the function under this name
W = np.random.default_rng(0).normal(size=(5, 3))
X = np.random.default_rng(1).normal(size=(N, 5))
pytestmark = pytest.mark.usefixtures("quickly")


def fn(params, x):
    return jnp.tanh(x @ params["w"])


def kernel_by_hand():
    slopes = 1 - np.tanh(X @ W) ** 2
    return (X @ X.T) * (slopes @ slopes.T) / 3


def only_shrinks(sizes):
    sizes = list(sizes)
    return sizes == sorted(sizes, reverse=True)


def test_a_sketch_in_forward_mode_goes_on_with_smaller_batches_and_only_with_smaller_ones(monkeypatch):
    monkeypatch.setattr(forward, "IN_FLIGHT", {"cpu": 21 * 6})  # 21 directions fill 64 columns: six examples
    whole = ns.sketch(fn, {"w": W}, X, dim=64, kind="jvp")
    asked, rows = [], sketching.Batches.rows

    def limited(self, start, stop, together):
        asked.append(stop - start)
        if len(asked) > 1 and stop - start > 2:
            raise MemoryError
        return rows(self, start, stop, together)

    monkeypatch.setattr(sketching.Batches, "rows", limited)
    with pytest.warns(MemoryShrunkWarning) as seen:
        found = ns.sketch(fn, {"w": W}, X, dim=64, kind="jvp")
    np.testing.assert_allclose(found, whole, rtol=1e-12)
    assert asked == [6, 6, 3, 1, 1, 1, 1, 1, 1]
    assert [str(each.message).partition(" (")[0] for each in seen] == [f"Memory ran out with {size} examples at a time" for size in (6, 3)]


def test_where_one_example_has_no_room_for_all_directions_the_vector_products_take_fewer(monkeypatch):
    asked, push = [], jacobian._push_each

    def limited(structure, pairing, values, leaves, directions, like, x, left):
        asked.append((len(like), len(x)))
        if len(like) > 2 or len(x) > 4:
            raise MemoryError
        return push(structure, pairing, values, leaves, directions, like, x, left)

    monkeypatch.setattr(jacobian, "_push_each", limited)
    with pytest.warns(MemoryShrunkWarning):
        found = ns.ntk(fn, {"w": W}, X, method="vector-product")
    np.testing.assert_allclose(found, kernel_by_hand(), rtol=1e-12)
    assert only_shrinks(like for like, _ in asked)
    assert [size for like, size in asked if like == 2] == [8, 4]  # and 8 is not tried again
    monkeypatch.setattr(jacobian, "_push_each", lambda *_: limited(*_[:5], range(3), *_[6:]))
    with pytest.warns(MemoryShrunkWarning), pytest.raises(ConfigError, match="ran out with a single example"):
        ns.ntk(fn, {"w": W}, X, method="vector-product")


@pytest.fixture
def no_room_for_kernels(monkeypatch):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(sink, "np", SimpleNamespace(**vars(np) | {"zeros": refuse}))


@pytest.mark.usefixtures("no_room_for_kernels")
def test_a_kernel_that_has_no_room_itself_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(ntk_module, "compute", lambda *_, **__: pytest.fail("the work began"))
    x = np.random.default_rng(2).normal(size=(40, 5))
    with pytest.raises(ConfigError, match=r"The kernel itself, 1.3e-05 GB, does not fit into memory. Try: out= a folder"):
        ns.ntk(fn, {"w": W}, x, memory_gb=3e-5)
    with pytest.raises(ConfigError, match=r"The kernels of 1 layers, 1.3e-05 GB each, do not fit .* Try: layers= one at a time"):
        ns.ntk(fn, {"w": W}, x, memory_gb=3e-5, by_layer=True)


@pytest.mark.usefixtures("no_room_for_kernels")
def test_a_tile_that_is_all_of_a_kernel_without_room_is_not_cut_down_to_single_examples(monkeypatch):
    begun = []

    def begin(*_):
        begun.append(1)
        raise MemoryError

    monkeypatch.setattr(execute, "_one_program", begin)
    monkeypatch.setattr(execute, "_tile", begin)
    with pytest.warns(MemoryShrunkWarning), pytest.raises(ConfigError, match="The kernel itself"):
        ns.ntk(fn, {"w": W}, X)
    assert len(begun) == 1


@pytest.mark.parametrize("last_conv", [False, True])
def test_forward_passes_with_taps_go_on_with_smaller_batches(last_conv):
    def taps_of(most):
        def taps(variables, x, perturbation):
            if len(x) > most:
                raise MemoryError
            hidden = x if perturbation is None else x + perturbation
            features = jnp.tanh(hidden).mean((1, 2))
            return Taps(features @ variables["params"]["w"], features, x)

        return taps

    images = np.random.default_rng(0).normal(size=(7, 2, 2, 4))
    experts = [
        Expert("mine", None, {"conv": np.ones((1, 1, 4, 4)), "w": np.ones((4, 3))}, taps_fn=taps_of(most), last_conv=LastConv("conv", pooled=(0, 4)))
        for most in (7, 3)
    ]
    whole = forward_pass(experts[0], images, last_conv=last_conv)
    with pytest.warns(MemoryShrunkWarning, match="with 7 examples at a time .* Continuing with 3"):
        found = forward_pass(experts[1], images, last_conv=last_conv)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert (found.conv_cotangents is not None) == last_conv


def test_training_remembers_what_was_too_much():
    asked = []

    def narrow(params, x):
        asked.append(len(x))
        if len(x) > 3:
            raise MemoryError
        return fn(params, x)

    targets = np.zeros((N, 3))
    with pytest.warns(MemoryShrunkWarning) as seen:
        found = ns.linearized.train(narrow, X, targets, optax.sgd(0.01), steps=4, params={"w": W})
    whole = ns.linearized.train(fn, X, targets, optax.sgd(0.01), steps=4, params={"w": W})
    np.testing.assert_allclose(found.train_losses, whole.train_losses, rtol=1e-12)
    assert only_shrinks(asked[3:])  # the first three: whether examples influence each other
    assert len(seen) == 2
