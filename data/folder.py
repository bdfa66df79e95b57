"""The task in a folder of images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

from .layout import is_junk, read_layout

MAX_DEPTH = 8  # a link back to a folder above would otherwise never end


def load_folder(path: str | Path) -> Task:
    """The task in a folder: train/CLASS/IMAGE with or without test/CLASS/IMAGE, or CLASS/IMAGE.

    `val`, `valid` or `validation` serves as the test set if there is no `test`. Images are decoded when asked for.
    Links to images and folders are followed. Hidden files, systems' leftovers and files that are no images are not read.

    Raises:
      DataError: no such folder, it cannot be read, or it is not laid out so.
      TaskError: fewer than two classes.
    """
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise DataError(f"There is no folder {str(path)!r}. Type folder:PATH, for example folder:photos, with photos/train/CLASS/IMAGE inside.")
    files, folders = walk(root)
    layout = read_layout(root, files, folders)
    return layout.task(os.path.basename(os.path.abspath(root)) or "root", FileSource(root))


@dataclass(frozen=True)
class FileSource:
    """Encoded images by their paths below `root`."""

    root: str

    def open(self, path: str) -> BinaryIO:
        """The file, open."""
        try:
            return open(self.name(path), "rb")
        except OSError as error:
            raise DataError(f"{self.name(path)}: cannot be opened ({error.strerror}).") from error

    def content(self, path: str) -> bytes:
        """The bytes of the file."""
        with self.open(path) as file:
            try:
                return file.read()
            except OSError as error:
                raise DataError(f"{self.name(path)}: cannot be read ({error.strerror}).") from error

    def name(self, path: str) -> str:
        """The path with the root."""
        return os.path.join(self.root, path)

    def origin(self, path: str) -> tuple[tuple[str, ...], str]:
        """The file alone."""
        return (os.path.abspath(self.name(path)),), ""


def walk(root: str) -> tuple[list[str], list[str]]:
    """Relative paths of all files and folders, without looking into what is junk."""
    files, folders, waiting = [], [], [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if is_junk(entry.name):
                        continue
                    kind = _kind(entry)
                    if kind == "folder":
                        folders.append(path)
                        waiting.append(path)
                    elif kind == "file":
                        files.append(path)
                    else:
                        raise DataError(f"{os.path.join(root, path)}: a broken link, or not a plain file. Delete it.")
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
