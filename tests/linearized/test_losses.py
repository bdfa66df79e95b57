"""Losses and their derivatives are those of their names."""

import jax
import numpy as np
import optax
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import LOSSES, SQUARED, check_loss, example_losses, is_mean, loss_gradient, loss_value, squared_loss


@pytest.fixture
def outputs(independent):
    return 3 * independent.draw(7, 4)


@pytest.fixture
def soft(independent):
    return np.asarray(jax.nn.softmax(independent.draw(7, 4, seed=1)))


@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients(independent, outputs, soft, loss):
    definition = independent.LOSSES[loss]
    gradient = jax.jit(jax.grad(definition))
    assert loss_value(loss, outputs, soft) == pytest.approx(float(definition(outputs, soft)), rel=1e-13)
    assert independent.losses(loss, outputs[None], soft)[0] == pytest.approx(float(definition(outputs, soft)), rel=1e-13)
    np.testing.assert_allclose(loss_gradient(loss, outputs, soft), gradient(outputs, soft), rtol=1e-11, atol=1e-14)
    if loss in SQUARED:
        np.testing.assert_allclose(loss_gradient(loss, outputs[:, 0], soft[:, 0]), gradient(outputs[:, 0], soft[:, 0]), rtol=1e-12)


def test_the_definitions_of_others(outputs, soft):
    assert loss_value("half_sum", outputs, soft) == pytest.approx(float(optax.losses.l2_loss(outputs, soft).sum()), rel=1e-13)
    assert loss_value("mean", outputs, soft) == pytest.approx(float(optax.losses.squared_error(outputs, soft).mean()), rel=1e-13)
    assert loss_value("sum", outputs, soft) == pytest.approx(float(optax.losses.squared_error(outputs, soft).sum()), rel=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_examples_add_up_to_the_loss(outputs, soft, loss):
    each = np.asarray(example_losses(loss, outputs, soft))
    assert each.shape == (7,)
    assert (each.mean() if is_mean(loss) else each.sum()) == pytest.approx(loss_value(loss, outputs, soft), rel=1e-13)
    if loss in SQUARED:
        row = np.asarray(example_losses(loss, outputs[:, 0], soft[:, 0]))
        assert row.shape == (7,)
        assert (row.mean() if is_mean(loss) else row.sum()) == pytest.approx(loss_value(loss, outputs[:, 0], soft[:, 0]), rel=1e-13)


@pytest.mark.parametrize("loss", SQUARED)
def test_the_constants_are_those_of_value_and_slope(outputs, soft, loss):
    constants = squared_loss(loss, outputs.size)
    assert constants.value * np.square(outputs - soft).sum() == pytest.approx(loss_value(loss, outputs, soft), rel=1e-13)
    np.testing.assert_allclose(constants.slope * (outputs - soft), loss_gradient(loss, outputs, soft), rtol=1e-13)


def test_large_logits_do_not_overflow():
    outputs, targets = np.array([[1e4, 0.0], [0.0, -1e4]]), np.eye(2)
    assert loss_value("cross_entropy_sum", outputs, targets) == pytest.approx(1e4)
    assert np.isfinite(loss_gradient("cross_entropy", outputs, targets)).all()


def test_squares_that_overflow_are_infinite():
    assert loss_value("sum", np.array([1e200]), np.array([0.0])) == np.inf


def test_unknown_losses_are_refused():
    with pytest.raises(ConfigError, match="loss='crossentropy' is unknown. Did you mean 'cross_entropy"):
        check_loss("crossentropy")
    with pytest.raises(ConfigError, match="loss='cross_entropy' has no closed form. Try: .*, or one of half_sum, sum, mean"):
        squared_loss("cross_entropy", 3)
