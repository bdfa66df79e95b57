"""`ntk_fn` composes with jit, vmap, both modes of differentiation and shardings, and agrees with explicit Jacobians."""

import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError

pytestmark = pytest.mark.usefixtures("quickly")
CONV = partial(lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
C = 3
_draw = np.random.default_rng(5).normal


def without_bias(p, x):
    return jnp.tanh(x @ p["a"]) @ p["c"]


def with_biases(p, x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"] + p["d"]


def convolutional(p, x):
    """A scale, a shift, a weight used twice, and one computed from a leaf."""
    h = jnp.tanh(CONV(x, p["conv"], (1, 1)) * p["scale"] + p["shift"])
    h = jnp.tanh(CONV(h, p["conv"], (2, 1)))
    return h.mean((1, 2)) @ (p["head"] / jnp.sqrt((p["head"] ** 2).sum()))


def tokens(p, x):
    return jnp.tanh(p["table"][x].mean(1)) @ p["c"]


DENSE = {"a": _draw(size=(4, 5)), "b": _draw(size=5), "c": _draw(size=(5, C)), "d": _draw(size=C)}
CASES = {
    "without bias": (without_bias, {"a": DENSE["a"], "c": DENSE["c"]}, _draw(size=(5, 4)), _draw(size=(3, 4))),
    "with biases": (with_biases, DENSE, _draw(size=(5, 4)), _draw(size=(3, 4))),
    "convolutional": (
        convolutional,
        {"conv": _draw(size=(3, 2, 2, 2)) / 2, "scale": _draw(size=2), "shift": _draw(size=2), "head": _draw(size=(2, C))},
        _draw(size=(4, 4, 3, 2)),
        _draw(size=(3, 4, 3, 2)),
    ),
    "tokens": (tokens, {"table": _draw(size=(6, 5)), "c": DENSE["c"]}, np.array([[0, 1, 1], [5, 2, 3], [4, 4, 4]]), np.array([[0, 3, 5], [1, 1, 2]])),
}
OUTPUTS = {"trace": "trace", "full": "full", "diagonal": "diagonal", "sum": "sum", "cotangents": _draw(size=C)}


def explicit(fn, outputs, params, x1, x2=None):
    """The kernel from Jacobians by jax.jacrev, example by example: traceable, and nothing of the engine in it."""

    def rows(x):
        found = jax.vmap(lambda example: jax.jacrev(lambda params: fn(params, example[None])[0])(params))(x)
        return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(found)], axis=-1)

    left = rows(x1)
    full = jnp.einsum("iap,jbp->ijab", left, left if x2 is None else rows(x2))
    if not isinstance(outputs, str):
        return jnp.einsum("a,ijab,b->ij", outputs, full, outputs)
    return {"full": full, "diagonal": jnp.einsum("ijaa->ija", full), "trace": jnp.einsum("ijaa->ij", full) / C, "sum": full.sum((2, 3))}[outputs]


def check(given, expected, tolerance=1e-11):
    """Trees of arrays are equal up to rounding."""
    for one, other in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


QUICK = {
    ("without bias", "full", True),
    ("with biases", "diagonal", False),
    ("convolutional", "trace", False),
    ("tokens", "cotangents", True),
}
EVERY = [(case, requested, two_sides) for case in CASES for requested in OUTPUTS for two_sides in (False, True)]


@pytest.mark.parametrize(("case", "requested", "two_sides"), [pytest.param(*one, marks=() if one in QUICK else pytest.mark.nightly) for one in EVERY])
def test_values_and_derivatives_are_those_of_explicit_jacobians(case, requested, two_sides):
    """One scalar of the kernel with random weights has derivatives in the parameters, backwards and forwards."""
    fn, params, x1, x2 = CASES[case]
    x2, outputs = x2 if two_sides else None, OUTPUTS[requested]
    kernel = ns.ntk_fn(fn, params, x1, outputs=outputs)
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(kernel, params, x1, x2).shape)

    def compiled(kernel, *modes):
        scalar = lambda p: (weights * kernel(p, x1, x2)).sum()  # noqa: E731
        return jax.jit(lambda p: (kernel(p, x1, x2), *(mode(scalar)(p) for mode in modes)))(params)

    expected, gradient = compiled(partial(explicit, fn, outputs), jax.grad)
    check(compiled(kernel, jax.grad, jax.jacfwd), (expected, gradient, gradient))


