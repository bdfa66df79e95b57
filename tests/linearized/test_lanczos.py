"""Are functions of a symmetric operator exact in its Krylov space?"""

import numpy as np
import pytest

from ntk_select.linearized.lanczos import lanczos


def krylov(matrix, start, quantity=lambda values, coordinates: coordinates**2 @ np.exp(-values), **options):
    calls = []

    def product(v):
        calls.append(0)
        return matrix @ v

    found = lanczos(product, start, quantity, **({"tolerance": 1e-10, "most": 200} | options))
    assert len(calls) == len(found.values)
    return found


def symmetric(independent, size, seed=0):
    rows = independent.draw(size, size, seed=seed)
    return rows @ rows.T / size


def test_vectors_are_orthonormal_and_give_back_the_start(independent):
    matrix, start = symmetric(independent, 150), independent.draw(150, seed=1)
    found = krylov(matrix, start, most=100, tolerance=1e-300)
    assert len(found.values) == 100
    assert not found.converged
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(100), atol=1e-12)
    np.testing.assert_allclose(found.vectors @ found.coordinates, start, atol=1e-12 * np.linalg.norm(start))
    np.testing.assert_allclose(found.vectors.T @ matrix @ found.vectors, np.diag(found.values), atol=1e-11)


@pytest.mark.parametrize("m", [1, 3, 6])
def test_quadratures_of_m_products_are_exact_up_to_degree_two_m_minus_one(independent, m):
    matrix, start = symmetric(independent, 40), independent.draw(40, seed=1)
    found = krylov(matrix, start, most=m)
    for degree in range(2 * m):
        exact = start @ np.linalg.matrix_power(matrix, degree) @ start
        assert (found.coordinates**2 * found.values**degree).sum() == pytest.approx(exact, rel=1e-9)
    beyond = start @ np.linalg.matrix_power(matrix, 2 * m) @ start
    assert (found.coordinates**2 * found.values ** (2 * m)).sum() != pytest.approx(beyond, rel=1e-9)


def test_polynomials_below_degree_m_are_exact(independent):
    matrix, start = symmetric(independent, 40), independent.draw(40, seed=1)
    found = krylov(matrix, start, most=4)
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
    assert len(krylov(matrix, start, every=2).values) < len(found.values)


def test_a_single_number():
    found = krylov(np.array([[3.0]]), np.array([-2.0]))
    assert found.converged
    np.testing.assert_allclose([found.values[0], found.vectors[0, 0] * found.coordinates[0]], [3, -2])
