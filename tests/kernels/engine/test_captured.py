"""What a function captures or reads is what it holds at the call: nothing is out of date, nothing is kept alive, nothing is compiled twice."""

import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntk_select as ns
from ntk_select.kernels.engine import GeneralRouteWarning

pytestmark = pytest.mark.usefixtures("quickly")
X = np.random.default_rng(0).normal(size=(4, 6))
PARAMS = {"w": np.random.default_rng(1).normal(size=(6, 2))}
TABLE = {"scale": 1.0}


def all_routes(fn, params=PARAMS, x=X):
    """The kernel as every function gives it."""
    vector = np.random.default_rng(2).normal(size=fn(params, x).shape)
    product = ns.ntk_vector_product(fn, params, x, vector)
    kernels = [
        ns.ntk(fn, params, x),
        ns.ntk_fn(fn, params, x)(params, x),
        ns.ntk(fn, params, x, method="jacobian"),
        ns.ntk(fn, params, x, memory_gb=2e-5),
    ]
    return [np.asarray(kernel) for kernel in (*kernels, product)]


def check_scaled(oracle, after, before, factor):
    for one, other in zip(after, before, strict=True):
        oracle.close(one, factor * other)


class Network:
    def __init__(self):
        self.scale = jnp.ones(6)

    def apply(self, params, x):
        return (x * self.scale) @ params["w"]


def test_an_attribute_that_changed_is_seen(oracle):
    network = Network()
    before = all_routes(network.apply)
    network.scale = jnp.full(6, 2.0)
    check_scaled(oracle, all_routes(network.apply), before, 4)


def test_a_captured_variable_that_changed_is_seen(oracle):
    scale = jnp.ones(6)

    def fn(params, x):
        return (x * scale) @ params["w"]

    before = all_routes(fn)
    scale = jnp.full(6, 3.0)
    check_scaled(oracle, all_routes(fn), before, 9)


def test_a_captured_array_that_changed_in_place_is_seen(oracle):
    scale = np.ones(6)
    fn = lambda params, x: (x * scale) @ params["w"]  # noqa: E731
    before = all_routes(fn)
    scale[:] = 3
    check_scaled(oracle, all_routes(fn), before, 9)


def test_arrays_that_inner_functions_capture_are_those_of_the_call(oracle):
    def scaled(scale):
        return jax.jit(lambda params, x: jax.nn.relu((x * scale) @ params["w"]))

    before, after = (all_routes(scaled(jnp.full(X.shape[1], factor))) for factor in (1.0, 2.0))
    check_scaled(oracle, after, before, 4)


def helper(x):
    """What it reads is a variable of the module."""
    return x * TABLE["scale"]


def test_a_global_that_a_helper_function_reads_is_seen(oracle, monkeypatch):
    fn = lambda params, x: helper(x) @ params["w"]  # noqa: E731
    before = all_routes(fn)
    monkeypatch.setitem(TABLE, "scale", 2.0)
    check_scaled(oracle, all_routes(fn), before, 4)


def jacobian_of(fn, params, x):
    """By jax.jacrev, of all leaves."""
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(lambda params: fn(params, x)))(params))
    return np.concatenate([np.asarray(leaf).reshape(len(x), leaf.shape[1], -1) for leaf in leaves], axis=-1)


@pytest.mark.parametrize("what", ["mean", "scale", "kernel"])
def test_a_captured_nnx_model_that_changed_in_place_is_seen(oracle, what):
    """The head alone is differentiated; the rest belongs to a model that the function captures."""

    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(6, 5, rngs=rngs, param_dtype=np.float64)
            self.bn = nnx.BatchNorm(5, rngs=rngs, use_running_average=True, param_dtype=np.float64)

        def __call__(self, x):
            return jnp.tanh(self.bn(self.first(x)))

    model, head = Model(), {"w": oracle.draw(5, 2)}
    fn = lambda params, x: model(x) @ params["w"]  # noqa: E731
    variable = {"mean": model.bn.mean, "scale": model.bn.scale, "kernel": model.first.kernel}[what]
    found = []
    for step in range(2):
        variable[...] = variable[...] + step * oracle.draw(*variable.shape, seed=4).astype(variable[...].dtype)
        kernels = all_routes(fn, head)
        expected = oracle.paired(jacobian_of(fn, head, X), None, "trace")
        for kernel in kernels[:-1]:
            oracle.close(kernel, expected)
        found.append(kernels[0])
    assert np.abs(found[0] - found[1]).max() > 1e-2 * np.abs(found[0]).max()


def test_equal_linen_modules_share_what_was_compiled_and_others_do_not():
    x, params = np.ones((2, 6)), {"Dense_0": {"kernel": np.ones((6, 3)), "bias": np.zeros(3)}}

    class Model(nn.Module):
        gain: float

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, param_dtype=np.float64)(x) * self.gain

    def kernel(gain):
        model = Model(gain)
        return ns.ntk(lambda p, x: model.apply({"params": p}, x), params, x)

    one, equal, other = map(kernel, (1.0, 1.0, 2.0))
    np.testing.assert_array_equal(one, equal)
    np.testing.assert_allclose(other, 4 * one, rtol=1e-12)


def test_a_new_function_with_the_same_operations_compiles_nothing(compilations):
    """Whatever array it captures, from the second one on."""

    def call(seed):
        captured = np.random.default_rng(seed).normal(size=6)
        return ns.ntk(lambda params, x: jnp.tanh(x * captured) @ params["w"], PARAMS, X)

    first = call(0)
    compilations.clear()
    second = call(1)
    assert compilations == []
    assert np.abs(first - second).max() > 1e-3


LEAK = """
    import gc, sys
    import jax, jax.numpy as jnp, numpy as np
    import ntk_select as ns

    def resident():
        gc.collect()
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    params, x = {"w": np.ones((50, 2), np.float32)}, np.ones((3, 50), np.float32)
    size, calls = int(sys.argv[1]) // 200, int(sys.argv[2])

    def call(seed):
        captured = np.full((size, 50), 1e-3 * seed, np.float32)
        fn = lambda params, x: jnp.tanh(x + captured.sum(0) / size) @ params["w"]
        kernel = ns.ntk(fn, params, x)
        if sys.argv[3] == "all":
            ns.ntk_fn(fn, params, x)(params, x)
            ns.ntk_vector_product(fn, params, x, np.ones((3, 2), np.float32))
        return np.asarray(kernel)

    for seed in range(3):
        call(seed)
    before = resident()
    for seed in range(calls):
        call(seed)
    print(resident() - before)
"""


def grown(size: int, calls: int, which: str) -> int:
    """Bytes by which resident memory grows over calls of new lambdas that capture `size` bytes each."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LEAK), str(size), str(calls), which], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_arrays_that_functions_capture_are_given_back():
    """60 lambdas of 5 MB."""
    assert grown(5_000_000, 60, "all") < 50_000_000


@pytest.mark.slow
@linux
def test_large_arrays_that_functions_capture_are_given_back():
    """100 lambdas of 25 MB."""
    assert grown(25_000_000, 100, "ntk") < 50_000_000


def test_rounded_weights_are_no_weights():
    def rounded(p, x):
        return (jnp.round(x).astype(jnp.int8) @ jnp.round(p["w"]).astype(jnp.int8)).astype(x.dtype) * p["s"]

    with pytest.warns(GeneralRouteWarning, match="w"):
        kernel = ns.ntk(rounded, PARAMS | {"s": np.float64(2)}, X)
    products = np.round(X) @ np.round(PARAMS["w"])
    np.testing.assert_allclose(kernel, products @ products.T / 2, rtol=1e-12)
