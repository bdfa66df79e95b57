"""Bit depth of images stored with more than 8 bits, decided once for all images of a task."""

import math
import posixpath
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from ntk_select._runtime.cache import Cache, default_folder, key_of, state_of
from ntk_select._runtime.host import threads
from ntk_select._runtime.progress import Progress, reporting
from ntk_select.errors import DataError
from ntk_select.experts.preprocess import DEPTHS, depth_for

PROBED = 1000
"""Number of images whose headers are inspected when a task is loaded."""
MANY = 2000
"""Number of images after which a depth of 16 bits needs no further evidence."""
FAINT = 32
"""Maximum over all images below which no depth is plausible: masks, or fewer than 8 bits."""
MAY_BE_WIDE = frozenset([".png", ".apng", ".tif", ".tiff", ".pgm", ".pnm", ".ppm", ".j2k", ".jp2", ".jpf", ".jpx"])
"""Suffixes of formats that can have more than 8 bits."""
CODESTREAM = b"\xff\x4f\xff\x51"
"""Marker of the component sizes in a JPEG 2000 image."""
CONVERT = "Try: convert the images to 8 bits: (values / white * 255).round(), where white is 1023, 4095, 16383 or 65535 for 10, 12, 14 or 16 bits"


class Wide(NamedTuple):
    """Header of an image of more than 8 bits.

    Attributes:
      colour: several channels, of which Pillow decodes only the high byte.
      known: bits defined by the format; nothing has to be decided.
      declared: bits declared by a tag.
      inverted: 0 is white.
    """

    colour: bool
    known: int | None = None
    declared: int | None = None
    inverted: bool = False


class Seen(NamedTuple):
    """Header of an image and its largest value on the 16-bit scale."""

    wide: Wide
    largest: int
    name: str


@dataclass(frozen=True)
class Decision:
    """Bit depth of the grey 16-bit images of a task, None if it has none, and warnings on how they are scaled."""

    bits: int | None
    sentences: tuple[str, ...]


class Source(Protocol):
    """Encoded images by key."""

    def open(self, key: Any) -> BinaryIO:
        """The encoded image as a seekable file. Raises DataError if it cannot be read."""

    def content(self, key: Any) -> bytes:
        """The encoded bytes. Raises DataError if they cannot be read."""

    def name(self, key: Any) -> str:
        """Name of the image in error messages."""

    def origin(self, key: Any) -> tuple[tuple[str, ...], str]:
        """The files that hold an image, and its name in them."""


Images = tuple[Source, Sequence[Any]]
"""A source, and keys of images in it."""


