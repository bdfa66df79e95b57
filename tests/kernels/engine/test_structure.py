"""Every use of each parameter is found, whatever the function looks like, and the kernel is right for it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine import GeneralRouteWarning
from ntk_select.kernels.engine.analyse import analyse

pytestmark = pytest.mark.usefixtures("quickly")

_numbers = np.random.default_rng(7).normal
W, V, SQUARE, HEAD = _numbers(size=(4, 5)), _numbers(size=(5, 2)), _numbers(size=(4, 4)) / 2, _numbers(size=(4, 2))
KERNEL, POOLED = _numbers(size=(3, 3, 2, 2)), _numbers(size=(2, 3))
X, IMAGES, TOKENS = _numbers(size=(3, 4)), _numbers(size=(3, 5, 4, 2)), np.array([[0, 3, 3], [1, 2, 0], [3, 3, 3]])
conv = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# Parameters shared by several uses.


def dense_twice(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["v"]


def recurrent(p, x):
    h = x
    for k in range(3):
        h = jnp.tanh(h @ p["w"] + x[:, k : k + 1])
    return h @ p["v"]


def two_resolutions(p, x):
    h = jnp.tanh(conv(x, p["w"]))
    return jnp.tanh(conv(h[:, ::2, ::2], p["w"], window_strides=(2, 1))).mean((1, 2)) @ p["v"]


def tied_transposed(p, x):
    return jnp.tanh(x @ p["w"]) @ p["w"].T


def convolution_and_matrix(p, x):
    return jnp.tanh(conv(x, p["w"])).mean((1, 2)) @ p["w"][0, 0] + conv(x, p["w"]).sum((1, 2)) @ p["w"].reshape(6, 6)[:2, :2]


# Weights computed from leaves.


def standardised(p, x):
    w = p["w"]
    w = (w - w.mean((0, 1, 2))) / jnp.sqrt(w.var((0, 1, 2)) + 1e-3)
    return jnp.tanh(conv(x, w * p["gain"])).mean((1, 2)) @ p["v"]


def ntk_parametrisation(p, x):
    return jnp.tanh(x @ (p["w"] / np.sqrt(4))) @ (p["v"] / np.sqrt(5))


def adapter(p, x):
    return jnp.tanh(x @ (p["w"] + p["a"] @ p["b"])) @ p["v"]


def one_leaf_two_weights(p, x):
    return jnp.tanh(x @ p["w"][:, :2]) @ p["w"][:2, :2] + x[:, :2] @ p["w"][2:, 2:4]


def joined(p, x):
    return jnp.tanh(x @ jnp.concatenate([p["w"], p["v"].T @ p["z"]], axis=0)[:4]) @ p["v"]


def stopped(p, x):
    return jnp.tanh(x @ lax.stop_gradient(p["w"])) @ p["v"]


def stopped_once(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ lax.stop_gradient(p["w"])) @ p["v"]


# Weights that are only moved: the kernel needs no gradient.


def moved(p, x):
    w = lax.rev(p["flat"].reshape(2, 3, 3, 2), (1, 2)).transpose(1, 2, 0, 3)
    return jnp.tanh(conv(x, w)).mean((1, 2)) @ jnp.squeeze(p["v"][None], 0)


def broadcast_over_one_example(p, x):
    return jnp.einsum("nd,ndo->no", jnp.tanh(x), jnp.broadcast_to(p["w"], (len(x), 4, 2)))


# The ways that people write functions.


def nested_calls(p, x):
    @jax.jit
    def inner(w, x):
        return jax.jit(jnp.tanh)(x @ w)

    return jax.checkpoint(lambda w, x: inner(w, x))(p["w"], x) @ p["v"]


@jax.jit
def _layer(x, w):
    return jnp.tanh(x @ w) * X.mean()


def same_jitted_function_twice(p, x):
    return _layer(_layer(x, p["w"]), p["w2"]) @ p["v"]


def constants_inside(p, x):
    shift = jnp.asarray(SQUARE[0])
    return jax.jit(lambda w, x: jnp.tanh(x @ w + shift) + jnp.asarray(SQUARE[1]))(p["w"], x + jnp.asarray(X[0])) @ p["v"]


def results_not_used(p, x):
    largest, _ = lax.top_k(x @ p["w"], 2)
    _, unused = jax.jit(lambda a: (a + 1, a @ a.T))(largest)
    del unused
    h, _ = lax.sort((jnp.tanh(x @ p["w"]), x @ p["w"]), num_keys=1)
    return largest + h @ p["v"]


def attention(p, x):
    x = x.reshape(len(x), 10, 4)[:, :6]
    q, k, v = (jnp.einsum("nsd,dhe->nhse", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("nhse,nhte->nhst", q, k) / 1.5)
    mixed = jnp.einsum("nhst,nhte->nshe", weights, v)
    return jnp.einsum("nshe,hec->nc", mixed, p["o"])


def mapped(p, x):
    return jax.vmap(lambda example: jnp.tanh(example @ p["w"]) @ p["v"])(x)


def folded(p, x):
    """Pieces of an example as examples of their own."""
    h = jnp.tanh(conv(x.reshape(-1, 5, 2, 2), p["w"]))
    return h.reshape(len(x), -1, 2).mean(1) @ p["v"]


def elementwise(p, x):
    h = (x - p["shift"]) * p["scale"] / (1 + p["scale"] ** 2)
    return jnp.maximum(h, p["floor"]) @ p["v"] + jnp.where(x[:, :2] > 0, p["bias"], 0.0)


def strange_leaves(p, x):
    """An integer, a flag, a Python number and no array at all next to the weights."""
    return (x @ p["w"] * p["count"] + p["number"]) * p["flag"] @ p["v"] if p["nothing"] is None and not p["empty"] else x


def key_and_cast(p, x):
    noise = jax.random.normal(jax.random.wrap_key_data(p["key"]), (4,))
    return jnp.tanh((x * noise) @ p["w"]) @ p["v"]


def embedding(p, x):
    return jnp.tanh(jnp.asarray(p["table"])[x].mean(1)) @ p["v"]


def tied_embedding(p, x):
    h = jnp.tanh(jnp.asarray(p["table"])[x].mean(1) @ p["w"])
    return h @ p["table"].T


def scanned(p, x):
    h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["stack"])
    return h @ p["v"]


def looped(p, x):
    return lax.map(lambda example: jnp.tanh(example @ p["w"]) @ p["v"], x)


CASES = {
    dense_twice: ({"w": SQUARE, "v": HEAD}, X, "dense dense"),
    recurrent: ({"w": SQUARE, "v": HEAD}, X, "dense dense"),
    two_resolutions: ({"w": KERNEL, "v": POOLED}, IMAGES, "conv dense"),
    tied_transposed: ({"w": W[:, :3]}, X, "derived"),
    convolution_and_matrix: ({"w": KERNEL}, IMAGES, "derived"),
    standardised: ({"w": KERNEL, "gain": _numbers(size=2), "v": POOLED}, IMAGES, "derived derived dense"),
    ntk_parametrisation: ({"w": W, "v": V}, X, "derived derived"),
    adapter: ({"w": W, "a": _numbers(size=(4, 1)), "b": _numbers(size=(1, 5)), "v": V}, X, "derived derived derived dense"),
    one_leaf_two_weights: ({"w": SQUARE}, X, "derived"),
    joined: ({"w": W[:3], "z": _numbers(size=(5, 5)), "v": V}, X, "derived derived derived"),
    stopped: ({"w": W, "v": V}, X, "derived dense"),
    stopped_once: ({"w": SQUARE, "v": HEAD}, X, "derived dense"),
    moved: ({"flat": KERNEL.ravel(), "v": POOLED}, IMAGES, "conv dense"),
    broadcast_over_one_example: ({"w": HEAD}, X, "dense"),
    nested_calls: ({"w": W, "v": V}, X, "dense dense"),
    same_jitted_function_twice: ({"w": SQUARE, "w2": W, "v": V}, X, "dense dense dense"),
    constants_inside: ({"w": SQUARE, "v": HEAD}, X, "dense dense"),
    results_not_used: ({"w": W[:, :3], "v": HEAD[:3]}, X, "dense dense"),
    attention: ({name: _numbers(size=(4, 2, 3)) for name in "qkv"} | {"o": _numbers(size=(2, 3, 2))}, _numbers(size=(3, 40)), "dense dense dense dense"),
    mapped: ({"w": W, "v": V}, X, "dense dense"),
    folded: ({"w": KERNEL, "v": POOLED}, IMAGES, "conv dense"),
    elementwise: (
        {"shift": _numbers(size=4), "scale": np.float64(0.7), "floor": _numbers(size=4) - 1, "v": HEAD, "bias": _numbers(size=2)},
        X,
        "elementwise elementwise elementwise dense elementwise",
    ),
    strange_leaves: (
        {"w": W, "v": V, "count": np.int32(3), "number": 0.25, "flag": True, "nothing": None, "empty": {}, "list": [(), []]},
        X,
        "dense dense elementwise",
    ),
    embedding: ({"table": HEAD, "v": _numbers(size=(2, 2))}, TOKENS, "embedding dense"),
    tied_embedding: ({"table": HEAD, "w": _numbers(size=(2, 2))}, TOKENS, "derived dense"),
    scanned: ({"stack": _numbers(size=(3, 4, 4)), "v": HEAD}, X, "derived dense"),
    looped: ({"w": W, "v": V}, X, "dense dense"),
    key_and_cast: ({"w": W, "v": V, "key": np.array([1, 2], np.uint32)}, X, "dense dense"),
}  # fmt: skip


BOTH = (dense_twice, embedding, two_resolutions, moved)
"""In sample space a kernel of gradients is needed only for what has no structure; these are contracted in both."""


NIGHTLY = (recurrent, ntk_parametrisation, one_leaf_two_weights, joined, stopped, nested_calls, same_jitted_function_twice, attention, mapped, folded)
NIGHTLY += (looped, key_and_cast, embedding, tied_embedding, scanned, adapter, stopped_once)
"""Quick tests compare how their leaves are used; their kernels are like those of other cases."""


@pytest.mark.parametrize("fn", CASES, ids=lambda fn: fn.__name__)
def test_the_use_of_each_leaf_is_recognised(oracle, fn):
    params, x, kinds = CASES[fn]
    found = oracle.kinds(fn, params, x)
    assert [found[name] for name in params if name in found] == kinds.split()


@pytest.mark.parametrize("fn", [pytest.param(fn, marks=pytest.mark.nightly if fn in NIGHTLY else (), id=fn.__name__) for fn in CASES])
def test_kernel_of_each_leaf_equals_explicit_gradients(oracle, fn):
    params, x, _ = CASES[fn]
    oracle.agrees(fn, params, x, spaces=("parameter", "sample") if fn in BOTH else ("sample",))


# Functions whose structure is not known: exact all the same, and said.


def scanned_long(p, x):
    """More layers than are unrolled."""
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["stack"])[0] @ p["v"]


def branched(p, x):
    h = lax.map(lambda e: lax.cond(e[0] > 0, lambda a: jnp.tanh(a @ p["w"]), lambda a: jnp.sin(a @ p["w"]) * 2, e), x)
    return lax.cond(p["v"].sum() > 0, lambda a: a @ p["v"], lambda a: a @ p["v"] * 3, h)


def looking_first(p, x):
    """A loop that no gradient goes through, whose bound the example sets."""
    steps = lax.map(lambda e: lax.while_loop(lambda i: (i < 5) & (e[0] > i / 10), lambda i: i + 1, 0), x)
    return jnp.tanh(x @ p["w"] * steps[:, None]) @ p["v"] + lax.fori_loop(0, 70, lambda _, h: jnp.sin(h * p["s"]), x[:, :2])


@jax.custom_vjp
def _straight_through(x, w):
    return jnp.sign(x @ w)


_straight_through.defvjp(lambda x, w: (jnp.sign(x @ w), (x, w)), lambda held, ct: (ct @ held[1].T, 3 * held[0].T @ ct))


def own_rule(p, x):
    """A rule of differentiation that is not the derivative, and is respected."""
    return _straight_through(jnp.tanh(x @ p["u"]), p["w"]) @ p["v"]


def weight_and_scale(p, x):
    return jnp.tanh(x @ p["w"]) * p["w"][0] @ p["v"]


def recurrent_from_zero(p, x):
    """The first product does not depend on the example, and what it gives is added."""
    h = jnp.zeros((len(x), 4))
    for k in range(3):
        h = jnp.tanh(h @ p["w"] + x[:, k : k + 1])
    return h @ p["v"]


def without_examples(p, x):
    return jnp.tanh(p["b"])[None] * jnp.ones((len(x), 1))


GENERAL = {
    scanned_long: ({"stack": _numbers(size=(65, 4, 4)) / 2, "v": HEAD}, X, ["stack"]),
    branched: ({"w": W, "v": V}, X, ["w", "v"]),
    looking_first: ({"w": W, "v": V, "s": np.float64(0.7)}, X, ["s"]),
    own_rule: ({"u": SQUARE, "w": W, "v": V}, X, ["w"]),
    weight_and_scale: ({"w": W, "v": V}, X, ["w"]),
    recurrent_from_zero: ({"w": SQUARE, "v": HEAD}, X, ["w"]),
    without_examples: ({"b": HEAD[0]}, X, ["b"]),
}


@pytest.mark.parametrize("fn", [pytest.param(fn, marks=pytest.mark.nightly if fn is looking_first else (), id=fn.__name__) for fn in GENERAL])
def test_what_has_no_known_structure_is_exact_and_warned_of(oracle, fn):
    params, x, general = GENERAL[fn]
    with pytest.warns(GeneralRouteWarning) as caught:
        oracle.agrees(fn, params, x, spaces=(None,))
    with pytest.warns(GeneralRouteWarning):
        kinds = oracle.kinds(fn, params, x)
    (said,) = {str(warning.message) for warning in caught}
    assert said.startswith(f"{len(general)} of {len(params)} leaves")
    assert all(f"{name} (used by " in said for name in general)
    assert [name for name in params if kinds[name] == "general"] == general


def test_a_long_list_of_leaves_without_structure_is_cut(oracle):
    params = {f"t{k}": oracle.draw(3, 2, seed=k) for k in range(7)}
    with pytest.warns(GeneralRouteWarning, match=r"^7 of 7 leaves .*; \.\.\.\.$"):
        ns.ntk(lambda p, x: sum(jnp.asarray(p[name])[:, x[:, 0]].T for name in p), params, TOKENS[:, :1] % 2)


def test_the_warning_points_to_the_line_that_called(oracle):
    def call():
        return ns.ntk(columns_of_a_table, {"t": HEAD}, TOKENS)  # here

    with pytest.warns(GeneralRouteWarning) as caught:
        call()
    assert caught[0].filename == __file__
    assert caught[0].lineno == call.__code__.co_firstlineno + 1


@pytest.mark.parametrize("through", ["ntk_plan", "ntk_fn", "by another function"])
def test_the_warning_points_there_from_every_function(through):
    calls = {
        "ntk_plan": lambda: ns.ntk_plan(columns_of_a_table, {"t": HEAD}, TOKENS),
        "ntk_fn": lambda: ns.ntk_fn(columns_of_a_table, {"t": HEAD}, TOKENS),
        "by another function": lambda: ns.ntk(columns_of_a_table, {"t": HEAD}, TOKENS, method="jacobian"),
    }
    with pytest.warns(GeneralRouteWarning) as caught:
        calls[through]()
    assert caught[0].filename == __file__


def test_every_call_warns():
    for _ in range(2):
        with pytest.warns(GeneralRouteWarning, match=r"1 of 1 leaves .* t \(used by gather\)"):
            ns.ntk(columns_of_a_table, {"t": HEAD}, TOKENS)


def columns_of_a_table(p, x):
    return jnp.asarray(p["t"])[:, x[:, 0] % 2].T


def test_sharing_a_weight_adds_the_cross_term(oracle):
    """grad = a + b, so the kernel is <a, a'> + <b, b'> + <a, b'> + <b, a'>; dropping the last two is the classic mistake."""

    def first(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"]) @ SQUARE) @ HEAD

    def second(p, x):
        return jnp.tanh(jnp.tanh(x @ SQUARE) @ p["w"]) @ HEAD

    def both(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ HEAD

    a, b = (oracle.jacobians(fn, {"w": SQUARE}, X)["w"] for fn in (first, second))
    separate = ns.ntk(first, {"w": SQUARE}, X, outputs="full") + ns.ntk(second, {"w": SQUARE}, X, outputs="full")
    cross = np.einsum("iap,jbp->ijab", a, b)
    cross = cross + cross.transpose(1, 0, 3, 2)
    assert np.abs(cross).max() > 0.05 * np.abs(separate).max()
    for space in ("parameter", "sample"):
        oracle.close(ns.ntk(both, {"w": SQUARE}, X, outputs="full", space=space), separate + cross)


# Any mixture of these, with leaves shared at random.

_LINE = partial(lax.conv_general_dilated, window_strides=(1,), padding="SAME", dimension_numbers=("NWC", "WIO", "NWC"))
# Shapes of the leaves, and what is done to h (n, 6, 4) with them.
OPERATIONS = [
    ([(4, 4)], lambda h, w: h @ w),
    ([(4, 4)], lambda h, w: h @ w.T),
    ([(4, 4)], lambda h, w: h @ (w - w.mean(0))),
    ([(4, 4)], lambda h, w: jax.nn.softmax((h @ w) @ h.swapaxes(1, 2)) @ h),
    ([(4, 4)], lambda h, w: jax.checkpoint(jax.jit(lambda w, h: jnp.sin(h @ w)))(w, h)),
    ([(4, 4)], lambda h, w: lax.dot_general(w, h, (((0,), (2,)), ((), ()))).transpose(1, 2, 0)),
    ([(4, 4)], lambda h, w: _LINE(h, w[None])),
    ([(4, 1), (1, 4)], lambda h, a, b: h + h @ (a @ b)),
    ([(4,)], lambda h, scale: h * scale),
    ([(4,)], lambda h, shift: h + shift),
    ([(3, 4, 4)], _LINE),
    ([(3, 4, 4)], lambda h, w: _LINE(h, w, window_strides=(2,), padding=((1, 1),)).repeat(2, axis=1)),
    ([(3, 4, 4)], lambda h, w: h @ w[1] + h @ w.reshape(12, 4)[:4]),
    ([(3, 4, 4)], lambda h, w: lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), h, w)[0]),
    ([(3, 1, 4)], lambda h, w: _LINE(h, w, rhs_dilation=(2,), feature_group_count=4)),
    ([(6, 6)], lambda h, w: jnp.einsum("st,ntd->nsd", w, h)),
    ([(2, 2, 2)], lambda h, w: jnp.einsum("nsgd,gde->nsge", h.reshape(-1, 6, 2, 2), w).reshape(h.shape)),
]


def random_function(rng):
    """A function of these operations, its parameters, and how it ends."""
    params, steps = {"head": rng.normal(size=(4, 2))}, []
    for choice in rng.integers(len(OPERATIONS), size=rng.integers(2, 6)):
        shapes, operation = OPERATIONS[choice]
        names = []
        for shape in shapes:
            known = [name for name, leaf in params.items() if leaf.shape == shape]
            names.append(rng.choice(known) if known and rng.random() < 0.5 else f"leaf{len(params)}")
            params.setdefault(names[-1], rng.normal(size=shape) / np.sqrt(shape[0]))
        steps.append((operation, names))
    bend = (jnp.tanh, jnp.sin, lambda h: h)[rng.integers(3)]

    def fn(p, x):
        for operation, names in steps:
            x = bend(operation(x, *(p[name] for name in names)))
        return x.sum(1) @ p["head"]

    return fn, params


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ntk_select.kernels.engine.GeneralRouteWarning")
@pytest.mark.parametrize("seed", range(20))
def test_random_functions_equal_explicit_gradients(oracle, seed):
    rng = np.random.default_rng(seed)
    fn, params = random_function(rng)
    x1, x2 = rng.normal(size=(3, 6, 4)), rng.normal(size=(2, 6, 4)) if seed % 2 else None
    oracle.agrees(
        fn,
        params,
        x1,
        x2,
        outputs=("full", "diagonal", "trace", "sum")[rng.integers(4)],
        spaces=(("parameter", "sample")[seed // 2 % 2],),
        tolerance=1e-11,
    )


def test_a_stopped_weight_has_a_kernel_of_zeros(oracle):
    params, x, _ = CASES[stopped]
    assert not ns.ntk(stopped, params, x, layers="w").any()


@pytest.mark.parametrize(("dtype", "tolerance"), [pytest.param(jnp.float32, 1e-5, marks=pytest.mark.nightly), (jnp.bfloat16, 2e-2)], ids=str)
def test_leaves_cast_on_the_way_are_right_up_to_that_type(oracle, dtype, tolerance):
    def fn(p, x):
        h = jnp.tanh(x.astype(dtype) @ p["w"].astype(dtype)).astype(x.dtype)
        return h @ p["v"]

    params = {"w": W, "v": V}
    assert oracle.kinds(fn, params, X) == {"w": "dense", "v": "dense"}
    oracle.agrees(fn, params, X, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_outputs_in_half_precision_have_a_kernel_in_float32(oracle, dtype):
    kernel = ns.ntk(lambda p, x: (x @ p["w"]).astype(dtype), {"w": W.astype(np.float32)}, X.astype(np.float32), outputs="sum")
    assert kernel.dtype == np.float32
    oracle.close(kernel, 5 * X @ X.T, 1e-2)


def test_a_python_number_among_the_leaves_does_not_change_the_type(oracle):
    params = {"w": W.astype(np.float32), "scale": 0.5}
    kernel = ns.ntk(lambda p, x: p["scale"] * (x @ p["w"]), params, X.astype(np.float32))
    assert kernel.dtype == np.float32


def test_a_number_of_numpy_among_the_leaves_has_its_own_type(oracle):
    params = {"w": W.astype(np.float32), "scale": np.float64(0.5)}
    fn = lambda p, x: p["scale"] * (x @ p["w"])  # noqa: E731
    assert ns.ntk(fn, params, X.astype(np.float32)).dtype == fn(params, X.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("space", ["parameter", "sample"])
def test_a_leaf_without_entries_is_left_out(oracle, space):
    fn = lambda p, x: jnp.tanh(x @ p["w"] + x[:, :0] @ p["none"])  # noqa: E731
    kernels = ns.ntk(fn, {"w": HEAD, "none": HEAD[:0]}, X, by_layer=True, space=space)
    assert list(kernels) == ["w"]
    oracle.close(kernels["w"], ns.ntk(lambda p, x: jnp.tanh(x @ p["w"]), {"w": HEAD}, X))


def test_a_function_may_name_a_variable_that_is_not_there_yet(oracle):
    def fn(p, x):
        return later(x) if p is None else x @ p["w"]

    oracle.close(ns.ntk(fn, {"w": HEAD}, X), X @ X.T)
    later = None


def test_a_python_integer_among_the_leaves_may_be_a_size(oracle):
    oracle.agrees(lambda p, x: jnp.tanh(x.reshape(len(x), p["parts"], -1).sum(1)) @ p["w"], {"w": HEAD[:2], "parts": 2}, X)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda p, x: x @ p["w"].T,
            r"failed for a single example of shape \(1, 4\): TypeError.*leading axis of length one\. Try: a function of a batch",
        ),
        (lambda p, x: (x @ p["w"])[0], r"returns float64\[5\] for one example; it must return one array \(n, c\)"),
        (lambda p, x: (x @ p["w"])[..., None], r"returns float64\[1, 5, 1\]"),
        (lambda p, x: (x @ p["w"], x), r"returns float64\[1, 5\], float64\[1, 4\] for one example.* Try: .*jnp.concatenate\(outputs, axis=-1\)"),
        (lambda p, x: (x @ p["w"] > 0).astype(int), r"returns int64\[1, 5\]"),
        (lambda p, x: x @ p["w"] * 1j, r"returns complex128\[1, 5\]"),
        (lambda p, x: (x @ p["w"]).sum(), r"returns float64\[\] for one"),
        (lambda p, x: {}, r"returns  for one example"),
    ],
    ids=["fails", "one axis", "three axes", "two results", "integers", "complex", "a number", "nothing"],
)
def test_functions_that_do_not_fit_are_refused(fn, message):
    with pytest.raises(ConfigError, match=message):
        ns.ntk(fn, {"w": W}, X)


def test_a_function_of_one_example_is_refused_and_becomes_one_of_a_batch_as_advised(oracle):
    def fn(p, x):
        return p["w"].T @ x

    with pytest.raises(ConfigError, match=r"of one example x, jax.vmap\(fn, in_axes=\(None, 0\)\) makes one"):
        ns.ntk(fn, {"w": W}, X)
    oracle.agrees(jax.vmap(fn, in_axes=(None, 0)), {"w": W}, X)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        ({"w": W}, "fn must be a function fn.params, x.; given: dict. Try: the order fn, params, x"),
        (ns.Expert("mine", lambda v, x: x @ v["params"]["w"], {"w": W}), r"given: Expert. Try: lambda params, x: expert.apply_fn"),
    ],
    ids=["parameters", "an expert"],
)
def test_what_is_not_a_function_is_refused(fn, message):
    with pytest.raises(ConfigError, match=message):
        analyse(fn, {"w": W}, X)
