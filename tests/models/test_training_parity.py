"""Training agrees with PyTorch in every loss, weight and batch statistic, step by step."""

import jax
import numpy as np
import pytest

from ntk_select import with_new_head
from ntk_select.models.architectures import build, make_expert
from ntk_select.models.convert import convert_state_dict
from ntk_select.models.expert_folder import flatten
from ntk_select.models.state_dict import tensor_table
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

RATE, CLASSES = 0.01, 10
TOLERANCE = 1e-10
CASES = [("resnet18", 20, 16, 32), ("densenet121", 3, 8, 64)]


def batches(steps, count, size):
    rng = np.random.default_rng(3)
    return [(rng.normal(size=(count, size, size, 3)), rng.integers(0, CLASSES, count)) for _ in range(steps)]


def trained_by_torch(network, steps, dtype):
    """Losses, and the state dict after the steps."""
    import torch

    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    losses = []
    for images, labels in steps:
        optimizer.zero_grad()
        logits = network(torch.from_numpy(images.astype(dtype).transpose(0, 3, 1, 2).copy()))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}


def torch_network(oracle, architecture, state, dtype):
    import torch

    network = oracle.torchvision_module(architecture, CLASSES).to_empty(device="cpu").to(getattr(torch, dtype))
    network.load_state_dict({key: torch.from_numpy(value.astype(dtype)) for key, value in state.items()}, strict=False)
    return network


def trained_here(expert, steps, dtype):
    optimizer = sgd()
    with jax.default_matmul_precision("highest"):
        step, state, losses = make_step(cross_entropy(expert.train_fn), optimizer), begin(expert.variables, optimizer), []
        for images, labels in steps:
            state, loss = step(state, (images.astype(dtype), labels), jax.random.key(0), RATE)
            losses.append(loss.item())
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(dtype)}
    return np.array(losses), state.variables


def errors_of(found, expected):
    """Largest difference of each tensor, relative to its largest entry."""
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    return np.array([np.abs(np.asarray(found[name], float) - leaf).max() / np.abs(leaf).max() for name, leaf in expected.items()])


@pytest.fixture
def state_of(seeded):
    def make(architecture):
        return seeded.seeded_state({key: row.shape for key, row in tensor_table(build(architecture, num_classes=CLASSES)).items()})

    return make


@pytest.mark.nightly
@pytest.mark.parametrize(("architecture", "number", "count", "size"), CASES)
def test_losses_weights_and_batch_statistics_are_pytorchs(architecture, number, count, size, oracle, state_of):
    state, steps, module = state_of(architecture), batches(number, count, size), build(architecture, num_classes=CLASSES)
    losses, theirs = trained_by_torch(torch_network(oracle, architecture, state, "float64"), steps, "float64")
    start = convert_state_dict(state, module, dtype=np.float64)
    found, ours = trained_here(make_expert(architecture, module, start), steps, "float64")
    expected = convert_state_dict(theirs, module, dtype=np.float64)
    np.testing.assert_allclose(found, losses, rtol=TOLERANCE)
    assert errors_of(ours, expected).max() < TOLERANCE
    assert errors_of(start, expected).min() > 100 * TOLERANCE  # everything has moved


def rounded_anew(state, seed):
    """The same weights, each moved by one rounding of float32."""
    rng = np.random.default_rng(seed)
    return {key: (value * (1 + 2.0**-24 * rng.choice([-1, 1], value.shape))).astype(value.dtype) for key, value in state.items()}


@pytest.mark.nightly
def test_in_float32_training_strays_from_float64_no_further_than_pytorchs(oracle, state_of):
    """Training amplifies rounding: the first steps stay close, and after many the measure is how far PyTorch's own trainings go that start one
    rounding apart. How far a single one goes differs tenfold between processors."""
    state, steps, module = state_of("resnet18"), batches(20, 16, 32), build("resnet18", num_classes=CLASSES)
    losses, exact = trained_by_torch(torch_network(oracle, "resnet18", state, "float64"), steps, "float64")
    starts = [state, *(rounded_anew(state, seed) for seed in range(6))]
    runs = [trained_by_torch(torch_network(oracle, "resnet18", start, "float32"), steps, "float32") for start in starts]
    expert = make_expert("resnet18", module, convert_state_dict(state, module, dtype=np.float32))
    found, ours = trained_here(expert, steps, "float32")
    exact, *theirs = (convert_state_dict(after, module, dtype=np.float64) for after in (exact, *(after for _, after in runs)))
    np.testing.assert_allclose(found[:4], losses[:4], rtol=1e-4)
    assert np.abs(found / losses - 1).max() < 2 * max(np.abs(theirs / losses - 1).max() for theirs, _ in runs)
    mine, torchs = errors_of(ours, exact), [errors_of(each, exact) for each in theirs]
    assert mine.max() < 2 * max(errors.max() for errors in torchs)
    assert np.median(mine) < 2 * max(np.median(errors) for errors in torchs)
    _, ours = trained_here(expert, steps[:1], "float32")
    _, theirs = trained_by_torch(torch_network(oracle, "resnet18", state, "float32"), steps[:1], "float32")
    assert errors_of(ours, convert_state_dict(theirs, module, dtype=np.float64)).max() < 1e-4


def test_a_new_head_is_trained_as_pytorch_trains_one(oracle, state_of):
    import torch

    state, steps, module = state_of("resnet18"), batches(10, 16, 32), build("resnet18", num_classes=CLASSES)
    expert = with_new_head(make_expert("resnet18", module, convert_state_dict(state, module, dtype=np.float64)), CLASSES, seed=4)
    network = torch_network(oracle, "resnet18", state, "float64")
    with torch.no_grad():
        network.fc.weight.copy_(torch.from_numpy(np.ascontiguousarray(expert.params["head"]["kernel"].T)))
        network.fc.bias.copy_(torch.from_numpy(expert.params["head"]["bias"]))
    losses, theirs = trained_by_torch(network, steps, "float64")
    found, ours = trained_here(expert, steps, "float64")
    np.testing.assert_allclose(found, losses, rtol=TOLERANCE)
    expected = convert_state_dict(theirs, module, dtype=np.float64)
    head = expected["params"].pop("fc")
    assert errors_of(ours["params"], {"backbone": expected["params"], "head": head}).max() < TOLERANCE
    assert errors_of(ours["batch_stats"], expected["batch_stats"]).max() < TOLERANCE
    for name, leaf in expert.state["source_head"].items():
        np.testing.assert_array_equal(ours["source_head"][name], leaf)
