"""Disk cache of arrays, LRU with a byte budget, and keys from the content of inputs or from the state of files.

Keys hash weights, inputs and the program of the function, not names or files: any change of a weight, image, preprocessing or
layer changes the key, and renaming an expert does not. Errors of the cache folder cost time but never change a result.
"""

import hashlib
import io
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ntk_select._runtime.files import write_atomically

FORMAT = "1"
"""Version of the cache; increase it whenever the same inputs give other numbers."""
_NAMES = "names of all arrays"
LARGEST = 4 * 2**30
"""Byte budget of a cache folder; the least recently used entries are deleted first."""


def default_folder() -> Path | None:
    """$NTK_SELECT_CACHE, else ntk_select in $XDG_CACHE_HOME or ~/.cache; None without a home folder."""
    named = os.environ.get("NTK_SELECT_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntk_select"
    except RuntimeError:
        return None


def key_of(*parts: str | bytes | np.ndarray) -> str:
    """The key of a sequence of strings and arrays."""
    from ntk_select import __version__  # here, since the package imports this module

    digest = hashlib.sha256(f"ntk_select {__version__} {FORMAT}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).reshape(-1).view(np.uint8)  # a view, without a copy
        content = part.encode() if isinstance(part, str) else part
        digest.update(f"[{len(content)}]".encode())
        digest.update(content)
    return digest.hexdigest()


class Cache:
    """Named arrays by key in a folder; with None as the folder nothing is stored.

    Damaged files count as absent. A folder that cannot be written is still read; `trouble` describes the error.
    """

    def __init__(self, folder: str | Path | None):
        self.folder = None if folder is None else Path(os.path.expanduser(folder))
        self.trouble: str | None = None

    def __bool__(self):
        return self.folder is not None

    def get(self, key: str | None) -> dict[str, np.ndarray] | None:
        """The arrays stored under the key, or None."""
        if self.folder is None or key is None:
            return None
        file = self._file(key)
        try:
            with open(file, "rb") as stream:
                arrays = dict(np.load(stream, allow_pickle=False))
            complete = sorted(arrays) == sorted([_NAMES, *arrays[_NAMES].tolist()])
        except Exception:  # damaged files raise many types
            return None
        if not complete:
            return None
        del arrays[_NAMES]
        with suppress(OSError):  # not our folder
            os.utime(file)
        return arrays

    def put(self, key: str | None, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores arrays under the key, atomically."""
        if self.folder is None or key is None or self.trouble:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **{_NAMES: np.array(list(arrays))})
        try:
            write_atomically(self._file(key), buffer.getvalue())
        except OSError as error:
            self.trouble = (
                f"The cache {self.folder} cannot be written ({error.strerror}); nothing more is stored. Try: another cache folder (--cache)"
            )

    def prune(self, largest: int = LARGEST) -> None:
        """Deletes the least recently used entries until at most `largest` bytes are left."""
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
            pass  # another process prunes at the same time, or the folder is not ours

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"


FRESH = 2.0
"""Age in seconds below which a file may change again without a new modification time."""

Origin = tuple[tuple[str, ...], str]
"""The files that hold an image, and its name in them."""


def state_of(origins: Iterable[Origin | None]) -> str | None:
    """The key of the files that hold images: names of the images, and path, size, inode, mtime and ctime of each file.

    Args:
      origins: Origin of each image, in order; None for an image that is in no file.

    Returns:
      The key; None if it does not guarantee the content: an image is in no file, a file does not exist, or one is younger than `FRESH` seconds.
    """
    youngest = time.time_ns() - int(FRESH * 1e9)
    names, holders, states = hashlib.sha256(), {}, {}
    for origin in origins:
        if origin is None:
            return None
        files, name = origin
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
    return key_of("states of files", names.hexdigest(), repr([(file, states[file]) for files in holders for file in files]))
