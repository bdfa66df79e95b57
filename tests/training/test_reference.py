"""The reference network learns the task from its training images alone."""

import numpy as np
import pytest

from ntk_select import Task, trained_reference
from ntk_select.errors import ConfigError
from ntk_select.experts.forward import forward
from ntk_select.models.architectures import REFERENCE_NETWORKS
from ntk_select.training import reference


@pytest.fixture
def task(rng):
    """Dark and bright images; the test images are labelled the other way round."""
    labels = np.repeat([0, 1], 16)
    images = rng.integers(0, 90, (32, 32, 32), dtype=np.uint8) + (120 * labels[:, None, None]).astype(np.uint8)
    return Task("dark and bright", images, labels, ("dark", "bright"), images, 1 - labels)


@pytest.fixture
def few_steps(monkeypatch, quickly):
    monkeypatch.setattr(reference, "MIN_STEPS", 12)
    monkeypatch.setattr(reference, "EPOCHS", 3)


@pytest.fixture
def one_step(monkeypatch, quickly):
    monkeypatch.setattr(reference, "MIN_STEPS", 1)
    monkeypatch.setattr(reference, "EPOCHS", 1)


def test_it_answers_as_the_training_images_are_labelled(task, few_steps):
    seen = []
    expert = trained_reference(task, progress=lambda *arguments: seen.append(arguments))
    logits = np.asarray(forward(expert, expert.preprocess(task.images)).logits)
    assert (logits.argmax(axis=1) == task.labels).all()
    assert expert.name == "tiny"
    assert seen == [(epoch, 12, "tiny") for epoch in range(1, 13)]  # one step an epoch, until twelve are made


def test_the_same_seed_gives_the_same_network_and_another_does_not(task, one_step):
    first, again, other = (trained_reference(task, seed=seed).params["fc"]["kernel"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_name_that_does_not_exist_and_a_seed_that_is_none_are_refused(task):
    with pytest.raises(ConfigError, match=r"The reference network 'small' is unknown. Allowed: resnet18, tiny"):
        trained_reference(task, "small")
    with pytest.raises(ConfigError, match="seed=-1"):
        trained_reference(task, seed=-1)


@pytest.mark.parametrize("kind", REFERENCE_NETWORKS)
def test_a_fresh_network_can_be_trained_and_says_how(kind):
    network, learning_rate, most_steps = REFERENCE_NETWORKS[kind](3, seed=1)
    assert network.train_fn is not None
    assert network.head_kernel.shape[1] == 3
    assert learning_rate == {"tiny": 0.05, "resnet18": 0.005}[kind]
    assert most_steps == {"tiny": 1000, "resnet18": None}[kind]
    if kind == "tiny":
        assert not np.array_equal(network.head_kernel, REFERENCE_NETWORKS[kind](3, seed=2).network.head_kernel)
