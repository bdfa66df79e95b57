"""Augmentation: random crops, flips and affine maps of training images that preserve their class."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.errors import ConfigError, missing
from ntk_select.experts.preprocess import Preprocess, checked_image

AUGMENTATIONS = {
    "crop_flip": {"pad": 4, "flip_horizontal": True},
    "crop": {"pad": 4},
    "flip": {"flip_horizontal": True},
    "none": {},
}
"""Options of `augmented` for small images, by name. At larger sizes "crop" is a `RandomResizedCrop`."""


def augmented(
    key,
    images,
    *,
    pad: int = 0,
    shift: int = 0,
    rotate: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
    brightness: float = 0.0,
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
):
    """Augments float images (n, h, w, c), each independently.

    Args:
      key: random key.
      images: pixels in any range; black is 0.
      pad: black pixels added on each side before a random crop of the original size.
      shift: as `pad`, but edge pixels are repeated.
      rotate: largest rotation in degrees, in either direction.
      zoom, shear: largest relative change. Rotation, zoom and shear interpolate bilinearly; shifts by whole pixels and flips are exact.
      brightness: largest relative change of scale, and largest offset.
      flip_horizontal, flip_vertical: flip with probability one half.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 8)

    def uniform(k, limit):
        return jax.random.uniform(keys[k], (n,), images.dtype, -limit, limit)

    if flip_horizontal:
        images = jnp.where(jax.random.bernoulli(keys[4], 0.5, (n, 1, 1, 1)), images[:, :, ::-1], images)
    if flip_vertical:
        images = jnp.where(jax.random.bernoulli(keys[7], 0.5, (n, 1, 1, 1)), images[:, ::-1], images)
    if rotate or zoom or shear:
        angle, scale, slant = jnp.deg2rad(uniform(0, rotate)), 1 + uniform(1, zoom), uniform(2, shear)
        images = jax.vmap(_affine)(images, angle, scale, slant)
    for margin, mode, draw in ((pad, "constant", jax.random.fold_in(keys[3], 1)), (shift, "edge", keys[3])):
        if margin:
            padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode)
            corners = jax.random.randint(draw, (n, 2), 0, 2 * margin + 1)
            images = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), (height, width, image.shape[-1])))(padded, corners)
    if brightness:
        images = images * (1 + uniform(5, brightness))[:, None, None, None] + uniform(6, brightness)[:, None, None, None]
    return images


def _affine(image, angle, scale, slant):
    """One image rotated, scaled and sheared about its centre."""
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    where = [
        scale * (jnp.cos(angle) * rows - jnp.sin(angle) * columns) + (height - 1) / 2,
        scale * (jnp.sin(angle) * rows + jnp.cos(angle) * columns + slant * rows) + (width - 1) / 2,
    ]
    return jax.vmap(lambda channel: jax.scipy.ndimage.map_coordinates(channel, where, 1, "nearest"), -1, -1)(image)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random position, area and aspect ratio, resized to the network's input size, with an optional random horizontal flip.

    Args:
      preprocess: gives size and interpolation.
      area: smallest and largest fraction of the image area.
      ratio: smallest and largest width over height.
      flip: flip horizontally with probability one half.

    Reference: Szegedy et al. 2015; the defaults are those of torchvision, as is the central crop after ten samples that do not fit.
    """

    preprocess: Preprocess
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (h, w), (h, w, 1) or (h, w, 3) to uint8 (size, size, 3)."""
        try:
            from PIL import Image
        except ImportError as error:
            raise missing("Pillow", "Cropping images") from error
        image = checked_image(image)
        size, filter_ = self.preprocess.size, getattr(Image.Resampling, self.preprocess.interpolation.upper())
        top, left, height, width = self.window(*image.shape[:2], rng)
        view = np.asarray(Image.fromarray(image[top : top + height, left : left + width]).resize((size, size), filter_))
        view = view[:, ::-1] if self.flip and rng.random() < 0.5 else view
        return np.repeat(view[..., None], 3, axis=-1) if view.ndim == 2 else np.ascontiguousarray(view)

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a random crop in an image of this size."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        least, most = self.ratio
        w, h = (
            (width, round(width / least)) if width / height < least else (round(height * most), height) if width / height > most else (width, height)
        )
        return (height - h) // 2, (width - w) // 2, h, w


def automatic(preprocess: Callable | None, flips_keep_class: bool | None) -> str:
    """The augmentation of "auto": crops and flips, or only crops if flips change the class; none for inputs that are not from a `Preprocess`."""
    if not isinstance(preprocess, Preprocess):
        return "none"
    return "crop" if flips_keep_class is False else "crop_flip"


def check_augmentation(name: str) -> None:
    """Raises ConfigError if there is no augmentation of this name."""
    if name not in ("auto", *AUGMENTATIONS):
        raise ConfigError(f"augment={name!r} is unknown. Allowed: auto, {', '.join(AUGMENTATIONS)}.")
