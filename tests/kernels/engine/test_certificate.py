"""The certificate agrees with NumPy's eigenvalues."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError


def with_eigenvalues(*values, dtype=np.float64):
    """A symmetric matrix that has them."""
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values),) * 2))
    return ((vectors * values) @ vectors.T).astype(dtype)


def test_eigenvalues_rank_and_jitter_of_a_sound_kernel():
    kernel = with_eigenvalues(4.0, 2.0, 1.0, 0.0)
    found = ns.certify(kernel)
    assert found.holds
    assert found.n == 4
    assert found.rank == 3
    assert found.largest == pytest.approx(4)
    assert found.smallest == pytest.approx(0, abs=1e-14)
    assert found.tolerance == 4 * np.finfo(np.float64).eps
    assert found.asymmetry < 1e-15
    np.linalg.cholesky(kernel + found.jitter * np.eye(4))
    assert str(found).startswith("positive semi-definite up to rounding: eigenvalues ")
    assert "rank 3 of 4" in str(found)


def test_a_kernel_with_a_negative_eigenvalue_does_not_hold():
    kernel = with_eigenvalues(3.0, 1.0, -0.01)
    found = ns.certify(kernel)
    assert not found.holds
    assert found.smallest == pytest.approx(-0.01)
    assert found.rank == 2
    assert found.jitter == pytest.approx(0.1)
    np.linalg.cholesky(kernel + found.jitter * np.eye(3))
    assert str(found).startswith("NOT positive semi-definite: eigenvalues -0.01 to 3")


def test_rounding_is_judged_by_the_type_of_the_kernel():
    """The same numbers are sound in float32 and not in float64."""
    kernel = with_eigenvalues(1.0, 0.5, -1e-7)
    assert not ns.certify(kernel).holds
    assert ns.certify(kernel.astype(np.float32)).holds
    assert ns.certify(kernel.astype(np.float32)).tolerance == 3 * np.finfo(np.float32).eps


def test_a_full_kernel_is_a_matrix_of_examples_and_outputs():
    rows = np.random.default_rng(1).normal(size=(3, 2, 4))
    full = np.einsum("iap,jbp->ijab", rows, rows)
    found = ns.certify(full)
    assert found.n == 6
    assert found.rank == 4  # as many as there are parameters
    assert found.holds
    assert found.largest == pytest.approx(np.linalg.eigvalsh(rows.reshape(6, 4) @ rows.reshape(6, 4).T)[-1])
    # With the outputs the wrong way round, the matrix is still symmetric, and no kernel.
    assert not ns.certify(full.transpose(0, 1, 3, 2)).holds


def test_asymmetry_is_relative_to_the_largest_entry():
    assert ns.certify(np.array([[4.0, 1.0], [2.0, 4.0]])).asymmetry == 0.25
    assert ns.certify(np.zeros((3, 3))).asymmetry == 0


def test_a_kernel_of_zeros_holds_with_rank_zero():
    found = ns.certify(np.zeros((3, 3)))
    assert found.holds
    assert found.rank == 0
    assert found.jitter == 0
    assert "ratio 0.0e+00" in str(found)


def test_a_negative_kernel_does_not_hold():
    assert not ns.certify(-np.eye(3)).holds


def test_whole_numbers_and_arrays_of_jax_do():
    assert ns.certify(np.array([[2, 1], [1, 2]])).smallest == pytest.approx(1)
    assert ns.certify(jnp.eye(2, dtype=np.float32)).tolerance == 2 * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones(3), r"A kernel of shape \(3,\) has no eigenvalues here; give \(n, n\), or \(n, n, c, c\)"),
        (np.ones((3, 2)), r"shape \(3, 2\)"),
        (np.ones((3, 3, 2)), r"shape \(3, 3, 2\)"),
        (np.ones((3, 3, 2, 1)), r"shape \(3, 3, 2, 1\)"),
        (np.ones((0, 0)), r"shape \(0, 0\)"),
        (np.array([[1, np.nan], [np.nan, 1]]), "The kernel contains NaN or infinity"),
        (np.full((2, 2), np.inf), "NaN or infinity"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel, message):
    with pytest.raises(ConfigError, match=message):
        ns.certify(kernel)


def test_a_complex_kernel_has_no_certificate():
    with pytest.raises(ConfigError, match="Expected a real kernel, got complex128"):
        ns.certify(np.eye(2) * 1j)
