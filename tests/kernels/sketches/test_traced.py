"""Sketches within JAX: traced, differentiated, compiled once per specification, on the device, in every mode of JAX."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError
from ntk_select.kernels.sketches import countsketch
from ntk_select.kernels.sketches.projection import ALL_KINDS

pytestmark = pytest.mark.usefixtures("quickly")

N, C = 4, 2
EVERY = [
    pytest.param(kind, marks=() if kind == "countsketch" else pytest.mark.nightly if kind in ("kronecker", "jvp") else pytest.mark.slow)
    for kind in ALL_KINDS
]


def quick(cases, every):
    """`every`, all but `cases` as nightly ones."""
    return [pytest.param(*case, marks=() if case in cases else pytest.mark.nightly) for case in every]


BY_OUTPUTS = [(kind, outputs) for kind in ALL_KINDS for outputs in ("trace", "full")]
conv = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def network(p, x):
    h = jnp.tanh(conv(x, p["conv"], (1, 1), "SAME") * p["scale"])
    return jnp.tanh(h.mean((1, 2)) @ p["moved"].T) @ p["head"]


def parameters(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 2, 3), "scale": (3,), "moved": (4, 3), "head": (4, C)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


PARAMS = parameters()
X = np.random.default_rng(1).normal(size=(N, 3, 3, 2))


# The traceable function.


@pytest.mark.parametrize(("kind", "outputs"), quick([("countsketch", "full"), ("jvp", "full")], BY_OUTPUTS))
def test_the_traceable_function_has_the_numbers_of_the_driver(oracle, kind, outputs):
    options = {"dim": 16, "kind": kind, "seed": 3, "outputs": outputs, "blocks": 2}
    expected = ns.sketch(network, PARAMS, X, batch_size=3, **options)
    rows = ns.sketch_fn(network, PARAMS, X, **options)
    for function in (rows, jax.jit(rows)):
        oracle.close(function(PARAMS, X), expected)
    oracle.close(jax.jit(rows)(PARAMS, X[:3]), expected[:3])


def test_shapes_are_enough_to_make_the_traceable_function(oracle):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (PARAMS, X))
    rows = ns.sketch_fn(network, *shapes, dim=8, layers="conv|scale")
    oracle.close(rows(PARAMS, X), ns.sketch(network, PARAMS, X, dim=8, layers="conv|scale"))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", EVERY)
def test_it_is_mapped_over_networks_and_examples(oracle, kind):
    rows = ns.sketch_fn(network, PARAMS, X, dim=16, kind=kind)
    several = [parameters(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
    oracle.close(jax.vmap(rows, (0, None))(stacked, X), np.stack([rows(params, X) for params in several]))
    oracle.close(jax.vmap(lambda x: rows(PARAMS, x[None])[0])(X), np.asarray(rows(PARAMS, X)))


@pytest.mark.parametrize(
    ("kind", "outputs"),
    quick([("jvp", "trace")], [("countsketch", "full"), *((kind, "trace") for kind in ALL_KINDS)]),
)
def test_derivatives_are_those_of_finite_differences_in_forward_and_reverse_mode(kind, outputs):
    rows = ns.sketch_fn(network, PARAMS, X, dim=12, kind=kind, outputs=outputs, blocks=2)
    check_grads(lambda params, x: rows(params, x).sum(), (PARAMS, X), order=1, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


def test_the_derivative_is_that_through_the_jacobian_and_the_projection(oracle, explicit):
    rows = ns.sketch_fn(network, PARAMS, X, dim=8, outputs="sum", seed=2)
    matrices = {name: explicit.projection("countsketch", name, leaf.size, 8, seed=2) for name, leaf in PARAMS.items()}

    def by_definition(params):
        gradients = jax.vmap(lambda x: jax.grad(lambda p: network(p, x[None]).sum())(params))(X)
        return (sum(gradients[name].reshape(N, -1) @ matrix for name, matrix in matrices.items()) ** 2).sum()

    def derivatives(function):
        """The gradient, and the product of the Hessian with the parameters."""
        return jax.jit(lambda params: jax.jvp(jax.grad(function), (params,), (params,)))(PARAMS)

    found, expected = map(derivatives, (lambda params: (rows(params, X) ** 2).sum(), by_definition))
    for name in PARAMS:
        oracle.close(found[0][name], np.asarray(expected[0][name]))
        oracle.close(found[1][name], np.asarray(expected[1][name]), 1e-11)


def test_rows_rotated_at_once_are_differentiated_as_well(explicit):
    gradients, keys = jnp.ones((2, 1, 20)), jnp.ones((1, 2, 4), jnp.uint32)
    project = lambda at_once, g: countsketch.update(countsketch.init(2, 8, 2, g.dtype), g, keys, at_once=at_once)[..., :8].sum(-1)  # noqa: E731
    folded = lambda at_once, g: countsketch.finalize(countsketch.update(countsketch.init(2, 8, 2, g.dtype), g, keys, at_once=at_once))  # noqa: E731
    assert project(True, gradients).shape == (2, 2)
    both = [jax.jit(jax.grad(lambda g, at_once=at_once: (folded(at_once, g) ** 3).sum()))(gradients) for at_once in (True, False)]
    np.testing.assert_allclose(*both, rtol=1e-12)


def test_python_numbers_among_the_parameters_are_traced(oracle):
    fn, params = (lambda p, x: x @ p["w"] * p["scale"] * p["times"]), {"w": np.ones((3, 2)), "scale": 1.5, "times": 2}
    rows, x = ns.sketch_fn(fn, params, X[:, 0, :, 0], dim=8), X[:, 0, :, 0]
    oracle.close(rows(params, x), ns.sketch(fn, params, x, dim=8))
    check_grads(lambda scale: rows(params | {"scale": scale}, x).sum(), (1.5,), order=1, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim=0 must be a whole number"),
        ({"precision": "higher"}, "precision='higher' is unknown"),
        ({"kind": "jvp", "dim": 1}, "needs one column for each of 2 outputs per direction"),
        ({"layers": "none"}, "layers='none' matches no floating-point parameter"),
        ({"outputs": "all"}, "outputs='all' is unknown"),
    ],
    ids=str,
)
def test_the_traceable_function_refuses_at_once_what_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        ns.sketch_fn(network, PARAMS, X, **{"dim": 8, **options})


# Tracers where there can be none.


def plain(p, x):
    return jnp.tanh(x @ p["a"]) @ p["c"]


PLAIN = {"a": np.random.default_rng(2).normal(size=(3, 4)), "c": np.random.default_rng(3).normal(size=(4, 2))}
INPUTS, LABELS = np.random.default_rng(4).normal(size=(5, 3)), np.array([0, 1, 0, 1, 1])
DRIVERS = {
    "sketch": (lambda p, x: ns.sketch(plain, p, x, dim=8), "ns.sketch_fn"),
    "gradient_kernel": (lambda p, x: ns.gradient_kernel(plain, x, params=p, layers="all"), "ns.ntk_fn"),
    "gradient_sketch": (lambda p, x: ns.gradient_sketch(plain, x, 64, params=p, layers="all").sketch, "ns.sketch_fn"),
    "lgc": (lambda p, x: ns.lgc(plain, x, LABELS, params=p, layers="all"), "ns.ntk_fn.* or ns.sketch_fn"),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_what_cannot_be_traced_says_so_and_names_what_can(name):
    call, instead = DRIVERS[name]
    message = rf"ns\.{name} works on the host and cannot be traced by jax.jit, jax.grad or jax.vmap. Try: {instead}"
    with pytest.raises(ConfigError, match=message):
        jax.grad(lambda p: call(p, INPUTS).sum())(PLAIN)
    with pytest.raises(ConfigError, match=message):
        jax.jit(call)(PLAIN, INPUTS)
    with pytest.raises(ConfigError, match=message):
        jax.vmap(call, (None, 0))(PLAIN, INPUTS[:, None])


@pytest.mark.parametrize("name", ["gradient_kernel", "gradient_sketch", "lgc"])
def test_an_expert_of_traced_parameters_is_refused(name):
    def score(scale):
        expert = ns.Expert("mine", lambda variables, x: plain(variables["params"], x), jax.tree.map(lambda leaf: leaf * scale, PLAIN))
        given = {"gradient_kernel": (), "gradient_sketch": (64,), "lgc": (LABELS,)}[name]
        getattr(ns, name)(expert, INPUTS, *given, layers="all")
        return scale

    with pytest.raises(ConfigError, match=rf"ns\.{name} works on the host and cannot be traced"):
        jax.grad(score)(2.0)


def test_a_sketch_of_a_function_that_captures_traced_arrays_is_refused():
    with pytest.raises(ConfigError, match=r"ns\.sketch works on the host and cannot be traced"):
        jax.grad(lambda scale: ns.sketch(lambda p, x: plain(p, x) * scale, PLAIN, INPUTS, dim=8).sum())(2.0)


# Compilations and transfers.


def new_function(scale):
    """A new function of the same operations, with an array of its own."""
    captured = np.full(C, scale)
    return lambda p, x: network(p, x) * captured


CALLS = {
    **{kind: lambda fn, params, seed, kind=kind: ns.sketch(fn, params, X, dim=16, kind=kind, seed=seed) for kind in ALL_KINDS},
    "batches": lambda fn, params, seed: ns.sketch(fn, params, X, dim=16, seed=seed, batch_size=3),
    "on the device": lambda fn, params, seed: ns.sketch(fn, *jax.device_put((params, X)), dim=16, seed=seed, batch_size=3),
    "outputs apart": lambda fn, params, seed: ns.sketch(fn, params, X, dim=16, seed=seed, outputs="full", by_layer=True),
    "traceable": lambda fn, params, seed: ns.sketch_fn(fn, params, X, dim=16)(params, X),
    "gradient_sketch": lambda fn, params, seed: ns.gradient_sketch(fn, X, ns.Sketch(16, seed=seed), params=params, layers="all"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("countsketch", "jvp", "batches") else pytest.mark.nightly) for name in CALLS],
)
def test_a_second_call_compiles_nothing_though_function_arrays_and_seed_are_new(compilations, name):
    CALLS[name](new_function(1.0), parameters(0), 0)
    compilations.clear()
    CALLS[name](new_function(2.0), parameters(1), 1)
    assert not compilations


def test_a_batch_is_one_program(compilations):
    ns.sketch(network, PARAMS, X, dim=16)
    compilations.clear()
    ns.sketch(network, PARAMS, X, dim=24)  # the check that examples are independent is compiled already
    assert len(compilations) == 1


@pytest.mark.parametrize(
    ("kind", "where"),
    quick([("countsketch", "device"), ("jvp", "host")], [(kind, where) for kind in ALL_KINDS for where in ("host", "device")]),
)
def test_nothing_is_transferred_unless_it_is_said(kind, where):
    params, x = jax.device_put((PARAMS, X)) if where == "device" else (PARAMS, X)
    options = {"dim": 16, "kind": kind, "batch_size": 3, "outputs": np.ones((N, C)) if kind == "srht" else "trace"}
    expected = ns.sketch(network, params, x, **options)
    with jax.transfer_guard("disallow"):
        found = ns.sketch(network, params, x, **options)
        ns.sketch_fn(network, params, x, dim=16, kind=kind)(params, x)
    np.testing.assert_array_equal(found, expected)


# Modes of JAX.


@pytest.mark.parametrize(
    ("kind", "outputs"),
    quick([("srht", "full"), ("kronecker", "full"), ("jvp", "full")], BY_OUTPUTS),
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), pytest.param(np.float64, 1e-12, marks=pytest.mark.nightly)])
def test_types_are_never_promoted_implicitly(oracle, kind, outputs, dtype, tolerance):
    params, x = parameters(dtype=dtype), X.astype(dtype)
    with jax.numpy_dtype_promotion("strict"):
        found = ns.sketch(network, params, x, dim=16, kind=kind, outputs=outputs)
    oracle.close(found, ns.sketch(network, PARAMS, X, dim=16, kind=kind, outputs=outputs), tolerance)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", EVERY)
def test_it_works_without_compilation_and_with_a_search_for_nan(oracle, kind):
    expected = ns.sketch(network, PARAMS, X, dim=8, kind=kind)
    with jax.disable_jit():
        oracle.close(ns.sketch(network, PARAMS, X[:2], dim=8, kind=kind), expected[:2], 1e-6 if kind == "kronecker" else 1e-12)
    with jax.debug_nans(True):
        oracle.close(ns.sketch(network, PARAMS, X, dim=8, kind=kind), expected)


# What a function may be.


@pytest.mark.parametrize("call", [lambda fn: ns.sketch(fn, PARAMS, X, dim=8), lambda fn: ns.sketch_fn(fn, PARAMS, X, dim=8)])
def test_examples_that_influence_each_other_are_refused(call):
    with pytest.raises(ModelError, match="depend on the other examples of the batch"):
        call(lambda p, x: network(p, x - x.mean(0)))


def reader(p, x):
    """Rows of a table for tokens (n, 4), weighted by a mask."""
    h = (p["table"][x["tokens"]] * x["mask"][..., None]).sum(1)
    return jnp.tanh(h @ p["hidden"]) @ p["head"][:, 0] + (p["table"].sum(1)[x["tokens"]]).sum(1)


def once(p, x):
    """The same table, read once."""
    h = jnp.tanh(p["table"][x["tokens"]] * x["mask"][..., None]).mean(1)
    return jnp.tanh(h @ p["hidden"]) @ p["head"]


TEXT = {"tokens": np.array([[0, 1, 1, 6], [2, 0, 5, 5], [3, 3, 3, 3]]), "mask": np.random.default_rng(5).normal(size=(3, 4))}
TABLES = {"table": (7, 3), "hidden": (3, 5), "head": (5, C)}
TEXT_PARAMS = {name: np.random.default_rng(seed).normal(size=shape) for seed, (name, shape) in enumerate(TABLES.items())}


def jacobian_of(fn):
    """The Jacobian (n, c, p) of each leaf, by definition."""
    found = {}
    for example in range(3):
        one = jax.tree.map(lambda leaf, example=example: leaf[example : example + 1], TEXT)
        for name, rows in jax.jit(jax.jacrev(lambda p, one=one: jnp.atleast_2d(fn(p, one))))(TEXT_PARAMS).items():
            found.setdefault(name, []).append(np.asarray(rows)[0].reshape(rows.shape[1], -1))
    return {name: np.stack(rows) for name, rows in found.items()}


QUICK = [(once, "srht", "trace"), (once, "rademacher", "full"), (reader, "countsketch", "full")]


@pytest.mark.parametrize(
    ("fn", "kind", "outputs"), quick(QUICK, itertools.product((once, reader), ("countsketch", "srht", "rademacher"), ("trace", "full", "sum")))
)
def test_tokens_and_masks_are_sketched_as_the_jacobian_is_projected(oracle, explicit, fn, kind, outputs):
    found = ns.sketch(fn, TEXT_PARAMS, TEXT, dim=16, kind=kind, seed=2, outputs=outputs, by_layer=True)
    for name, rows in jacobian_of(fn).items():
        matrices = [explicit.projection(kind, name, rows.shape[-1], 16, seed=2, cotangent=c) for c in range(rows.shape[1])]
        if outputs == "trace":
            expected = sum(rows[:, c] @ matrix for c, matrix in enumerate(matrices)) * rows.shape[1] ** -0.5
        else:
            expected = rows @ matrices[0] if outputs == "full" else rows.sum(1) @ matrices[0]
        oracle.close(found[name], expected)


@pytest.mark.parametrize("outputs", ["trace", "full"])
def test_a_kronecker_sketch_projects_the_rows_of_a_table(oracle, explicit, outputs):
    found = ns.sketch(once, TEXT_PARAMS, TEXT, dim=16, kind="kronecker", blocks=2, seed=2, outputs=outputs, by_layer=True)["table"]
    rows = jacobian_of(once)["table"]
    matrices = [explicit.kronecker("table", (1, 7, 3), (2, 4), seed=2, blocks=2, cotangent=c) for c in range(C)]
    expected = sum(rows[:, c] @ matrix for c, matrix in enumerate(matrices)) * C**-0.5 if outputs == "trace" else rows @ matrices[0]
    oracle.close(found, expected, 1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", EVERY)
def test_over_seeds_a_table_has_its_exact_kernel_as_mean(kind):
    rows = jacobian_of(once)["table"]
    exact = np.einsum("icp,jcp->ij", rows, rows) / C
    z = np.stack([ns.sketch(once, TEXT_PARAMS, TEXT, dim=32, kind=kind, blocks=2, seed=seed, layers="table") for seed in range(300)])
    estimates = z @ z.swapaxes(1, 2)
    error = estimates.std(axis=0, ddof=1) * len(z) ** -0.5
    assert (np.abs(estimates.mean(0) - exact) <= 5 * error + 1e-12).all()
    if kind != "kronecker":  # whose error is larger
        assert not (np.abs(1.1 * estimates.mean(0) - exact) <= 5 * error).all()


@pytest.mark.parametrize("kind", ["kronecker", pytest.param("countsketch", marks=pytest.mark.nightly)])
def test_embeddings_are_differentiated_in_both_modes(kind):
    rows = ns.sketch_fn(once, TEXT_PARAMS, TEXT, dim=8, kind=kind)
    check_grads(jax.jit(lambda params: rows(params, TEXT).sum()), (TEXT_PARAMS,), order=1, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["countsketch", pytest.param("jvp", marks=pytest.mark.nightly)])
def test_trees_of_examples_go_in_batches_from_host_and_device_and_to_disk(oracle, tmp_path, kind):
    whole = ns.sketch(reader, TEXT_PARAMS, TEXT, dim=16, kind=kind)
    assert whole.shape == (3, 16)
    oracle.close(ns.sketch(reader, TEXT_PARAMS, jax.device_put(TEXT), dim=16, kind=kind, batch_size=2), whole)
    oracle.close(np.asarray(ns.sketch(reader, TEXT_PARAMS, TEXT, dim=16, kind=kind, batch_size=2, out=tmp_path)), whole)
    others = TEXT | {"mask": TEXT["mask"] + 1}
    with pytest.raises(ConfigError, match="Example 0 of x, or its cotangents, is not the one"):
        ns.sketch(reader, TEXT_PARAMS, others, dim=16, kind=kind, out=tmp_path)
