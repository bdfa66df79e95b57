"""Resizing the part of an image that a crop keeps, in bounded memory and with Pillow's values."""

from collections.abc import Callable, Iterator

import numpy as np

from ntk_select.errors import missing

WHOLE = 2**24
"""Pixels of Pillow's largest intermediate image up to which the whole image is resized, which is quicker."""
LONGEST = 2**20
"""Pixels of a side up to which the same holds: Pillow's filter takes up to 48 bytes for each."""
BLOCK = 2**22
"""Pixels of an intermediate image otherwise, or those behind one row of the result if they are more."""
BITS = 22
"""Binary places of Pillow's weights."""


def resized_crop(image: np.ndarray, whole: tuple[int, int], corner: tuple[int, int], size: int, interpolation: str) -> np.ndarray:
    """`size` x `size` pixels, from `corner` on, of an image resized to `whole`.

    Usual images are resized by Pillow and cropped. Where that would take an intermediate image of more than `WHOLE` pixels, only what the
    crop keeps is computed, along the longer side first, with Pillow's weights and rounding: bit for bit the same where Pillow takes that
    order, else the same up to the rounding between the two steps. "nearest" may choose the neighbour of a pixel where two are equally near.

    Memory beside the image and the result: at most 4 bytes for each pixel of the image and 256 MiB, however large the resized image would be.

    Args:
      image: uint8 (h, w) or (h, w, 3).
      whole, corner: height and width; top and left. The crop lies inside.
      interpolation: as `Preprocess` has it.

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
    vertical = list(filter_weights(interpolation, height, whole[0], top, size))
    done = 0
    while done < size:
        first, stop = vertical[done][0], done + 1
        while stop < size and (_end(vertical[stop]) - first) * size <= BLOCK:
            stop += 1
        rows = image[first : _end(vertical[stop - 1])]
        block = np.empty((len(rows), size, *image.shape[2:]), np.uint8)
        for column, (start, weights) in enumerate(filter_weights(interpolation, width, whole[1], left, size)):
            block[:, column] = _weighted(np.moveaxis(rows[:, start : start + len(weights)], 1, 0), weights)
        for row in range(done, stop):
            start, weights = vertical[row]
            result[row] = _weighted(block[start - first : start - first + len(weights)], weights)
        done = stop
    return result


def _weighted(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum over the first axis, rounded to uint8."""
    sums = np.einsum("k...,k->...", pixels, weights, dtype=np.int64, casting="unsafe")
    return np.clip((sums + (1 << BITS - 1)) >> BITS, 0, 255).astype(np.uint8)


def _end(of: tuple[int, np.ndarray]) -> int:
    return of[0] + len(of[1])


def filter_weights(interpolation: str, side: int, to: int, first: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """For `count` of the `to` pixels into which `side` pixels are resized, from `first` on: the first pixel behind each, and the weights
    of those from there on, times 2**BITS."""
    if side == to:
        yield from ((place, np.array([1 << BITS])) for place in range(first, first + count))
        return
    reach, function = FILTERS[interpolation]
    scale = side / to
    wide = max(scale, 1.0)
    for place in range(first, first + count):
        centre = (place + 0.5) * scale
        start, stop = max(int(centre - reach * wide + 0.5), 0), min(int(centre + reach * wide + 0.5), side)
        weights = function((np.arange(start, stop) - centre + 0.5) * (1.0 / wide))
        total = np.add.accumulate(weights)[-1]
        scaled = (weights / total if total else weights) * (1 << BITS)
        yield start, (scaled + np.copysign(0.5, scaled)).astype(np.int64)


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))


FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).astype(float)),
    "bilinear": (1.0, lambda x: np.maximum(1 - np.abs(x), 0.0)),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, lambda x: np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)),
}
"""How far each filter reaches, in pixels, and its values; Pillow's."""
