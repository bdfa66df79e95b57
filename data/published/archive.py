"""Archives of published data sets, read in place: folders, zip and tar files. Nothing is unpacked to disk."""

import os
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from ntk_select.data.image_files import HEAD, is_image, reject_placeholder
from ntk_select.data.image_folder import MAX_ENTRY_BYTES, check_entry, is_plain_path, read_entry, walk
from ntk_select.data.layout import is_junk
from ntk_select.errors import DataError, few, first_line


class Files:
    """The files below a folder."""

    def __init__(self, root: str, paths: list[str]):
        self.where, self._paths = root, paths

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """(path, argument of `read`, size) of each file."""
        return ((path, path, os.path.getsize(os.path.join(self.where, path))) for path in self._paths)

    def read(self, path: str) -> bytes:
        """The bytes of one entry."""
        return Path(self.where, path).read_bytes()


class Zip:
    """The files in a zip archive."""

    def __init__(self, path: str, opened: ExitStack):
        self.where, self._zip = path, opened.enter_context(zipfile.ZipFile(path))

    def entries(self) -> Iterator[tuple[str, zipfile.ZipInfo, int]]:
        """(path, argument of `read`, size) of each file."""
        seen = set()
        for entry in self._zip.infolist():
            check_entry(self.where, entry, seen)
            if not entry.is_dir():
                yield entry.filename, entry, entry.file_size

    def read(self, entry: zipfile.ZipInfo) -> bytes:
        """The bytes of one entry."""
        return read_entry(self._zip, entry)


class Tar:
    """The files in a tar, compressed or not."""

    def __init__(self, path: str, opened: ExitStack):
        self.where, self._tar = path, opened.enter_context(tarfile.open(path))  # noqa: SIM115 - the stack closes it

    def entries(self) -> Iterator[tuple[str, tarfile.TarInfo, int]]:
        """(path, argument of `read`, size) of each file."""
        for entry in self._tar:
            name = entry.name.removeprefix("./")
            if entry.size < 0:  # a negative size makes tarfile loop
                raise EOFError(f"the entry {name!r} has {entry.size:,} bytes")
            if name not in ("", ".") and not is_plain_path(name):
                raise DataError(f"{self.where}, entry {entry.name!r}: path escapes the archive. Try: download the archive from its authors")
            if entry.isreg():
                yield name, entry, entry.size
        self._tar.fileobj.seek(self._tar.offset)
        if self._tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a truncated file for a complete one
            raise EOFError("the block that marks the end is missing")
        while self._tar.fileobj.read(2**20):
            pass  # raises for a truncated compressed file

    def read(self, entry: tarfile.TarInfo) -> bytes:
        """The bytes of one entry."""
        return self._tar.extractfile(entry).read()


ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_LIST_BYTES = 2**30


class Archive:
    """The files in a zip or tar archive, or in a folder, including those in archives in the folder.

    Links and devices are skipped. A compressed tar is read fastest in its own order, the order of `names`.

    Args:
      path: archive or folder.
      layout: description of the expected content, for errors.

    Raises:
      DataError: `path` does not exist; not an archive, damaged or encrypted; an entry whose path leaves the archive; an image
        of more than 256 MiB; or duplicate names.
    """

    def __init__(self, path: str | Path, layout: str):
        self.where, self.layout = os.path.expanduser(path), layout
        self._open = ExitStack()
        self._entries = {}  # name -> (part, argument of its `read`)
        try:
            if os.path.isdir(self.where):
                self._add_folder()
            elif os.path.isfile(self.where):
                self._add(self.where)
            else:
                raise DataError(f"There is no file or folder {str(path)!r}. Expected: {layout}.")
        except BaseException:
            self._open.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._open.close()

    @property
    def names(self) -> list[str]:
        """Paths of all files, in the order of the archive."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises DataError if it is damaged."""
        part, entry = self._entries[name]
        try:
            return part.read(entry)
        except Exception as error:  # damaged deflate, gzip, bz2, lzma streams or headers raise different types
            raise DataError(f"{part.where}, entry {name}: cannot be read ({first_line(error)}). Try: download the archive again") from error

    def read_list(self, name: str) -> bytes:
        """The bytes of a list. Raises DataError for a damaged file, a Git LFS pointer or a web page."""
        content = self.read(name)
        reject_placeholder(f"{self.where}, {name}", content)
        return content

    def find(self, *names: str) -> str:
        """The path of the first of these names that exists, below any folder.

        Raises:
          DataError: none exists, or several files have the name.
        """
        for name in names:
            found = [path for path in self._entries if path == name or path.endswith(f"/{name}")]
            if len(found) > 1:
                raise DataError(f"{self.where}: there are several files {name}: {few(found)}. Expected: {self.layout}. Try: keep one of them")
            if found:
                return found[0]
        raise DataError(f"{self.where}: there is no {' or '.join(names)}. Expected: {self.layout}.")

    def lines(self, *names: str) -> list[str]:
        """The non-empty lines of the file that `find` returns, stripped. Raises DataError if it is not UTF-8 text."""
        name = self.find(*names)
        try:
            return [line.strip() for line in self.read_list(name).decode("utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where}, {name}: not text in UTF-8 ({error}). Try: download it again") from error

    def by(self, key: Callable[[str], str | None]) -> dict[str, str]:
        """Mapping from key(path) to path, without files whose key is empty.

        Raises:
          DataError: two files have the same key.
        """
        found = {}
        for path in self._entries:
            name = key(path)
            if name and name in found:
                raise DataError(f"{self.where}: {found[name]} and {path} are both {name!r}. Expected: {self.layout}. Try: keep one of them")
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
            raise DataError(f"{path}: not an archive by its file name. Allowed: a folder, {', '.join(ENDINGS)}. Expected: {self.layout}.")
        try:
            with open(path, "rb") as file:
                reject_placeholder(path, file.read(HEAD))
            self._take((Zip if path.lower().endswith(".zip") else Tar)(path, self._open))
        except DataError:
            raise
        except Exception as error:  # zipfile, tarfile, gzip and zlib raise many types on damaged files
            raise DataError(f"{path}: cannot be read as an archive ({first_line(error)}). Is it complete? Try: download it again") from error

    def _take(self, part) -> None:
        for name, entry, size in part.entries():
            if is_junk(name):
                continue
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{part.where}, entry {name!r}: its name is not UTF-8. Try: rename it, or pack the archive again") from error
            if name in self._entries:
                raise DataError(f"{self.where}: {name!r} occurs twice, in {self._entries[name][0].where} and in {part.where}. Try: keep one of them")
            most = MAX_ENTRY_BYTES if is_image(name) else MAX_LIST_BYTES
            if size <= most:
                self._entries[name] = part, entry
            elif is_image(name):
                raise DataError(f"{part.where}, entry {name!r}: has {size:,} bytes unpacked; allowed are {most:,}.")


def stem(path: str) -> str:
    """File name without folders and suffix."""
    return posixpath.splitext(posixpath.basename(path))[0]
