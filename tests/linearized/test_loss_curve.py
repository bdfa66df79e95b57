"""Prop. 1 is the loss of a linearised network that is really trained."""

import math

import numpy as np
import pytest
from scipy.linalg import expm

from ntk_select.errors import ConfigError
from ntk_select.linearized import loss_curve, max_stable_lr, predict, time_to_loss

STEPS = 200
OPTIMIZERS = [("gd", 0.0), ("momentum", 0.9), ("nesterov", 0.9)]
LOSSES = ["half_sum", "sum", "mean"]
ONE_LOSS = ["half_sum", pytest.param("sum", marks=pytest.mark.slow), pytest.param("mean", marks=pytest.mark.slow)]


def rates(independent, world, loss, share=0.6, decay=0.02):
    """A learning rate that is this share of the largest for plain descent, and a weight decay that counts."""
    speed = independent.slope(loss, world.outputs.size) * independent.largest(world.kernel)
    return {"lr": 2 * share / (speed * (1 + decay)), "weight_decay": decay * speed}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_the_curve_is_that_of_training_the_linearised_network(independent, world, optimizer, momentum, decay, loss):
    options = rates(independent, world, loss, decay=decay) | {"momentum": momentum, "steps": STEPS}
    trained = independent.train(world, loss, nesterov=optimizer == "nesterov", **options)
    curve = loss_curve(world.kernel, world.targets - world.outputs, optimizer=optimizer, loss=loss, **options)
    assert curve.dtype == np.float64
    assert curve[-1] < 0.5 * curve[0]
    np.testing.assert_allclose(curve, trained.losses, rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_one_kernel_for_all_outputs_is_that_kernel_times_the_identity(independent, several, optimizer, momentum, decay, loss):
    kernel = np.einsum("ijaa->ij", several.kernel) / several.kernel.shape[2]
    speed = independent.slope(loss, several.outputs.size) * independent.largest(kernel)
    options = {"lr": 1.2 / (speed * (1 + decay)), "weight_decay": decay * speed, "momentum": momentum, "steps": STEPS}
    outputs = independent.train_outputs(kernel, several.outputs, several.targets, loss, nesterov=optimizer == "nesterov", **options)
    curve = loss_curve(kernel, several.targets - several.outputs, optimizer=optimizer, loss=loss, **options)
    np.testing.assert_allclose(curve, independent.losses(loss, outputs, several.targets), rtol=1e-8)
    found = predict(kernel, several.outputs, several.targets, optimizer=optimizer, loss=loss, **options)
    np.testing.assert_allclose(found.train_outputs, outputs, rtol=0, atol=1e-12)


def test_a_wrong_kernel_would_be_noticed(independent, several):
    """As a control: the class-trace kernel is another curve than the exact one."""
    options = rates(independent, several, "half_sum") | {"steps": STEPS, "optimizer": "gd"}
    trace = np.einsum("ijaa->ij", several.kernel) / several.kernel.shape[2]
    residual = several.targets - several.outputs
    exact, approximate = loss_curve(several.kernel, residual, **options), loss_curve(trace, residual, **options)
    assert np.abs(approximate / exact - 1).max() > 0.05


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_flow_is_the_matrix_exponential(independent, world, loss, decay):
    options, times = rates(independent, world, loss, decay=decay), np.array([0.0, 0.3, 1.0, 17.5, 400.0])
    residual, size = (world.targets - world.outputs).reshape(-1), world.outputs.size
    driven = options["lr"] * independent.slope(loss, size) * independent.square(world.kernel)
    shrunk = options["lr"] * options["weight_decay"] * np.eye(size)
    generator = np.block([[-driven - shrunk, shrunk], [np.zeros((size, 2 * size))]])  # r' = -lr slope Theta r + lr decay (r_0 - r)
    expected = [np.square((expm(generator * time) @ np.tile(residual, 2))[:size]).sum() for time in times]
    value = {"half_sum": 0.5, "sum": 1.0, "mean": 1 / size}[loss]
    curve = loss_curve(world.kernel, world.targets - world.outputs, loss=loss, times=times, **options)
    np.testing.assert_allclose(curve, value * np.array(expected), rtol=1e-9)


@pytest.mark.parametrize("loss", ONE_LOSS)
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_flow_is_the_limit_of_small_steps_to_first_order(independent, world, loss, optimizer, momentum):
    """Momentum moves 1 / (1 - momentum) times as fast in the limit."""
    options, residual, momentum = rates(independent, world, loss, share=0.4), world.targets - world.outputs, momentum and 0.5
    times, errors = np.array([2, 4, 8, 16]), []
    decay, lr = options["weight_decay"], options["lr"]
    flow = loss_curve(world.kernel, residual, lr=lr, times=times, weight_decay=decay, loss=loss)
    for halved in (7, 8, 9, 10):
        small = {"lr": lr * (1 - momentum) / 2**halved, "times": times * 2**halved}
        steps = loss_curve(world.kernel, residual, optimizer=optimizer, momentum=momentum, weight_decay=decay, loss=loss, **small)
        errors.append(np.abs(steps - flow).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 0.9).all()
    assert (orders < 1.1).all()


def test_only_lr_times_time_counts_under_flow(several):
    residual = several.targets - several.outputs
    np.testing.assert_allclose(
        loss_curve(several.kernel, residual, lr=0.01, times=[0, 10, 30]), loss_curve(several.kernel, residual, lr=0.1, times=[0, 1, 3]), rtol=1e-13
    )


def test_a_column_and_a_row_are_the_same(binary):
    residual = binary.targets - binary.outputs
    options = {"lr": 0.01, "steps": 20, "optimizer": "gd"}
    row = loss_curve(binary.kernel, residual, **options)
    assert (loss_curve(binary.kernel, residual[:, None], **options) == row).all()
    np.testing.assert_allclose(loss_curve(binary.kernel[:, :, None, None], residual, **options), row, rtol=1e-13)


def test_times_come_in_any_order_and_more_than_once(binary):
    residual, steps = binary.targets - binary.outputs, np.arange(31)
    for optimizer, momentum in OPTIMIZERS:
        options = {"lr": 0.01, "optimizer": optimizer, "momentum": momentum}
        whole = loss_curve(binary.kernel, residual, steps=30, **options)
        for times in ([30, 0, 7, 7, 2], steps[::-1]):
            np.testing.assert_allclose(loss_curve(binary.kernel, residual, times=times, **options), whole[np.array(times)], rtol=1e-12)


def test_single_precision_kernels_are_taken(several):
    residual = several.targets - several.outputs
    options = {"lr": 0.01, "steps": 50}
    single = loss_curve(several.kernel.astype(np.float32), residual.astype(np.float32), **options)
    np.testing.assert_allclose(single, loss_curve(several.kernel, residual, **options), rtol=1e-4)


@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_a_kernel_of_zeros_does_not_move(optimizer, momentum):
    curve = loss_curve(np.zeros((3, 3)), np.ones(3), lr=0.1, steps=5, optimizer=optimizer, momentum=momentum)
    assert (curve == 1.5).all()


@pytest.mark.parametrize("loss", ONE_LOSS)
@pytest.mark.parametrize("share", [0.1, 0.9, 0.999], ids=lambda share: f"z up to {2 * share}")
def test_the_first_step_at_which_descent_is_below(independent, world, loss, share):
    """The largest rate z is between 1 and 2 for the last two, where the sign of the residual alternates."""
    residual, lr = world.targets - world.outputs, rates(independent, world, loss, share, 0.0)["lr"]
    curve = loss_curve(world.kernel, residual, lr=lr, steps=3000, optimizer="gd", loss=loss)
    for target in np.geomspace(curve[0] * 0.999, curve[-1] * 1.001, 9):
        assert time_to_loss(world.kernel, residual, target, lr=lr, optimizer="gd", loss=loss) == np.argmax(curve <= target)


@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_the_first_step_is_found_where_the_loss_goes_up_and_down(independent, world, optimizer, momentum, decay):
    residual = world.targets - world.outputs
    options = rates(independent, world, "sum", 0.7, decay) | {"optimizer": optimizer, "momentum": momentum, "loss": "sum"}
    curve = loss_curve(world.kernel, residual, steps=600, **options)
    for target in np.geomspace(curve[0] * 0.999, curve.min() * 1.001, 9):
        assert time_to_loss(world.kernel, residual, target, **options) == np.argmax(curve <= target)
    assert (np.diff(curve) > 0).any() == (momentum > 0)


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_the_first_time_of_flow(independent, world, decay):
    residual, options = world.targets - world.outputs, rates(independent, world, "half_sum", decay=decay)
    dense = np.linspace(0, 60, 6001)
    curve = loss_curve(world.kernel, residual, times=dense, **options)
    for place in (1, 50, 700, 6000):
        time = time_to_loss(world.kernel, residual, curve[place], **options)
        assert time == pytest.approx(dense[place], rel=1e-9)
        assert loss_curve(world.kernel, residual, times=[time], **options)[0] == pytest.approx(curve[place], rel=1e-10)


def test_a_loss_that_is_there_already_takes_no_time(binary):
    residual = binary.targets - binary.outputs
    start = 0.5 * float(residual @ residual)
    for optimizer in ("flow", "gd", "momentum"):
        assert time_to_loss(binary.kernel, residual, 1.01 * start, lr=0.01, optimizer=optimizer) == 0


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "gd"}, {"optimizer": "gd", "weight_decay": 0.1}, {"optimizer": "momentum", "momentum": 0.5}, {"weight_decay": 0.1}]
)
def test_a_loss_that_is_never_reached_takes_for_ever(independent, options):
    """A kernel of rank two for five examples leaves three directions of the residual for ever."""
    rows, residual = independent.draw(5, 2), independent.draw(5, seed=1)
    kernel = rows @ rows.T
    left = residual - rows @ np.linalg.lstsq(rows, residual)[0]
    lr, rest = 0.5 / independent.largest(kernel), 0.5 * float(left @ left)
    assert time_to_loss(kernel, residual, 0.999 * rest, lr=lr, max_steps=5000, **options) == math.inf
    assert time_to_loss(kernel, residual, -1.0, lr=lr, max_steps=100, **options) == math.inf
    reached = time_to_loss(kernel, residual, 1.2 * rest, lr=lr, max_steps=5000, **options)
    assert 0 < reached < 5000


