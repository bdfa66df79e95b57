"""The simulated training against training: of a linear head, and of a linearised network, with Optax in the space of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_select as ns
from ntk_select.forecasting.simulate import Batches, draw_batches, simulate
from ntk_select.training.feeding import InMemory
from ntk_select.training.loop import step_decay


def trained(fn, params, x, labels, batches, rate, recipe):
    """Outputs and mean losses after each epoch, and how far the weights moved; by Optax, step by step, in the weights."""
    run, x = jax.jit(fn), jnp.asarray(x)
    targets = np.eye(run(params, x).shape[1])[labels]
    epochs, steps = batches.rows.shape[1:3]
    rates = step_decay(rate, epochs, steps, recipe.decays)
    start, found, means = params, [], []
    optimizer = optax.sgd(1.0, momentum=recipe.momentum or None, nesterov=recipe.nesterov and recipe.momentum > 0)
    state = optimizer.init(params)

    def loss(params, weights):
        return -(jax.nn.log_softmax(fn(params, x)) * targets).sum(1) @ weights

    gradient = jax.jit(jax.value_and_grad(loss))
    change_of = jax.jit(optimizer.update)
    for epoch in range(epochs):
        losses = []
        for step in range(steps):
            weights = np.zeros(len(x))
            np.add.at(weights, batches.rows[0, epoch, step], batches.weights[0, epoch, step])
            value, slope = jax.device_get(gradient(params, weights))
            decayed = jax.tree.map(lambda g, w, w0: g + recipe.weight_decay * (w - w0), slope, params, start)
            # PyTorch's momentum does not know the rate, which here changes with the epochs.
            change, state = change_of(decayed, state)
            params = jax.tree.map(lambda w, c, rate=rates[epoch, step]: w + rate * np.asarray(c), params, change)
            losses.append(float(value))
        found.append(np.asarray(run(params, x)))
        means.append(np.mean(losses))
    moved = sum(float(((a - b) ** 2).sum()) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True))
    return np.array(found), np.array(means), np.sqrt(moved)


RECIPES = {
    "paper's": ns.Recipe(epochs=6, batch_size=8),
    "heavy ball": ns.Recipe(epochs=4, batch_size=8, nesterov=False, weight_decay=0.1),
    "plain": ns.Recipe(epochs=3, batch_size=5, momentum=0.0, weight_decay=0.0, milestones=()),
    "all at once": ns.Recipe(epochs=5, batch_size=64),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_linear_head_is_trained_as_in_the_space_of_its_weights(name, rng):
    recipe, labels = RECIPES[name], rng.integers(0, 3, 20)
    phi = rng.normal(size=(20, 7))
    batches = draw_batches([np.arange(15)], recipe, 18, seed=3)
    params = {"kernel": np.zeros((7, 3)), "bias": np.zeros(3)}
    outputs, losses, moved = trained(lambda p, x: x @ p["kernel"] + p["bias"], params, phi, labels, batches, 0.05, recipe)
    found = simulate(phi @ phi.T + 1, labels, batches, (0.5, 0.05), recipe, classes=3)
    np.testing.assert_allclose(found.outputs[1, 0], outputs[-1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.losses[1, 0], losses, rtol=1e-10)
    np.testing.assert_allclose(found.distances[1, 0], moved, rtol=1e-10)
    logs = np.log(np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True))[:, np.arange(20), labels]
    np.testing.assert_allclose(found.log_likelihoods[1, 0], logs, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.correct[1, 0], outputs.argmax(-1) == labels)


def test_a_linearised_expert_is_trained_as_in_the_space_of_its_weights(networks, rng):
    """With the whole kernel and the outputs at the start nothing is approximated; one example is held out."""
    expert = ns.with_new_head(networks.normed_expert(), 3, seed=1)
    x, labels, recipe = rng.normal(size=(12, 4, 4)), rng.integers(0, 3, 12), ns.Recipe(epochs=4, batch_size=4, weight_decay=1e-3)
    linear = ns.linearized.linearize(expert.apply_fn, expert.variables, layers="^params")

    def fn(params, x):
        return linear({**expert.variables, "params": params}, x)

    kernel = ns.linearized.network_kernel(expert, x, method="dense").kernel
    batches = draw_batches([np.arange(11)], recipe, 12, seed=0)
    outputs, losses, moved = trained(fn, expert.params, x, labels, batches, 0.1, recipe)
    found = simulate(kernel, labels, batches, (0.1,), recipe, start=expert.apply_fn(expert.variables, x), classes=3)
    np.testing.assert_allclose(found.outputs[0, 0], outputs[-1], rtol=1e-8)
    np.testing.assert_allclose(found.losses[0, 0], losses, rtol=1e-8)
    np.testing.assert_allclose(found.distances[0, 0], moved, rtol=1e-8)


def test_it_is_predict_where_the_rate_is_constant(blobs):
    kernel, labels = blobs()
    recipe = ns.Recipe(epochs=3, batch_size=8, milestones=())
    batches = draw_batches([np.arange(24)], recipe, 24, seed=0)
    found = simulate(kernel, labels, batches, (0.01,), recipe)
    options = {"lr": 0.01, "optimizer": "nesterov", "momentum": 0.9, "weight_decay": 1e-4, "loss": "cross_entropy"}
    expected = ns.linearized.predict(kernel, np.zeros((24, 3)), np.eye(3)[labels], steps=9, batches=list(batches.rows.reshape(9, 8)), **options)
    np.testing.assert_allclose(found.outputs[0, 0], expected.train_outputs[-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.distances[0, 0], expected.distances[-1], rtol=1e-9)


def test_an_epoch_has_the_batches_of_a_fine_tuning():
    recipe = ns.Recipe(epochs=2, batch_size=8)
    for n in (5, 8, 17, 20):
        batches, real = draw_batches([np.arange(n)], recipe, n, seed=0), InMemory(np.zeros(n), np.zeros(n, int), min(8, n), remainder=True)
        assert batches.rows.shape[:3] == (1, 2, real.steps)
        sizes = (batches.weights[0, 0] > 0).sum(1)
        assert sizes.tolist() == [len(images) for images, _ in real(np.random.default_rng(0))]
        np.testing.assert_allclose(batches.weights.sum(-1), 1)
        seen = batches.rows[0, 1][batches.weights[0, 1] > 0]
        assert len(set(seen)) == len(seen) == real.seen


def test_fewer_images_than_the_fine_tuning_has_are_seen_again():
    batches = draw_batches([np.array([3, 5, 9])], ns.Recipe(epochs=1, batch_size=4), 8, seed=0)
    assert np.bincount(batches.rows.ravel(), minlength=10)[[3, 5, 9]].tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_what_diverges_is_not_finite_and_answers_nothing(blobs):
    kernel, labels = blobs()
    recipe = ns.Recipe(epochs=30, batch_size=24, weight_decay=0.5)
    found = simulate(kernel, labels, draw_batches([np.arange(24)], recipe, 24, 0), (1e200,), recipe)
    assert not np.isfinite(found.losses).all()
    assert not found.correct[0, 0, -1].any()


def test_float32_is_close_to_float64(blobs):
    kernel, labels = blobs()
    recipe, found = ns.Recipe(epochs=12), []
    for dtype in (np.float32, np.float64):
        found.append(simulate(kernel.astype(dtype), labels, draw_batches([np.arange(24)], recipe, 24, 0), (0.01,), recipe))
        assert found[-1].outputs.dtype == dtype
    np.testing.assert_allclose(found[0].outputs, found[1].outputs, rtol=1e-3, atol=1e-3)


def test_batches_are_what_was_given():
    """A batch that is filled up does not count what fills it up."""
    kernel, labels = jnp.eye(3), np.array([0, 1, 1])
    weights = np.array([1.0, 0.0])[None, None, None]
    found = simulate(kernel, labels, Batches(np.array([[[[2, 0]]]]), weights), (1.0,), ns.Recipe(epochs=1, momentum=0.0))
    np.testing.assert_allclose(found.outputs[0, 0], [[0, 0], [0, 0], [-0.5, 0.5]])
