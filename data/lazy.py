"""Images that are decoded when they are asked for, in any thread and any process."""

import operator
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np


class LazyImages(Sequence):
    """A sequence of images, each decoded when it is indexed. Nothing is kept in memory.

    Args:
      keys: what `read` wants for each image: a path, the name of an entry, a number.
      read: key -> uint8 array (h, w) or (h, w, 3). Must be safe to call from threads, and picklable. It may have methods content(key), the
        encoded bytes, and origin(key), the files that hold them and the name in these.
    """

    def __init__(self, keys: Sequence[Hashable], read: Callable[[Any], np.ndarray]):
        self._keys = keys
        self._read = read

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, index):
        """One image; or, for a slice, a shorter lazy sequence."""
        if isinstance(index, slice):
            return LazyImages(self._keys[index], self._read)
        return self._read(self._keys[operator.index(index)])

    def content(self, index: int) -> bytes | None:
        """The encoded bytes of an image, where `read` gives them by a method of this name; else None."""
        content = getattr(self._read, "content", None)
        return None if content is None else content(self._keys[index])

    def origin(self, index: int) -> tuple[tuple[str, ...], str] | None:
        """The files that hold an image and its name in them, where `read` tells them; else None."""
        origin = getattr(self._read, "origin", None)
        return None if origin is None else origin(self._keys[index])

    def __repr__(self):
        return f"LazyImages({len(self)})"


class PerProcess:
    """Something opened once a process, at first use: a forked or unpickled copy opens its own.

    Two processes must not share a file's position. Two threads may both open at first use; one of the two is dropped.

    Args:
      open_it: opens it. Must be picklable.
    """

    def __init__(self, open_it: Callable[[], Any]):
        self._open_it = open_it
        self._opened = (None, None)

    def __call__(self) -> Any:
        """What this process has opened."""
        pid, opened = self._opened
        if pid != os.getpid():
            opened = self._open_it()
            self._opened = (os.getpid(), opened)
        return opened

    def __reduce__(self):
        return PerProcess, (self._open_it,)
