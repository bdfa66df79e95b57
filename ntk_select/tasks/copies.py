"""Detection of duplicate images in a sample: equal pixels, or the same picture at another size.

Scores, intervals and cross-validation assume independent images, so duplicates must count as one observation. Similar images are not
duplicates: images of equal size must have equal pixels, and images of different sizes must agree everywhere, so that a small object or a
printed number distinguishes them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import DataError, few
from ntk_select.experts.network_inputs import DecodedImages
from ntk_select.experts.preprocess import checked_image
from ntk_select.experts.resize import filter_weights
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import ChosenImages

MAX_SIDE = 4096
"""Pixels per side above which rows and columns are subsampled."""
SIDE, SHARE = 16, 0.25
"""Side of the thumbnails for the comparison of images of different sizes, and their allowed difference relative to the contrast."""
ROWS = 512
"""Rows of an image converted to floats at a time."""
COMPARED, BLOCK = 256, 4
"""Maximum side, in pixels, at which images of different sizes are compared, and side of the blocks whose means must agree."""
LEVELS, DETAIL = 6.0, 0.35
"""Allowed difference of block means in grey levels, and fraction of the contrast in the block that is added, for filters and JPEG."""
MAX_COMPARED = 20
"""Maximum number of full-size comparisons per image."""


def distinct(sample: ProbeSample) -> tuple[ProbeSample, list[str]]:
    """The sample without duplicates (of each group the first image of each class), and sentences on the findings.

    Decodes every image once, with a cache of decoded images.
    """
    images = DecodedImages(sample.images)
    groups = groups_of_copies(images)
    dropped, several = [], []
    for group in groups:
        labels = sample.labels[group]
        firsts = np.unique(labels, return_index=True)[1]
        dropped.extend((int(place), int(group[np.argmax(labels == sample.labels[place])])) for place in np.delete(group, firsts))
        if len(firsts) > 1:
            several.append(group[np.sort(firsts)])
    remarks = []
    if dropped:
        remarks.append(
            f"{len(dropped)} of {len(sample)} images are copies of others and are left out: {few([_pair(sample, *pair) for pair in dropped], 3)}. "
            "They would count as independent images."
        )
    if several:
        shown = [" and ".join(f"{_named(sample, place)} ({sample.class_names[sample.labels[place]]!r})" for place in places) for places in several]
        remarks.append(f"The same image is in several classes: {few(shown, 3)}. Check the labels.")
    unique = np.setdiff1d(np.arange(len(sample)), [place for place, _ in dropped])
    return ProbeSample(ChosenImages(images, unique), sample.labels[unique], sample.class_names, sample.indices[unique]), remarks


def _pair(sample: ProbeSample, place: int, first: int) -> str:
    return f"{_named(sample, place)} is {_named(sample, first)} ({sample.class_names[sample.labels[place]]!r})"


def _named(sample: ProbeSample, place: int) -> str:
    """An image of the sample by its file in its folder or archive, else by its number among the training images."""
    origin = sample.images.origin(place) if isinstance(sample.images, ChosenImages) else None
    if origin is None:
        return f"training image {sample.indices[place]}"
    files, name = origin
    return name or "/".join(Path(files[0]).parts[-2:])


def groups_of_copies(images: Sequence[np.ndarray]) -> list[Int[np.ndarray, " k"]]:
    """Groups of at least two duplicate images, as sorted positions.

    Args:
      images: uint8 (h, w) or (h, w, 3), of any sizes; grey images equal colour images with the same values. If any image is of another
        type, no duplicates are searched.

    Cost: reads every image once, and similar images of different sizes again, at most `MAX_COMPARED` times. Memory: 3 kB per image.
    """
    shapes, contents, thumbnails = [], [], []
    for image in images:
        try:
            image = _plain(image)
        except DataError:
            return []
        shapes.append(image.shape[:2])
        contents.append(hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest())
        thumbnails.append(_resized(image, SIDE, SIDE))
    first_of: dict[bytes, int] = {}
    first = np.array([first_of.setdefault(content, place) for place, content in enumerate(contents)], np.int64)
    for place, other in _resized_copies(images, shapes, np.array(thumbnails), sorted(first_of.values())):
        first[first == first[other]] = first[place]
    return [np.flatnonzero(first == place) for place in np.unique(first) if (first == place).sum() > 1]


def _plain(image: np.ndarray) -> np.ndarray:
    """The image as (h, w), or (h, w, 3) if its channels differ. Raises DataError for all but 8-bit images."""
    image = checked_image(image)
    return image[..., 0] if image.ndim == 3 and (image == image[..., :1]).all() else image


def _resized(image: np.ndarray, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """The whole image at another size, with a triangular filter."""
    image = image if image.ndim == 3 else image[..., None]
    image = image[:: -(-image.shape[0] // MAX_SIDE), :: -(-image.shape[1] // MAX_SIDE)]
    down, across = _filter(image.shape[0], height), _filter(image.shape[1], width)
    rows = np.zeros((height, image.shape[1] * image.shape[2]), np.float32)
    for start in range(0, len(image), ROWS):  # in parts, since floats need four times the memory
        rows += down[:, start : start + ROWS] @ image[start : start + ROWS].reshape(-1, rows.shape[1]).astype(np.float32)
    return np.broadcast_to(across @ rows.reshape(height, *image.shape[1:]), (height, width, 3))


@lru_cache(maxsize=32)
def _filter(length: int, side: int) -> Float[np.ndarray, "side length"]:
    """Weights for resizing `length` pixels to `side`."""
    weights = np.zeros((side, length), np.float32)
    for place, (start, values) in enumerate(filter_weights("bilinear", length, side, 0, side)):
        weights[place, start : start + len(values)] = values
    return weights / weights.sum(axis=1, keepdims=True)


def _resized_copies(images, shapes, thumbnails: np.ndarray, places: list[int]) -> list[tuple[int, int]]:
    """Pairs of images of different sizes that show the same picture."""
    if len({shapes[place] for place in places}) < 2:
        return []
    means, allowed = thumbnails.mean(axis=(1, 2, 3)), np.maximum(LEVELS / 2, SHARE * thumbnails.std(axis=(1, 2, 3)))
    order = sorted(places, key=lambda place: means[place])
    found, left = [], MAX_COMPARED * len(places)
    for position, place in enumerate(order):
        for other in order[position + 1 :]:
            if means[other] - means[place] > allowed[place] or left == 0:
                break
            if shapes[place] == shapes[other] or np.sqrt(((thumbnails[place] - thumbnails[other]) ** 2).mean()) > min(allowed[place], allowed[other]):
                continue
            left -= 1
            if _same_picture(_plain(images[place]), _plain(images[other])):
                found.append((place, other))
    return found


def _same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images agree in the mean of every block at the size of the smaller one, up to a fraction of the contrast in the block."""
    smaller = (min(one.shape[axis], other.shape[axis], COMPARED) for axis in (0, 1))
    height, width = (max(side // BLOCK, 1) * BLOCK for side in smaller)
    blocks = [_resized(image, height, width).reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3) for image in (one, other)]
    apart = np.abs(blocks[0].mean(axis=(1, 3)) - blocks[1].mean(axis=(1, 3)))
    detail = np.minimum(*(block.std(axis=(1, 3)) for block in blocks))
    return bool((apart <= LEVELS + DETAIL * detail).all())
