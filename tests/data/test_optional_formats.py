"""AVIF and HEIC are read where their readers are installed, and called by their names where they are not."""

import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, features

from ntk_select.data import load_task
from ntk_select.data.decode import decode_image
from ntk_select.data.image_files import by_suffix, is_image, optional_formats
from ntk_select.errors import DataError

HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(64)


@pytest.fixture(params=["AVIF", "HEIF"])
def form(request):
    """A format whose reader and writer are installed."""
    if request.param == "HEIF":
        pytest.importorskip("pillow_heif")
    elif not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    assert request.param in optional_formats()
    return request.param


def saved(image, form, orientation=1):
    """The bytes of an image with almost no loss."""
    exif = Image.Exif()
    exif[274] = orientation
    options = {"AVIF": {"quality": 100, "subsampling": "4:0:0" if image.ndim == 2 else "4:4:4"}, "HEIF": {"quality": -1, "chroma": 444}}.get(form, {})
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, exif=exif.tobytes(), **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_applied_once(form, pixels, orientation):
    image = np.kron(pixels(1, 4, 5), np.ones((8, 8, 1), np.uint8))
    found, expected = (decode_image(io.BytesIO(saved(image, each, orientation)), "x") for each in (form, "PNG"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 3  # conversion to YCbCr and back


def test_grey_images_stay_grey_and_transparent_ones_are_laid_on_white(form):
    grey = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 16, 0)
    found = decode_image(io.BytesIO(saved(grey, form)), "x")
    assert found.shape == grey.shape
    assert np.abs(found.astype(int) - grey).max() <= 3
    assert decode_image(io.BytesIO(saved(np.zeros((16, 16, 4), np.uint8), form)), "x").min() >= 252


def test_a_folder_of_such_images_is_a_task(form, folder_of, pixels):
    suffix = {"AVIF": "avif", "HEIF": "HEIC"}[form]
    image = np.kron(pixels(1, 2, 2), np.ones((8, 8, 1), np.uint8))
    task = load_task(folder_of({f"cat/1.{suffix}": saved(image, form), "dog/1.png": saved(image, "PNG")}))
    assert len(task.labels) == 2
    assert np.abs(task.images[0].astype(int) - task.images[1]).max() <= 3


def test_damaged_images_are_called_by_the_name_of_their_format(form, pixels):
    data = saved(np.kron(pixels(1, 4, 4), np.ones((8, 8, 1), np.uint8)), form)
    for part in (data[:40], data[: len(data) // 2]):
        with pytest.raises(DataError, match=r"x: cannot be read as an image.*: it is an? (AVIF image|HEIC photograph) that its reader cannot decode"):
            decode_image(io.BytesIO(part), "x")


def test_a_grey_heic_of_more_than_8_bits_is_scaled_from_16():
    pytest.importorskip("pillow_heif")
    assert "HEIF" in optional_formats()
    values = np.repeat(np.linspace(0, 20_000, 64).astype(np.uint16)[None], 64, 0)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "HEIF", quality=-1)
    assert np.abs(decode_image(file, "x").astype(int) - values * (255 / 65535)).max() <= 1


def test_a_reader_of_heic_is_registered_once_and_used(readers):
    class Stand(Image.Image):
        """An image of three black pixels, whatever the file says."""

        format, is_animated = "HEIF", False

        def __init__(self, file):
            super().__init__()
            pixels = Image.new("L", (3, 1))
            self.im, self._mode, self._size, self.fp = pixels.im, "L", pixels.size, file

    calls = []

    def register():
        calls.append(1)
        Image.register_open("HEIF", lambda file, name: Stand(file), lambda head: head[4:8] == b"ftyp")

    before = dict(Image.OPEN), list(Image.ID)
    try:
        readers(heif=SimpleNamespace(register_heif_opener=register))
        assert is_image("a.HEIC")
        assert by_suffix("a.heif") is None
        for _ in range(2):
            assert decode_image(io.BytesIO(HEIC), "x").tolist() == [[0, 0, 0]]
        assert calls == [1]
    finally:
        Image.OPEN.clear(), Image.OPEN.update(before[0])
        Image.ID[:] = before[1]


def test_without_a_reader_the_package_to_install_is_named(readers):
    readers(avif=SimpleNamespace(SUPPORTED=False), heif=None)
    assert optional_formats() == ()
    assert not is_image("a.heic")
    assert not is_image("a.avif")
    with pytest.raises(DataError, match="x: cannot be read as an image: it is a HEIC photograph. Try: pip install pillow-heif, or convert to JPEG"):
        decode_image(io.BytesIO(HEIC), "x")
    with pytest.raises(DataError, match=r"it is an AVIF image. Try: pip install 'pillow>=11.3', or convert to JPEG"):
        decode_image(io.BytesIO(HEIC.replace(b"heic", b"avif")), "x")
