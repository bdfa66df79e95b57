"""`layers=` selects the leaves and `outputs=` the outputs that it names."""

import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.arguments import leaf_names, read_outputs, select

pytestmark = pytest.mark.usefixtures("quickly")


class Block(NamedTuple):
    kernel: np.ndarray
    bias: np.ndarray


PARAMS = {
    "first": Block(np.ones((3, 4)), np.zeros(4)),
    "second": {"kernel": np.ones((4, 2), np.float32), "steps": np.int32(3), "flag": True},
    "list": [np.ones(2, jnp.bfloat16), (2.5, None)],
    "complex": np.ones(2, np.complex128),
    "key": np.array([0, 1], np.uint32),
}
NAMES = [
    "complex",
    "first/kernel",
    "first/bias",
    "key",
    "list/0",
    "list/1/0",
    "second/flag",
    "second/kernel",
    "second/steps",
]
REAL = ["first/kernel", "first/bias", "list/0", "list/1/0", "second/kernel"]


def named(layers):
    return [NAMES[index] for index in select(PARAMS, layers)]


def test_names_are_the_paths_in_the_order_of_the_leaves():
    assert leaf_names(PARAMS) == NAMES
    assert leaf_names(np.ones(3)) == [""]
    assert leaf_names({}) == []


def test_names_of_a_module_of_nnx_are_the_paths_of_its_state():
    state = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))[1]
    assert [re.sub("/value$", "", name) for name in leaf_names(state)] == ["bias", "kernel"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (lambda name: name != "complex", REAL),
        ("^(?!complex)", REAL),
        ("kernel$", ["first/kernel", "second/kernel"]),
        ("^first/", ["first/kernel", "first/bias"]),
        ("second", ["second/kernel"]),
        (re.compile("LIST", re.IGNORECASE).search, ["list/0", "list/1/0"]),
        (str.islower, REAL[:0]),
        (lambda name: name.count("/") == 2, ["list/1/0"]),
    ],
    ids=["all but the complex one", "the same as a pattern", "end", "start", "middle", "search of a compiled pattern", "method of strings", "depth"],
)
def test_patterns_and_functions_choose_among_the_real_leaves(layers, expected):
    if not expected:
        with pytest.raises(ConfigError, match="Parameter 'complex' is complex"):
            named(layers)
    else:
        assert named(layers) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (None, "Parameter 'complex' is complex; the kernel is defined here for real parameters. Try: layers= a pattern without it"),
        ("kernal", r"layers='kernal' matches no floating-point parameter\..*Allowed: complex, first/bias, first/kernel"),
        ("first/kernal", "Did you mean 'first/kernel'"),
        ("^key$|steps", "matches no floating-point parameter"),
        (lambda _: False, "matches no floating-point parameter"),
        ("(", r"layers='\(' is not a regular expression: missing \)"),
        (3, "layers=3 must be a regular expression, a function of the path, or None for all"),
        (re.compile("first"), r"layers=re.compile\('first'\) must be"),
        (["first"], r"layers=\['first'\] must be"),
    ],
    ids=["complex", "no match", "near match", "integers alone", "never", "broken", "number", "compiled", "list"],
)  # fmt: skip
def test_layers_that_name_nothing_are_refused(layers, message):
    with pytest.raises(ConfigError, match=message):
        named(layers)


def test_all_is_the_word_for_no_choice_as_in_other_functions():
    params = {"small": np.ones((3, 2)), "tall": np.ones(2), "other": np.ones(2)}
    assert select(params, "all") == select(params, None) == (0, 1, 2)


@pytest.mark.parametrize("layers", [None, "all"])
def test_parameters_without_numbers_are_refused(layers):
    with pytest.raises(ConfigError, match="params hold no floating-point array to differentiate. Try: ns.ntk"):
        select({"steps": 3, "nothing": None}, layers)


@pytest.mark.parametrize("layers", [None, "w"])
def test_text_among_the_leaves_is_refused_with_its_name(layers):
    with pytest.raises(ConfigError, match="Parameter 'activation' is a str, not an array. Let fn close over it instead"):
        ns.ntk(lambda p, x: jnp.tanh(x @ p["w"]), {"activation": "tanh", "w": np.ones((3, 2))}, np.ones((4, 3)), layers=layers)


# What the chosen leaves give.


def network(p, x):
    h = jnp.tanh(x @ p["enter"]["w"] * p["enter"]["scale"] + p["enter"]["b"])
    return h @ p["leave"]["w"] + p["leave"]["b"]


_draw = np.random.default_rng(5).normal
NETWORK = {
    "enter": {"w": _draw(size=(4, 5)), "scale": _draw(size=5), "b": _draw(size=5)},
    "leave": {"w": _draw(size=(5, 3)), "b": _draw(size=3)},
    "never": _draw(size=(2, 2)),
}
X1, X2 = _draw(size=(5, 4)), _draw(size=(3, 4))


@pytest.fixture(scope="module")
def jacobian(oracle):
    """Leaf by leaf, of both sides."""
    return [oracle.jacobians(network, NETWORK, x) for x in (X1, X2)]


