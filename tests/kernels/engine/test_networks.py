"""Kernels of whole networks: Flax linen and nnx, each family of models/, folded norms, full size."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntk_select as ns
from ntk_select.models.architectures import build, initialise, make_expert

SMALL = {
    "resnet basic": ("resnet18", 8, {"stage_sizes": (1, 1), "widths": (3, 4), "stem": "small"}),
    "resnet bottleneck": ("resnet50", 9, {"stage_sizes": (1, 1), "widths": (2, 3), "stem": "small_strided"}),
    "densenet": ("densenet121", 33, {"block_sizes": (1, 2), "growth": 3, "initial": 4, "bottleneck": 2}),
    "alexnet": ("alexnet", 63, {"hidden": 5}),
}


def of_params(expert):
    """The expert's function of its parameters alone."""
    return lambda params, x: expert.apply_fn({"params": params, **expert.state}, x)


@pytest.mark.parametrize("family", [pytest.param(family, marks=() if family == "resnet basic" else pytest.mark.slow) for family in SMALL])
def test_kernels_of_all_layers_equal_explicit_gradients(oracle, quickly, family, random_expert):
    """The variables hold batch statistics in addition to params/, which the predicate leaves out."""
    expert, x = random_expert(*SMALL[family])
    expected = oracle.jacobians(of_params(expert), expert.params, x)
    for space in (None,) if family == "resnet basic" else ("parameter", "sample"):
        kernels = ns.ntk(
            expert.apply_fn, expert.variables, x, outputs="full", layers=lambda name: name.startswith("params/"), by_layer=True, space=space
        )
        assert list(kernels) == [f"params/{name}" for name in expected]
        for name, jacobian in expected.items():
            oracle.close(kernels[f"params/{name}"], oracle.paired(jacobian))


@pytest.mark.slow
def test_parameters_alone_and_variables_with_a_pattern_are_the_same_question(oracle, quickly, random_expert):
    expert, x = random_expert(*SMALL["resnet basic"])
    alone = ns.ntk(of_params(expert), expert.params, x)
    oracle.close(ns.ntk(expert.apply_fn, expert.variables, x, layers="^params/"), alone)
    # Batch statistics are no parameters: with them the kernel is another.
    assert np.abs(ns.ntk(expert.apply_fn, expert.variables, x, layers="") - alone).max() > 1e-3 * np.abs(alone).max()
    np.testing.assert_allclose(
        ns.ntk(expert.apply_fn, expert.variables, x, layers="/".join(("params", *expert.last_conv.path))), ns.gradient_kernel(expert, x), rtol=1e-10
    )


@pytest.mark.slow
def test_a_quadratic_form_of_a_network_is_the_norm_of_one_gradient(oracle, random_expert):
    """Compiled as users compile, in float32: v' Theta v = || grad of sum v_ic f_c(x_i) ||^2."""
    expert, x = random_expert(*SMALL["resnet bottleneck"])
    params, state = jax.tree.map(partial(np.asarray, dtype=np.float32), (expert.params, expert.state))
    fn, x = lambda p, x: expert.apply_fn({"params": p, **state}, x), x.astype(np.float32)
    v = oracle.draw(3, 2).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda p: (v * fn(p, x)).sum()))(params)
    expected = sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in jax.tree.leaves(gradient))
    kernel = ns.ntk(fn, params, x, outputs="full")
    assert kernel.dtype == np.float32
    assert np.einsum("ia,ijab,jb", v, kernel.astype(np.float64), v) == pytest.approx(expected, rel=1e-4)
    assert ns.certify(kernel).smallest > 0


# Flax.