@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_steps_beyond_the_most_are_not_looked_at(independent, binary, optimizer, momentum):
    residual = binary.targets - binary.outputs
    options = {"lr": 0.02, "optimizer": optimizer, "momentum": momentum, "weight_decay": 1e-3}
    curve = loss_curve(binary.kernel, residual, steps=500, **options)
    target = 0.3 * curve[0]
    first = int(np.argmax(curve <= target))
    assert first > 1
    assert time_to_loss(binary.kernel, residual, target, max_steps=first, **options) == first
    assert time_to_loss(binary.kernel, residual, target, max_steps=first - 1, **options) == math.inf


def test_a_rate_that_diverges_may_still_pass_the_target_first(independent):
    """Along the smaller eigenvalue the residual falls for a while, before the larger one takes over."""
    kernel, residual = np.diag([1.0, 0.5]), np.array([1e-9, 1.0])
    assert time_to_loss(kernel, residual, 0.4, lr=2.2, optimizer="gd") == 1
    assert time_to_loss(kernel, residual, 1e-30, lr=2.2, optimizer="gd", max_steps=2000) == math.inf


@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_above_the_largest_learning_rate_losses_grow_to_infinity(binary, optimizer, momentum):
    lr = 3 * max_stable_lr(binary.kernel, optimizer=optimizer, momentum=momentum)
    curve = loss_curve(binary.kernel, binary.targets - binary.outputs, lr=lr, times=[0, 10, 20, 10**4, 10**6], optimizer=optimizer, momentum=momentum)
    assert curve[0] < curve[1] < curve[2]
    assert (curve[3:] == math.inf).all()