@pytest.mark.parametrize(
    "layers", ["^enter", "b$", "enter/w|leave/b", lambda name: "scale" in name], ids=["begins", "ends", "one of two", "a function"]
)
def test_the_kernel_of_some_leaves_is_the_sum_of_theirs(oracle, jacobian, layers):
    chosen = [name for name in jacobian[0] if (layers(name) if callable(layers) else re.search(layers, name))]
    sides = [oracle.whole({name: side[name] for name in chosen}) for side in jacobian]
    oracle.close(ns.ntk(network, NETWORK, X1, X2, outputs="full", layers=layers), oracle.paired(*sides))


@pytest.mark.parametrize(
    ("outputs", "x2"),
    [
        pytest.param("full", None, id="full, symmetric"),
        *(pytest.param(outputs, None, id=f"{outputs}, symmetric", marks=pytest.mark.nightly) for outputs in ("trace", "diagonal")),
        pytest.param("full", X2, id="full, rectangle"),
        pytest.param("sum", None, id="sum, symmetric", marks=pytest.mark.nightly),
        *(pytest.param(outputs, X2, id=f"{outputs}, rectangle", marks=pytest.mark.nightly) for outputs in ("trace", "diagonal", "sum")),
    ],
)
def test_kernels_of_the_leaves_add_up_to_the_whole(oracle, jacobian, outputs, x2):
    parts = ns.ntk(network, NETWORK, X1, x2, outputs=outputs, by_layer=True)
    assert list(parts) == ["enter/b", "enter/scale", "enter/w", "leave/b", "leave/w", "never"]
    for name, part in parts.items():
        oracle.close(part, oracle.paired(jacobian[0][name], None if x2 is None else jacobian[1][name], outputs))
    oracle.close(sum(parts.values()), ns.ntk(network, NETWORK, X1, x2, outputs=outputs))


def test_shares_of_the_leaves_are_those_of_the_squared_gradients(jacobian):
    parts = ns.ntk(network, NETWORK, X1, by_layer=True)
    whole = np.trace(sum(parts.values()))
    squares = {name: (rows**2).sum() for name, rows in jacobian[0].items()}
    for name, part in parts.items():
        assert np.trace(part) / whole == pytest.approx(squares[name] / sum(squares.values()), abs=1e-13)


def test_leaves_without_influence_have_a_kernel_of_zeros(oracle):
    for options in ({"by_layer": False}, {"x2": X2}, {"outputs": "full"}):
        assert not ns.ntk(network, NETWORK, X1, layers="never", **options).any()
    assert list(ns.ntk(network, NETWORK, X1, layers="never", by_layer=True)) == ["never"]


def test_leaves_whose_joined_paths_are_alike_have_a_kernel_each():
    params = {"a": {"b": np.ones((4, 2))}, "a/b": np.ones((4, 2))}
    fn = lambda p, x: jnp.tanh(x @ p["a"]["b"]) + x @ p["a/b"]  # noqa: E731
    assert list(ns.ntk(fn, params, X1, by_layer=True)) == ["a/b", "a/b#2"]
    assert list(ns.ntk(fn, params, X1, by_layer=True, layers="#2$")) == ["a/b#2"]


def test_parameters_may_be_one_array_or_a_module_of_nnx(oracle):
    oracle.agrees(lambda w, x: jnp.tanh(x @ w), NETWORK["enter"]["w"], X1)
    graph, state = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0), param_dtype=np.float64))
    kernel = ns.ntk(lambda state, x: nnx.merge(graph, state)(x), state, X1, outputs="full")
    oracle.close(kernel, np.einsum("ij,ab->ijab", X1 @ X1.T + 1, np.eye(3)))


# What `outputs=` becomes.


def test_words_become_cotangents():
    for word, shape in (("trace", (3, 3)), ("full", (3, 3)), ("diagonal", (3, 3)), ("sum", (1, 3))):
        requested = read_outputs(word, 5, None, 3, np.float32)
        assert requested.left is requested.right
        assert requested.left.shape == (1, *shape)
        assert requested.left.dtype == np.float32
        assert requested.count == shape[0]
    assert [read_outputs(word, 5, 2, 3, np.float32).kernel_shape(5, 2) for word in ("trace", "full", "diagonal", "sum")] == [
        (5, 2),
        (5, 2, 3, 3),
        (5, 2, 3),
        (5, 2),
    ]


def test_cotangents_are_shared_or_belong_to_examples():
    shared, own, pair = (
        read_outputs(value, 5, n2, 3, np.float32) for value, n2 in ((np.ones(3), 2), (np.ones((5, 3)), None), ((np.ones(3), np.ones((2, 3))), 2))
    )
    assert (shared.left.shape, shared.right.shape) == ((1, 1, 3), (1, 1, 3))
    assert own.left.shape == (5, 1, 3)
    assert own.right is own.left
    assert (pair.left.shape, pair.right.shape) == ((1, 1, 3), (2, 1, 3))
    assert shared.pairing == own.pairing == pair.pairing == "trace"
    assert shared.count == own.count == pair.count == 1


