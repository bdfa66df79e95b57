"""Network inputs from images: decoded once, resized once, and normalised per batch."""

import math
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ntk_select.experts.preprocess import Preprocess

DECODED = 512 * 2**20
"""Byte budget of the cache of decoded images."""
IN_MEMORY = 2**30
"""Bytes of resized images up to which they are in memory; more are in a temporary file."""


class DecodedImages(Sequence):
    """A sequence of images with a cache of up to `DECODED` bytes of decoded images."""

    def __init__(self, images: Sequence[np.ndarray]):
        self._images = images
        self._cache: dict[int, np.ndarray] = {}
        self._room = DECODED

    def __len__(self):
        return len(self._images)

    def __getitem__(self, place: int) -> np.ndarray:
        if (known := self._cache.get(place)) is not None:
            return known
        image = np.asarray(self._images[place])
        if image.nbytes <= self._room:
            self._cache[place], self._room = image, self._room - image.nbytes
        return image


class NetworkInputs:
    """Network inputs (n, h, w, c) in float32, normalised lazily from 8-bit pixels.

    Slices and index arrays return NumPy arrays; `numpy.asarray` returns all inputs.

    Args:
      pixels: Pixels of n resized images.
      preprocess: Preprocessing that normalises them.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "n h w c"], preprocess: Preprocess):
        self.pixels, self.preprocess = pixels, preprocess
        self.shape, self.dtype = pixels.shape, np.dtype(np.float32)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows) -> Float[np.ndarray, "m h w c"]:
        return self.preprocess.normalised(np.asarray(self.pixels[rows]))

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype=dtype)


def network_inputs(preprocess: Callable, images: Sequence[np.ndarray]) -> NetworkInputs | np.ndarray:
    """Network inputs from images by the preprocessing of an expert; a `Preprocess` normalises them lazily."""
    if isinstance(preprocess, Preprocess):
        return NetworkInputs(resized(preprocess, images), preprocess)
    return np.asarray(preprocess(images))


def resized(preprocess: Preprocess, images: Sequence[np.ndarray], in_memory: int = IN_MEMORY) -> UInt8[np.ndarray, "n s s 3"]:
    """All images, resized and cropped; in a temporary file, deleted with the array, if they need more than `in_memory` bytes."""
    shape = (len(images), preprocess.size, preprocess.size, 3)
    if math.prod(shape) <= in_memory:
        pixels = np.empty(shape, np.uint8)
    else:
        with tempfile.TemporaryFile() as file:  # the mapping outlives the file object
            pixels = np.memmap(file, np.uint8, "w+", shape=shape)
    for place in range(len(images)):
        pixels[place] = preprocess.resized([images[place]])[0]
    return pixels
