"""Each eigendirection moves as the optimiser, taken literally, moves it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_select.errors import ConfigError
from ntk_select.linearized.optimizers import OPTIMIZERS, Optimizer, is_number, read_times

VALUES = np.array([0.0, 1e-12, 1e-4, 0.3, 1.0, 2.5])


def literal(rule, s, slope, steps):
    """Residual and coefficient of one direction after 0 .. steps steps, from residual 1: a is moved by its own gradient."""
    a, velocity, found = 0.0, 0.0, []
    for _ in range(steps + 1):
        residual = 1 - s * a
        found.append((residual, a))
        gradient = -slope * residual + rule.weight_decay * a
        velocity = rule.momentum * velocity + gradient
        a -= rule.lr * (gradient + rule.momentum * velocity if rule.optimizer == "nesterov" else velocity)
    return np.array(found).T


@pytest.mark.parametrize("slope", [1.0, 2.0])
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize(("optimizer", "momentum"), [("gd", 0.0), ("momentum", 0.0), ("momentum", 0.9), ("nesterov", 0.0), ("nesterov", 0.9)])
def test_factors_are_those_of_taking_the_steps(optimizer, momentum, decay, slope):
    rule, times = Optimizer(optimizer, 0.25, momentum, decay), np.arange(80.0)
    residuals, coefficients = rule.factors(VALUES, slope, times)
    for place, s in enumerate(VALUES):
        residual, coefficient = literal(rule, s, slope, 79)
        np.testing.assert_allclose(residuals[:, place], residual, rtol=0, atol=1e-12)
        np.testing.assert_allclose(coefficients[:, place], coefficient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_factors_of_flow_solve_their_equation(decay):
    """By differences: a' = lr (slope r - decay a), r = 1 - s a."""
    rule, h, times = Optimizer("flow", 0.4, weight_decay=decay), 1e-4, np.array([0.0, 0.5, 7.0, 40.0])
    r, a = rule.factors(VALUES, 2.0, times)
    np.testing.assert_allclose(r, 1 - VALUES * a, rtol=0, atol=1e-12)
    change = (rule.factors(VALUES, 2.0, times + h)[1] - a) / h
    middle = rule.factors(VALUES, 2.0, times + h / 2)[1]
    np.testing.assert_allclose(change, 0.4 * (2 * (1 - VALUES * middle) - decay * middle), rtol=1e-6, atol=1e-7)
    assert (a[0] == 0).all()
    assert (r[0] == 1).all()


@given(
    st.sampled_from(["flow", "gd", "momentum", "nesterov"]),
    st.floats(0, 0.95),
    st.floats(0, 1),
    st.floats(1e-3, 0.9),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.lists(st.integers(0, 500), min_size=1, max_size=5),
)
def test_residual_and_coefficient_belong_together(optimizer, momentum, decay, share, values, times):
    """r_t = r - s a_t, at every time, below the largest rate."""
    values = np.array(values)
    momentum = momentum if optimizer in ("momentum", "nesterov") else 0.0
    rule = Optimizer(optimizer, 1.0, momentum, decay)
    rule = Optimizer(optimizer, share * min(rule.largest_rate, 4.0) / (2 + decay), momentum, decay)
    r, a = rule.factors(values, 2.0, times)
    np.testing.assert_allclose(r, 1 - values * a, rtol=0, atol=1e-9)
    assert np.isfinite(a).all()