def test_as_many_examples_as_outputs_leave_no_doubt(oracle, jacobian):
    """With n = c, (c,) is shared and (n, c) is one row an example."""
    x, own = X1[:3], _draw(size=(3, 3))
    left = oracle.whole(jacobian[0])[:3]
    oracle.close(ns.ntk(network, NETWORK, x, outputs=own), oracle.paired(left, None, own))
    oracle.close(ns.ntk(network, NETWORK, x, outputs=own[0]), oracle.paired(left, None, own[0]))


def test_combinations_of_outputs_follow_from_the_full_kernel(oracle):
    full = ns.ntk(network, NETWORK, X1, outputs="full")
    contrast = np.array([1.0, -1.0, 0.0])
    oracle.close(ns.ntk(network, NETWORK, X1, outputs="trace"), np.einsum("ijaa->ij", full) / 3)
    oracle.close(ns.ntk(network, NETWORK, X1, outputs="diagonal"), np.einsum("ijaa->ija", full))
    oracle.close(ns.ntk(network, NETWORK, X1, outputs="sum"), full.sum((2, 3)))
    oracle.close(ns.ntk(network, NETWORK, X1, outputs=contrast), np.einsum("a,ijab,b->ij", contrast, full, contrast))


@pytest.mark.parametrize(
    ("outputs", "x2", "message"),
    [
        ("traces", None, "outputs='traces' is unknown. Did you mean 'trace'"),
        ("mean", None, r"outputs='mean' is unknown.* Or give cotangents \(c,\) or \(n, c\)"),
        ((np.ones(3), np.ones(3)), None, "A pair of cotangents .* needs x2"),
        ((np.ones(3),), X2, "A pair of cotangents"),
        ((np.ones(3),) * 3, X2, "A pair of cotangents"),
        (np.ones((5, 3)), X2, r"Cotangents \(n, c\) belong to x1; with x2 give both sides"),
        (np.ones(4), None, r"The cotangents of x1 have shape \(4,\); with 5 examples and 3 outputs give \(3,\) or \(5, 3\)"),
        (np.ones((3, 5)), None, r"of x1 have shape \(3, 5\)"),
        ((np.ones(3), np.ones((5, 3))), X2, r"of x2 have shape \(5, 3\); with 3 examples and 3 outputs"),
        (np.array([1, np.nan, 0]), None, "The cotangents of x1 hold NaN or infinity"),
        ((np.ones(3), np.array([1, np.inf, 0])), X2, "The cotangents of x2 hold NaN or infinity"),
        ({"trace": 1}, None, r"outputs= takes one of trace, full, diagonal, sum, or numbers .* given: dict"),
        (["a", "b", "c"], None, "outputs= takes one of .* given: list"),
        (None, None, "The cotangents of x1"),
        (3.0, None, r"have shape \(\)"),
    ],
    ids=lambda value: "" if isinstance(value, str) and " " in value else str(type(value).__name__),
)  # fmt: skip
def test_outputs_that_do_not_fit_are_refused(outputs, x2, message):
    with pytest.raises(ConfigError, match=message):
        ns.ntk(network, NETWORK, X1, x2, outputs=outputs)


def test_complex_cotangents_are_refused():
    with pytest.raises(ConfigError, match="outputs= takes real cotangents; those of x1 are complex"):
        ns.ntk(network, NETWORK, X1, outputs=np.ones(3) * 1j)


def test_whole_numbers_do_as_cotangents(oracle, jacobian):
    oracle.close(ns.ntk(network, NETWORK, X1, outputs=np.array([1, 0, -2])), oracle.paired(oracle.whole(jacobian[0]), None, np.array([1.0, 0, -2])))


@pytest.mark.parametrize(
    "dtype",
    [np.uint8, np.bool_, *(pytest.param(dtype, marks=pytest.mark.nightly) for dtype in (np.int32, jnp.bfloat16, np.float32))],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_examples_of_any_type_that_become_numbers_of_the_network(oracle, dtype):
    x = (np.arange(20).reshape(5, 4) * 13 % 200).astype(dtype)
    cast = lambda p, x: network(p, x.astype(np.float64) / 100)  # noqa: E731
    for space in ("parameter", "sample"):
        oracle.close(ns.ntk(cast, NETWORK, x, space=space), ns.ntk(network, NETWORK, x.astype(np.float64) / 100, space=space))


@pytest.mark.parametrize("space", ["parameter", "sample", None])
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, jnp.bfloat16], ids=lambda dtype: np.dtype(dtype).name)
def test_examples_of_any_type_may_enter_a_product_as_they_are(oracle, dtype, space):
    """JAX multiplies operands of two types without a cast that could be seen; in their own, uint8 would overflow."""
    x = (np.arange(600).reshape(3, 200) * 13 % 200).astype(dtype)
    kernel = ns.ntk(lambda p, x: x @ p["w"], {"w": np.ones((200, 3))}, x, space=space)
    oracle.close(kernel, x.astype(np.float64) @ x.astype(np.float64).T)
