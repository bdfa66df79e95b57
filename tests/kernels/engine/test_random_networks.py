"""Kernels, kernel-vector products, sketches and LGC of random small networks equal those from their gradients."""

import re
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import ntk_select as ns
from ntk_select.errors import ConfigError

pytestmark = [pytest.mark.usefixtures("quickly"), pytest.mark.filterwarnings("ignore::ntk_select.kernels.engine.GeneralRouteWarning")]

# What has no gradient but rounding errors has a kernel of such: as large as those of the whole kernel, not as its own.
OWN, WHOLE = 1e-10, 1e-14


class Truth:
    """The gradients of a network's leaves, for its examples on the left and others on the right."""

    def __init__(self, oracle, explicit, network):
        self.oracle, self.explicit, self.fn, self.params, self.left = oracle, explicit, network.fn, network.params, network.examples
        self.right = -0.7 * self.left[1:] + 0.1
        both = oracle.jacobians(self.fn, self.params, np.concatenate([self.left, self.right]))
        self.rows = {name: jacobian[: len(self.left)] for name, jacobian in both.items()}
        self.others = {name: jacobian[len(self.left) :] for name, jacobian in both.items()}
        self.c = next(iter(self.rows.values())).shape[1]

    def kernel(self, names, outputs="full", x2=False):
        """Of some leaves together."""
        left, right = (self.oracle.whole({name: side[name] for name in names}) for side in (self.rows, self.others))
        return self.oracle.paired(left, right if x2 else None, outputs)

    def same(self, given, names, outputs="full", x2=False):
        """Whether a kernel is that of these leaves."""
        expected, whole = self.kernel(names, outputs, x2), self.kernel(self.rows)
        assert given.shape == expected.shape
        off = np.abs(given - expected).max(initial=0)
        assert off <= OWN * np.abs(expected).max(initial=0) + WHOLE * np.abs(whole).max(), (list(names), off, np.abs(expected).max())


def each_leaf_in_a_space(truth, rng):
    kernels = ns.ntk(truth.fn, truth.params, truth.left, outputs="full", by_layer=True, space=("parameter", "sample")[rng.integers(2)])
    assert set(kernels) == set(truth.rows)
    for name, kernel in kernels.items():
        truth.same(kernel, [name])


def two_sides(truth, rng):
    outputs = ("full", "diagonal")[rng.integers(2)]
    truth.same(ns.ntk(truth.fn, truth.params, truth.left, truth.right, outputs=outputs), truth.rows, outputs, x2=True)


def outputs_together(truth, rng):
    outputs = ("trace", "sum", rng.normal(size=truth.c), rng.normal(size=(len(truth.left), truth.c)))[rng.integers(4)]
    truth.same(ns.ntk(truth.fn, truth.params, truth.left, outputs=outputs), truth.rows, outputs)
    pair = (rng.normal(size=(len(truth.left), truth.c)), rng.normal(size=(len(truth.right), truth.c)))
    truth.same(ns.ntk(truth.fn, truth.params, truth.left, truth.right, outputs=pair), truth.rows, pair, x2=True)


def some_leaves(truth, rng):
    names = [name for name in truth.rows if rng.random() < 0.5] or list(truth.rows)[:1]
    pattern = "|".join(f"^{name}$" for name in names)
    truth.same(ns.ntk(truth.fn, truth.params, truth.left, outputs="diagonal", layers=pattern), names, "diagonal")
    labels, kernel = np.arange(len(truth.left)) % 2, truth.kernel(names, "trace")
    if kernel.std() > 1e-6 * np.abs(kernel).max():
        lgc = ns.lgc(truth.fn, truth.left, labels, params=truth.params, layers=pattern)
        assert lgc == pytest.approx(np.corrcoef(kernel.ravel(), (2.0 * (labels[:, None] == labels) - 1).ravel())[0, 1], abs=1e-6)


def small_budgets(truth, rng):
    with pytest.raises(ConfigError) as refused:
        ns.ntk(truth.fn, truth.params, truth.left, outputs="full", memory_gb=1e-9)
    least = float(re.search(r"memory_gb=([\d.e-]+) or more", str(refused.value))[1])
    truth.same(ns.ntk(truth.fn, truth.params, truth.left, outputs="full", memory_gb=least), truth.rows)
    truth.same(ns.ntk(truth.fn, truth.params, truth.left, truth.right, batch_size=1, accumulate="float64"), truth.rows, "trace", x2=True)


def on_disk(truth, rng, folder):
    part = truth.left[:2]
    ns.ntk(truth.fn, truth.params, part, out=folder / "kernel", tile=1)
    truth.same(np.array(ns.ntk(truth.fn, truth.params, truth.left, out=folder / "kernel", tile=1)), truth.rows, "trace")


def products_with_vectors(truth, rng):
    v = rng.normal(size=(len(truth.right), truth.c))
    product = jax.jit(lambda v: ns.ntk_vector_product(truth.fn, truth.params, truth.left, v, x2=truth.right))(v)
    expected = np.einsum("ijab,jb->ia", truth.kernel(truth.rows, x2=True), v)
    np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-12 * np.abs(truth.kernel(truth.rows)).max())


def sketches(truth, rng):
    """The gradients times a matrix that is written down entry by entry; leaves add up."""
    options = {"dim": 8, "blocks": 2, "seed": int(rng.integers(100))}
    found = ns.sketch(truth.fn, truth.params, truth.left, outputs="full", by_layer=True, **options)
    expected = {
        name: rows @ truth.explicit.projection("countsketch", name, rows.shape[-1], cotangent=0, **options) for name, rows in truth.rows.items()
    }
    largest = max(np.abs(rows).max(initial=0) for rows in truth.rows.values())
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-9, atol=1e-12 * largest)
    together = ns.sketch(truth.fn, truth.params, truth.left, outputs="full", **options)
    np.testing.assert_allclose(together, sum(expected.values()), rtol=1e-9, atol=1e-11 * largest)


CHECKS = (each_leaf_in_a_space, two_sides, outputs_together, some_leaves, small_budgets, on_disk, products_with_vectors, sketches)
DRAWN = {"derandomize": True, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}


@pytest.fixture
def truth_of(oracle, loaded):
    """truth_of(network)."""
    return lambda network: Truth(oracle, loaded("kernels/sketches/explicit.py"), network)


@settings(max_examples=3, **DRAWN)
@given(st.data())
def test_any_small_network_has_the_kernel_of_its_gradients(loaded, truth_of, data):
    network = data.draw(loaded("kernels/engine/random_networks.py").networks(depth=2))
    each_leaf_in_a_space(truth_of(network), np.random.default_rng(data.draw(st.integers(0, 99))))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@settings(max_examples=10, **DRAWN)
@given(st.data())
def test_whatever_is_asked_of_any_network_follows_from_its_gradients(loaded, truth_of, tmp_path, check, data):
    truth = truth_of(data.draw(loaded("kernels/engine/random_networks.py").networks()))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        check(truth, np.random.default_rng(data.draw(st.integers(0, 99))), *([Path(folder)] if check is on_disk else []))
