"""What is on the device stays there, second calls compile nothing, and the switches of JAX work."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntk_select as ns

pytestmark = pytest.mark.usefixtures("quickly")
C = 3
_draw = np.random.default_rng(3).normal


def network(p, x):
    """A convolution, a scale, a derived weight, a product; strict in types and ranks itself."""
    h = lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jnp.tanh(h * p["scale"][None, None, None]).mean((1, 2))
    return jnp.tanh(h @ (2 * p["derived"])) @ p["head"]


PARAMS = {"conv": _draw(size=(3, 3, 1, 2)), "derived": _draw(size=(2, 3)), "head": _draw(size=(3, C)), "scale": _draw(size=2)}
X1, X2, V = _draw(size=(9, 5, 5, 1)), _draw(size=(4, 5, 5, 1)), _draw(size=(9, C))


def fresh(seed):
    """The same operations, another function, other numbers captured."""
    numbers = np.random.default_rng(seed).normal(size=(1, 5, 5, 1))
    return lambda p, x: network(p, x * numbers)


@functools.cache
def tight(outputs="trace"):
    """A budget that cuts the work into several tiles."""
    budgets = 1e-3 * 10 ** -np.arange(0, 2, 0.05)
    return next(memory for memory in budgets if ns.ntk_plan(network, PARAMS, X1, outputs=outputs, memory_gb=memory).count_tiles() > 2)


# Name -> the call of a function of (fn, params, x1, x2, v).
CALLS = {
    "trace": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1),
    "full": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, outputs="full"),
    "diagonal": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, x2, outputs="diagonal"),
    "sum": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, x2, outputs="sum"),
    "cotangents": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, outputs=np.arange(3.0)),
    "own cotangents": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, outputs=np.asarray(V)),
    "several batches": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, batch_size=2),
    "several tiles": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, memory_gb=tight()),
    "each leaf": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, by_layer=True),
    "float64": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, accumulate="float64"),
    "jacobian": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, method="jacobian", batch_size=4),
    "vector-product": lambda fn, p, x1, x2, v: ns.ntk(fn, p, x1, method="vector-product", batch_size=4),
    "ntk_vector_product": lambda fn, p, x1, x2, v: ns.ntk_vector_product(fn, p, x1, v),
    "ntk_vector_product, batches": lambda fn, p, x1, x2, v: ns.ntk_vector_product(fn, p, x1, v, batch_size=4),
    "ntk_fn": lambda fn, p, x1, x2, v: ns.ntk_fn(fn, p, x1)(p, x1, x2),
}


def quick(*names, of=CALLS):
    """All names, those that are not given as nightly cases."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.nightly) for name in of]


@pytest.mark.parametrize("name", quick("trace", "several tiles", "float64", "ntk_vector_product, batches", "ntk_fn"))
def test_a_second_call_compiles_nothing_also_for_a_new_function(compilations, name):
    first = CALLS[name](fresh(0), PARAMS, X1, X2, V)
    params, x1 = jax.tree.map(lambda leaf: 2 * leaf, PARAMS), X1 + 1
    changed = params, x1, X2 + 1, V + 1
    compilations.clear()
    second = CALLS[name](fresh(1), *changed)
    again = CALLS[name](fresh(0), PARAMS, X1, X2, V)
    assert compilations == []
    for one, other, same in zip(*map(jax.tree.leaves, (first, second, again)), strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.abs(np.asarray(other) - np.asarray(one)).max() > 1e-3 * np.abs(np.asarray(one)).max()


def test_a_kernel_is_one_program(compilations):
    """And the check that no example influences another, one more, and whether all is finite; the rest are copies of single arrays."""
    fn = lambda p, x: jnp.sin(network(p, x))  # noqa: E731
    ns.ntk(fn, PARAMS, X1)
    assert len(compilations) <= 8


STAYS = ["trace", "full", "diagonal", "sum", "several batches", "each leaf"]


@pytest.mark.parametrize(
    "name",
    quick(
        "trace",
        "several batches",
        "each leaf",
        "ntk_vector_product, batches",
        "ntk_fn",
        of=[*STAYS, "ntk_vector_product", "ntk_vector_product, batches", "ntk_fn"],
    ),
)
def test_what_is_on_the_device_is_not_transferred(name):
    """Neither there nor back, but for what the host itself asks for in so many words; the kernel stays on the device."""
    params, x1, x2, v = jax.device_put((PARAMS, X1, X2, V))
    numbers = jax.device_put(_draw(size=(1, 5, 5, 1)))
    fn = lambda p, x: network(p, x * numbers)  # noqa: E731
    with jax.transfer_guard("disallow"):
        kernel = CALLS[name](fn, params, x1, x2, v)
    expected = CALLS[name](fn, params, x1, x2, v)
    for one, other in zip(jax.tree.leaves(kernel), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, jax.Array)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("outputs", "two_sides"),
    [("trace", False), ("full", True), *(pytest.param(*case, marks=pytest.mark.nightly) for case in (("trace", True), ("full", False)))],
)
def test_several_tiles_transfer_nothing_but_the_tiles(outputs, two_sides):
    """From the device only what the host asks for: the tiles, and whether they are finite."""
    params, x1, x2, numbers = jax.device_put((PARAMS, X1, X2, _draw(size=(1, 5, 5, 1))))
    options = {"outputs": outputs, "memory_gb": tight(outputs)}
    fn = lambda p, x: network(p, x * numbers)  # noqa: E731
    with jax.transfer_guard("disallow"):
        kernel = ns.ntk(fn, params, x1, x2 if two_sides else None, **options)
    assert isinstance(kernel, np.ndarray)
    expected = np.asarray(ns.ntk(fn, PARAMS, X1, X2 if two_sides else None, outputs=outputs))
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("n", [9, pytest.param(30, marks=pytest.mark.nightly)])
def test_the_host_learns_once_a_tile_whether_it_is_finite(monkeypatch, n):
    """However many batches and layers there are: no other value comes back, once the function is known to keep examples apart."""
    requested, device_get = [], jax.device_get
    x = jax.device_put(np.random.default_rng(0).normal(size=(n, 5, 5, 1)))
    ns.ntk(network, jax.device_put(PARAMS), x, batch_size=3)
    monkeypatch.setattr(jax, "device_get", lambda tree: requested.append(jax.tree.leaves(tree)) or device_get(tree))
    ns.ntk(network, jax.device_put(PARAMS), x, batch_size=3)
    assert [[leaf.shape for leaf in leaves] for leaves in requested] == [[()]]