def wide_of(image) -> Wide | None:
    """The header of an image opened but not loaded by Pillow, if it has more than 8 bits; else None.

    A container of exactly 16 bits leaves the depth of its content open; a smaller one defines it.
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
        known = 16 if bits < 16 or image.format == "HEIF" else packed if packed < 16 else None  # fewer bits are scaled to 16, except for TIFF
        return Wide(False, known, _declared(image, tags), inverted=tags.get(262) == 0)
    if image.format in ("PPM", "JPEG2000"):
        return Wide(True) if bits == 16 else None
    raw = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return Wide(True) if image.format in ("PNG", "TIFF") and any(";16" in args for args in raw) else None


def _largest_of_pnm(image) -> int:
    """The maxval field of a PGM or PPM header."""
    args = image.tile[0].args
    return 65535 if image.mode == "I" and args == "I;16B" else args[1] if isinstance(args, tuple) and isinstance(args[1], int) else 255


def _precision(file: BinaryIO) -> int:
    """The largest component precision of a JPEG 2000 image, in bits; 16 if its header is not in the first MiB."""
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
    """Bits declared by the TIFF tags MaxSampleValue or SMaxSampleValue, or by a PNG sBIT chunk."""
    for tag in (281, 341):
        value = tags.get(tag)
        value = max(value) if isinstance(value, tuple) and value else value
        if isinstance(value, int | float) and value > 0 and math.log2(value + 1).is_integer() and 8 <= math.log2(value + 1) <= 16:
            return int(math.log2(value + 1))
    return _significant_bits(image.fp) if image.format == "PNG" else None


def _significant_bits(file: BinaryIO) -> int | None:
    """The largest entry of a PNG sBIT chunk, which precedes the pixels."""
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


def decided(seen: Iterable[Seen], what: str = "Grey images") -> Decision:
    """The bit depth of a task from its 16-bit images. `what` is their name in the warnings.

    Grey images have the depth that their tags declare if the largest value fits, else 16. Without a tag: the smallest of 8, 10, 12, 14
    and 16 bits that holds the largest value of all images, if that is 0 or at least `FAINT`. Of colour images only the high byte can be
    read: their largest value must show that they have 16 bits.

    Raises:
      DataError: tags declare different depths, or the values leave the depth undecided.
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
                f"{grey[0].name}: the grey values of images of more than 8 bits reach only {largest}, so their bit depth cannot be determined. "
                "Try: convert the images to 8 bits: (values / white * 255).round(), where white is the value of white"
            )
        if declared:
            bits = next(iter(declared)) if largest < 1 << next(iter(declared)) else 16
        sentences.append(
            f"{what} of more than 8 bits are read as {bits} bits, 0 to {(1 << bits) - 1:,}: "
            + ("their files declare it." if declared and bits in declared else f"their largest value is {largest:,}.")
        )
        median = sorted(one.largest for one in grey)[len(grey) // 2]
        if bits in DEPTHS and depth_for(median) < bits and len(grey) > 1:
            fewer = sum(one.largest < 1 << depth_for(median) for one in grey)
            sentences.append(
                f"But {fewer:,} of {len(grey):,} of these images would fit into {depth_for(median)} bits. If depths are mixed: {CONVERT.removeprefix('Try: ')}."
            )
    if colour:
        largest = max(one.largest for one in colour)
        if largest < 1 << 14:
            raise DataError(
                f"{colour[0].name}: the values of the 16-bit colour images are below {largest + 1:,}: they have fewer than 16 bits or are "
                f"almost black; only their high bytes can be read. {CONVERT}"
            )
        sentences.append("Colour images of 16 bits are read by their high bytes, 0 to 65,535.")
    return Decision(bits, tuple(sentences))


def to_8_bits(values: np.ndarray, bits: int | None) -> np.ndarray:
    """Values of this bit depth, by default 16, as uint8: 0 .. white becomes 0 .. 255, rounded."""
    white = (1 << (bits or 16)) - 1
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


class BitDepth:
    """Bit depth of the images of a task, decided lazily when the first image of more than 8 bits is decoded.

    The decision is cached on disk, keyed by the state of the image files (`state_of`).

    Args:
      train: source and keys of the training images, which decide the depth.
      test: the same of the test images, which decide if no training image has more than 8 bits.
      warnings: a list to which the warnings of the decision are appended.
      look: (source, key, whole) -> evidence of one image, as `decode.look`.
    """

    def __init__(self, train: Images, test: Images, warnings: list[str], look: Callable[[Source, Any, bool], Seen | None]):
        self._given = (train, test, warnings, look)
        self._decision: Decision | None = None
        self._lock = Lock()

    def __reduce__(self):
        return _restored, (*self._given, self._decision)

    def probe(self) -> None:
        """Decides now if any of up to `PROBED` evenly spaced training images has more than 8 bits; otherwise reads only their headers.

        Raises:
          DataError: as for `decided`.
        """
        (source, keys), _, _, look = self._given
        keys = [key for key in keys if not isinstance(key, str) or posixpath.splitext(key)[1].lower() in MAY_BE_WIDE]
        if any(look(source, key, False) for key in keys[:: -(-len(keys) // PROBED) or 1]):
            with reporting(None, "Reading the depth of 16-bit images") as progress:
                self._decide(progress)

    def __call__(self) -> int | None:
        """Bit depth of the grey images. Raises DataError as `decided` does."""
        return self._decide(None).bits

    def _decide(self, progress: Progress | None) -> Decision:
        with self._lock:
            if self._decision is None:
                train, test, warnings, _ = self._given
                cache, before = Cache(default_folder()), self._state()
                decision = _cached(cache, before)
                if decision is None:
                    decision = decided(self._seen(train, progress) or self._seen(test, progress))
                    if before is not None and before == self._state():
                        cache.put(before, {"bits": np.array(decision.bits or 0), "sentences": np.array(decision.sentences, str)})
                self._decision = decision
                warnings += [line for line in decision.sentences if line not in warnings]
        return self._decision

    def _state(self) -> str | None:
        """Cache key for the training and test images and the state of their files; None if the files do not guarantee the content."""
        states = [state_of(source.origin(key) for key in keys) if len(keys) else "none" for source, keys in self._given[:2]]
        return None if None in states else key_of("depth of images", *states)

    def _seen(self, images: Images, progress: Progress | None) -> list[Seen]:
        (source, keys), look = images, self._given[-1]
        found, step = [], 512
        with ThreadPoolExecutor(threads()) as pool:
            for first in range(0, len(keys), step):
                if progress:
                    progress(first, len(keys), "")
                found += [seen for seen in pool.map(lambda key: look(source, key, True), keys[first : first + step]) if seen]
                if len(found) >= MANY and depth_for(max(seen.largest for seen in found)) == DEPTHS[-1]:
                    break
        return found


def _cached(cache: Cache, key: str | None) -> Decision | None:
    stored = cache.get(key)
    if stored is None or stored.keys() != {"bits", "sentences"}:
        return None
    return Decision(int(stored["bits"]) or None, tuple(stored["sentences"].tolist()))


def _restored(train, test, warnings, look, decision) -> BitDepth:
    depth = BitDepth(train, test, warnings, look)
    depth._decision = decision
    return depth
