"""Pixels of encoded images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from ntk_select.errors import DataError

from .depth import CONVERT, Depth, Seen, Source, Wide, decided, wide_of
from .recognise import RAW, what_it_is

# Pillow knows more, but some of them start other programs (EPS) or have no pixels of their own (WMF).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    [
        ".apng",
        ".bmp",
        ".gif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)


def decode_image(file: BinaryIO, name: str, depth: Callable[[], int | None] | None = None) -> np.ndarray:
    """An encoded image as uint8 (h, w) if it is grey, else (h, w, 3).

    Turned upright as its EXIF orientation says. Transparent parts are put on white. Of an animation the first
    frame. One-bit images become 0 and 255. CMYK and palettes become RGB. Grey of more than 8 bits is scaled, from 0 to
    the largest value of its depth, to 0 to 255. Of colours of 16 bits the high byte is taken.

    Args:
      file: an open binary file that can seek.
      name: what to call the image in an error.
      depth: () -> bits of grey images of more than 8 bits whose format does not tell them; by default as `decided` has it for this
        image alone.

    Raises:
      DataError: not an image, of a format that is not read (named where it is known), empty, truncated, damaged, of too many pixels
        (Pillow's limit), of floats, of values beyond its depth, or of a depth that cannot be known.
    """
    from PIL import ImageOps

    with _opened(file, name) as image:
        wide = wide_of(image)  # loading forgets it
        return _to_uint8(ImageOps.exif_transpose(image), wide, name, depth)


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Any]:
    """The image, not yet loaded. Whatever goes wrong with it becomes a DataError."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            tags = getattr(image, "tag_v2", {})
            if 50706 in tags or (tags.get(254) == 1 and 330 in tags):  # DNG's version; a thumbnail before the images of a raw file
                raise DataError(f"{name}: cannot be read as an image: it is a {RAW.one}. {RAW.fix}.")
            if image.format == "TIFF" and tags.get(284) == 2:
                _mend_planes(image)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: the image is too large ({error}). Make it smaller: experts see a few hundred pixels a side.") from error
    except Exception as error:  # Pillow's readers raise almost anything on damaged files.
        unknown = isinstance(error, Image.UnidentifiedImageError | KeyError)
        cut = isinstance(error, OSError) and not unknown  # or damaged, or packed in a way that libtiff was built without
        reason = f"its first bytes are not those of {', '.join(FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        found = what_it_is(file)
        if found is None:
            raise DataError(f"{name}: cannot be read as an image ({reason}). Replace or delete it.") from error
        if cut:
            raise DataError(
                f"{name}: cannot be read as an image ({reason}): {found[0]}. If other programs show it, save it as PNG; else replace or delete it."
            ) from error
        raise DataError(f"{name}: cannot be read as an image: {found[0]}. {found[1]}.") from error


def _mend_planes(image) -> None:
    """Corrects how an opened TIFF whose bands lie apart is to be read: Pillow takes the first letters of the raw mode for those of the bands.

    Where there is one band, apart is together. Of several of 16 bits, "RGB;16L" stands for "R;16L", "G;16L" and "B;16L"."""
    tags = image.tag_v2
    if tags.get(277, 1) == 1:
        tags[284] = 1
        image._setup()
    elif max(tags.get(258, (1,))) == 16:
        order = "L" if tags.prefix == b"II" else "B"
        image.tile = [
            tile if tile.codec_name == "libtiff" else tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:])) for tile in image.tile
        ]


def _to_uint8(image, wide: Wide | None, name: str, depth: Callable[[], int | None] | None) -> np.ndarray:
    from PIL import Image

    if image.mode == "F":
        raise DataError(f"{name}: the pixels are floats, whose range is unknown. Save the image as 8-bit PNG.")
    if wide is not None and not wide.colour:
        return _grey_to_uint8(image, wide, name, depth)
    if wide is not None and depth is None:
        decided([Seen(wide, _largest(image, wide, name), name)])
    elif wide is not None:
        depth()
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("L" if grey else "RGB"))


def _grey_to_uint8(image, wide: Wide, name: str, depth: Callable[[], int | None] | None) -> np.ndarray:
    largest, values = _largest(image, wide, name), np.asarray(image)
    bits = wide.known
    if bits is None:
        bits = depth() if depth else decided([Seen(wide, largest, name)]).bits
    white = (1 << (bits or 16)) - 1
    if largest > white:
        raise DataError(f"{name}: a grey value is {largest:,}; the training images have {bits} bits, 0 to {white:,}. {CONVERT}")
    pixels = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return 255 - pixels if wide.inverted else pixels


def _largest(image, wide: Wide, name: str) -> int:
    """The largest value on the scale of 16 bits; of a colour, of which the high byte alone is known, the largest that it may be."""
    if wide.colour:
        extrema = image.getextrema()
        bands = extrema[: 1 if image.getbands()[0] in ("L", "1") else 3] if isinstance(extrema[0], tuple) else [extrema]
        return max(high for _, high in bands) * 256 + 255
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: grey values run from {low} to {high}; allowed are 8 and 16 bits, 0 to 65535. Save it as 8-bit PNG.")
    return high


def look(source: Source, key: Any, whole: bool) -> Seen | None:
    """What an image shows of its depth; None for one of up to 8 bits, one whose format tells it, or one that cannot be read.

    Args:
      whole: decode it, to know its largest value; else only the header is read, and that value is 0.
    """
    try:
        with source.open(key) as file, _opened(file, source.name(key)) as image:
            wide = wide_of(image)
            if wide is None or wide.known:
                return None
            return Seen(wide, _largest(image, wide, source.name(key)) if whole else 0, source.name(key))
    except DataError:  # it is raised again when the image is asked for
        return None


@dataclass(frozen=True)
class ImageReader:
    """Decodes images by their keys, all grey ones with the depth of their task."""

    source: Source
    depth: Depth

    def __call__(self, key: Any) -> np.ndarray:
        """The pixels of an image."""
        return decode_image(BytesIO(self.source.content(key)), self.source.name(key), self.depth)

    def content(self, key: Any) -> bytes:
        """Its encoded bytes."""
        return self.source.content(key)

    def origin(self, key: Any) -> tuple[tuple[str, ...], str]:
        """The files that hold it, and its name in them."""
        return self.source.origin(key)
