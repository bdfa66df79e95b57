"""What has been computed before need not be computed again: arrays on disk, by the content of what they were computed from.

Keys hold the bytes of weights and inputs and the program of the function, not names or files: a changed weight, image, preprocessing
or layer is another key, and a renamed expert is the same. Whatever goes wrong with the folder costs time, never a result.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ntk_select._runtime.files import write_atomically

FORMAT = "1"
"""To be raised whenever the same inputs give other numbers than before."""
_NAMES = "names of all arrays"
LARGEST = 4 * 2**30
"""Bytes that a cache may hold; what was used least recently goes first."""


def default_folder() -> Path | None:
    """$NTK_SELECT_CACHE, or ntk_select in $XDG_CACHE_HOME or ~/.cache; None where there is no home."""
    named = os.environ.get("NTK_SELECT_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntk_select"
    except RuntimeError:
        return None


def key_of(*parts: str | bytes | np.ndarray) -> str:
    """One key for texts and arrays, in this order."""
    from ntk_select import __version__  # here, for the package imports this file

    digest = hashlib.sha256(f"ntk_select {__version__} {FORMAT}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).reshape(-1).view(np.uint8)  # bytes without a copy
        content = part.encode() if isinstance(part, str) else part
        digest.update(f"[{len(content)}]".encode())
        digest.update(content)
    return digest.hexdigest()


class Cache:
    """Named arrays by key in a folder; None for a folder keeps nothing.

    A file that is damaged counts as absent. A folder that cannot be written is still read, and `trouble` says what was the matter.
    """

    def __init__(self, folder: str | Path | None):
        self.folder = None if folder is None else Path(os.path.expanduser(folder))
        self.trouble: str | None = None

    def __bool__(self):
        return self.folder is not None

    def get(self, key: str | None) -> dict[str, np.ndarray] | None:
        """What was kept under the key, all of it, or None."""
        if self.folder is None or key is None:
            return None
        file = self._file(key)
        try:
            with open(file, "rb") as stream:
                arrays = dict(np.load(stream, allow_pickle=False))
            whole = sorted(arrays) == sorted([_NAMES, *arrays[_NAMES].tolist()])
        except Exception:  # bits can be turned in more ways than a list of exceptions names
            return None
        if not whole:
            return None
        del arrays[_NAMES]
        with suppress(OSError):  # of somebody else's folder
            os.utime(file)
        return arrays

    def put(self, key: str | None, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays under the key, whole or not at all."""
        if self.folder is None or key is None or self.trouble:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **{_NAMES: np.array(list(arrays))})
        try:
            write_atomically(self._file(key), buffer.getvalue())
        except OSError as error:
            self.trouble = f"The cache {self.folder} cannot be written ({error.strerror}); nothing more is kept. Type: --cache ANOTHER_FOLDER"

    def prune(self, largest: int = LARGEST) -> None:
        """Deletes what was used least recently until no more than `largest` bytes are left."""
        if self.folder is None:
            return
        try:
            files = [(entry.stat().st_mtime, entry.stat().st_size, entry) for entry in self.folder.glob("*/*.npz")]
            excess = sum(size for _, size, _ in files) - largest
            for _, size, entry in sorted(files, key=lambda file: file[0]):
                if excess <= 0:
                    break
                entry.unlink(missing_ok=True)
                excess -= size
        except OSError:
            pass  # another process prunes as well, or the folder is not ours

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"