@pytest.mark.parametrize("case", ["with biases", pytest.param("convolutional", marks=pytest.mark.nightly)])
def test_derivatives_in_the_examples_are_those_of_explicit_jacobians(case):
    fn, params, x1, x2 = CASES[case]
    weights = np.random.default_rng(1).normal(size=(len(x1), len(x2)))
    scalars = [lambda x, z, k=k: (weights * k(params, x, z)).sum() for k in (ns.ntk_fn(fn, params, x1), partial(explicit, fn, "trace"))]
    check(*(jax.jit(jax.grad(scalar, argnums=(0, 1)))(x1, x2) for scalar in scalars))
    squares = [lambda x, k=k: (k(params, x) ** 2).sum() for k in (ns.ntk_fn(fn, params, x1), partial(explicit, fn, "trace"))]
    check(*(jax.jit(jax.grad(square))(x1) for square in squares))


@pytest.mark.nightly
@pytest.mark.parametrize("case", ["without bias", "convolutional"])
def test_derivatives_are_those_of_finite_differences(case):
    fn, params, x1, x2 = CASES[case]
    kernel = ns.ntk_fn(fn, params, x1)
    check_grads(jax.jit(lambda p, x: kernel(p, x, x2)), (params, x1), order=1, modes=("fwd", "rev"))
    check_grads(jax.jit(lambda p: kernel(p, x1[:2])), (params,), order=2, modes=("rev",), rtol=1e-4)


def test_the_gradient_of_the_sum_is_not_zero():
    """Central differences along each of some entries, in float64."""
    fn, params, x, _ = CASES["without bias"]
    gradient = jax.grad(lambda p: ns.ntk_fn(fn, p, x)(p, x).sum())(params)
    for name, place in (("a", (0, 0)), ("a", (3, 2)), ("c", (1, 2))):
        ends = []
        for step in (1e-5, -1e-5):
            moved = params[name].copy()
            moved[place] += step
            ends.append(np.asarray(ns.ntk(fn, params | {name: moved}, x), np.float64).sum())
        assert gradient[name][place] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7)
        assert abs(gradient[name][place]) > 1e-3


@pytest.mark.nightly
def test_second_derivatives_are_those_of_explicit_jacobians():
    fn, params, x, _ = CASES["without bias"]
    kernels = ns.ntk_fn(fn, params, x), partial(explicit, fn, "trace")
    check(*(jax.jit(jax.hessian(lambda p, k=k: k(p, x[:2]).sum()))(params) for k in kernels))


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case == "convolutional" else pytest.mark.nightly) for case in CASES])
def test_it_maps_over_parameters_and_over_examples(case):
    fn, params, x1, x2 = CASES[case]
    kernel = ns.ntk_fn(fn, params, x1)
    many = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, -leaf]), params)
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], many) for i in range(3)]
    expected = jax.jit(partial(explicit, fn, "trace"))
    check(jax.vmap(lambda p: kernel(p, x1, x2))(many), np.stack([expected(p, x1, x2) for p in each]))
    batches = np.stack([x1, x1[::-1]])
    check(jax.vmap(lambda x: kernel(params, x))(batches), np.stack([expected(params, x) for x in batches]))
    check(jax.jit(jax.vmap(kernel, (0, None)))(many, x1), np.stack([expected(p, x1) for p in each]))
    check(lax.map(lambda p: kernel(p, x1), many), np.stack([expected(p, x1) for p in each]))


