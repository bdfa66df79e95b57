"""Digests of the content of images, remembered for as long as their files stay as they are."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ntk_select._runtime.cache import Cache, default_folder, key_of
from ntk_select._runtime.file_states import state_of
from ntk_select.tasks.task import Images, encoded_bytes
from ntk_select.training.feeding import threads

CHUNK = 64
"""Images that one thread digests at a time."""


def digest_of_images(images: Images, cache: Cache | None = None) -> str:
    """Digest of the content of all images in their order: encoded bytes where the sequence gives them, else shape and pixels.

    The digest of images that lie in files is remembered under the state of every file (`state_of`). It is not remembered where a file has
    changed within seconds or meanwhile, or is not known: a digest is computed anew rather than wrong.

    Args:
      cache: that remembers it; by default the user's cache folder.
    """
    cache = Cache(default_folder()) if cache is None else cache
    before = _state(images)
    known = cache.get(before)
    if known is not None and known.keys() == {"digest"}:
        return known["digest"].tobytes().hex()
    digest = hashlib.sha256(f"{len(images)} images".encode())
    for one in _each(images):
        digest.update(one)
    if before is not None and before == _state(images):
        cache.put(before, {"digest": np.frombuffer(digest.digest(), np.uint8)})
    return digest.hexdigest()


def _each(images: Images) -> Iterator[bytes]:
    """The digest of each image, in order. Images that are not in memory are read in threads."""
    places = range(len(images))
    if isinstance(images, np.ndarray):
        yield from (_of_one(images, place) for place in places)
        return
    with ThreadPoolExecutor(threads()) as pool:
        for first in range(0, len(images), CHUNK * threads()):
            starts = range(first, min(first + CHUNK * threads(), len(images)), CHUNK)
            for found in pool.map(lambda start: [_of_one(images, place) for place in places[start : start + CHUNK]], starts):
                yield from found


def _of_one(images: Images, place: int) -> bytes:
    encoded = encoded_bytes(images, place)
    if encoded is not None:
        return hashlib.sha256(b"encoded" + encoded).digest()
    image = np.asarray(images[place])
    return hashlib.sha256(f"pixels {image.dtype} {image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()


def _state(images: Images) -> str | None:
    """A key for the images and the state of their files; None where it cannot vouch for their content."""
    origin = getattr(images, "origin", None)
    state = None if origin is None else state_of(origin(place) for place in range(len(images)))
    return None if state is None else key_of("digest of images", state)
