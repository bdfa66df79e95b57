"""A kernel that is only known by its products gives the same curves as its matrix; Lanczos is exact in its Krylov space."""

import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import loss_curve, predict
from ntk_select.linearized.optimizers import Optimizer
from ntk_select.linearized.problem import read_problem
from ntk_select.linearized.spectrum import Modes, all_modes, find_modes, lanczos

N, N2 = 500, 20
LR = 1 / 700  # a little below one over the largest eigenvalue of the kernel of `features`


class Counted:
    """A matrix as a function that counts its calls and takes only arrays of the shape of the outputs."""

    def __init__(self, matrix, shape):
        self.matrix, self.shape, self.count = matrix, shape, 0

    def __call__(self, v):
        assert v.shape == self.shape
        assert v.dtype == np.float64
        self.count += 1
        return self.matrix @ v


@pytest.fixture(scope="module")
def features():
    """Random features whose kernel has a spectrum that falls like a power, and labels of a teacher with noise."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, 801) ** -1.0
    train, test = (rng.normal(size=(n, 800)) * spectrum for n in (N, N2))
    labels = np.sign(train[:, :5].sum(axis=1) + 0.3 * rng.normal(size=N))
    return train @ train.T, test @ train.T, labels, rng.normal(size=N2)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "decay"),
    [("flow", 0.0, 0.1), *(pytest.param(*rule, marks=pytest.mark.slow) for rule in (("gd", 0.0, 0.0), ("nesterov", 0.9, 0.1)))],
)
def test_curves_without_the_matrix_are_those_with_it(features, optimizer, momentum, decay):
    kernel, cross, labels, test_outputs = features
    options = {"lr": LR, "optimizer": optimizer, "momentum": momentum, "weight_decay": decay, "times": [0, 1, 5, 30, 100, 200]}
    expected = predict(kernel, np.zeros(N), labels, cross_kernel=cross, test_outputs=test_outputs, **options)
    assert expected.train_losses[-1] < 0.5 * expected.train_losses[0]
    function = Counted(kernel, (N,))
    np.testing.assert_allclose(loss_curve(function, labels, **options), expected.train_losses, rtol=1e-6)
    assert function.count < N / 2
    function = Counted(kernel, (N,))
    found = predict(function, np.zeros(N), labels, cross_kernel=lambda v: cross @ v, test_outputs=test_outputs, **options)
    assert found.products == function.count < N / 2
    np.testing.assert_allclose(found.train_losses, expected.train_losses, rtol=1e-6)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-6)
    for name in ("train_outputs", "test_outputs"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5 * np.abs(getattr(expected, name)).max())


def test_test_outputs_are_the_same_whether_times_are_few_or_many(features):
    """With more times than eigenvalues the effects of the vectors are combined."""
    kernel, cross, labels, test_outputs = features
    options = {"lr": LR, "cross_kernel": lambda v: cross @ v, "test_outputs": test_outputs}
    many = predict(lambda v: kernel @ v, np.zeros(N), labels, steps=300, **options)
    assert many.products < 300
    few = predict(lambda v: kernel @ v, np.zeros(N), labels, times=[0, 150, 300], **options)
    np.testing.assert_allclose(many.test_outputs[[0, 150, 300]], few.test_outputs, rtol=0, atol=1e-6)


def test_a_looser_tolerance_takes_fewer_products(features):
    kernel, labels = features[0][:150, :150], features[2][:150]
    options, counts = {"lr": LR, "times": [0, 200]}, []
    exact = loss_curve(kernel, labels, **options)
    for tolerance in (1e-2, 1e-8):
        function = Counted(kernel, (150,))
        curve = loss_curve(function, labels, tolerance=tolerance, **options)
        assert (np.abs(curve / exact - 1) < 3 * tolerance).all()
        counts.append(function.count)
    assert counts[0] < counts[1]


def test_longer_times_take_more_products(features):
    kernel, _, labels, _ = features
    counts = []
    for time in (1, 30, 1000):
        function = Counted(kernel, (N,))
        loss_curve(function, labels, lr=LR, times=[time])
        counts.append(function.count)
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("call", [loss_curve, lambda kernel, residual, **options: predict(kernel, 0 * residual, residual, **options)])
def test_too_few_products_are_refused(features, call):
    kernel, _, labels, _ = features
    function = Counted(kernel, (N,))
    with pytest.raises(ConfigError, match=r"After 12 products with the kernel the curve still changes by more than 1e-08, relative.*max_products="):
        call(function, labels, lr=LR, times=[0, 1000], max_products=12)
    assert function.count == 12


def test_products_as_many_as_residuals_are_always_enough(independent):
    rows, residual = independent.draw(9, 9), independent.draw(9, seed=1)
    kernel = rows @ rows.T
    curve = loss_curve(lambda v: kernel @ v, residual, lr=0.1, times=[0, 1, 1e4], max_products=9)
    np.testing.assert_allclose(curve, loss_curve(kernel, residual, lr=0.1, times=[0, 1, 1e4]), rtol=1e-6, atol=1e-12)


def test_outputs_of_several_columns(independent):
    rows, residual = independent.draw(40, 60) / 8, independent.draw(40, 3, seed=1)
    kernel, options = rows @ rows.T, {"lr": 0.2, "steps": 30, "optimizer": "gd"}
    function = Counted(kernel, (40, 3))
    np.testing.assert_allclose(loss_curve(function, residual, **options), loss_curve(kernel, residual, **options), rtol=1e-6)


def test_a_residual_in_an_eigenspace_takes_one_product():
    function = Counted(np.diag([2.0, 2.0, 3.0]), (3,))
    found = predict(function, np.zeros(3), np.array([1.0, 1.0, 0.0]), lr=0.1, times=[0, 3])
    assert found.products == function.count == 1
    np.testing.assert_allclose(found.train_losses, [1, np.exp(-1.2)], rtol=1e-12)


def test_a_function_of_zeros_does_not_move():
    np.testing.assert_allclose(loss_curve(lambda v: 0 * v, np.ones(7), lr=0.1, steps=4), 3.5, rtol=1e-14)


def test_no_residual_needs_no_product():
    function = Counted(np.eye(4), (4,))
    found = predict(function, np.ones(4), np.ones(4), lr=0.1, steps=3, cross_kernel=np.ones((2, 4)), test_outputs=np.ones(2))
    assert found.products == function.count == 0
    assert (found.test_outputs == 1).all()


def test_all_modes_are_the_residual_along_eigenvectors(independent, several):
    problem, residual = read_problem(several.kernel, several.outputs), several.targets - several.outputs
    modes = all_modes(problem, residual)
    np.testing.assert_allclose(modes.vectors @ modes.coordinates[:, 0], residual.reshape(-1), rtol=0, atol=1e-13)
    assert modes.energy.sum() == pytest.approx(np.square(residual).sum(), rel=1e-13)
    np.testing.assert_allclose(modes.apply(modes.values), problem.product(residual.reshape(-1)), rtol=0, atol=1e-12 * modes.values.max())
    assert (find_modes(problem, residual, None).values == modes.values).all()


def test_a_function_of_the_kernel_is_found_without_the_matrix(independent):
    rows, residual = independent.draw(30, 50) / 7, independent.draw(30, seed=1)
    kernel = rows @ rows.T
    problem = read_problem(lambda v: kernel @ v, residual)
    modes = find_modes(problem, residual, lambda modes: modes.energy @ np.exp(-modes.values), tolerance=1e-12)
    values, vectors = np.linalg.eigh(kernel)
    np.testing.assert_allclose(modes.apply(np.exp(-modes.values)), vectors @ (np.exp(-values) * (vectors.T @ residual)), rtol=0, atol=1e-6)


def test_many_times_are_taken_in_pieces(monkeypatch):
    modes = Modes(np.array([0.5, 2.0]), np.array([[1.0], [2.0]]), np.eye(2))
    whole = modes.squares(Optimizer("gd", 0.1), 1.0, np.arange(50.0))
    monkeypatch.setattr("ntk_select.linearized.spectrum.TABLE_ENTRIES", 14)
    np.testing.assert_allclose(modes.squares(Optimizer("gd", 0.1), 1.0, np.arange(50.0)), whole, rtol=1e-15)
    np.testing.assert_allclose(whole, 0.95 ** (2 * np.arange(50)) + 4 * 0.8 ** (2 * np.arange(50)), rtol=1e-13)


def test_small_negative_eigenvalues_are_rounding_and_large_ones_are_not():
    def eigenvalues(kernel):
        return all_modes(read_problem(kernel, np.zeros(2)), np.zeros(2)).values

    assert (eigenvalues(np.diag([-1e-5, 1.0])) == [0, 1]).all()
    assert (eigenvalues(np.zeros((2, 2))) == 0).all()
    for bad in (np.diag([-2e-3, 1.0]), np.diag([-1.0, -2.0]), np.array([[0.0, 1.0], [1.0, 0.0]])):
        with pytest.raises(
            ConfigError, match=r"kernel has the eigenvalue -.*, the largest being .*not positive semi-definite. Try: ntk_select.certify"
        ):
            eigenvalues(bad)


def krylov(matrix, start, quantity=lambda values, coordinates: coordinates**2 @ np.exp(-values), **options):
    calls = []

    def product(v):
        calls.append(0)
        return matrix @ v

    found = lanczos(product, start, quantity, **({"tolerance": 1e-10, "max_products": 200} | options))
    assert len(calls) == len(found.values)
    return found


def symmetric(independent, size, seed=0):
    rows = independent.draw(size, size, seed=seed)
    return rows @ rows.T / size


def test_vectors_are_orthonormal_and_give_back_the_start(independent):
    matrix, start = symmetric(independent, 150), independent.draw(150, seed=1)
    found = krylov(matrix, start, max_products=100, tolerance=1e-300)
    assert len(found.values) == 100
    assert not found.converged
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(100), atol=1e-12)
    np.testing.assert_allclose(found.vectors @ found.coordinates, start, atol=1e-12 * np.linalg.norm(start))
    np.testing.assert_allclose(found.vectors.T @ matrix @ found.vectors, np.diag(found.values), atol=1e-11)


@pytest.mark.parametrize("m", [1, 3, 6])
def test_quadratures_of_m_products_are_exact_up_to_degree_two_m_minus_one(independent, m):
    matrix, start = symmetric(independent, 40), independent.draw(40, seed=1)
    found = krylov(matrix, start, max_products=m)
    for degree in range(2 * m):
        exact = start @ np.linalg.matrix_power(matrix, degree) @ start
        assert (found.coordinates**2 * found.values**degree).sum() == pytest.approx(exact, rel=1e-9)
    beyond = start @ np.linalg.matrix_power(matrix, 2 * m) @ start
    assert (found.coordinates**2 * found.values ** (2 * m)).sum() != pytest.approx(beyond, rel=1e-9)


def test_polynomials_below_degree_m_are_exact(independent):
    matrix, start = symmetric(independent, 40), independent.draw(40, seed=1)
    found = krylov(matrix, start, max_products=4)
    for degree in range(4):
        np.testing.assert_allclose(
            found.vectors @ (found.values**degree * found.coordinates), np.linalg.matrix_power(matrix, degree) @ start, rtol=1e-8
        )


def test_a_space_that_closes_ends_the_search(independent):
    vectors = np.linalg.qr(independent.draw(50, 50))[0]
    values = np.repeat([1.0, 4.0, 9.0], [20, 20, 10])
    found = krylov(vectors * values @ vectors.T, independent.draw(50, seed=1))
    np.testing.assert_allclose(found.values, [1, 4, 9], rtol=1e-12)
    assert found.converged


def test_the_whole_space_is_enough_whatever_is_asked(independent):
    matrix = symmetric(independent, 8)
    found = krylov(matrix, independent.draw(8, seed=1), lambda values, coordinates: coordinates[:1], tolerance=1e-300)
    assert found.converged
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrix), rtol=1e-9)


def test_it_stops_when_the_answer_is_steady(independent):
    matrix = np.diag(1.0 / np.arange(1, 301) ** 2)
    start = independent.draw(300, seed=1)
    found = krylov(matrix, start)
    assert found.converged
    assert len(found.values) < 40
    assert (found.coordinates**2 @ np.exp(-found.values)) == pytest.approx(start**2 @ np.exp(-np.diagonal(matrix)), rel=1e-10)


def test_a_single_number():
    found = krylov(np.array([[3.0]]), np.array([-2.0]))
    assert found.converged
    np.testing.assert_allclose([found.values[0], found.vectors[0, 0] * found.coordinates[0]], [3, -2])
