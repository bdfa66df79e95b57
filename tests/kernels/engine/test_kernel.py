"""`ntk` is the kernel by definition, whatever is requested for and in whatever portions it is computed."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError
from ntk_select.kernels.engine import contract, costs, plan
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.arguments import read_outputs

pytestmark = pytest.mark.usefixtures("quickly")
CONV = partial(lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
C, N1, N2 = 3, 5, 3
SPACES = ["parameter", "sample"]


def network(p, x):
    """Every kind of leaf that has a structure of its own, and one without influence."""
    h = jnp.tanh(CONV(x, p["stem"], (1, 1)) * p["scale"] + p["shift"])
    h = jnp.tanh(CONV(h, p["conv"] / jnp.sqrt((p["conv"] ** 2).sum()), (2, 2)))
    return h.mean((1, 2)) @ p["head"]


_draw = np.random.default_rng(11).normal
PARAMS = {
    "conv": _draw(size=(2, 2, 3, 4)),
    "head": _draw(size=(4, C)),
    "scale": _draw(size=3),
    "shift": _draw(size=3),
    "stem": _draw(size=(3, 3, 2, 3)),
    "without": _draw(size=2),
}
X1, X2 = _draw(size=(N1, 4, 4, 2)), _draw(size=(N2, 4, 4, 2))
ONE, OWN, OTHER = _draw(size=C), _draw(size=(N1, C)), _draw(size=(N2, C))
REQUESTED = {
    "trace": ("trace", "trace"),
    "full": ("full", "full"),
    "diagonal": ("diagonal", "diagonal"),
    "sum": ("sum", "sum"),
    "shared": (ONE, ONE),
    "own": (OWN, (OWN, OTHER)),
    "shared and own": (ONE, (ONE, OTHER)),
}


@pytest.fixture(scope="module")
def jacobian(oracle, quickly):
    """Of the network, for x1 and x2."""
    return [oracle.whole(oracle.jacobians(network, PARAMS, x)) for x in (X1, X2)]


@pytest.fixture(scope="module")
def full(jacobian, oracle):
    """The full kernel of x1."""
    return oracle.paired(jacobian[0])


@pytest.mark.parametrize(
    ("requested", "space"),
    [
        pytest.param(requested, space, marks=() if space == "sample" or requested in ("trace", "full", "diagonal") else pytest.mark.nightly)
        for requested in REQUESTED
        for space in SPACES
    ],
)
def test_each_kernel_equals_explicit_gradients(oracle, jacobian, requested, space):
    square, rectangle = REQUESTED[requested]
    kernel = ns.ntk(network, PARAMS, X1, outputs=square, space=space)
    oracle.close(kernel, oracle.paired(jacobian[0], None, square))
    assert kernel.dtype == np.float64
    turned = kernel.transpose(1, 0, *range(kernel.ndim - 1, 1, -1))
    np.testing.assert_array_equal(kernel, turned)
    oracle.close(ns.ntk(network, PARAMS, X1, X2, outputs=rectangle, space=space), oracle.paired(*jacobian, rectangle))


def test_cotangents_may_be_lists_or_arrays_of_jax(oracle, full):
    expected = np.einsum("ijab,a,b->ij", full, ONE, ONE)
    oracle.close(ns.ntk(network, PARAMS, X1, outputs=ONE.tolist()), expected)
    oracle.close(ns.ntk(network, PARAMS, jnp.asarray(X1), outputs=jnp.asarray(ONE)), expected)


# Budgets of memory.


def deep(p, x):
    for name in sorted(p):
        x = jnp.tanh(x @ p[name])
    return x.mean(1)


DEEP = {f"w{k}": _draw(size=(24, 24)) / 5 for k in range(6)} | {"w9": _draw(size=(24, C))}
LEFT, RIGHT = _draw(size=(6, 3, 24)), _draw(size=(4, 3, 24))
LEFT_OWN, RIGHT_OWN = _draw(size=(6, C)), _draw(size=(4, C))


def portions(plan):
    """Tiles, groups of layers, chunks of cotangents."""
    return len(list(plan.tiles())), len(plan.groups), len(plan.chunks) - 1


# Name -> outputs, examples on either side, what the plan must have of tiles, groups and chunks at least.
TIGHT = {
    "groups of layers": ("trace", LEFT[:3], None, (1, 3, 1)),
    "tiles": ("diagonal", LEFT, None, (3, 1, 1)),
    "tiles of a rectangle": ("full", LEFT, RIGHT, (4, 1, 1)),
    "chunks of cotangents": ("full", LEFT[:3], None, (1, 1, 3)),
    "chunks of like cotangents": ("diagonal", LEFT[:3], None, (1, 2, 2)),
    "all of it": ("full", LEFT, None, (3, 2, 3)),
    "all of it, in a rectangle": ("trace", LEFT, RIGHT, (4, 2, 3)),
    "own cotangents": (LEFT_OWN, LEFT, None, (3, 2, 1)),
    "own cotangents, in a rectangle": ((LEFT_OWN, RIGHT_OWN), LEFT, RIGHT, (4, 2, 1)),
    "each leaf": ("trace", LEFT, None, (3, 2, 1)),
}


@pytest.fixture(scope="module")
def rows_of_gradients(oracle):
    """Of the deep network, for both sides."""
    return [oracle.whole(oracle.jacobians(deep, DEEP, x)) for x in (LEFT, RIGHT)]


NOT_QUICK = ("groups of layers", "tiles", "tiles of a rectangle", "chunks of cotangents", "all of it, in a rectangle", "own cotangents")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.nightly if name in NOT_QUICK else ()) for name in TIGHT])
def test_small_budgets_cut_the_work_and_not_the_numbers(oracle, rows_of_gradients, name):
    outputs, x1, x2, least = TIGHT[name]
    by_layer = name == "each leaf"
    options = {"by_layer": by_layer, "accumulate": "float64" if name == "all of it" else None}
    budgets = 1e6 * 10 ** -np.arange(0, 1.5, 0.06)  # from a megabyte down
    structure, n1, n2 = analyse(deep, DEEP, x1).structure, len(x1), None if x2 is None else len(x2)
    wanted = read_outputs(outputs, n1, n2, structure.outputs, structure.dtype)
    plans = (plan.make_plan(structure, wanted, n1, n2, memory=int(budget), split=by_layer) for budget in budgets)
    chosen = next(chosen for chosen in plans if all(given >= wanted for given, wanted in zip(portions(chosen), least, strict=True)))
    done = []
    kernel = ns.ntk(deep, DEEP, x1, x2, outputs=outputs, progress=lambda *step: done.append(step[:2]), memory_gb=chosen.memory / 1e9, **options)
    right = None if x2 is None else rows_of_gradients[1]
    oracle.close(sum(kernel.values()) if by_layer else kernel, oracle.paired(rows_of_gradients[0][: len(x1)], right, outputs))
    rounds = len(list(chosen.tiles())) * len(list(chosen.rounds()))
    assert done == [(step + 1, rounds) for step in range(rounds)]


# Ways that depend on the machine and on sizes.


@pytest.fixture(params=["of the host", "of an accelerator"])
def sizes_of_blocks(request, monkeypatch):
    monkeypatch.setattr(costs, "CPU", costs.CPU if request.param == "of the host" else costs.ACCELERATOR)


@pytest.mark.usefixtures("sizes_of_blocks")
@pytest.mark.parametrize(("n1", "n2"), [(300, None), (300, 290), pytest.param(300, 7, marks=pytest.mark.nightly), (520, None)])
def test_many_examples_are_multiplied_in_blocks(oracle, n1, n2):
    x1, x2 = oracle.draw(n1, 4), None if n2 is None else oracle.draw(n2, 4, seed=1)
    kernel = ns.ntk(linear, LINEAR, x1, x2, space="parameter")
    oracle.close(kernel, x1 @ (x1 if x2 is None else x2).T)


@pytest.mark.parametrize("outputs", ["full", *(pytest.param(word, marks=pytest.mark.nightly) for word in ("trace", "diagonal"))])
def test_the_sizes_of_blocks_change_nothing(oracle, jacobian, monkeypatch, outputs):
    monkeypatch.setattr(costs, "CPU", costs.ACCELERATOR)
    for space in SPACES:
        oracle.close(ns.ntk(network, PARAMS, X1, X2, outputs=outputs, space=space), oracle.paired(*jacobian, outputs))


@pytest.mark.nightly
@pytest.mark.usefixtures("sizes_of_blocks")
@pytest.mark.parametrize("outputs", ["trace", "full", "diagonal"])
def test_the_sizes_of_blocks_change_nothing_in_a_small_memory(oracle, jacobian, outputs):
    for space in SPACES:
        oracle.close(ns.ntk(network, PARAMS, X1, outputs=outputs, space=space, memory_gb=1e-4), oracle.paired(jacobian[0], None, outputs))


@pytest.mark.parametrize(("n1", "n2"), [(24, None), (24, 16), (16, 21)])
def test_many_positions_are_paired_in_blocks(oracle, n1, n2):
    x1, x2 = oracle.draw(n1, 36, 2), None if n2 is None else oracle.draw(n2, 36, 2, seed=1)
    params = {"w": oracle.draw(2, 3), "v": oracle.draw(3, 2)}
    plan = ns.ntk_plan(positions, params, x1, x2, space="sample", layers="w")
    assert plan.leaves[0].choice.sizes.pair_block(24) < 24
    by_pairs, by_rows = (ns.ntk(positions, params, x1, x2, space=space, layers="w") for space in ("sample", "parameter"))
    oracle.close(by_pairs, by_rows)


def positions(p, x):
    return jnp.tanh(x @ p["w"]).mean(1) @ p["v"]


def test_a_leaf_in_pieces_gives_the_same_kernel(oracle, monkeypatch, full):
    """Gradients that would take too much room are formed window tap by window tap, and channel by channel."""
    expected = ns.ntk(network, PARAMS, X1, outputs="full", space="parameter")
    cpu = costs.CPU
    for room in (2**9, 2**11, 2**13):
        monkeypatch.setattr(costs, "CPU", replace(cpu, formed=room, multiplied=room))
        oracle.close(ns.ntk(network, PARAMS, X1, outputs="full", space="parameter"), expected)
        oracle.close(expected, full)


@pytest.mark.parametrize("space", SPACES)
def test_sums_in_float64_are_the_same(oracle, monkeypatch, full, rows_of_gradients, space):
    monkeypatch.setattr(contract, "FLOAT64_TERMS", 8)
    oracle.close(ns.ntk(network, PARAMS, X1, outputs="full", accumulate="float64", space=space), full)
    oracle.close(ns.ntk(deep, DEEP, LEFT, RIGHT, accumulate="float64", space=space), oracle.paired(*rows_of_gradients, "trace"))


def test_sums_in_float64_are_float64_and_closer(oracle):
    """Nearly equal gradients, whose inner products over many entries lose digits in float32."""
    params, x = {"w": np.zeros((300, 300), np.float32)}, (1 + _draw(size=(3, 300)) / 10).astype(np.float32)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    expected = 300 * x.astype(np.float64) @ x.T.astype(np.float64)
    kernel = ns.ntk(fn, params, x, outputs="sum", accumulate="float64", space="parameter")
    assert kernel.dtype == np.float64
    oracle.close(kernel, expected, 1e-6)
    assert ns.ntk(fn, params, x, outputs="sum").dtype == np.float32


@pytest.mark.parametrize("by_layer", [False, True])
def test_sums_are_float64_where_jax_has_float32_alone(oracle, by_layer):
    """400,000 entries, each of one bit, whose sum has more digits than float32."""
    base = (1 + oracle.draw(400_000) / 10).astype(np.float32)
    fn = lambda p, x: ((p["s"] * base) * x[:, :1]).sum(1, keepdims=True)  # noqa: E731
    with jax.enable_x64(False):
        kernel = ns.ntk(fn, {"s": np.ones(400_000, np.float32)}, np.ones((2, 1), np.float32), accumulate="float64", by_layer=by_layer)
    kernel = kernel["s"] if by_layer else kernel
    assert isinstance(kernel, np.ndarray)
    assert kernel.dtype == np.float64
    np.testing.assert_allclose(kernel, (base.astype(np.float64) ** 2).sum(), rtol=2e-7)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_number_of_examples_in_a_pass_changes_nothing(oracle, full, batch_size):
    oracle.close(ns.ntk(network, PARAMS, X1, outputs="full", batch_size=batch_size), full)


# Properties of any kernel.


def test_other_orders_of_examples_and_outputs_give_the_same_kernel_in_that_order(oracle, full):
    order, classes = np.array([3, 0, 4, 1, 2]), np.array([2, 0, 1])
    oracle.close(ns.ntk(network, PARAMS, X1[order], outputs="full"), full[np.ix_(order, order)])
    turned = PARAMS | {"head": PARAMS["head"][:, classes]}
    oracle.close(ns.ntk(network, turned, X1, outputs="full"), full[:, :, classes][..., classes])


@pytest.mark.nightly
def test_sides_changed_over_give_the_transpose(oracle):
    there, back = ns.ntk(network, PARAMS, X1, X2, outputs="full"), ns.ntk(network, PARAMS, X2, X1, outputs="full")
    oracle.close(back, there.transpose(1, 0, 3, 2))
    pair = (OWN, OTHER)
    oracle.close(ns.ntk(network, PARAMS, X2, X1, outputs=pair[::-1]), ns.ntk(network, PARAMS, X1, X2, outputs=pair).T)


@pytest.mark.nightly
def test_the_same_examples_on_both_sides_give_the_symmetric_kernel(oracle, full):
    oracle.close(ns.ntk(network, PARAMS, X1, X1, outputs="full"), full)
    twice = ns.ntk(network, PARAMS, np.concatenate([X1, X1[:2]]))
    np.testing.assert_allclose(twice[5:], twice[:2], rtol=1e-12)


@pytest.mark.nightly
def test_scaled_outputs_scale_the_kernel_by_the_square(oracle, full):
    oracle.close(ns.ntk(lambda p, x: -3 * network(p, x), PARAMS, X1, outputs="full"), 9 * full)


def test_the_kernel_is_positive_semi_definite(full):
    kernel = ns.ntk(network, PARAMS, X1, outputs="full")
    certificate = ns.certify(kernel)
    assert certificate.holds
    assert certificate.smallest >= -1e-12 * certificate.largest
    assert certificate.rank == 15  # fewer than there are parameters
    assert ns.certify(np.einsum("ijaa->ij", kernel)).smallest > 0


def test_a_linear_model_has_the_kernel_of_its_inputs(oracle):
    x = oracle.draw(6, 4)
    kernel = ns.ntk(lambda p, x: x @ p["w"] + p["b"], {"w": oracle.draw(4, C), "b": oracle.draw(C)}, x, outputs="full")
    oracle.close(kernel, np.einsum("ij,ab->ijab", x @ x.T + 1, np.eye(C)))


def test_a_quadratic_form_is_the_norm_of_one_gradient(oracle, jacobian):
    v = oracle.draw(N1, C, seed=4)
    gradient = jax.jit(jax.grad(lambda p: (v * network(p, X1)).sum()), compiler_options=oracle.QUICKLY)(PARAMS)
    expected = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient))
    given = np.einsum("ia,ijab,jb", v, ns.ntk(network, PARAMS, X1, outputs="full"), v)
    assert given == pytest.approx(expected, rel=1e-12)
    assert ns.ntk(network, PARAMS, X1, outputs=v).sum() == pytest.approx(expected, rel=1e-12)


def test_ridge_regression_is_the_same_over_examples_and_over_parameters(oracle, jacobian):
    kernel = ns.ntk(network, PARAMS, X1, outputs="full").transpose(0, 2, 1, 3).reshape(N1 * C, -1)
    j, residual, ridge = jacobian[0].reshape(N1 * C, -1), oracle.draw(N1 * C, seed=6), 0.1
    over_examples = j.T @ np.linalg.solve(kernel + ridge * np.eye(N1 * C), residual)
    over_parameters = np.linalg.solve(j.T @ j + ridge * np.eye(j.shape[1]), j.T @ residual)
    oracle.close(over_examples, over_parameters, 1e-10)
    large, all_of_them = np.linalg.eigvalsh(kernel), np.linalg.eigvalsh(j.T @ j)
    oracle.close(large, all_of_them[-N1 * C :])


@pytest.mark.parametrize("space", ["sample", pytest.param("parameter", marks=pytest.mark.nightly)])
def test_float32_at_highest_precision_is_within_a_hundred_thousandth(full, space):
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), PARAMS)
    kernel = ns.ntk(network, single, X1.astype(np.float32), outputs="full", precision="highest", space=space)
    assert kernel.dtype == np.float32
    assert np.linalg.norm(kernel - full) <= 1e-5 * np.linalg.norm(full)


@pytest.mark.parametrize(
    ("method", "outputs", "x2"),
    [
        ("jacobian", "diagonal", True),
        ("vector-product", "diagonal", True),
        pytest.param("neural-tangents", "trace", False, marks=pytest.mark.nightly),
        ("neural-tangents", "diagonal", True),
    ],
)
def test_slower_routes_agree(method, outputs, x2):
    """In float32, since neural-tangents is used so."""
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), {"w0": DEEP["w0"], "w9": DEEP["w9"]})
    x1, x2 = LEFT.astype(np.float32), RIGHT.astype(np.float32) if x2 else None
    kernel = ns.ntk(deep, params, x1, x2, outputs=outputs)
    other = ns.ntk(deep, params, x1, x2, outputs=outputs, method=method, batch_size=2)
    assert np.linalg.norm(kernel - other) <= 1e-5 * np.linalg.norm(kernel)


def test_one_example_has_a_kernel_on_either_side(oracle, full):
    oracle.close(ns.ntk(network, PARAMS, X1[:1], X1, outputs="full"), full[:1])


@pytest.mark.nightly
def test_one_example_has_a_kernel_alone_and_on_the_other_side(oracle, full):
    oracle.close(ns.ntk(network, PARAMS, X1[:1], outputs="full"), full[:1, :1])
    oracle.close(ns.ntk(network, PARAMS, X1, X1[:1], outputs="full"), full[:, :1])


def test_without_float64_arrays_of_numpy_are_taken_as_jax_takes_them(oracle):
    x = oracle.draw(4, 3)
    with jax.enable_x64(False):
        kernel = ns.ntk(linear, {"w": oracle.draw(3, 2)}, x)
    assert kernel.dtype == np.float32
    oracle.close(kernel, x @ x.T, 1e-6)


# Nothing of a call is taken for the next one. What is compiled is counted in test_on_device.py.


def test_parameters_and_examples_are_not_kept_from_call_to_call(oracle):
    fn = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]  # noqa: E731
    for seed in (1, 2):
        params, x = {"w": oracle.draw(4, 5, seed=seed), "v": oracle.draw(5, 2, seed=seed + 9)}, oracle.draw(3, 4, seed=seed)
        oracle.close(ns.ntk(fn, params, x), oracle.paired(oracle.whole(oracle.jacobians(fn, params, x)), None, "trace"))


@dataclass
class Scaled:
    """A callable without a hash, because it may change."""

    by: Any

    def __call__(self, p, x):
        return self.by * (x @ p["w"])


def test_a_callable_without_a_hash_is_read_anew_each_time(oracle):
    fn, x = Scaled(2.0), _draw(size=(3, 4))
    with pytest.raises(TypeError):
        hash(fn)
    oracle.close(ns.ntk(fn, {"w": np.ones((4, 1))}, x), 4 * x @ x.T)
    fn.by = jnp.asarray([3.0])
    oracle.close(ns.ntk(fn, {"w": np.ones((4, 1))}, x), 9 * x @ x.T)


# What is refused.


def linear(p, x):
    return x @ p["w"]


LINEAR, EXAMPLES = {"w": np.ones((4, 2))}, np.ones((3, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "hightest"}, "precision='hightest' is unknown. Did you mean 'highest'"),
        ({"space": "params"}, "space='params' is unknown. Allowed"),
        ({"method": "structure"}, "method='structure' is unknown. Did you mean 'structured'"),
        ({"accumulate": "double"}, "accumulate='double' is unknown. Allowed: None"),
        ({"by_layer": True, "out": "folder"}, "by_layer=True keeps one kernel per layer in memory"),
        ({"by_layer": True, "method": "jacobian"}, "belong to the engine, not to method='jacobian'"),
        ({"out": "folder", "method": "vector-product"}, "belong to the engine"),
        ({"accumulate": "float64", "method": "neural-tangents"}, "belong to the engine"),
        ({"space": "sample", "method": "jacobian"}, "belong to the engine"),
        ({"mesh": "devices"}, r"mesh= takes a jax.sharding.Mesh; given: str. Try: mesh=jax.sharding.Mesh\(jax.devices\(\), \('examples',\)\)"),
        ({"progress": "bar"}, r"progress= must be a function of \(done, total, what\); given: str"),
        ({"out": 3}, "out= takes the path of a folder; given: int"),
        ({"mesh": 8}, "mesh= takes a jax.sharding.Mesh; given: int"),
        ({"out": ""}, "out= takes the path of a folder; given: an empty text"),
        ({"x1": [[1.0], [1.0, 2.0]]}, r"x1 must be one array of examples \(n, ...\); given: list"),
        ({"x1": EXAMPLES * 1j}, "x1 must be one array of numbers .* type complex128"),
        ({"x1": np.array(["a"])}, "x1 must be one array of numbers"),
        ({"x1": np.ones((0, 4))}, r"x1 has shape \(0, 4\); it must be .* at least one example"),
        ({"x1": np.float64(3)}, r"x1 has shape \(\)"),
        ({"x2": np.ones((0, 4))}, r"x2 has shape \(0, 4\)"),
        ({"x2": np.ones((3, 5))}, r"x1 holds float64 examples of shape \(4,\), x2 float64 of \(5,\); they must be the same"),
        ({"x2": np.ones((3, 4), np.float32)}, "x2 float32"),
        ({"memory_gb": 0}, "memory_gb=0 must be a positive number of gigabytes"),
        ({"memory_gb": float("nan")}, "memory_gb=nan must be"),
        ({"memory_gb": float("inf")}, "memory_gb=inf must be"),
        ({"tile": 4}, "tile=4 is the tile size of a kernel on disk"),
        ({"memory_gb": True}, "memory_gb=True must be"),
        ({"memory_gb": "4"}, "memory_gb='4' must be"),
        ({"memory_gb": 1e-8}, r"Not even one example at a time fits into 1e-08 GB: about .* GB are needed"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ns.ntk(linear, LINEAR, **{"x1": EXAMPLES, **options})


def test_slower_routes_take_no_mesh():
    with pytest.raises(ConfigError, match="belong to the engine"):
        ns.ntk(linear, LINEAR, EXAMPLES, method="jacobian", mesh=Mesh(jax.devices(), ("examples",)))


@pytest.mark.parametrize("batch_size", [-1, 0, 2.5, "2", True])
def test_a_batch_size_that_is_no_positive_number_is_refused(batch_size):
    with pytest.raises(ConfigError, match=f"batch_size={batch_size!r} must be a positive number of examples"):
        ns.ntk(linear, LINEAR, EXAMPLES, batch_size=batch_size)


def test_a_function_without_outputs_is_refused():
    with pytest.raises(ConfigError, match=r"returns float64\[1, 0\] for one example; .* c at least 1"):
        ns.ntk(lambda p, x: (x @ p["w"])[:, :0], LINEAR, EXAMPLES)


def test_the_budget_that_an_error_asks_for_is_enough():
    with pytest.raises(ConfigError) as caught:
        ns.ntk(deep, DEEP, LEFT, memory_gb=1e-6)
    needed = float(str(caught.value).partition("memory_gb=")[2].partition(" ")[0])
    assert ns.ntk_plan(deep, DEEP, LEFT, memory_gb=needed).peak_bytes <= needed * 1e9


# Gradients and kernels that are not finite.


def root(p, x):
    """The gradient is infinite where an entry of the first product is zero."""
    return jnp.sqrt(jnp.abs(x @ p["first"])) @ p["second"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("options", [{}, {"memory_gb": 3e-6}], ids=["one tile", "tiles"])
def test_a_gradient_that_is_not_finite_is_reported_with_leaf_and_example(space, options):
    x = np.abs(_draw(size=(5, 4)))
    x[3] = 0
    with pytest.raises(ModelError, match="The gradient with respect to 'first' contains NaN or infinity at example 3. Usual causes: half"):
        ns.ntk(root, {"first": np.ones((4, 3)), "second": np.ones((3, 2))}, x, space=space, **options)


def test_the_example_that_is_not_finite_may_be_on_the_right():
    x = np.abs(_draw(size=(4, 4)))
    spoilt = np.concatenate([x[:2], x[:1] * 0])
    with pytest.raises(ModelError, match="'first' contains NaN or infinity at example 2 of x2"):
        ns.ntk(root, {"first": np.ones((4, 3)), "second": np.ones((3, 2))}, x, spoilt)


def test_the_example_that_is_not_finite_may_be_on_the_left():
    x = np.abs(_draw(size=(4, 4)))
    with pytest.raises(ModelError, match="at example 0 of x1"):
        ns.ntk(root, {"first": np.ones((4, 3)), "second": np.ones((3, 2))}, x * 0, x)


def test_a_kernel_that_overflows_is_not_blamed_on_the_gradients():
    params, x = {"w": np.ones((4, 2), np.float32)}, np.full((2, 4), 1e25, np.float32)
    with pytest.raises(ModelError, match="The kernel overflows, though all gradients are finite"):
        ns.ntk(linear, params, x)
