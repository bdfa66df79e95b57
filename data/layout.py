"""Folder layouts of image tasks: splits and classes from the paths of the files in a folder or archive.

Allowed are train/CLASS/IMAGE with or without test/CLASS/IMAGE, and CLASS/IMAGE alone, where all images are for training.
Single wrapping folders are skipped.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_select.data.bit_depth import BitDepth, Source
from ntk_select.data.decode import ImageReader, LazyImages, look
from ntk_select.data.image_files import SUFFIXES, by_suffix, counted, is_foreign_picture, is_image
from ntk_select.errors import DataError, few
from ntk_select.tasks.task import Task

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first one that exists
JUNK = frozenset(
    [
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "zbthumbnail.info", "icon\r", "desktop db", "desktop df"),
        *("__macosx", "__pycache__", "lost+found", "$recycle.bin", "recycler", "recycled", "system volume information"),
        *("lost.dir", "config.msi", "msocache", "windowsimagebackup", "thevolumesettingsfolder", "~snapshot", "_gsdata_", "onedrivetemp"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "@__thumb", "#recycle", "#snapshot", "network trash folder"),
        *("temporary items", "indexervolumeguid", "wpsettings.dat", "aquota.user", "aquota.group", "paxheader", "paxheaders"),
    ]
)
"""Files and folders left behind by Windows, macOS, Linux, network storage (Synology, QNAP) and photo software, in addition to dot files."""
JUNK_ENDINGS = ("@synoeastream", "@synoresource")
NUMBERED_OR_WINDOWS = re.compile(r"found\.\d{3}|\$[a-z][\w.~-]*\w")
"""Folders of disk checks and of Windows: found.000, $Extend, $WINDOWS.~BT. Class names such as $5 or $x$ do not match."""
ALLOWED = "Allowed: train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE."


def is_junk(path: str) -> bool:
    """Whether a path is or is inside a system file or folder: hidden files, thumbnails, recycle bins, __MACOSX."""
    return any(
        part.startswith((".", "~$")) or part in JUNK or part.endswith(JUNK_ENDINGS) or NUMBERED_OR_WINDOWS.fullmatch(part)
        for part in path.lower().split("/")
    )


def natural(name: str) -> tuple[list[Any], str]:
    """Natural sort key: img2 before img10. Distinct names have distinct keys."""
    parts = re.split(r"0*(\d+)", name)  # text and digits alternate
    return [(len(part), part) if place % 2 else part for place, part in enumerate(parts)], name


@dataclass(frozen=True)
class Layout:
    """Class names, and (path, label) of the training and test images in a fixed order; `test` is None without a test folder."""

    class_names: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None
    warnings: list[str]

    def task(self, name: str, source: Source) -> Task:
        """The task whose encoded images `source` gives by path. Decides the bit depth of images of more than 8 bits.

        Raises:
          DataError: their bit depth cannot be decided.
        """
        warnings = list(self.warnings)
        depth = BitDepth(*((source, [path for path, _ in rows]) for rows in (self.train, self.test or ())), warnings, look)
        read = ImageReader(source, depth)
        images, labels = _columns(self.train, read)
        test_images, test_labels = (None, None) if self.test is None else _columns(self.test, read)
        task = Task(name, images, labels, self.class_names, test_images, test_labels, details={"warnings": warnings})
        depth.probe()
        return task


def read_layout(where: str, files: Iterable[str], folders: Iterable[str]) -> Layout:
    """Sorts relative paths with forward slashes into splits and classes.

    Class ids follow the natural order of the names of the training folders. Classes that only the test set has are
    appended, with a warning.

    Args:
      where: the folder or archive, for errors.
      files: all files.
      folders: all folders, so that empty ones are found. Parents of files may be omitted.

    Raises:
      DataError: no class folders, a class folder without an image, folders inside class folders, images outside class
        folders, or images of an unsupported format. Other files in class folders are ignored, with a warning.
    """
    tree = _Tree(where, files, folders)
    root = tree.root()
    train_root, test_root = tree.splits(root)
    train = tree.classes(train_root)
    test = tree.classes(test_root) if test_root is not None else None
    tree.refuse_loose_images(root, train_root, test_root)

    warnings = [
        _listing("Ignored, because they are next to the training folder", sorted(set(tree.below[root]) - {train_root, test_root}, key=natural))
        if train_root != root
        else None,
        _ignored(tree.skipped),
    ]
    return layout_of(train, test, [line for line in warnings if line])


def layout_of(
    train: Mapping[str, list[str]], test: Mapping[str, list[str]] | None, warnings: list[str], key: Callable[[str], Any] = natural
) -> Layout:
    """The layout of the images of each class.

    Args:
      train, test: paths by class name; classes of the test set alone are appended. `test` is None if there is no test set.
      warnings: those to which the ones on classes with few images are appended.
      key: sort key of class names.
    """
    names = sorted(train, key=key) + sorted(set(test or ()) - set(train), key=key)
    more = [
        _listing("Classes with test images only, which scores never see", names[len(train) :]),
        _listing("Classes without test images", [name for name in train if name not in test] if test is not None else []),
        _listing("Classes with one training image", [name for name, paths in train.items() if len(paths) == 1]),
    ]
    return Layout(tuple(names), _rows(train, names), None if test is None else _rows(test, names), warnings + [line for line in more if line])


def refuse_foreign(where: str, paths: Iterable[str], place: str = "") -> None:
    """Raises DataError for images of formats that are not decoded; `place` tells where in `where` they are."""
    foreign = [path for path in paths if is_foreign_picture(path)]
    if foreign:
        raise DataError(f"{where}: {counted(foreign)}{place} cannot be read: {few(foreign)}. {_fix(foreign)}")


class _Tree:
    """Files and folders by parent folder. The root is ""."""

    def __init__(self, where: str, files: Iterable[str], folders: Iterable[str]):
        self.where = where
        self.files, self.below, self.skipped = defaultdict(list), defaultdict(list), []
        folders = set(folders)
        for path in files:
            folder = posixpath.dirname(path)
            folders.add(folder)
            if not is_junk(path):
                self.files[folder].append(path)
        for folder in list(folders):
            while (folder := posixpath.dirname(folder)).strip("/"):
                folders.add(folder)
        for folder in sorted(folders - {""}):
            if not is_junk(folder):
                self.below[posixpath.dirname(folder)].append(folder)

    def root(self) -> str:
        """The folder that contains the splits or classes, inside any single wrapping folders."""
        root = ""
        while len(self.below[root]) == 1:
            inner = self.below[root][0]
            if self._named(root, TRAIN) or not self.below[inner] or any(map(_is_picture, self.files[inner])):
                break
            root = inner
        return root

    def splits(self, root: str) -> tuple[str, str | None]:
        """The training and test folders; without a training folder, the root and None."""
        train = self._named(root, TRAIN)
        return (root, None) if train is None else (train, self._named(root, TEST))

    def _named(self, root: str, names: tuple[str, ...]) -> str | None:
        """The folder of the first of these names that contains folders; without any it is a class that is called "train" or "valid"."""
        for name in names:
            found = [folder for folder in self.below[root] if self.below[folder] and posixpath.basename(folder).lower() == name]
            if len(found) > 1:
                raise DataError(f"{self.where}: the folders {few(found)} are one split by their names. Try: merge them, or rename one of them")
            if found:
                return found[0]
        return None

    def classes(self, split: str) -> dict[str, list[str]]:
        """Mapping from class names to files, both in natural order."""
        classes = defaultdict(list)
        for folder in sorted(self.below[split], key=natural):
            shown = f"{self.where}: class folder {folder!r}"
            try:
                name = unicodedata.normalize("NFC", posixpath.basename(folder))
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{shown} has a name that is not UTF-8. Try: rename it") from error
            if self.below[folder]:
                raise DataError(f"{shown} contains folders ({few(self.below[folder])}), so its classes are ambiguous. {ALLOWED}")
            if not self.files[folder]:
                raise DataError(f"{shown} is empty. Try: put images into it, or delete it")
            images, others = self._partition(folder)
            if not images:
                raise DataError(f"{shown} contains no image, but {counted(others)}: {few(others)}. {_fix(others)}")
            self.skipped += others
            classes[name] += images
        if not classes:
            raise DataError(f"{self.where}: there are no class folders{f' in {split!r}' if split else ''}. {ALLOWED}")
        return classes

    def _partition(self, folder: str) -> tuple[list[str], list[str]]:
        """Images of a class folder, and other files, both in natural order. Raises DataError for images of an unsupported format."""
        files = sorted(self.files[folder], key=natural)
        refuse_foreign(self.where, files, f" in class folder {folder!r}")
        return [path for path in files if is_image(path)], [path for path in files if not is_image(path)]

    def refuse_loose_images(self, root: str, train: str, test: str | None) -> None:
        """Raises DataError for images outside class folders; other files are allowed there."""
        outside = {train, test or train, root, ""}
        while root := posixpath.dirname(root):
            outside.add(root)
        loose = sorted(path for folder in outside for path in self.files[folder] if _is_picture(path))
        if loose:
            raise DataError(f"{self.where}: images outside any class folder: {few(loose)}. {ALLOWED} Try: move or delete them")


def _is_picture(path: str) -> bool:
    return is_image(path) or is_foreign_picture(path)


def _fix(paths: list[str]) -> str:
    """The remedy for files none of which can be decoded."""
    fixes = dict.fromkeys(form.fix for path in paths if (form := by_suffix(path)))
    return f"Try: {'; '.join(fixes)}" if fixes else f"Images end in {' '.join(sorted(SUFFIXES))}."


def _ignored(paths: list[str]) -> str | None:
    return f"Ignored in class folders, because they are not images: {counted(paths)} ({few(paths)})." if paths else None


def _columns(rows: list[tuple[str, int]], read) -> tuple[LazyImages, np.ndarray]:
    paths, labels = zip(*rows, strict=True)
    return LazyImages(paths, read), np.array(labels, np.int32)


def _rows(classes: Mapping[str, list[str]], names: list[str]) -> list[tuple[str, int]]:
    return [(path, label) for label, name in enumerate(names) for path in classes.get(name, ())]


def _listing(what: str, names: list[str]) -> str | None:
    return f"{what}: {few(names)}." if names else None
