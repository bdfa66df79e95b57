"""Does training follow plain SGD step by step, resume where it stopped, and stop when it diverges?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_select.errors import ModelError
from ntk_select.training import TrainState, train_epochs

X, Y = np.random.default_rng(0).normal(size=(10, 3)), np.arange(10) % 2


def linear(variables, x):
    """Logits of a linear model; its state counts the steps."""
    return x @ variables["params"]["w"], {"counted": {"steps": variables["counted"]["steps"] + 1}}


def fresh(optimizer):
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)))}
    return TrainState({"params": params, "counted": {"steps": jnp.zeros((), int)}}, optimizer.init(params))


def trained(epochs, optimizer=None, state=None, **options):
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9, nesterov=True)
    return train_epochs(linear, state or fresh(optimizer), optimizer, X, Y, epochs=epochs, batch_size=4, seed=[7], **options)


def test_the_weights_are_those_of_sgd_written_out():
    w, momentum, lr, seed = np.random.default_rng(1).normal(size=(3, 2)), np.zeros((3, 2)), 0.1, [7]
    for epoch in range(3):
        order = np.random.default_rng([*seed, epoch]).permutation(10)
        for batch in (order[:4], order[4:8]):  # two are left over
            p = np.exp(X[batch] @ w)
            p /= p.sum(1, keepdims=True)
            gradient = X[batch].T @ (p - np.eye(2)[Y[batch]]) / 4
            momentum = 0.9 * momentum + gradient
            w = w - lr * (gradient + 0.9 * momentum)
    state = trained(3)
    np.testing.assert_allclose(state.variables["params"]["w"], w, atol=1e-12)
    assert int(state.variables["counted"]["steps"]) == 6


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been():
    kept = {}
    whole = trained(5, after_epoch=lambda epoch, state, loss: kept.update({epoch: state}))
    resumed = trained(5, state=kept[2], first_epoch=2)
    np.testing.assert_array_equal(resumed.variables["params"]["w"], whole.variables["params"]["w"])
    assert sorted(kept) == [1, 2, 3, 4, 5]


def test_another_seed_draws_other_batches_and_the_loss_falls():
    losses = []
    trained(20, after_epoch=lambda epoch, state, loss: losses.append(loss))
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    other = train_epochs(linear, fresh(optimizer), optimizer, X, Y, epochs=1, batch_size=4, seed=[8])
    assert losses[-1] < losses[0]
    assert not np.array_equal(other.variables["params"]["w"], trained(1).variables["params"]["w"])


def test_images_are_prepared_with_a_key_of_their_own():
    seen = []

    def prepare(key, images):
        jax.debug.callback(lambda k: seen.append(tuple(np.asarray(k))), jax.random.key_data(key))
        return images * 2

    state = trained(2, prepare=prepare)
    jax.effects_barrier()
    assert len(set(seen)) == 4
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    doubled = train_epochs(linear, fresh(optimizer), optimizer, X * 2, Y, epochs=2, batch_size=4, seed=[7])
    np.testing.assert_array_equal(state.variables["params"]["w"], doubled.variables["params"]["w"])


def test_a_loss_that_is_no_number_stops_training_with_the_epoch():
    with pytest.raises(ModelError, match=r"Training diverged: the mean loss of epoch 1 is nan. Lower the learning rate"):
        trained(3, prepare=lambda key, images: images * jnp.nan)
