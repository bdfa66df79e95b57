"""Architectures have their published sizes, and taps equal the actual activations."""

from functools import partial

import jax
import numpy as np
import pytest

from ntk_select import Preprocess
from ntk_select.errors import ModelError
from ntk_select.models.architectures import ARCHITECTURES, build, fresh_expert, initialise, make_expert
from ntk_select.models.expert_folder import flatten

pytestmark = pytest.mark.usefixtures("quickly")

PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "alexnet": 61_100_840,
}
TINY = {
    "basic": ("resnet18", 9, {"stage_sizes": [1, 1], "widths": [3, 4], "stem": "small"}),
    "bottleneck": ("resnet50", 8, {"stage_sizes": [1], "widths": [3], "stem": "small_strided"}),
    "densenet": ("densenet121", 8, {"block_sizes": [1, 2], "growth": 3, "initial": 4, "stem": "small"}),
    "conv4": ("conv4", 8, {"widths": [3, 4, 5], "stem": "small_strided"}),
    "alexnet": ("alexnet", 63, {"hidden": 8}),
}


DEEP = {"resnet101", "resnet152", "wide_resnet101_2", "densenet161", "densenet169", "densenet201"}


SHAPES_ARE_COMPARED = {"resnet18", "densenet121", "alexnet"}
"""Architectures whose names and shapes a quick test compares with torchvision's."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in DEEP else pytest.mark.nightly if name in SHAPES_ARE_COMPARED else ())
        for name in PUBLISHED
    ],
)
def test_number_of_parameters_is_the_published_one(name):
    """The numbers are torchvision's, from the tables of its documentation; batch statistics are not counted."""
    shapes = jax.eval_shape(partial(build(name, num_classes=1000).init, jax.random.key(0)), jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"])) == PUBLISHED[name]


def test_every_architecture_but_our_own_is_counted():
    assert set(ARCHITECTURES) - set(PUBLISHED) == {"resnet_small", "densenet_small", "conv4"}


@pytest.fixture(scope="module", params=TINY)
def expert_and_x(request):
    """A tiny network in float64, random throughout."""
    architecture, size, config = TINY[request.param]
    network, rng = build(architecture, num_classes=3, **config), np.random.default_rng(0)

    def randomised(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))

    shapes = jax.eval_shape(partial(initialise, network, size=size), jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(randomised, shapes)
    return make_expert(request.param, network, variables), rng.normal(size=(2, size, size, 3))


@pytest.fixture(scope="module")
def taps(expert_and_x):
    expert, x = expert_and_x
    compiled = jax.jit(expert.taps_fn)
    return lambda params, perturbation=None: compiled({"params": params, **expert.state}, x, perturbation)


def with_kernel(expert, kernel):
    return jax.tree_util.tree_map_with_path(lambda path, leaf: kernel if tuple(k.key for k in path) == expert.last_conv.path else leaf, expert.params)


def last_kernel(expert):
    return flatten(expert.params)["/".join(expert.last_conv.path)]


def test_taps_agree_with_the_logits_and_features_of_the_network(expert_and_x, taps):
    expert, x = expert_and_x
    logits, features, _ = taps(expert.params)
    np.testing.assert_allclose(logits, jax.jit(expert.apply_fn)(expert.variables, x), rtol=1e-11)
    np.testing.assert_allclose(features, jax.jit(expert.features_fn)(expert.variables, x), rtol=1e-11)


def test_logits_are_the_linear_head_of_the_features(expert_and_x, taps):
    expert, _ = expert_and_x
    logits, features, _ = taps(expert.params)
    (head,) = expert.head
    np.testing.assert_allclose(logits, features @ expert.head_kernel + expert.params[head]["bias"], rtol=1e-10, atol=1e-12)


def test_perturbing_the_output_of_the_last_convolution_is_changing_its_kernel(expert_and_x, taps, rng):
    """So path, strides, padding, exposed inputs and the place of the perturbation are all right at once."""
    expert, _ = expert_and_x
    change = 0.1 * rng.normal(size=last_kernel(expert).shape)
    inputs = taps(expert.params).conv_inputs
    spec = expert.last_conv
    moved = jax.lax.conv_general_dilated(inputs, change, spec.strides, spec.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    perturbed, direct = taps(expert.params, moved), taps(with_kernel(expert, last_kernel(expert) + change))
    np.testing.assert_allclose(perturbed.logits, direct.logits, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(perturbed.conv_inputs, inputs)
    assert np.abs(np.asarray(direct.logits) - taps(expert.params).logits).max() > 1e-3


def test_each_channel_of_a_pooled_last_convolution_moves_its_own_pre_logit_alone(expert_and_x, taps, rng):
    expert, _ = expert_and_x
    kernel, before = last_kernel(expert), np.asarray(taps(expert.params).features)
    moved_by = []
    for channel in range(min(kernel.shape[-1], 6)):
        change = np.zeros(kernel.shape)
        change[..., channel] = 10 * rng.normal(size=kernel.shape[:-1])
        after = np.stack([taps(with_kernel(expert, kernel + sign * change)).features for sign in (1, -1)])
        moved_by.append(np.flatnonzero((after != before).any(axis=(0, 1))).tolist())
    if expert.last_conv.pooled is None:
        assert max(len(moved) for moved in moved_by) > 1
    else:
        start, stop = expert.last_conv.pooled
        assert stop - start == kernel.shape[-1]
        assert moved_by == [[start + channel] for channel in range(len(moved_by))]


def test_only_alexnet_claims_nothing_of_its_last_convolution(expert_and_x):
    expert, _ = expert_and_x
    assert (expert.last_conv.pooled is None) == (expert.name == "alexnet")


def test_batch_statistics_live_apart_from_what_is_differentiated(expert_and_x):
    expert, _ = expert_and_x
    assert not {name.rpartition("/")[2] for name in flatten(expert.params)} & {"mean", "var"}
    statistics = {name.rpartition("/")[2] for name in flatten(expert.state)}
    assert statistics == (set() if expert.name == "alexnet" else {"mean", "var"})
    assert set(expert.state) == {"batch_stats"}


def test_no_image_influences_another(expert_and_x):
    """Batch norm is in evaluation mode."""
    expert, x = expert_and_x
    together = jax.jit(expert.apply_fn)(expert.variables, np.concatenate([x[:1], 5 * x[1:]]))
    np.testing.assert_allclose(together[0], jax.jit(expert.apply_fn)(expert.variables, x)[0], rtol=1e-11)


def test_experts_of_one_architecture_share_their_compilation():
    first, second = (
        make_expert(name, build("resnet18", num_classes=3), {"params": {"fc": {"kernel": 0}, "layer4_1": {"conv2": {"kernel": 0}}}}) for name in "ab"
    )
    assert (first.apply_fn, first.features_fn, first.taps_fn) == (second.apply_fn, second.features_fn, second.taps_fn)
    assert hash(first.taps_fn) == hash(second.taps_fn)
    other = make_expert("c", build("resnet18", num_classes=4), {"params": first.params})
    assert first.taps_fn != other.taps_fn


def test_preprocessing_that_is_given_wins():
    expert = make_expert(
        "a", build("resnet18", num_classes=3), {"params": {"fc": {"kernel": 0}, "layer4_1": {"conv2": {"kernel": 0}}}}, preprocess=Preprocess(size=5)
    )
    assert expert.preprocess == Preprocess(size=5)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("resnet19", {}, "Architecture 'resnet19' is unknown. Did you mean .*'resnet18'.*Allowed: alexnet"),
        ("resnet18", {"depth": 3}, "Architecture 'resnet18' does not take {'depth': 3}"),
        ("alexnet", {"growth": 3}, "Architecture 'alexnet' does not take"),
        ("conv4", {"stage_sizes": [1, 1]}, "Architecture 'conv4' does not take"),
        ("conv4", {"widths": [4]}, r"Architecture 'conv4': widths=\(4,\) must have two entries at least"),
        pytest.param("resnet18", {"stem": "nonsense"}, "stem"),
        pytest.param("densenet121", {"stem": "nonsense"}, "stem"),
        pytest.param("resnet18", {"widths": [4]}, "widths"),
    ],
)
def test_what_cannot_be_built_is_refused(name, config, message):
    with pytest.raises(ModelError, match=message):
        build(name, num_classes=2, **config)


def test_lists_from_a_card_are_as_good_as_tuples():
    assert build("resnet18", num_classes=2, widths=[1, 2, 3, 4]) == build("resnet18", num_classes=2, widths=(1, 2, 3, 4))


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "basic" else pytest.mark.slow) for name in TINY])
def test_in_training_a_network_answers_by_its_batch_and_gives_new_statistics(name, rng):
    architecture, size, config = TINY[name]
    expert = fresh_expert("mine", architecture, num_classes=3, preprocess=Preprocess(size), seed=1, config=config)
    x = rng.normal(3, 2, size=(4, size, size, 3))
    taps, changed = jax.jit(expert.train_fn)(expert.variables, x)
    head = expert.params[expert.head[0]]
    np.testing.assert_allclose(taps.logits, taps.features @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    assert set(changed) <= {"batch_stats"}
    before, after = flatten(expert.state), flatten(changed)
    assert after.keys() == before.keys()
    for key, leaf in after.items():
        assert leaf.shape == before[key].shape
        assert np.abs(leaf - before[key]).max() > 0


def test_dropout_draws_other_units_for_other_batches_and_the_same_for_the_same(rng):
    architecture, size, config = TINY["alexnet"]
    expert = fresh_expert("mine", architecture, num_classes=3, preprocess=Preprocess(size), seed=1, config=config)
    first, train = rng.normal(size=(4, size, size, 3)), jax.jit(expert.train_fn)
    other = np.concatenate([first[:2], rng.normal(size=(2, size, size, 3))])
    once, again, elsewhere = (np.asarray(train(expert.variables, x)[0].logits) for x in (first, first, other))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once[:2] - elsewhere[:2]).max() > 0  # the same images in another batch
    assert np.abs(once - np.asarray(jax.jit(expert.apply_fn)(expert.variables, first))).max() > 0


def test_fresh_experts_are_of_their_seed_and_say_how_their_inputs_are_made():
    options = {"num_classes": 3, "preprocess": Preprocess(8), "config": TINY["basic"][2]}
    first, again, other = (fresh_expert("mine", "resnet18", seed=seed, **options).params["conv1"]["kernel"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    expert = fresh_expert("mine", "resnet18", **options)
    assert (expert.name, expert.preprocess, expert.card) == ("mine", Preprocess(8), None)
