"""Listing and reading of the files in a folder, a zip archive or a tar."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ntk_select.errors import DataError

from ..zipped import check_entry, is_plain_path, read_entry


class Files:
    """The files below a folder."""

    def __init__(self, root: str, paths: list[str]):
        self.where, self._paths = root, paths

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """(path, what `read` wants, size) of each."""
        return ((path, path, os.path.getsize(os.path.join(self.where, path))) for path in self._paths)

    def read(self, path: str) -> bytes:
        """Its bytes."""
        return Path(self.where, path).read_bytes()


class Zip:
    """The files in a zip archive."""

    def __init__(self, path: str, opened: ExitStack):
        self.where, self._zip = path, opened.enter_context(zipfile.ZipFile(path))

    def entries(self) -> Iterator[tuple[str, zipfile.ZipInfo, int]]:
        """(path, what `read` wants, size) of each."""
        seen = set()
        for entry in self._zip.infolist():
            check_entry(self.where, entry, seen)
            if not entry.is_dir():
                yield entry.filename, entry, entry.file_size

    def read(self, entry: zipfile.ZipInfo) -> bytes:
        """Its bytes."""
        return read_entry(self._zip, entry)


class Tar:
    """The files in a tar, compressed or not."""

    def __init__(self, path: str, opened: ExitStack):
        self.where, self._tar = path, opened.enter_context(tarfile.open(path))  # noqa: SIM115 - the stack closes it

    def entries(self) -> Iterator[tuple[str, tarfile.TarInfo, int]]:
        """(path, what `read` wants, size) of each."""
        for entry in self._tar:
            name = entry.name.removeprefix("./")
            if entry.size < 0:  # would lead back to where one has been, without end
                raise EOFError(f"the entry {name!r} has {entry.size:,} bytes")
            if name not in ("", ".") and not is_plain_path(name):
                raise DataError(f"{self.where}, entry {entry.name!r}: leads out of the archive. Download it from its authors.")
            if entry.isreg():
                yield name, entry, entry.size
        self._tar.fileobj.seek(self._tar.offset)
        if self._tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a cut for the end
            raise EOFError("the block that marks the end is missing")
        while self._tar.fileobj.read(2**20):
            pass  # a compressed file that is cut says so here

    def read(self, entry: tarfile.TarInfo) -> bytes:
        """Its bytes."""
        return self._tar.extractfile(entry).read()
