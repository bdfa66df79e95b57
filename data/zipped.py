"""The task in a zip archive of images. Nothing is extracted: entries are read where they lie."""

import os
import re
import stat
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

from .layout import is_image, read_layout
from .lazy import PerProcess
from .recognise import HEAD, refuse_stand_in

MAX_ENTRY_BYTES = 256 * 2**20


def load_zip(path: str | Path) -> Task:
    """The task in a zip archive, laid out inside as `load_folder` says.

    Images are read and decoded when asked for, from any thread; a forked or unpickled copy opens the file anew.

    Raises:
      DataError: no such file; not a zip, damaged, encrypted or not packed by deflate; an entry with an unsafe name, a link, twice the same
        name, or an image of more than 256 MiB; or not laid out so.
      TaskError: fewer than two classes.
    """
    where = os.path.expanduser(path)
    if not os.path.isfile(where):
        raise DataError(f"There is no file {str(path)!r}. Type zip:PATH, for example zip:photos.zip, with train/CLASS/IMAGE inside.")
    try:
        with open(where, "rb") as file:
            refuse_stand_in(where, file.read(HEAD))
        with zipfile.ZipFile(where) as archive:
            entries = archive.infolist()
    except DataError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise DataError(f"{where}: not a zip archive that can be read ({error}). Is it complete?") from error
    seen = set()
    for entry in entries:
        check_entry(where, entry, seen)
    files = [entry.filename for entry in entries if not entry.is_dir()]
    folders = [entry.filename.rstrip("/") for entry in entries if entry.is_dir()]
    layout = read_layout(where, files, folders)
    return layout.task(Path(where).stem, EntrySource(where, PerProcess(partial(zipfile.ZipFile, where))))


@dataclass(frozen=True)
class EntrySource:
    """Encoded images by the names of their entries."""

    where: str
    archive: PerProcess

    def open(self, entry: str) -> BinaryIO:
        """The entry, open: no more is unpacked than is read."""
        try:
            return self.archive().open(entry)
        except Exception as error:  # damaged headers: each raises its own
            raise self._unreadable(entry, error) from error

    def content(self, entry: str) -> bytes:
        """The bytes of the entry."""
        try:
            return read_entry(self.archive(), self.archive().getinfo(entry))
        except Exception as error:  # damaged deflate, lzma, bz2 or headers: each raises its own
            raise self._unreadable(entry, error) from error

    def _unreadable(self, entry: str, error: Exception) -> DataError:
        return DataError(f"{self.name(entry)}: cannot be read from the archive ({error}). Pack the archive again.")

    def name(self, entry: str) -> str:
        """The archive and the entry."""
        return f"{self.where}, entry {entry}"

    def origin(self, entry: str) -> tuple[tuple[str, ...], str]:
        """The archive, and the entry in it."""
        return (os.path.abspath(self.where),), entry


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry. No more is unpacked than it declares, and the checksum has to be right."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def is_plain_path(name: str) -> bool:
    """Whether an entry's name is a relative path with forward slashes that stays below its folder."""
    return not (re.match("[A-Za-z]:", name) or set("\\\0") & set(name) or {"", ".", ".."} & set(name.removesuffix("/").split("/")))


def check_entry(where: str, entry: zipfile.ZipInfo, seen: set[str]) -> None:
    """Refuses an entry that is not safe to read, and adds its name to those seen.

    Raises:
      DataError: an unsafe name, a link, encrypted, packed otherwise than by deflate, seen before, or an image of more than 256 MiB.
    """
    name = entry.orig_filename
    shown = f"{where}, entry {name!r}"
    if not is_plain_path(name):
        raise DataError(f"{shown}: not a plain relative path with forward slashes. Pack the archive again from inside its folder.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{shown}: is a symbolic link. Pack the file itself (zip without --symlinks).")
    if entry.flag_bits & 0x1:
        raise DataError(f"{shown}: is encrypted. Pack the archive again without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # of others a kilobyte may become gigabytes at once
        how = zipfile.compressor_names.get(entry.compress_type, f"method {entry.compress_type}")
        raise DataError(f"{shown}: is packed by {how}; allowed are deflate and no packing at all. Pack the archive again: zip -r photos.zip photos")
    if name in seen:
        raise DataError(f"{shown}: is there twice. Pack the archive again.")
    seen.add(name)
    if entry.file_size > MAX_ENTRY_BYTES and is_image(name):
        raise DataError(f"{shown}: has {entry.file_size:,} bytes unpacked; allowed are {MAX_ENTRY_BYTES:,}. Delete or shrink it.")
