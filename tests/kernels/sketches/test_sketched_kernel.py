"""Norm and error of a sketched kernel, over many seeds of projections by NumPy."""

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.sketches.projection import ALL_KINDS

N, P, DIM, SEEDS = 9, 40, 64, 1500
WITH_LAW = ("countsketch", "rademacher", "gaussian", "srht")

_rng = np.random.default_rng(1)
GRADIENTS = _rng.normal(size=(N, P)) * np.linspace(2, 0.1, P) + 0.4 * _rng.normal(size=P)
KERNEL = GRADIENTS @ GRADIENTS.T
SQUARED = float((KERNEL**2).sum())
SPREAD = np.sqrt((np.outer(np.diagonal(KERNEL), np.diagonal(KERNEL)) + KERNEL**2) / DIM)  # of an entry, for Gaussian matrices


def projected(seed, dim=DIM, gradients=GRADIENTS):
    """Z (n, dim) from a matrix of independent normal numbers."""
    return gradients @ np.random.default_rng([2, seed]).normal(size=(gradients.shape[1], dim)) / np.sqrt(dim)


@pytest.fixture(scope="module")
def draws():
    return [projected(seed) for seed in range(SEEDS)]


def standard_scores(values, expected):
    """How many standard errors the mean over seeds is away from what is expected."""
    values = np.asarray(values)
    return (values.mean(0) - expected) / (values.std(0, ddof=1) / np.sqrt(len(values)))


def test_the_kernel_is_unbiased_and_positive_semidefinite(draws):
    kernels = np.array([ns.SketchedKernel(z, "gaussian").kernel for z in draws])
    scores = standard_scores(kernels, KERNEL)[np.triu_indices(N)]
    assert np.abs(scores).max() < 4
    assert 0.5 < scores.std() < 1.5
    assert (kernels == kernels.swapaxes(1, 2)).all()
    assert np.linalg.eigvalsh(kernels[:20]).min() > -1e-10 * np.trace(KERNEL)


def test_a_wrong_kernel_would_be_noticed(draws):
    """As a control: five hundredths too much are many standard errors."""
    scores = standard_scores([ns.SketchedKernel(z, "gaussian").kernel for z in draws], 1.05 * KERNEL)
    assert np.abs(scores).max() > 8


def test_blocks_are_kernels_of_their_own(draws):
    for blocks in (1, 2, 4):
        kernel = ns.SketchedKernel(draws[0], blocks=blocks)
        parts = np.split(draws[0], blocks, axis=1)
        for number, part in enumerate(parts):
            np.testing.assert_allclose(kernel.block_kernel(number), blocks * part @ part.T, rtol=1e-12)
        np.testing.assert_allclose(np.mean([kernel.block_kernel(block) for block in range(blocks)], axis=0), kernel.kernel, rtol=1e-12)


@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_the_squared_norm_is_unbiased(draws, blocks):
    """One block takes the formula, whose own bias is of the order of 1 / dim^2."""
    found = [ns.SketchedKernel(z, "gaussian", blocks).squared_norm() for z in draws]
    assert abs(standard_scores(found, SQUARED)) < 4
    assert np.std(found) / SQUARED < 1


@pytest.mark.parametrize("kind", ["kronecker", "jvp"])
def test_the_squared_norm_from_blocks_needs_no_law(draws, kind):
    found = [ns.SketchedKernel(z, kind, 4).squared_norm() for z in draws]
    assert abs(standard_scores(found, SQUARED)) < 4


def test_the_square_of_the_estimate_itself_is_too_large_as_the_effective_rank_says(draws):
    """The control of the two tests before."""
    naive = [float((ns.SketchedKernel(z, "gaussian").kernel ** 2).sum()) for z in draws]
    assert standard_scores(naive, SQUARED) > 8
    rank = np.trace(KERNEL) ** 2 / SQUARED
    assert abs(standard_scores(naive, SQUARED * (1 + (rank + 1) / DIM))) < 4


def test_the_standard_error_of_an_entry_is_its_spread_over_seeds(draws):
    kernels = [ns.SketchedKernel(z, "gaussian").kernel for z in draws]
    actual = np.std(kernels, axis=0, ddof=1)
    np.testing.assert_allclose(actual, SPREAD, rtol=0.12)
    predicted = np.mean([ns.SketchedKernel(z, "gaussian").standard_error() ** 2 for z in draws], axis=0) ** 0.5
    np.testing.assert_allclose(predicted, actual, rtol=0.12)


def test_signs_spread_less_than_the_standard_error_says():
    """Random signs lack the pairs of an entry with itself: 2 sum_p x_p^2 y_p^2 / dim."""
    kernels, predicted = [], []
    for seed in range(SEEDS):
        signs = np.random.default_rng([3, seed]).choice([-1.0, 1.0], size=(P, DIM))
        kernel = ns.SketchedKernel(GRADIENTS @ signs / np.sqrt(DIM), "rademacher")
        kernels.append(kernel.kernel)
        predicted.append(kernel.standard_error() ** 2)
    lacking = 2 * GRADIENTS**2 @ (GRADIENTS**2).T / DIM
    np.testing.assert_allclose(np.std(kernels, axis=0, ddof=1), np.sqrt(SPREAD**2 - lacking), rtol=0.12)
    assert (np.std(kernels, axis=0) < np.sqrt(np.mean(predicted, axis=0))).all()


def relative_errors(draws):
    return np.array([np.linalg.norm(z @ z.T - KERNEL) / np.linalg.norm(KERNEL) for z in draws])


