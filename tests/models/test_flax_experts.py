"""Experts from linen and nnx modules compute what the modules compute."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.models import linen_expert, nnx_expert

X = np.random.default_rng(1).normal(size=(6, 8, 8, 2))
pytestmark = pytest.mark.usefixtures("quickly")

LABELS = np.array([0, 0, 0, 1, 1, 1])
DTYPES = {"param_dtype": jnp.float64, "dtype": jnp.float64}


class Block(nn.Module):
    strides: int = 2
    dilation: int = 1

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(5, (3, 3), self.strides, kernel_dilation=self.dilation, use_bias=False, name="conv", **DTYPES)(x)
        return nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm", **DTYPES)(x))


class Linen(nn.Module):
    """Two blocks; how they end depends on `end`."""

    end: str = "pooled"
    dilation: int = 1

    @nn.compact
    def __call__(self, x, train=False):
        x = Block(name="first")(x, train)
        y = Block(dilation=self.dilation, name="last")(x, train)
        ends = {
            "pooled": lambda: y.mean((1, 2)),
            "dense": lambda: jnp.concatenate([x[:, ::2, ::2], y], axis=-1).mean((1, 2)),
            "flat": lambda: y.reshape(len(y), -1),
            "mixed": lambda: y.mean((1, 2)) * y.mean((1, 2, 3))[:, None],
        }
        return nn.Dense(3, name="head", **DTYPES)(ends[self.end]())


class Nnx(nnx.Module):
    def __init__(self, rngs, dtype=jnp.float64):
        conv = {"rngs": rngs, "padding": 1, "param_dtype": dtype}
        self.convs = nnx.List([nnx.Conv(2, 4, (3, 3), **conv), nnx.Conv(4, 5, (3, 3), strides=2, **conv)])
        self.norm = nnx.BatchNorm(5, rngs=rngs, param_dtype=dtype, momentum=0.5)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs, param_dtype=dtype)

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.tanh(conv(x))
        return self.head(self.dropout(self.norm(x).mean((1, 2))))


@functools.cache
def initialised(module):
    return jax.jit(module.init)(jax.random.key(0), X[:1])


def linen(module=None, **changes):
    module = module or Linen()
    variables = initialised(module)
    given = {"head": "head", "last_conv": "last/conv", "pooled": False, "evaluate": {"train": False}, "train": {"train": True}} | changes
    return linen_expert("mine", module, variables, X[:1], **given)


def of_nnx(**changes):
    return nnx_expert("mine", Nnx(nnx.Rngs(0)), X[:1], **{"head": "head", "last_conv": "convs/1"} | changes)


@pytest.mark.parametrize("make", [linen, of_nnx])
def test_all_functions_of_the_expert_agree(make):
    expert = make()
    apply, features, taps = jax.jit(lambda v: (expert.apply_fn(v, X), expert.features_fn(v, X), expert.taps_fn(v, X, None)))(expert.variables)
    logits = np.asarray(features) @ np.asarray(expert.head_kernel) + np.asarray(expert.params["head"]["bias"])
    for found in (apply, taps.logits):
        np.testing.assert_allclose(found, logits, rtol=1e-12)
    np.testing.assert_allclose(taps.features, features, rtol=1e-12)


def test_a_linen_expert_computes_what_the_module_computes():
    module, expert = Linen(), linen()
    np.testing.assert_array_equal(expert.apply_fn(expert.variables, X), module.apply(expert.variables, X))
    training, changed = module.apply(expert.variables, X, train=True, mutable=["batch_stats"])
    taps, state = expert.train_fn(expert.variables, X)
    np.testing.assert_array_equal(taps.logits, training)
    jax.tree.map(np.testing.assert_array_equal, state, dict(changed))
    assert np.abs(state["batch_stats"]["last"]["norm"]["mean"]).max() > 0


def test_an_nnx_expert_computes_what_the_module_computes_and_leaves_it_alone():
    module, x = Nnx(nnx.Rngs(0), jnp.float32), X.astype(np.float32)  # nnx keeps batch statistics in float32
    expert = nnx_expert("mine", module, x[:1], head="head", last_conv="convs/1")
    assert not module.dropout.deterministic, "it still trains"
    taps, state = expert.train_fn(expert.variables, x)
    np.testing.assert_allclose(taps.logits, module(x), rtol=1e-5)  # with the same random numbers
    np.testing.assert_allclose(state["rest"]["norm"]["mean"], module.norm.mean[...], rtol=1e-5)
    assert np.abs(state["rest"]["norm"]["mean"] - expert.state["rest"]["norm"]["mean"]).max() > 1e-4
    again, _ = expert.train_fn({"params": expert.params, **state}, x)
    assert np.abs(again.logits - taps.logits).max() > 1e-3, "dropout draws anew at every step"
    module.eval()
    trained = expert.with_variables({"params": expert.params, **state})
    np.testing.assert_allclose(trained.apply_fn(trained.variables, x), module(x), rtol=1e-5)


def test_dropout_of_a_linen_module_draws_for_every_batch():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3, name="head", **DTYPES)(nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2))))

    expert = linen(Dropped(), last_conv=None)
    first, again, other = (expert.train_fn(expert.variables, x)[0].logits for x in (X, X, X + 0.01))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_the_last_convolution_is_read_off():
    assert linen().last_conv == ns.LastConv(("last", "conv", "kernel"), (2, 2), ((0, 1), (0, 1)))
    assert of_nnx().last_conv == ns.LastConv(("convs", "1", "kernel"), (2, 2), ((1, 1), (1, 1)))
    assert linen(last_conv=None).last_conv is None
    assert linen(Linen(dilation=2)).last_conv == ns.LastConv(("last", "conv", "kernel")), "the general way knows what it does"


@pytest.mark.parametrize(
    ("make", "pooled"),
    [pytest.param(linen, (0, 5), marks=pytest.mark.nightly), (lambda **more: linen(Linen("dense"), **more), (5, 10)), (of_nnx, (0, 5))],
    ids=["linen", "concatenated", "nnx"],
)
def test_the_short_way_to_lgc_gives_what_the_general_way_gives(make, pooled):
    short, general = make(pooled=True), make()
    assert short.last_conv.pooled == pooled
    assert general.last_conv.pooled is None
    assert ns.lgc(short, X, LABELS) == pytest.approx(ns.lgc(general, X, LABELS), abs=1e-12)


class Standardised(nn.Conv):
    """Its weights are changed before they are used, as in BiT."""

    def param(self, name, *args, **kwargs):
        found = super().param(name, *args, **kwargs)
        return found - found.mean((0, 1, 2)) if name == "kernel" else found


class Tail(nn.Module):
    """A convolution, and an ending that a user might wrongly take for pooled."""

    end: str

    @nn.compact
    def __call__(self, x):
        kind = Standardised if self.end == "standardised" else nn.Conv
        conv = kind(6, (3, 3), name="conv", **DTYPES)
        y = nn.WeightNorm(conv)(x) if self.end == "weight norm" else conv(x)
        if self.end == "gate":
            y = y * nn.sigmoid(nn.Dense(6, **DTYPES)(nn.relu(nn.Dense(4, **DTYPES)(y.mean((1, 2))))))[:, None, None]
        if self.end == "shuffled":
            y = y[..., ::-1]
        features = nn.relu(y).mean((1, 2))
        return nn.Dense(3, name="head", **DTYPES)(features / jnp.linalg.norm(features) if self.end == "normalised" else features)


@pytest.mark.parametrize("end", ["standardised", "weight norm", "gate", "shuffled", "normalised"])
def test_a_convolution_that_is_not_only_pooled_is_not_taken_for_one(end):
    with pytest.raises(ModelError, match=r"The channels of last_conv='conv' of expert 'mine' are not only pooled .* Try: without pooled=True"):
        linen(Tail(end), last_conv="conv", evaluate=None, pooled=True)


@pytest.mark.parametrize("make", [lambda: linen(Linen("flat"), pooled=True), lambda: linen(last_conv="first/conv", pooled=True)])
def test_neither_is_one_that_is_flattened_or_comes_before_another(make):
    with pytest.raises(ModelError, match="are not only pooled"):
        make()


def test_nor_an_unusual_one():
    with pytest.raises(ModelError, match="last_conv='last/conv' of expert 'mine' is not an ordinary 2-D convolution. Try: without pooled=True"):
        linen(Linen(dilation=2), pooled=True)


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float16, marks=pytest.mark.nightly), jnp.bfloat16])
def test_half_precision_is_pooled_as_well(dtype):
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head", dtype=dtype)(nn.relu(nn.Conv(6, (3, 3), name="conv", dtype=dtype)(x)).mean((1, 2)))

    assert linen(Half(), last_conv="conv", evaluate=None, train=None, pooled=True).last_conv.pooled == (0, 6)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(2, (3, 3), name="conv")
        return nn.Dense(2, name="head")(conv(conv(x)).mean((1, 2))) if x.ndim == 4 else x


class After(nn.Module):
    """Something comes after the head."""

    end: str

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(2, name="head", **DTYPES)(x.mean((1, 2)))
        if self.end == "another layer":
            return nn.Dense(2, name="out", **DTYPES)(nn.tanh(hidden))
        return jax.nn.log_softmax(hidden) if self.end == "softmax" else (hidden, {}) if self.end == "a tuple" else nn.Dense(5, name="out")(hidden)


class WithOutput(nn.Module):
    """What a model of Hugging Face holds as its module."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Dropout(0.5, deterministic=deterministic)(x.mean((1, 2)))
        return types.SimpleNamespace(logits=nn.Dense(3, name="classifier", **DTYPES)(x))


