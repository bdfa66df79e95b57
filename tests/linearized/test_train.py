"""Training is the plain loop that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import draw_batches, linearize, train
from ntk_select.linearized.optimizers import Optimizer

LOSSES = ["mean", "cross_entropy_sum", *(pytest.param(name, marks=pytest.mark.slow) for name in ("half_sum", "sum", "cross_entropy"))]
STEPS = 12


def plain(independent, world, tx, loss, *, batches=None, weight_decay=0.0, frozen=()):
    """The loop: all parameters after each step. `frozen` names groups of parameters that stay."""
    params, found = world.params, [world.params]
    state = tx.init(params)
    for step in range(STEPS):
        rows = slice(None) if batches is None else batches[step]

        def objective(params, rows=rows):
            return independent.LOSSES[loss](world.fn(params, world.x[rows]).reshape(world.targets[rows].shape), world.targets[rows])

        gradient = jax.grad(objective)(params)
        gradient = jax.tree.map(lambda g, w, start: g + weight_decay * (w - start), gradient, params, world.params)
        gradient = {key: jax.tree.map(jnp.zeros_like, value) if key in frozen else value for key, value in gradient.items()}
        change, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        found.append(params)
    return found


def same(independent, world, found, path, loss):
    for name, x, targets in (("train", world.x, world.targets), ("test", world.x_test, world.test_targets)):
        outputs = np.stack([world.fn(params, x) for params in path])
        np.testing.assert_allclose(getattr(found, f"{name}_outputs"), outputs, rtol=0, atol=1e-12)
        np.testing.assert_allclose(getattr(found, f"{name}_losses"), independent.losses(loss, outputs, targets), rtol=1e-11)
    gaps = [jax.tree.map(lambda a, b: np.square(np.asarray(a) - np.asarray(b)).sum(), params, path[0]) for params in path]
    np.testing.assert_allclose(found.distances, [np.sqrt(sum(jax.tree.leaves(gap))) for gap in gaps], rtol=1e-12, atol=1e-15)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), found.params, path[-1])
    assert (found.times == np.arange(STEPS + 1)).all()


def trained(world, tx, loss, **options):
    return train(
        world.fn,
        world.x,
        world.targets,
        tx,
        params=world.params,
        steps=STEPS,
        loss=loss,
        x_test=world.x_test,
        test_targets=world.test_targets,
        **options,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_momentum_and_weight_decay(independent, several, loss):
    tx = optax.sgd(0.02, momentum=0.9, nesterov=True)
    path = plain(independent, several, tx, loss, weight_decay=0.3)
    same(independent, several, trained(several, tx, loss, weight_decay=0.3), path, loss)


@pytest.mark.parametrize("loss", ["half_sum", "cross_entropy", pytest.param("mean", marks=pytest.mark.slow)])
def test_mini_batches_and_passes_that_are_smaller_than_they(independent, several, loss):
    batches = draw_batches(12, 5, STEPS, seed=3)
    tx = optax.sgd(0.05, momentum=0.5)
    path = plain(independent, several, tx, loss, batches=batches)
    for batch_size in (None, 2, 5):
        same(independent, several, trained(several, tx, loss, batches=batches, batch_size=batch_size), path, loss)


def test_adam_is_an_optimiser_like_any_other(independent, several):
    tx = optax.adam(0.01)
    same(independent, several, trained(several, tx, "cross_entropy", batch_size=5), plain(independent, several, tx, "cross_entropy"), "cross_entropy")


def test_only_the_chosen_layers_are_trained(independent, several):
    tx = optax.sgd(0.02, momentum=0.9)
    path = plain(independent, several, tx, "sum", weight_decay=0.1, frozen=("first",))
    found = trained(several, tx, "sum", weight_decay=0.1, layers="^last/")
    same(independent, several, found, path, "sum")
    assert (found.params["first"]["kernel"] == several.params["first"]["kernel"]).all()


@pytest.mark.parametrize(("optimizer", "momentum"), [("gd", 0.0), ("momentum", 0.9), ("nesterov", 0.9), ("momentum", 0.0)])
def test_a_linearised_network_is_trained_as_its_formula_says(independent, several, optimizer, momentum):
    options = {"lr": 0.02, "momentum": momentum}
    path = independent.train(several, "sum", steps=STEPS, nesterov=optimizer == "nesterov", weight_decay=0.2, **options)
    tx = Optimizer(optimizer, **options).to_optax()
    found = train(linearize(several.fn, several.params), several.x, several.targets, tx, steps=STEPS, loss="sum", weight_decay=0.2)
    np.testing.assert_allclose(found.train_losses, path.losses, rtol=1e-9)
    np.testing.assert_allclose(found.distances, path.distances, rtol=1e-9)
    assert found.test_outputs is None
    assert found.test_losses is None


def test_times_are_recorded_as_they_were_asked_for(several):
    tx, options = optax.sgd(0.02), {"params": several.params}
    whole = train(several.fn, several.x, several.targets, tx, steps=6, **options)
    found = train(several.fn, several.x, several.targets, tx, times=[6, 0, 2, 2], **options)
    assert (found.times == [6, 0, 2, 2]).all()
    assert (found.train_outputs == whole.train_outputs[[6, 0, 2, 2]]).all()
    nothing = train(several.fn, several.x, several.targets, tx, steps=0, **options)
    assert nothing.distances == [0.0]


def test_single_precision_stays_single_precision(several):
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), several.params)
    found = train(several.fn, several.x.astype(np.float32), several.targets, optax.sgd(0.01), params=params, steps=3)
    assert found.train_outputs.dtype == np.float32
    assert found.train_losses.dtype == np.float64
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params))
    reference = train(several.fn, several.x, several.targets, optax.sgd(0.01), params=several.params, steps=3)
    np.testing.assert_allclose(found.train_losses, reference.train_losses, rtol=1e-4)


def test_weights_that_overflow_in_double_precision_are_infinitely_far_without_a_warning():
    found = train(lambda w, x: x @ w, np.ones((2, 1)), np.ones((2, 1)), optax.sgd(1e200), params=np.zeros((1, 1)), steps=1)
    assert found.params[0, 0] == 2e200
    assert found.distances.tolist() == [0, np.inf]
    assert found.train_losses[1] == np.inf


def test_progress_is_told(several):
    told = []
    train(several.fn, several.x, several.targets, optax.sgd(0.01), params=several.params, steps=3, progress=lambda *words: told.append(words))
    assert told == [(1, 3, "steps"), (2, 3, "steps"), (3, 3, "steps")]


@pytest.mark.parametrize(("n", "size"), [(12, 5), (12, 12), (7, 1), (12, 4)])
def test_batches_go_through_the_examples_epoch_by_epoch(n, size):
    batches = draw_batches(n, size, 20)
    assert len(batches) == 20
    each = n // size
    for first in range(0, 20 - each + 1, each):
        epoch = np.concatenate(batches[first : first + each])
        assert len(epoch) == len(np.unique(epoch)) == each * size
        assert epoch.min() >= 0
        assert epoch.max() < n


def test_batches_depend_on_the_seed_alone_and_longer_training_begins_alike():
    as_lists = [[list(batch) for batch in draw_batches(12, 4, steps, seed)] for steps, seed in [(9, 0), (9, 0), (20, 0), (9, 1)]]
    assert as_lists[0] == as_lists[1] == as_lists[2][:9]
    assert as_lists[0] != as_lists[3]
    assert as_lists[0][:3] != as_lists[0][3:6]
    assert draw_batches(12, 4, 0) == []


@pytest.mark.parametrize("size", [0, 13, 2.0, True, None])
def test_a_batch_has_from_one_to_all_examples(size):
    with pytest.raises(ConfigError, match=rf"size={size!r} must be a whole number from 1 to the 12 training examples"):
        draw_batches(12, size, 3)


LINEAR = "A linearised network has its own params and layers. Try: leave params= and layers= out"
SAY_NO = {
    "weight decay": ({"weight_decay": -1}, "weight_decay=-1 must be a number of at least 0"),
    "weight decay in words": ({"weight_decay": "no"}, "weight_decay='no' must be"),
    "batch size": ({"batch_size": 0}, "batch_size=0 must be a positive number"),
    "times": ({"steps": None}, "Give either times= or steps="),
    "half steps": ({"steps": None, "times": [0.5]}, "takes whole steps"),
    "infinity": ({"steps": None, "times": [np.inf]}, "times= must be finite here"),
    "loss": ({"loss": "hinge"}, "loss='hinge' is unknown"),
    "layers": ({"layers": "conv"}, "layers='conv' matches no"),
    "parameters": ({"params": None}, "A function requires its parameters"),
    "targets": ({"targets": np.ones(12)}, r"targets has shape \(12,\) for the network's outputs \(12, 3\)"),
    "probabilities": ({"targets": np.ones((12, 3)), "loss": "cross_entropy"}, "needs targets whose rows are probabilities"),
    "test targets": (
        {"x_test": np.ones((5, 4)), "test_targets": np.ones((4, 3))},
        r"test_targets has shape \(4, 3\) for the network's test outputs \(5, 3\)",
    ),
    "test targets alone": ({"test_targets": np.ones((5, 3))}, "test_targets= requires x_test="),
    "batches": ({"batches": [[0]]}, "There are 1 batches for 2 steps"),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_training_refuses(several, name):
    options, sentence = SAY_NO[name]
    given = {"x": several.x, "targets": several.targets, "optimizer": optax.sgd(0.1), "params": several.params, "steps": 2} | options
    with pytest.raises(ConfigError, match=sentence):
        train(several.fn, **given)


@pytest.mark.parametrize("options", [{"params": {}}, {"layers": "last"}])
def test_a_linearised_network_brings_its_start_and_its_layers(several, options):
    with pytest.raises(ConfigError, match=LINEAR):
        train(linearize(several.fn, several.params), several.x, several.targets, optax.sgd(0.1), steps=1, **options)


def test_no_examples_are_refused(several):
    with pytest.raises(ConfigError, match="at least one example"):
        train(several.fn, several.x[:0], several.targets[:0], optax.sgd(0.1), params=several.params, steps=1)
