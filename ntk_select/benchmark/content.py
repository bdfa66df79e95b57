"""Digests of the content of images, remembered for as long as their files stay as they are."""

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ntk_select.cache import Cache, default_folder, key_of
from ntk_select.feeding import threads
from ntk_select.task import Images, encoded_bytes

FRESH = 2.0
"""Seconds after its last change within which a file may change again without another time."""
CHUNK = 64
"""Images that one thread digests at a time."""


def digest_of_images(images: Images, cache: Cache | None = None) -> str:
    """Digest of the content of all images in their order: encoded bytes where the sequence gives them, else shape and pixels.

    The digest of images that lie in files is remembered under the path, size, inode and times (of content and status, in nanoseconds) of
    every file. It is not remembered where a file is younger than `FRESH` seconds, changed meanwhile, or is not known: a
    digest is computed anew rather than wrong.

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
    """A key for the names of the images and the state of the files that hold them; None where it cannot vouch for their content."""
    origin, youngest = getattr(images, "origin", None), time.time_ns() - int(FRESH * 1e9)
    if origin is None:
        return None
    names, holders, states = hashlib.sha256(), {}, {}
    for place in range(len(images)):
        of = origin(place)
        if of is None:
            return None
        files, name = of
        number = holders.setdefault(files, len(holders))
        names.update(repr((number, name)).encode())
        for file in files if number == len(holders) - 1 else ():
            if file not in states:
                try:
                    found = os.stat(file)
                except OSError:
                    return None
                if max(found.st_mtime_ns, found.st_ctime_ns) > youngest:
                    return None
                states[file] = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return key_of("digest of images", names.hexdigest(), repr([(file, states[file]) for files in holders for file in files]))
