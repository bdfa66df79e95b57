"""Reading of the archives of a set as its authors publish them, in place: nothing is unpacked."""

import os
import posixpath
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ntk_select.errors import DataError, first_line

from ..folder import walk
from ..layout import few, is_image, is_junk
from ..recognise import HEAD, refuse_stand_in
from ..zipped import MAX_ENTRY_BYTES
from .parts import Files, Tar, Zip

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_LIST_BYTES = 2**30


class Archive:
    """The files in a zip or tar archive, or in a folder, together with those in the archives that the folder holds.

    Links and devices are not read. A compressed tar is quick when it is read in its own order, that of `names`.

    Args:
      path: of the archive or folder.
      layout: what should be in it, in words, for errors.

    Raises:
      DataError: there is nothing at `path`; not an archive, damaged or encrypted; a name that leads out of it; an image
        of more than 256 MiB; or the same name twice.
    """

    def __init__(self, path: str | Path, layout: str):
        self.where, self.layout = os.path.expanduser(path), layout
        self._open = ExitStack()
        self._entries = {}  # name -> (which part, what to ask it for)
        try:
            if os.path.isdir(self.where):
                self._add_folder()
            elif os.path.isfile(self.where):
                self._add(self.where)
            else:
                raise DataError(f"There is no file or folder {str(path)!r}. Needed is: {layout}.")
        except BaseException:
            self._open.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._open.close()

    @property
    def names(self) -> list[str]:
        """Paths of all files, in the order in which they lie there."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """The bytes of a file. DataError if it is damaged."""
        part, entry = self._entries[name]
        try:
            return part.read(entry)
        except Exception as error:  # damaged deflate, gzip, bz2, lzma or headers: each raises its own
            raise DataError(f"{part.where}, entry {name}: cannot be read ({first_line(error)}). Download the archive again.") from error

    def read_list(self, name: str) -> bytes:
        """The bytes of a list. DataError if it is damaged, or something else lies in its place."""
        content = self.read(name)
        refuse_stand_in(f"{self.where}, {name}", content)
        return content

    def find(self, *names: str) -> str:
        """The one file of the first of these names that is there; a name may stand below any folder.

        Raises:
          DataError: none is there, or several are.
        """
        for name in names:
            found = [path for path in self._entries if path == name or path.endswith(f"/{name}")]
            if len(found) > 1:
                raise DataError(f"{self.where}: there are several files {name}: {few(found)}. Keep one. Needed is: {self.layout}.")
            if found:
                return found[0]
        raise DataError(f"{self.where}: there is no {' or '.join(names)}. Needed is: {self.layout}.")

    def lines(self, *names: str) -> list[str]:
        """The lines of such a file that are not empty, without spaces around them. DataError if it is not text."""
        name = self.find(*names)
        try:
            return [line.strip() for line in self.read_list(name).decode("utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where}, {name}: not text in UTF-8 ({error}). Download it again.") from error

    def by(self, key: Callable[[str], str | None]) -> dict[str, str]:
        """key(path) -> path, of all files whose key is not empty.

        Raises:
          DataError: two files have the same key.
        """
        found = {}
        for path in self._entries:
            name = key(path)
            if name and name in found:
                raise DataError(f"{self.where}: {found[name]} and {path} are both {name!r}. Keep one. Needed is: {self.layout}.")
            if name:
                found[name] = path
        return found

    def _add_folder(self) -> None:
        files, _ = walk(self.where)
        whole = [path for path in sorted(files) if path.lower().endswith(ENDINGS)]
        for path in whole:
            self._add(os.path.join(self.where, path))
        self._take(Files(self.where, sorted(set(files) - set(whole))))

    def _add(self, path: str) -> None:
        if not path.lower().endswith(ENDINGS):
            raise DataError(f"{path}: not an archive that is known by its name. Allowed: a folder, {', '.join(ENDINGS)}. Needed is: {self.layout}.")
        try:
            with open(path, "rb") as file:
                refuse_stand_in(path, file.read(HEAD))
            self._take((Zip if path.lower().endswith(".zip") else Tar)(path, self._open))
        except DataError:
            raise
        except Exception as error:  # zipfile, tarfile, gzip and zlib raise almost anything on damaged files
            raise DataError(f"{path}: not an archive that can be read ({first_line(error)}). Is it complete? Download it again.") from error

    def _take(self, part) -> None:
        for name, entry, size in part.entries():
            if is_junk(name):
                continue
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{part.where}, entry {name!r}: its name is not UTF-8. Rename it or pack the archive again.") from error
            if name in self._entries:
                raise DataError(f"{self.where}: {name!r} is there twice, in {self._entries[name][0].where} and in {part.where}. Keep one.")
            most = MAX_ENTRY_BYTES if is_image(name) else MAX_LIST_BYTES
            if size <= most:
                self._entries[name] = part, entry
            elif is_image(name):
                raise DataError(f"{part.where}, entry {name!r}: has {size:,} bytes unpacked; allowed are {most:,}.")


def stem(path: str) -> str:
    """A file's name without folders and ending."""
    return posixpath.splitext(posixpath.basename(path))[0]
