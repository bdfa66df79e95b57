"""Is the planned work what training then does, and is nothing trained or written for it?"""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ntk_select.models.architectures import fresh_expert
from PIL import Image

from ntk_select.errors import ConfigError, DataError, TaskError
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.flops import forward_flops
from ntk_select.training.zoo import multi, plan, read_config, single, train_zoo
from ntk_select.training.zoo.config import SourceConfig

CONFIGS = Path(__file__).parents[3] / "scripts" / "configs"
TINY = {"stage_sizes": (1,), "widths": (4,), "stem": "small"}
TO_FEATURES = 2 * 8 * 8 * (27 * 4 + 2 * 36 * 4)
"""The stem and the two convolutions of the one block, three by three each, on 8 x 8 pixels."""


def training_of_one_image(classes):
    return 3 * (TO_FEATURES + 2 * 4 * classes)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of one block instead of those of the config; gives the numbers of classes that they were asked for."""
    asked = []

    def small(name, architecture, *, num_classes, **options):
        asked.append(num_classes)
        return fresh_expert(name, "resnet18", num_classes=num_classes, config=TINY, **options)

    for module in ("single", "multi", "plan"):
        place = importlib.import_module(f"ntk_select.training.zoo.{module}")
        monkeypatch.setattr(place, "fresh_expert", small)
    return asked


@pytest.fixture
def here(data, config, quickly):
    """plan(...) of the config, which may be changed."""
    return lambda change=lambda found: found, **options: plan(change(read_config(config)), **({"data": data} | options))


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_images_steps_and_operations_are_those_of_the_closed_form(here, tiny):
    stripes, dots, both = here()
    assert [work.name for work in (stripes, dots, both)] == ["stripes-resnet_small", "dots-resnet_small-from-stripes", "both-resnet_small"]
    assert (stripes.images, stripes.epochs, stripes.steps) == (3 * 48, 3, 3 * 6)  # 48 images in batches of 8
    assert (dots.images, dots.epochs, dots.steps) == (48, 1, 6)
    assert (both.images, both.epochs, both.steps) == (3 * 3 * 12, 3, 3 * 3)  # 18 of each domain in batches of 6
    assert stripes.flops == 144 * training_of_one_image(3)
    assert dots.flops == 48 * training_of_one_image(2)
    assert both.flops == 54 * (training_of_one_image(3) + training_of_one_image(2))
    for work in (stripes, dots, both):
        assert work.architecture == "resnet_small"
        assert work.measured_batch == 8
        assert work.hours == work.images / work.images_per_second / 3600 > 0


@pytest.mark.parametrize("batch_size", [7, 48, 100])
def test_what_is_left_over_of_an_epoch_is_not_counted(here, tiny, batch_size):
    work = here(lambda found: replace(found, batch_size=batch_size), only="stripes-resnet_small")[0]
    assert work.steps == 3 * (48 // min(batch_size, 48))
    assert work.images == work.steps * min(batch_size, 48)


@pytest.mark.slow
def test_the_operations_are_three_passes_of_the_network_that_is_trained(here):
    works = here(lambda found: replace(found, multi_domain={}))
    for work, classes in zip(works, (3, 2), strict=True):
        network = fresh_expert("x", "resnet_small", num_classes=classes, preprocess=Preprocess(8))
        one = np.zeros((1, 8, 8, 3), np.float32)
        assert work.flops == 3 * forward_flops(network.apply_fn, network.variables, one) * work.images


def test_nothing_is_written_or_trained_and_the_images_are_looked_at_only_to_be_counted(here, data, tiny, monkeypatch):
    before = files(data)
    for module, name in ((single, "train_epochs"), (single, "learnt"), (multi, "learnt")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it was trained"))
    monkeypatch.chdir(data)
    here()
    assert files(data) == before


def test_the_smallest_config_plans_digits_and_a_folder(monkeypatch, rng, tmp_path):
    module = importlib.import_module("ntk_select.training.zoo.plan")
    monkeypatch.setattr(module, "speed", lambda *_: module.Speed(flops=1.0, width=4, images_per_second=1.0, batch=64))
    for split, count in (("train", 70), ("test", 1)):
        for name in ("cats", "dogs"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (6, 5, 3), np.uint8)).save(tmp_path / split / name / f"{number}.png")
    digits, mine = plan(read_config(CONFIGS / "my_zoo.toml"), data=tmp_path)
    assert (digits.name, mine.name) == ("digits-resnet_small", "mine-resnet_small")
    assert (mine.images, mine.epochs, mine.steps) == (20 * 2 * 64, 20, 20 * 2)  # 140 images in batches of 64; what is left over is left out


def test_where_the_config_says_how_many_there_are_the_images_need_not_be_there(config, tiny, quickly):
    config.write_text(config.read_text().replace('licence = "made by the test"', 'licence = "x"\nimages = 1000\nnum_classes = 10'))
    (work,) = plan(read_config(config), only="dots")
    assert (work.images, work.steps) == (1000, 125)
    assert work.flops == 1000 * training_of_one_image(10)


def test_one_architecture_is_measured_once_and_progress_says_which(here, tiny):
    told = []
    here(progress=lambda *given: told.append(given))
    assert told == [(0, 1, "resnet_small")]
    assert len(tiny) == 1


def test_training_sees_as_many_images_as_were_planned(here, config, data, tiny, monkeypatch):
    (work,), seen = here(only="stripes-resnet_small"), []
    real = single.train_epochs

    def counted(step, state, batches, *given, **options):
        def noted(rng):
            for batch in batches(rng):
                seen.append(len(batch[1]))
                yield batch

        return real(step, state, noted, *given, **options)

    monkeypatch.setattr(single, "train_epochs", counted)
    train_zoo(read_config(config), out=data / "zoo", data=data, work=data / "work", only="stripes-resnet_small")
    assert (sum(seen), len(seen)) == (work.images, work.steps)


@pytest.mark.parametrize(
    ("options", "change", "error", "sentence"),
    [
        ({"only": "cats"}, {}, ConfigError, "No expert's name contains 'cats'. There is: stripes-resnet_small"),
        ({"data": None}, {}, ConfigError, "The source 'stripes' lies at .*Say where the data is: --data FOLDER"),
        ({"data": "/nowhere"}, {}, (TaskError, DataError), "There is no file '/nowhere/stripes.npz'"),
        (
            {"only": "stripes"},
            {"architectures": ("resnet_smal",), "sources": {"stripes": SourceConfig("digits", {"scratch": 1})}},
            ConfigError,
            "The architecture 'resnet_smal' is unknown. Did you mean 'resnet_small'",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(here, options, change, error, sentence):
    with pytest.raises(error, match=sentence):
        here(lambda found: replace(found, **change), **options)
