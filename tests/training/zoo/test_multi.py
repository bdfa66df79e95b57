"""A step of many domains is gradient descent on their mean loss, with one batch if batch norm is shared, and one per domain otherwise."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.experts.expert import Taps
from ntk_select.experts.multi_domain import compose, split
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.architectures import build, fresh_expert, initialise
from ntk_select.models.expert_folder import flatten
from ntk_select.training.feeding import Feed, InMemory, feed
from ntk_select.training.loop import begin, make_step, sgd
from ntk_select.training.zoo.multi import Balanced, _loss

pytestmark = pytest.mark.usefixtures("quickly")

CONFIG = {"stage_sizes": (1,), "widths": (4,), "stem": "small"}
CLASSES = {"cats": 2, "dogs": 3}
HEAD = ("fc",)


@pytest.fixture(scope="module")
def experts():
    return {name: fresh_expert(name, "resnet18", num_classes=classes, preprocess=Preprocess(8), config=CONFIG) for name, classes in CLASSES.items()}


def variables_of(sharing):
    """Random parts, laid out as `train_multi` does."""
    rng, parts = np.random.default_rng(0), {}
    for name, classes in CLASSES.items():
        shapes = jax.eval_shape(lambda key, classes=classes: initialise(build("resnet18", num_classes=classes, **CONFIG), key, 8), jax.random.key(0))
        parts[name] = split(jax.tree.map(lambda leaf: rng.uniform(-0.5, 1, leaf.shape), shapes), sharing, HEAD)
    common = parts["cats"][0]
    return {kind: {"common": common[kind], "domains": {name: own[kind] for name, (_, own) in parts.items()}} for kind in common}


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=(n, 8, 8, 3)), rng.integers(0, CLASSES[name], n)) for name, n in (("cats", 5), ("dogs", 4))}


def loss_of(experts, sharing):
    feeds = {name: SimpleNamespace(prepare=lambda key, images: images) for name in experts}
    return _loss({name: expert.train_fn for name, expert in experts.items()}, feeds, experts, sharing == "shared", "float32")


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def shared_by_hand(variables, batch):
    """All images in one batch through the backbone, each domain's part of the pre-logits through its head."""
    heads = {name: own["fc"] for name, own in variables["params"]["domains"].items()}
    whole = {"params": {**variables["params"]["common"], "fc": heads["cats"]}, "batch_stats": variables["batch_stats"]["common"]}
    images = jnp.concatenate([batch["cats"][0], batch["dogs"][0]])
    _, changed = build("resnet18", num_classes=2, **CONFIG).apply(whole, images, train=True, mutable=["batch_stats", "intermediates"])
    features = changed["intermediates"]["features"][0]
    losses = [
        cross_entropy(part @ heads[name]["kernel"] + heads[name]["bias"], batch[name][1])
        for name, part in (("cats", features[:5]), ("dogs", features[5:]))
    ]
    return sum(losses) / 2, changed["batch_stats"]


def apart_by_hand(variables, batch):
    losses, changed = [], {}
    for name, classes in CLASSES.items():
        whole = {kind: compose(variables[kind]["common"], variables[kind]["domains"][name]) for kind in variables}
        logits, found = build("resnet18", num_classes=classes, **CONFIG).apply(whole, batch[name][0], train=True, mutable=["batch_stats"])
        losses.append(cross_entropy(logits, batch[name][1]))
        changed[name] = found["batch_stats"]
    return sum(losses) / 2, changed


