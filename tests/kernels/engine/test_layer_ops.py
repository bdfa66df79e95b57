"""Products, convolutions and embeddings in the form Y = X W equal the original operations."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from jax import lax

from ntk_select.kernels.engine import GeneralRouteWarning
from ntk_select.kernels.engine.layer_ops import Conv, Embedding, read_layer_op
from ntk_select.kernels.engine.program import evaluate, trace


def dot(contract, batch=((), ())):
    return partial(lax.dot_general, dimension_numbers=(contract, batch))


def conv(strides=(1, 1), padding="SAME", numbers=("NHWC", "HWIO", "NHWC"), **options):
    return partial(lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=numbers, **options)


# Name -> operation of two operands, shape of the first, shape of the second, which one is the weight.
DENSE = {
    "matrix": (dot(((1,), (0,))), (1, 4), (4, 3), 1),
    "transposed": (dot(((1,), (1,))), (1, 4), (3, 4), 1),
    "weight on the left": (dot(((0,), (1,))), (4, 3), (1, 4), 0),
    "weight on the left, transposed": (dot(((1,), (1,))), (3, 4), (1, 4), 0),
    "positions": (dot(((3,), (0,))), (1, 2, 3, 4), (4, 5), 1),
    "two axes contracted": (dot(((1, 3), (2, 0))), (1, 2, 3, 4), (4, 5, 2), 1),
    "two axes out": (dot(((1,), (1,))), (1, 4), (2, 4, 3), 1),
    "groups": (dot(((2,), (1,)), ((1,), (0,))), (1, 3, 4), (3, 4, 2), 1),
    "groups, weight on the left": (dot(((2,), (2,)), ((0,), (1,))), (3, 2, 4), (1, 3, 4), 0),
    "two axes of groups": (dot(((4,), (0,)), ((1, 3), (3, 1))), (1, 2, 5, 3, 4), (4, 3, 6, 2), 1),
    "weight on the left, all kinds of axes": (dot(((0, 2), (1, 3)), ((3,), (0,))), (4, 5, 2, 3), (3, 4, 1, 2, 6), 0),
    "outer product": (dot(((), ())), (1, 4), (3,), 1),
    "scale": (dot(((), ()), ((1,), (0,))), (1, 4), (4,), 1),
}
WCN, CHWN = ("NWC", "WIO", "NWC"), ("CHWN", "IHWO", "CHWN")
CONV = {
    "same": (conv(), (1, 5, 5, 2), (3, 3, 2, 3)),
    "valid": (conv(padding="VALID"), (1, 5, 6, 2), (3, 2, 2, 3)),
    "stride, odd sizes, same": (conv((2, 3)), (1, 7, 5, 2), (3, 3, 2, 3)),
    "uneven padding": (conv((2, 1), ((1, 2), (0, 3))), (1, 6, 5, 2), (3, 3, 2, 3)),
    "negative padding": (conv((1, 2), ((-1, 0), (2, -1))), (1, 6, 7, 2), (3, 3, 2, 3)),
    "dilated window": (conv(padding=((2, 2), (1, 3)), rhs_dilation=(2, 3)), (1, 6, 7, 2), (3, 3, 2, 3)),
    "dilated input": (conv(padding=((2, 1), (1, 1)), lhs_dilation=(2, 3)), (1, 3, 4, 2), (3, 3, 2, 3)),
    "dilated input, negative padding": (conv((2, 1), ((-2, 1), (1, -1)), lhs_dilation=(3, 2)), (1, 3, 4, 2), (3, 3, 2, 3)),
    "transposed convolution": (lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), (1, 3, 4, 2), (3, 3, 2, 3)),
    "groups": (conv((2, 2), feature_group_count=2), (1, 5, 5, 4), (3, 3, 2, 6)),
    "depthwise": (conv(feature_group_count=3), (1, 4, 4, 3), (3, 3, 1, 3)),
    "depthwise, two outputs a channel": (conv(padding="VALID", feature_group_count=3, rhs_dilation=(1, 2)), (1, 4, 6, 3), (2, 2, 1, 6)),
    "1x1": (conv(), (1, 4, 3, 2), (1, 1, 2, 3)),
    "1x1, stride 2": (conv((2, 2), "VALID"), (1, 5, 4, 2), (1, 1, 2, 3)),
    "one axis": (conv((2,), ((1, 0),), WCN), (1, 7, 2), (4, 2, 3)),
    "one axis, groups": (conv((1,), "SAME", WCN, feature_group_count=2), (1, 5, 4), (3, 2, 4)),
    "three axes": (conv((1, 2, 1), "SAME", ("NDHWC", "DHWIO", "NDHWC")), (1, 3, 4, 2, 2), (2, 3, 2, 2, 3)),
    "no axis": (conv((), (), ("NC", "IO", "NC")), (1, 4), (4, 3)),
    "channels first": (conv((2, 1), "SAME", ("NCHW", "OIHW", "NCHW")), (1, 2, 5, 4), (3, 2, 3, 3)),
    "examples last, groups": (conv((1, 2), "SAME", CHWN, feature_group_count=2), (4, 5, 4, 1), (2, 3, 3, 6)),
    "input and output laid out differently": (conv((1, 1), "SAME", ("NHWC", "OHWI", "NCHW")), (1, 4, 3, 2), (3, 3, 3, 2)),
    "window larger than the input": (conv((2, 1), ((2, 3), (1, 2))), (1, 2, 3, 2), (5, 5, 2, 3)),
    "window larger than the input, groups": (conv((1, 1), ((2, 2), (1, 1)), feature_group_count=2), (1, 2, 2, 4), (5, 3, 2, 6)),
    "taps that meet only padding": (conv((4, 3), ((3, 0), (2, 2))), (1, 2, 1, 2), (4, 4, 2, 3)),
    "taps that meet only what is put between": (conv((2, 2), ((0, 0), (0, 0)), lhs_dilation=(2, 2)), (1, 3, 4, 2), (3, 2, 2, 3)),
    "several images in one example": (conv((2, 2)), (3, 5, 4, 2), (3, 3, 2, 3)),
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("quickly")
CASES = DENSE | {name: (*case, 1) for name, case in CONV.items()}


def read(oracle, operation, first, second, position):
    """The operation as a function of example and weight, these two, how it uses the weight, and random cotangents."""
    operands = [oracle.draw(*first, seed=1), oracle.draw(*second, seed=2)]
    x, w = operands[1 - position], operands[position]

    def on(x, w):
        return operation(w, x) if position == 0 else operation(x, w)

    program, _ = trace(lambda leaves, x: on(x, leaves[0]), [w], x)
    (eqn,) = [eqn for eqn in program.eqns if eqn.name in ("dot_general", "conv_general_dilated")]
    ct = oracle.draw(*program.avals[eqn.outvars[0]].shape, seed=3)
    return on, x, w, read_layer_op(eqn, 1 - position, program.avals), ct


def check(oracle, *case):
    """X' G is what reverse mode gives for the weight, for random cotangents."""
    on, x, w, op, ct = read(oracle, *case)
    convolution = isinstance(op, Conv)
    whole = replace(op, every=True) if convolution else op

    @partial(jax.jit, compiler_options=oracle.QUICKLY)
    def both(x, w, ct):
        y, pull = jax.vjp(partial(on, x), w)
        patches, left = whole.patches(x), op.outputs(ct)
        product = op.product(x, w) if op.window_exceeds_input else y
        return pull(ct)[0], whole.weight(patches.swapaxes(1, 2) @ left), patches, left, y, product, op.patches(x)

    expected, given, every, left, y, product, patches = map(np.asarray, both(x, w, ct))
    oracle.close(given, expected)
    oracle.close(product, y)
    assert every.shape == (len(left), op.positions, whole.width_in)
    assert left.shape[1:] == (op.positions, op.width_out)
    assert len(left) * whole.width_in * op.width_out == w.size
    if convolution:
        # What is left out has no gradient.
        alive = [whole.live.index(tap) for tap in op.live]
        by_tap = every.reshape(len(left), op.positions, whole.taps, -1)
        np.testing.assert_array_equal(patches, by_tap[:, :, alive].reshape(patches.shape))
        assert not np.delete(by_tap, alive, axis=2).any()


