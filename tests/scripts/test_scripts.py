"""Do the scripts do what their first lines say?"""

import importlib.util
import runpy
import tomllib
from pathlib import Path

import numpy as np
import pytest
from ntk_select.models import FolderZoo

SCRIPTS = Path(__file__).parents[2] / "scripts"

CONFIG = """
seed = 1
size = 8
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
interpolation = "bilinear"
batch_size = 8
momentum = 0.9
weight_decay = 5e-4
warmup = 0.15
initial_source = "stripes"
architectures = ["resnet_small"]
[scratch]
learning_rate = 0.05
[transfer]
learning_rate = 0.05
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
def train_zoo():
    spec = importlib.util.spec_from_file_location("train_zoo", SCRIPTS / "train_zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path, rng):
    labels = np.arange(48) % 3
    images = (rng.integers(0, 60, (48, 8, 8)) + 90 * (np.arange(8)[None, :, None] % 3 == labels[:, None, None])).astype(np.uint8)
    np.savez(tmp_path / "stripes.npz", images=images, labels=labels, test_images=images[:12], test_labels=labels[:12], class_names=["a", "b", "c"])
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path / "config.toml"


@pytest.mark.slow
def test_a_training_that_was_cut_goes_on_to_the_same_weights(train_zoo, config, tmp_path, monkeypatch):
    def run(name):
        train_zoo.main(config, data=tmp_path, out=tmp_path / name, work=tmp_path / "work" / name, only="stripes")

    run("whole")
    write, count = train_zoo.write_atomically, 0

    def cut(path, content):
        nonlocal count
        write(path, content)
        count += path.parent.name == "checkpoints"
        if count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_zoo, "write_atomically", cut)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(train_zoo, "write_atomically", write)
    run("cut")
    name = "stripes-resnet_small"
    assert (tmp_path / "cut" / name / "model.safetensors").read_bytes() == (tmp_path / "whole" / name / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_an_expert_that_starts_from_another_says_so_and_its_card_is_complete(train_zoo, config, tmp_path):
    train_zoo.main(config, data=tmp_path, out=tmp_path / "zoo", work=tmp_path / "work")
    zoo = FolderZoo(tmp_path / "zoo")
    assert list(zoo) == ["dots-resnet_small-from-stripes", "stripes-resnet_small"]
    card = zoo["dots-resnet_small-from-stripes"].card
    assert (card.initialised_from, card.class_names, card.class_counts) == ("stripes-resnet_small", ("a", "b"), (32, 16))
    assert 0 <= card.test_accuracy <= 1
    expert = zoo[card.name]()
    assert (expert.source.class_means.shape, expert.source.reference_class_means.shape) == ((2, 48), (2, 48))
    assert expert.source.reference().name == expert.source.reference_name == "stripes-resnet_small"
    with np.load(tmp_path / "stripes.npz") as data:
        features = np.asarray(expert.features_fn(expert.variables, expert.preprocess(data["images"][data["labels"] == 1])))
    np.testing.assert_allclose(expert.source.class_means[1], features.mean(axis=0), atol=1e-5)


def test_the_embedded_zoo_is_that_of_its_config(train_zoo):
    config = tomllib.loads((SCRIPTS / "configs" / "embedded_zoo.toml").read_text())
    zoo = FolderZoo(SCRIPTS.parent / "models" / "weights")
    wanted = train_zoo.plans(config)
    assert sorted(plan.name for plan in wanted) == sorted(zoo)
    for plan in wanted:
        card = zoo[plan.name].card
        assert (card.training["epochs"], card.training["learning_rate"], card.initialised_from) == (
            plan.epochs,
            plan.learning_rate,
            plan.initialised_from,
        )
        assert card.training["augment"] == config["sources"][plan.source]["augment"]


def test_whole_pixel_shifts_and_flips_move_pixels_exactly(train_zoo, rng):
    import jax

    images = rng.random((64, 5, 5, 3)).astype(np.float32)
    moved = np.asarray(train_zoo.augment(jax.random.key(0), images, shift=1, flip_horizontal=True))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for image, pad in zip(moved, padded, strict=True):
        views = [pad[i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
        assert min(np.abs(image - view).max() for base in views for view in (base, base[:, ::-1])) < 1e-5


def test_the_example_asserts_its_own_outcome(capsys):
    runpy.run_path(str(SCRIPTS / "01_rank_your_own_model.py"), run_name="__main__")
    assert "pixels is ahead of all others" in capsys.readouterr().out


def test_the_example_of_a_score_of_ones_own_asserts_its_outcome(capsys):
    pytest.importorskip("sklearn")
    runpy.run_path(str(SCRIPTS / "04_your_own_score.py"), run_name="__main__")
    assert "fisher_ratio   1.00" in capsys.readouterr().out


def test_the_kernel_example_asserts_its_own_outcome(capsys):
    pytest.importorskip("matplotlib")
    runpy.run_path(str(SCRIPTS / "02_kernel_of_your_own_model.py"), run_name="__main__")
    assert "positive semi-definite up to rounding" in capsys.readouterr().out
