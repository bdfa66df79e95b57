"""Experts whose outputs depend on the rest of the batch are detected, without false positives."""

from contextlib import nullcontext

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ntk_select import Expert, LastConv, Taps, lgc
from ntk_select.errors import ModelError
from ntk_select.experts import forward as forward_module
from ntk_select.experts.forward import check_independent_of_batch, forward

pytestmark = pytest.mark.usefixtures("quickly")

SENTENCE = r"depend on the rest of the batch: batch norm .* Try: use_running_average=True \(linen\), model.eval\(\) \(nnx\)"
X = np.random.default_rng(0).normal(size=(9, 4))
W = {"w": np.random.default_rng(1).normal(size=(4, 3))}


def linear(variables, x):
    return x @ variables["params"]["w"]


def centred(variables, x):
    return linear(variables, x - x.mean(0))


@pytest.mark.parametrize("batch_size", [2, 3, 4, 8, 9, 32])
@pytest.mark.parametrize("where", ["apply_fn", "features_fn"])
def test_a_function_that_looks_at_the_batch_is_found_out(batch_size, where):
    """Places left in the last batch: 1, none, 3, 7, none, none (one batch is all there is)."""
    with pytest.raises(ModelError, match=f"Expert 'mine': its outputs for an image {SENTENCE}"):
        forward(Expert("mine", **{"apply_fn": linear, "features_fn": linear, "params": W} | {where: centred}), X, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 9, 32])
def test_every_image_passes_once_and_in_its_place(batch_size):
    found = forward(Expert("mine", linear, W, features_fn=linear), X, batch_size=batch_size)
    np.testing.assert_allclose(found.logits, X @ W["w"], rtol=1e-12)
    assert found.features.shape == (9, 3)


@pytest.mark.parametrize("count", [9, 8])
def test_no_pass_is_added_where_places_are_left(count):
    passes = []

    def counted(variables, x):
        jax.debug.callback(lambda: passes.append(1))
        return linear(variables, x)

    forward(Expert("mine", counted, W), X[:count], batch_size=4)
    jax.effects_barrier()
    assert len(passes) == 3


def test_one_image_has_no_others():
    assert forward(Expert("mine", centred, W), X[:1]).logits.shape == (1, 3)


def test_taps_are_looked_at_as_well():
    def taps(variables, x, perturbation):
        hidden = x if perturbation is None else x + perturbation
        features = hidden.mean((1, 2)) - hidden.mean((0, 1, 2))
        return Taps(features @ variables["params"]["w"], features, x)

    params = {"conv": np.ones((1, 1, 4, 4)), **W}
    expert = Expert("mine", linear, params, taps_fn=taps, last_conv=LastConv("conv", pooled=(0, 4)))
    images = np.random.default_rng(0).normal(size=(5, 2, 2, 4))
    for last_conv in (False, True):
        with pytest.raises(ModelError, match=SENTENCE):
            forward(expert, images, last_conv=last_conv)
    with pytest.raises(ModelError, match=SENTENCE):
        lgc(expert, images, np.array([0, 0, 1, 1, 1]))


@pytest.mark.parametrize(
    ("of_answers", "of_params", "noise", "refused"),
    [
        ("float32", "float32", 1e-4, False),
        ("float32", "float32", 1e-2, True),
        ("float32", "bfloat16", 1e-2, False),
        ("float32", "bfloat16", 5e-2, True),
        ("bfloat16", "float32", 2**-6, False),
        ("bfloat16", "bfloat16", 2**-4, True),
    ],
)
def test_rounding_is_no_reason_and_more_than_rounding_is_one(of_answers, of_params, noise, refused):
    answers = jnp.ones((6, 3), of_answers)
    expert = Expert("mine", linear, {"w": np.ones((4, 3), np.float32), "unused": np.ones(2, of_params)})
    with pytest.raises(ModelError, match=SENTENCE) if refused else nullcontext():
        check_independent_of_batch(expert, X, (answers,), (np.asarray(answers[:2]) * np.asarray(1 + noise, of_answers),))


def test_a_batch_that_passes_only_to_be_compared_does_not_pass_back(monkeypatch):
    back, cotangents = [], forward_module._cotangents
    monkeypatch.setattr(forward_module, "_cotangents", lambda *given: [back.append(1), cotangents(*given)][1])

    def taps(variables, x, perturbation):
        features = (x if perturbation is None else x + perturbation).mean((1, 2))
        return Taps(features @ variables["params"]["w"], features, x)

    expert = Expert("mine", linear, {"conv": np.ones((1, 1, 4, 4)), **W}, taps_fn=taps, last_conv=LastConv("conv", pooled=(0, 4)))
    forward(expert, np.ones((8, 2, 2, 4)), last_conv=True, batch_size=4)
    assert len(back) == 2


@pytest.mark.parametrize("name", ["apply_fn", "features_fn"])
def test_a_single_number_for_a_batch_is_refused_in_a_sentence(name):
    functions = {"apply_fn": linear, "features_fn": linear} | {name: lambda variables, x: x.sum()}
    with pytest.raises(ModelError, match=rf"{name} of expert 'mine' must return an array \(n, .\), one row per image; it returned a single number"):
        forward(Expert("mine", functions["apply_fn"], W, features_fn=functions["features_fn"]), X)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_not_finite_or_nothing_is_left_to_the_scores(value):
    check_independent_of_batch(Expert("mine", linear, W), X, (np.full((4, 2), value), None), (np.full((2, 2), value), None))


class Linen(nn.Module):
    training: bool

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not self.training)(x))


def of_linen(training):
    variables = Linen(False).init(jax.random.key(0), X)

    def apply(variables, x):
        return Linen(training).apply(variables, x, mutable=["batch_stats"])[0]

    return Expert("mine", apply, variables["params"], {"batch_stats": variables["batch_stats"]})


def of_nnx(layer, training):
    module = nnx.Sequential(layer, nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    if not training:
        module.eval()
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def apply(variables, x):
        return nnx.merge(graph, variables["params"], variables["rest"])(x)

    return Expert("mine", apply, nnx.to_pure_dict(params), {"rest": rest})


MAKERS = {
    "batch norm of linen": of_linen,
    "batch norm of nnx": lambda training: of_nnx(nnx.BatchNorm(4, rngs=nnx.Rngs(0)), training),
    "dropout of nnx": lambda training: of_nnx(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), training),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_layer_in_training_mode_is_told_from_one_in_evaluation_mode(name):
    x = X.astype(np.float32)
    with pytest.raises(ModelError, match=SENTENCE):
        forward(MAKERS[name](True), x)
    assert forward(MAKERS[name](False), x).logits.shape == (9, 3)
