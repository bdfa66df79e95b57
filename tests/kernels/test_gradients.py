"""Every route of the gradient kernel equals explicit Jacobians in float64, on every kind of network ending."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.expert import Expert
from ntk_select.kernels.engine import costs
from ntk_select.kernels.engine.execute import kernel_of_op
from ntk_select.kernels.engine.layer_ops import conv_op
from ntk_select.kernels.engine.ntk import ntk
from ntk_select.kernels.gradients import expert_inputs, gradient_kernel, narrow_inputs
from ntk_select.models.architectures import make_expert
from ntk_select.scores.lgc import lgc

pytestmark = pytest.mark.usefixtures("quickly")

SMALL = {
    "resnet basic": ("resnet18", 20, {"stage_sizes": (1, 1), "widths": (4, 6), "stem": "small"}),
    "resnet bottleneck": ("resnet50", 16, {"stage_sizes": (1, 2), "widths": (4, 6), "stem": "small_strided"}),
    "densenet": ("densenet121", 33, {"block_sizes": (2, 3), "growth": 4, "initial": 6}),
    "densenet small": ("densenet_small", 16, {"block_sizes": (1, 2), "growth": 4, "initial": 6}),
}


@pytest.fixture(scope="module", params=[name if name == "resnet basic" else pytest.param(name, marks=pytest.mark.nightly) for name in SMALL])
def ending(request, random_expert):
    return random_expert(*SMALL[request.param], classes=4, examples=7)


@pytest.fixture(scope="module")
def alexnet(random_expert):
    return random_expert("alexnet", 63, {"hidden": 16}, classes=4, examples=7)


def explicit_jacobian(fn, params, x):
    """The Jacobian (n, c, p) of all outputs, one example after the other."""
    one = jax.jit(jax.jacrev(lambda p, example: fn(p, example[None])[0]))
    rows = []
    for example in x:
        leaves = jax.tree.leaves(one(params, example))
        rows.append(np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1))
    return np.stack(rows)


def last_conv_function(expert, fn):
    """fn of the last convolution's kernel alone."""

    def call(kernel, x):
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: kernel if tuple(k.key for k in path) == expert.last_conv.path else leaf, expert.params
        )
        return fn({"params": params, **expert.state}, x)

    kernel = expert.params
    for key in expert.last_conv.path:
        kernel = kernel[key]
    return call, kernel


def expected_kernel(jacobian, outputs):
    if isinstance(outputs, str) and outputs in ("trace", "features"):
        return np.einsum("icp,jcp->ij", jacobian, jacobian) / jacobian.shape[1]
    n, c, _ = jacobian.shape
    weights = np.ones((n, c)) if isinstance(outputs, str) else np.broadcast_to(outputs, (n, c))
    rows = np.einsum("icp,ic->ip", jacobian, weights)
    return rows @ rows.T


OUTPUTS = ["trace", "sum", "features", np.array([1.0, -2.0, 0.5, 0.0]), np.random.default_rng(3).normal(size=(7, 4))]