def test_chosen_layers_alone_are_differentiated(oracle):
    fn, params, x1, x2 = CASES["convolutional"]
    jacobians = [oracle.jacobians(fn, params, x) for x in (x1, x2)]
    for layers, names in (("conv", ["conv"]), ("^s", ["scale", "shift"]), (lambda name: name == "head", ["head"])):
        left, right = (oracle.whole({name: rows[name] for name in names}) for rows in jacobians)
        kernel = jax.jit(ns.ntk_fn(fn, params, x1, layers=layers, outputs="full"))
        oracle.close(kernel(params, x1, x2), oracle.paired(left, right))


@pytest.mark.parametrize(
    "outputs",
    ["trace", pytest.param("full", marks=pytest.mark.nightly), pytest.param("diagonal", marks=pytest.mark.nightly), _draw(size=(4, C))],
    ids=lambda value: value if isinstance(value, str) else "own",
)
def test_it_is_what_the_driver_gives_and_exactly_symmetric(outputs):
    fn, params, x, _ = CASES["convolutional"]
    kernel = np.asarray(ns.ntk_fn(fn, params, x, outputs=outputs)(params, x))
    np.testing.assert_array_equal(kernel, kernel.transpose(1, 0, *range(kernel.ndim - 1, 1, -1)))
    check(kernel, np.asarray(ns.ntk(fn, params, x, outputs=outputs)), 1e-13)


def test_shapes_are_enough_and_other_numbers_of_examples_may_follow():
    fn, params, x1, x2 = CASES["with biases"]
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    kernel = ns.ntk_fn(fn, shapes, jax.ShapeDtypeStruct((2, 4), np.float64))
    assert isinstance(kernel(params, x1), jax.Array)
    expected = jax.jit(partial(explicit, fn, "trace"))
    check(kernel(params, x1, x2), expected(params, x1, x2))
    check(kernel(params, x1[:1]), expected(params, x1[:1]))


def test_without_influence_the_kernel_is_zero():
    kernel = ns.ntk_fn(lambda p, x: x[:, :2], {"w": np.ones(3)}, np.ones((4, 3)), outputs="full")({"w": np.ones(3)}, np.ones((4, 3)))
    assert kernel.shape == (4, 4, 2, 2)
    assert not kernel.any()


