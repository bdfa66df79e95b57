"""Detects side effects outside a folder: files written, moved or removed, programs started, connections opened."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

PLACES = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.symlink": (1,), "os.link": (1,), "os.truncate": (0,)}
OTHER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What Python's audit events tell. A hook stays for as long as Python runs: there is one, which mostly sleeps."""

    def __init__(self):
        self.inside, self.found, self.hooked = None, [], False

    def __call__(self, event: str, arguments: tuple) -> None:
        """The hook."""
        if self.inside is None:
            return
        if event in OTHER:
            self.found.append((event, arguments))
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike) and isinstance(arguments[2], int) and arguments[2] & WRITES:
            self.note(event, arguments[0])
        elif event in PLACES:
            for place in PLACES[event]:
                self.note(event, arguments[place])

    def note(self, event: str, path) -> None:
        """Remembers what is outside; compiled modules of a first import are no harm."""
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(self.inside + os.sep) and "__pycache__" not in path:
            self.found.append((event, path))

    @contextmanager
    def over(self, folder: Path):
        """Raises AssertionError if anything reached beyond `folder` meanwhile."""
        if not self.hooked:
            sys.addaudithook(self)
            self.hooked = True
        self.inside, self.found = os.path.abspath(folder), []
        try:
            yield
        finally:
            self.inside = None
        if self.found:
            raise AssertionError(f"Beyond {folder}: {self.found}")


WATCH = Watch()
