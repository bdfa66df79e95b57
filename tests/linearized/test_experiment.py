"""`run_experiment` chooses a stable learning rate, and records curves, regime and theory as JSON-ready values."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select import Expert
from ntk_select.errors import ConfigError
from ntk_select.linearized.experiment import RECORDS, run_experiment

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 2)), RNG.normal(size=(4, 2))


def linear_expert(weights=W):
    """A network that is linear in its parameters, so that formula and training agree."""
    return Expert("linear", lambda variables, x: jnp.asarray(x) @ variables["params"]["w"], {"w": weights})


def descent(lr, steps):
    """Losses of gradient descent on the mean squared error."""
    w, losses = W.copy(), []
    for _ in range(steps + 1):
        losses.append(np.mean((X @ w - Y) ** 2))
        w = w - lr * 2 / Y.size * X.T @ (X @ w - Y)
    return np.array(losses)


@pytest.fixture(scope="module")
def found():
    return run_experiment(linear_expert(), X, Y, steps=40)


def test_without_a_rate_it_is_a_tenth_of_the_largest_stable_one(found):
    largest = 2 / (2 / Y.size * np.linalg.eigvalsh(X @ X.T)[-1])
    assert found.largest_stable_lr == pytest.approx(largest, rel=1e-6)
    assert found.optimizer.lr == pytest.approx(0.1 * largest, rel=1e-6)
    assert found.full_batch


def test_curves_are_those_of_descent_at_steps_that_grow(found):
    curves = found.curves()
    steps = np.array(curves["step"], int)
    assert (steps[0], steps[-1], len(steps) <= RECORDS + 1) == (0, 40, True)
    np.testing.assert_allclose(curves["loss_real"], descent(found.optimizer.lr, 40)[steps], rtol=1e-6)
    np.testing.assert_allclose(curves["loss_formula"], curves["loss_real"], rtol=1e-6)
    assert not [name for name in curves if "test" in name or "accuracy" in name]
    assert found.regime()["throughout"]
    json.dumps([curves, found.regime(), found.theory()], allow_nan=False)


def test_theory_has_the_speed_of_the_first_step(found):
    theory, gradient = found.theory(), 2 / Y.size * (X @ W - Y)
    assert theory["speed"] == pytest.approx(np.square(X.T @ gradient).sum(), rel=1e-6)
    assert theory["measured_speed"] == pytest.approx(-np.diff(descent(found.optimizer.lr, 1))[0] / found.optimizer.lr, rel=1e-4)
    assert theory["quadratic_form"] >= theory["quadratic_form_bound"]


def test_the_first_step_of_nesterovs_method_is_longer(found):
    from dataclasses import replace

    nesterov = found._replace(optimizer=replace(found.optimizer, optimizer="nesterov", momentum=0.5))
    assert nesterov.first_step == pytest.approx(1.5 * found.first_step)
    assert "measured_speed" not in found._replace(full_batch=False).theory()


def test_an_overflow_is_none_and_rates_that_are_unknown_are_refused():
    single = linear_expert(W.astype(np.float32))
    curves = run_experiment(single, X.astype(np.float32), Y, lr=1e30, steps=8, linear=False).curves()
    assert curves["loss_real"][-1] is None
    assert "loss_linear" not in curves
    with pytest.raises(ConfigError, match="known for squared losses only. Try: lr=0.01"):
        run_experiment(linear_expert(), X, np.eye(2)[[0, 1, 0, 1, 0]], loss="cross_entropy")
    with pytest.raises(ConfigError, match="The kernel is zero: these parameters have no gradient at the start"):
        run_experiment(linear_expert(), 0 * X, Y)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"optimizer": "adam"}, "optimizer='adam' is unknown"), ({"lr": -1.0}, "lr=-1.0 must be"), ({"loss": "hinge"}, "loss='hinge' is unknown")],
)
def test_wrong_options_are_refused_before_the_kernel_is_computed(options, sentence):
    expert = Expert("not called", lambda variables, x: pytest.fail("the network ran"), {"w": W})
    with pytest.raises(ConfigError, match=sentence):
        run_experiment(expert, X, Y, **options)
