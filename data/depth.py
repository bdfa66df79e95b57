"""The number of bits of 16-bit images, decided once for all images of a task."""

import math
import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from ntk_select._runtime.cache import Cache, default_folder, key_of
from ntk_select._runtime.file_states import state_of
from ntk_select._runtime.progress import Progress, reporting
from ntk_select.errors import DataError
from ntk_select.experts.preprocess import DEPTHS, depth_for

PROBED = 1000
"""Images whose headers are looked at when a task is loaded."""
MANY = 2000
"""Images after which values of 16 bits need no more evidence."""
FAINT = 32
"""Largest value of all images below which no depth is plausible: masks, or fewer than 8 bits."""
MAY_BE_WIDE = frozenset([".png", ".apng", ".tif", ".tiff", ".pgm", ".pnm", ".ppm", ".j2k", ".jp2", ".jpf", ".jpx"])
"""Suffixes of files whose depth may be unknown."""
CODESTREAM = b"\xff\x4f\xff\x51"
"""Where the sizes of a JPEG 2000 image begin."""
CONVERT = "Convert the images to 8 bits: (values / white * 255).round(), where white is 1023, 4095, 16383 or 65535 for 10, 12, 14 or 16 bits."


class Wide(NamedTuple):
    """What the header of an image of more than 8 bits says.

    Attributes:
      colour: of several channels, of which Pillow gives the high byte alone.
      known: bits that the format itself tells, so that nothing has to be decided.
      declared: bits that a tag declares.
      inverted: 0 is white.
    """

    colour: bool
    known: int | None = None
    declared: int | None = None
    inverted: bool = False


class Seen(NamedTuple):
    """The header of an image and its largest value, on the scale of 16 bits."""

    wide: Wide
    largest: int
    name: str


@dataclass(frozen=True)
class Decision:
    """Bits of the grey 16-bit images of a task, None if it has none, and sentences on how they are read."""

    bits: int | None
    sentences: tuple[str, ...]


class Source(Protocol):
    """Encoded images by key."""

    def open(self, key: Any) -> BinaryIO:
        """The encoded image, open and seekable. DataError where it cannot be had."""

    def content(self, key: Any) -> bytes:
        """Its bytes. DataError where they cannot be had."""

    def name(self, key: Any) -> str:
        """What to call it in an error."""

    def origin(self, key: Any) -> tuple[tuple[str, ...], str]:
        """The files that hold it, and its name in them."""


Images = tuple[Source, Sequence[Any]]
"""A source, and the keys of images in it."""


def wide_of(image) -> Wide | None:
    """What an opened image of Pillow's, not yet loaded, says of more than 8 bits; None for up to 8.

    A container of exactly 16 bits says nothing of the depth of what is in it; a smaller one does.
    """
    if image.format == "PPM":
        bits = _largest_of_pnm(image).bit_length()
    elif image.format == "JPEG2000":
        bits = _precision(image.fp)
    else:
        bits = 16
    if image.mode.startswith("I"):
        tags = image.tag_v2 if image.format == "TIFF" else {}
        packed = max(tags.get(258, (16,)))
        known = 16 if bits < 16 else packed if packed < 16 else None  # Pillow scales those of fewer bits to 16, but not TIFF's
        return Wide(False, known, _declared(image, tags), inverted=tags.get(262) == 0)
    if image.format in ("PPM", "JPEG2000"):
        return Wide(True) if bits == 16 else None
    raw = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return Wide(True) if image.format in ("PNG", "TIFF") and any(";16" in args for args in raw) else None


def _largest_of_pnm(image) -> int:
    """The largest value that the header of a PGM or PPM allows."""
    args = image.tile[0].args
    return 65535 if image.mode == "I" and args == "I;16B" else args[1] if isinstance(args, tuple) and isinstance(args[1], int) else 255


def _precision(file: BinaryIO) -> int:
    """The most bits that one component of a JPEG 2000 image has; 16 where its header lies too far from the start."""
    place = file.tell()
    try:
        file.seek(0)
        head = file.read(2**20)
    finally:
        file.seek(place)
    sizes = head[head.find(CODESTREAM) :] if CODESTREAM in head else b""
    components = sizes[42 : 42 + 3 * int.from_bytes(sizes[40:42], "big") : 3]
    return max(((size & 127) + 1 for size in components), default=16)


def _declared(image, tags) -> int | None:
    """Bits of the largest value that TIFF's tags declare (MaxSampleValue, SMaxSampleValue), or of PNG's sBIT."""
    for tag in (281, 341):
        value = tags.get(tag)
        value = max(value) if isinstance(value, tuple) and value else value
        if isinstance(value, int | float) and value > 0 and math.log2(value + 1).is_integer() and 8 <= math.log2(value + 1) <= 16:
            return int(math.log2(value + 1))
    return _significant_bits(image.fp) if image.format == "PNG" else None


def _significant_bits(file: BinaryIO) -> int | None:
    """The entry of a PNG's chunk sBIT, which stands before the pixels."""
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            size = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT" and 1 <= size <= 4:
                bits = max(file.read(size))
                return bits if 8 <= bits <= 16 else None
            file.seek(size + 4, 1)
        return None
    finally:
        file.seek(place)


