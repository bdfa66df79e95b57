"""The state of the files that hold images, as a key for what was computed from their content."""

import hashlib
import os
import time
from collections.abc import Iterable

from ntk_select._runtime.cache import key_of

FRESH = 2.0
"""Seconds after its last change within which a file may change again without another time."""

Origin = tuple[tuple[str, ...], str]
"""The files that hold an image, and its name in them."""


def state_of(origins: Iterable[Origin | None]) -> str | None:
    """A key for the names of images and the path, size, inode and times (of content and status, in nanoseconds) of every file that holds one.

    Args:
      origins: of each image, in order; None for one that lies in no file.

    Returns:
      The key; None where it cannot vouch for the content: an image lies in no file, a file cannot be found, or one is younger than `FRESH` seconds.
    """
    youngest = time.time_ns() - int(FRESH * 1e9)
    names, holders, states = hashlib.sha256(), {}, {}
    for of in origins:
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
    return key_of("states of files", names.hexdigest(), repr([(file, states[file]) for files in holders for file in files]))
