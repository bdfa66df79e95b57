"""Equations of Deshpande et al. 2021 that do not hold as printed: each is stated as printed, simulated, and missed by it.

E1, E2, E3 and E7 here; dW/dt = -lr grad L is solved from the definitions, by SciPy over all weights of the linear model.
"""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import ntk_select as ns
from ntk_select.linearized import initial_speed, loss_curve, predict

LR, TIMES = 0.05, np.array([0.0, 0.2, 1.0, 3.0])


def simulated(world, half: bool):
    """|y - f_t|^2 where the weights flow down sum (y - f)^2, or half of it."""
    scale = 1.0 if half else 2.0

    def velocity(_, moved):
        return -LR * scale * world.jacobian.T @ (world.outputs + world.jacobian @ moved - world.targets)

    found = solve_ivp(velocity, (0, TIMES[-1]), np.zeros(world.jacobian.shape[1]), "DOP853", TIMES, rtol=1e-12, atol=1e-13)
    outputs = world.outputs[:, None] + world.jacobian @ found.y
    return np.square(world.targets[:, None] - outputs).sum(axis=0), outputs.T


def exponential(world, exponent):
    """dY' exp(exponent lr Theta t) dY."""
    residual = world.targets - world.outputs
    return np.array([residual @ expm(exponent * LR * world.kernel * time) @ residual for time in TIMES])


def test_e1_the_flow_of_the_loss_that_is_stated_has_exponent_four(binary):
    """Prop. 1 states L = |Y - f|^2, dw/dt = -lr grad L and prints L_t = dY' exp(-2 lr Theta t) dY."""
    losses, _ = simulated(binary, half=False)
    printed, corrected = exponential(binary, -2), exponential(binary, -4)
    residual = binary.targets - binary.outputs
    np.testing.assert_allclose(loss_curve(binary.kernel, residual, lr=LR, times=TIMES, loss="sum"), losses, rtol=1e-9)
    np.testing.assert_allclose(corrected, losses, rtol=1e-9)
    assert (printed[1:] > 1.1 * losses[1:]).all()
    assert printed[-1] > 1.4 * losses[-1]


def test_e1_exponent_two_is_the_flow_of_half_the_loss(binary):
    losses, _ = simulated(binary, half=True)
    residual = binary.targets - binary.outputs
    np.testing.assert_allclose(2 * loss_curve(binary.kernel, residual, lr=LR, times=TIMES), losses, rtol=1e-9)
    np.testing.assert_allclose(exponential(binary, -2), losses, rtol=1e-9)
    assert (exponential(binary, -4)[1:] < 0.9 * losses[1:]).all()


def test_e2_the_outputs_of_appendix_a_give_the_loss_twice_their_exponent(binary):
    """Appendix A: f_t = (I - e^(-lr Theta t)) Y + e^(-lr Theta t) f_0, and from it, as printed, L_t = dY' e^(-lr Theta t) dY."""
    losses, outputs = simulated(binary, half=True)
    decays = [expm(-LR * binary.kernel * time) for time in TIMES]
    appendix = np.array([binary.targets - decay @ binary.targets + decay @ binary.outputs for decay in decays])
    found = predict(binary.kernel, binary.outputs, binary.targets, lr=LR, times=TIMES)
    np.testing.assert_allclose(appendix, outputs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.train_outputs, appendix, rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.square(binary.targets - appendix).sum(axis=1), exponential(binary, -2), rtol=1e-11)
    np.testing.assert_allclose(2 * found.train_losses, losses, rtol=1e-9)
    assert (exponential(binary, -1)[1:] > 1.05 * losses[1:]).all()
    assert exponential(binary, -1)[-1] > 1.3 * losses[-1]


@pytest.mark.parametrize(("loss", "coefficient"), [("half_sum", 2), ("sum", 4)])
def test_e3_the_first_order_has_its_factor(binary, loss, coefficient):
    """Eq. 3 prints L_t = |dY|^2 - lr t dY' Theta dY + O(t^2): coefficient 1. It is 2 for the flow of half the loss, 4 for that of the loss."""
    residual, times = binary.targets - binary.outputs, np.array([1e-2, 5e-3, 2.5e-3])
    square, speed = float(residual @ residual), float(residual @ binary.kernel @ residual)
    losses = {"half_sum": 2, "sum": 1}[loss] * loss_curve(binary.kernel, residual, lr=LR, times=times, loss=loss)
    left = np.abs(losses - (square - coefficient * LR * times * speed))
    np.testing.assert_allclose(left[:-1] / left[1:], 4, rtol=0.02)  # what is left is of second order
    printed = np.abs(losses - (square - LR * times * speed))
    np.testing.assert_allclose(printed[:-1] / printed[1:], 2, rtol=0.02)  # of first order: it is wrong
    assert (printed > 30 * left).all()
    assert {"half_sum": 2, "sum": 1}[loss] * initial_speed(binary.kernel, residual, lr=LR, loss=loss) == pytest.approx(coefficient * LR * speed)
    euler = np.square(binary.targets - (binary.outputs - 1e-7 * LR * coefficient / 2 * binary.kernel @ -residual)).sum()
    assert (square - euler) / 1e-7 == pytest.approx(coefficient * LR * speed, rel=1e-5)


def test_e7_the_norm_of_eq_8_is_that_of_frobenius(binary):
    """Eq. 8 prints <K0, Y0> / (||K0|| ||Y0||) of the centred kernels and calls it Pearson's correlation; ||.|| is not said to be Frobenius'."""
    labels = (binary.targets > 0).astype(int)
    kernel, same = binary.kernel, ns.label_kernel(labels)
    value = ns.kernel_label_correlation(kernel, labels)
    assert value == pytest.approx(np.corrcoef(kernel.ravel(), same.ravel())[0, 1], abs=1e-13)
    first, second = kernel - kernel.mean(), same - same.mean()
    inner = float((first * second).sum())
    assert inner / (np.linalg.norm(first) * np.linalg.norm(second)) == pytest.approx(value, abs=1e-13)
    spectral = inner / (np.linalg.norm(first, 2) * np.linalg.norm(second, 2))
    assert spectral > 1.2 * value > 0


def test_e7_with_the_spectral_norm_it_would_be_no_correlation(independent):
    """Ten directions of like length, of which each helps: with the spectral norm the number is far above one."""
    labels = np.arange(20) % 10
    features = np.eye(10)[labels] + 0.01 * independent.draw(20, 10)
    kernel, same = features @ features.T, ns.label_kernel(labels)
    first, second = kernel - kernel.mean(), same - same.mean()
    spectral = float((first * second).sum()) / (np.linalg.norm(first, 2) * np.linalg.norm(second, 2))
    assert spectral > 3
    assert 0.9 < ns.kernel_label_correlation(kernel, labels) <= 1
