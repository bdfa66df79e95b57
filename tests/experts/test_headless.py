"""Networks up to their pre-logits give the same as whole networks, and experts with other heads share them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ntk_select import Expert
from ntk_select.experts.forward import _to_pooled_tail, forward
from ntk_select.experts.headless import without_head, without_part
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models import fresh_expert

pytestmark = pytest.mark.usefixtures("quickly")
X = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)


def fresh(classes: int, architecture: str = "resnet_small", seed: int = 0) -> Expert:
    expert = fresh_expert("mine", architecture, num_classes=classes, preprocess=Preprocess(16), seed=seed)
    rng = np.random.default_rng(seed)
    return replace(expert, params=jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(leaf.dtype), expert.params))


@pytest.mark.parametrize("architecture", ["resnet_small", "densenet_small", "conv4"])
def test_the_passes_are_those_of_the_whole_network(architecture):
    expert = fresh(7, architecture)
    assert without_head(expert) is not expert
    passes = forward(expert, X, last_conv=True, batch_size=2)
    logits, features = expert.apply_fn(expert.variables, X), expert.features_fn(expert.variables, X)
    assert np.ptp(logits) > 0.1
    np.testing.assert_allclose(passes.logits, logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_allclose(passes.features, features, rtol=1e-4, atol=1e-5 * np.abs(features).max())
    whole = forward(replace(expert, taps_fn=lambda *arguments: expert.taps_fn(*arguments)), X, last_conv=True)  # without the attribute
    for found, expected in zip(passes, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_without_its_head_every_function_returns_pre_logits():
    expert = fresh(7)
    network = without_head(expert)
    features = expert.features_fn(expert.variables, X)
    assert network.head is None
    assert "fc" not in network.params
    np.testing.assert_array_equal(network.apply_fn(network.variables, X), features)
    np.testing.assert_array_equal(network.taps_fn(network.variables, X, None).logits, features)
    trained, changed = network.train_fn(network.variables, X)
    expected, expected_change = expert.train_fn(expert.variables, X)
    np.testing.assert_array_equal(trained.features, expected.features)
    jax.tree.map(np.testing.assert_array_equal, changed, expected_change)


def test_other_numbers_of_classes_share_compiled_programs():
    first, second = fresh(7), fresh(12, seed=1)
    assert without_head(first).train_fn == without_head(second).train_fn
    forward(first, X, last_conv=True)
    compiled = _to_pooled_tail._cache_size()
    passes = forward(second, X, last_conv=True)
    assert passes.logits.shape == (5, 12)
    assert _to_pooled_tail._cache_size() == compiled


@pytest.mark.parametrize(
    "change", [{"head": None}, {"features_fn": None}, {"apply_fn": lambda variables, x: x}], ids=["no head", "no pre-logits", "a foreign function"]
)
def test_what_cannot_be_separated_stays_whole(change):
    expert = replace(fresh(3), **change)
    assert without_head(expert) is expert


def test_a_part_is_taken_out_at_its_path():
    tree = {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert without_part(tree, ("a", "b", "c")) == ({"a": {"b": {"d": 2}}, "e": 3}, 1)
    assert without_part(tree, ("e",)) == ({"a": {"b": {"c": 1, "d": 2}}}, 3)
    assert without_part(tree, None) == (tree, None)
    assert tree["a"]["b"]["c"] == 1
