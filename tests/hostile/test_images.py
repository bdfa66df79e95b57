"""Unusual images in a folder give the right pixels, or an error message that names the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ntk_select.data import load_task
from ntk_select.errors import DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(image, form="PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *, bits=8, colour=0, rows=b"", more=b"") -> bytes:
    """A PNG by the definition of the format; colour 0 is grey, 2 RGB, 3 a palette, 4 grey with opacity, 6 RGB with opacity."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def read(tmp_path):
    """read(content, name): the pixels of a file in a folder of two classes."""

    def pixels(content: bytes, name: str = "cat.png") -> np.ndarray:
        for folder in ("cats", "dogs"):
            (tmp_path / "pets" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / "cats" / name).write_bytes(content)
        (tmp_path / "pets" / "dogs" / "dog.png").write_bytes(encoded(PIXELS))
        task = load_task(f"folder:{tmp_path / 'pets'}")
        np.testing.assert_array_equal(task.images[1], PIXELS)  # the other image is read whatever the first one is
        return task.images[0]

    return pixels


UNREADABLE = r"pets/cats/cat\.png: cannot be read as an image \({}.*\)\. Try: replace or delete it"
NAMED = r"pets/cats/cat\.png: cannot be read as an image: it is {}"
STRANGE = UNREADABLE.format("its first bytes are not those of JPEG, PNG, BMP, GIF, JPEG2000, PPM, TIFF, WEBP")
LARGE = r"pets/cats/cat\.png: the image is too large \({}.*\)\. Try: resize it; experts see a few hundred pixels per side"
BAD = {
    "no bytes": (b"", NAMED.format(r"empty\. Try: replace or delete it")),
    "a web page": (b"<html>404 not found</html>", NAMED.format(r"a web page, .*\. Try: download the file itself")),
    "a pointer of Git LFS after a byte-order mark": (
        b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        NAMED.format(r"a Git LFS pointer, .*git lfs pull"),
    ),
    "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", NAMED.format(r"an SVG drawing\. Try: render as PNG")),
    "a program for a printer": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n", NAMED.format("a PostScript drawing")),
    "half a PNG": (encoded(NOISE)[:6000], UNREADABLE.format("OSError: image file is truncated")),
    "half a JPEG": (encoded(NOISE, "JPEG")[:1500], UNREADABLE.format("OSError: image file is truncated")),
    "a JPEG without its last bytes": (encoded(NOISE, "JPEG")[:-20], UNREADABLE.format("OSError: image file is truncated")),
    "half a GIF": (encoded(NOISE, "GIF")[:3000], UNREADABLE.format("OSError: image file is truncated")),
    "half a BMP": (encoded(NOISE, "BMP")[:6000], UNREADABLE.format("OSError: image file is truncated")),
    "half a TIFF": (encoded(NOISE, "TIFF", compression="tiff_lzw")[:8000], UNREADABLE.format("")),
    "half a WebP": (encoded(NOISE, "WEBP")[:1500], UNREADABLE.format("")),
    "half a JPEG 2000": (encoded(NOISE, "JPEG2000")[:40], UNREADABLE.format("")),
    "a PNG with a turned bit": (encoded(NOISE)[:5000] + b"!" + encoded(NOISE)[5001:], UNREADABLE.format("")),
    "no pixels": (png(0, 0), STRANGE),
    "a side below zero": (b"P6 -1 5 255\n", STRANGE),
    "four billion pixels that are not there": (png(65_535, 65_535), LARGE.format(r"Image size \(4294836225 pixels\) exceeds limit")),
    "ten billion pixels in 20 bytes": (b"P6 99999 99999 255\n", LARGE.format(r"Image size \(9999800001 pixels\) exceeds limit")),
    "81 million pixels that are not there": (png(9000, 9000), UNREADABLE.format("OSError: image file is truncated")),
    "a text of 128 MiB in a few kilobytes": (
        png(1, 1, rows=b"\0\0", more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))),
        UNREADABLE.format("ValueError: Decompressed data too large"),
    ),
    "a profile of 128 MiB in a few kilobytes": (
        png(1, 1, rows=b"\0\0", more=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27)))),
        UNREADABLE.format("ValueError: Decompressed data too large"),
    ),
    "floats": (
        encoded(np.float32([[0.5, np.nan]]), "TIFF"),
        r"cat\.png: the pixels are floats of unknown range\. Try: save the image as 8-bit PNG",
    ),
    "32 bits": (encoded(np.int32([[0, 70_000]]), "TIFF"), r"cat\.png: grey values run from 0 to 70000; allowed are 8 and 16 bits, 0 to 65535"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_named_when_it_is_asked_for(read, case):
    content, sentence = BAD[case]
    with pytest.raises(DataError, match=sentence):
        read(content)


def strips(*colours):
    return np.array([colours], np.uint8)


def turned(way: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = way
    return encoded(PIXELS, exif=exif)


def indexed(colours, opacity=()) -> bytes:
    more = chunk(b"PLTE", bytes(value for colour in colours for value in colour)) + chunk(b"tRNS", bytes(opacity))
    return png(len(colours), 1, colour=3, rows=bytes([0, *range(len(colours))]), more=more)


FRAMES = [Image.new("RGB", (2, 2), colour) for colour in (RED, GREEN, BLUE)]
CMYK = Image.merge(
    "CMYK", [Image.fromarray(np.array([values], np.uint8)) for values in ([0, 255, 0, 255], [0, 0, 255, 0], [0, 0, 0, 0], [0, 0, 0, 128])]
)
BY_TEN_BITS = struct.pack(">4H", 0, 0x1234, 0x80FF, 0xFFFF)

GOOD = {
    "the name of another format": (encoded(PIXELS, "BMP"), PIXELS),
    "16-bit grey": (png(4, 1, bits=16, rows=b"\0" + BY_TEN_BITS), [[0, 0x12, 0x80, 255]]),
    "16-bit colour": (png(1, 1, bits=16, colour=2, rows=b"\0" + BY_TEN_BITS[2:]), [[[0x12, 0x80, 255]]]),
    "16-bit colour with opacity none": (png(1, 1, bits=16, colour=6, rows=b"\0" + BY_TEN_BITS[2:] + b"\0\0"), [[[255] * 3]]),
    "2-bit grey": (png(4, 1, bits=2, rows=b"\0\x1b"), [[0, 85, 170, 255]]),
    "CMYK": (encoded(CMYK, "TIFF"), [[[255] * 3, [0, 255, 255], [255, 0, 255], [0, 127, 127]]]),
    "a palette": (indexed([RED, GREEN, BLUE]), strips(RED, GREEN, BLUE)),
    "a palette with transparent colours": (indexed([RED, GREEN, BLUE], [255, 0, 255]), strips(RED, (255, 255, 255), BLUE)),
    "a palette with half-transparent colours": (indexed([RED, (0, 0, 0)], [255, 51]), strips(RED, (204, 204, 204))),
    "grey with opacity": (png(2, 1, colour=4, rows=b"\0\x0a\xff\x0a\x00"), [[10, 255]]),
    "an animated GIF": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), [[RED] * 2] * 2),
    "an animated PNG": (encoded(FRAMES[0], save_all=True, append_images=FRAMES[1:]), [[RED] * 2] * 2),
    "an animated WebP": (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True), [[RED] * 2] * 2),
    "a TIFF of several pages": (encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), [[RED] * 2] * 2),
    "upside down": (turned(3), PIXELS[::-1, ::-1]),
    "in a mirror": (turned(2), PIXELS[:, ::-1]),
    "on its left side": (turned(6), np.rot90(PIXELS, -1)),
    "on its right side": (turned(8), np.rot90(PIXELS, 1)),
    "turned in a mirror": (turned(5), PIXELS.transpose(1, 0, 2)),
    "turned in a way that is none": (turned(99), PIXELS),
    "one pixel": (encoded(PIXELS[:1, :1]), PIXELS[:1, :1]),
    "a thread of 20,000 pixels": (encoded(np.zeros((1, 20_000), np.uint8)), np.zeros((1, 20_000), np.uint8)),
}


@pytest.mark.parametrize("case", GOOD)
def test_an_odd_image_has_the_pixels_that_were_put_in(read, case):
    content, pixels = GOOD[case]
    found = read(content)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.array(pixels))
