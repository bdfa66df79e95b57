"""Encoded images are decoded to the original pixels, or give an error message."""

import io
import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from ntk_select.data.decode import decode_image
from ntk_select.errors import DataError


@pytest.fixture
def decoded(encoded):
    return lambda image, form="PNG", **options: decode_image(io.BytesIO(encoded(image, form, **options)), "x")


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_and_colour_come_back_as_they_were(decoded, pixels, form):
    np.testing.assert_array_equal(decoded(pixels(0), form), pixels(0))
    np.testing.assert_array_equal(decoded(pixels(0, channels=0), form), pixels(0, channels=0))


def test_lossless_webp_and_jpeg_2000_come_back_as_they_were(decoded, pixels):
    np.testing.assert_array_equal(decoded(pixels(0), "WEBP", lossless=True), pixels(0))
    np.testing.assert_array_equal(decoded(pixels(0, 32, 32), "JPEG2000", irreversible=False), pixels(0, 32, 32))


def test_jpeg_is_what_pillow_decodes(encoded, pixels):
    data = encoded(pixels(0), "JPEG")
    np.testing.assert_array_equal(decode_image(io.BytesIO(data), "x"), np.array(Image.open(io.BytesIO(data))))


def test_transparent_parts_are_put_on_white(decoded):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    np.testing.assert_array_equal(decoded(rgba), [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]])
    la = Image.merge("LA", [Image.fromarray(rgba[..., i].copy()) for i in (0, 3)])
    np.testing.assert_array_equal(decoded(la), [[10, 255, 204]])


def test_a_transparent_colour_of_grey_colour_and_palette_images_is_white(decoded):
    grey = np.array([[7, 9]], np.uint8)
    np.testing.assert_array_equal(decoded(grey, transparency=7), [[255, 9]])
    colour = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    np.testing.assert_array_equal(decoded(colour, transparency=(1, 2, 3)), [[[255] * 3, [4, 5, 6]]])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(decoded(palette), [[[1, 2, 3], [4, 5, 6]]])
    np.testing.assert_array_equal(decoded(palette, transparency=0), [[[255] * 3, [4, 5, 6]]])


def test_one_bit_becomes_black_and_white(decoded):
    bits = np.array([[True, False, True]])
    np.testing.assert_array_equal(decoded(Image.fromarray(bits)), bits * np.uint8(255))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(decoded, form):
    values = np.array([[0, 128, 129, 257, 40000, 65535]], np.uint16)
    np.testing.assert_array_equal(decoded(values, form), np.round(values / 257))


def test_whole_numbers_beyond_sixteen_bits_and_floats_are_refused(decoded):
    with pytest.raises(DataError, match=r"grey values run from 0 to 70000.*8-bit PNG"):
        decoded(np.array([[0, 70000]], np.int32), "TIFF")
    with pytest.raises(DataError, match=r"pixels are floats.*8-bit PNG"):
        decoded(np.array([[0.5]], np.float32), "TIFF")


def test_cmyk_becomes_rgb(decoded):
    cmyk = Image.new("CMYK", (2, 1), (255, 0, 0, 0))
    np.testing.assert_array_equal(decoded(cmyk, "TIFF"), [[[0, 255, 255]] * 2])


def test_the_exif_orientation_is_applied(decoded, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right-hand side
    np.testing.assert_array_equal(decoded(pixels(0), exif=exif), np.rot90(pixels(0), -1))


def test_of_an_animation_the_first_frame_counts(decoded):
    frames = [Image.new("L", (3, 2), value) for value in (10, 200)]
    np.testing.assert_array_equal(decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])[..., 0], np.full((2, 3), 10))


def test_empty_truncated_and_other_files_are_refused_by_name(encoded, pixels):
    whole = encoded(pixels(0, 64, 64))
    for data in (b"", b"hello", whole[: len(whole) // 2], encoded(pixels(0, 64, 64), "JPEG")[:-400]):
        with pytest.raises(DataError, match=r"cat.png: cannot be read as an image.*Try: replace or delete it"):
            decode_image(io.BytesIO(data), "cat.png")


def test_a_postscript_file_is_refused_whatever_its_name():
    with pytest.raises(DataError, match=r"cannot be read as an image"):
        decode_image(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cat.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"bomb.png: the image is too large"):
        decode_image(io.BytesIO(bomb), "bomb.png")


def test_pillows_warning_about_large_images_is_an_error_here(encoded, pixels, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DataError, match=r"too large \(5 x 6 pixels\)"):
        decode_image(io.BytesIO(encoded(pixels(0))), "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(io.BytesIO(encoded(pixels(0))), "x").shape == (6, 5, 3)


@hypothesis.given(place=st.integers(0, 10_000), value=st.integers(0, 255), form=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP"]))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=40)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_byte_gives_pixels_or_a_data_error(encoded, pixels, place, value, form):
    data = bytearray(encoded(pixels(0), form))
    data[place % len(data)] = value
    try:
        image = decode_image(io.BytesIO(data), "x")
    except DataError:
        return
    assert image.dtype == np.uint8