class Logits(nn.Module):
    model: nn.Module

    def __call__(self, x, train=False):
        return self.model(x, deterministic=not train).logits


def test_a_module_that_returns_an_object_is_wrapped_in_one_that_returns_its_logits():
    params = jax.tree.map(jnp.asarray, {"classifier": {"kernel": np.ones((2, 3)), "bias": np.arange(3.0)}})
    with pytest.raises(ModelError, match=r"returns a SimpleNamespace, not an array of logits \(n, c\)\. Wrap it in a module that does"):
        linen_expert("mine", WithOutput(), {"params": params}, X[:1], head="classifier")
    arguments = {"head": "model/classifier", "evaluate": {"train": False}, "train": {"train": True}}
    expert = linen_expert("mine", Logits(WithOutput()), {"params": {"model": params}}, X[:1], **arguments)
    np.testing.assert_allclose(expert.apply_fn(expert.variables, X), X.mean((1, 2)).sum(-1, keepdims=True) + np.arange(3))
    assert np.abs(expert.train_fn(expert.variables, X)[0].logits - expert.apply_fn(expert.variables, X)).max() > 0.01


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(nn.Dense)(3, name="head")(nn.remat(nn.Conv)(4, (3, 3), name="conv")(x).mean((1, 2)))


def after(end, **changes):
    return linen(After(end), **{"last_conv": None, "evaluate": None} | changes)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: linen(head="haed"), r"head='haed' of expert 'mine' is called 0 times .* Did you mean 'head'\?"),
        (lambda: of_nnx(last_conv="convs/2"), r"last_conv='convs/2' of expert 'mine' is called 0 times"),
        (lambda: of_nnx(head="norm/head"), r"head='norm/head' of expert 'mine' is called 0 times"),
        (lambda: linen(Twice(), last_conv="conv", evaluate=None), r"last_conv='conv' of expert 'mine' is called 2 times .* called exactly once\."),
        (lambda: after("wider"), r"head='head' of expert 'mine' takes \(1, 2\) and the network returns \(1, 5\); .* final linear layer"),
        (lambda: after("another layer"), r"the head must be the final linear layer"),
        (lambda: after("softmax"), r"with nothing after it \(no softmax\)"),
        (lambda: after("a tuple"), r"The network of expert 'mine' returns a tuple, not an array of logits \(n, c\)"),
        (lambda: linen(Remat(), last_conv="conv", evaluate=None), r"is inside a transformed part of the network \(remat, jit, scan\)"),
        (lambda: linen(last_conv="last"), r"last_conv of expert 'mine' is 'last/kernel', but params has no 'last/kernel'\. Available: conv, norm"),
        (lambda: linen(evaluate={"rngs": {}}), r"evaluate=\{'rngs': \{\}\} contains unhashable values"),
        (
            lambda: linen(head="last/conv", last_conv=None),
            r"head='last/conv' of expert 'mine' takes \(1, 4, 4, 5\) .* the final linear layer",
        ),
    ],
)
def test_layers_that_are_not_what_they_are_said_to_be_are_refused(make, sentence):
    with pytest.raises(ModelError, match=sentence):
        make()


