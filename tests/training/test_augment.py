"""Random views: exact crops, exact flips, rotations as in SciPy, and random resized crops as in torchvision."""

import sys
from functools import partial

import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
from PIL import Image

from ntk_select.errors import ConfigError, DataError, MissingDependencyError
from ntk_select.experts.preprocess import Preprocess
from ntk_select.training.augment import AUGMENTATIONS, RandomResizedCrop, check_augmentation
from ntk_select.training.augment import augmented as eager

KEY = jax.random.key(3)


def augmented(key, images, **options):
    """In one compilation."""
    return jax.jit(partial(eager, **options))(key, images)


def images_of(n=40, height=5, width=6):
    return np.random.default_rng(0).random((n, height, width, 3)).astype(np.float32)


def windows(padded, height, width):
    """All crops, by the place of their corner."""
    return {(i, j): padded[i : i + height, j : j + width] for i in range(padded.shape[0] - height + 1) for j in range(padded.shape[1] - width + 1)}


@pytest.mark.parametrize(("option", "mode"), [("pad", "constant"), ("shift", "edge")])
def test_crops_are_exact_windows_of_the_padded_image_and_each_occurs(option, mode):
    images = images_of(300)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)
    places = set()
    for found, base in zip(np.asarray(augmented(KEY, images, **{option: 1})), padded, strict=True):
        (place,) = (place for place, view in windows(base, 5, 6).items() if np.array_equal(view, found))
        places.add(place)
    assert len(places) == 9


def test_padding_and_shifting_draw_apart():
    images = np.zeros((400, 9, 9, 1), np.float32)
    images[:, 4, 4] = 1
    found = np.asarray(augmented(KEY, images, pad=1, shift=1))[..., 0]
    moved = {tuple(np.argwhere(image == 1)[0] - 4) for image in found}
    assert {abs(down) for down, _ in moved} == {0, 1, 2}  # one and the same draw would move by even numbers alone


@pytest.mark.parametrize(("option", "axis"), [("flip_horizontal", 1), ("flip_vertical", 0)])
def test_flips_are_exact_and_of_probability_one_half(option, axis):
    images = images_of(400)
    mirrored = 0
    for found, image in zip(np.asarray(augmented(KEY, images, **{option: True})), images, strict=True):
        flipped = np.array_equal(found, np.flip(image, axis))
        assert flipped or np.array_equal(found, image)
        mirrored += flipped
    assert abs(mirrored - 200) < 4 * 10  # four standard deviations


def smooth(height, width):
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([np.sin(rows / 3), np.cos(columns / 4), rows * columns / 100], -1).astype(np.float32)