@pytest.mark.parametrize("blocks", [1, 2, 16])
def test_the_predicted_error_is_the_error(draws, blocks):
    found = np.array([ns.SketchedKernel(z, "gaussian", blocks).predicted_error() for z in draws], float)
    actual = np.sqrt((relative_errors(draws) ** 2).mean())
    assert np.sqrt((found**2).mean()) == pytest.approx(actual, rel=0.08)
    assert found.std() < 0.25 * actual


@pytest.mark.parametrize("kind", ["gaussian", "kronecker"])
def test_the_measured_error_is_the_error(draws, kind):
    found = np.array([ns.SketchedKernel(z, kind, 16).measured_error() for z in draws], float)
    actual = np.sqrt((relative_errors(draws) ** 2).mean())
    assert np.sqrt((found**2).mean()) == pytest.approx(actual, rel=0.08)
    assert found.std() < 0.35 * actual


def test_the_errors_fall_with_the_square_root_of_the_columns():
    for method in ("predicted_error", "measured_error"):
        found = [getattr(ns.SketchedKernel(projected(0, dim), "gaussian", 16), method)() for dim in (256, 4096, 65536)]
        np.testing.assert_allclose(found[:-1], 4 * np.array(found[1:]), rtol=0.25)


def test_blocks_of_different_scale_are_measured_where_the_formula_sees_nothing():
    """Blocks that scatter more than a formula allows: it is the measured error that tells."""
    loud = np.concatenate([projected(seed, 16) * scale for seed, scale in enumerate([0.2, 2.5, 0.3, 0.4])], axis=1) / 2
    kernel = ns.SketchedKernel(loud, "gaussian", 4)
    calm = ns.SketchedKernel(projected(0), "gaussian", 4)
    assert kernel.measured_error() > 2 * calm.measured_error()


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("directions", [False, True])
def test_what_cannot_be_known_is_none(draws, kind, blocks, directions):
    kernel = ns.SketchedKernel(draws[0], kind, blocks, directions)
    law = kind in WITH_LAW or (kind == "jvp" and directions)
    assert kernel.has_law == law
    assert (kernel.standard_error() is not None) == law
    assert (kernel.predicted_error() is not None) == law
    assert (kernel.squared_norm() is not None) == (law or blocks > 1)
    assert (kernel.measured_error() is not None) == (blocks > 1)


@pytest.mark.parametrize("blocks", [1, 2])
def test_nothing_is_said_of_the_error_of_zero(blocks):
    kernel = ns.SketchedKernel(np.zeros((3, 8)), "gaussian", blocks)
    assert kernel.squared_norm() == 0
    assert kernel.predicted_error() is None
    assert kernel.measured_error() is None
    assert (kernel.standard_error() == 0).all()


def test_nothing_is_said_where_blocks_have_nothing_in_common():
    """Estimates of two blocks whose product is negative or zero have no norm to compare with."""
    z = np.zeros((4, 8))
    z[0, 0] = z[1, 4] = 1.0
    kernel = ns.SketchedKernel(z, "gaussian", 2)
    assert kernel.squared_norm() == 0
    assert kernel.predicted_error() is None
    assert kernel.measured_error() is None


def test_it_is_printed_without_its_numbers():
    assert repr(ns.SketchedKernel(np.ones((3, 2, 8)), "srht", blocks=2)) == "SketchedKernel('srht', 6 rows, dim=8, blocks=2)"


def test_outputs_that_are_kept_apart_are_rows():
    z = np.random.default_rng(0).normal(size=(3, 2, 8))
    kernel = ns.SketchedKernel(z)
    assert len(kernel) == 6
    assert kernel.dim == 8
    np.testing.assert_allclose(kernel.kernel, np.einsum("iak,jbk->iajb", z, z).reshape(6, 6), rtol=1e-12)


def test_sums_are_in_double_precision():
    z = (1e3 + np.random.default_rng(0).normal(size=(4, 4096))).astype(np.float32)
    kernel = ns.SketchedKernel(z, "gaussian", 2)
    exact = z.astype(np.float64) @ z.astype(np.float64).T
    assert kernel.kernel.dtype == kernel.block_kernel(0).dtype == np.float64
    np.testing.assert_allclose(kernel.kernel, exact, rtol=1e-14)


@pytest.mark.parametrize(
    "z",
    [np.zeros(4), np.zeros((2, 2, 2, 2)), np.zeros((0, 4)), np.zeros((4, 0)), np.zeros((2, 4), int), np.zeros((2, 4), complex), [["a", "b"]]],
    ids=["row", "four axes", "no examples", "no columns", "integers", "complex", "text"],
)
def test_a_sketch_is_a_floating_point_array(z):
    with pytest.raises(ConfigError, match=r"A sketch is a floating-point array \(n, dim\) or \(n, c, dim\); given: "):
        ns.SketchedKernel(z)


def test_unknown_kinds_are_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"kind='gausian' is unknown. Did you mean 'gaussian'"):
        ns.SketchedKernel(np.ones((2, 4)), "gausian")


@pytest.mark.parametrize("blocks", [0, -1, 3, 8, 2.0, "2", True, None])
def test_blocks_divide_the_columns(blocks):
    with pytest.raises(ConfigError, match=rf"blocks={blocks!r} must be a whole number that divides the 4 columns of the sketch"):
        ns.SketchedKernel(np.ones((2, 4)), blocks=blocks)
    assert ns.SketchedKernel(np.ones((2, 4)), blocks=np.int64(2)).blocks == 2