def test_a_diverging_curve_without_the_matrix_grows_to_infinity_as_well(binary):
    residual, lr = binary.targets - binary.outputs, 3 * max_stable_lr(binary.kernel)
    options = {"lr": lr, "times": [0, 10, 10**4], "optimizer": "gd"}
    np.testing.assert_allclose(
        loss_curve(lambda v: binary.kernel @ v, residual, **options), loss_curve(binary.kernel, residual, **options), rtol=1e-6
    )


SAY_NO = {
    "kernel that is not symmetric": ({"kernel": np.triu(np.ones((3, 3)))}, "kernel is not symmetric.*cross_kernel="),
    "kernel that is not positive": ({"kernel": np.diag([1.0, 1.0, -0.1])}, "eigenvalue -0.1, the largest being 1: it is not positive semi-definite"),
    "kernel that is negative": ({"kernel": -np.eye(3)}, "not positive semi-definite"),
    "kernel of another size": ({"kernel": np.eye(4)}, r"kernel has shape \(4, 4\); for 3 examples and 1 outputs allowed are \(3, 3\) and"),
    "loss without closed form": ({"loss": "cross_entropy"}, "'cross_entropy' has no closed form.*predict"),
    "loss": ({"loss": "half"}, "loss='half' is unknown"),
    "tolerance": ({"tolerance": 0.0}, "tolerance=0.0 must be a number between 0 and 1"),
    "tolerance one": ({"tolerance": 1}, "tolerance=1 must be"),
    "tolerance text": ({"tolerance": "1e-3"}, "tolerance='1e-3' must be"),
    "products": ({"max_products": 0}, "max_products=0 must be a whole number from 1"),
    "products half": ({"max_products": 1.5}, "max_products=1.5 must be"),
    "products bool": ({"max_products": True}, "max_products=True must be"),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_a_curve_refuses(name):
    given, sentence = SAY_NO[name]
    with pytest.raises(ConfigError, match=sentence):
        loss_curve(**({"kernel": np.eye(3), "residual": np.ones(3), "lr": 0.1, "steps": 3} | given))


@pytest.mark.parametrize("target", ["0.1", None, math.nan, True, 1j])
def test_the_target_loss_is_a_number(target):
    with pytest.raises(ConfigError, match=r"target=.* must be a number, a loss"):
        time_to_loss(np.eye(2), np.ones(2), target, lr=0.1)


def test_the_time_to_a_loss_needs_an_array():
    with pytest.raises(ConfigError, match="time_to_loss needs all eigenvalues. Try: the kernel as an array"):
        time_to_loss(lambda v: v, np.ones(2), 0.1, lr=0.1)
