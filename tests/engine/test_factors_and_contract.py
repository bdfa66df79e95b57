"""Do the factors of a backward pass hold the gradients, and do both contractions of them give the kernel?"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ntk_select.engine.contract import add_gradient_tile, add_pair_tile, form_gradients, gradient_tile, host_tile, pair_tile, uses_of
from ntk_select.engine.factors import Stored, factors, fill
from ntk_select.engine.selection import select
from ntk_select.engine.structure import read_structure
from ntk_select.engine.use_kernel import use_kernel
from ntk_select.engine.uses import conv_use

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
    """Structure, leaves, examples of both sides, their Jacobians and cotangents of their own."""
    params = {name: oracle.draw(*shape, seed=seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    x1, x2 = oracle.draw(N, 5, 4, 2, seed=8), oracle.draw(N, 5, 4, 2, seed=9)
    structure = read_structure(network, params, x1, select(params, None))
    positions = {leaf.name: position for position, leaf in enumerate(structure.leaves)}
    return structure, jax.tree.leaves(params), (x1, x2), [oracle.jacobians(network, params, x) for x in (x1, x2)], positions


@pytest.fixture(scope="module")
def held(case):
    """held(what, side): what is kept of each leaf for the outputs themselves, by name."""

    @functools.cache
    def compute(what, side):
        return of_side(case, side, what, tuple(SHAPES) if what == "gradients" else STRUCTURED, np.eye(C)[None])

    return compute


def of_side(case, side, what, names, cotangents):
    structure, leaves, x, _, positions = case
    stored = tuple(Stored(positions[name], what) for name in names)
    return dict(zip(names, factors(structure, stored, structure.program.values, leaves, x[side], cotangents), strict=True))


def uses(case, name):
    structure, *_, positions = case
    return uses_of(structure.taps, structure.leaves[positions[name]].taps)


def leaf_like(case, name, rows):
    """Gradients (n, r, m, o) as (n, m, entries), entries in the order of the leaf."""
    n, _, m, o = rows.shape
    by_cotangent = np.moveaxis(np.asarray(rows), 2, 1)
    if name not in STRUCTURED:
        return by_cotangent.reshape(n, m, -1)
    (use, *_) = uses(case, name)
    groups = use.groups
    return np.array([[np.asarray(use.weight(one.reshape(groups, -1, o))).ravel() for one in example] for example in by_cotangent])


def test_gradients_are_the_jacobian_leaf_by_leaf(oracle, case, held):
    for name, gradients in held("gradients", 0).items():
        oracle.close(leaf_like(case, name, gradients), case[3][0][name])


def test_each_example_may_have_cotangents_of_its_own(oracle, case):
    own = oracle.draw(N, 2, C, seed=5)
    rows = of_side(case, 0, "gradients", tuple(SHAPES), own)
    for name, gradients in rows.items():
        oracle.close(leaf_like(case, name, gradients), np.einsum("nmc,ncp->nmp", own, case[3][0][name]))


@pytest.mark.parametrize("kept", ["patches", "inputs"])
def test_gradients_formed_later_are_the_same(oracle, case, held, kept):
    for name, parts in held(kept, 0).items():
        gradients, mine = np.asarray(held("gradients", 0)[name]), uses(case, name)
        taps, width = mine[0].taps, mine[0].width_in
        oracle.close(np.asarray(form_gradients(mine, kept, (0, taps), width, parts, 0)), gradients)


@pytest.mark.parametrize("kept", ["patches", "inputs"])
def test_gradients_formed_in_pieces_are_the_same(oracle, case, held, kept):
    """Groups come first in a gradient, then its rows: taps of the window, and channels."""
    for name in ("shared", "grouped"):
        gradients, (use, *_) = np.asarray(held("gradients", 0)[name]), uses(case, name)
        taps = [(0, 1), (1, use.taps)] if kept == "inputs" else [(0, use.taps)]
        rows = []
        for first, last in taps:
            end = (last - first) * use.width_in // use.taps
            cuts = [(0, end - 1), (end - 1, end)] if end > 1 else [(0, 1)]
            rows += [np.asarray(form_gradients(uses(case, name), kept, (first, last), b - a, held(kept, 0)[name], a)) for a, b in cuts]
        by_group = [piece.reshape(N, use.groups, -1, *piece.shape[2:]) for piece in rows]
        oracle.close(np.concatenate(by_group, axis=2).reshape(gradients.shape), gradients)


@pytest.mark.parametrize("pairing", ["trace", "diagonal", "full"])
def test_both_contractions_give_the_kernel_of_each_leaf(oracle, case, held, pairing):
    """Without the division by c: tiles of "trace" are sums."""
    for name in SHAPES:
        expected = oracle.paired(case[3][0][name], case[3][1][name][:3], pairing) * (C if pairing == "trace" else 1)
        left, right = held("gradients", 0)[name], held("gradients", 1)[name][:3]
        oracle.close(np.asarray(gradient_tile(pairing, left, right)), expected)
        oracle.close(host_tile(pairing, left, right), expected)
        if name in STRUCTURED:
            # Several uses stand side by side as positions.
            left, right = ([jnp.concatenate(parts, axis=2) for parts in zip(*held("patches", side)[name], strict=True)] for side in (0, 1))
            oracle.close(np.asarray(jax.jit(pair_tile, static_argnums=0)(pairing, *left, *(part[:3] for part in right))), expected)


@pytest.mark.parametrize("pairing", ["trace", "diagonal", "full"])
def test_sums_are_wider_than_half_precision(oracle, pairing):
    """The factors have sixteen bits or are whole numbers; their products and sums are in float32."""
    rows = [oracle.draw(3, 5, 2, 40, seed=seed).astype(jnp.bfloat16) for seed in (0, 1)]
    exact = [row.astype(np.float64).transpose(0, 2, 1, 3).reshape(3, 2, -1) for row in rows]
    for tile in (gradient_tile(pairing, *rows), host_tile(pairing, *rows)):
        assert tile.dtype == np.float32
        oracle.close(np.asarray(tile), oracle.paired(*exact, pairing) * (2 if pairing == "trace" else 1), 1e-5)
    cotangents = [oracle.draw(3, 1, 30, 2, 4, seed=seed).astype(jnp.bfloat16) for seed in (2, 3)]
    for patches in (
        [oracle.draw(3, 1, 30, 20, seed=seed).astype(jnp.bfloat16) for seed in (4, 5)],
        [np.random.default_rng(seed).integers(0, 255, (3, 1, 30, 20), np.uint8) for seed in (4, 5)],
    ):
        exact = [np.einsum("agsk,agsmo->amgko", *(part.astype(np.float64) for part in pair)) for pair in zip(patches, cotangents, strict=True)]
        expected = oracle.paired(*(part.reshape(3, 2, -1) for part in exact), pairing) * (2 if pairing == "trace" else 1)
        tile = jax.jit(pair_tile, static_argnums=0)(pairing, patches[0], cotangents[0], patches[1], cotangents[1])
        assert tile.dtype == np.float32
        oracle.close(np.asarray(tile), expected, 1e-5)


@pytest.mark.parametrize("pairing", ["trace", "diagonal", "full"])
def test_the_host_multiplies_rows_with_themselves_as_with_others(oracle, held, pairing):
    rows = held("gradients", 0)["grouped"]
    oracle.close(host_tile(pairing, rows, rows), host_tile(pairing, rows, np.array(rows)))


def test_tiles_are_added_in_their_place(oracle, case, held):
    before = oracle.draw(8, 6, seed=3)
    rows = [held("gradients", side)["shared"] for side in (0, 1)]
    factors = [held("inputs", side)["shared"] for side in (0, 1)]
    expected = before.copy()
    expected[2:4, 1:3] += C * oracle.paired(case[3][0]["shared"], case[3][1]["shared"], "trace")[2:4, 1:3]
    oracle.close(np.asarray(add_gradient_tile("trace", 2, 2, jnp.array(before), *rows, 2, 1)), expected)
    oracle.close(np.asarray(add_pair_tile("trace", 2, 2, uses(case, "shared"), "inputs", jnp.array(before), *factors, 2, 1)), expected)


def test_batches_are_written_one_after_the_other(oracle, case):
    structure, leaves, x, _, positions = case
    stored = (Stored(positions["shared"], "inputs"), Stored(positions["scale"], "gradients"))
    whole = factors(structure, stored, structure.program.values, leaves, x[0], np.eye(C)[None])
    buffers = jax.tree.map(lambda part: jnp.full((6, *part.shape[1:]), 7.0), whole)
    for start in (0, 2):
        buffers = fill(structure, stored, buffers, start, structure.program.values, leaves, x[0][start : start + 2], np.eye(C)[None])
    for buffer, part in zip(jax.tree.leaves(buffers), jax.tree.leaves(whole), strict=True):
        oracle.close(np.asarray(buffer[:N]), np.asarray(part))
        assert (np.asarray(buffer[N:]) == 7).all()


def test_one_example_does_not_change_the_factors_of_another(case, held):
    structure, leaves, x, _, positions = case
    stored = tuple(Stored(positions[name], "gradients") for name in SHAPES)
    other = np.concatenate([x[0][:1], np.full_like(x[0][1:], np.nan)])
    spoilt = factors(structure, stored, structure.program.values, leaves, other, np.eye(C)[None])
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
    kernel = use_kernel(conv_use(x.shape[1:], w.shape, **options), x, ct, space=space)
    oracle.close(kernel, np.einsum("imp,jmp->ij", rows, rows))
    np.testing.assert_array_equal(kernel, kernel.T)