def moved_by_scipy(image, angle, scale=1.0):
    """Bilinear, edges repeated, about the middle: output pixel p comes from matrix @ (p - middle) + middle."""
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(image.shape[:2]) - 1) / 2
    channels = [scipy.ndimage.affine_transform(image[..., c], matrix, middle - matrix @ middle, order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, -1)


def test_images_are_turned_by_an_angle_within_the_limit_as_scipy_turns_them():
    image, angles = smooth(12, 9), []
    for found in np.asarray(augmented(KEY, np.stack([image] * 8), rotate=20.0)):

        def distance(angle, found=found):
            return np.abs(moved_by_scipy(image, angle) - found).max()

        start = min(np.linspace(-0.36, 0.36, 73), key=distance)
        best = scipy.optimize.minimize_scalar(distance, bounds=(start - 0.02, start + 0.02), method="bounded", options={"xatol": 1e-9})
        assert best.fun < 2e-5
        angles.append(np.rad2deg(best.x))
    assert max(map(abs, angles)) <= 20
    assert np.std(angles) > 5


def test_zoom_scales_about_the_middle_as_scipy_does():
    image = smooth(11, 8)
    for found in np.asarray(augmented(KEY, np.stack([image] * 6), zoom=0.2)):

        def distance(scale, found=found):
            return np.abs(moved_by_scipy(image, 0.0, scale) - found).max()

        start = min(np.linspace(0.79, 1.21, 85), key=distance)
        best = scipy.optimize.minimize_scalar(distance, bounds=(start - 0.01, start + 0.01), method="bounded", options={"xatol": 1e-9})
        assert best.fun < 2e-5
        assert 0.8 <= best.x <= 1.2


def test_shear_moves_columns_alone():
    image = smooth(9, 9)
    image[:] = image[:, :1]  # the same in all columns
    np.testing.assert_allclose(augmented(KEY, np.stack([image] * 4), shear=0.3), np.stack([image] * 4), atol=1e-6)
    other = smooth(9, 9)
    assert np.abs(np.asarray(augmented(KEY, np.stack([other] * 4), shear=0.3)) - other).max() > 0.01


def test_an_even_image_stays_even_and_a_limit_of_nothing_changes_nothing():
    even = np.full((4, 7, 7, 3), 0.3, np.float32)
    np.testing.assert_allclose(augmented(KEY, even, rotate=90, zoom=0.5, shear=0.5, shift=2, flip_vertical=True), even, atol=1e-6)
    images = images_of()
    np.testing.assert_array_equal(augmented(KEY, images), images)


def test_brightness_scales_and_adds_within_its_share_and_keeps_the_type():
    images = images_of()
    found = augmented(KEY, images, brightness=0.2)
    assert found.dtype == np.float32
    for before, after in zip(images, np.asarray(found, float), strict=True):
        factor, added = np.polyfit(before.ravel(), after.ravel(), 1)
        np.testing.assert_allclose(after, factor * before + added, atol=1e-5)
        assert abs(factor - 1) <= 0.2 + 1e-5
        assert abs(added) <= 0.2 + 1e-5


def test_each_image_has_its_own_draws_and_each_key_others():
    images = np.stack([smooth(9, 9)] * 3)
    options = {"shift": 2, "rotate": 10, "flip_horizontal": True, "brightness": 0.1}
    first, again, other = (np.asarray(augmented(key, images, **options)) for key in (KEY, KEY, jax.random.key(4)))
    np.testing.assert_array_equal(first, again)
    assert len({view.tobytes() for view in (*first, *other)}) == 6


def test_named_augmentations_are_options_and_others_are_refused():
    for name, options in AUGMENTATIONS.items():
        check_augmentation(name)
        assert augmented(KEY, images_of(2), **options).shape == (2, 5, 6, 3)
    check_augmentation("auto")
    with pytest.raises(ConfigError, match="augment='crops' is unknown. Allowed: auto, crop_flip, crop, flip, none"):
        check_augmentation("crops")


def torchvisions_window(height, width, draws, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """`RandomResizedCrop.get_params`, written out; `draws` gives numbers from 0 to 1 and whole numbers below."""
    uniform, below = draws
    for _ in range(10):
        target = height * width * uniform(*area)
        aspect = np.exp(uniform(*np.log(ratio)))
        w, h = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return below(height - h + 1), below(width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(60, 80), (224, 224), (7, 100), (300, 9), (1, 1), (1, 500)])
def test_windows_are_drawn_as_torchvision_draws_them(shape):
    crop, rng, same = RandomResizedCrop(Preprocess(32)), np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(200):
        found = crop.window(*shape, rng)
        assert found == torchvisions_window(*shape, (same.uniform, same.integers))
        top, left, height, width = found
        assert top >= 0 <= left
        assert 0 < height <= shape[0] - top
        assert 0 < width <= shape[1] - left


def test_shares_and_shapes_of_windows_lie_in_their_ranges_and_fill_them():
    crop, rng = RandomResizedCrop(Preprocess(32), area=(0.2, 0.6)), np.random.default_rng(0)
    drawn = np.array([crop.window(400, 400, rng)[2:] for _ in range(2000)], float)
    shares, shapes = drawn.prod(1) / 400**2, drawn[:, 1] / drawn[:, 0]
    assert 0.195 < shares.min() < 0.21
    assert 0.59 < shares.max() < 0.605
    assert abs(shares.mean() - 0.4) < 4 * 0.4 / np.sqrt(12 * 2000) + 0.002  # uniform
    assert 0.74 < shapes.min() < 0.76
    assert 1.32 < shapes.max() < 1.35
    assert abs(np.log(shapes).mean()) < 4 * 2 * np.log(4 / 3) / np.sqrt(12 * 2000) + 0.002  # uniform in the logarithm


@pytest.mark.parametrize(("shape", "expected"), [((100, 1000), (0, 433, 100, 133)), ((1000, 99), (434, 0, 132, 99)), ((50, 60), (0, 0, 50, 60))])
def test_images_that_no_draw_fits_give_their_middle(shape, expected):
    whole = RandomResizedCrop(Preprocess(32), area=(30.0, 40.0))
    assert whole.window(*shape, np.random.default_rng(0)) == expected


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50), (40, 50, 1)])
def test_a_view_is_pillows_resize_of_the_window_perhaps_mirrored(shape, interpolation, rng):
    image = rng.integers(0, 256, shape, np.uint8)
    crop, mirrored = RandomResizedCrop(Preprocess(16, interpolation=interpolation)), 0
    for seed in range(20):
        top, left, height, width = crop.window(40, 50, np.random.default_rng(seed))
        picture = Image.fromarray(image.reshape(shape[:2]) if shape[2:] != (3,) else image).convert("RGB")
        box = (left, top, left + width, top + height)
        expected = np.asarray(picture.crop(box).resize((16, 16), getattr(Image.Resampling, interpolation.upper())))
        found = crop(image, np.random.default_rng(seed))
        assert (found.dtype, found.shape) == (np.uint8, (16, 16, 3))
        flipped = np.array_equal(found, expected[:, ::-1])
        assert flipped or np.array_equal(found, expected)
        mirrored += flipped
    assert 0 < mirrored < 20


def test_without_flip_no_view_is_mirrored(rng):
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    straight = RandomResizedCrop(Preprocess(20), area=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    for seed in range(8):
        np.testing.assert_array_equal(straight(image, np.random.default_rng(seed)), image)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8), np.zeros((1, 2, 2, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image, rng):
    with pytest.raises(DataError, match=r"An image has type .* and shape .*; allowed: uint8 with \(h, w\), \(h, w, 1\) or \(h, w, 3\)"):
        RandomResizedCrop(Preprocess(8))(image, rng)


def test_without_pillow_it_says_what_to_install(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="Cropping images needs the package Pillow"):
        RandomResizedCrop(Preprocess(8))(np.zeros((9, 9), np.uint8), rng)
