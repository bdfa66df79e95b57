"""Resizing restricted to a crop, in bounded memory and with Pillow's values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntk_select.errors import missing

WHOLE = 2**24
"""Pixels of Pillow's largest intermediate image up to which the whole image is resized, which is faster."""
LONGEST = 2**20
"""Pixels per side up to which the whole image is resized: Pillow's filter needs up to 48 bytes per pixel."""
BLOCK = 2**22
"""Otherwise, pixels of an intermediate image; more if one row of the result needs them."""
PIECE = 2**16
"""Number of weights that are computed at a time."""
CACHED = 2**23
"""Maximum number of weights per pixel of the result that are cached instead of recomputed."""
BITS, SHORT, FINE = 22, 2**14, 44
"""Fractional bits of Pillow's fixed-point weights, the window size up to which they are used, and fractional bits for larger windows."""


def resized_crop(image: np.ndarray, whole: tuple[int, int], corner: tuple[int, int], size: int, interpolation: str) -> np.ndarray:
    """The crop of `size` x `size` pixels at `corner` of an image resized to `whole`.

    Ordinary images are resized by Pillow and cropped. If that needs an intermediate image of more than `WHOLE` pixels, only the crop is
    computed, along the longer side first, with Pillow's weights and rounding; windows of more than `SHORT` pixels have weights of higher
    precision, since Pillow's would be rounded to almost zero. For images wider than high this is Pillow's order, and the values are equal
    bit for bit. For images higher than wide Pillow resizes the width first, and values between the two steps are rounded and clipped to
    0 .. 255: "bilinear" and "box" then differ by at most 1; "bicubic" and "lanczos", which overshoot next to edges, by up to about 40 grey
    values at single pixels of noise, and by less than 2 in the mean. "nearest" may differ where two pixels are equally near.

    Memory in addition to the image and the result: at most 4 bytes per pixel of the image and 256 MiB, for any size of the resized image.

    Args:
      image: uint8 (h, w) or (h, w, 3).
      whole, corner: (height, width) and (top, left). The crop is inside the image.
      interpolation: See `Preprocess`.

    Raises:
      MissingDependencyError: Pillow is not installed.
    """
    (height, width), (top, left) = image.shape[:2], corner
    if (height, width) == whole:
        return image[top : top + size, left : left + size]
    if max(whole[1] * height, whole[0] * width, whole[0] * whole[1]) <= WHOLE and max(height, width) <= LONGEST:
        try:
            from PIL import Image
        except ImportError as error:
            raise missing("Pillow", "Resizing images") from error
        resized = Image.fromarray(image).resize((whole[1], whole[0]), getattr(Image.Resampling, interpolation.upper()))
        return np.asarray(resized)[top : top + size, left : left + size]
    if interpolation == "nearest":
        rows, columns = (
            ((start + np.arange(size) + 0.5) * (side / to)).astype(int) for start, side, to in zip(corner, (height, width), whole, strict=True)
        )
        return image[np.minimum(rows, height - 1)[:, None], np.minimum(columns, width - 1)]
    if height > width:
        return resized_crop(image.swapaxes(0, 1), whole[::-1], corner[::-1], size, interpolation).swapaxes(0, 1)
    result = np.empty((size, size, *image.shape[2:]), np.uint8)
    vertical = list(windows(interpolation, height, whole[0], top, size))
    done = 0
    while done < size:
        first, stop = vertical[done].start, done + 1
        while stop < size and (vertical[stop].stop - first) * size <= BLOCK:
            stop += 1
        rows = image[first : vertical[stop - 1].stop]
        block = np.empty((len(rows), size, *image.shape[2:]), np.uint8)
        for column, window in enumerate(windows(interpolation, width, whole[1], left, size)):
            block[:, column] = window.weighted(rows.swapaxes(0, 1))
        for row in range(done, stop):
            result[row] = vertical[row].weighted(block, first)
        done = stop
    return result


@dataclass(frozen=True)
class Window:
    """The input pixels `start` to `stop` of one output pixel, centred at `centre`.

    Args:
      scale: width of the filter in pixels.
      function: Weight of the filter by distance.
    """

    start: int
    stop: int
    centre: float
    scale: float
    function: Callable[[np.ndarray], np.ndarray]

    def weighted(self, pixels: np.ndarray, first: int = 0) -> np.ndarray:
        """The weighted sum over the first axis, which starts at pixel `first`, rounded to uint8."""
        sums = sum(
            np.einsum("k...,k->...", pixels[begin - first : end - first], weights, dtype=np.int64, casting="unsafe")
            for begin, end, weights in self.weights()
        )
        return np.clip((sums + (1 << self.bits - 1)) >> self.bits, 0, 255).astype(np.uint8)

    def weights(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Begin, end and fixed-point weights (times 2**bits) of pieces of the window."""
        total = self._total
        for begin, end, values in self._values():
            scaled = (values / total if total else values) * (1 << self.bits)
            yield begin, end, (scaled + np.copysign(0.5, scaled)).astype(np.int64)

    @property
    def bits(self) -> int:
        """Fractional bits of the weights."""
        return BITS if self.stop - self.start <= SHORT else FINE

    @cached_property
    def _total(self) -> float:
        total = 0.0
        for _, _, values in self._values():
            total = np.add.accumulate(np.concatenate([[total], values]))[-1]  # sequential summation, as in Pillow
        return total

    def _values(self) -> Iterator[tuple[int, int, np.ndarray]]:
        return iter(self._cached) if self.stop - self.start <= CACHED else self._computed()

    @cached_property
    def _cached(self) -> list[tuple[int, int, np.ndarray]]:
        return list(self._computed())

    def _computed(self) -> Iterator[tuple[int, int, np.ndarray]]:
        for begin in range(self.start, self.stop, PIECE):
            end = min(begin + PIECE, self.stop)
            yield begin, end, self.function((np.arange(begin, end) - self.centre + 0.5) * (1.0 / self.scale))


def windows(interpolation: str, side: int, to: int, first: int, count: int) -> Iterator[Window]:
    """The windows of `count` output pixels from `first` on, when `side` pixels are resized to `to`."""
    if side == to:
        yield from (Window(place, place + 1, place + 0.5, 1.0, np.ones_like) for place in range(first, first + count))
        return
    reach, function = FILTERS[interpolation]
    scale = side / to
    wide = max(scale, 1.0)
    for place in range(first, first + count):
        centre = (place + 0.5) * scale
        yield Window(max(int(centre - reach * wide + 0.5), 0), min(int(centre + reach * wide + 0.5), side), centre, wide, function)


def filter_weights(interpolation: str, side: int, to: int, first: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """First pixel and fixed-point weights of each of these windows."""
    for window in windows(interpolation, side, to, first, count):
        yield window.start, np.concatenate([weights for _, _, weights in window.weights()])


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))


FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).astype(float)),
    "bilinear": (1.0, lambda x: np.maximum(1 - np.abs(x), 0.0)),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, lambda x: np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)),
}
"""Pillow's filters: support in pixels, and function."""
