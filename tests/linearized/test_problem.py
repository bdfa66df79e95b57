"""Shapes that do not fit are refused; what fits is laid out as matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.kernels.sketches import SketchedKernel
from ntk_select.linearized.problem import checked_outputs, read_cross, read_problem


def test_the_full_kernel_multiplies_examples_and_outputs(independent, several):
    v = independent.draw(12, 3)
    expected = np.einsum("ijab,jb->ia", several.kernel, v)
    problem = read_problem(several.kernel, several.outputs)
    assert (problem.n, problem.c, problem.row, problem.shared) == (12, 3, False, False)
    np.testing.assert_allclose(problem.product(v), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(problem.product(v.reshape(-1)), expected.reshape(-1), rtol=0, atol=1e-12)


def test_one_kernel_multiplies_every_output(independent, binary):
    v = independent.draw(12, 3)
    problem = read_problem(binary.kernel, v)
    assert problem.shared
    np.testing.assert_allclose(problem.product(v), binary.kernel @ v, rtol=0, atol=1e-13)
    row = read_problem(binary.kernel, v[:, 0])
    assert row.row
    assert row.shared
    np.testing.assert_allclose(row.product(v[:, 0]), binary.kernel @ v[:, 0], rtol=0, atol=1e-13)


def test_a_function_sees_outputs_as_they_came():
    for outputs in (np.ones(4), np.ones((4, 1)), np.ones((4, 2))):
        shapes = []
        problem = read_problem(lambda v, shapes=shapes: shapes.append(v.shape) or jnp.asarray(2 * v, jnp.float32), outputs)
        product = problem.product(np.arange(float(outputs.size)))
        assert product.dtype == np.float64
        assert (product == 2 * np.arange(outputs.size)).all()
        assert shapes == [outputs.shape]
        assert not problem.shared


def test_the_cross_kernel_in_all_its_forms(independent, several):
    a = independent.draw(12, 3)
    problem = read_problem(several.kernel, several.outputs)
    expected = np.einsum("ijab,jb->ia", several.cross, a)
    for cross in (several.cross, lambda v: np.einsum("ijab,jb->ia", several.cross, v)):
        np.testing.assert_allclose(read_cross(cross, problem, np.zeros((5, 3)))(a.reshape(-1)), expected, rtol=0, atol=1e-12)
    shared = several.cross[:, :, 0, 0]
    np.testing.assert_allclose(read_cross(shared, problem, np.zeros((5, 3)))(a.reshape(-1)), shared @ a, rtol=0, atol=1e-13)
    row = read_problem(np.eye(12), np.ones(12))
    np.testing.assert_allclose(read_cross(shared, row, np.zeros(5))(a[:, 0]).reshape(-1), shared @ a[:, 0], rtol=0, atol=1e-13)


def test_what_rounding_made_of_symmetry_is_mended():
    kernel = np.eye(3)
    kernel[0, 1] = 5e-5
    assert read_problem(kernel, np.ones(3)).matrix[1, 0] == 2.5e-5


@pytest.mark.parametrize("array", [[1, 2], np.ones(2, np.float32), np.array([True, False]), jnp.ones(2, jnp.bfloat16), np.ones((2, 1), np.uint8)])
def test_real_numbers_of_any_type_are_taken(array):
    assert checked_outputs(array, "outputs").dtype == np.float64


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        ([[1.0], [1.0, 2.0]], r"outputs is a list; give an array \(n,\) or \(n, c\)"),
        (["a", "b"], "outputs has type .* give real numbers"),
        ([1j], "outputs has type complex128"),
        (3.0, r"shape \(\); give real numbers"),
        ([], r"shape \(0,\)"),
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (None, "type object"),
        ([1.0, np.nan], "outputs holds NaN or infinity. Usual causes"),
        ([[np.inf]], "outputs holds NaN or infinity"),
    ],
)
def test_outputs_are_finite_real_numbers(array, sentence):
    with pytest.raises(ConfigError, match=sentence):
        checked_outputs(array, "outputs")


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        (np.eye(2), r"kernel has shape \(2, 2\); for 3 examples and 2 outputs allowed are \(3, 3\) and \(3, 3, 2, 2\). Try: kernel=ntk_select.ntk"),
        (np.eye(6), r"kernel has shape \(6, 6\)"),
        (np.ones((3, 3, 1, 1)), r"kernel has shape \(3, 3, 1, 1\)"),
        (None, r"kernel has shape \(\)"),
        (SketchedKernel(np.ones((3, 4))), "kernel is a SketchedKernel, not an array. Try: its attribute `kernel`"),
        (1j * np.eye(3), "kernel has type complex128; it must hold real numbers"),
        (np.full((3, 3), np.nan), "kernel holds NaN or infinity"),
        (np.tril(np.ones((3, 3))), "kernel is not symmetric"),
        (np.arange(36.0).reshape(3, 3, 2, 2), "kernel is not symmetric. It must be the kernel of the training examples with themselves"),
    ],
)
def test_kernels_fit_or_are_refused(kernel, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_problem(kernel, np.ones((3, 2)))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda v: v[:2], r"The kernel function returned shape \(2, 2\) for outputs \(3, 2\); it must return the same shape"),
        (lambda v: v * np.nan, "The kernel function's product contains NaN or infinity"),
    ],
)
def test_functions_keep_the_shape_and_are_finite(function, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_problem(function, np.ones((3, 2))).product(np.ones(6))


@pytest.mark.parametrize(
    ("cross", "sentence"),
    [
        (np.ones((3, 4)), r"cross_kernel has shape \(3, 4\); for 3 examples and 2 outputs allowed are \(4, 3\) and \(4, 3, 2, 2\)"),
        (np.ones((3, 4)), r"Try: cross_kernel=ntk_select.ntk\(fn, params, x_test, x, outputs='full'\)"),
        (np.full((4, 3), np.inf), "cross_kernel holds NaN or infinity"),
        (np.full((4, 3), "a"), "cross_kernel has type <U1; it must hold real numbers"),
    ],
)
def test_cross_kernels_fit_or_are_refused(cross, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_cross(cross, read_problem(np.eye(3), np.ones((3, 2))), np.zeros((4, 2)))