@pytest.mark.parametrize("outputs", OUTPUTS, ids=["trace", "sum", "features", "cotangent", "cotangents"])
def test_pooled_last_convolution_equals_explicit_jacobians(ending, outputs):
    expert, x = ending
    fn = expert.features_fn if isinstance(outputs, str) and outputs == "features" else expert.apply_fn
    expected = expected_kernel(explicit_jacobian(*last_conv_function(expert, fn), x), outputs)
    got = gradient_kernel(expert, x, outputs=outputs, batch_size=3)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_a_pooled_last_convolution_of_some_of_the_channels_equals_explicit_jacobians(random_expert):
    expert, x = random_expert(*SMALL["densenet small"], classes=4, examples=7)
    expected = expected_kernel(explicit_jacobian(*last_conv_function(expert, expert.apply_fn), x), "trace")
    np.testing.assert_allclose(gradient_kernel(expert, x, batch_size=3), expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.nightly
@pytest.mark.parametrize("outputs", OUTPUTS, ids=["trace", "sum", "features", "cotangent", "cotangents"])
def test_alexnet_ending_equals_explicit_jacobians(alexnet, outputs):
    expert, x = alexnet
    x = x[:4]
    outputs = outputs[:4] if getattr(outputs, "ndim", 0) == 2 else outputs
    fn = expert.features_fn if isinstance(outputs, str) and outputs == "features" else expert.apply_fn
    expected = expected_kernel(explicit_jacobian(*last_conv_function(expert, fn), x), outputs)
    got = gradient_kernel(expert, x, outputs=outputs, batch_size=3)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_the_engine_equals_the_pooled_route(ending):
    expert, x = ending
    of_last = "/".join(("params", *expert.last_conv.path)).__eq__
    np.testing.assert_allclose(ntk(expert.apply_fn, expert.variables, x, layers=of_last), gradient_kernel(expert, x), rtol=1e-11)


@pytest.mark.parametrize("layers", ["bn|norm", pytest.param("all", marks=pytest.mark.nightly), pytest.param("kernel$", marks=pytest.mark.nightly)])
def test_any_layers_equal_explicit_jacobians(layers, random_expert):
    import re

    expert, x = random_expert("resnet18", 8, {"stage_sizes": (1, 1), "widths": (3, 4), "stem": "small"}, classes=4, examples=7)
    flat, treedef = jax.tree_util.tree_flatten_with_path(expert.params)
    names = ["/".join(k.key for k in path) for path, _ in flat]
    chosen = [i for i, name in enumerate(names) if layers == "all" or re.search(layers, name)]

    def fn(some, x):
        leaves = [leaf for _, leaf in flat]
        for i, leaf in zip(chosen, some, strict=True):
            leaves[i] = leaf
        return expert.apply_fn({"params": jax.tree.unflatten(treedef, leaves), **expert.state}, x)

    expected = expected_kernel(explicit_jacobian(fn, [flat[i][1] for i in chosen], x), "trace")
    np.testing.assert_allclose(gradient_kernel(expert, x, layers=layers, batch_size=4), expected, rtol=0, atol=1e-10 * expected.max())


def test_plain_function_and_restricted_path_without_taps(ending):
    expert, x = ending
    bare = Expert("bare", expert.apply_fn, expert.params, expert.state, last_conv=expert.last_conv.path)
    np.testing.assert_allclose(gradient_kernel(bare, x), gradient_kernel(expert, x), rtol=1e-9)
    headless = Expert("headless", expert.apply_fn, expert.params, expert.state, features_fn=expert.features_fn, last_conv=expert.last_conv.path)
    np.testing.assert_allclose(gradient_kernel(headless, x, outputs="features"), gradient_kernel(expert, x, outputs="features"), rtol=1e-9)


def test_linear_model_has_the_closed_form(rng):
    x, w = rng.normal(size=(9, 5)), rng.normal(size=(5, 3))
    kernel = gradient_kernel(lambda p, x: x @ p["w"], x, params={"w": w}, layers="all")
    np.testing.assert_allclose(kernel, x @ x.T, rtol=1e-12)
    assert lgc(lambda p, x: x @ p["w"], x, np.arange(9) % 3, params={"w": w}, layers="w") == pytest.approx(
        np.corrcoef((x @ x.T).ravel(), np.where(np.subtract.outer(np.arange(9) % 3, np.arange(9) % 3) == 0, 1, -1).ravel())[0, 1], abs=1e-12
    )


def test_lgc_of_the_head_alone_is_lfc_plus_the_bias(ending):
    """For the head's kernel the gradient kernel is the feature kernel (erratum E10 of the paper)."""
    expert, x = ending
    from ntk_select.scores.lfc import lfc

    labels = np.arange(7) % 3
    features = np.asarray(jax.jit(expert.features_fn)(expert.variables, x))
    pattern = f"^{expert.head[0]}/kernel$"
    assert lgc(expert, x, labels, layers=pattern) == pytest.approx(lfc(features, labels), abs=1e-10)


def test_lgc_is_the_correlation_of_the_explicit_kernel_with_the_labels(ending):
    expert, x = ending
    labels = np.arange(7) % 3
    jacobian = explicit_jacobian(*last_conv_function(expert, expert.apply_fn), x)
    kernel = np.einsum("icp,jcp->ij", jacobian, jacobian)
    target = np.where(labels[:, None] == labels[None], 1.0, -1.0)
    assert lgc(expert, x, labels) == pytest.approx(np.corrcoef(kernel.ravel(), target.ravel())[0, 1], abs=1e-10)
    off = ~np.eye(7, dtype=bool)
    assert lgc(expert, x, labels, diagonal=False) == pytest.approx(np.corrcoef(kernel[off], target[off])[0, 1], abs=1e-10)


@pytest.mark.nightly
def test_lgc_of_an_alexnet_ending_is_the_correlation_of_the_explicit_kernel(alexnet):
    expert, x = alexnet
    jacobian = explicit_jacobian(*last_conv_function(expert, expert.apply_fn), x)
    kernel, labels = np.einsum("icp,jcp->ij", jacobian, jacobian), np.arange(7) % 3
    target = np.where(labels[:, None] == labels[None], 1.0, -1.0)
    assert lgc(expert, x, labels) == pytest.approx(np.corrcoef(kernel.ravel(), target.ravel())[0, 1], abs=1e-10)


def test_float32_agrees_with_float64(ending):
    expert, x = ending
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (expert.params, expert.state))
    low = make_expert("low", expert.apply_fn.module, {"params": single[0], **single[1]})
    exact = gradient_kernel(expert, x)
    np.testing.assert_allclose(gradient_kernel(low, x.astype(np.float32)), exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def test_kernel_does_not_depend_on_batch_size_or_order(ending, rng):
    expert, x = ending
    kernel, order = gradient_kernel(expert, x, batch_size=7), rng.permutation(7)
    np.testing.assert_allclose(gradient_kernel(expert, x[order], batch_size=2), kernel[np.ix_(order, order)], rtol=1e-9, atol=1e-12 * kernel.max())


def test_one_reverse_pass_gives_the_quadratic_form(ending, rng):
    """v' Theta v is the squared norm of the gradient of sum_i v_i f(x_i)."""
    expert, x = ending
    v, direction = rng.normal(size=7), rng.normal(size=4)
    call, kernel = last_conv_function(expert, expert.apply_fn)
    gradient = jax.jit(jax.grad(lambda k: v @ (call(k, x) @ direction)))(kernel)
    assert v @ gradient_kernel(expert, x, outputs=direction) @ v == pytest.approx(float((gradient**2).sum()), rel=1e-10)


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "m"), [(6, 3, 1, 1, 1), (6, 3, 2, 1, 2), (5, 1, 1, 0, 3), (1, 3, 1, 1, 1), (7, 2, 3, 0, 1)]
)
@pytest.mark.parametrize("space", ["parameter", "sample", "parameter, in blocks"])
def test_the_kernel_of_a_convolution_equals_its_vjp(rng, monkeypatch, size, window, stride, padding, m, space):
    if "blocks" in space:
        monkeypatch.setattr(costs, "CPU", replace(costs.CPU, positions=4, formed=600, multiplied=600))
    x, kernel = rng.normal(size=(5, size, size, 4)), rng.normal(size=(window, window, 4, 3))
    convolve = partial(
        jax.lax.conv_general_dilated, window_strides=(stride, stride), padding=((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out = convolve(x, kernel)
    cotangents = rng.normal(size=(5, m, *out.shape[1:]))
    pull = jax.jit(lambda example, cotangent: jax.vjp(lambda k: convolve(example[None], k), kernel)[1](cotangent[None])[0])
    gradients = np.array([[pull(x[i], cotangents[i, j]) for j in range(m)] for i in range(5)])
    flat = gradients.reshape(5, m, -1)
    expected = np.einsum("imp,jmp->ij", flat, flat)
    op = conv_op(x.shape[1:], kernel.shape, strides=(stride, stride), padding=((padding, padding),) * 2)
    got = kernel_of_op(op, jnp.asarray(x), jnp.asarray(cotangents), space=space.partition(",")[0])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": "traces"}, ConfigError, "Did you mean 'trace'"),
        ({"outputs": np.ones(3)}, ConfigError, r"allowed are \(4,\) and \(7, 4\)"),
        ({"layers": "nothing_like_it"}, ConfigError, "matches no parameter"),
        ({"layers": "("}, ConfigError, "not a regular expression"),
    ],
)
def test_unknown_options_are_refused(ending, options, error, message):
    expert, x = ending
    with pytest.raises(error, match=message):
        gradient_kernel(expert, x, **options)


def test_what_an_expert_lacks_is_said(ending):
    expert, x = ending
    parts = {"params": expert.params, "state": expert.state}
    with pytest.raises(ModelError, match="has no last_conv"):
        gradient_kernel(Expert("bare", expert.apply_fn, **parts), x)
    with pytest.raises(ModelError, match="no features_fn"):
        gradient_kernel(Expert("bare", expert.apply_fn, **parts), x, layers="all", outputs="features")
    headless = Expert("headless", expert.apply_fn, **parts, last_conv=expert.last_conv, taps_fn=expert.taps_fn)
    with pytest.raises(ModelError, match="has no head"):
        gradient_kernel(headless, x)
    np.testing.assert_allclose(gradient_kernel(headless, x, outputs="features"), gradient_kernel(expert, x, outputs="features"), rtol=1e-12)


def test_functions_need_parameters_and_layers(rng):
    x = rng.normal(size=(3, 2))
    with pytest.raises(ConfigError, match="needs its parameters"):
        gradient_kernel(lambda p, x: x, x)
    with pytest.raises(ConfigError, match="The last convolution of a function is unknown.*layers='all'"):
        gradient_kernel(lambda p, x: x * p, x, params=np.ones(2))
    with pytest.raises(ConfigError, match="no separate features"):
        gradient_kernel(lambda p, x: x * p, x, params=np.ones(2), layers="all", outputs="features")


def test_fewer_pre_logits_than_logits_have_the_same_kernel(rng):
    """A network with 4 pre-logits and 9 logits: 4 combinations instead of 9, and the last block where there is no convolution."""

    def features(variables, x):
        return jnp.tanh(jnp.tanh(x @ variables["params"]["first"]["kernel"]) @ variables["params"]["last"]["kernel"])

    def logits(variables, x):
        return features(variables, x) @ variables["params"]["fc"]["kernel"]

    params = {name: {"kernel": rng.normal(size=shape)} for name, shape in (("first", (5, 6)), ("last", (6, 4)), ("fc", (4, 9)))}
    expert, x = Expert("mlp", logits, params, features_fn=features, head="fc", last_block="last"), rng.normal(size=(7, 5))
    fn, variables, _, chosen = narrow_inputs(expert, "last_conv", "trace")
    assert jax.eval_shape(fn, variables, x).shape == (7, 4)
    rows = explicit_jacobian(lambda kernel, x: logits({"params": {**params, "last": {"kernel": kernel}}}, x), params["last"]["kernel"], x)
    expected = np.einsum("icp,jcp->ij", rows, rows) / 9
    np.testing.assert_allclose(gradient_kernel(expert, x), expected, rtol=1e-10)
    np.testing.assert_allclose(ntk(fn, variables, x, layers=chosen), expected, rtol=1e-10)
    for layers, outputs in (("all", "trace"), ("fc", "trace"), ("last_conv", "sum"), ("last_conv", "features")):
        assert narrow_inputs(expert, layers, outputs)[0] is expert_inputs(expert, layers, outputs)[0]
    wide = Expert("wide", logits, params | {"fc": {"kernel": rng.normal(size=(4, 3))}}, features_fn=features, head="fc", last_block="last")
    assert narrow_inputs(wide, "last_conv", "trace")[0] is logits
