"""The planned work is that of training, nothing is trained or written for it, and speeds are those of the operations of the network."""

import importlib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ntk_select.errors import ConfigError, DataError, TaskError
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.flops import forward_flops
from ntk_select.models.architectures import fresh_expert
from ntk_select.training.zoo import multi, plan, read_config, single, train_zoo
from ntk_select.training.zoo.config import SourceConfig
from ntk_select.training.zoo.plan import Speed, estimated_speed, measured_speed, network_of, training_rate

planning = importlib.import_module("ntk_select.training.zoo.plan")  # the package has a function of that name

CONFIGS = Path(__file__).parents[3] / "scripts" / "configs"
TINY = {"stage_sizes": (1,), "widths": (4,), "stem": "small"}
TO_FEATURES = 2 * 8 * 8 * (27 * 4 + 2 * 36 * 4)
"""The stem and the two convolutions of the one block, three by three each, on 8 x 8 pixels."""


def training_of_one_image(classes):
    return 3 * (TO_FEATURES + 2 * 4 * classes)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of one block instead of those of the config; gives the requested numbers of classes."""
    asked = []

    def small(name, architecture, *, num_classes, config, **options):
        asked.append(num_classes)
        return fresh_expert(name, "resnet18", num_classes=num_classes, config=TINY, **options)

    monkeypatch.setattr(single, "fresh_expert", small)
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
def test_the_incomplete_batch_of_an_epoch_is_not_counted(here, tiny, batch_size, monkeypatch):
    monkeypatch.setattr(planning, "training_rate", lambda *_, **__: 1e9)
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


def test_nothing_is_written_or_trained(here, data, tiny, monkeypatch):
    before = files(data)
    for module, name in ((single, "train_epochs"), (single, "train"), (multi, "train")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it was trained"))
    monkeypatch.chdir(data)
    here()
    assert files(data) == before


def test_the_smallest_config_plans_digits_and_a_folder(monkeypatch, rng, tmp_path):
    monkeypatch.setattr(planning, "speeds", lambda experts, *_, **__: dict.fromkeys(experts, Speed(1.0, 4, 1.0, 64)))
    for split, count in (("train", 70), ("test", 1)):
        for name in ("cats", "dogs"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (6, 5, 3), np.uint8)).save(tmp_path / split / name / f"{number}.png")
    digits, mine = plan(read_config(CONFIGS / "my_zoo.toml"), data=tmp_path)
    assert (digits.name, mine.name) == ("digits-resnet_small", "mine-resnet_small")
    assert (mine.images, mine.epochs, mine.steps) == (20 * 2 * 64, 20, 20 * 2)  # 140 images in batches of 64; what is left over is left out


def test_images_are_not_needed_if_the_config_has_their_number(config, tiny, quickly):
    config.write_text(config.read_text().replace('licence = "made by the test"', 'licence = "x"\nimages = 1000\nnum_classes = 10'))
    (work,) = plan(read_config(config), only="dots")
    assert (work.images, work.steps) == (1000, 125)
    assert work.flops == 1000 * training_of_one_image(10)


def test_each_architecture_is_measured_once_and_named_in_the_progress(here, tiny):
    told = []
    here(progress=lambda *given: told.append(given))
    assert told == [(0, 1, "resnet_small")]
    assert len(tiny) == 1


def test_training_sees_as_many_images_as_were_planned(here, config, data, tiny, monkeypatch):
    monkeypatch.setattr(planning, "training_rate", lambda *_, **__: 1e9)
    (work,), seen = here(only="stripes-resnet_small"), []
    real = single.train_epochs
    monkeypatch.setattr(single, "make_step", lambda *_: lambda state, *_: (state, np.float32(0)))  # no learning, and no compilation
    monkeypatch.setattr(single, "evaluated", lambda expert, task: (0.5, np.zeros((3, 4), np.float32)))

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
        ({"only": "cats"}, {}, ConfigError, "No expert's name contains 'cats'. Available: stripes-resnet_small"),
        ({"data": None}, {}, ConfigError, "The source 'stripes' is at .*Try: data=FOLDER .--data FOLDER"),
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


def tiny_expert():
    return fresh_expert("tiny", "resnet18", num_classes=5, preprocess=Preprocess(8), config=TINY)


def test_an_abstract_expert_has_the_shapes_and_operations_of_the_real_one_and_no_numbers():
    abstract, real = network_of(single.abstract_expert(tiny_expert)), network_of(tiny_expert())
    leaves = jax.tree.leaves(abstract.variables)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert [leaf.shape for leaf in leaves] == [np.shape(leaf) for leaf in jax.tree.leaves(real.variables)]
    assert abstract.head == real.head == (4, 5)
    assert estimated_speed(abstract, 8, 16, 1e9) == estimated_speed(real, 8, 16, 1e9)


def test_an_estimated_speed_is_the_rate_divided_by_three_passes_of_the_whole_network():
    expert = tiny_expert()
    whole = forward_flops(expert.apply_fn, expert.variables, np.zeros((1, 8, 8, 3), np.float32))
    found = estimated_speed(network_of(expert), 8, 16, 6e8)
    assert found.images_per_second == pytest.approx(6e8 / (3 * whole))
    assert (found.width, found.batch, found.measured) == (4, 16, False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rate_is_operations_by_time(monkeypatch, precision):
    """With a clock that counts one second per step."""
    monkeypatch.setattr(planning, "_timed", lambda step, longest: (jax.block_until_ready(step()), (7.0, 7))[1])
    pixels, channels, kernels = 16, 32, 2
    assert training_rate(32, 4, precision=precision) == 3 * kernels * 2 * 4 * pixels**2 * 9 * channels**2


def test_steps_of_a_real_network_are_timed(monkeypatch):
    monkeypatch.setattr(planning, "MAX_TIMING", 0.01)
    found = measured_speed(tiny_expert(), 4, 5)
    assert found.measured
    assert found.images_per_second > 0
    assert found.flops == estimated_speed(network_of(tiny_expert()), 8, 4, 1.0).flops


def test_an_expert_without_a_head_has_a_speed_too():
    expert = replace(tiny_expert(), head=None)
    found, usual = (estimated_speed(network_of(each), 8, 4, 1e9) for each in (expert, tiny_expert()))
    assert found.flops == usual.flops
    assert found.width == 0
    assert found.images_per_second == pytest.approx(1e9 / (3 * found.flops))


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (0.5, False), (0.9, True), (4.0, True)])
def test_a_machine_with_a_high_load_is_busy(monkeypatch, load, busy):
    monkeypatch.setattr(planning.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(planning.os, "getloadavg", lambda: (8 * load, 0.0, 0.0))
    assert bool(planning.busy()) == busy
    assert not busy or f"(load {8 * load:.1f} on 8 cores)" in planning.busy()


def test_without_a_known_load_there_is_no_warning(monkeypatch):
    def unknown():
        raise OSError("not known")

    monkeypatch.setattr(planning.os, "getloadavg", unknown)
    assert planning.busy() == ""
