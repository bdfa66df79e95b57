"""Is a function whose surroundings changed read anew, and one whose did not read once?"""

import jax.numpy as jnp
import numpy as np
import pytest
from ntk_select.models import build
from ntk_select.models.architectures import _Apply

import ntk_select as ns
from ntk_select.engine.structure import _captured, read_structure
from ntk_select.errors import ConfigError

X = np.random.default_rng(0).normal(size=(4, 6))
PARAMS = {"w": np.random.default_rng(1).normal(size=(6, 2))}


class Network:
    def __init__(self):
        self.scale = jnp.ones(6)

    def apply(self, params, x):
        return (x * self.scale) @ params["w"]


def test_an_attribute_that_changed_is_seen():
    network = Network()
    before = ns.ntk(network.apply, PARAMS, X)
    network.scale = jnp.full(6, 2.0)
    np.testing.assert_allclose(ns.ntk(network.apply, PARAMS, X), 4 * before)


def test_a_captured_variable_that_changed_is_seen():
    scale = jnp.ones(6)

    def fn(params, x):
        return (x * scale) @ params["w"]

    before = ns.ntk(fn, PARAMS, X)
    scale = jnp.full(6, 3.0)
    np.testing.assert_allclose(ns.ntk(fn, PARAMS, X), 9 * before)


def test_equal_modules_share_what_was_read():
    one, two = (_Apply(build("resnet18", num_classes=2, stage_sizes=(1,), widths=(3,), stem="small")) for _ in range(2))
    assert one == two
    assert _captured(one) == _captured(two)


def test_nothing_is_read_twice_while_nothing_changes():
    def fn(params, x):
        return jnp.tanh(x) @ params["w"]

    assert read_structure(fn, PARAMS, X, (0,)) is read_structure(fn, PARAMS, X, (0,))


def test_empty_leaves_and_rounded_weights_are_no_weights():
    empty = ns.ntk(lambda p, x: x[:, :0] @ p["e"] + x @ p["w"], PARAMS | {"e": np.zeros((0, 2))}, X)
    np.testing.assert_allclose(empty, X @ X.T, rtol=1e-12)

    def rounded(p, x):
        return (jnp.round(x).astype(jnp.int8) @ jnp.round(p["w"]).astype(jnp.int8)).astype(x.dtype) * p["s"]

    with pytest.warns(ns.engine.GeneralRouteWarning, match="w"):
        kernel = ns.ntk(rounded, PARAMS | {"s": np.float64(2)}, X)
    products = np.round(X) @ np.round(PARAMS["w"])
    np.testing.assert_allclose(kernel, products @ products.T / 2, rtol=1e-12)


def test_wide_leaves_are_summed_in_float64_as_well():
    base = np.random.default_rng(2).normal(size=400_000).astype(np.float32)
    fn = lambda p, x: ((p["s"] * base) * x[:, :1]).sum(1, keepdims=True)  # noqa: E731
    kernel = ns.ntk(fn, {"s": np.ones(400_000, np.float32)}, np.ones((2, 1), np.float32), accumulate="float64")
    np.testing.assert_allclose(kernel, (base.astype(np.float64) ** 2).sum(), rtol=2e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": 8}, "mesh= takes a jax.sharding.Mesh"),
        ({"progress": "x"}, "progress= takes a function"),
        ({"tile": 3}, "tile=3 cuts a kernel that goes to disk"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ns.ntk(lambda p, x: x @ p["w"], PARAMS, X, **options)


def test_a_complex_kernel_has_no_certificate():
    with pytest.raises(ConfigError, match="complex"):
        ns.certify(np.eye(2) * 1j)
