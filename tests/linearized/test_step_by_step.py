"""Training without a closed form: steps, flow, limit, and batches that name nothing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import predict
from ntk_select.linearized.optimizers import Optimizer
from ntk_select.linearized.predict import descend, integrate_flow, minimum, read_batches
from ntk_select.linearized.problem import read_problem

ONE_HOT = np.eye(2)[[0, 1, 0]]
ZEROS = np.zeros((3, 2))


def test_each_step_is_one_product():
    calls = []
    problem = read_problem(lambda v: calls.append(0) or v, ZEROS)
    found = descend(problem, ZEROS, ONE_HOT, Optimizer("gd", 0.5), "half_sum", np.array([4.0, 0.0, 4.0]))
    assert len(calls) == 4
    assert found.shape == (3, 6)
    assert (found[1] == 0).all()
    np.testing.assert_allclose(found[[0, 2]], np.tile((1 - 0.5**4) * ONE_HOT.reshape(-1), (2, 1)))


def test_no_step_is_no_product():
    assert (descend(read_problem(np.eye(3), ZEROS), ZEROS, ONE_HOT, Optimizer("gd"), "sum", np.zeros(1)) == 0).all()


def test_the_flow_of_a_squared_loss_is_the_closed_form(independent, several):
    """The solver takes any loss; here there is something to compare with."""
    times = np.array([0.0, 1.0, 12.0])
    for decay in (0.0, 0.4):
        rule = Optimizer("flow", 0.05, weight_decay=decay)
        found = integrate_flow(read_problem(several.kernel, several.outputs), several.outputs, several.targets, rule, "sum", times)
        expected = predict(several.kernel, several.outputs, several.targets, lr=0.05, times=times, weight_decay=decay, loss="sum").coefficients
        np.testing.assert_allclose(found, expected.reshape(3, -1), rtol=0, atol=1e-8)


def test_the_limit_of_a_squared_loss_is_the_closed_form(several):
    problem, rule = read_problem(several.kernel, several.outputs), Optimizer("flow", 1.0, weight_decay=0.4)
    expected = predict(several.kernel, several.outputs, several.targets, lr=1.0, times=[np.inf], weight_decay=0.4).coefficients
    np.testing.assert_allclose(minimum(problem, several.outputs, several.targets, rule, "half_sum"), expected.reshape(-1), rtol=1e-7)


def test_a_flow_that_cannot_be_followed_is_told(monkeypatch):
    monkeypatch.setattr(sys.modules[predict.__module__], "solve_ivp", lambda *_, **__: SimpleNamespace(success=False, message="Steps are too small."))
    with pytest.raises(ConfigError, match=r"The flow could not be integrated to time 5: Steps are too small. Try: a smaller lr or shorter times"):
        predict(np.eye(3), ZEROS, ONE_HOT, lr=0.1, times=[0, 5], loss="cross_entropy")


def test_a_limit_that_is_not_found_is_told(several):
    with pytest.raises(ConfigError, match=r"The limit of training with weight_decay=1e-09 was not found. Try: a larger weight_decay"):
        predict(several.kernel, several.outputs, several.targets, lr=0.1, times=[np.inf], loss="cross_entropy", weight_decay=1e-9)


def test_batches_may_be_of_different_sizes_and_more_than_the_steps():
    rows = read_batches([[0], np.array([1, 2]), [2, 0, 1]], 3, np.array([2.0]))
    assert [len(row) for row in rows] == [1, 2, 3]
    found = predict(np.eye(3), ZEROS, ONE_HOT, lr=0.5, steps=2, optimizer="gd", batches=rows)
    np.testing.assert_allclose(found.train_outputs[-1], 0.5 * ONE_HOT)


WHERE = r"Each batch must be a one-dimensional array of indices of the 3 training examples, 0 to 2"
SAY_NO = {
    "too few": ([[0], [1]], "There are 2 batches for 3 steps; give one per step"),
    "beyond": ([[0], [3], [1]], WHERE),
    "negative": ([[0], [-1], [1]], WHERE),
    "empty": ([[0], [], [1]], WHERE),
    "numbers": ([[0], [1.0], [1]], WHERE),
    "masks": ([[True, False, True]] * 3, WHERE),
    "single": ([0, 1, 2], WHERE),
    "tables": ([[[0]]] * 3, WHERE),
    "twice": ([[0, 0], [1], [2]], "A batch holds an index twice"),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_batches_are_refused(name):
    batches, sentence = SAY_NO[name]
    with pytest.raises(ConfigError, match=sentence):
        predict(np.eye(3), ZEROS, ONE_HOT, lr=0.1, steps=3, optimizer="gd", batches=batches)