def decided(seen: Iterable[Seen]) -> Decision:
    """The depth of a task from its 16-bit images.

    Grey images have as many bits as their tags declare, if their largest value fits, and 16 if it does not. Without a tag: the fewest of
    8, 10, 12, 14 and 16 bits that hold the largest value of all, if that is 0 or at least `FAINT`. Of coloured images only the high byte can
    be read, so that their largest value must show that they have 16 bits.

    Raises:
      DataError: tags declare several depths, or the values leave it open.
    """
    seen = list(seen)
    grey, colour = ([one for one in seen if one.wide.colour is kind] for kind in (False, True))
    bits, sentences = None, []
    if grey:
        declared = {one.wide.declared: one for one in grey if one.wide.declared}
        if len(declared) > 1:
            (a, first), (b, second) = sorted(declared.items())[:2]
            raise DataError(f"{first.name} declares {a} bits, {second.name} {b}: images of one task need the same depth. {CONVERT}")
        largest = max(one.largest for one in grey)
        bits = depth_for(largest)
        if not declared and 0 < largest < FAINT:
            raise DataError(
                f"{grey[0].name}: the grey values of images of more than 8 bits run up to {largest} only, so that their depth cannot be known. "
                f"Convert the images to 8 bits: (values / white * 255).round(), where white is the value that stands for white."
            )
        if declared:
            bits = next(iter(declared)) if largest < 1 << next(iter(declared)) else 16
        sentences.append(
            f"Grey images of more than 8 bits are read as {bits} bits, 0 to {(1 << bits) - 1:,}: "
            + ("their files declare it." if declared and bits in declared else f"their largest value is {largest:,}.")
        )
        median = sorted(one.largest for one in grey)[len(grey) // 2]
        if bits in DEPTHS and depth_for(median) < bits and len(grey) > 1:
            fewer = sum(one.largest < 1 << depth_for(median) for one in grey)
            sentences.append(
                f"But {fewer:,} of {len(grey):,} of these images would fit into {depth_for(median)} bits. If depths are mixed: {CONVERT}"
            )
    if colour:
        largest = max(one.largest for one in colour)
        if largest < 1 << 14:
            raise DataError(
                f"{colour[0].name}: the values of the 16-bit colour images are below {largest + 1:,}, so that they have fewer than 16 bits or are "
                f"almost black; only their high bytes can be read. {CONVERT}"
            )
        sentences.append("Colour images of 16 bits are read by their high bytes, 0 to 65,535.")
    return Decision(bits, tuple(sentences))


class Depth:
    """The depth of a task's images, decided when the first of more than 8 bits is met.

    The decision is remembered in the user's cache folder for as long as the files that hold the images stay as they are (`state_of`).

    Args:
      train: source and keys of the training images, by which it is decided.
      test: the same of the test images, by which it is decided where no training image has more than 8 bits.
      warnings: a list that gains the sentences of the decision.
      look: (source, key, whole) -> what an image shows of its depth, as `decode.look`.
    """

    def __init__(self, train: Images, test: Images, warnings: list[str], look: Callable[[Source, Any, bool], Seen | None]):
        self._given = (train, test, warnings, look)
        self._decision: Decision | None = None
        self._lock = Lock()

    def __reduce__(self):
        return _restored, (*self._given, self._decision)

    def probe(self) -> None:
        """Decides now if one of up to `PROBED` training images, evenly spread, has more than 8 bits. Only headers are read else.

        Raises:
          DataError: as `decided`.
        """
        (source, keys), _, _, look = self._given
        keys = [key for key in keys if not isinstance(key, str) or posixpath.splitext(key)[1].lower() in MAY_BE_WIDE]
        if any(look(source, key, False) for key in keys[:: -(-len(keys) // PROBED) or 1]):
            with reporting(None, "Reading the depth of 16-bit images") as progress:
                self._decide(progress)

    def __call__(self) -> int | None:
        """Bits of the grey images. DataError as `decided`."""
        return self._decide(None).bits

    def _decide(self, progress: Progress | None) -> Decision:
        with self._lock:
            if self._decision is None:
                train, test, warnings, _ = self._given
                cache, before = Cache(default_folder()), self._state()
                decision = _remembered(cache, before)
                if decision is None:
                    decision = decided(self._seen(train, progress) or self._seen(test, progress))
                    if before is not None and before == self._state():
                        cache.put(before, {"bits": np.array(decision.bits or 0), "sentences": np.array(decision.sentences, str)})
                self._decision = decision
                warnings += [line for line in decision.sentences if line not in warnings]
        return self._decision

    def _state(self) -> str | None:
        """A key for the training and the test images and the state of their files; None where it cannot vouch for their content."""
        states = [state_of(source.origin(key) for key in keys) if len(keys) else "none" for source, keys in self._given[:2]]
        return None if None in states else key_of("depth of images", *states)

    def _seen(self, images: Images, progress: Progress | None) -> list[Seen]:
        (source, keys), look = images, self._given[-1]
        found, step = [], 512
        with ThreadPoolExecutor(min(2 * (os.cpu_count() or 1), 16)) as pool:
            for first in range(0, len(keys), step):
                if progress:
                    progress(first, len(keys), "")
                found += [seen for seen in pool.map(lambda key: look(source, key, True), keys[first : first + step]) if seen]
                if len(found) >= MANY and depth_for(max(seen.largest for seen in found)) == DEPTHS[-1]:
                    break
        return found


def _remembered(cache: Cache, key: str | None) -> Decision | None:
    kept = cache.get(key)
    if kept is None or kept.keys() != {"bits", "sentences"}:
        return None
    return Decision(int(kept["bits"]) or None, tuple(kept["sentences"].tolist()))


def _restored(train, test, warnings, look, decision) -> Depth:
    depth = Depth(train, test, warnings, look)
    depth._decision = decision
    return depth
