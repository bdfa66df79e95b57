"""Each kind of sketch is the projection of its definition, unbiased, with the variance of its formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import ntk_select as ns
from ntk_select.kernels.sketches import countsketch, dense, srht
from ntk_select.kernels.sketches.hashing import leaf_keys
from ntk_select.kernels.sketches.projection import KINDS

pytestmark = pytest.mark.usefixtures("quickly")

K, O = 6, 5
P = K * O
LINEAR = {"w": np.zeros((K, O))}
SIDES = {8: (2, 4), 16: (4, 4)}  # of a Kronecker sketch, by the width of a block


def linear(params, x):
    """Its gradient is x times the cotangent."""
    return x @ params["w"]


def of_all_entries(**options) -> np.ndarray:
    """S (P, dim): the sketch of P examples whose gradients are the identity."""
    ones, others = np.repeat(np.eye(K), O, 0), np.tile(np.eye(O), (K, 1))
    return ns.sketch(linear, LINEAR, ones, outputs=others, **options)


# (kind, dim, blocks): widths below, at and above the length of the leaf.
CASES = [
    ("countsketch", 24, 3),
    ("countsketch", 64, 2),
    ("srht", 24, 3),
    ("srht", 64, 1),
    ("rademacher", 40, 1),
    ("gaussian", 24, 3),
    ("kronecker", 24, 3),
    ("jvp", 24, 3),
]


@pytest.fixture(scope="module")
def projections():
    """S of each case."""
    return {case: of_all_entries(kind=case[0], dim=case[1], blocks=case[2], seed=3) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_projection_is_the_one_by_definition(oracle, explicit, projections, case):
    kind, dim, blocks = case
    if kind == "kronecker":
        expected = explicit.kronecker("w", (1, K, O), SIDES[dim // blocks], seed=3, blocks=blocks)
    else:
        expected = explicit.projection(kind, "w", P, dim, seed=3, blocks=blocks)
    # Normal numbers are rounded to float32.
    oracle.close(projections[case], expected, 1e-5 if kind in ("gaussian", "kronecker") else 1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sketch_of_any_gradient_is_its_product_with_the_projection(oracle, projections, case):
    x, cotangents = oracle.draw(P, K), oracle.draw(P, O, seed=1)
    found = ns.sketch(linear, LINEAR, x, outputs=cotangents, kind=case[0], dim=case[1], blocks=case[2], seed=3)
    oracle.close(found, (x[:, :, None] * cotangents[:, None, :]).reshape(P, P) @ projections[case])


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "countsketch"], ids=str)
def test_a_countsketch_has_one_sign_a_row_and_block_and_no_collision_within_its_width(projections, case):
    _, dim, blocks = case
    width = dim // blocks
    for block in projections[case].reshape(P, blocks, width).swapaxes(0, 1):
        assert (np.count_nonzero(block, axis=1) == 1).all()
        np.testing.assert_allclose(np.abs(block).max(1), blocks**-0.5, rtol=1e-15)
        for first in range(0, P, width):
            assert np.count_nonzero(block[first : first + width], axis=0).max() == 1


def test_a_hadamard_sketch_as_long_as_the_leaf_is_a_rotation(projections):
    matrix = projections["srht", 64, 1]
    assert np.abs(matrix @ matrix.T - np.eye(P)).max() < 1e-12


@pytest.mark.parametrize(("dim", "blocks"), [(32, 1), (128, 2)])
def test_a_hadamard_sketch_gives_the_exact_kernel_where_the_leaf_is_no_longer(oracle, dim, blocks):
    x = oracle.draw(P, K)
    z = ns.sketch(linear, LINEAR, x, outputs="sum", kind="srht", dim=dim, blocks=blocks)
    oracle.close(z @ z.T, O * x @ x.T)


def test_rademacher_entries_are_signs_over_the_root_of_the_dimension(projections):
    for case in (("rademacher", 40, 1), ("jvp", 24, 3)):
        np.testing.assert_allclose(np.abs(projections[case]), case[1] ** -0.5, rtol=1e-15)


def test_a_block_of_a_kronecker_sketch_is_a_product_of_two_matrices(projections):
    """Every block reads A[k, a] B[o, c]: of rank one as a matrix of the pairs (k, a) and (o, c)."""
    blocks = projections["kronecker", 24, 3].reshape(K, O, 3, *SIDES[8]).transpose(2, 0, 3, 1, 4)
    values = [np.linalg.svd(block.reshape(K * SIDES[8][0], O * SIDES[8][1]), compute_uv=False) for block in blocks]
    assert all(one[1] < 1e-12 * one[0] for one in values)


def test_blocks_seeds_and_kinds_differ(projections):
    """No two sketches that should be independent share numbers."""
    for case in (("countsketch", 24, 3), ("srht", 24, 3), ("kronecker", 24, 3)):
        blocks = projections[case].reshape(P, 3, 8)
        assert not any(np.array_equal(blocks[:, i], blocks[:, j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert not np.array_equal(projections["rademacher", 40, 1], of_all_entries(kind="rademacher", dim=40, seed=4))


def test_of_dense_kinds_blocks_are_only_a_way_to_group_columns(projections):
    np.testing.assert_array_equal(of_all_entries(kind="gaussian", dim=24, blocks=1, seed=3), projections["gaussian", 24, 3])
    np.testing.assert_array_equal(of_all_entries(kind="rademacher", dim=40, blocks=5, seed=3), projections["rademacher", 40, 1])


# Convolutions, groups and all.

conv = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def network(p, x):
    """A leaf of each shape: stem, 3 x 3, depthwise, grouped, 1 x 1, dense, scale, bias."""
    h = jnp.tanh(conv(x, p["stem"], (2, 2), "SAME"))
    h = jnp.tanh(conv(h, p["3x3"], (1, 1), "SAME") * p["scale"] + p["bias"])
    h = jnp.tanh(conv(h, p["depthwise"], (1, 1), "SAME", feature_group_count=4))
    h = jnp.tanh(conv(h, p["grouped"], (2, 2), "SAME", feature_group_count=2))
    h = jnp.tanh(conv(h, p["1x1"], (1, 1), "VALID"))
    return h.mean((1, 2)) @ p["head"]


SHAPES = {
    "stem": (7, 7, 3, 8),
    "3x3": (3, 3, 8, 4),
    "scale": (4,),
    "bias": (4,),
    "depthwise": (3, 3, 1, 4),
    "grouped": (3, 3, 2, 6),
    "1x1": (1, 1, 6, 5),
    "head": (5, 3),
}
GROUPS = {"depthwise": 4, "grouped": 2}
WEIGHTS = [name for name, shape in SHAPES.items() if len(shape) > 1]
N, C = 3, 3


@pytest.fixture(scope="module")
def net(oracle):
    """Parameters, examples, and the Jacobian (n, c, p) of each leaf."""
    params = {name: oracle.draw(*shape, seed=seed) / np.sqrt(max(1, np.prod(shape[:-1]))) for seed, (name, shape) in enumerate(SHAPES.items())}
    params["scale"] = 1 + params["scale"] / 5
    x = oracle.draw(N, 6, 6, 3, seed=99)
    return params, x, oracle.jacobians(network, params, x)


def as_blocks(name: str, gradient: np.ndarray) -> np.ndarray:
    """The gradient (p,) of a weight as a matrix, groups on the diagonal."""
    matrix = gradient.reshape(-1, SHAPES[name][-1])
    return scipy.linalg.block_diag(*np.split(matrix, GROUPS.get(name, 1), axis=1))


# Forward mode.


def little(p, x):
    """Few operations: forward and reverse mode are compiled for it many times."""
    h = jnp.tanh(conv(x, p["grouped"], (2, 2), "SAME", feature_group_count=2) * p["scale"])
    return h.mean((1, 2)) @ p["head"]


@pytest.fixture(scope="module")
def forwards(oracle):
    """Parameters, examples, and the Jacobian (n, c, p) of each leaf."""
    params, x = {"grouped": oracle.draw(3, 3, 1, 4), "scale": oracle.draw(4), "head": oracle.draw(4, C)}, oracle.draw(N, 3, 3, 2)
    return params, x, oracle.jacobians(little, params, x)


@pytest.mark.parametrize(("outputs", "dim", "blocks"), [("sum", 20, 2), ("full", 32, 1), ("diagonal", 32, 1), ("one", 20, 2), ("each", 20, 2)])
def test_forward_mode_gives_the_numbers_of_reverse_mode(oracle, forwards, outputs, dim, blocks):
    params, x, _ = forwards
    outputs = {"one": oracle.draw(C), "each": oracle.draw(N, C)}.get(outputs, outputs)
    forward, reverse = (ns.sketch(little, params, x, kind=kind, dim=dim, blocks=blocks, seed=2, outputs=outputs) for kind in ("jvp", "rademacher"))
    oracle.close(forward, reverse)


@pytest.mark.parametrize(("dim", "blocks"), [(32, 1), (40, 2)])
def test_forward_mode_puts_the_outputs_of_a_trace_side_by_side(oracle, explicit, forwards, dim, blocks):
    """One direction fills a column for each output; columns that are left over in a block stay zero."""
    params, x, jacobian = forwards
    found = ns.sketch(little, params, x, kind="jvp", dim=dim, blocks=blocks, seed=2).reshape(N, blocks, -1)
    width = dim // blocks
    directions = width // C
    signs = {name: explicit.projection("rademacher", name, rows.shape[-1], dim, seed=2) * dim**0.5 for name, rows in jacobian.items()}
    pushed = sum(jacobian[name] @ signs[name] for name in jacobian)  # (n, c, dim)
    for block in range(blocks):
        columns = block * width + C * np.arange(directions)
        expected = pushed[:, :, columns].swapaxes(1, 2).reshape(N, -1) * (blocks * directions * C) ** -0.5
        oracle.close(found[:, block, : C * directions], expected)
        assert not found[:, block, C * directions :].any()


@pytest.mark.nightly
def test_over_seeds_forward_mode_has_the_exact_kernel_as_mean(oracle, forwards):
    """A direction serves all outputs: 96 columns are those of 32 directions."""
    params, x, jacobian = forwards
    z = np.stack([ns.sketch(little, params, x, kind="jvp", dim=96, blocks=2, seed=seed) for seed in range(SEEDS)])
    exact = oracle.paired(oracle.whole(jacobian), outputs="trace")
    unbiased(kernels(z), exact)
    with pytest.raises(AssertionError):
        unbiased(kernels(1.05 * z), exact)


# The parts that kinds are made of.


@pytest.mark.parametrize(
    ("e", "t", "p", "width", "blocks"),
    [(2, 1, 5, 8, 1), (1, 1, 8, 8, 2), (3, 2, 16, 8, 2), (2, 3, 21, 8, 3), (2, 1, 9, 1, 2), (2, 2, 20, 7, 1)],
    ids=["shorter than the sketch", "one row", "two rows", "rows and a rest", "a single column", "a width that is no power of two"],
)
def test_rows_rotated_at_once_are_rows_rotated_one_after_the_other(oracle, explicit, e, t, p, width, blocks):
    gradients, keys = oracle.draw(e, t, p), jnp.asarray(leaf_keys(0, "w", blocks, np.arange(t)))
    before = jnp.asarray(oracle.draw(e, blocks, 2 * width))
    both = [countsketch.update(before, jnp.asarray(gradients), keys, at_once=at_once) for at_once in (True, False)]
    at_once, one_by_one = (np.asarray(countsketch.finalize(total)) for total in both)
    oracle.close(at_once, one_by_one)
    expected = sum(gradients[:, c] @ explicit.projection("countsketch", "w", p, width * blocks, blocks=blocks, cotangent=c) for c in range(t))
    oracle.close(one_by_one, expected + np.asarray(countsketch.finalize(before)))


@pytest.mark.parametrize("bits", [0, 1, 2, 4, 5, 6, 10, 11])
def test_fast_transforms_are_products_with_hadamard_matrices(oracle, bits):
    x = oracle.draw(2, 2**bits)
    oracle.close(np.asarray(srht.hadamard(jnp.asarray(x))), x @ scipy.linalg.hadamard(2**bits))


@pytest.mark.parametrize(("p", "width"), [(40, 8), (33, 4), (48, 16), (20, 32)])
def test_long_leaves_are_transformed_piece_by_piece(oracle, explicit, monkeypatch, p, width):
    monkeypatch.setattr(srht, "LONGEST", 4)
    gradients, keys = oracle.draw(2, 1, p), jnp.asarray(leaf_keys(0, "w", 2, np.array([0])))
    total = srht.update(srht.init(2, width, 2, jnp.float64), jnp.asarray(gradients), keys)
    expected = gradients[:, 0] @ explicit.projection("srht", "w", p, 2 * width, blocks=2, longest=4)
    oracle.close(np.asarray(srht.finalize(total)), expected)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
@pytest.mark.parametrize("p", [63, 64, 150])
def test_dense_matrices_are_made_piece_by_piece(oracle, explicit, monkeypatch, kind, p):
    monkeypatch.setattr(dense, "ENTRIES", 1)  # the least height, 64 entries
    gradients, keys = oracle.draw(2, 2, p), jnp.asarray(leaf_keys(0, "w", 1, np.arange(2)))
    total = dense.update(kind, dense.init(2, 36, 1, jnp.float64), jnp.asarray(gradients), keys)
    expected = sum(gradients[:, c] @ explicit.projection(kind, "w", p, 36, cotangent=c) for c in range(2))
    oracle.close(np.asarray(dense.finalize(total)), expected, 1e-5 if kind == "gaussian" else 1e-12)


# Laws: each takes the gradients of two examples, cotangent by cotangent (t, p), and gives the variance of <Z_x, Z_y>.


def pairs(x, y) -> float:
    """The sum over unordered pairs of entries, an entry with itself included, of (x_i y_j + x_j y_i)^2 / (1 or 2)."""
    return (x**2).sum() * (y**2).sum() + (x * y).sum() ** 2


def itself(x, y) -> float:
    """What an entry contributes with itself."""
    return 2 * (x**2 * y**2).sum()


def cut(rows, length: int) -> list[np.ndarray]:
    """Runs of `length` entries; cotangents stay apart."""
    return [row[first : first + length] for row in rows for first in range(0, row.size, length)]


def gaussian_law(x, y, dim, blocks):
    return pairs(x, y) / dim


def rademacher_law(x, y, dim, blocks):
    return (pairs(x, y) - itself(x, y)) / dim


def countsketch_law(x, y, dim, blocks):
    """Entries of one row do not meet."""
    return (pairs(x, y) - sum(map(pairs, cut(x, dim // blocks), cut(y, dim // blocks)))) / dim


def srht_law(x, y, dim, blocks, longest=20):
    """Entries of different pieces meet as random signs do; within a piece the sample is one without replacement."""
    width = dim // blocks
    length = 2 ** max(min((x.shape[1] - 1).bit_length(), longest), (width - 1).bit_length())
    pieces = list(zip(cut(x, length), cut(y, length), strict=True))
    within = sum(pairs(*piece) - itself(*piece) for piece in pieces) * (1 - (width - 1) / max(1, length - 1))
    return (pairs(x, y) - sum(pairs(*piece) for piece in pieces) + within) / dim


def kronecker_law(w, v, dim, blocks):
    """W, V (k, o): of A' W B and A' V B with Gaussian A, B."""
    ka, kg = SIDES[dim // blocks]
    n = v.T @ w
    square, twice, inner = (n**2).sum(), np.trace(n @ n), np.trace(n)
    lengths = (w**2).sum() * (v**2).sum()
    crossed = np.trace(w.T @ w @ v.T @ v)
    outer = (square + twice) / kg
    return (outer + ((1 + 1 / kg) * crossed + lengths / kg + twice + (square + inner**2) / kg) / ka) / blocks


LAWS = {"gaussian": gaussian_law, "rademacher": rademacher_law, "countsketch": countsketch_law, "srht": srht_law}
SIGMAS = 5.5  # about 1e-7 on two sides: some hundreds of entries are compared


def unbiased(estimates: np.ndarray, expected: np.ndarray) -> None:
    """The mean over seeds (seeds, n, n) is within its standard error; what does not vary is equal."""
    scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    error = estimates.std(axis=0, ddof=1) * len(estimates) ** -0.5
    assert (np.abs(estimates.mean(0) - expected) <= SIGMAS * error + 1e-12 * scale).all()


def of_variance(estimates: np.ndarray, expected: np.ndarray) -> None:
    """The sample variance is within its standard error, which the fourth moment tells, of the law."""
    deviations = estimates - estimates.mean(0)
    found, fourth = deviations.var(axis=0, ddof=1), (deviations**4).mean(0)
    error = np.sqrt(np.maximum(fourth - found**2, 2 * expected**2) / len(estimates))
    scale = np.outer(np.diagonal(estimates.mean(0)), np.diagonal(estimates.mean(0)))
    assert (np.abs(found - expected) <= SIGMAS * error + 1e-12 * scale).all()


def table(law, rows) -> np.ndarray:
    """A law for all pairs of examples."""
    return np.array([[law(x, y) for y in rows] for x in rows])


@pytest.fixture(scope="module")
def uneven(oracle):
    """Gradients (n, t, p) with large and small entries, alike from example to example."""
    weights = 2.0 ** -(np.arange(40)[np.random.default_rng(0).permutation(40)] ** 0.5)
    return (oracle.draw(3, 2, 40) + oracle.draw(1, 2, 40, seed=1)) * weights


def drawn(kind: str, gradients: np.ndarray, dim: int, blocks: int, seeds: int = 6000) -> np.ndarray:
    """Z Z' (seeds, n, n) of gradients (n, t, p), one seed after the other within a single program."""
    chosen, (n, t, _) = KINDS[kind], gradients.shape
    keys = np.stack([leaf_keys(seed, "w", 1 if chosen.independent_columns else blocks, np.arange(t)) for seed in range(seeds)])

    @jax.jit
    def kernels(keys, gradients):
        def kernel(keys):
            z = chosen.finalize(chosen.update(chosen.init(n, dim // blocks, blocks, gradients.dtype), gradients, keys))
            return z @ z.T

        return jax.lax.map(kernel, keys)

    return np.asarray(kernels(jnp.asarray(keys), jnp.asarray(gradients)))


@pytest.mark.parametrize(
    ("kind", "dim", "blocks", "t"),
    [
        ("countsketch", 32, 2, 1),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (("gaussian", 12, 1, 2), ("rademacher", 12, 1, 2), ("countsketch", 12, 1, 2), ("srht", 16, 1, 2), ("srht", 32, 2, 1))
        ),
    ],
)
def test_thousands_of_seeds_follow_the_law_of_their_kind(uneven, kind, dim, blocks, t):
    gradients = uneven[:, :t]
    found = drawn(kind, gradients, dim, blocks)
    unbiased(found, np.einsum("itp,jtp->ij", gradients, gradients))
    expected = table(partial(LAWS[kind], dim=dim, blocks=blocks), gradients)
    of_variance(found, expected)
    # The bound that all of them share, and a law that is too large by an eighth is told apart.
    assert (expected <= table(partial(gaussian_law, dim=dim, blocks=blocks), gradients) * (1 + 1e-12)).all()
    with pytest.raises(AssertionError):
        of_variance(found, 1.25 * expected)


@pytest.mark.nightly
def test_thousands_of_seeds_follow_the_law_of_a_transform_in_pieces(uneven, monkeypatch):
    monkeypatch.setattr(srht, "LONGEST", 4)
    gradients = uneven[:, :1]
    found = drawn("srht", gradients, 8, 1)
    unbiased(found, np.einsum("itp,jtp->ij", gradients, gradients))
    of_variance(found, table(partial(srht_law, dim=8, blocks=1, longest=4), gradients))


# Whole layers, by the public call.

SEEDS = 400
DIM, BLOCKS = 32, 2
EVERY = [pytest.param(kind, marks=pytest.mark.nightly if kind == "countsketch" else pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module")
def over_seeds(net):
    """Function of the kind: {leaf: Z (seeds, n, dim)}, of the trace."""
    params, x, _ = net
    found = {}

    def of(kind):
        if kind not in found:
            drawn = [ns.sketch(network, params, x, kind=kind, dim=DIM, blocks=BLOCKS, seed=seed, by_layer=True) for seed in range(SEEDS)]
            found[kind] = {name: np.stack([one[name] for one in drawn]) for name in SHAPES}
        return found[kind]

    return of


def kernels(z: np.ndarray) -> np.ndarray:
    """Z Z' for each seed."""
    return z @ z.swapaxes(1, 2)


@pytest.mark.parametrize("kind", EVERY)
def test_over_seeds_every_leaf_has_its_exact_kernel_as_mean(oracle, net, over_seeds, kind):
    for name, rows in net[2].items():
        unbiased(kernels(over_seeds(kind)[name]), oracle.paired(rows, outputs="trace"))


@pytest.mark.parametrize("kind", EVERY)
def test_over_seeds_leaves_are_independent(oracle, net, over_seeds, kind):
    """Z of the whole is the sum over leaves: without bias only if products between leaves have mean zero."""
    unbiased(kernels(sum(over_seeds(kind).values())), oracle.paired(oracle.whole(net[2]), outputs="trace"))


@pytest.mark.parametrize("kind", EVERY)
def test_a_scale_that_is_wrong_by_a_twentieth_is_found(oracle, net, over_seeds, kind):
    """In every leaf; of a Kronecker sketch, whose error is larger, in those that are no weights."""
    for name, rows in net[2].items():
        if kind != "kronecker" or name not in WEIGHTS:
            with pytest.raises(AssertionError):
                unbiased(kernels(1.05 * over_seeds(kind)[name]), oracle.paired(rows, outputs="trace"))


@pytest.mark.parametrize("kind", EVERY)
def test_over_seeds_every_leaf_has_the_variance_of_its_law(net, over_seeds, kind):
    for name, rows in net[2].items():
        if kind == "kronecker" and name in WEIGHTS:
            gradients = [np.hstack([as_blocks(name, row) for row in example]) * C**-0.5 for example in rows]
            law = kronecker_law
        else:
            gradients, law = rows * C**-0.5, LAWS.get(kind, countsketch_law)
        of_variance(kernels(over_seeds(kind)[name]), table(partial(law, dim=DIM, blocks=BLOCKS), gradients))


def test_a_kronecker_sketch_projects_inputs_and_cotangents_of_every_use(oracle, explicit, net):
    """Inputs are projected once; cotangents, which are concatenated, have independent matrices. Groups have their own."""
    seed = 7
    params, x, _ = net
    found = ns.sketch(network, params, x, kind="kronecker", dim=DIM, blocks=BLOCKS, seed=seed, by_layer=True)
    for name in WEIGHTS:
        groups = GROUPS.get(name, 1)
        g, k, o = groups, int(np.prod(SHAPES[name][:-1])), SHAPES[name][-1] // groups
        rows = net[2][name].reshape(N, C, k, g, o).swapaxes(2, 3).reshape(N, C, -1)
        matrices = [explicit.kronecker(name, (g, k, o), SIDES[DIM // BLOCKS], seed=seed, blocks=BLOCKS, cotangent=c) for c in range(C)]
        oracle.close(found[name], sum(rows[:, c] @ matrix for c, matrix in enumerate(matrices)) * C**-0.5, 1e-5)
    for name in ("scale", "bias"):
        matrices = [explicit.projection("countsketch", name, 4, DIM, seed=seed, blocks=BLOCKS, cotangent=c) for c in range(C)]
        oracle.close(found[name], sum(net[2][name][:, c] @ matrix for c, matrix in enumerate(matrices)) * C**-0.5)