@pytest.mark.parametrize("name", CASES)
def test_inputs_times_cotangents_are_what_reverse_mode_gives(oracle, name):
    check(oracle, *CASES[name])


@pytest.mark.parametrize("name", ["dilated input", "groups", "examples last, groups", "window larger than the input"])
def test_one_tap_of_the_window_is_its_part_of_the_inputs(oracle, name):
    _, x, _, op, _ = read(oracle, *CASES[name])
    parts, whole = jax.jit(lambda x, numbers: ([op.patches_of_tap(x, number) for number in numbers], op.patches(x)))(x, list(range(op.taps)))
    np.testing.assert_array_equal(np.concatenate(parts, -1), whole)


def test_taps_that_meet_only_padding_are_left_out():
    program, _ = trace(lambda leaves, x: conv((1, 1), ((2, 2), (2, 2)))(x, leaves[0]), [np.ones((5, 5, 2, 3))], np.ones((1, 1, 2, 2)))
    op = read_layer_op(program.eqns[-1], 0, program.avals)
    assert op.window_exceeds_input
    assert op.live == tuple((2, column) for column in (1, 2, 3))
    assert replace(op, every=True).taps == 25


@pytest.mark.parametrize("space", ["parameter", "sample"])
def test_a_convolution_that_sees_nothing_but_padding_has_a_kernel_of_zeros(oracle, space):
    def fn(p, x):
        return (conv((2,), ((1, 0),), WCN)(x, p["w"]).sum(1) + x.sum(1)) @ p["v"]

    oracle.agrees(fn, {"w": oracle.draw(1, 2, 2), "v": oracle.draw(2, 3)}, oracle.draw(3, 1, 2), spaces=(space,))


