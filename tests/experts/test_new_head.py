"""Experts with a new head compute features @ W + b, with the right gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError, UndefinedScoreError
from ntk_select.experts.new_head import in_place
from ntk_select.kernels.gradients import gradient_kernel
from ntk_select.linearized import layer_factors
from ntk_select.models import ZOO

DIM = ("NHWC", "HWIO", "NHWC")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def features(variables, x):
    """Convolution, tanh, mean over positions, and a shift from the state."""
    h = jax.lax.conv_general_dilated(x, variables["params"]["body"]["conv"], (1, 1), "VALID", dimension_numbers=DIM)
    return jnp.tanh(h).mean((1, 2)) + variables["batch_stats"]["shift"]


def logits(variables, x):
    head = variables["params"]["head"]
    return features(variables, x) @ head["kernel"] + head["bias"]


def nested_logits(variables, x):
    return features(variables, x) @ variables["params"]["body"]["top"]["fc"]["kernel"]


def whole_tree_features(variables, x):
    """As of a network that is put together from all its parameters, the head among them."""
    assert variables["params"]["head"]["kernel"].shape == (5, 4)
    return features(variables, x)


PARAMS = {"body": {"conv": draw(3, 3, 2, 5) / 3}, "head": {"kernel": draw(5, 4, seed=1), "bias": draw(4, seed=2)}}
NESTED = {"body": {"conv": PARAMS["body"]["conv"], "top": {"fc": {"kernel": draw(5, 4, seed=1)}, "scale": np.ones(2)}}}
STATE = {"batch_stats": {"shift": draw(5, seed=3)}}
X = draw(7, 6, 6, 2, seed=4)
PHI = np.asarray(features({"params": PARAMS, **STATE}, X))
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


def expert(**options):
    given = {"features_fn": features, "head": ("head",), "last_conv": ("body", "conv")}
    return ns.Expert("mine", logits, PARAMS, STATE, **(given | options))


def nested():
    return ns.Expert("nested", nested_logits, NESTED, STATE, features_fn=features, head=("body", "top", "fc"), last_conv=("body", "conv"))


def headless():
    return ns.Expert("headless", features, {"body": PARAMS["body"]}, STATE, features_fn=features)


MAKERS = {"head": expert, "nested": nested, "headless": headless, "whole tree": lambda: expert(features_fn=whole_tree_features)}


@pytest.fixture(params=MAKERS)
def made(request):
    return MAKERS[request.param]()


def outputs(found, x=X):
    return np.asarray(found.apply_fn(found.variables, x))


def test_outputs_are_features_times_weights_plus_bias(made):
    found = ns.with_new_head(made, 3, seed=5, x=X[:1])
    head = found.params["head"]
    assert head["kernel"].shape == (5, 3)
    assert (head["bias"] == 0).all()
    np.testing.assert_allclose(outputs(found), PHI @ head["kernel"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.features_fn(found.variables, X), PHI, rtol=0, atol=1e-14)
    shifted = {**found.variables, "params": {**found.params, "head": {**head, "bias": np.array([1.0, 2.0, 3.0])}}}
    np.testing.assert_allclose(found.apply_fn(shifted, X), PHI @ head["kernel"] + [1, 2, 3], rtol=0, atol=1e-12)
    assert found.name == made.name
    assert found.head == ("head",)


def test_parameters_are_backbone_and_head_and_the_old_head_is_state(made):
    found = ns.with_new_head(made, 3, x=X[:1])
    assert set(found.params) == {"backbone", "head"}
    names = ["/".join(str(key.key) for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(found.params["backbone"])]
    assert names == (["body/conv", "body/top/scale"] if made.name == "nested" else ["body/conv"])
    assert (found.state["batch_stats"]["shift"] == STATE["batch_stats"]["shift"]).all()
    if made.head is not None:
        old = made.params["head"] if made.head == ("head",) else made.params["body"]["top"]["fc"]
        assert found.state["source_head"] is old


def test_the_old_head_is_not_trained(made):
    found = ns.with_new_head(made, 3, x=X[:1])
    kernels = ns.ntk(found.apply_fn, found.variables, X, by_layer=True, layers="^params/")
    trained = [layer.name for layer in layer_factors(found, X)][1:]
    assert trained == list(kernels)
    assert all("source_head" not in name for name in trained)
    assert {"params/backbone/body/conv", "params/head/bias", "params/head/kernel"} <= set(trained)


def test_the_expert_that_was_given_is_as_it_was():
    before = jax.tree.map(np.copy, PARAMS)
    given = expert()
    ns.with_new_head(given, 3)
    assert set(given.params) == {"body", "head"}
    assert set(given.state) == {"batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, dict(given.params), before)


def test_random_heads_are_of_their_seed_and_at_most_one_over_the_root_of_the_width():
    wide = ns.Expert("wide", lambda v, x: x, {"head": {"kernel": np.zeros((400, 2))}}, features_fn=lambda v, x: x, head=("head",))
    first, again, other = (ns.with_new_head(wide, 100, seed=seed).params["head"]["kernel"] for seed in (0, 0, 1))
    assert (first == again).all()
    assert np.abs(first - other).max() > 0.01
    assert first.var() * 400 * 3 == pytest.approx(1, abs=0.03)  # uniform
    assert 0.999 < np.abs(first).max() * 20 <= 1
    assert abs(first.mean()) * 20 < 0.03


def test_the_new_head_is_of_the_type_of_the_old_one():
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), PARAMS)
    found = ns.with_new_head(ns.Expert("single", logits, single, STATE, features_fn=features, head=("head",)), 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {np.dtype(np.float32)}


def test_without_old_head_the_width_and_type_are_those_of_the_features():
    found = ns.with_new_head(headless(), 1, x=X)
    assert found.params["head"]["kernel"].shape == (5, 1)
    assert found.params["head"]["kernel"].dtype == np.float64
    assert "source_head" not in found.state
    assert found.last_conv is None


def test_a_head_of_zeros_gives_the_backbone_no_gradient():
    found = ns.with_new_head(expert(), 3, head="zero")
    assert (outputs(found) == 0).all()
    kernels = ns.ntk(found.apply_fn, found.variables, X, by_layer=True, layers="^params/", outputs="full")
    assert (kernels["params/backbone/body/conv"] == 0).all()
    assert (gradient_kernel(found, X) == 0).all()
    with pytest.raises(UndefinedScoreError, match="The kernel is constant"):
        ns.lgc(found, X, LABELS)
    moving = ns.with_new_head(expert(), 3, head="random")
    assert np.trace(gradient_kernel(moving, X)) > 0
    assert -1 <= ns.lgc(moving, X, LABELS) <= 1


@pytest.mark.parametrize("head", ["random", "zero"])
def test_the_kernel_of_the_head_alone_is_that_of_the_features_plus_one(head):
    found = ns.with_new_head(expert(), 3, head=head)
    kernel = ns.ntk(found.apply_fn, found.variables, X, layers="^params/head/", outputs="full")
    np.testing.assert_allclose(kernel, np.einsum("ij,ab->ijab", PHI @ PHI.T + 1, np.eye(3)), rtol=0, atol=1e-12)


def test_the_last_convolution_is_found_below_the_backbone():
    found = ns.with_new_head(expert(), 3)
    assert found.last_conv.path == ("backbone", "body", "conv")
    expected = ns.ntk(found.apply_fn, found.variables, X, layers="^params/backbone/body/conv$")
    np.testing.assert_allclose(gradient_kernel(found, X), expected, rtol=0, atol=1e-12)


def test_without_taps_a_pooled_convolution_takes_the_general_way():
    pooled = expert(last_conv=ns.LastConv(("body", "conv"), pooled=(0, 5)))
    found = ns.with_new_head(pooled, 3)
    assert found.last_conv.pooled is None
    assert found.taps_fn is None


@pytest.fixture(scope="module")
def stored():
    return ZOO["fashion_mnist-resnet_small"]()


@pytest.mark.slow
def test_an_embedded_expert_keeps_its_taps_and_both_routes_agree(stored):
    found = ns.with_new_head(stored, 3, seed=1)
    x = np.asarray(stored.preprocess(np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), np.uint8)))
    phi = np.asarray(stored.features_fn(stored.variables, x))
    head = found.params["head"]
    np.testing.assert_allclose(outputs(found, x), phi @ head["kernel"] + head["bias"], rtol=0, atol=1e-4 * np.abs(phi).max())
    taps = found.taps_fn(found.variables, x)
    np.testing.assert_allclose(taps.logits, outputs(found, x), rtol=0, atol=1e-4 * np.abs(phi).max())
    np.testing.assert_allclose(taps.features, phi, rtol=0, atol=1e-4 * np.abs(phi).max())
    assert found.last_conv.pooled == stored.last_conv.pooled
    assert found.preprocess is stored.preprocess
    assert found.card is stored.card
    pooled = gradient_kernel(found, x)
    engine = ns.ntk(found.apply_fn, found.variables, x, layers="^" + "/".join(("params", *found.last_conv.path)) + "$")
    np.testing.assert_allclose(pooled, engine, rtol=0, atol=1e-4 * np.abs(engine).max())
    assert np.abs(engine).max() > 0


def test_experts_of_one_architecture_share_their_compilation(stored):
    first, second = ns.with_new_head(stored, 3, seed=0), ns.with_new_head(stored, 3, seed=1)
    for name in ("apply_fn", "features_fn", "taps_fn"):
        assert getattr(first, name) == getattr(second, name)
        assert hash(getattr(first, name)) == hash(getattr(second, name))


@pytest.mark.parametrize("name", ["head", "nested", "whole tree"])
def test_a_second_new_head_takes_the_place_of_the_first(name):
    once = ns.with_new_head(MAKERS[name](), 3)
    twice = ns.with_new_head(once, 2, seed=9)
    np.testing.assert_allclose(outputs(twice), PHI @ twice.params["head"]["kernel"], rtol=0, atol=1e-12)


REFUSED = {
    "head": ({"head": "zeros"}, ConfigError, "head='zeros' is unknown. Did you mean 'zero'"),
    "no classes": ({"num_classes": 0}, ConfigError, "num_classes=0 must be a whole number from 1"),
    "half a class": ({"num_classes": 2.5}, ConfigError, "num_classes=2.5 must be"),
    "a bool of classes": ({"num_classes": True}, ConfigError, "num_classes=True must be"),
    "negative seed": ({"seed": -1}, ConfigError, "seed=-1 must be a whole number from 0"),
    "no seed": ({"seed": None}, ConfigError, "seed=None must be"),
    "no features": ({"expert": expert(features_fn=None)}, ModelError, "Expert 'mine' has no features_fn, which a new head needs"),
    "no head": (
        {"expert": headless()},
        ModelError,
        r"Expert 'headless' has no head from which the number of pre-logits is known. Try: with_new_head\(..., x=",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_heads_are_refused(name):
    options, error, sentence = REFUSED[name]
    with pytest.raises(error, match=sentence):
        ns.with_new_head(**({"expert": expert(), "num_classes": 3} | options))


def test_a_new_head_takes_the_place_of_an_old_one_if_there_is_one():
    with pytest.raises(ModelError, match="Expert 'headless' has no head that the new one could replace"):
        in_place(ns.with_new_head(headless(), 3, x=X), headless())


def test_in_training_the_new_head_answers_and_the_backbone_gives_its_state(stored):
    found = ns.with_new_head(stored, 3, seed=1)
    x = np.asarray(stored.preprocess(np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), np.uint8)))
    (taps, changed), (old, expected) = found.train_fn(found.variables, x), stored.train_fn(stored.variables, x)
    head = found.params["head"]
    np.testing.assert_array_equal(taps.features, old.features)
    np.testing.assert_allclose(taps.logits, np.asarray(old.features) @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-4)
    assert set(changed) == {"batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, changed, expected)
    assert ns.with_new_head(expert(), 3).train_fn is None
