"""Shared by the tests of zoo training: two small sources and a config."""

import numpy as np
import pytest

CONFIG = """
seed = 1
size = 8
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
batch_size = 8
weight_decay = 5e-4
warmup = 0.15
initial_source = "stripes"
architectures = ["resnet_small"]
[learning_rate]
scratch = 0.05
transfer = 0.02
[multi_domain.both]
architecture = "resnet_small"
sharing = "adapters"
epochs = 3
learning_rate = 0.05
batch_size = 6
images_per_epoch = 18
[sources.stripes]
uri = "npz:{data}/stripes.npz"
licence = "made by the test"
epochs = { scratch = 3 }
augment = { shift = 1 }
[sources.dots]
uri = "npz:{data}/stripes.npz"
licence = "made by the test"
rename = { c = "a" }
epochs = { transfer = { resnet_small = 1 } }
augment = { rotate = 5, zoom = 0.1, flip_horizontal = true, brightness = 0.1 }
"""


@pytest.fixture
def text():
    """A valid config."""
    return CONFIG


@pytest.fixture
def data(tmp_path, rng):
    """The folder of the sources' images."""
    labels = np.arange(48) % 3
    images = (rng.integers(0, 60, (48, 8, 8)) + 90 * (np.arange(8)[None, :, None] % 3 == labels[:, None, None])).astype(np.uint8)
    np.savez(tmp_path / "stripes.npz", images=images, labels=labels, test_images=images[:12], test_labels=labels[:12], class_names=["a", "b", "c"])
    return tmp_path


@pytest.fixture
def config(tmp_path):
    """The path of the config."""
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path / "config.toml"
