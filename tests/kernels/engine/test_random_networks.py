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


class GroundTruth:
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


def each_leaf_in_a_space(ground_truth, rng):
    kernels = ns.ntk(
        ground_truth.fn, ground_truth.params, ground_truth.left, outputs="full", by_layer=True, space=("parameter", "sample")[rng.integers(2)]
    )
    assert set(kernels) == set(ground_truth.rows)
    for name, kernel in kernels.items():
        ground_truth.same(kernel, [name])


def two_sides(ground_truth, rng):
    outputs = ("full", "diagonal")[rng.integers(2)]
    ground_truth.same(
        ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, ground_truth.right, outputs=outputs), ground_truth.rows, outputs, x2=True
    )


def outputs_together(ground_truth, rng):
    outputs = ("trace", "sum", rng.normal(size=ground_truth.c), rng.normal(size=(len(ground_truth.left), ground_truth.c)))[rng.integers(4)]
    ground_truth.same(ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, outputs=outputs), ground_truth.rows, outputs)
    pair = (rng.normal(size=(len(ground_truth.left), ground_truth.c)), rng.normal(size=(len(ground_truth.right), ground_truth.c)))
    ground_truth.same(
        ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, ground_truth.right, outputs=pair), ground_truth.rows, pair, x2=True
    )


def some_leaves(ground_truth, rng):
    names = [name for name in ground_truth.rows if rng.random() < 0.5] or list(ground_truth.rows)[:1]
    pattern = "|".join(f"^{name}$" for name in names)
    ground_truth.same(ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, outputs="diagonal", layers=pattern), names, "diagonal")
    labels, kernel = np.arange(len(ground_truth.left)) % 2, ground_truth.kernel(names, "trace")
    if kernel.std() > 1e-6 * np.abs(kernel).max():
        lgc = ns.lgc(ground_truth.fn, ground_truth.left, labels, params=ground_truth.params, layers=pattern)
        assert lgc == pytest.approx(np.corrcoef(kernel.ravel(), (2.0 * (labels[:, None] == labels) - 1).ravel())[0, 1], abs=1e-6)


def small_budgets(ground_truth, rng):
    with pytest.raises(ConfigError) as refused:
        ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, outputs="full", memory_gb=1e-9)
    least = float(re.search(r"memory_gb=([\d.e-]+) or more", str(refused.value))[1])
    ground_truth.same(ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, outputs="full", memory_gb=least), ground_truth.rows)
    ground_truth.same(
        ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, ground_truth.right, batch_size=1, accumulate="float64"),
        ground_truth.rows,
        "trace",
        x2=True,
    )


def on_disk(ground_truth, rng, folder):
    part = ground_truth.left[:2]
    ns.ntk(ground_truth.fn, ground_truth.params, part, out=folder / "kernel", tile=1)
    ground_truth.same(
        np.array(ns.ntk(ground_truth.fn, ground_truth.params, ground_truth.left, out=folder / "kernel", tile=1)), ground_truth.rows, "trace"
    )


def products_with_vectors(ground_truth, rng):
    v = rng.normal(size=(len(ground_truth.right), ground_truth.c))
    product = jax.jit(lambda v: ns.ntk_vector_product(ground_truth.fn, ground_truth.params, ground_truth.left, v, x2=ground_truth.right))(v)
    expected = np.einsum("ijab,jb->ia", ground_truth.kernel(ground_truth.rows, x2=True), v)
    np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-12 * np.abs(ground_truth.kernel(ground_truth.rows)).max())


def sketches(ground_truth, rng):
    """The gradients times a matrix that is written down entry by entry; leaves add up."""
    options = {"dim": 8, "blocks": 2, "seed": int(rng.integers(100))}
    found = ns.sketch(ground_truth.fn, ground_truth.params, ground_truth.left, outputs="full", by_layer=True, **options)
    expected = {
        name: rows @ ground_truth.explicit.projection("countsketch", name, rows.shape[-1], cotangent=0, **options)
        for name, rows in ground_truth.rows.items()
    }
    largest = max(np.abs(rows).max(initial=0) for rows in ground_truth.rows.values())
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-9, atol=1e-12 * largest)
    together = ns.sketch(ground_truth.fn, ground_truth.params, ground_truth.left, outputs="full", **options)
    np.testing.assert_allclose(together, sum(expected.values()), rtol=1e-9, atol=1e-11 * largest)


CHECKS = (each_leaf_in_a_space, two_sides, outputs_together, some_leaves, small_budgets, on_disk, products_with_vectors, sketches)
DRAWN = {"derandomize": True, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}


@pytest.fixture
def ground_truth_of(oracle, loaded):
    """ground_truth_of(network)."""
    return lambda network: GroundTruth(oracle, loaded("kernels/sketches/explicit.py"), network)


@settings(max_examples=3, **DRAWN)
@given(st.data())
def test_any_small_network_has_the_kernel_of_its_gradients(loaded, ground_truth_of, data):
    network = data.draw(loaded("kernels/engine/random_networks.py").networks(depth=2))
    each_leaf_in_a_space(ground_truth_of(network), np.random.default_rng(data.draw(st.integers(0, 99))))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@settings(max_examples=10, **DRAWN)
@given(st.data())
def test_every_function_agrees_with_the_gradients_of_any_network(loaded, ground_truth_of, tmp_path, check, data):
    ground_truth = ground_truth_of(data.draw(loaded("kernels/engine/random_networks.py").networks()))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        check(ground_truth, np.random.default_rng(data.draw(st.integers(0, 99))), *([Path(folder)] if check is on_disk else []))
