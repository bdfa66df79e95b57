"""Preprocessing as timm's configurations and torchvision's weights declare it."""

import math
from collections.abc import Mapping
from typing import Any

from ntk_select._runtime.checks import is_number, is_whole
from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.preprocess import Preprocess

HOW = "Try: preprocess=Preprocess(size=224, resize=256) (--size 224 --resize 256)"
LEAST_CROP = 0.05
"""Smallest `crop_pct` that is not a mistake: one twentieth of the side of an image."""


def preprocess_of_timm(config: Mapping[str, Any], where: str) -> Preprocess:
    """The preprocessing of a `pretrained_cfg` of timm, with timm's defaults for missing settings.

    Args:
      config: "input_size" (c, h, w), "crop_pct", "crop_mode", "mean", "std", "interpolation".
      where: name of the configuration, for error messages.

    Raises:
      ModelError: the input is not square RGB, or `Preprocess` does not support the cropping or resizing.
    """
    if not isinstance(config, Mapping):
        raise ModelError(f"{where} is a {type(config).__name__}; it must be a dictionary. {HOW}")
    given = {key: value for key, value in config.items() if value is not None}
    try:
        shape, crop = given.get("input_size", (3, 224, 224)), given.get("crop_pct", 0.875)
        shape = tuple(shape) if isinstance(shape, list | tuple) else (shape,)
        if len(shape) != 3 or not all(map(is_whole, shape)) or shape[0] != 3 or shape[1] != shape[2]:
            raise ValueError(f"the input size {' x '.join(map(str, shape[:4]))} is not 3 x size x size")
        if not is_number(crop) or not LEAST_CROP <= crop <= 1:
            raise ValueError(f"crop_pct is {crop!r:.40}; it must be a number from {LEAST_CROP} to 1")
        height, mode = int(shape[1]), given.get("crop_mode", "center")
        resize = math.floor(height / crop)
        if mode not in ("center", "squash") or (mode == "squash" and resize != height):
            raise ValueError(f"the crop mode {mode!r} is not supported; allowed: 'center', and 'squash' of the whole image")
        return Preprocess(
            size=height,
            resize=resize if mode == "center" else None,
            mean=tuple(given.get("mean", (0.485, 0.456, 0.406))),
            std=tuple(given.get("std", (0.229, 0.224, 0.225))),
            interpolation=given.get("interpolation", "bicubic"),
        )
    except (TypeError, ValueError, ArithmeticError, ConfigError) as error:
        raise ModelError(f"{where}: {str(error).rstrip('.')}. {HOW}") from error


def preprocess_of_torchvision(weights: Any, where: str) -> Preprocess:
    """The preprocessing of a member of a weights enum of torchvision, such as `ResNet18_Weights.DEFAULT`.

    Args:
      weights: object whose `transforms()` has crop_size, resize_size, mean, std and interpolation.
      where: name of the expert, for error messages.

    Raises:
      ModelError: its transforms are not those of image classification, or `Preprocess` does not support them.
    """
    try:
        found = weights.transforms()
        (size,), (resize,) = found.crop_size, found.resize_size
        interpolation = getattr(found.interpolation, "value", found.interpolation)
        return Preprocess(size=size, resize=resize, mean=tuple(found.mean), std=tuple(found.std), interpolation=interpolation)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"The transforms of {weights} of {where} are not those of image classification ({str(error).rstrip('.')}). {HOW}") from error
