"""The numbers of equations 3, 4 and 5 are those of their definitions."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_select.errors import ConfigError
from ntk_select.linearized import generalization_score, initial_speed, label_spectrum, loss_curve, speed_bound

LOSSES = ["half_sum", "sum", "mean"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_initial_speed_is_the_squared_norm_of_the_gradient(independent, world, loss):
    gradient = jax.grad(lambda moved: independent.LOSSES[loss](world.outputs + world.jacobian @ moved, world.targets))(
        np.zeros(world.jacobian.shape[-1])
    )
    found = initial_speed(world.kernel, world.targets - world.outputs, lr=0.3, loss=loss)
    assert isinstance(found, float)
    assert found == pytest.approx(0.3 * float((gradient**2).sum()), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_initial_speed_is_that_at_which_the_curve_begins_to_fall(world, loss):
    residual, h = world.targets - world.outputs, 1e-5
    curve = loss_curve(world.kernel, residual, lr=0.3, times=[0, h, 2 * h], loss=loss)
    falls = (3 * curve[0] - 4 * curve[1] + curve[2]) / (2 * h)
    assert initial_speed(world.kernel, residual, lr=0.3, loss=loss) == pytest.approx(falls, rel=1e-5)


def test_the_initial_speed_of_a_function_and_of_one_kernel_for_all_outputs(several):
    residual, kernel = several.targets - several.outputs, np.einsum("ijaa->ij", several.kernel) / 3
    expected = float(np.einsum("ia,ij,ja->", residual, kernel, residual))
    assert initial_speed(kernel, residual) == pytest.approx(expected, rel=1e-12)
    assert initial_speed(lambda v: kernel @ v, residual) == pytest.approx(expected, rel=1e-12)
    assert initial_speed(kernel, 0 * residual) == 0


def test_the_generalisation_score_is_the_quadratic_form(independent, world):
    targets, matrix = world.targets.reshape(-1), independent.square(world.kernel)
    for ridge in (1e-3, 0.5, 20.0):
        found = generalization_score(world.kernel, world.targets, ridge=ridge)
        assert found.value == pytest.approx(targets @ np.linalg.solve(matrix + ridge * np.eye(len(matrix)), targets), rel=1e-9)
        assert found.bound == pytest.approx(np.sqrt(2 * found.value / len(world.targets)), rel=1e-14)
        assert found.ridge == ridge


def test_the_generalisation_score_along_eigenvectors(independent, world):
    values, vectors = np.linalg.eigh(independent.square(world.kernel))
    along = np.square(vectors.T @ world.targets.reshape(-1))
    assert generalization_score(world.kernel, world.targets, ridge=0.1).value == pytest.approx((along / (values + 0.1)).sum(), rel=1e-10)
    for column in (0, len(values) // 2, len(values) - 1):
        found = generalization_score(world.kernel, 3 * vectors[:, column].reshape(world.targets.shape), ridge=0.1)
        assert found.value == pytest.approx(9 / (values[column] + 0.1), rel=1e-6)


def test_scores_in_closed_form():
    assert generalization_score(4 * np.eye(3), [1, -1, 1], ridge=0).value == pytest.approx(3 / 4)
    assert generalization_score(np.ones((3, 3)), np.ones(3), ridge=1.0).value == pytest.approx(3 / 4)
    assert generalization_score(np.diag([1.0, 2.0]), np.eye(2), ridge=0).value == pytest.approx(1.5)
    found = generalization_score(np.diag([1.0, 3.0]), [0.0, 2.0])
    assert found.ridge == pytest.approx(2e-4)
    assert found.value == pytest.approx(4 / 3.0002)
    assert found.bound == pytest.approx(np.sqrt(4 / 3.0002))
    assert generalization_score(np.diag([1.0, 3.0]), [0.0, 0.0]).value == 0


def test_the_score_of_all_outputs_is_the_sum_of_theirs_with_one_kernel(several):
    kernel = np.einsum("ijaa->ij", several.kernel) / 3
    each = [generalization_score(kernel, column, ridge=0.2).value for column in several.targets.T]
    assert generalization_score(kernel, several.targets, ridge=0.2).value == pytest.approx(sum(each), rel=1e-12)


def test_the_score_of_a_function_is_that_of_its_matrix(independent, several):
    matrix = independent.square(several.kernel)
    found = generalization_score(lambda v: (matrix @ v.reshape(-1)).reshape(v.shape), several.targets, ridge=0.05)
    assert found.value == pytest.approx(generalization_score(several.kernel, several.targets, ridge=0.05).value, rel=1e-8)


def test_no_labels_have_the_score_zero_with_and_without_the_matrix():
    kernel = np.diag([1.0, 2.0, 3.0])
    assert generalization_score(kernel, np.zeros(3), ridge=0.1).value == 0
    assert generalization_score(lambda v: kernel @ v, np.zeros(3), ridge=0.1).value == 0


@pytest.mark.parametrize("rank", [1, 3])
def test_a_singular_kernel_needs_a_ridge(independent, rank):
    rows, targets = independent.draw(6, rank), independent.draw(6, seed=1)
    with pytest.raises(ConfigError, match=r"kernel \+ ridge is singular at ridge=0 .*Try: ridge=None"):
        generalization_score(rows @ rows.T, targets, ridge=0)
    assert 0 < generalization_score(rows @ rows.T, targets).value < np.inf


def test_a_kernel_of_zeros_has_no_score():
    with pytest.raises(ConfigError, match=r"kernel \+ ridge is singular"):
        generalization_score(np.zeros((3, 3)), np.ones(3))


@st.composite
def questions(draw):
    n, rank = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(n, rank)) * np.exp(draw(st.floats(0, 4)) * rng.normal(size=rank))
    columns = draw(st.sampled_from([(), (1,), (3,)]))
    share = draw(st.sampled_from([None, 1e-3, 1.0, 100.0]))  # of the mean eigenvalue
    return (
        rows @ rows.T,
        rng.normal(size=(n, *columns)) * draw(st.sampled_from([0.0, 1e-3, 1.0, 50.0])),
        None if share is None else share * float(np.square(rows).sum()) / n,
    )


@given(questions())
def test_the_bound_is_never_above_the_speed(question):
    kernel, residual, ridge = question
    found = speed_bound(kernel, residual, ridge=ridge)
    assert found.speed >= -1e-9
    assert found.bound <= found.speed + 1e-9 * max(1.0, np.trace(kernel) * np.square(residual).sum())


@given(questions(), st.integers(0, 7))
def test_the_bound_is_the_speed_within_one_eigenspace(question, place):
    kernel, _, ridge = question
    values, vectors = np.linalg.eigh(kernel)
    residual = 2 * vectors[:, place % len(values)]
    found = speed_bound(kernel, residual, ridge=ridge)
    scale = 4 * max(values[-1], ridge or 0.0)
    assert found.bound == pytest.approx(found.speed, abs=1e-9 * scale)
    assert found.speed == pytest.approx(4 * max(values[place % len(values)], 0.0), abs=1e-9 * scale)


def test_the_bound_is_an_equality_in_an_eigenspace_of_several_dimensions_and_not_across():
    kernel = np.diag([2.0, 2.0, 5.0])
    within, across = speed_bound(kernel, [1.0, -3.0, 0.0], ridge=0.1), speed_bound(kernel, [1.0, 0.0, 1.0], ridge=0.1)
    assert within.bound == pytest.approx(within.speed, rel=1e-12) == pytest.approx(20)
    assert across.speed == pytest.approx(7)
    assert across.bound < 0.9 * across.speed


def test_nothing_to_learn_has_speed_and_bound_zero():
    assert speed_bound(np.eye(3), np.zeros(3)) == (0.0, 0.0)


def aligned(seed):
    """A kernel of features in which the class is the largest direction, and labels -1 and +1."""
    rng = np.random.default_rng(seed)
    labels = 2.0 * (np.arange(40) % 2) - 1
    features = rng.normal(size=(40, 60)) * np.r_[0.0, np.linspace(1, 0.1, 59)] + np.outer(labels, np.eye(60)[0]) * 3
    return features @ features.T, labels


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_generalise_worse_start_slower_and_lie_deeper(seed):
    kernel, labels = aligned(seed)
    rng = np.random.default_rng(seed)
    others = [rng.permutation(labels) for _ in range(20)]
    assert generalization_score(kernel, labels).value < 0.5 * min(generalization_score(kernel, other).value for other in others)
    assert initial_speed(kernel, labels) > 2 * max(initial_speed(kernel, other) for other in others)
    assert label_spectrum(kernel, labels).cumulative[0] > 2 * max(label_spectrum(kernel, other).cumulative[0] for other in others)


def test_the_spectrum_of_the_labels_is_their_share_along_each_eigenvector(independent, world):
    values, vectors = np.linalg.eigh(independent.square(world.kernel))
    along = np.square(vectors.T @ world.targets.reshape(-1))[::-1]
    found = label_spectrum(world.kernel, world.targets)
    assert (np.diff(found.values) <= 0).all()
    np.testing.assert_allclose(found.values, values[::-1], rtol=0, atol=1e-12 * values[-1])
    np.testing.assert_allclose(found.shares, along / along.sum(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.cumulative, np.cumsum(along) / along.sum(), rtol=0, atol=1e-9)
    assert found.shares.sum() == pytest.approx(1, abs=1e-13)
    assert found.cumulative[-1] == pytest.approx(1, abs=1e-13)


def test_the_spectrum_with_one_kernel_adds_the_outputs(several):
    kernel = np.einsum("ijaa->ij", several.kernel) / 3
    vectors = np.linalg.eigh(kernel)[1][:, ::-1]
    found = label_spectrum(kernel, several.targets)
    assert found.values.shape == (12,)
    np.testing.assert_allclose(found.shares, np.square(vectors.T @ several.targets).sum(axis=1) / 12, rtol=0, atol=1e-10)


def test_labels_along_an_eigenvector_are_learnt_at_its_rate():
    found = label_spectrum(np.diag([1.0, 5.0, 2.0]), [0.0, 0.0, 7.0])
    assert (found.values == [5, 2, 1]).all()
    np.testing.assert_allclose(found.shares, [0, 1, 0])
    np.testing.assert_allclose(found.cumulative, [0, 1, 1])


EYE = np.eye(3)
SAY_NO = {
    "speed of no learning rate": (initial_speed, {"lr": 0.0}, "lr=0.0 must be a positive number"),
    "speed of a learning rate in words": (initial_speed, {"lr": "0.1"}, "lr='0.1' must be a positive number"),
    "speed of another loss": (initial_speed, {"loss": "cross_entropy"}, "has no closed form"),
    "speed of a kernel that does not fit": (initial_speed, {"kernel": np.eye(4)}, r"kernel has shape \(4, 4\)"),
    "score of a negative ridge": (generalization_score, {"ridge": -0.1}, "ridge=-0.1 must be a number of at least 0, or None"),
    "score of a ridge in words": (generalization_score, {"ridge": "auto"}, "ridge='auto' must be a number of at least 0, or None"),
    "score of no ridge for a function": (
        generalization_score,
        {"kernel": lambda v: v},
        "The mean eigenvalue of a kernel function is unknown. Try: an absolute ridge=",
    ),
    "score of targets that are no numbers": (generalization_score, {"targets": ["a"] * 3}, "targets has type"),
    "spectrum of a function": (label_spectrum, {"kernel": lambda v: v}, "label_spectrum needs all eigenvectors. Try: the kernel as an array"),
    "spectrum of nothing": (label_spectrum, {"targets": np.zeros(3)}, "targets are all zero: their spectrum is undefined"),
    "bound of a singular kernel": (speed_bound, {"kernel": np.ones((3, 3)), "ridge": 0}, r"kernel \+ ridge is singular"),
    "bound of no ridge for a function": (speed_bound, {"kernel": lambda v: v}, "mean eigenvalue of a kernel function is unknown"),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_theory_refuses(name):
    function, options, sentence = SAY_NO[name]
    second = "targets" if function in (generalization_score, label_spectrum) else "residual"
    with pytest.raises(ConfigError, match=sentence):
        function(**({"kernel": EYE, second: np.ones(3)} | options))
