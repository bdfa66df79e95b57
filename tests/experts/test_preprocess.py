"""Preprocessing equals Pillow's resizing, torchvision's crop and the standard normalisation, in bounded memory."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntk_select import Card, Preprocess
from ntk_select.errors import ConfigError, DataError, MissingDependencyError, ModelError
from ntk_select.experts import resize as resize_module
from ntk_select.experts.preprocess import INTERPOLATIONS

SHAPES = [(9, 9), (9, 14), (14, 9), (40, 13), (13, 41), (8, 8), (100, 70)]


@pytest.fixture
def noise():
    return lambda shape: np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def resized_by_pillow(image, width, height, interpolation):
    return np.asarray(Image.fromarray(image).resize((width, height), resample=Image.Resampling[interpolation.upper()]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_shorter_side_is_resized_and_the_middle_kept(noise, shape, interpolation):
    image, (height, width), resize, size = noise((*shape, 3)), shape, 10, 8
    long = int(resize * max(shape) / min(shape))
    new_height, new_width = (resize, long) if height <= width else (long, resize)
    large = resized_by_pillow(image, new_width, new_height, interpolation)
    top, left = int(round((new_height - size) / 2.0)), int(round((new_width - size) / 2.0))  # noqa: RUF046 (as torchvision writes it)
    expected = large[top : top + size, left : left + size]
    np.testing.assert_array_equal(Preprocess(size=size, resize=resize, interpolation=interpolation).resized([image])[0], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_resize_the_whole_image_is_squeezed(noise, shape):
    image = noise((*shape, 3))
    np.testing.assert_array_equal(Preprocess(size=8).resized([image])[0], resized_by_pillow(image, 8, 8, "bilinear"))


@pytest.mark.parametrize(("spare", "offset"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)])
@pytest.mark.parametrize("wide", [True, False])
def test_crop_offsets_are_those_of_torchvision(spare, offset, wide):
    """int(round(spare / 2.0)) rounds halves to even. Nothing is resized here, so every column is its own number."""
    ramp = np.repeat(np.arange(6 + spare, dtype=np.uint8)[None], 6, axis=0)
    kept = Preprocess(size=6, resize=6).resized([ramp if wide else ramp.T])[0, :, :, 0]
    assert (kept if wide else kept.T)[0].tolist() == list(range(offset, offset + 6))


@pytest.fixture(scope="module")
def transforms():
    """torchvision.transforms, imported as the tests of models/ import torchvision."""
    for package in ("torch", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    spec = importlib.util.spec_from_file_location("torchvision_oracle", Path(__file__).parents[1] / "models" / "torchvision_oracle.py")
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    oracle.import_torchvision()
    return importlib.import_module("torchvision.transforms")


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_torchvision_agrees(transforms, noise, shape, interpolation):
    mode = transforms.InterpolationMode(interpolation)
    theirs = transforms.Compose([transforms.Resize(10, mode), transforms.CenterCrop(8)])
    image = noise((*shape, 3))
    ours = Preprocess(size=8, resize=10, interpolation=interpolation).resized([image])[0]
    np.testing.assert_array_equal(ours, np.asarray(theirs(Image.fromarray(image))))


def test_values_are_normalised_by_channel(noise):
    pixels, mean, std = noise((4, 5, 5, 3)), (0.1, 0.4, 0.9), (0.5, 0.2, 0.3)
    got = Preprocess(size=5, mean=mean, std=std).normalised(pixels)
    assert got.dtype == np.float32
    for channel in range(3):
        np.testing.assert_allclose(got[..., channel], (pixels[..., channel] / 255 - mean[channel]) / std[channel], rtol=2e-6, atol=1e-6)


def test_calling_is_resizing_then_normalising_images_of_any_sizes(noise):
    preprocess = Preprocess(size=6, resize=7)
    got = preprocess([noise((9, 30, 3)), noise((12, 8)), noise((7, 7, 1))])
    assert got.shape == (3, 6, 6, 3)
    np.testing.assert_array_equal(got[1], preprocess([noise((12, 8))])[0])


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 1)])
def test_grey_becomes_three_equal_channels(noise, shape):
    grey = noise((9, 12))
    got = Preprocess(size=5, resize=6).resized([grey.reshape(shape)])[0]
    np.testing.assert_array_equal(got, Preprocess(size=5, resize=6).resized([np.stack([grey] * 3, axis=-1)])[0])
    assert (got[..., 0] == got[..., 2]).all()


def test_an_image_of_the_right_size_is_left_alone(noise):
    image = noise((8, 8, 3))
    np.testing.assert_array_equal(Preprocess(size=8, resize=8).resized([image])[0], image)


def test_geometry_tells_whether_resized_images_can_be_shared():
    base = Preprocess(size=8, resize=10)
    assert base.geometry == Preprocess(size=8, resize=10, mean=(0, 0, 0), std=(1, 1, 1)).geometry
    others = [Preprocess(size=8), Preprocess(size=9, resize=10), Preprocess(size=8, resize=11), Preprocess(size=8, resize=10, interpolation="box")]
    assert base.geometry not in [other.geometry for other in others]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be an integer of at least 1"),
        ({"size": 8, "resize": 7}, "size=8, resize=7"),
        ({"size": 8, "mean": (0.5,)}, "both need three numbers"),
        ({"size": 8, "std": (0.5, 0.5)}, "both need three numbers"),
        ({"size": 8, "std": (0.5, 0.0, 0.5)}, "std above 0"),
        ({"size": 8, "interpolation": "bicubik"}, "'bicubik' is unknown. Did you mean 'bicubic'"),
        pytest.param({"size": 8, "std": (float("nan"), 1, 1)}, "std"),
        pytest.param({"size": 8.5}, "size"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Preprocess(**options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"type float32 and shape \(4, 4, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\); allowed: uint8"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), "shape"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(DataError, match=message):
        Preprocess(size=4, resize=4)([image])


def test_without_pillow_the_sentence_says_what_to_install(monkeypatch, noise):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="Resizing images needs the package Pillow.*pip install"):
        Preprocess(size=4)([noise((8, 8, 3))])
    assert Preprocess(size=8)([noise((8, 8, 3))]).shape == (1, 8, 8, 3)


WIDE = [(9, 300), (1, 2000), (57, 57), (64, 200), (70, 100)]
TALL = [(300, 9), (2000, 1), (3000, 41), (100, 70)]


def crop_by_pillow(image, resize, size, interpolation):
    height, width = image.shape[:2]
    short = min(height, width)
    new_height, new_width = (int(resize * side / short) for side in (height, width)) if resize else (size, size)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return resized_by_pillow(image, new_width, new_height, interpolation)[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", WIDE + TALL)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("block", [pytest.param(2**22, marks=pytest.mark.nightly), 500])
def test_resizing_only_what_the_crop_keeps_gives_pillows_values(noise, monkeypatch, shape, interpolation, block):
    """Pillow may resize the columns of tall images first; the values between the two steps are then rounded and clipped elsewhere."""
    monkeypatch.setattr(resize_module, "WHOLE", 0)
    monkeypatch.setattr(resize_module, "BLOCK", block)
    for image in (noise((*shape, 3)), noise(shape)):
        for resize, size in [(10, 8), (64, 57), (33, 32), (None, 40)]:
            ours = Preprocess(size=size, resize=resize, interpolation=interpolation).resized([image])[0]
            theirs = crop_by_pillow(image, resize, size, interpolation)
            theirs = np.stack([theirs] * 3, axis=-1) if image.ndim == 2 else theirs
            if shape in WIDE:
                np.testing.assert_array_equal(ours, theirs)
            elif interpolation in ("bilinear", "box"):
                assert np.abs(ours.astype(int) - theirs).max() <= 1
            else:
                assert np.abs(ours.astype(int) - theirs).mean() < 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("kept", [0, 2**23])
def test_weights_in_pieces_give_pillows_values(noise, monkeypatch, interpolation, kept):
    for name, value in (("WHOLE", 0), ("PIECE", 7), ("CACHED", kept)):
        monkeypatch.setattr(resize_module, name, value)
    for image in (noise((5, 300, 3)), noise((30, 31))):
        ours = Preprocess(size=4, interpolation=interpolation).resized([image])[0]
        theirs = crop_by_pillow(image, None, 4, interpolation)
        np.testing.assert_array_equal(ours, np.stack([theirs] * 3, axis=-1) if image.ndim == 2 else theirs)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("side", [8_000, 3_000_000])
def test_a_pixel_that_stands_for_millions_is_their_mean(monkeypatch, interpolation, side):
    monkeypatch.setattr(resize_module, "WHOLE", 0)
    for value in (7, 255):
        assert (Preprocess(size=1, interpolation=interpolation).resized([np.full((1, side), value, np.uint8)]) == value).all()


def test_the_nearest_pixel_is_kept_where_only_the_crop_is_resized(monkeypatch):
    monkeypatch.setattr(resize_module, "WHOLE", 0)
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None], 3, axis=0)
    ours = Preprocess(size=4, resize=4, interpolation="nearest").resized([ramp])[0, 0, :, 0]
    middle = (np.arange(4) + (320 - 4) // 2 + 0.5) * 240 / 320
    assert ours.tolist() == middle.astype(int).tolist()


def peak_of(code):
    """MiB of resident memory that a script reached, less what it had after its imports."""
    begin = "import resource, numpy as np; from PIL import Image; from ntk_select.experts.preprocess import Preprocess\n"
    peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024"
    done = subprocess.run(
        [sys.executable, "-c", f"{begin}before = {peak}\n{code}\nprint({peak} - before)"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((20_000, 1), {"size": 224, "resize": 256}),
        ((1, 20_000, 3), {"size": 224, "resize": 256, "interpolation": "lanczos"}),
        ((2_000_000, 2), {"size": 224}),
        ((2, 2_000_000, 3), {"size": 224, "interpolation": "bicubic"}),
        pytest.param((3, 40_000, 3), {"size": 32, "resize": 1024, "interpolation": "nearest"}, marks=pytest.mark.nightly),
        pytest.param((1, 10_000_000), {"size": 1, "interpolation": "lanczos"}, marks=pytest.mark.nightly),
    ],
)
def test_the_memory_for_an_image_of_any_shape_is_bounded(shape, options):
    height, width = shape[:2]
    peak = peak_of(f"image = np.full({shape}, 7, np.uint8)\npixels = Preprocess(**{options}).resized([image])\nassert (pixels == 7).all()")
    assert peak <= 256 + (4 + 3) * height * width / 2**20


@pytest.mark.parametrize(
    ("mean", "std", "fix"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225$"),
        ((127.5,) * 3, (127.5,) * 3, r"--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5$"),
        ((103.939, 116.779, 123.68), (1, 1, 1), r"--mean 0.4076 0.458 0.485 --std 0.003922 0.003922 0.003922$"),
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), r"--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225$"),
        ((0, 0, 0), (255, 255, 255), r"--mean 0 0 0 --std 1 1 1$"),
        ((-123.675, -116.28, -103.53), (0.229, 0.224, 0.225), r"--mean -0.485 -0.456 -0.406 --std 0.229 0.224 0.225$"),
    ],
)
def test_a_mean_or_deviation_on_the_scale_to_255_is_refused_with_the_values_meant(mean, std, fix):
    with pytest.raises(ConfigError, match=r"pixels in 0 \.\. 255; .*Divide by 255. Try: " + fix):
        Preprocess(size=4, mean=mean, std=std)


@pytest.mark.parametrize(
    ("mean", "factor", "std"), [((103.94, 116.78, 123.68), 0.017, "0.2307"), ((127.5,) * 3, 0.00784313725, "0.5"), ((127.5,) * 3, 1 / 256, "1")]
)
def test_a_factor_of_caffe_is_turned_into_a_deviation(mean, factor, std):
    with pytest.raises(ConfigError, match=rf"looks like a factor .*Caffe.*: --mean [\d. ]+ --std {std} {std} {std}$") as caught:
        Preprocess(size=4, mean=mean, std=(factor,) * 3)
    means, stds = (tuple(map(float, part.split())) for part in str(caught.value).split("--mean ")[1].split(" --std "))
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ours = Preprocess(size=16, mean=means, std=stds)([pixels])[0, ..., 0]
    np.testing.assert_allclose(ours, (pixels.astype(float) - mean[0]) * factor, atol=5e-3)


def test_a_card_with_values_on_the_scale_to_255_is_refused_with_the_values_meant():
    card = json.loads(Card("a", "resnet18", "trees", Preprocess(8), "", 2).to_json())
    card["preprocess"] |= {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    with pytest.raises(ModelError, match=r"Divide by 255. Try: --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"):
        Card.from_json(json.dumps(card), "card.json")


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (1,) * 3), ((0,) * 3, (1,) * 3), ((0,) * 3, (1 / 255,) * 3), ((1,) * 3, (1,) * 3)])
def test_usual_normalisations_are_allowed(mean, std):
    assert Preprocess(size=4, mean=mean, std=std).std == std
    np.testing.assert_allclose(Preprocess(size=1, std=(1 / 255,) * 3, mean=(0,) * 3)([np.full((1, 1), 200, np.uint8)]), 200, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        (np.array([[0, 4095]], np.uint16), r"12 bits, so that 4095 is white, try: \(images / 4095 \* 255\)"),
        (np.array([[0, 255]], np.int64), r"images.round\(\).astype\('uint8'\)"),
        (np.array([[0, 1.0]]), r"floats in 0..1, try: \(images \* 255\)"),
        (np.array([[True, False]]), r"images.astype\('uint8'\) \* 255"),
        (np.array([[-2.0, 2.0]]), "from -2 to 2: undo the normalisation"),
        (np.array([[0, 2**20]]), "run up to 1.04858e\\+06; divide by the value of white"),
        (np.array([[0, np.nan]]), "Allowed: integers from 0 to 255"),
    ],
)
def test_an_image_of_another_type_is_refused_with_its_conversion(values, fix):
    with pytest.raises(DataError, match=r"allowed: uint8 with .* or \(h, w, 3\)\. .*" + fix):
        Preprocess(size=1)([values])
