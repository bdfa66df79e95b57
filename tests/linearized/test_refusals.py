"""Bad input is refused before anything is computed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.sparse.linalg import ArpackNoConvergence

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError
from ntk_select.linearized import (
    draw_batches,
    generalization_score,
    kernel_ridge,
    loss_curve,
    max_stable_lr,
    predict,
    speed_bound,
    targets,
    time_to_loss,
)

EYE, ONES = np.eye(3), np.ones(3)


def identity(v):
    return v


REFUSED = {
    "a ragged kernel": (lambda: loss_curve([[1.0], [1.0, 2.0]], np.ones(2), lr=1, steps=1), "kernel is a list which is not an array"),
    "a wrong effect": (
        lambda: predict(EYE, 0 * ONES, ONES, lr=0.1, steps=1, cross_kernel=identity, test_outputs=np.ones(2)),
        "The function cross_kernel returned shape .3, 1. for 2 test examples|returned shape .3,. for 2 test examples and 1 outputs",
    ),
    "an effect that is not finite": (
        lambda: predict(EYE, 0 * ONES, ONES, lr=0.1, steps=1, cross_kernel=lambda v: v * np.nan, test_outputs=ONES),
        "The result of the function cross_kernel holds NaN",
    ),
    "an endless ridge": (lambda: kernel_ridge(EYE, ONES, ridge=np.inf), "ridge=inf must be a positive number"),
    "a tolerance below zero": (lambda: kernel_ridge(identity, ONES, ridge=1.0, tolerance=-1), "tolerance=-1 must be a number between 0 and 1"),
    "one test output": (
        lambda: kernel_ridge(EYE, ONES, ridge=1.0, cross_kernel=np.ones((2, 3)), test_outputs=1.0),
        "test_outputs has type float64 and shape",
    ),
    "an endless ridge of the score": (lambda: generalization_score(EYE, ONES, ridge=np.inf), "ridge=inf must be a number of at least 0"),
    "an endless ridge of the bound": (lambda: speed_bound(EYE, ONES, ridge=np.inf), "ridge=inf must be a number of at least 0"),
    "a tolerance of the score": (lambda: generalization_score(identity, ONES, ridge=1, tolerance=-1), "tolerance=-1 must be"),
    "a negative eigenvalue": (lambda: max_stable_lr(-1.0), "kernel=-1.0, its largest eigenvalue, must be a number of at least 0"),
    "no residuals": (lambda: max_stable_lr(1.0, size=0), "size=0 must be a whole number from 1"),
    "a loss, without a product": (lambda: max_stable_lr(pytest.fail, shape=(3,), loss="hinge"), "loss='hinge' is unknown"),
    "a limit beyond the stable rate": (
        lambda: predict(EYE, np.zeros((3, 2)), np.eye(2)[[0, 1, 1]], lr=1e3, times=np.inf, optimizer="gd", loss="cross_entropy", weight_decay=0.1),
        "lr=1000 times weight_decay=0.1 is too large: training diverges",
    ),
    "an optimiser in words": (
        lambda: ns.linearized.train(lambda p, x: x @ p, EYE, EYE, "gd", steps=1, params=EYE),
        "optimizer='gd' is not an Optax optimiser. Try: optimizer=optax.sgd",
    ),
    "half a step": (lambda: time_to_loss(EYE, ONES, 0.1, lr=0.1, max_steps=1.5), "max_steps=1.5 must be a whole number from 0"),
    "half a batch": (lambda: draw_batches(3, 1, 1.5), "steps=1.5 must be a whole number from 0"),
    "classes as text": (lambda: targets([0, 1], "3"), "num_classes='3' must be a whole number, or None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_a_sentence(name):
    call, sentence = REFUSED[name]
    with pytest.raises(ConfigError, match=sentence):
        call()


def test_an_eigenvalue_that_arpack_does_not_find_is_told(monkeypatch):
    def lost(*_, **__):
        raise ArpackNoConvergence("No convergence after 30 iterations.", [], [])

    monkeypatch.setattr(sys.modules[max_stable_lr.__module__], "eigsh", lost)
    with pytest.raises(ConfigError, match="The kernel function's largest eigenvalue was not found: .*Try: the kernel as an array"):
        max_stable_lr(identity, shape=(5,))


@pytest.mark.parametrize(("optimizer", "momentum"), [("gd", 0.0), ("momentum", 0.5), ("nesterov", 0.5)])
def test_a_limit_above_the_stable_rate_is_infinite(optimizer, momentum):
    options = {"optimizer": optimizer, "momentum": momentum, "lr": 3.5, "times": [np.inf, 3000]}
    found = predict(EYE, 0 * ONES, ONES, **options)
    np.testing.assert_array_equal(found.train_losses, np.inf)
    np.testing.assert_array_equal(found.distances, np.inf)


@pytest.mark.parametrize("loss", ["half_sum", "cross_entropy"])
def test_a_training_that_diverges_is_followed_with_a_function_as_with_an_array(loss):
    outputs, wanted = np.zeros((3, 2)), np.eye(2)[[0, 1, 1]]
    kernel = np.diag([1.0, 2.0, 3.0])
    options = {"lr": 1e9, "steps": 60, "optimizer": "gd", "loss": loss, "weight_decay": 1.0, "test_outputs": outputs}
    array = predict(kernel, outputs, wanted, cross_kernel=kernel, **options)
    function = predict(lambda v: kernel @ v, outputs, wanted, cross_kernel=lambda v: kernel @ v, **options)
    assert array.train_losses[-1] == function.train_losses[-1] == np.inf
    assert not np.isfinite(function.test_outputs[-1]).all()
    np.testing.assert_allclose(function.train_losses[:3], array.train_losses[:3])


def test_pre_logits_of_another_shape_take_no_head():
    expert = ns.Expert("mine", lambda v, x: x, {"w": ONES}, features_fn=lambda v, x: x.sum(axis=1))
    with pytest.raises(ModelError, match=r"features_fn of expert 'mine' returns \(1,\) for one input; pre-logits must be \(1, d\)"):
        ns.with_new_head(expert, 2, x=np.ones((4, 3)))


@pytest.mark.parametrize("optimizer", ["flow", "gd", "momentum", "nesterov"])
def test_rounding_of_a_kernel_of_lower_rank_is_no_kernel_however_long_the_training(optimizer):
    rng = np.random.default_rng(0)
    features, residual = rng.normal(size=(50, 5)).astype(np.float32), rng.normal(size=50)
    stays = residual - features @ np.linalg.lstsq(features, residual, rcond=None)[0]
    found = loss_curve(features @ features.T, residual, lr=1e-3, times=[10**9], optimizer=optimizer)
    assert found[0] == pytest.approx(0.5 * stays @ stays, rel=1e-6)


def test_scalar_arrays_are_numbers():
    options = {"optimizer": "momentum", "steps": 3}
    plain = loss_curve(EYE, ONES, lr=0.5, momentum=0.25, weight_decay=0.125, **options)
    arrays = loss_curve(EYE, ONES, lr=jnp.float32(0.5), momentum=np.array(0.25), weight_decay=np.float32(0.125), **options)
    np.testing.assert_array_equal(plain, arrays)
    assert time_to_loss(EYE, ONES, jnp.array(0.5), lr=jnp.array(1.0)) == time_to_loss(EYE, ONES, 0.5, lr=1.0)


def test_a_direction_without_residual_diverges_unseen():
    found = predict(np.diag([1.0, 5.0]), np.zeros(2), [1.0, 0.0], lr=1.0, times=[3000], optimizer="gd")
    np.testing.assert_allclose(found.train_outputs, [[1.0, 0.0]])
    np.testing.assert_allclose(found.coefficients, [[1.0, 0.0]])
    assert found.train_losses == 0


@pytest.mark.parametrize("optimizer", ["flow", "gd", "momentum"])
def test_rounding_of_a_cross_kernel_of_lower_rank_does_not_grow_with_time(optimizer):
    rng = np.random.default_rng(0)
    features, test, wanted = rng.normal(size=(60, 8)), rng.normal(size=(4, 8)), rng.normal(size=60)
    kernel, cross = ((rows @ features.T).astype(np.float32) for rows in (features, test))
    options = {"cross_kernel": cross, "test_outputs": np.zeros(4), "lr": 1e-3, "optimizer": optimizer}
    found = predict(kernel, np.zeros(60), wanted, times=[10**10], **options).test_outputs[0]
    np.testing.assert_allclose(found, test @ np.linalg.lstsq(features, wanted, rcond=None)[0], rtol=1e-3, atol=1e-4)


L, X = ns.linearized, np.random.default_rng(0).normal(size=(5, 3))


def linear(params, x):
    return x @ params


ON_THE_HOST = {
    "loss_curve": lambda k: L.loss_curve(k, ONES, lr=0.1, steps=1),
    "max_stable_lr": lambda k: L.max_stable_lr(k),
    "time_to_loss": lambda k: L.time_to_loss(k, ONES, 0.1, lr=0.1),
    "predict": lambda k: L.predict(k, ONES, ONES, lr=0.1, steps=1),
    "targets": lambda k: L.targets(k),
    "kernel_ridge": lambda k: L.kernel_ridge(k, ONES, ridge=1.0),
    "initial_speed": lambda k: L.initial_speed(k, ONES),
    "generalization_score": lambda k: L.generalization_score(k, ONES),
    "speed_bound": lambda k: L.speed_bound(k, ONES),
    "label_spectrum": lambda k: L.label_spectrum(k, ONES),
    "layer_factors": lambda w: L.layer_factors(linear, X, params=w),
    "network_kernel": lambda w: L.network_kernel(linear, X, params=w),
    "train": lambda w: L.train(linear, X, X, optax.sgd(0.1), steps=1, params=w),
    "compare_training": lambda w: L.compare_training(linear, X, X, lr=0.1, steps=1, params=w),
}


@pytest.mark.parametrize("name", ON_THE_HOST)
@pytest.mark.parametrize("transform", [jax.jit, jax.grad])
def test_functions_of_the_host_refuse_tracers_and_name_what_can_be_traced(name, transform):
    with pytest.raises(ConfigError, match=rf"ns.linearized.{name} works on the host .* cannot be traced by jax.jit.* ns.linearized.linearize"):
        transform(ON_THE_HOST[name])(EYE)


def normalised_over_the_batch(params, x):
    return (x - x.mean(axis=0)) @ params


DEPENDENT = {
    "train": lambda fn: L.train(fn, X, X, optax.sgd(0.1), steps=1, params=EYE),
    "a linearised network": lambda fn: L.train(L.linearize(fn, EYE), X, X, optax.sgd(0.1), steps=1),
    "a dense kernel": lambda fn: L.network_kernel(fn, X, params=EYE, method="dense"),
    "a matrix-free kernel": lambda fn: L.network_kernel(fn, X, params=EYE, method="matrix-free"),
    "layer factors": lambda fn: L.layer_factors(fn, X, params=EYE),
    "a comparison": lambda fn: L.compare_training(fn, X, X, lr=0.1, steps=1, params=EYE),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_networks_whose_examples_influence_each_other_are_refused(name):
    DEPENDENT[name](linear)
    with pytest.raises(ModelError, match="depend on the other examples of the batch: batch norm .* is in training mode.* Try: use_running_average"):
        DEPENDENT[name](normalised_over_the_batch)
