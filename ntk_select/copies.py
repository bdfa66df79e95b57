"""Copies of one image in a sample, found by their content: the same picture, also at another size or in another file format.

Scores, intervals and cross-validation take images as independent. A picture that is there five times counts as one observation.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import DataError
from ntk_select.network_inputs import DecodedImages
from ntk_select.preprocess import checked_image
from ntk_select.resize import filter_weights
from ntk_select.task import ChosenImages, ProbeSample

SIDE, FINE = 16, 64
"""Sides of the thumbnails that are compared: the coarse ones first."""
LEAST, SHARE, FINE_SHARE = 1.0, 0.08, 0.5
"""Two images are copies if their thumbnails differ by no more than this in root mean square: grey levels, or a share of their contrast
if that is more. Measured on six sets of small pictures: copies at half the size 0.02 to 0.1, recompressed as JPEG 0.03 to 0.06, the two
most similar of 250 different photographs 0.45 to 0.5, of different surfaces 0.15 to 0.2. The fine thumbnails, where resizing leaves more
traces, tell textures apart that are equally grey from afar: unrelated ones differ there by 1.4."""
ROWS = 512
"""Rows of an image that are turned into floats at a time."""
BLOCKS = 4
"""Blocks along a side whose means are compared first."""


def distinct(sample: ProbeSample) -> tuple[ProbeSample, list[str]]:
    """The sample without copies, of each group the first image of each class, and sentences that say what was found.

    Decodes every image once; what fits into memory stays decoded.
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
            f"{len(dropped)} of {len(sample)} images are copies of others and are left out: {_some([_pair(sample, *pair) for pair in dropped])}. "
            "They would count as independent images."
        )
    if several:
        shown = [" and ".join(f"{sample.indices[place]} ({sample.class_names[sample.labels[place]]!r})" for place in places) for places in several]
        remarks.append(f"The same image is in several classes, by training image: {_some(shown)}. Which label is right?")
    kept = np.setdiff1d(np.arange(len(sample)), [place for place, _ in dropped])
    return ProbeSample(ChosenImages(images, kept), sample.labels[kept], sample.class_names, sample.indices[kept]), remarks


def _pair(sample: ProbeSample, place: int, first: int) -> str:
    return f"training image {sample.indices[place]} is {sample.indices[first]} ({sample.class_names[sample.labels[place]]!r})"


def _some(texts: list[str], most: int = 3) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def groups_of_copies(images: Iterable[np.ndarray]) -> list[Int[np.ndarray, " k"]]:
    """Groups of two or more images that are copies of each other, as sorted places.

    Args:
      images: uint8 (h, w) or (h, w, 3), of any sizes; grey images equal coloured ones of the same values. Where any is something else no
        copies are looked for.

    Cost: a thumbnail of each, and comparisons among images of nearly the same brightness.
    """
    from scipy.sparse import coo_array  # here, for SciPy takes long to import
    from scipy.sparse.csgraph import connected_components

    thumbnails = [_thumbnails(image) for image in images]
    if None in thumbnails or not thumbnails:
        return []
    coarse, fine = (np.stack(sizes) for sizes in zip(*thumbnails, strict=True))
    pairs = _pairs(coarse, fine)
    if not len(pairs):
        return []
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(coarse),) * 2)
    ids = connected_components(graph, directed=False)[1]
    of_several = np.flatnonzero(np.bincount(ids) > 1)
    return [np.flatnonzero(ids == label) for label in of_several]


def _thumbnails(image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The whole image, squeezed to `SIDE` x `SIDE` and `FINE` x `FINE` with a triangular filter; None of what is no 8-bit image."""
    try:
        image = checked_image(image)
    except DataError:
        return None
    image = image if image.ndim == 3 else image[..., None]
    height, width, channels = image.shape
    down = np.concatenate([_filter(height, SIDE), _filter(height, FINE)])
    rows = np.zeros((SIDE + FINE, width * channels), np.float32)
    for start in range(0, height, ROWS):  # in parts, for as floats the image takes four times its memory
        part = image[start : start + ROWS].reshape(-1, width * channels)
        rows += down[:, start : start + ROWS] @ part.astype(np.float32)
    rows = rows.reshape(-1, width, channels)
    found = [_filter(width, side) @ part for side, part in ((SIDE, rows[:SIDE]), (FINE, rows[SIDE:]))]
    return tuple(np.repeat(small, 3, axis=-1) if channels == 1 else small for small in found)


@lru_cache(maxsize=64)
def _filter(length: int, side: int) -> Float[np.ndarray, "side length"]:
    """Weights that bring `length` pixels to `side`."""
    weights = np.zeros((side, length), np.float32)
    for place, (start, values) in enumerate(filter_weights("bilinear", length, side, 0, side)):
        weights[place, start : start + len(values)] = values
    return weights / weights.sum(axis=1, keepdims=True)


def _block_means(thumbnails: np.ndarray, side: int) -> Float[np.ndarray, "n side side 3"]:
    size = thumbnails.shape[1] // side
    return thumbnails.reshape(len(thumbnails), side, size, side, size, 3).mean(axis=(2, 4))


def _pairs(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Pairs (k, 2) of places that are alike. Means over blocks, and over all, differ by no more than the pixels do, and exclude most pairs first."""
    blocks, found = _block_means(coarse, BLOCKS).reshape(len(coarse), -1), []
    means, allowed = blocks.mean(axis=1), _allowed(coarse, SHARE)
    finely_allowed = _allowed(fine, FINE_SHARE)
    order = np.argsort(means, kind="stable")
    stops = np.searchsorted(means[order], means[order] + allowed[order], side="right")
    for place, (first, stop) in enumerate(zip(order, stops, strict=True)):
        others = order[place + 1 : stop]
        others = others[((blocks[others] - blocks[first]) ** 2).mean(axis=1) <= allowed[first] ** 2]
        for thumbnails, most in ((coarse, allowed), (fine, finely_allowed)):
            apart = ((thumbnails[others] - thumbnails[first]) ** 2).mean(axis=(1, 2, 3))
            others = others[apart <= np.minimum(most[others], most[first]) ** 2]
        found.extend((first, other) for other in others)
    return np.array(found, np.int64).reshape(-1, 2)


def _allowed(thumbnails: np.ndarray, share: float) -> np.ndarray:
    return np.maximum(LEAST, share * thumbnails.std(axis=(1, 2, 3)))
