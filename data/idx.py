"""The array in an IDX file (the format of MNIST), gzipped or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ntk_select.errors import DataError

from .recognise import HEAD, refuse_stand_in

MAX_BYTES = 2**30


def read_idx(path: Path, *, ndim: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, read-only.

    Layout: two zero bytes, the type (8 is unsigned byte), the number of dimensions, each dimension as big-endian
    uint32, then the values, the last dimension fastest.

    Args:
      path: the file. Gzip is recognised by content, not by name.
      ndim: how many dimensions there must be: 3 for images, 1 for labels.

    Raises:
      DataError: unreadable, damaged, another type or number of dimensions, too few or too many values.
    """
    try:
        with open(path, "rb") as plain:
            start = plain.read(HEAD)
            refuse_stand_in(str(path), start)
            zipped = start.startswith(b"\x1f\x8b")
            plain.seek(0)
            with gzip.open(plain) if zipped else plain as file:
                shape = _shape(path, file.read(4 + 4 * ndim), ndim)
                values = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Is it complete? Fetch it again.") from error
    if len(values) != math.prod(shape):
        found = "more" if len(values) > math.prod(shape) else f"{len(values):,}"
        raise DataError(f"{path}: its header promises {math.prod(shape):,} values, it has {found}. Fetch it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    if header[:4] != bytes([0, 0, 8, ndim]) or len(header) < 4 + 4 * ndim:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes with {ndim} dimensions: it starts with {header[:4].hex(' ')!r}, not '00 00 08 0{ndim}'."
        )
    shape = struct.unpack(f">{ndim}I", header[4:])
    if math.prod(shape) > MAX_BYTES:
        raise DataError(f"{path}: its header promises {math.prod(shape):,} values; allowed are {MAX_BYTES:,}. It is damaged.")
    return shape
