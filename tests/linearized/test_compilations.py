"""Compiled programs belong to the operations of a network, not to the function or to the arrays that it captures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_select.linearized import compare_training, linearize, network_kernel, predict, train


def new_function(scale: float = 1.0):
    """A new function of the same operations, with an array of its own."""
    captured = np.full(3, scale)
    return lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"] * captured


def parameters(seed: int = 0):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=(5, 3))}


X = np.random.default_rng(1).normal(size=(7, 4))
Y = np.eye(3)[[0, 1, 2, 0, 1, 2, 0]]


def trained(fn, params, *, linear=False, **options):
    options = {"steps": 3, "weight_decay": 0.1, "x_test": X[:2], "test_targets": Y[:2], "batch_size": 4} | options
    network = linearize(fn, params) if linear else fn
    return train(network, X, Y, optax.adam(0.01), params=None if linear else params, **options)


def products(fn, params):
    found = network_kernel(fn, X, X[:2], params=params, method="matrix-free", batch_size=4)
    return found.kernel(Y), found.cross_kernel(Y)


CALLS = {"train": trained, "linearised": lambda fn, params: trained(fn, params, linear=True), "matrix-free kernel": products}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing_though_function_and_arrays_are_new(compilations, name):
    CALLS[name](new_function(), parameters())
    assert compilations
    compilations.clear()
    CALLS[name](new_function(2.0), parameters(1))
    assert not compilations


def test_a_second_comparison_compiles_nothing(compilations):
    for seed in range(2):
        compilations.clear()
        compare_training(new_function(seed), X, Y, lr=0.01, steps=2, params=parameters(seed), x_test=X[:2])
    assert not compilations


@pytest.mark.parametrize("name", CALLS)
def test_a_captured_array_that_changed_in_place_gives_new_results(name):
    captured = np.ones(3)

    def fn(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"] * captured

    before = CALLS[name](fn, parameters())
    captured[:] = 2.0
    after, expected = CALLS[name](fn, parameters()), CALLS[name](new_function(2.0), parameters())
    for old, new, wanted in zip(*(jax.tree.leaves(found) for found in (before, after, expected)), strict=True):
        np.testing.assert_array_equal(new, wanted)
        assert (old != new).any() or (old == np.arange(4)).all()  # the numbers of steps


def test_examples_may_be_a_tree_of_arrays():
    def fn(params, x):
        return jnp.tanh((x["values"] * x["mask"][:, None]) @ params["a"]) @ params["b"]

    tree = {"values": X, "mask": np.arange(7) % 3.0}
    flat = (X * tree["mask"][:, None], parameters())
    expected = train(new_function(), flat[0], Y, optax.sgd(0.01), params=flat[1], steps=2, batch_size=4)
    test = jax.tree.map(lambda leaf: leaf[:2], tree)
    found = compare_training(fn, tree, Y, lr=0.01, steps=2, loss="half_sum", params=parameters(), x_test=test, batch_size=4)
    np.testing.assert_allclose(found.real.train_outputs, expected.train_outputs, rtol=1e-12)
    np.testing.assert_allclose(found.linear.test_outputs, found.formula.test_outputs, rtol=0, atol=1e-9)
    dense, free = (network_kernel(fn, tree, test, params=parameters(), method=method) for method in ("dense", "matrix-free"))
    np.testing.assert_allclose(free.cross_kernel(Y), np.einsum("ijab,jb->ia", dense.cross_kernel, Y), rtol=0, atol=1e-10)


def test_a_linearised_network_is_traced_differentiated_and_vectorised_also_in_its_start():
    fn, start, params = new_function(), jax.tree.map(jnp.asarray, parameters()), parameters(1)

    def loss(start):
        return jnp.square(linearize(fn, start)(params, X)).sum()

    gradient = jax.jit(jax.grad(loss))(start)
    direction = jax.tree.map(lambda leaf: np.random.default_rng(2).normal(size=leaf.shape), start)
    step = 1e-6
    moved = [loss(jax.tree.map(lambda a, b, sign=sign: a + sign * step * b, start, direction)) for sign in (1, -1)]
    inner = sum(float((a * b).sum()) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    assert inner == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=1e-6)
    many = jax.vmap(lambda scale: linearize(fn, start)(jax.tree.map(lambda leaf: scale * leaf, params), X))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(many[0], linearize(fn, start)(params, X), rtol=1e-12)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_strict_promotion_gives_the_same_training(promotion):
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), parameters())
    with jax.numpy_dtype_promotion(promotion):
        found = train(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], X.astype(np.float32), Y, optax.sgd(0.1), params=params, steps=2, weight_decay=0.1)
    expected = train(new_function(), X, Y, optax.sgd(0.1), params=parameters(), steps=2, weight_decay=0.1)
    np.testing.assert_allclose(found.train_outputs, expected.train_outputs, rtol=1e-4, atol=1e-5)


def test_predictions_of_a_matrix_free_kernel_compile_nothing_new(compilations):
    for seed in range(2):
        compilations.clear()
        found = network_kernel(new_function(seed + 1), X, params=parameters(seed), method="matrix-free")
        predict(found.kernel, np.zeros_like(Y), Y, lr=0.01, steps=3)
    assert not compilations
