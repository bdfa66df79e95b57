"""Preprocessing of images: resizing, cropping and normalisation, and checks of image arrays."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ntk_select.errors import ConfigError, DataError, did_you_mean
from ntk_select.experts.resize import resized_crop

SMALL = 64
"""Image side in pixels up to which images are resized once and held in memory, augmented on the device, and evaluated in larger batches."""

MAX_PIXELS = 16_384
DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths of grey values of cameras and scanners."""
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box")


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop and normalisation, as stored in the card of an expert.

    Grey images are repeated to three channels. The shorter side is resized to `resize` with Pillow's antialiased filters, as in
    torchvision and timm, followed by a centre crop of `size` x `size` pixels; with `resize=None` the whole image is resized to
    `size` x `size` without preserving its aspect ratio. Values become (x / 255 - mean) / std.

    Memory: in addition to the image, at most 4 bytes per pixel and 256 MiB for any shape: of images with an extreme aspect ratio only the
    cropped part is resized (`resized_crop`).

    Args:
      size: side of the square input, in pixels.
      mean, std: Statistics of the three channels, of values in 0 .. 1. Values above 1 are rejected: they are on the scale 0 .. 255. A
        standard deviation of 1 / 255 undoes the division by 255.
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
                f"Preprocess: size={self.size!r}, resize={self.resize!r}; size must be an integer of at least 1 and resize, if given, at least size."
            )
        if max(self.size, self.resize or 0) > MAX_PIXELS:
            raise ConfigError(f"Preprocess: size={self.size:,}, resize={self.resize}; at most {MAX_PIXELS:,} pixels are allowed.")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise ConfigError(f"Preprocess: mean={self.mean}, std={self.std}; both need three numbers, std above 0.")
        if max(map(abs, self.mean)) > 1 or max(self.std) > 1:
            raise ConfigError(_on_the_scale_to_255(self.mean, self.std))
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f"Preprocess: interpolation {self.interpolation!r} is unknown.{did_you_mean(self.interpolation, INTERPOLATIONS)}")

    @property
    def geometry(self) -> tuple:
        """Settings that determine the pixels before normalisation. Experts with equal settings can share resized images."""
        return (self.size, self.resize, self.interpolation)

    def resized(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Images as uint8 (n, size, size, 3)."""
        return np.stack([self._resize_one(image) for image in images])

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """Network inputs in float32 from uint8 (n, size, size, 3)."""
        mean, std = np.float32(self.mean) * 255, np.float32(self.std) * 255
        return (pixels.astype(np.float32) - mean) / std

    def __call__(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Images (uint8, of any sizes) as float32 (n, size, size, 3)."""
        return self.normalised(self.resized(images))

    def _resize_one(self, image: np.ndarray) -> np.ndarray:
        image = checked_image(image)
        height, width = image.shape[:2]
        short = min(height, width)
        whole = (self.size, self.size) if self.resize is None else (int(self.resize * height / short), int(self.resize * width / short))
        corner = (round((whole[0] - self.size) / 2), round((whole[1] - self.size) / 2))
        image = resized_crop(image, whole, corner, self.size, self.interpolation)
        return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image


def _on_the_scale_to_255(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """The error message for a mean or standard deviation of pixels in 0 .. 255, with the values for 0 .. 1."""
    wide_mean, wide_std = max(map(abs, mean)) > 1, max(std) > 1 or std == (1.0, 1.0, 1.0)
    factor = wide_mean and min(std) >= 1 / 256 and max(std) < 0.05  # no standard deviation is below 13 of 255 grey values
    means = [value / 255 if wide_mean else value for value in mean]
    stds = [min(1 / (255 * value), 1.0) if factor else value / 255 if wide_std else value for value in std]
    advice = "Divide by 255" + ", except std, which looks like a factor of the pixels (Caffe's scale) and becomes 1 / (255 * factor)" * factor
    return (
        f"Preprocess: mean={mean}, std={std}; these are for pixels in 0 .. 255; expected values for pixels in 0 .. 1, none above 1. "
        f"{advice}. Try: --mean {' '.join(f'{value:.4g}' for value in means)} --std {' '.join(f'{value:.4g}' for value in stds)}"
    )


def checked_image(image) -> np.ndarray:
    """The image as (h, w) if grey, or (h, w, 3); (h, w, 1) becomes (h, w). Raises DataError for other arrays."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3) or image.size == 0:
        hint = "" if image.dtype == np.uint8 else f" {how_to_uint8(image)}"
        raise DataError(f"An image has type {image.dtype} and shape {image.shape}; allowed: uint8 with (h, w), (h, w, 1) or (h, w, 3).{hint}")
    return image


def depth_for(largest: int) -> int:
    """The smallest of `DEPTHS` that can represent `largest`, which is at most 65,535."""
    return next(bits for bits in DEPTHS if largest < 1 << bits)


def how_to_uint8(images: np.ndarray, name: str = "images") -> str:
    """Hint for the conversion of the array called `name` to uint8, according to its type and range."""
    if images.dtype.kind not in "biuf" or not images.size or not np.isfinite(low := images.min()) or not np.isfinite(high := images.max()):
        return "Allowed: integers from 0 to 255."
    if images.dtype.kind == "b":
        return f"For black and white, try: {name}.astype('uint8') * 255"
    if low < 0:
        return f"Its values run from {low:.6g} to {high:.6g}: undo the normalisation, to 0 to 255."
    if images.dtype.kind == "f" and high <= 1:
        return f"For floats in 0..1, try: ({name} * 255).round().astype('uint8')"
    if high <= 255:
        return f"Its values run up to {high:.6g}; if 255 is white, try: {name}.round().astype('uint8')"
    if high > 65535:
        return f"Its values run up to {high:.6g}; divide by the value of white, then try: ({name} * 255).round().astype('uint8')"
    bits = depth_for(int(high))
    white = (1 << bits) - 1
    return (
        f"Its values run up to {high:.6g}; if they have {bits} bits, so that {white} is white, try: ({name} / {white} * 255).round().astype('uint8')"
    )
