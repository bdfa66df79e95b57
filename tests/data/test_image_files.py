"""Files of formats that are not read are called what they are."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ntk_select.data.decode import decode_image
from ntk_select.data.image_files import counted, identify
from ntk_select.errors import DataError


def box(brand, *others):
    return struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + brand + b"\0\0\0\0" + b"".join(others)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
HEADS = [
    (box(b"heic", b"mif1", b"heic"), "HEIC photograph", "Try: pip install pillow-heif, or convert to JPEG"),
    (box(b"mif1", b"heic"), "HEIC photograph", "Try: pip install pillow-heif, or convert to JPEG"),
    (box(b"mif1", b"avif"), "AVIF image", "Try: pip install 'pillow>=11.3', or convert to JPEG"),
    (box(b"avif", b"mif1"), "AVIF image", "Try: pip install 'pillow>=11.3', or convert to JPEG"),
    (box(b"crx ", b"isom"), "raw photograph of a camera", "Try: develop to JPEG"),
    (box(b"mif2"), "HEIC photograph", "Try: pip install pillow-heif, or convert to JPEG"),
    (box(b"heif"), "HEIC photograph", "Try: pip install pillow-heif, or convert to JPEG"),
    (box(b"avio"), "AVIF image", "Try: pip install 'pillow>=11.3', or convert to JPEG"),
    (box(b"jxl "), "JPEG XL image", "djxl"),
    (box(b"isom", b"mp41"), "video", "ffmpeg"),
    (box(b"3gp5"), "video", "ffmpeg"),
    (box(b"zzzz"), "ISO media container", "Try: if it is a picture, convert it to JPEG; if it is a video, save the frames"),
    (box(b"zzzz") + b"avif", "ISO media container", "Try: if it is a picture, convert it to JPEG"),
    (box(b"qt  "), "video", "ffmpeg"),
    (b"RIFF\x10\0\0\0AVI LIST", "video", "ffmpeg"),
    (b"\x1aE\xdf\xa3\x01", "video", "ffmpeg"),
    (b"\xff\x0a\x00\x10", "JPEG XL image", "djxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL image", "djxl"),
    (b"II*\0\x10\0\0\0CR\x02\0", "raw photograph of a camera", "Try: develop"),
    (b"FUJIFILMCCD-RAW 0201", "raw photograph of a camera", "Try: develop"),
    (b"8BPS\0\1", "Photoshop file", "Try: export as PNG"),
    (b"\x0a\5\1\x08" + bytes(8), "PCX image", "magick mogrify -format png"),
    (b"\x01\xda\0\1\0\3", "SGI image", "magick mogrify -format png"),
    (bytes(2) + b"\x0a" + bytes(9) + b"\x05\0\x04\0\x18\x20", "TGA image", "magick mogrify -format png"),
    (b"\0\1\1\0\0\0\1\x18\0\0\0\0\x05\0\x04\0\x08\0", "TGA image", "magick mogrify -format png"),
    (b"\0\0\1\0\1\0", "ICO image", "magick mogrify -format png"),
    (b"qoif\0\0", "QOI image", "magick mogrify -format png"),
    (b"icns\0\0", "ICNS image", "magick mogrify -format png"),
    (b"P7\nWIDTH 4\n", "PAM image", "magick mogrify -format png"),
    (b"%PDF-1.7\n", "PDF document", "pdftoppm"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript drawing", "Ghostscript"),
    (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing", "rsvg-convert"),
    (bytes(128) + b"DICM", "DICOM image", "pydicom"),
    (b"v/1\x01\x02\0\0\0", "OpenEXR image", "8-bit PNG"),
    (b"PK\3\4abc", "compressed archive", "Try: unpack it"),
    (b"\x93NUMPY\1\0", "file of arrays", "npz:FILE"),
    (POINTER, "Git LFS pointer", "git lfs pull"),
    (b"\xef\xbb\xbf" + POINTER, "Git LFS pointer", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>", "web page", "Try: download the file itself"),
    (b"", "empty", "Try: replace or delete it"),
]


def test_the_magic_number_identifies_the_format_whatever_the_name_is(readers):
    readers(avif=None, heif=None)
    for head, what, fix in HEADS:
        with pytest.raises(DataError, match=rf"^cat.jpg: cannot be read as an image: it is .*{what}") as caught:
            decode_image(io.BytesIO(head + bytes(64) if head else head), "cat.jpg")
        assert fix in str(caught.value), head
        assert ("elete" in str(caught.value)) == ("delete" in fix), head


def tiff(bands, bits, kind=1, compression=1, extra=(), order="<"):
    """A sound TIFF of 3 x 2 pixels."""
    pixels = bytes(3 * 2 * bands * bits // 8)
    head, at = (b"II*\0" if order == "<" else b"MM\0*"), 8 + len(pixels)
    lists = struct.pack(f"{order}{bands}H", *[bits] * bands) + struct.pack(f"{order}{bands}H", *[kind] * bands)
    photometric = 2 if bands == 3 else 1

    def entry(tag, value, form=4):
        return struct.pack(f"{order}HHI", tag, form, 1) + struct.pack(
            f"{order}I" if form == 4 else f"{order}HH", *((value,) if form == 4 else (value, 0))
        )

    def several(tag, place):
        short = struct.pack(f"{order}{bands}H", *[bits if tag == 258 else kind] * bands)
        return struct.pack(f"{order}HHI", tag, 3, bands) + (short.ljust(4, b"\0") if bands <= 2 else struct.pack(f"{order}I", place))

    tags = [entry(256, 3), entry(257, 2), several(258, at), entry(259, compression, 3), entry(262, photometric, 3), entry(273, 8)]
    tags += [entry(277, bands, 3), entry(278, 2), entry(279, len(pixels)), several(339, at + 2 * bands), *extra]
    ifd = struct.pack(f"{order}H", len(tags)) + b"".join(tags) + bytes(4)
    return head + struct.pack(f"{order}I", at + len(lists)) + pixels + lists + ifd


SOUND = [
    (2, 8, 1, "2 bands of 8-bit integers"),
    (5, 8, 1, "5 bands of 8-bit integers"),
    (5, 16, 1, "5 bands of 16-bit integers"),
    (13, 16, 1, "13 bands of 16-bit integers"),
    (3, 32, 3, "3 bands of 32-bit floats"),
    (1, 64, 3, "1 band of 64-bit floats"),
    (2, 32, 6, "2 bands of 32-bit complex numbers"),
    (3, 16, 2, "3 bands of 16-bit signed integers"),
]


@pytest.mark.parametrize("order", ["<", ">"])
def test_valid_tiffs_of_other_bands_and_types_are_described(order):
    for bands, bits, kind, what in SOUND:
        with pytest.raises(
            DataError, match=rf"a.tif: cannot be read as an image: it is a TIFF of {what}, 3 x 2 pixels\. .*choose one or three bands"
        ) as caught:
            decode_image(io.BytesIO(tiff(bands, bits, kind, order=order)), "a.tif")
        assert "elete" not in str(caught.value), what


def test_a_tiff_of_another_compression_is_told():
    with pytest.raises(
        DataError, match=r"1 band of 8-bit integers, .* compressed by method 34887, which is not supported. Try: save it uncompressed"
    ):
        decode_image(io.BytesIO(tiff(1, 8, compression=34887)), "a.tif")


WRITTEN = [
    (form, mode) for form in ("TGA", "PCX", "SGI", "ICO", "ICNS", "DDS") for mode in ("L", "RGB", "P") if mode == "RGB" or form in ("TGA", "PCX")
]


def test_files_that_pillow_writes_in_other_formats_are_identified():
    for form, mode in [*WRITTEN, ("SGI", "L")]:
        file = io.BytesIO()
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode).save(file, form)
        with pytest.raises(DataError, match=f"it is an? {form} image. Try: convert to PNG"):
            decode_image(file, f"{form} {mode}")


def test_unknown_bytes_are_not_identified():
    for head in (bytes(200), b"\x0a\x0a\x0a\x0a" * 10, b"hello, this is no image at all", bytes(range(64))):
        assert identify(io.BytesIO(head)) is None, head


def test_a_sound_tiff_that_fails_only_when_its_pixels_are_read_is_described():
    apart, opacity = (struct.pack("<HHIHH", tag, 3, 1, 2, 0) for tag in (284, 338))
    file = io.BytesIO(tiff(2, 8, extra=[apart, opacity]))
    with Image.open(file) as image, pytest.raises(ValueError, match="unknown raw mode"):
        image.load()
    with pytest.raises(
        DataError, match=r"x: cannot be read as an image: it is a TIFF of 2 bands of 8-bit integers, 3 x 2 pixels\..*save them as PNG"
    ):
        decode_image(file, "x")


def test_a_tiff_whose_packed_pixels_cannot_be_unpacked_is_described_with_the_reason():
    with pytest.raises(
        DataError, match=r"\(OSError: .*\): it is a TIFF of 1 band of 8-bit integers, 3 x 2 pixels.*Try: save it as PNG if other programs show it"
    ):
        decode_image(io.BytesIO(tiff(1, 8, compression=8)), "x")


def test_a_tiff_that_is_cut_is_not_described():
    whole = tiff(5, 8)
    place = whole.index(struct.pack("<HHII", 279, 4, 1, 30))
    with pytest.raises(DataError, match=r"are not those of .*\. Try: replace or delete it"):
        decode_image(io.BytesIO(whole[: place + 8] + struct.pack("<I", 5000) + whole[place + 12 :]), "x")


def test_the_tiffs_made_here_are_sound():
    np.testing.assert_array_equal(decode_image(io.BytesIO(tiff(1, 8)), "x"), np.zeros((2, 3)))
    np.testing.assert_array_equal(decode_image(io.BytesIO(tiff(3, 8)), "x"), np.zeros((2, 3, 3)))


def test_a_raw_photograph_is_not_taken_for_its_thumbnail():
    version = struct.pack("<HHI", 50706, 1, 4) + bytes([1, 4, 0, 0])
    with pytest.raises(DataError, match="it is a raw photograph of a camera. Try: develop to JPEG"):
        decode_image(io.BytesIO(tiff(3, 8, extra=[version])), "a.tif")


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_tiff_is_damaged():
    with pytest.raises(DataError, match="are not those of .*Try: replace or delete it"):
        decode_image(io.BytesIO(b"II*\0\xff\xff\xff\x7f"), "a.tif")


def test_files_are_counted_by_what_they_are():
    paths = ["a/1.heic", "a/2.HEIF", "a/1.txt", "a/2.TXT", "a/3.txt", "b/x", "b/y.mov"]
    assert counted(paths) == "3 files .txt, 2 HEIC photographs, 1 file without a suffix, 1 video"


def test_of_a_file_that_cannot_be_read_again_nothing_is_said():
    class Broken(io.BytesIO):
        def read(self, *_):
            raise EOFError

    assert identify(Broken(b"8BPS")) is None
    assert identify(io.BytesIO(b"8BPS")) == ("it is a Photoshop file", "Try: export as PNG")
