"""Images on their way into a network: decoded once, resized once, and normalised batch by batch."""

import math
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ntk_select.experts.preprocess import Preprocess

DECODED = 512 * 2**20
"""Bytes of decoded images that are kept for the next network."""
IN_MEMORY = 2**30
"""Bytes of resized images that stay in memory; more lie in a temporary file."""


class DecodedImages(Sequence):
    """Images of any sequence, decoded once as long as they fit into `DECODED` bytes, and every time beyond that."""

    def __init__(self, images: Sequence[np.ndarray]):
        self._images = images
        self._kept: dict[int, np.ndarray] = {}
        self._room = DECODED

    def __len__(self):
        return len(self._images)

    def __getitem__(self, place: int) -> np.ndarray:
        if (known := self._kept.get(place)) is not None:
            return known
        image = np.asarray(self._images[place])
        if image.nbytes <= self._room:
            self._kept[place], self._room = image, self._room - image.nbytes
        return image


class NetworkInputs:
    """Network inputs (n, h, w, c) in float32, made from 8-bit pixels for the part that is asked for.

    Slices and index arrays give NumPy arrays; `numpy.asarray` gives all of it.

    Args:
      pixels: of n resized images.
      preprocess: that normalises them.
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
    """What an expert's preprocessing makes of images; that of this package normalises them only when they are asked for."""
    if isinstance(preprocess, Preprocess):
        return NetworkInputs(resized(preprocess, images), preprocess)
    return np.asarray(preprocess(images))


def resized(preprocess: Preprocess, images: Sequence[np.ndarray], in_memory: int = IN_MEMORY) -> UInt8[np.ndarray, "n s s 3"]:
    """All images, resized and cropped; in a temporary file, deleted with the array, where they take more than `in_memory` bytes."""
    shape = (len(images), preprocess.size, preprocess.size, 3)
    if math.prod(shape) <= in_memory:
        pixels = np.empty(shape, np.uint8)
    else:
        with tempfile.TemporaryFile() as file:  # the mapping outlives it
            pixels = np.memmap(file, np.uint8, "w+", shape=shape)
    for place in range(len(images)):
        pixels[place] = preprocess.resized([images[place]])[0]
    return pixels