@pytest.mark.parametrize("z", [1e-17, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("optimizer", ["flow", "gd"])
def test_small_rates_lose_no_digits(z, optimizer):
    """The coefficient of a direction that hardly moves is lr times time, less half of the rate times its square."""
    found = Optimizer(optimizer, 1.0).factors(np.array([z]), 1.0, np.array([100.0]))[1][0, 0]
    pairs = 100 * 99 / 2 if optimizer == "gd" else 100**2 / 2
    assert found == pytest.approx(100 - z * pairs, rel=max(1e-14, 2e4 * z**2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_limit_is_where_long_training_comes_to(optimizer, decay):
    rule, values = Optimizer(optimizer, 0.3, weight_decay=decay), np.array([0.0, 0.5, 2.0])
    times = np.array([0, np.inf, 5000])
    r, a = rule.factors(values, 1.0, times)
    np.testing.assert_allclose(r[1], r[2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(r[1], (decay if decay else values == 0) / (values + (decay or 1)) * (1 if decay else 1 + values), atol=1e-12)
    moves = values + decay > 0
    np.testing.assert_allclose(a[1][moves], a[2][moves], rtol=1e-12)
    assert (a[1][~moves] == 0).all()  # the pseudo-inverse


def test_finite_and_infinite_times_agree_on_which_eigenvalues_move():
    values = np.array([0.0, 1e-16, 1.0])
    for optimizer in ("flow", "gd"):
        limit, late = Optimizer(optimizer, 0.5).factors(values, 1.0, np.array([np.inf, 1e19]))[0]
        np.testing.assert_allclose(limit, [1, 0, 0])
        np.testing.assert_allclose(late, limit, atol=1e-12)


def test_slow_directions_keep_their_digits():
    for value, time in ((1e-10, 1e10), (1e-12, 1e12), (3e-17, 1e16)):
        found = Optimizer("gd", 1.0).factors(np.array([value]), 1.0, np.array([time]))[0]
        np.testing.assert_allclose(found, [[np.exp(-value * time)]], rtol=1e-9)


def test_an_eigenvalue_of_zero_moves_no_residual_whatever_the_weight_decay():
    assert Optimizer("gd", 30.0, weight_decay=0.1).factors(np.zeros(1), 1.0, np.array([2000.0]))[0] == 1


@pytest.mark.parametrize(("optimizer", "momentum"), [("gd", 0.0), ("momentum", 0.5), ("nesterov", 0.5), ("nesterov", 0.95)])
def test_the_largest_rate_is_where_growth_begins(optimizer, momentum):
    largest = Optimizer(optimizer, 1.0, momentum).largest_rate
    for share, grows in ((0.999, False), (1.001, True)):
        residual = literal(Optimizer(optimizer, share * largest, momentum), 1.0, 1.0, 8000 if momentum < 0.9 else 3000)[0]
        assert (np.abs(residual[-20:]).max() > 10) == grows
    assert Optimizer("flow").largest_rate == math.inf


def test_only_flow_takes_no_steps():
    assert [Optimizer(name).discrete for name in OPTIMIZERS] == [False, True, True, True]


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_a_million_steps_are_a_power_not_a_loop(optimizer):
    rule = Optimizer(optimizer, 1e-6, 0.9)
    found = rule.factors(np.array([1.0]), 1.0, np.array([10**6]))[0][0, 0]
    assert found == pytest.approx(np.exp(-10), rel=1e-3)


SAY_NO = {
    "optimizer": ({"optimizer": "adam"}, "optimizer='adam' is unknown.*Allowed: flow, gd, momentum, nesterov"),
    "near optimizer": ({"optimizer": "nestrov"}, "Did you mean 'nesterov'"),
    "lr zero": ({"lr": 0.0}, "lr=0.0 must be a positive number"),
    "lr negative": ({"lr": -1}, "lr=-1 must be"),
    "lr infinite": ({"lr": math.inf}, "lr=inf must be"),
    "lr nan": ({"lr": math.nan}, "lr=nan must be"),
    "lr words": ({"lr": "auto"}, "lr='auto' must be"),
    "lr bool": ({"lr": True}, "lr=True must be"),
    "momentum one": ({"optimizer": "momentum", "momentum": 1.0}, "momentum=1.0 must be a number from 0 to below 1"),
    "momentum negative": ({"optimizer": "momentum", "momentum": -0.1}, "momentum=-0.1 must be"),
    "momentum none": ({"optimizer": "momentum", "momentum": None}, "momentum=None must be"),
    "momentum of gd": ({"optimizer": "gd", "momentum": 0.9}, "momentum=0.9 requires optimizer='momentum' or 'nesterov', not 'gd'"),
    "momentum of flow": ({"momentum": 0.9}, "requires optimizer='momentum' or 'nesterov', not 'flow'"),
    "weight decay negative": ({"weight_decay": -1e-4}, "weight_decay=-0.0001 must be a number of at least 0"),
    "weight decay infinite": ({"weight_decay": math.inf}, "weight_decay=inf must be"),
    "weight decay none": ({"weight_decay": None}, "weight_decay=None must be"),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_optimizers_refuse(name):
    options, sentence = SAY_NO[name]
    with pytest.raises(ConfigError, match=sentence):
        Optimizer(**options)


def test_times_are_given_or_counted():
    flow, gd = Optimizer(), Optimizer("gd")
    assert (read_times(gd, None, 3) == [0, 1, 2, 3]).all()
    assert (read_times(gd, None, np.int64(0)) == [0]).all()
    assert (read_times(flow, 0.5, None) == [0.5]).all()
    assert (read_times(gd, [3, 1, 3], None) == [3, 1, 3]).all()
    assert (read_times(gd, [2, np.inf], None, limit=True) == [2, np.inf]).all()
    assert read_times(flow, range(3), None).dtype == np.float64


WHICH = "Give either times= or steps="
TIMES = {
    "neither": (None, None, WHICH),
    "both": ([1], 1, WHICH),
    "half a step": (None, 1.5, "steps=1.5 must be a whole number from 0"),
    "negative steps": (None, -1, "steps=-1 must be a whole number from 0"),
    "steps bool": (None, True, "steps=True must be a whole number"),
    "steps in a row": (None, [1, 2], r"steps=\[1, 2\] must be a whole number from 0. For single points, try: times="),
    "words": ("soon", None, "times= takes numbers; given: str"),
    "ragged": ([[1], [2, 3]], None, "times= takes numbers; given: list"),
    "empty": ([], None, "times= takes a one-dimensional array of non-negative numbers"),
    "table": ([[1, 2]], None, "times= takes a one-dimensional array of non-negative numbers"),
    "negative": ([0, -1], None, "times= takes a one-dimensional array of non-negative numbers"),
    "nan": ([math.nan], None, "times= takes a one-dimensional array of non-negative numbers"),
    "infinity": ([1, math.inf], None, "times= must be finite here"),
    "between steps": ([1, 2.5], None, "optimizer='gd' takes whole steps; times= holds 2.5. Try: optimizer='flow'"),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_refused(name):
    times, steps, sentence = TIMES[name]
    with pytest.raises(ConfigError, match=sentence):
        read_times(Optimizer("gd"), times, steps)


def test_numbers_are_real_and_single():
    assert all(map(is_number, [0, 1.5, np.float32(2), np.int8(3), math.inf]))
    assert not any(map(is_number, [True, np.True_, "1", None, 1j, math.nan, np.float32("nan"), [1.0], np.ones(1)]))
