"""The largest stable learning rate is the one above which training of the linearised network diverges."""

import math

import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import max_stable_lr
from ntk_select.linearized.stability import SAFE_SHARE, default_lr

OPTIMIZERS = [("gd", 0.0), ("momentum", 0.9), ("nesterov", 0.9)]
LOSSES = ["half_sum", "sum", "mean"]
ONE_LOSS = ["half_sum", pytest.param("sum", marks=pytest.mark.slow), pytest.param("mean", marks=pytest.mark.slow)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("loss", ONE_LOSS)
@pytest.mark.parametrize(("optimizer", "momentum"), [*OPTIMIZERS, ("momentum", 0.0), ("nesterov", 0.3)])
def test_training_converges_below_the_largest_learning_rate_and_diverges_above(independent, world, optimizer, momentum, loss, decay):
    decay *= independent.slope(loss, world.outputs.size) * independent.largest(world.kernel)
    options = {"loss": loss, "weight_decay": decay, "momentum": momentum}
    largest = max_stable_lr(world.kernel, optimizer=optimizer, size=world.outputs.size, **options)
    options |= {"nesterov": optimizer == "nesterov", "steps": 400 if (optimizer, momentum) == ("momentum", 0.9) else 1500}
    below, above = (independent.train(world, lr=share * largest, **options) for share in (0.99, 1.01))
    assert below.losses[-1] < below.losses[0]
    assert below.losses[-50:].max() < 1.001 * below.losses[-100:-50].max()
    assert above.losses[-50:].max() > 1.3 * above.losses[-100:-50].max()
    assert above.losses[-1] > 100 * above.losses[0]


def test_the_largest_learning_rate_of_an_eigenvalue_alone(independent, several):
    largest = independent.largest(several.kernel)
    assert max_stable_lr(largest) == pytest.approx(2 / largest)
    assert max_stable_lr(largest, weight_decay=3.0, loss="sum") == pytest.approx(2 / (2 * largest + 3))
    assert max_stable_lr(several.kernel) == pytest.approx(2 / largest, rel=1e-12)
    assert max_stable_lr(several.kernel, loss="mean") == pytest.approx(several.outputs.size / largest, rel=1e-12)
    assert max_stable_lr(np.float32(2), loss="mean", size=5) == pytest.approx(5 / 2)
    assert max_stable_lr(several.kernel, optimizer="flow") == math.inf
    assert max_stable_lr(np.zeros((2, 2))) == math.inf
    assert max_stable_lr(0, weight_decay=0.5) == pytest.approx(4.0)


@pytest.mark.parametrize("kernel", [np.ones((2, 3)), np.ones(3), np.ones((3, 3, 2, 1)), np.ones((3, 3, 2)), None])
def test_the_largest_learning_rate_is_of_a_kernel_or_a_number(kernel):
    with pytest.raises(ConfigError, match=r"kernel has shape .*allowed are \(n, n\), \(n, n, c, c\), .*or a number"):
        max_stable_lr(kernel)


def test_the_largest_learning_rate_of_a_function(independent, several, binary):
    matrix = independent.square(several.kernel)
    for loss in LOSSES:
        options = {"loss": loss, "weight_decay": 0.1, "optimizer": "nesterov", "momentum": 0.9}
        found = max_stable_lr(lambda v: (matrix @ v.reshape(-1)).reshape(v.shape), shape=(12, 3), **options)
        assert found == pytest.approx(max_stable_lr(several.kernel, **options), rel=1e-4)
    assert max_stable_lr(lambda v: binary.kernel @ v, shape=(12,)) == pytest.approx(max_stable_lr(binary.kernel), rel=1e-4)
    assert max_stable_lr(lambda v: 4 * v, shape=(1,)) == pytest.approx(0.5)
    assert max_stable_lr(lambda v: 4 * v, shape=(1, 2)) == pytest.approx(0.5)


def test_the_largest_learning_rate_of_a_function_of_zeros():
    assert max_stable_lr(lambda v: 0 * v, shape=(5,)) == math.inf


@pytest.mark.parametrize("shape", [None, 3, (), (0,), (1, 2, 3), [3]])
def test_a_function_is_asked_with_the_shape_of_the_outputs(shape):
    with pytest.raises(ConfigError, match=r"A kernel function requires the shape of the outputs; given: shape=.*Try: shape=\(n, c\)"):
        max_stable_lr(lambda v: v, shape=shape)


@pytest.mark.parametrize("kernel", [np.eye(3), 2.0])
def test_the_largest_learning_rate_of_a_mean_needs_the_number_of_residuals(kernel):
    with pytest.raises(ConfigError, match="loss='mean' divides by the number of residuals, n times c. Try: size="):
        max_stable_lr(kernel, loss="mean")


def test_the_default_is_a_share_of_the_largest_rate_and_needs_a_kernel_that_is_not_zero():
    assert default_lr(3.0) == pytest.approx(0.3)
    assert SAFE_SHARE == 0.1
    with pytest.raises(ConfigError, match="The kernel is zero.*Try: layers='all', or a head that is not zero, as from with_new_head"):
        default_lr(math.inf)