@pytest.mark.parametrize("sharing", ["shared", "multi_bn", pytest.param("adapters", marks=pytest.mark.slow)])
def test_a_step_is_gradient_descent_on_the_mean_loss_of_the_domains(sharing, experts):
    variables, batch = variables_of(sharing), batch_of()
    by_hand = shared_by_hand if sharing == "shared" else apart_by_hand

    def objective(params):
        return by_hand({**variables, "params": params}, batch)

    (expected, stats), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(variables["params"])
    state, found = make_step(loss_of(experts, sharing), sgd(0.9, 0.0, nesterov=False))(begin(variables, sgd(0.9, 0.0)), batch, jax.random.key(0), 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    start, after, gradient = (flatten(tree) for tree in (variables["params"], state.variables["params"], gradient))
    for name, leaf in start.items():
        np.testing.assert_allclose(after[name], leaf - 0.1 * gradient[name], rtol=1e-8, atol=1e-10)
    place = "common" if sharing == "shared" else "domains"
    kept = flatten(state.variables["batch_stats"][place])
    assert kept.keys() == flatten(stats).keys()
    for name, leaf in flatten(stats).items():
        np.testing.assert_allclose(kept[name], leaf, rtol=1e-10)


@pytest.mark.parametrize("sharing", ["multi_bn", pytest.param("adapters", marks=pytest.mark.slow), "shared"])
def test_batch_statistics_of_a_domain_depend_on_its_own_images_unless_they_are_shared(sharing, experts):
    variables, loss = variables_of(sharing), jax.jit(loss_of(experts, sharing))
    batch = batch_of()
    other = {**batch, "dogs": (batch["dogs"][0] * 3 + 1, batch["dogs"][1])}
    first, second = (loss(variables, each, jax.random.key(0))[1]["batch_stats"] for each in (batch, other))
    if sharing == "shared":
        assert np.abs(first["common"]["bn1"]["mean"] - second["common"]["bn1"]["mean"]).max() > 1e-3
    else:
        for name, leaf in flatten(first["domains"]["cats"]).items():
            np.testing.assert_array_equal(flatten(second["domains"]["cats"])[name], leaf)
        assert np.abs(first["domains"]["dogs"]["bn1"]["mean"] - second["domains"]["dogs"]["bn1"]["mean"]).max() > 1e-3


def test_each_domain_is_augmented_with_a_key_of_its_own(experts):
    seen, batch = {}, batch_of()
    feeds = {
        name: SimpleNamespace(prepare=lambda key, images, name=name: seen.update({name: jax.random.key_data(key).tolist()}) or images)
        for name in experts
    }
    train_fns = {name: lambda variables, x, n=classes: (Taps(jnp.zeros((len(x), n)), x), {}) for name, classes in CLASSES.items()}
    _loss(train_fns, feeds, experts, False, "float32")(variables_of("multi_bn"), batch, jax.random.key(0))
    assert seen["cats"] != seen["dogs"]


def feeds_of(**sizes):
    return {name: Feed(InMemory(np.arange(n) + first, np.arange(n), batch), None) for name, (first, n, batch) in sizes.items()}


def test_every_domain_has_an_equal_share_and_small_ones_are_reshuffled_and_repeated():
    batches = Balanced(feeds_of(small=(0, 7, 3), large=(100, 30, 3)), 18)
    epoch = list(batches(np.random.default_rng(0)))
    assert batches.steps == len(epoch) == 6
    for batch in epoch:
        assert {name: len(images) for name, (images, _) in batch.items()} == {"small": 3, "large": 3}
        assert (batch["small"][0] < 7).all()
        assert (batch["large"][0] >= 100).all()
    large = np.concatenate([batch["large"][0] for batch in epoch])
    assert len(set(large.tolist())) == 18
    rounds = [np.concatenate([epoch[step]["small"][0] for step in (first, first + 1)]) for first in (0, 2, 4)]
    assert all(len(set(each.tolist())) == 6 for each in rounds)
    assert len({tuple(each) for each in rounds}) == 3


def test_an_epoch_is_that_of_the_largest_domain_but_at_most_so_many_images():
    sizes = {"small": (0, 7, 3), "large": (100, 30, 3)}
    assert Balanced(feeds_of(**sizes), 1000).steps == 10
    assert Balanced(feeds_of(**sizes), 14).steps == 4
    assert Balanced(feeds_of(**sizes), 1).steps == 1
    assert Balanced(feeds_of(small=(0, 7, 3)), 1000).steps == 2


def test_an_epochs_batches_depend_on_the_generator_alone(rng):
    images = rng.integers(0, 256, (9, 8, 8, 3), np.uint8)
    batches = Balanced({name: feed(images, np.arange(9), Preprocess(8), "flip", 4) for name in CLASSES}, 100)
    first, again, other = (list(batches(np.random.default_rng(seed))) for seed in (1, 1, 2))
    labels = [[batch[name][1].tolist() for batch in epoch for name in CLASSES] for epoch in (first, again, other)]
    assert labels[0] == labels[1] != labels[2]