def sees_something(size, window, stride, outside, inside, padding, extent):
    """Whether any position of the window meets an entry of the input, along one axis."""
    places = {position * stride - padding[0] + tap * outside for position in range(extent // stride + 1) for tap in range(window)}
    return bool(places & set(range(0, (size - 1) * inside + 1, inside)))


@pytest.mark.slow
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(st.data())
def test_inputs_times_cotangents_of_any_convolution(oracle, data):
    axes = data.draw(st.integers(1, 3))
    few = lambda low, high: tuple(data.draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))  # noqa: E731
    size, window, strides, dilation, inner = few(1, 5), few(1, 3), few(1, 3), few(1, 3), few(1, 3)
    padding = tuple(zip(few(-1, 3), few(-1, 3), strict=True))
    groups, ins, outs = (data.draw(st.integers(1, 3)) for _ in range(3))
    extents = [
        (i - 1) * inside + 1 + sum(pad) - (w - 1) * outside - 1
        for i, inside, pad, w, outside in zip(size, inner, padding, window, dilation, strict=True)
    ]
    assume(min(extents) >= 0)
    assume(all((i - 1) * inside + 1 + sum(pad) > 0 for i, inside, pad in zip(size, inner, padding, strict=True)))
    seen = zip(size, window, strides, dilation, inner, padding, extents, strict=True)
    assume(all(sees_something(*axis) for axis in seen))
    orders = [data.draw(st.permutations("HWD"[:axes] + pair)) for pair in ("NC", "IO", "NC")]
    letters = [letter for letter in orders[1] if letter in "HWD"]  # strides and padding follow the weight's axes
    extent = {"N": 1, "C": groups * ins, "I": ins, "O": groups * outs}
    shapes = [
        tuple((dict(zip(letters, spatial, strict=True)) | extent)[letter] for letter in order)
        for order, spatial in zip(orders[:2], (size, window), strict=True)
    ]
    numbers = lax.conv_dimension_numbers(*shapes, tuple("".join(order) for order in orders))
    operation = conv(strides, padding, numbers, lhs_dilation=inner, rhs_dilation=dilation, feature_group_count=groups)
    check(oracle, operation, *shapes, 1)


TABLES = {
    "rows": (lambda t, i: t[i], (5, 3), (1, 4)),
    "one row": (lambda t, i: t[i], (5, 3), (1,)),
    "rows of matrices": (lambda t, i: t[i], (5, 3, 2), (1, 2, 2)),
    "rows, clipped": (lambda t, i: jnp.take(t, i, axis=0, mode="clip"), (5, 3), (1, 4)),
    "rows, filled": (lambda t, i: jnp.take(t, i, axis=0, mode="fill"), (5, 3), (1, 4)),
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_table_times_cotangents_are_what_reverse_mode_gives(oracle, name):
    on, table, indices = TABLES[name]
    table, indices = oracle.draw(*table), np.random.default_rng(0).integers(-2, 7, indices)
    program, _ = trace(lambda leaves, i: on(leaves[0], i), [table], indices)
    (eqn,) = [eqn for eqn in program.eqns if eqn.name == "gather"]
    op = read_layer_op(eqn, 1, program.avals)
    assert isinstance(op, Embedding)
    env, output = evaluate(program, (), [table, indices]), jax.eval_shape(on, table, indices)
    ct = oracle.draw(*output.shape, seed=3)
    entered = env[eqn.invars[1]]
    filled = np.asarray(op.rows(entered) >= 0) & np.asarray(op.rows(entered) < op.width_in)
    left = op.outputs(ct) * filled[None, :, None]
    oracle.close(op.weight(op.patches(entered).swapaxes(1, 2) @ left), np.asarray(jax.vjp(lambda t: on(t, indices), table)[1](ct)[0]))


@pytest.mark.parametrize(
    "on",
    [
        lambda t, i: t[:, i],
        lambda t, i: t[i, 0],
        lambda t, i: t[i, i],
        lambda t, i: jax.lax.dynamic_slice(t, (i[0], 0), (2, 3)),
        lambda t, i: jax.vmap(lambda row, k: row[k], in_axes=(1, None))(t, i[0]),
    ],
    ids=["columns", "entries", "pairs", "slices", "batched"],
)
def test_what_takes_no_whole_rows_is_no_embedding(oracle, on):
    program, _ = trace(lambda leaves, i: on(leaves[0], i), [oracle.draw(3, 3)], np.zeros(2, int))
    for eqn in program.eqns:
        assert not isinstance(read_layer_op(eqn, 1, program.avals) if len(eqn.invars) == 2 else None, Embedding)


def test_a_weight_that_depends_on_the_example_is_no_layer_operation(oracle):
    program, _ = trace(lambda leaves, x: conv()(leaves[0], x), [oracle.draw(1, 5, 5, 2)], oracle.draw(3, 3, 2, 3))
    assert read_layer_op(program.eqns[-1], 1, program.avals) is None


def products(params, x):
    """Heads, a weight on the left, a product over two axes."""
    h = jnp.tanh(jnp.einsum("nsd,hde->nhse", x, params["heads"]))
    h = jnp.tanh(jnp.einsum("so,nhse->nhoe", params["positions"], h))
    h = jnp.tanh(jnp.einsum("noe,eho->nh", h.sum(1), params["two"]))
    return (params["left"] @ h.T).T + jnp.einsum("nh,hc->nc", h, params["head"])


def convolutions(params, x):
    """A convolution with groups, a depthwise one, a transposed one, one with a dilated window, channels first and last."""
    h = jnp.tanh(conv((2, 1), ((1, 0), (-1, 2)), feature_group_count=2)(x, params["groups"]))
    h = jnp.tanh(conv(padding="VALID", feature_group_count=4)(h, params["depthwise"]))
    h = jnp.tanh(lax.conv_transpose(h, params["transposed"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    h = jnp.tanh(conv((1, 1), ((2, 2), (2, 2)), rhs_dilation=(2, 2))(h, params["dilated"]))
    h = jnp.tanh(conv((2, 2), "VALID", ("NCHW", "OIHW", "NHWC"))(h.transpose(0, 3, 1, 2), params["pointwise"]))
    return h.mean((1, 2)) @ params["head"]


def test_kernels_of_products_equal_explicit_gradients(oracle):
    shapes = {"heads": (2, 4, 3), "positions": (5, 2), "two": (3, 4, 2), "left": (2, 4), "head": (4, 2)}
    params = {name: oracle.draw(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    x = oracle.draw(3, 5, 4)
    assert set(oracle.kinds(products, params, x).values()) == {"dense"}
    oracle.agrees(products, params, x)


def test_kernels_of_convolutions_equal_explicit_gradients(oracle):
    shapes = {
        "groups": (3, 3, 2, 4),
        "depthwise": (2, 2, 1, 8),
        "transposed": (3, 2, 8, 3),
        "dilated": (3, 3, 3, 4),
        "pointwise": (3, 4, 1, 1),
        "head": (3, 2),
    }
    params = {name: oracle.draw(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    x = oracle.draw(3, 7, 6, 4)
    assert oracle.kinds(convolutions, params, x) == dict.fromkeys(shapes, "conv") | {"head": "dense"}
    oracle.agrees(convolutions, params, x)


def test_a_convolution_with_groups_of_examples_takes_the_general_route(oracle):
    def fn(params, x):
        groups = x.reshape(len(x), 2, 2, 3, 3, 2).swapaxes(0, 1).reshape(-1, 3, 3, 2)
        h = conv(batch_group_count=2)(groups, params["w"]).reshape(len(x), 2, 3, 3, 4)
        return jnp.tanh(h).sum((2, 3))[:, 0] @ params["v"]

    params = {"w": oracle.draw(3, 3, 2, 4), "v": oracle.draw(4, 2)}
    with pytest.warns(GeneralRouteWarning, match=r"w \(used by conv_general_dilated\)"):
        oracle.agrees(fn, params, oracle.draw(3, 4, 3, 3, 2))