@pytest.mark.parametrize(
    ("transform", "argument"),
    [
        (lambda f: jax.jit(f), "params"),
        (lambda f: jax.grad(lambda p: f(p).sum()), "params"),
        (lambda f: jax.jacfwd(f), "params"),
        (lambda f: jax.vmap(f), "params"),
        (lambda f: jax.jit(f), "x"),
        (lambda f: jax.vmap(f), "x2"),
        (lambda f: jax.jit(f), "outputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tracers_given_to_the_driver_are_refused_with_the_function_that_takes_them(transform, argument):
    fn, params, x1, x2 = CASES["without bias"]
    given = {"params": params, "x": x1, "x2": x2, "outputs": np.ones(C)}

    def call(value):
        now = given | {argument: value}
        return ns.ntk(fn, now["params"], now["x"], now["x2"], outputs=now["outputs"])

    stacked = jax.tree.map(lambda leaf: leaf[None], given[argument])
    with pytest.raises(ConfigError, match=r"ns.ntk works on the host and cannot be traced .* Try: ns.ntk_fn\(fn, params, x\)"):
        transform(call)(stacked if "vmap" in str(transform.__code__.co_names) else given[argument])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": "mean"}, ConfigError, "outputs='mean' is unknown"),
        ({"layers": "none"}, ConfigError, "matches no floating-point parameter"),
        ({"precision": "exact"}, ConfigError, "precision='exact' is unknown"),
        ({"x": np.ones((0, 4))}, ConfigError, "at least one example"),
        ({"fn": lambda p, x: x @ p["a"] - (x @ p["a"]).mean(0)}, ModelError, "depend on the other examples of the batch"),
    ],
    ids=["outputs", "layers", "precision", "examples", "dependent"],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_computed(options, error, message):
    fn, params, x, _ = CASES["without bias"]
    given = {"fn": fn, "params": params, "x": x} | options
    with pytest.raises(error, match=message):
        ns.ntk_fn(**given)


SHARDED = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import ntk_select as ns

jax.config.update("jax_enable_x64", True)
draw = np.random.default_rng(0).normal

def fn(p, x):
    h = jax.lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(h * p["scale"]).mean((1, 2)) @ p["head"]

params = {"conv": draw(size=(3, 3, 1, 2)), "scale": draw(size=2), "head": draw(size=(2, 3))}
x1, x2 = draw(size=(16, 5, 5, 1)), draw(size=(8, 5, 5, 1))
rows = [jax.vmap(lambda e: jax.jacrev(lambda p: fn(p, e[None])[0])(params))(x) for x in (x1, x2)]
left, right = (np.concatenate([np.asarray(leaf).reshape(len(leaf), 3, -1) for leaf in jax.tree.leaves(each)], -1) for each in rows)
expected = np.einsum("icp,jcp->ij", left, right) / 3
kernel = ns.ntk_fn(fn, params, x1)

def report(name, call, expected=expected, full=False):
    try:
        found = call()
        spread = len(found.sharding.device_set)
        off = float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())
        print(json.dumps([name, off, spread]), flush=True)
    except Exception as error:
        print(json.dumps([name, f"{type(error).__name__}: {error}"[:300], 0]), flush=True)

square = np.einsum("icp,jcp->ij", left, left) / 3
line = Mesh(np.array(jax.devices()), ("i",))
spread, everywhere = NamedSharding(line, P("i")), NamedSharding(line, P())
given = jax.device_put(params, everywhere), jax.device_put(x1, spread), jax.device_put(x2, everywhere)
report("in_shardings", lambda: jax.jit(kernel, in_shardings=(everywhere, spread, everywhere), out_shardings=spread)(params, x1, x2))
report("in_shardings, symmetric", lambda: jax.jit(kernel, in_shardings=(everywhere, spread))(params, x1), square)
report("sharded arrays", lambda: kernel(*given))
report("sharded arrays, jit", lambda: jax.jit(kernel)(*given))
gradient = lambda k: jax.grad(lambda p: k(p, x1, x2).sum())(params)["conv"]
plain = np.asarray(gradient(kernel))
report("gradient", lambda: jax.jit(jax.grad(lambda p, x, z: kernel(p, x, z).sum()))(*given)["conv"], plain)
explicit = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
for name, right_side in (("columns everywhere", P()), ("columns spread", P("i"))):
    there = jax.device_put(params, NamedSharding(explicit, P())), jax.device_put(x1, NamedSharding(explicit, P("i")))
    there = (*there, jax.device_put(x2, NamedSharding(explicit, right_side)))
    with jax.set_mesh(explicit):
        report(f"explicit, {name}", lambda: kernel(*there))
        report(f"explicit, {name}, jit", lambda: jax.jit(kernel)(*there))
        report(f"explicit, {name}, symmetric", lambda: jax.jit(kernel)(*there[:2]), square)
"""
SHARDED_CASES = ["in_shardings", "in_shardings, symmetric", "sharded arrays", "sharded arrays, jit", "gradient"]
SHARDED_CASES += [f"explicit, columns {where}{how}" for where in ("everywhere", "spread") for how in ("", ", jit", ", symmetric")]


@pytest.fixture(scope="module")
def sharded():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {name: (off, devices) for name, off, devices in map(json.loads, done.stdout.splitlines())}


@pytest.mark.nightly
@pytest.mark.parametrize("name", SHARDED_CASES)
def test_sharded_examples_give_the_kernel_of_one_device(sharded, name):
    off, devices = sharded[name]
    assert isinstance(off, float), off
    assert off <= 1e-12
    assert devices == 8
