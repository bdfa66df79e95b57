"""Tasks from a folder of images or a zip archive of one. Archives are read in place, without extraction."""

import os
import re
import stat
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ntk_select.data.decode import PerProcess
from ntk_select.data.image_files import HEAD, is_image, reject_placeholder
from ntk_select.data.layout import is_junk, read_layout
from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

MAX_DEPTH = 8  # ends the recursion into links to a parent folder


def load_folder(path: str | Path) -> Task:
    """The task in a folder: train/CLASS/IMAGE with or without test/CLASS/IMAGE, or CLASS/IMAGE.

    `val`, `valid` or `validation` is the test set if there is no `test`. Images are decoded on access. Links to images and
    folders are followed. Hidden files, system files and files that are not images are ignored.

    Raises:
      DataError: the folder does not exist, cannot be read, or has another layout.
      TaskError: fewer than two classes.
    """
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise DataError(f"There is no folder {str(path)!r}. Try: folder:PATH, for example folder:photos, with photos/train/CLASS/IMAGE inside")
    files, folders = walk(root)
    layout = read_layout(root, files, folders)
    return layout.task(os.path.basename(os.path.abspath(root)) or "root", FileSource(root))


@dataclass(frozen=True)
class FileSource:
    """Encoded images by path relative to `root`."""

    root: str

    def open(self, path: str) -> BinaryIO:
        """The opened file."""
        name = self.name(path)
        try:
            if not stat.S_ISREG(os.stat(name).st_mode):  # opening a pipe would wait for a writer
                raise DataError(f"{name}: is not a regular file. Try: delete it, or replace it by an image")
            return open(name, "rb")
        except DataError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a null byte
            raise DataError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error}).") from error

    def content(self, path: str) -> bytes:
        """The bytes of the file."""
        with self.open(path) as file:
            try:
                return file.read()
            except OSError as error:
                raise DataError(f"{self.name(path)}: cannot be read ({error.strerror}).") from error

    def name(self, path: str) -> str:
        """The full path, for error messages."""
        return os.path.join(self.root, path)

    def origin(self, path: str) -> tuple[tuple[str, ...], str]:
        """The file of the image."""
        return (os.path.abspath(self.name(path)),), ""


def walk(root: str) -> tuple[list[str], list[str]]:
    """Relative paths of all files and folders, without system files."""
    files, folders, pending = [], [], [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if is_junk(entry.name):
                        continue
                    kind = _kind(entry)
                    if kind == "folder":
                        folders.append(path)
                        pending.append(path)
                    elif kind == "file":
                        files.append(path)
                    else:
                        raise DataError(f"{os.path.join(root, path)}: a broken link, or not a regular file. Try: delete it")
        except OSError as error:
            raise DataError(f"{os.path.join(root, folder)}: the folder cannot be read ({error.strerror}).") from error
        if folder.count("/") >= MAX_DEPTH:
            raise DataError(f"{os.path.join(root, folder)}: more than {MAX_DEPTH} folders deep. Is one a link to a folder above it?")
    return files, folders


def _kind(entry: os.DirEntry) -> str | None:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:  # a link to itself
        return None


MAX_ENTRY_BYTES = 256 * 2**20


def load_zip(path: str | Path) -> Task:
    """The task in a zip archive with the layout that `load_folder` describes.

    Images are read and decoded on access, from any thread; a forked or unpickled copy opens the file again.

    Raises:
      DataError: the file does not exist, is not a zip archive, is damaged, encrypted or not compressed by deflate; an entry has an unsafe
        or duplicate name, is a link, or is an image of more than 256 MiB; or the layout is another.
      TaskError: fewer than two classes.
    """
    where = os.path.expanduser(path)
    if not os.path.isfile(where):
        raise DataError(f"There is no file {str(path)!r}. Try: zip:PATH, for example zip:photos.zip, with train/CLASS/IMAGE inside")
    try:
        with open(where, "rb") as file:
            reject_placeholder(where, file.read(HEAD))
        with zipfile.ZipFile(where) as archive:
            entries = archive.infolist()
    except DataError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read as a zip archive ({error}). Is it complete?") from error
    seen = set()
    for entry in entries:
        check_entry(where, entry, seen)
    files = [entry.filename for entry in entries if not entry.is_dir()]
    folders = [entry.filename.rstrip("/") for entry in entries if entry.is_dir()]
    layout = read_layout(where, files, folders)
    return layout.task(Path(where).stem, EntrySource(where, PerProcess(partial(zipfile.ZipFile, where))))


@dataclass(frozen=True)
class EntrySource:
    """Encoded images by entry name."""

    where: str
    archive: PerProcess

    def open(self, entry: str) -> BinaryIO:
        """The opened entry, decompressed as it is read."""
        try:
            return self.archive().open(entry)
        except Exception as error:  # damaged headers raise different types
            raise self._unreadable(entry, error) from error

    def content(self, entry: str) -> bytes:
        """The bytes of the entry."""
        try:
            return read_entry(self.archive(), self.archive().getinfo(entry))
        except Exception as error:  # damaged streams or headers raise different types
            raise self._unreadable(entry, error) from error

    def _unreadable(self, entry: str, error: Exception) -> DataError:
        return DataError(f"{self.name(entry)}: cannot be read from the archive ({error}). Pack the archive again.")

    def name(self, entry: str) -> str:
        """Archive and entry, for error messages."""
        return f"{self.where}, entry {entry}"

    def origin(self, entry: str) -> tuple[tuple[str, ...], str]:
        """The archive, and the entry in it."""
        return (os.path.abspath(self.where),), entry


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry: at most its declared size, and with a valid checksum."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def is_plain_path(name: str) -> bool:
    """Whether an entry name is a relative path with forward slashes inside the archive."""
    return not (re.match("[A-Za-z]:", name) or set("\\\0") & set(name) or {"", ".", ".."} & set(name.removesuffix("/").split("/")))


def check_entry(where: str, entry: zipfile.ZipInfo, seen: set[str]) -> None:
    """Rejects an entry that is not safe to read, and adds its name to `seen`.

    Raises:
      DataError: an unsafe or duplicate name, a link, an encrypted entry, a compression other than deflate, or an image of more than 256 MiB.
    """
    name = entry.orig_filename
    shown = f"{where}, entry {name!r}"
    if not is_plain_path(name):
        raise DataError(f"{shown}: not a plain relative path with forward slashes. Pack the archive again from inside its folder.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{shown}: is a symbolic link. Try: pack the file itself (zip without --symlinks)")
    if entry.flag_bits & 0x1:
        raise DataError(f"{shown}: is encrypted. Pack the archive again without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others can expand a kilobyte to gigabytes at once
        how = zipfile.compressor_names.get(entry.compress_type, f"method {entry.compress_type}")
        raise DataError(f"{shown}: is compressed by {how}; allowed are deflate and no compression. Try: zip -r photos.zip photos")
    if name in seen:
        raise DataError(f"{shown}: occurs twice. Pack the archive again.")
    seen.add(name)
    if entry.file_size > MAX_ENTRY_BYTES and is_image(name):
        raise DataError(f"{shown}: has {entry.file_size:,} bytes unpacked; allowed are {MAX_ENTRY_BYTES:,}. Try: delete or shrink it")
