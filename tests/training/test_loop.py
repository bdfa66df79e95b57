"""Training follows SGD written in NumPy, in the documented order of batches, and stops at divergence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Taps
from ntk_select.training import loop
from ntk_select.training.feeding import InMemory
from ntk_select.training.loop import DivergedError, begin, cross_entropy, make_step, sgd, step_decay, train_epochs, warmup_cosine

X, Y = np.random.default_rng(0).normal(size=(10, 3)), np.arange(10) % 2
W = np.random.default_rng(1).normal(size=(3, 2))
SEED = [7]


def linear(variables, x):
    """Logits of a linear model; its state counts the steps."""
    return Taps(x @ variables["params"]["w"], x), {"counted": {"steps": variables["counted"]["steps"] + 1}}


def fresh(optimizer):
    return begin({"params": {"w": W}, "counted": {"steps": np.zeros((), int)}}, optimizer)


def trained(rates, optimizer=None, x=X, seed=SEED, prepare=None, state=None, **options):
    optimizer = optimizer or sgd()
    step = make_step(cross_entropy(linear, prepare), optimizer)
    return train_epochs(step, state or fresh(optimizer), InMemory(x, Y, 4), np.asarray(rates), seed=seed, **options)


def weights(state):
    return np.asarray(state.variables["params"]["w"])


def gradient_and_loss(w, batch):
    p = np.exp(X[batch] @ w)
    p /= p.sum(1, keepdims=True)
    return X[batch].T @ (p - np.eye(2)[Y[batch]]) / len(batch), -np.log(p[np.arange(len(batch)), Y[batch]]).mean()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_weights_and_losses_are_those_of_sgd_written_out_at_changing_rates(nesterov, decay):
    w, momentum, rates, means = W, np.zeros((3, 2)), [[0.1, 0.2], [0.05, 0.3], [0.01, 0.02]], []
    for epoch in range(3):
        order, losses = np.random.default_rng([*SEED, epoch]).permutation(10), []
        for index, batch in enumerate((order[:4], order[4:8])):  # two are left over
            gradient, loss = gradient_and_loss(w, batch)
            losses.append(loss)
            gradient = gradient + decay * w
            momentum = 0.8 * momentum + gradient
            w = w - rates[epoch][index] * (gradient + 0.8 * momentum if nesterov else momentum)
        means.append(np.mean(losses))
    found = []
    state = trained(rates, sgd(0.8, decay, nesterov=nesterov), after_epoch=lambda epoch, state, loss: found.append((epoch, loss)))
    np.testing.assert_allclose(weights(state), w, rtol=1e-12)
    np.testing.assert_allclose([loss for _, loss in found], means, rtol=1e-12)
    assert [epoch for epoch, _ in found] == [1, 2, 3]
    assert int(state.variables["counted"]["steps"]) == 6


def test_one_program_serves_all_rates():
    traced = []

    def counted(variables, x):
        traced.append(1)
        return linear(variables, x)

    step, state = make_step(cross_entropy(counted), sgd()), fresh(sgd())
    for rate in (0.1, 0.2, 0.0):
        state, _ = step(state, (X, Y), jax.random.key(0), rate)
    assert len(traced) == 1


def test_a_mesh_of_one_device_changes_nothing():
    batch, found = (X, Y), []
    for mesh in (None, Mesh(np.array(jax.devices()[:1]), ("batch",))):
        state, loss = make_step(cross_entropy(linear), sgd(), mesh)(fresh(sgd()), batch, jax.random.key(0), 0.1)
        found.append((weights(state), float(loss)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_begin_makes_arrays_of_its_own_and_a_rate_of_nothing_changes_no_weight():
    variables = {"params": {"w": jnp.asarray(W)}, "counted": {"steps": jnp.zeros((), int)}}
    state = begin(variables, sgd())
    state, _ = make_step(cross_entropy(linear), sgd())(state, (X, Y), jax.random.key(0), 0.0)
    np.testing.assert_array_equal(weights(state), W)
    np.testing.assert_array_equal(variables["params"]["w"], W)  # the state that went in was used up, this was not


def test_batches_are_a_permutation_of_the_examples_but_for_the_rest():
    batches = InMemory(np.arange(10), np.arange(10) * 2, 3)
    found = list(batches(np.random.default_rng(4)))
    assert batches.steps == len(found) == 3
    images = np.concatenate([images for images, _ in found])
    np.testing.assert_array_equal(images, np.random.default_rng(4).permutation(10)[:9])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), images * 2)


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been():
    rates, kept = np.full((5, 2), 0.1), {}
    whole = trained(rates, after_epoch=lambda epoch, state, loss: kept.update({epoch: jax.tree.map(jnp.array, state)}))
    resumed = trained(rates, state=kept[2], first_epoch=2)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert sorted(kept) == [1, 2, 3, 4, 5]


def test_another_seed_draws_other_batches_and_the_loss_falls():
    losses = []
    trained(np.full((20, 2), 0.1), after_epoch=lambda epoch, state, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    assert not np.array_equal(weights(trained([[0.1, 0.1]], seed=[8])), weights(trained([[0.1, 0.1]])))


def test_images_are_prepared_with_a_key_of_their_own():
    seen = []

    def prepare(key, images):
        jax.debug.callback(lambda k: seen.append(tuple(np.asarray(k))), jax.random.key_data(key))
        return images * 2

    rates = np.full((2, 2), 0.1)
    state = trained(rates, prepare=prepare)
    jax.effects_barrier()
    assert len(set(seen)) == 4
    np.testing.assert_array_equal(weights(state), weights(trained(rates, x=X * 2)))


class Spoiled:
    """Twenty batches an epoch, of which one holds infinity."""

    def __init__(self, epoch, step):
        self.epoch, self.step, self.taken = epoch, step, 0

    def __call__(self, rng):
        for index in range(20):
            bad = (self.taken // 20, index) == (self.epoch - 1, self.step - 1)
            self.taken += 1
            yield X * (np.inf if bad else 1), Y


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 20), (2, 3), (2, 11), (2, 12), (2, 13)])
def test_divergence_is_found_at_its_epoch_and_step_within_a_few_steps(epoch, step):
    batches = Spoiled(epoch, step)
    with pytest.raises(
        DivergedError, match=f"Training diverged in epoch {epoch}, step {step}: .* not finite. Try: a smaller learning rate"
    ) as caught:
        train_epochs(make_step(cross_entropy(linear), sgd()), fresh(sgd()), batches, np.full((3, 20), 0.1), seed=SEED)
    assert (caught.value.epoch, caught.value.step) == (epoch, step)
    assert batches.taken <= min((epoch - 1) * 20 + step + 9, epoch * 20)


def test_weights_that_the_very_last_step_breaks_are_found():
    with pytest.raises(DivergedError, match="epoch 2, step 2:"):
        trained([[0.1, 0.1], [0.1, np.inf]])


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="precision='float16' is unknown. Did you mean .*Allowed: bfloat16, float32"):
        cross_entropy(linear, precision="float16")


def two_layers(variables, x):
    return Taps(jnp.tanh(x @ variables["params"]["a"]) @ variables["params"]["b"], x), {}


def test_bfloat16_is_close_to_float32_and_weights_stay_in_float32(rng):
    params = {"a": rng.normal(size=(3, 20)).astype(np.float32), "b": rng.normal(size=(20, 2)).astype(np.float32)}
    found, batch = {}, (X.astype(np.float32), Y)
    for precision in ("float32", "bfloat16"):
        state, step = begin({"params": params}, sgd()), make_step(cross_entropy(two_layers, precision=precision), sgd())
        for _ in range(5):
            state, loss = step(state, batch, jax.random.key(0), 0.1)
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(np.float32)}
        assert loss.dtype == np.float32
        found[precision] = state.variables["params"]
    for name in params:
        change = np.abs(found["float32"][name] - params[name]).max()
        error = np.abs(found["bfloat16"][name] - found["float32"][name]).max()
        assert 0 < error < 0.05 * change


def test_step_schedules_divide_after_each_milestone():
    rates = step_decay(0.5, 4, 2, (1, 3), 0.1)
    np.testing.assert_allclose(rates, [[0.5] * 2, [0.05] * 2, [0.05] * 2, [0.005] * 2])


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_cosine_schedules_rise_linearly_and_fall_to_nothing(warmup):
    total, first = 20, int(warmup * 20)
    expected = [0.3 * t / first if t < first else 0.15 * (1 + np.cos(np.pi * (t - first) / (total - first))) for t in range(total)]
    np.testing.assert_allclose(warmup_cosine(0.3, 4, 5, warmup), np.reshape(expected, (4, 5)), rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of CPUs")
def test_a_step_compiled_with_the_options_of_cpus_computes_the_same(monkeypatch):
    """Against XLA's defaults, in float64: only the order of sums differs."""
    rng = np.random.default_rng(0)
    variables = {"params": {"conv": rng.normal(size=(3, 3, 4, 8)), "head": rng.normal(size=(8, 3))}}
    batch = rng.normal(size=(6, 9, 9, 4)), np.arange(6) % 3

    def train_fn(variables, x):
        hidden = jax.lax.conv_general_dilated(x, variables["params"]["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        features = jax.nn.relu(hidden - hidden.mean((0, 1, 2))).mean((1, 2))
        return Taps(features @ variables["params"]["head"], features), {}

    def trained():
        state = begin(variables, sgd())
        for _ in range(3):
            state, loss = loop._new_step(cross_entropy(train_fn), sgd(), None)(state, batch, jax.random.key(0), 0.1)
        return state.variables, loss

    assert loop.known_options(loop._CPU_OPTIONS) == loop._CPU_OPTIONS  # of the tested versions
    found = trained()
    monkeypatch.setattr(loop, "_CPU_OPTIONS", {})
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11), found, trained())
