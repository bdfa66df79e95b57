"""How does an image become the input of an expert?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ntk_select.errors import ConfigError, DataError, did_you_mean, missing

MOST_PIXELS = 16_384
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box")


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise, as an expert's card says.

    Grey images are repeated to three channels. The shorter side is resized to `resize` with Pillow's
    antialiased filters, as torchvision and timm do, and the middle `size` x `size` pixels are kept; with
    `resize=None` the whole image is squeezed to `size` x `size`. Values go to (x / 255 - mean) / std.

    Args:
      size: side of the square input, in pixels.
      mean, std: of the three channels, for values in 0 .. 1.
      resize: length of the shorter side before the crop, or None.
      interpolation: one of `INTERPOLATIONS`.
    """

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self):
        try:
            object.__setattr__(self, "mean", tuple(float(m) for m in self.mean))
            object.__setattr__(self, "std", tuple(float(s) for s in self.std))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"Preprocess: mean={self.mean!r}, std={self.std!r}; both need three numbers, std above 0.") from error
        whole = isinstance(self.size, int) and isinstance(self.resize, int | None) and not isinstance(self.size, bool)
        if not whole or self.size < 1 or (self.resize is not None and self.resize < self.size):
            raise ConfigError(
                f"Preprocess: size={self.size!r}, resize={self.resize!r}; size must be a whole number of at least 1 and resize, if given, at least size."
            )
        if max(self.size, self.resize or 0) > MOST_PIXELS:
            raise ConfigError(f"Preprocess: size={self.size:,}, resize={self.resize}; allowed are at most {MOST_PIXELS:,} pixels.")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise ConfigError(f"Preprocess: mean={self.mean}, std={self.std}; both need three numbers, std above 0.")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f"Preprocess: interpolation {self.interpolation!r} is unknown.{did_you_mean(self.interpolation, INTERPOLATIONS)}")

    @property
    def geometry(self) -> tuple:
        """What decides the pixels before normalisation. Experts that share it can share the resized images."""
        return (self.size, self.resize, self.interpolation)

    def resized(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Images as uint8 (n, size, size, 3)."""
        return np.stack([self._resize_one(image) for image in images])

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, size, size, 3) to the float32 input of the network."""
        mean, std = np.float32(self.mean) * 255, np.float32(self.std) * 255
        return (pixels.astype(np.float32) - mean) / std

    def __call__(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Images (uint8, of any sizes) as float32 (n, size, size, 3)."""
        return self.normalised(self.resized(images))

    def _resize_one(self, image: np.ndarray) -> np.ndarray:
        image = checked_image(image)
        height, width = image.shape[:2]
        if self.resize is None:
            new_width = new_height = self.size
        else:
            short = min(height, width)
            new_height, new_width = (int(self.resize * side / short) for side in (height, width))
        if (new_height, new_width) != (height, width):
            image = _pillow_resize(image, new_width, new_height, self.interpolation)
        top, left = round((new_height - self.size) / 2), round((new_width - self.size) / 2)
        image = image[top : top + self.size, left : left + self.size]
        return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image


def checked_image(image) -> np.ndarray:
    """A grey (h, w) or coloured (h, w, 3) image. Raises DataError for anything else but (h, w, 1), which becomes (h, w)."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3) or image.size == 0:
        raise DataError(f"An image has type {image.dtype} and shape {image.shape}; allowed is uint8 with (h, w), (h, w, 1) or (h, w, 3).")
    return image


def _pillow_resize(image: np.ndarray, width: int, height: int, interpolation: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing("Pillow", "Resizing images") from error
    return np.asarray(Image.fromarray(image).resize((width, height), getattr(Image.Resampling, interpolation.upper())))