class ZeroScale(nn.Module):
    """A residual block whose last batch norm begins at zero, as is usual, and what comes after it."""

    end: str = "pooled"

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(2, (3, 3), name="conv", **DTYPES)(x)
        y = nn.BatchNorm(use_running_average=True, scale_init=nn.initializers.zeros, **DTYPES)(y)
        y = nn.relu(x + y)
        if self.end == "mixed":
            y = y + y.mean(-1, keepdims=True)
        features = jax.lax.stop_gradient(y).mean((1, 2)) if self.end == "stopped" else y.mean((1, 2))
        return nn.Dense(3, name="head", kernel_init=nn.initializers.zeros if self.end == "zero head" else nn.initializers.normal(1), **DTYPES)(
            features
        )


@pytest.mark.parametrize("end", ["pooled", "zero head"])
def test_a_block_that_begins_at_zero_is_pooled(end):
    expert = linen(ZeroScale(end), last_conv="conv", evaluate=None, train=None, pooled=True)
    assert expert.last_conv.pooled == (0, 2)
    assert not expert.params["BatchNorm_0"]["scale"].any(), "the expert keeps its variables"


def test_a_block_that_begins_at_zero_and_mixes_channels_is_not_pooled():
    with pytest.raises(ModelError, match="are not only pooled"):
        linen(ZeroScale("mixed"), last_conv="conv", evaluate=None, train=None, pooled=True)


def test_where_nothing_depends_on_the_convolution_that_is_the_reason():
    with pytest.raises(ModelError, match="The logits do not depend on the weights of last_conv='conv' .* Try: without pooled=True"):
        linen(ZeroScale("stopped"), last_conv="conv", evaluate=None, train=None, pooled=True)
