"""Examples as pytrees, outputs (n,), tables that are looked up, and layers that are stacked: the kernel by definition, with their structure."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine import GeneralRouteWarning

pytestmark = pytest.mark.usefixtures("quickly")
_draw = np.random.default_rng(4).normal
ROWS, WIDTH, C = 7, 4, 3
PARAMS = {"table": _draw(size=(ROWS, WIDTH)), "w": _draw(size=(WIDTH, 5)), "head": _draw(size=(5, C))}
BATCH = {"tokens": np.array([[0, 3, 3, 1], [6, 2, 0, 5], [1, 1, 1, 1]]), "mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)}
OTHER = {"tokens": BATCH["tokens"][:2, ::-1].copy(), "mask": BATCH["mask"][1:]}
KEYS = jax.random.split(jax.random.key(0), 3)


def masked(p, x):
    """The mean of the looked up rows that the mask leaves."""
    h = jnp.tanh(p["table"][x["tokens"]] @ p["w"]) * x["mask"][..., None]
    return (h.sum(1) / x["mask"].sum(1, keepdims=True)) @ p["head"]


@pytest.fixture(scope="module")
def rows(oracle):
    """The Jacobians of both sides."""
    return [oracle.whole(oracle.jacobians(masked, PARAMS, x)) for x in (BATCH, OTHER)]


QUICK = {("full", "parameter"), ("trace", "sample")}
EVERY = [
    pytest.param(outputs, space, marks=() if (outputs, space) in QUICK else pytest.mark.nightly)
    for outputs in ("full", "trace", "diagonal", "sum")
    for space in ("parameter", "sample")
]


@pytest.mark.parametrize(("outputs", "space"), EVERY)
def test_examples_may_be_dicts(oracle, outputs, space):
    oracle.agrees(masked, PARAMS, BATCH, outputs=outputs, spaces=(space,))
    oracle.agrees(masked, PARAMS, BATCH, OTHER, outputs=outputs, spaces=(space,))
    assert oracle.kinds(masked, PARAMS, BATCH) == {"table": "embedding", "w": "dense", "head": "dense"}


def test_the_oracle_itself_equals_jacrev_of_the_batch(oracle):
    found = jax.jit(jax.jacrev(lambda p: masked(p, BATCH)))(PARAMS)
    for name, rows in oracle.jacobians(masked, PARAMS, BATCH).items():
        oracle.close(rows, np.asarray(found[name]).reshape(3, C, -1))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"batch_size": 1}, marks=pytest.mark.nightly),
        {"method": "jacobian"},
        {"method": "vector-product"},
        pytest.param({"memory_gb": 1e-5}, marks=pytest.mark.nightly),
        pytest.param({"accumulate": "float64"}, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_every_way_takes_dicts(oracle, rows, options):
    expected = oracle.paired(*rows, "trace")
    for x1, x2 in ((BATCH, OTHER), jax.device_put((BATCH, OTHER))):
        oracle.close(ns.ntk(masked, PARAMS, x1, x2, **options), expected)


def test_traced_kernels_vector_products_plans_and_folders_take_dicts(oracle, rows, tmp_path):
    left, right = rows
    oracle.close(jax.jit(ns.ntk_fn(masked, PARAMS, BATCH))(PARAMS, BATCH, OTHER), oracle.paired(left, right, "trace"))
    v = oracle.draw(2, C)
    oracle.close(ns.ntk_vector_product(masked, PARAMS, BATCH, v, x2=OTHER), np.einsum("ijab,jb->ia", oracle.paired(left, right), v))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), BATCH)
    assert str(ns.ntk_plan(masked, PARAMS, shapes, memory_gb=1)) == str(ns.ntk_plan(masked, PARAMS, BATCH, memory_gb=1))
    some = {name: leaf[:2] for name, leaf in BATCH.items()}
    ns.ntk(masked, PARAMS, some, out=tmp_path / "kernel", tile=1)
    oracle.close(np.asarray(ns.ntk(masked, PARAMS, BATCH, out=tmp_path / "kernel", tile=1)), oracle.paired(left, None, "trace"))


def test_tuples_of_arrays_are_examples_as_well(oracle):
    fn = lambda p, x: masked(p, {"tokens": x[0], "mask": x[1]})  # noqa: E731
    oracle.close(ns.ntk(fn, PARAMS, (BATCH["tokens"], BATCH["mask"])), np.asarray(ns.ntk(masked, PARAMS, BATCH)))


@pytest.mark.parametrize(
    ("x1", "x2", "message"),
    [
        (BATCH | {"mask": BATCH["mask"][:2]}, None, r"The arrays of x1 have leading axes of \[2, 3\] examples; they must be equal"),
        (BATCH, {"tokens": OTHER["tokens"]}, "x1 and x2 hold different arrays"),
        (BATCH, OTHER | {"mask": OTHER["mask"][:, :3]}, r"x1 holds bool examples of shape \(4,\), x2 bool of \(3,\); they must be the same"),
        (BATCH, OTHER | {"tokens": OTHER["tokens"].astype(np.int32)}, "they must be the same"),
        (BATCH | {"mask": np.ones(())}, None, "at least one example"),
        (BATCH | {"name": "text"}, None, "x1 must be one array of numbers"),
        (BATCH | {"key": KEYS}, None, r"x1 holds keys of jax.random. Try: jax.random.key_data\(keys\), and jax.random.wrap_key_data in fn"),
        ({}, None, "x1 must be one array of numbers"),
    ],
    ids=["lengths", "structure", "shape", "type", "no axis", "text", "keys", "nothing"],
)
def test_trees_that_do_not_fit_are_refused(x1, x2, message):
    with pytest.raises(ConfigError, match=message):
        ns.ntk(masked, PARAMS, x1, x2)


def test_keys_of_examples_are_numbers_that_become_keys_in_the_function(oracle):
    def noisy(p, x):
        keys = jax.random.wrap_key_data(x["key"])
        return masked(p, x) * (1 + jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys))

    oracle.agrees(noisy, PARAMS, BATCH | {"key": np.asarray(jax.random.key_data(KEYS))})


# One output an example.


@pytest.mark.parametrize(("outputs", "space"), [pytest.param("full", "parameter", marks=pytest.mark.nightly), ("trace", "sample")])
def test_outputs_may_be_one_number_an_example(oracle, outputs, space):
    fn = lambda p, x: masked(p, x)[:, 1]  # noqa: E731
    oracle.agrees(fn, PARAMS, BATCH, OTHER, outputs=outputs, spaces=(space,))
    oracle.close(ns.ntk(fn, PARAMS, BATCH, outputs=outputs), np.asarray(ns.ntk(lambda p, x: fn(p, x)[:, None], PARAMS, BATCH, outputs=outputs)))
    kernel = ns.ntk(fn, PARAMS, BATCH, outputs=np.array([2.0]))
    oracle.close(kernel, 4 * np.asarray(ns.ntk(fn, PARAMS, BATCH)))


# Tables.

FORMS = {
    "indexed": lambda t, i: t[i],
    "jnp.take": lambda t, i: jnp.take(t, i, axis=0),
    "clipped": lambda t, i: jnp.take(t, i, axis=0, mode="clip"),
    "wrapped": lambda t, i: jnp.take(t, i, axis=0, mode="wrap"),
    "filled": lambda t, i: t.at[i].get(mode="fill", fill_value=0),
    "of linen": lambda t, i: nn.Embed(ROWS, WIDTH, param_dtype=np.float64).apply({"params": {"embedding": t}}, i),
}
INDICES = {
    "inside": np.array([[0, 3, 2], [6, 5, 4]]),
    "repeated": np.array([[3, 3, 3], [3, 0, 3]]),
    "out of range": np.array([[0, 9, -2], [-9, 6, 100]]),
    "one": np.array([[1], [1]]),
}


QUICK_ROWS = {(form, "out of range", space) for form in FORMS for space in ("parameter", "sample")}
QUICK_ROWS |= {("indexed", "repeated", "parameter"), ("indexed", "repeated", "sample"), ("indexed", "inside", None)}


@pytest.mark.parametrize(
    ("form", "indices", "space"),
    [
        pytest.param(*case, marks=() if case in QUICK_ROWS else pytest.mark.nightly)
        for case in itertools.product(FORMS, INDICES, ("parameter", "sample", None))
    ],
)
def test_looked_up_rows_have_structure_and_equal_jacrev(oracle, form, indices, space):
    x = INDICES[indices]

    def fn(p, x):
        rows = FORMS[form](p["table"], x)
        return jnp.tanh(jnp.where(jnp.isnan(rows), 0.0, rows) @ p["w"]).mean(1)

    params = {"table": PARAMS["table"], "w": PARAMS["w"]}
    assert oracle.kinds(fn, params, x)["table"] == "embedding"
    rows = np.asarray(jax.jit(jax.jacrev(lambda t: fn(params | {"table": t}, x)))(params["table"])).reshape(len(x), 5, -1)
    oracle.close(ns.ntk(fn, params, x, outputs="full", layers="table", space=space), oracle.paired(rows))


def test_a_table_that_is_looked_up_twice_has_the_cross_term(oracle):
    x = INDICES["repeated"]
    fn = lambda p, x: jnp.tanh(p["table"][x].sum(1)) * p["table"][x[:, 0]]  # noqa: E731
    params = {"table": PARAMS["table"]}
    assert oracle.kinds(fn, params, x) == {"table": "embedding"}
    oracle.agrees(fn, params, x)


def test_a_long_table_is_not_written_out_in_sample_space():
    """A million rows: one row of an identity for each index would take a gigabyte."""
    shape = jax.ShapeDtypeStruct((1_000_000, 8), np.float32)
    plan = ns.ntk_plan(lambda p, x: p["table"][x].mean(1), {"table": shape}, jax.ShapeDtypeStruct((32, 8), np.int32))
    assert plan.leaves[0].choice.space == "sample"
    assert plan.peak_bytes - plan.memory / 5 < 5e8


# Layers in loops and branches.


@pytest.mark.parametrize(
    ("unroll", "space"),
    [(1, "parameter"), (2, "sample"), *(pytest.param(*case, marks=pytest.mark.nightly) for case in ((1, "sample"), (2, "parameter")))],
)
def test_stacked_layers_in_a_scan_keep_their_structure(oracle, space, unroll):
    def fn(p, x):
        def layer(h, weights):
            return jnp.tanh(h @ weights["w"] + weights["b"]) * weights["scale"], None

        return lax.scan(layer, x, p["layers"], unroll=unroll)[0] @ p["head"]

    layers = {"w": oracle.draw(4, 5, 5, seed=1) / 2, "b": oracle.draw(4, 5, seed=2), "scale": 1 + oracle.draw(4, 5, seed=3) / 4}
    params, x = {"layers": layers, "head": PARAMS["head"]}, oracle.draw(3, 5, seed=4)
    kinds = oracle.kinds(fn, params, x)
    assert kinds["layers/w"] == "derived"
    assert kinds["head"] == "dense"
    oracle.agrees(fn, params, x, spaces=(space,))


def test_the_same_layer_in_a_scan_of_itself_is_structured(oracle):
    fn = lambda p, x: lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x, None, length=3)[0] @ p["head"]  # noqa: E731
    params, x = {"w": oracle.draw(5, 5, seed=1), "head": PARAMS["head"]}, oracle.draw(3, 5, seed=4)
    assert oracle.kinds(fn, params, x) == {"w": "dense", "head": "dense"}
    oracle.agrees(fn, params, x)


def branching(p, x):
    """Each example takes a branch of its own."""
    each = lambda e: lax.cond(e[0] > 0, lambda h: jnp.tanh(h @ p["w"]), lambda h: jnp.sin(2 * h @ p["w"]), e)  # noqa: E731
    return lax.map(each, x) @ p["head"]


def looping(p, x):
    """Each example goes round as often as it says."""

    def each(e):
        count = lax.while_loop(lambda state: (state < 4) & (e[0] > state / 4), lambda state: state + 1, 0)
        return lax.switch(count, [lambda h, k=k: jnp.tanh(h @ p["w"]) * (k + 1) for k in range(5)], e)

    return lax.map(each, x) @ p["head"]


@pytest.mark.parametrize("fn", [branching, looping], ids=lambda fn: fn.__name__)
def test_what_depends_on_the_example_takes_the_general_route_exactly(oracle, fn):
    params, x = {"w": PARAMS["w"], "head": PARAMS["head"]}, np.concatenate([np.abs(oracle.draw(2, WIDTH)), -np.abs(oracle.draw(2, WIDTH))])
    with pytest.warns(GeneralRouteWarning, match=r"1 of 2 leaves .* w \(used by cond\)"):
        oracle.agrees(fn, params, x, spaces=(None,))
