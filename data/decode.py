"""Decoding of images, on access: `LazyImages` is a sequence of encoded images, `decode_image` gives their pixels."""

import operator
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from ntk_select.data.bit_depth import CONVERT, BitDepth, Seen, Source, Wide, decided, to_8_bits, wide_of
from ntk_select.data.image_files import PILLOW_FORMATS, RAW, identify, optional_formats
from ntk_select.errors import DataError


def decode_image(file: BinaryIO, name: str, depth: Callable[[], int | None] | None = None) -> np.ndarray:
    """An encoded image as uint8: (h, w) if it is grey, else (h, w, 3).

    The EXIF orientation is applied. Transparent images are composited on white. Of an animation the first frame is
    taken. One-bit images become 0 and 255; CMYK and palette images become RGB. Grey images of more than 8 bits are
    scaled from the range of their bit depth to 0 .. 255; of 16-bit colour images the high byte is taken.

    Args:
      file: a seekable binary file.
      name: name of the image, for error messages.
      depth: () -> bit depth of grey images whose format does not declare it; by default `decided` for this image alone.

    Raises:
      DataError: not an image, of an unsupported format (named if recognised), empty, truncated, damaged, of more pixels than Pillow's
        limit, of floats, of values beyond its bit depth, or of an undecidable bit depth.
    """
    from PIL import ImageOps

    with _opened(file, name) as image:
        wide = wide_of(image)  # lost by loading
        return _to_uint8(ImageOps.exif_transpose(image), wide, name, depth)


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Any]:
    """The opened image, not yet loaded. All of Pillow's errors become DataError."""
    from PIL import Image

    try:
        with Image.open(file, formats=PILLOW_FORMATS + optional_formats()) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            tags = getattr(image, "tag_v2", {})
            if 50706 in tags or (tags.get(254) == 1 and 330 in tags):  # DNGVersion; a thumbnail followed by sub-images, as in raw files
                raise DataError(f"{name}: cannot be read as an image: it is a {RAW.one}. Try: {RAW.fix}")
            if image.format == "TIFF" and tags.get(284) == 2:
                _fix_separate_planes(image)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: the image is too large ({error}). Try: resize it; experts see a few hundred pixels per side") from error
    except Exception as error:  # Pillow's readers raise many types on damaged files.
        unknown = isinstance(error, Image.UnidentifiedImageError | KeyError)
        truncated = isinstance(error, OSError) and not unknown  # or damaged, or compressed by a codec that libtiff lacks
        reason = f"its first bytes are not those of {', '.join(PILLOW_FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        found = identify(file)
        if found is None:
            raise DataError(f"{name}: cannot be read as an image ({reason}). Try: replace or delete it") from error
        if truncated:
            raise DataError(
                f"{name}: cannot be read as an image ({reason}): {found[0]}. Try: save it as PNG if other programs show it; otherwise replace or delete it"
            ) from error
        raise DataError(f"{name}: cannot be read as an image: {found[0]}. {found[1]}") from error


def _fix_separate_planes(image) -> None:
    """Corrects Pillow's decoder arguments for a TIFF with PlanarConfiguration=2 (separate planes).

    A single band is read as contiguous. For several 16-bit bands Pillow's raw mode "RGB;16L" must be "R;16L", "G;16L" and "B;16L".
    """
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
        raise DataError(f"{name}: the pixels are floats of unknown range. Try: save the image as 8-bit PNG")
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
    pixels = to_8_bits(values, bits)
    return 255 - pixels if wide.inverted else pixels


def _largest(image, wide: Wide, name: str) -> int:
    """The largest value on the 16-bit scale; for colour images, of which only the high byte is known, an upper bound."""
    if wide.colour:
        extrema = image.getextrema()
        bands = extrema[: 1 if image.getbands()[0] in ("L", "1") else 3] if isinstance(extrema[0], tuple) else [extrema]
        return max(high for _, high in bands) * 256 + 255
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: grey values run from {low} to {high}; allowed are 8 and 16 bits, 0 to 65535. Try: save it as 8-bit PNG")
    return high


def look(source: Source, key: Any, whole: bool) -> Seen | None:
    """The bit depth evidence of an image; None for up to 8 bits, for formats that declare the depth, and for unreadable images.

    Args:
      whole: decode the image to find its largest value; else only the header is read, and that value is 0.
    """
    try:
        with source.open(key) as file, _opened(file, source.name(key)) as image:
            wide = wide_of(image)
            if wide is None or wide.known:
                return None
            return Seen(wide, _largest(image, wide, source.name(key)) if whole else 0, source.name(key))
    except DataError:  # raised again when the image is decoded
        return None


@dataclass(frozen=True)
class ImageReader:
    """Decodes images by key, with one bit depth for all grey images of a task."""

    source: Source
    depth: BitDepth

    def __call__(self, key: Any) -> np.ndarray:
        """The pixels of an image."""
        return decode_image(BytesIO(self.source.content(key)), self.source.name(key), self.depth)

    def content(self, key: Any) -> bytes:
        """The encoded bytes of an image."""
        return self.source.content(key)

    def origin(self, key: Any) -> tuple[tuple[str, ...], str]:
        """The files that hold an image, and its name in them."""
        return self.source.origin(key)


class LazyImages(Sequence):
    """A sequence of images, each decoded on every access. Nothing is cached.

    Args:
      keys: argument of `read` for each image: a path, an entry name, a number.
      read: key -> uint8 array (h, w) or (h, w, 3). Must be thread-safe and picklable. Optional methods: content(key) -> encoded bytes, and
        origin(key) -> the files that hold the image, and its name in them.
    """

    def __init__(self, keys: Sequence[Hashable], read: Callable[[Any], np.ndarray]):
        self._keys = keys
        self._read = read

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, index):
        """One image, or a lazy subsequence for a slice."""
        if isinstance(index, slice):
            return LazyImages(self._keys[index], self._read)
        return self._read(self._keys[operator.index(index)])

    def content(self, index: int) -> bytes | None:
        """The encoded bytes of an image, if `read` has a method `content`; else None."""
        content = getattr(self._read, "content", None)
        return None if content is None else content(self._keys[index])

    def origin(self, index: int) -> tuple[tuple[str, ...], str] | None:
        """The files that hold an image and its name in them, if `read` has a method `origin`; else None."""
        origin = getattr(self._read, "origin", None)
        return None if origin is None else origin(self._keys[index])

    def __repr__(self):
        return f"LazyImages({len(self)})"


class PerProcess:
    """A resource opened once per process, at first use: forked and unpickled copies open their own.

    Processes must not share a file position. Two threads may both open the resource at first use; one of the two is dropped.

    Args:
      open_it: () -> resource. Must be picklable.
    """

    def __init__(self, open_it: Callable[[], Any]):
        self._open_it = open_it
        self._opened = (None, None)

    def __call__(self) -> Any:
        """The resource of this process."""
        pid, opened = self._opened
        if pid != os.getpid():
            opened = self._open_it()
            self._opened = (os.getpid(), opened)
        return opened

    def __reduce__(self):
        return PerProcess, (self._open_it,)
