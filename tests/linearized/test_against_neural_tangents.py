"""Predictions agree with those of neural-tangents.

Its squared loss is half the mean over examples and outputs, so that "mean" at half its learning rate is the same training.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from ntk_select.errors import MissingDependencyError
from ntk_select.kernels.engine.neural_tangents import import_neural_tangents
from ntk_select.linearized import max_stable_lr, predict

LR, TIMES = 0.5, np.array([0.0, 1.0, 30.0, 700.0])


@pytest.fixture(scope="module")
def nt():
    try:
        return import_neural_tangents()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def ours(kernel, cross, world, **options):
    return predict(kernel, world.outputs, world.targets, times=TIMES, cross_kernel=cross, test_outputs=world.test_outputs, **options)


def test_the_squared_loss_with_the_full_kernel(nt, several):
    theirs = nt.predict.gradient_descent_mse(several.kernel, several.targets, LR, trace_axes=())
    train, test = theirs(TIMES, several.outputs, several.test_outputs, several.cross)
    found = ours(several.kernel, several.cross, several, lr=LR / 2, loss="mean")
    assert np.abs(found.test_outputs[-1] - found.test_outputs[0]).max() > 0.1
    np.testing.assert_allclose(found.train_outputs, train, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.test_outputs, test, rtol=0, atol=1e-6)


def test_the_squared_loss_with_one_kernel_for_all_outputs(nt, several):
    kernel, cross = (np.einsum("ijaa->ij", array) / 3 for array in (several.kernel, several.cross))
    theirs = nt.predict.gradient_descent_mse(kernel, several.targets, LR)
    train, test = theirs(TIMES, several.outputs, several.test_outputs, cross)
    found = ours(kernel, cross, several, lr=LR / 2, loss="mean")
    np.testing.assert_allclose(found.train_outputs, train, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.test_outputs, test, rtol=0, atol=1e-6)


def test_the_limit_of_the_squared_loss(nt, several):
    theirs = nt.predict.gradient_descent_mse(several.kernel, several.targets, LR, trace_axes=())
    _, test = theirs(None, several.outputs, several.test_outputs, several.cross)
    options = {"lr": LR, "cross_kernel": several.cross, "test_outputs": several.test_outputs}
    found = predict(several.kernel, several.outputs, several.targets, times=[np.inf], **options)
    np.testing.assert_allclose(found.test_outputs[0], test, rtol=0, atol=1e-6 * np.abs(test).max())


@pytest.mark.parametrize("loss", ["half_sum", "sum", "mean", "cross_entropy", "cross_entropy_sum"])
def test_the_flow_of_any_loss_by_their_solver(nt, independent, several, loss):
    lr = {"mean": LR, "cross_entropy": LR}.get(loss, LR / 36)
    theirs = nt.predict.gradient_descent(independent.LOSSES[loss], several.kernel, several.targets, lr, trace_axes=())
    train, test = theirs(TIMES, several.outputs, several.test_outputs, several.cross)
    found = ours(several.kernel, several.cross, several, lr=lr, loss=loss)
    np.testing.assert_allclose(found.train_outputs, train, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.test_outputs, test, rtol=0, atol=1e-6)


def test_cross_entropy_with_one_kernel_for_all_outputs(nt, several):
    kernel, cross = (np.einsum("ijaa->ij", array) / 3 for array in (several.kernel, several.cross))
    theirs = nt.predict.gradient_descent(lambda f, y: optax.losses.softmax_cross_entropy(f, y).mean(), jnp.asarray(kernel), several.targets, LR)
    train, test = theirs(TIMES, several.outputs, several.test_outputs, jnp.asarray(cross))
    found = ours(kernel, cross, several, lr=LR, loss="cross_entropy")
    np.testing.assert_allclose(found.train_outputs, train, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.test_outputs, test, rtol=0, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_largest_learning_rate(nt, several, monkeypatch, momentum):
    """Theirs asks SciPy for the largest eigenvalue in words that it has forgotten: they are put into today's."""
    today = scipy.linalg.eigvalsh
    monkeypatch.setattr(scipy.linalg, "eigvalsh", lambda a, eigvals: today(a, subset_by_index=eigvals))
    theirs = nt.predict.max_learning_rate(several.kernel, momentum=momentum)
    found = max_stable_lr(several.kernel, loss="mean", optimizer="momentum", momentum=momentum)
    assert 2 * found == pytest.approx(float(theirs), rel=1e-6)
