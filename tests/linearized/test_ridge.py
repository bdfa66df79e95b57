"""Kernel ridge regression is that of others, and where training with weight decay ends."""

import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import kernel_ridge


@pytest.mark.parametrize("columns", [(), (3,)])
def test_it_is_that_of_scikit_learn(independent, columns):
    kernel_ridge_of = pytest.importorskip("sklearn.kernel_ridge").KernelRidge
    x, x_test, targets = independent.draw(20, 30), independent.draw(6, 30, seed=1), independent.draw(20, *columns, seed=2)
    model = kernel_ridge_of(alpha=0.7, kernel="precomputed").fit(x @ x.T, targets)
    for kernel, cross in [(x @ x.T, x_test @ x.T), (lambda v: x @ (x.T @ v), lambda v: x_test @ (x.T @ v))]:
        found = kernel_ridge(kernel, targets, ridge=0.7, cross_kernel=cross, test_outputs=np.zeros((6, *columns)))
        np.testing.assert_allclose(found.coefficients, model.dual_coef_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(found.train_outputs, model.predict(x @ x.T), rtol=0, atol=1e-7)
        np.testing.assert_allclose(found.test_outputs, model.predict(x_test @ x.T), rtol=0, atol=1e-7)


@pytest.mark.parametrize("loss", ["half_sum", "sum", "mean"])
def test_it_is_the_minimum_of_the_loss_with_weight_decay(independent, world, loss):
    """The gradient in the weights is zero there: of the loss at f_0 + J (w - w_0), plus weight_decay (w - w_0)."""
    slope, decay = independent.slope(loss, world.outputs.size), 0.3
    found = kernel_ridge(
        world.kernel, world.targets, ridge=decay / slope, outputs=world.outputs, cross_kernel=world.cross, test_outputs=world.test_outputs
    )
    jacobian, test_jacobian = (array.reshape(-1, array.shape[-1]) for array in (world.jacobian, world.test_jacobian))
    moved = jacobian.T @ found.coefficients.reshape(-1)
    outputs = world.outputs.reshape(-1) + jacobian @ moved
    np.testing.assert_allclose(slope * jacobian.T @ (outputs - world.targets.reshape(-1)) + decay * moved, 0, atol=1e-11)
    np.testing.assert_allclose(found.train_outputs.reshape(-1), outputs, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.test_outputs.reshape(-1), world.test_outputs.reshape(-1) + test_jacobian @ moved, rtol=0, atol=1e-11)
    assert found.train_outputs.shape == found.coefficients.shape == world.outputs.shape
    assert found.test_outputs.shape == world.test_outputs.shape


def test_what_is_left_out_is_zero_or_absent(several):
    kernel = np.einsum("ijaa->ij", several.kernel)
    found = kernel_ridge(kernel, several.targets, ridge=1.0)
    assert found.test_outputs is None
    np.testing.assert_allclose(found.train_outputs, kernel @ found.coefficients, rtol=0, atol=1e-12)
    cross = np.einsum("ijaa->ij", several.cross)
    np.testing.assert_allclose(
        kernel_ridge(kernel, several.targets, ridge=1.0, cross_kernel=cross).test_outputs, cross @ found.coefficients, atol=1e-12
    )


def test_nothing_to_learn_is_no_change(several):
    for kernel in (np.eye(12), lambda v: v):
        found = kernel_ridge(kernel, several.outputs, ridge=0.1, outputs=several.outputs)
        assert (found.coefficients == 0).all()
        assert (found.train_outputs == several.outputs).all()


ONES = np.ones(3)
SAY_NO = {
    "ridge zero": ({"ridge": 0}, "ridge=0 must be a positive number"),
    "ridge negative": ({"ridge": -1.0}, "ridge=-1.0 must be"),
    "ridge none": ({"ridge": None}, "ridge=None must be"),
    "ridge too small": (
        {"kernel": np.ones((3, 3)) - 1e-6 * np.eye(3), "ridge": 1e-9},
        "kernel [+] ridge is not positive definite at ridge=1e-09. Try: a larger",
    ),
    "shapes": ({"outputs": np.ones((3, 2))}, r"targets has shape \(3,\) for outputs \(3, 2\)"),
    "kernel": ({"kernel": np.eye(2)}, r"kernel has shape \(2, 2\)"),
    "test outputs alone": ({"test_outputs": np.ones(2)}, "test_outputs= requires cross_kernel="),
    "columns of test outputs": ({"cross_kernel": np.ones((2, 3)), "test_outputs": np.ones((2, 2))}, r"test_outputs has shape \(2, 2\)"),
    "cross kernel of unknown size": (
        {"cross_kernel": lambda v: v[:2]},
        "A function cross_kernel= requires test_outputs=, for the number of test examples",
    ),
    "cross kernel of another size": (
        {"cross_kernel": np.ones((2, 4))},
        r"cross_kernel has shape \(2, 4\); for 3 examples and 1 outputs allowed are \(2, 3\)",
    ),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_ridge_regression_refuses(name):
    options, sentence = SAY_NO[name]
    with pytest.raises(ConfigError, match=sentence):
        kernel_ridge(**({"kernel": np.eye(3), "targets": ONES, "ridge": 0.1} | options))


def test_gradients_that_do_not_conjugate_are_told(independent):
    """Eigenvalues over sixteen orders of magnitude, and next to no ridge."""
    vectors = np.linalg.qr(independent.draw(30, 30))[0]
    kernel = vectors * np.geomspace(1e16, 1, 30) @ vectors.T
    with pytest.raises(ConfigError, match="Conjugate gradients did not reach tolerance=1e-14 at ridge=1e-20. Try: a larger ridge or tolerance"):
        kernel_ridge(lambda v: kernel @ v, np.ones(30), ridge=1e-20, tolerance=1e-14)
