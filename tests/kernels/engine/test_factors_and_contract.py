"""The factors of a backward pass hold the gradients, and both contractions of them give the kernel."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ntk_select.kernels.engine import contract as contract_module
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.contract import Contraction, contract, finish, gradient_block, mirrored, pair_block, swapped, zero_totals
from ntk_select.kernels.engine.execute import kernel_of_op
from ntk_select.kernels.engine.factors import Stored, factors, fill, outer
from ntk_select.kernels.engine.layer_ops import conv_op

pytestmark = pytest.mark.usefixtures("quickly")

CONV = partial(lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
C, N = 3, 4


def network(p, x):
    """A convolution at two resolutions, one with groups, a product with groups, a derived weight and a scale."""
    h = jnp.tanh(CONV(x, p["shared"], (1, 1)))
    h = jnp.tanh(CONV(h * p["scale"], p["shared"], (2, 1)))
    h = jnp.tanh(CONV(h, p["grouped"], (1, 2), feature_group_count=2))
    h = jnp.tanh(jnp.einsum("nhwc,wcd->nwd", h, p["heads"]))
    h = jnp.tanh(jnp.einsum("nwd,de->nwe", h, p["derived"] / jnp.sqrt((p["derived"] ** 2).sum())))
    return h.mean(1) @ p["head"]


SHAPES = {"shared": (3, 2, 2, 2), "scale": (2,), "grouped": (2, 2, 1, 4), "heads": (2, 4, 3), "derived": (3, 5), "head": (5, C)}
STRUCTURED = ("shared", "grouped", "heads", "head")


@pytest.fixture(scope="module")
def case(oracle, quickly):
    """What was analysed, examples of both sides, their Jacobians, and the places of the leaves."""
    params = {name: oracle.draw(*shape, seed=seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    x1, x2 = oracle.draw(N, 5, 4, 2, seed=8), oracle.draw(N, 5, 4, 2, seed=9)
    analysed = analyse(network, params, x1)
    positions = {leaf.name: position for position, leaf in enumerate(analysed.structure.leaves)}
    return analysed, (x1, x2), [oracle.jacobians(network, params, x) for x in (x1, x2)], positions


@pytest.fixture(scope="module")
def held(case):
    """held(what, side): what is stored of each leaf for the outputs themselves, by name."""

    @functools.cache
    def compute(what, side):
        return of_side(case, side, what, tuple(SHAPES) if what == "gradients" else STRUCTURED, np.eye(C)[None])

    return compute


def of_side(case, side, what, names, cotangents):
    analysed, x, _, positions = case
    stored = tuple(Stored(positions[name], what) for name in names)
    run = analysed.structure.jit(factors, stored)
    return dict(zip(names, run(analysed.values, analysed.leaves, x[side], cotangents), strict=True))


def ops(case, name):
    analysed, *_, positions = case
    leaf = analysed.structure.leaves[positions[name]]
    return analysed.structure.ops(leaf) if leaf.structured else ()


def leaf_like(case, name, rows):
    """Gradients (n, r, m, o) as (n, m, entries), entries in the order of the leaf."""
    n, _, m, o = rows.shape
    by_cotangent = np.moveaxis(np.asarray(rows), 2, 1)
    if name not in STRUCTURED:
        return by_cotangent.reshape(n, m, -1)
    (op, *_) = ops(case, name)
    return np.array([[np.asarray(op.weight(one.reshape(op.groups, -1, o))).ravel() for one in example] for example in by_cotangent])


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def finished(hows, pairing, symmetric, shape, totals, parts1, parts2):
    totals = contract(hows, pairing, symmetric, False, totals, parts1, parts2)
    return {name: finish(pairing, symmetric, shape, 1, total) for name, total in totals.items()}


def contracted(hows, pairing, parts1, parts2=None, *, m=C, dtype=np.float64, totals=None):
    """{leaf: its sums} for {leaf: contraction}, compiled as one program."""
    symmetric = parts2 is None
    sides = [[parts[name] for name in hows] for parts in (parts1, parts1 if symmetric else parts2)]
    shape = tuple(len(jax.tree.leaves(side)[0]) for side in sides)
    tail = {"trace": (), "diagonal": (m,), "full": (m, m)}[pairing]
    totals = zero_totals(hows, (*shape, *tail), dtype) if totals is None else totals
    found = finished(tuple(hows.values()), pairing, symmetric, shape, totals, *sides)
    return {name: np.asarray(kernel) for name, kernel in found.items()}


def contractions(case, space, stored, block, entries, names=None):
    """{leaf: how it is contracted}."""
    names = names or (SHAPES if stored == "gradients" else STRUCTURED)
    return {name: Contraction(name, ops(case, name), space, stored, block, entries) for name in names}


def test_gradients_are_the_jacobian_leaf_by_leaf(oracle, case, held):
    for name, gradients in held("gradients", 0).items():
        oracle.close(leaf_like(case, name, gradients), case[2][0][name])


def test_each_example_may_have_cotangents_of_its_own(oracle, case):
    own = oracle.draw(N, 2, C, seed=5)
    rows = of_side(case, 0, "gradients", tuple(SHAPES), own)
    for name, gradients in rows.items():
        oracle.close(leaf_like(case, name, gradients), np.einsum("nmc,ncp->nmp", own, case[2][0][name]))


@pytest.mark.parametrize("stored", ["patches", "inputs"])
def test_products_of_the_factors_are_the_gradients(oracle, case, held, stored):
    for name, parts in held(stored, 0).items():

        @jax.jit
        def total(parts, name=name):
            pairs = zip(ops(case, name), parts, strict=True)
            return sum(jax.vmap(outer)(x if stored == "patches" else jax.vmap(op.patches)(x), left) for op, (x, left) in pairs)

        oracle.close(np.asarray(total(parts)).reshape(held("gradients", 0)[name].shape), np.asarray(held("gradients", 0)[name]))


@pytest.mark.parametrize("entries", [1, pytest.param(5, marks=pytest.mark.nightly), 11, 10**6])
@pytest.mark.parametrize("stored", ["gradients", "patches", "inputs"])
def test_gradients_in_pieces_of_any_size_give_the_kernel_of_each_leaf(oracle, case, held, stored, entries):
    """Pieces are columns of a gradient, channels of the patches, or taps of the window and channels."""
    for name, found in contracted(contractions(case, "parameter", stored, 100, entries), "trace", held(stored, 0), held(stored, 1)).items():
        oracle.close(found, oracle.paired(case[2][0][name], case[2][1][name], "trace") * C)


@pytest.mark.parametrize("pairing", ["trace", "diagonal", "full"])
@pytest.mark.parametrize(("space", "stored"), [("parameter", "gradients"), ("sample", "patches"), ("sample", "inputs")])
@pytest.mark.parametrize(
    ("block", "one_side"),
    [(2, False), (2, True), (N, False), *(pytest.param(*case, marks=pytest.mark.nightly) for case in ((1, False), (1, True), (N, True)))],
)
def test_both_contractions_give_the_kernel_of_each_leaf(oracle, case, held, pairing, space, stored, block, one_side):
    """In blocks of the examples and at once, of both sides and of one. Without the division by c: sums of "trace" are not means."""
    scale = C if pairing == "trace" else 1
    hows = contractions(case, space, stored, block, 10**6)
    right, side = (None, case[2][0]) if one_side else (held(stored, 1), case[2][1])
    for name, found in contracted(hows, pairing, held(stored, 0), right).items():
        oracle.close(found, oracle.paired(case[2][0][name], side[name], pairing) * scale)


@pytest.mark.parametrize("pairing", ["trace", "diagonal", "full"])
def test_sides_of_two_lengths_are_contracted(oracle, case, held, pairing):
    few = jax.tree.map(lambda leaf: leaf[:3], (held("gradients", 1), held("inputs", 1)))
    expected = oracle.paired(case[2][0]["shared"], case[2][1]["shared"][:3], pairing) * (C if pairing == "trace" else 1)
    for (space, stored), part in zip((("parameter", "gradients"), ("sample", "inputs")), few, strict=True):
        for block in (1, 2):
            found = contracted(contractions(case, space, stored, block, 10, ["shared"]), pairing, held(stored, 0), part)
            oracle.close(found["shared"], expected)


@pytest.mark.parametrize("pairing", ["trace", "diagonal", "full"])
def test_sums_are_wider_than_half_precision(oracle, pairing):
    """The factors have sixteen bits or are whole numbers; their products and sums are in float32."""
    rows = [oracle.draw(3, 5, 2, 40, seed=seed).astype(jnp.bfloat16) for seed in (0, 1)]
    exact = [row.astype(np.float64).transpose(0, 2, 1, 3).reshape(3, 2, -1) for row in rows]
    block = gradient_block(pairing, *rows)
    assert block.dtype == np.float32
    oracle.close(np.asarray(block), oracle.paired(*exact, pairing) * (2 if pairing == "trace" else 1), 1e-5)
    cotangents = [oracle.draw(3, 1, 30, 2, 4, seed=seed).astype(jnp.bfloat16) for seed in (2, 3)]
    for patches in (
        [oracle.draw(3, 1, 30, 20, seed=seed).astype(jnp.bfloat16) for seed in (4, 5)],
        [np.random.default_rng(seed).integers(0, 255, (3, 1, 30, 20), np.uint8) for seed in (4, 5)],
    ):
        exact = [np.einsum("agsk,agsmo->amgko", *(part.astype(np.float64) for part in pair)) for pair in zip(patches, cotangents, strict=True)]
        expected = oracle.paired(*(part.reshape(3, 2, -1) for part in exact), pairing) * (2 if pairing == "trace" else 1)
        products = jnp.einsum("agsk,bgtk->gasbt", *(jnp.asarray(part, jnp.float32) for part in patches))
        block = jax.jit(pair_block, static_argnums=0)(pairing, products, *cotangents)
        assert block.dtype == np.float32
        oracle.close(np.asarray(block), expected, 1e-5)
        hows = {"w": Contraction("w", ops_of_identity(20, 4), "sample", "patches", 3, 100)}
        parts = [{"w": [(jnp.asarray(part), jnp.asarray(left))]} for part, left in zip(patches, cotangents, strict=True)]
        oracle.close(contracted(hows, pairing, *parts, m=2, dtype=np.float32)["w"], expected, 1e-5)


def ops_of_identity(width_in, width_out):
    """A convolution with a window of one."""
    return (conv_op((30, 1, width_in), (1, 1, width_in, width_out), strides=(1, 1), padding=((0, 0), (0, 0))),)


def test_what_is_added_comes_on_top_of_what_is_there(oracle, case, held):
    before = oracle.draw(N, N, seed=3)
    expected = before + C * oracle.paired(case[2][0]["shared"], case[2][1]["shared"], "trace")
    for space, stored in (("parameter", "gradients"), ("parameter", "inputs"), ("sample", "inputs")):
        hows = contractions(case, space, stored, 2, 10, ["shared"])
        oracle.close(contracted(hows, "trace", held(stored, 0), held(stored, 1), totals={"shared": before})["shared"], expected)


def test_sums_in_float64_of_factors_in_float32_are_closer(oracle, monkeypatch):
    """Pieces are summed in the type of the factors, their sums in float64."""
    monkeypatch.setattr(contract_module, "FLOAT64_TERMS", 64)
    rows = (1 + oracle.draw(3, 40_000, 1, 1) / 10).astype(np.float32)
    exact = rows[:, :, 0, 0].astype(np.float64) @ rows[:, :, 0, 0].astype(np.float64).T
    hows = {"w": Contraction("w", (), "parameter", "gradients", 3, 10**6)}
    oracle.close(contracted(hows, "trace", {"w": rows})["w"], exact, 3e-8)


@pytest.mark.parametrize(("n", "size"), [(5, 512), (64, 32), (96, 32), (70, 32)])
@pytest.mark.parametrize("tail", [(), (2,), (2, 2)])
def test_the_lower_part_is_mirrored_in_blocks(monkeypatch, oracle, n, size, tail):
    monkeypatch.setattr(contract_module, "MIRRORED", size)
    kernel = oracle.draw(n, n, *tail)
    found, turned = np.asarray(mirrored(jnp.asarray(kernel))), swapped(kernel)
    rows, columns = np.indices((n, n))
    lower, diagonal = rows > columns, rows == columns
    np.testing.assert_array_equal(found[lower], kernel[lower])
    np.testing.assert_array_equal(found[lower.T], turned[lower.T])
    np.testing.assert_array_equal(found[diagonal], (kernel[diagonal] + turned[diagonal]) / 2)
    np.testing.assert_array_equal(found, swapped(found))


def test_batches_are_written_one_after_the_other(oracle, case):
    analysed, x, _, positions = case
    stored = (Stored(positions["shared"], "inputs"), Stored(positions["scale"], "gradients"))
    given = analysed.values, analysed.leaves
    together = analysed.structure.jit(factors, stored)(*given, x[0], np.eye(C)[None])
    buffers = jax.tree.map(lambda part: jnp.full((6, *part.shape[1:]), 7.0), together)
    for start in (0, 2):
        buffers = analysed.structure.jit(fill, stored)(buffers, start, *given, x[0][start : start + 2], np.eye(C)[None])
    for buffer, part in zip(jax.tree.leaves(buffers), jax.tree.leaves(together), strict=True):
        oracle.close(np.asarray(buffer[:N]), np.asarray(part))
        assert (np.asarray(buffer[N:]) == 7).all()


def test_one_example_does_not_change_the_factors_of_another(case, held):
    analysed, x, _, positions = case
    stored = tuple(Stored(positions[name], "gradients") for name in SHAPES)
    other = np.concatenate([x[0][:1], np.full_like(x[0][1:], np.nan)])
    spoilt = analysed.structure.jit(factors, stored)(analysed.values, analysed.leaves, other, np.eye(C)[None])
    for name, part in zip(SHAPES, spoilt, strict=True):
        np.testing.assert_array_equal(part[0], held("gradients", 0)[name][0])
        assert np.isnan(part[1:]).all()


@pytest.mark.parametrize("space", [None, "parameter", "sample"])
@pytest.mark.parametrize("n", [5, 19])
def test_a_weight_alone_has_the_kernel_of_its_gradients(oracle, n, space):
    """When inputs and cotangents are known already."""
    x, ct, w = oracle.draw(n, 5, 4, 2, seed=1), oracle.draw(n, 3, 3, 4, 3, seed=2), np.zeros((3, 2, 2, 3))
    options = {"strides": (2, 1), "padding": ((1, 1), (0, 1))}
    convolve = partial(lax.conv_general_dilated, window_strides=(2, 1), padding=((1, 1), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def gradients(x, cts):
        pull = jax.vjp(partial(convolve, x[None]), w)[1]
        return jax.vmap(lambda ct: pull(ct[None])[0].ravel())(cts)

    rows = np.array([gradients(*pair) for pair in zip(x, ct, strict=True)])
    kernel = kernel_of_op(conv_op(x.shape[1:], w.shape, **options), x, ct, space=space)
    oracle.close(kernel, np.einsum("imp,jmp->ij", rows, rows))
    np.testing.assert_array_equal(kernel, kernel.T)