@pytest.mark.parametrize("name", quick("own cotangents", "ntk_vector_product, batches"))
def test_numbers_of_numpy_give_the_same_as_those_on_the_device(name):
    kernels = [jax.tree.leaves(CALLS[name](network, *given)) for given in ((PARAMS, X1, X2, V), jax.device_put((PARAMS, X1, X2, V)))]
    for one, other in zip(*kernels, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * np.abs(np.asarray(other)).max())


SWITCHES = {
    "disable_jit": jax.disable_jit,
    "debug_nans": lambda: jax.debug_nans(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "rank": lambda: jax.numpy_rank_promotion("raise"),
    "float32": lambda: jax.enable_x64(False),
}
IN_SINGLE = jax.tree.map(lambda leaf: leaf.astype(np.float32), (PARAMS, X1, X2, V))


QUICK = {
    "disable_jit": (),
    "debug_nans": ("several tiles",),
    "strict": ("several tiles", "jacobian", "ntk_vector_product, batches", "ntk_fn"),
    "rank": (),
    "float32": ("several tiles",),
}


@pytest.mark.parametrize(
    ("switch", "name"),
    [pytest.param(switch, name, marks=() if name in QUICK[switch] else pytest.mark.nightly) for switch in SWITCHES for name in CALLS],
)
def test_the_switches_of_jax_change_no_number(switch, name):
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(CALLS[name](network, *IN_SINGLE))]
    with SWITCHES[switch]():
        found = jax.tree.leaves(CALLS[name](network, *IN_SINGLE))
        found = [np.asarray(leaf) for leaf in found]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * np.abs(other).max())


@pytest.mark.parametrize("switch", ["strict", pytest.param("debug_nans", marks=pytest.mark.nightly)])
def test_the_switches_of_jax_leave_derivatives_as_they_are(switch):
    params, x, *_ = IN_SINGLE
    gradient = jax.grad(lambda p: ns.ntk_fn(network, p, x)(p, x).sum())
    expected = gradient(params)
    with SWITCHES[switch]():
        found = gradient(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


ELSEWHERE = """
import json
import runpy
import sys
import jax
import numpy as np
jax.config.update("jax_enable_x64", True)
made = runpy.run_path(sys.argv[1])
second = jax.devices()[1]
for name, call in made["CALLS"].items():
    given = made["PARAMS"], made["X1"], made["X2"], made["V"]
    expected = jax.tree.leaves(call(made["network"], *given))
    where = set()
    with jax.default_device(second):
        found = jax.tree.leaves(call(made["network"], *given))
        for kernel in found:
            where |= kernel.devices() if isinstance(kernel, jax.Array) else {second}
    off = max(float(np.abs(np.asarray(one) - np.asarray(other)).max() / np.abs(np.asarray(other)).max()) for one, other in zip(found, expected))
    print(json.dumps([name, off, where == {second}]), flush=True)
"""


@pytest.fixture(scope="module")
def on_the_second_device():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, __file__], capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.nightly
@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_is_where_the_work_is_done(on_the_second_device, name):
    off, there = on_the_second_device[name]
    assert off <= 1e-13
    assert there
