"""Each epoch holds every image once, in views that depend on the generator alone, and outputs come back in order."""

import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.errors import MissingDependencyError
from ntk_select.experts.forward import batched_outputs
from ntk_select.experts.preprocess import Preprocess
from ntk_select.training.augment import RandomResizedCrop
from ntk_select.training.feeding import Decoded, InMemory, feed

SMALL, LARGE = Preprocess(8, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)), Preprocess(65)
LABELS = np.arange(11, dtype=np.int32)


@pytest.fixture
def images(rng):
    """Eleven images of different sizes; each holds its number."""
    return [np.full((20 + number, 30 - number, 3), number, np.uint8) for number in range(11)]


@pytest.fixture
def noise(rng):
    return [rng.integers(0, 256, (70 + number, 90, 3), np.uint8) for number in range(11)]


def epoch(batches, seed=5):
    return list(batches(np.random.default_rng(seed)))


@pytest.mark.parametrize("preprocess", [SMALL, LARGE], ids=["in memory", "decoded"])
def test_each_chosen_image_comes_once_an_epoch_with_its_label_and_the_rest_is_dropped(preprocess, images):
    batches, _ = feed(images, LABELS, preprocess, "crop_flip", 4)
    assert isinstance(batches, InMemory if preprocess is SMALL else Decoded)
    found = epoch(batches)
    assert batches.steps == len(found) == 2
    size = preprocess.size
    for pixels, labels in found:
        assert (pixels.shape, pixels.dtype) == ((4, size, size, 3), np.uint8)
        assert (pixels == labels[:, None, None, None]).all()
    seen = np.concatenate([labels for _, labels in found])
    assert len(set(seen.tolist())) == 8
    np.testing.assert_array_equal(seen, np.random.default_rng(5).permutation(11)[:8])
    assert not np.array_equal(seen, np.concatenate([labels for _, labels in epoch(batches, 6)]))


def test_views_depend_on_the_generator_alone_and_not_on_the_threads(noise):
    found = {}
    for threads in (1, 2, 7):
        found[threads] = epoch(Decoded(noise, LABELS, RandomResizedCrop(LARGE), 3, threads=threads))
    for threads in (2, 7):
        for (pixels, labels), (others, their_labels) in zip(found[1], found[threads], strict=True):
            np.testing.assert_array_equal(pixels, others)
            np.testing.assert_array_equal(labels, their_labels)
    assert not np.array_equal(found[1][0][0], epoch(Decoded(noise, LABELS, RandomResizedCrop(LARGE), 3), 6)[0][0])


def test_each_view_is_that_of_the_image_and_a_generator_of_its_own(noise):
    """The same image has the same view in batches of another size."""
    crop = RandomResizedCrop(LARGE)
    small, large = (
        {int(label): view for pixels, labels in epoch(Decoded(noise, LABELS, crop, size)) for view, label in zip(pixels, labels, strict=True)}
        for size in (1, 11)
    )
    assert small.keys() == large.keys() == set(range(11))
    for number, view in small.items():
        np.testing.assert_array_equal(view, large[number])


def test_images_are_decoded_in_threads(noise):
    seen = set()

    def view(image, rng):
        seen.add(threading.current_thread())
        return image[:65, :65]

    epoch(Decoded(noise, LABELS, view, 2))
    assert threading.main_thread() not in seen


@pytest.mark.parametrize(("augment", "flips"), [("flip", True), ("none", False)])
def test_without_crop_a_large_view_is_that_of_evaluation_perhaps_mirrored(noise, augment, flips):
    batches, _ = feed(noise, LABELS, LARGE, augment, 11)
    mirrored = 0
    for seed in range(4):
        ((pixels, labels),) = epoch(batches, seed)
        whole = LARGE.resized([noise[label] for label in labels])
        flipped = [np.array_equal(view, other[:, ::-1]) for view, other in zip(pixels, whole, strict=True)]
        assert all(np.array_equal(view, other) for view, other, flip in zip(pixels, whole, flipped, strict=True) if not flip)
        mirrored += sum(flipped)
    assert (8 < mirrored < 36) if flips else mirrored == 0


@pytest.mark.parametrize("preprocess", [SMALL, LARGE])
def test_without_augmentation_inputs_are_those_of_evaluation(preprocess, noise):
    batches, prepare = feed(noise, LABELS, preprocess, "none", 11)
    ((pixels, labels),) = epoch(batches)
    found = prepare(jax.random.key(0), pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, preprocess([noise[label] for label in labels]), rtol=1e-5, atol=2e-6)


def test_small_images_are_varied_before_they_are_normalised(noise):
    """What is padded is black, not grey."""
    _, prepare = feed(noise, LABELS, SMALL, {"pad": 8}, 4)
    found = np.asarray(prepare(jax.random.key(0), np.full((50, 8, 8, 3), 255, np.uint8)))
    white, black = (np.float32((value - np.array(SMALL.mean)) / SMALL.std) for value in (1, 0))
    assert (np.isclose(found, white) | np.isclose(found, black)).all()
    assert np.isclose(found, black).any()


def test_equal_settings_prepare_alike_so_that_compilations_are_shared(images):
    first, again, other = (feed(images, LABELS, SMALL, augment, 4).prepare for augment in ("crop", "crop", "flip"))
    assert first == again
    assert hash(first) == hash(again)
    assert first != other


def test_without_grain_it_says_what_to_install(monkeypatch, noise):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(MissingDependencyError, match="Training at more than 64 pixels needs the package grain"):
        epoch(Decoded(noise, LABELS, RandomResizedCrop(LARGE), 4))


@pytest.mark.parametrize(("size", "shape"), [(4, 4), (11, 11), (256, 11), (1, 1)])
def test_outputs_are_those_of_one_big_batch_and_there_is_one_program(size, shape, rng):
    images, w, traced = rng.integers(0, 256, (11, 9, 10, 3), np.uint8), rng.normal(size=(192, 2)), []

    def fn(variables, x):
        traced.append(len(x))
        return jnp.tanh(x.reshape(len(x), -1) @ variables["params"]["w"])

    found = np.concatenate(list(batched_outputs(fn, {"params": {"w": w}}, images, SMALL, size)))
    np.testing.assert_allclose(found, np.tanh(SMALL(images).reshape(11, -1) @ w), rtol=1e-9, atol=1e-12)
    assert traced == [shape]