class Normed(nn.Module):
    """Batch norm in evaluation mode, group norm, layer norm, a grouped and a transposed convolution, dropout."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), feature_group_count=2, param_dtype=jnp.float64)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, param_dtype=jnp.float64)(x))
        x = nn.ConvTranspose(4, (2, 2), strides=(2, 2), param_dtype=jnp.float64)(x)
        x = nn.silu(nn.GroupNorm(2, param_dtype=jnp.float64)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1, 4)
        x = nn.LayerNorm(param_dtype=jnp.float64)(x)
        x = nn.gelu(nn.Dense(5, param_dtype=jnp.float64)(x)).mean(1)
        return nn.Dense(2, param_dtype=jnp.float64)(nn.Dropout(0.5, deterministic=True)(x))


@pytest.mark.slow
def test_norms_of_linen_are_differentiated_by_their_parameters(oracle, quickly):
    module, x, rng = Normed(), oracle.draw(3, 4, 4, 2), np.random.default_rng(1)
    variables = jax.jit(module.init)(jax.random.key(0), x[:1])
    params, state = jax.tree.map(lambda leaf: np.asarray(leaf) + rng.uniform(0.1, 0.5, leaf.shape), (variables["params"], variables["batch_stats"]))
    fn = lambda p, x: module.apply({"params": p, "batch_stats": state}, x)  # noqa: E731
    kinds = oracle.kinds(fn, params, x)
    assert {name.partition("_")[0]: kind for name, kind in kinds.items() if "kernel" in name} == {
        "Conv": "conv",
        "ConvTranspose": "conv",
        "Dense": "dense",
    }
    assert {kind for name, kind in kinds.items() if "scale" in name or "bias" in name} == {"elementwise"}
    oracle.agrees(fn, params, x)


class Cell(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs, param_dtype=jnp.float64)
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs, param_dtype=jnp.float64)
        self.head = nnx.Linear(3, 2, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def test_modules_of_nnx_are_split_and_merged(oracle, quickly):
    graph, params, rest = nnx.split(Cell(nnx.Rngs(0)), nnx.Param, ...)
    fn, x = lambda p, x: nnx.merge(graph, p, rest)(x), oracle.draw(3, 4, 4, 2)
    assert set(oracle.kinds(fn, params, x).values()) == {"conv", "dense", "elementwise"}
    oracle.agrees(fn, params, x)


# The same function with other parameters has another kernel.


@pytest.mark.nightly
def test_folding_a_norm_into_a_convolution_scales_its_kernel_channel_by_channel(oracle, quickly):
    """y = g (conv(x, w) - mean) / s + b, with folded weights w' = w g / s and b' = b - mean g / s.

    The same function; but d/dw = (g / s) d/dw' channel by channel, d/db = d/db', and the gain has a kernel of its own:
    d/dg = sum over w' of w' / g d/dw', minus mean / s d/db'.
    """
    rng = np.random.default_rng(2)
    p = {"w": rng.normal(size=(3, 3, 2, 4)), "gain": rng.uniform(0.5, 2, 4), "shift": rng.normal(size=4), "head": rng.normal(size=(4, 2))}
    mean, deviation, x = rng.normal(size=4), rng.uniform(0.1, 3, 4), rng.normal(size=(4, 5, 5, 2))
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def plain(p, x):
        h = (convolve(x, p["w"]) - mean) * (p["gain"] / deviation) + p["shift"]
        return jnp.tanh(h).mean((1, 2)) @ p["head"]

    def folded(p, x):
        return jnp.tanh(convolve(x, p["w"]) + p["shift"]).mean((1, 2)) @ p["head"]

    factor = p["gain"] / deviation
    q = {"w": p["w"] * factor, "shift": p["shift"] - mean * factor, "head": p["head"]}
    oracle.close(np.asarray(folded(q, x)), np.asarray(plain(p, x)))
    before, after = (ns.ntk(fn, params, x, outputs="sum", by_layer=True) for fn, params in ((plain, p), (folded, q)))
    oracle.close(before["shift"], after["shift"])
    oracle.close(before["head"], after["head"])
    assert np.abs(before["w"] - after["w"]).max() > 0.1 * np.abs(after["w"]).max()

    def channel(c):
        """The folded function of the weights of one channel."""

        def fn(one, x):
            w = jax.lax.dynamic_update_slice_in_dim(jnp.asarray(q["w"]), one["w"], c, 3)
            return folded({**q, "w": w, "shift": jnp.asarray(q["shift"]).at[c].set(one["b"][0])}, x)

        return fn, {"b": q["shift"][c : c + 1], "w": q["w"][..., c : c + 1]}

    channels = [ns.ntk(*channel(c), x, outputs="sum", by_layer=True)["w"] for c in range(4)]
    oracle.close(sum(channels), after["w"])
    oracle.close(sum(f**2 * kernel for f, kernel in zip(factor, channels, strict=True)), before["w"])
    rows = oracle.jacobians(folded, q, x)
    rows = {name: rows[name].sum(1) for name in ("w", "shift")}
    gains = (rows["w"].reshape(4, -1, 4) * q["w"].reshape(-1, 4)).sum(1) / p["gain"] - rows["shift"] * mean / deviation
    # The mean is taken away before the gain: d/dg = sum of (conv - mean) / s.
    oracle.close(before["gain"], gains @ gains.T, 1e-11)


# Full size.


@pytest.mark.slow
def test_a_quadratic_form_of_resnet50_at_224_pixels_is_the_norm_of_one_gradient():
    module, rng = build("resnet50", num_classes=1000), np.random.default_rng(0)

    def leaf(path, shape):
        if path[-1].key == "kernel":
            return (rng.normal(size=shape.shape) * np.sqrt(2 / np.prod(shape.shape[:-1]))).astype(np.float32)
        return np.full(shape.shape, 0.0 if path[-1].key in ("bias", "mean") else 0.5, np.float32)

    variables = jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(partial(initialise, module, size=224), jax.random.key(0)))
    expert = make_expert("resnet50", module, variables)
    fn, x = of_params(expert), rng.normal(size=(4, 224, 224, 3)).astype(np.float32)
    v, classes = rng.normal(size=4), rng.normal(size=1000).astype(np.float32)
    plan = ns.ntk_plan(fn, expert.params, x, outputs=classes, memory_gb=4)
    assert plan.peak_bytes < 4e9
    kernel = ns.ntk(fn, expert.params, x, outputs=classes, memory_gb=4)
    gradient = jax.jit(jax.grad(lambda p, x, v: v @ (fn(p, x) @ classes)))
    total = sum(
        np.concatenate(
            [np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(gradient(expert.params, x[i : i + 1], v[i : i + 1].astype(np.float32)))]
        )
        for i in range(4)
    )
    assert kernel.shape == (4, 4)
    assert v @ kernel.astype(np.float64) @ v == pytest.approx(float(total @ total), rel=1e-4)
    assert ns.certify(kernel).holds
