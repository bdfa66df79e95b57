"""Experts of eight architecture families compute, train and are judged as PyTorch computes it, in float64."""

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.forecasting.cross_validation import best, cross_validate
from ntk_select.forecasting.kernel import training_kernel
from ntk_select.kernels.engine.arguments import leaf_names
from ntk_select.models.expert_folder import flatten
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.usefixtures("quickly")]

TOLERANCE = 1e-8
# PyTorch's derivative of hard swish and hard sigmoid has 1 / 6 rounded to float32.
TOLERANCE_OF_GRADIENTS = {"mobilenet": 1e-5}
ALONE = "resnet"
NAMES = ["resnet", "densenet", "vit", "swin", "convnext", "efficientnet", "mobilenet", "regnet"]
RATE = 0.001


@pytest.fixture(scope="module", params=[pytest.param(name, marks=() if name == ALONE else pytest.mark.nightly) for name in NAMES])
def family(request, timm_networks):
    model = timm_networks.network(request.param)
    expert = ns.torch_expert(request.param, model, preprocess=ns.Preprocess(timm_networks.SIZE))
    return timm_networks, request.param, model, expert


def distance(found, expected, floor=1e-3):
    return float(np.abs(np.asarray(found) - expected).max() / max(np.abs(expected).max(), floor))


def test_logits_and_pre_logits(family):
    torchs, _, model, expert = family
    x = torchs.images(3)
    logits, features = torchs.outputs(model, x)
    assert distance(jax.jit(expert.apply_fn)(expert.variables, x), logits) < TOLERANCE
    assert distance(jax.jit(expert.features_fn)(expert.variables, x), features) < TOLERANCE


def test_kernel_of_all_layers(family):
    torchs, name, model, expert = family
    x = torchs.images(3)
    kernel = ns.gradient_kernel(expert, x, layers="all")
    assert distance(kernel, torchs.trace_kernel(model, x, lambda _: True)) < TOLERANCE_OF_GRADIENTS.get(name, TOLERANCE)


def test_lgc(family):
    torchs, name, model, expert = family
    x, labels = torchs.images(6), np.array([0, 0, 1, 1, 2, 2])
    path = expert.last_conv.path[:-1] if expert.last_conv else expert.last_block
    kernel = torchs.trace_kernel(model, x, lambda parameter: parameter.startswith(".".join(path) + ("." if expert.last_block else ".weight")))
    same = (labels[:, None] == labels) * 2.0 - 1
    expected = np.corrcoef(kernel.ravel(), same.ravel())[0, 1]
    assert abs(ns.lgc(expert, x, labels) - expected) < TOLERANCE_OF_GRADIENTS.get(name, TOLERANCE)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch.func.jvp uses it
def test_forecast(family):
    torchs, name, model, expert = family
    x, labels, recipe = torchs.images(12, seed=1), np.repeat([0, 1, 2], 4), ns.Recipe(epochs=3)
    found = training_kernel(expert, x, directions=2, seed=5)
    kernel, backbone = 0.0, ns.with_new_head(expert, 1, x=x[:1]).params["backbone"]
    for direction in range(2):
        key, signs = jax.random.fold_in(jax.random.key(5), direction), {}
        for index, (path, leaf) in enumerate(zip(leaf_names(backbone), jax.tree.leaves(backbone), strict=True)):
            sign = np.asarray(jax.random.rademacher(jax.random.fold_in(key, index), leaf.shape, leaf.dtype))
            as_conv = expert.last_conv is not None and path == "/".join(expert.last_conv.path)
            signs[path.replace("/", ".").replace(".kernel", ".weight")] = sign.transpose(3, 2, 0, 1) if as_conv else sign
        features, change = torchs.along(model, x, signs)
        kernel = kernel + change @ change.T / 2
    tolerance = TOLERANCE_OF_GRADIENTS.get(name, TOLERANCE)
    assert distance(found.features, features) < TOLERANCE
    assert distance(found.backbone, kernel) < tolerance
    theirs = features @ features.T + 1 + kernel / (3 * features.shape[1])
    ours, expected = (best(cross_validate(one, labels, recipe, (0.01, 0.001), seed=0)) for one in (found.with_head(), theirs))
    assert ours.accuracy == expected.accuracy
    assert ours.loss == pytest.approx(expected.loss, rel=max(tolerance, 1e-6))


def test_three_training_steps(family):
    torchs, name, model, expert = family
    rng, model = np.random.default_rng(3), torchs.network(name)
    batches = [(torchs.images(8, seed), rng.integers(0, torchs.CLASSES, 8)) for seed in range(3)]
    check_training(torchs, model, expert, batches, TOLERANCE_OF_GRADIENTS.get(name, TOLERANCE))


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "settings"), [("resnet18", {}), ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8})])
def test_twenty_training_steps_of_whole_networks(timm_networks, name, settings):
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **settings).double()
    expert, rng = ns.torch_expert(name, model, preprocess=ns.Preprocess(32)), np.random.default_rng(3)
    check_training(timm_networks, model, expert, [(timm_networks.images(8, seed), rng.integers(0, 5, 8)) for seed in range(20)], TOLERANCE)


def check_training(torchs, model, expert, batches, tolerance):
    """Losses, weights and statistics after the steps are those of PyTorch, and have moved."""
    start = flatten(expert.apply_fn.variables(model))
    losses = torchs.train(model, batches, RATE)
    with jax.default_matmul_precision("highest"):
        step, state, found = make_step(cross_entropy(expert.train_fn), sgd()), begin(expert.variables, sgd()), []
        for batch in batches:
            state, loss = step(state, batch, jax.random.key(0), RATE)
            found.append(float(loss))
    np.testing.assert_allclose(found, losses, rtol=tolerance)
    ours, theirs = flatten(state.variables), flatten(expert.apply_fn.variables(model))
    assert ours.keys() == theirs.keys()
    assert max(distance(ours[key], theirs[key]) for key in theirs) < tolerance
    assert max(distance(start[key], theirs[key]) for key in theirs) > 1e4 * tolerance
