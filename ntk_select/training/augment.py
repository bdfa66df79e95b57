"""Augmentation: views of training images that leave what is on them as it is."""

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
"""By name, what `augmented` does to small images. At larger sizes "crop" is a random resized crop (`random_resized_crop`)."""


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
    """Random maps of float images (n, h, w, c), each its own.

    Args:
      key: of the draws.
      images: of any range.
      pad: black pixels put around, before a crop of the old size at random; images are taken to begin at 0.
      shift: the same in pixels, but edges are repeated.
      rotate: in degrees, either way.
      zoom, shear: as shares. Rotation, zoom and shear are bilinear; whole-pixel moves and flips stay exact.
      brightness: share by which values are scaled, and added.
      flip_horizontal, flip_vertical: with probability one half.
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
    """One image turned, scaled and sheared about its middle."""
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    where = [
        scale * (jnp.cos(angle) * rows - jnp.sin(angle) * columns) + (height - 1) / 2,
        scale * (jnp.sin(angle) * rows + jnp.cos(angle) * columns + slant * rows) + (width - 1) / 2,
    ]
    return jax.vmap(lambda channel: jax.scipy.ndimage.map_coordinates(channel, where, 1, "nearest"), -1, -1)(image)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random place, area and shape, resized to the network's size, and perhaps mirrored: the usual training view at 224 pixels.

    Args:
      preprocess: gives size and interpolation.
      area: least and largest share of the image.
      ratio: least and largest width over height.
      flip: mirrors with probability one half.

    Reference: Szegedy et al. 2015; the defaults are torchvision's, as is the fall-back to the middle after ten draws that do not fit.
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
        """(top, left, height, width) of the crop in an image of this size."""
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
    """The augmentation that "auto" stands for: crops and flips, without flips where these change the class. Inputs that another preprocessing
    than a `Preprocess` makes are left as they are."""
    if not isinstance(preprocess, Preprocess):
        return "none"
    return "crop" if flips_keep_class is False else "crop_flip"


def check_augmentation(name: str) -> None:
    """Raises ConfigError when there is no augmentation of this name."""
    if name not in ("auto", *AUGMENTATIONS):
        raise ConfigError(f"augment={name!r} is unknown. Allowed: auto, {', '.join(AUGMENTATIONS)}.")
