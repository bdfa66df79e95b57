"""Training and test images of a folder or archive, and their classes, from the paths of its files.

Allowed are train/CLASS/IMAGE with or without test/CLASS/IMAGE, and CLASS/IMAGE alone, which is all training.
Folders with no other folder beside them may wrap this.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task

from .decode import SUFFIXES, ImageReader, look
from .depth import Depth, Source
from .lazy import LazyImages
from .recognise import by_suffix, counted, is_foreign_picture

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there
JUNK = frozenset(
    [
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "zbthumbnail.info", "icon\r", "desktop db", "desktop df"),
        *("__macosx", "__pycache__", "lost+found", "$recycle.bin", "recycler", "recycled", "system volume information"),
        *("lost.dir", "config.msi", "msocache", "windowsimagebackup", "thevolumesettingsfolder", "~snapshot", "_gsdata_", "onedrivetemp"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "@__thumb", "#recycle", "#snapshot", "network trash folder"),
        *("temporary items", "indexervolumeguid", "wpsettings.dat", "aquota.user", "aquota.group", "paxheader", "paxheaders"),
    ]
)
"""Names that Windows, macOS, Linux, network storage (Synology, QNAP) and programs for photographs leave behind; all that begin with a dot too."""
JUNK_ENDINGS = ("@synoeastream", "@synoresource")
NUMBERED_OR_WINDOWS = re.compile(r"found\.\d{3}|\$[a-z][\w.~-]*\w")
"""What checks of a disk save, and Windows' own folders: $Extend, $WINDOWS.~BT. A class may be called $5 or $x$."""
ALLOWED = "Allowed: train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE."


def is_junk(path: str) -> bool:
    """Whether a path is, or is in, something that systems leave behind: hidden files, thumbnails, bins, __MACOSX."""
    return any(
        part.startswith((".", "~$")) or part in JUNK or part.endswith(JUNK_ENDINGS) or NUMBERED_OR_WINDOWS.fullmatch(part)
        for part in path.lower().split("/")
    )


def is_image(path: str) -> bool:
    """Whether a path ends like an image that `decode_image` reads."""
    return posixpath.splitext(path)[1].lower() in SUFFIXES


def natural(name: str) -> tuple[list[Any], str]:
    """Sort key by which img2 comes before img10. Distinct names have distinct keys."""
    parts = re.split(r"0*(\d+)", name)  # text and digits in turn
    return [(len(part), part) if place % 2 else part for place, part in enumerate(parts)], name


def few(names: list[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True)
class Layout:
    """Class names, then (path, label) of each training and test image, in a fixed order; `test` is None without a test folder."""

    class_names: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None
    warnings: list[str]

    def task(self, name: str, source: Source) -> Task:
        """The task whose encoded images `source` gives by their paths. Images of more than 8 bits are looked for.

        Raises:
          DataError: the depth of such images cannot be known.
        """
        warnings = list(self.warnings)
        depth = Depth(*((source, [path for path, _ in rows]) for rows in (self.train, self.test or ())), warnings, look)
        read = ImageReader(source, depth)
        images, labels = _columns(self.train, read)
        test_images, test_labels = (None, None) if self.test is None else _columns(self.test, read)
        task = Task(name, images, labels, self.class_names, test_images, test_labels, details={"warnings": warnings})
        depth.probe()
        return task


def read_layout(where: str, files: Iterable[str], folders: Iterable[str]) -> Layout:
    """Sorts relative paths with forward slashes into splits and classes.

    Class ids follow the natural order of the training folders' names. Classes that only the test set has come
    after them, with a warning.

    Args:
      where: the folder or archive, for errors.
      files: all files.
      folders: all folders; needed to see the empty ones. Parents of files may be left out.

    Raises:
      DataError: no class folders, a class folder without an image, folders inside class folders, images outside class
        folders, or images of a format that is not read. Other files in class folders are left out, with a warning.
    """
    tree = _Tree(where, files, folders)
    root = tree.root()
    train_root, test_root = tree.splits(root)
    train = tree.classes(train_root)
    test = tree.classes(test_root) if test_root is not None else None
    tree.refuse_strangers(root, train_root, test_root)

    names = sorted(train, key=natural) + sorted(set(test or ()) - set(train), key=natural)
    warnings = [
        _listing("Not read, because they are beside the training folder", sorted(set(tree.below[root]) - {train_root, test_root}, key=natural))
        if train_root != root
        else None,
        _left_out(tree.skipped),
        _listing("Classes with test images alone, which scores never see", names[len(train) :]),
        _listing("Classes without test images", [name for name in train if name not in test] if test is not None else []),
        _listing("Classes with one training image", [name for name, paths in train.items() if len(paths) == 1]),
    ]
    return Layout(tuple(names), _rows(train, names), None if test is None else _rows(test, names), [line for line in warnings if line])


class _Tree:
    """Files and folders by the folder they are in. The topmost folder is ""."""

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
        """The folder that holds the splits or classes: below folders that wrap one folder and no image."""
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
        """The folder of the first of these names that has folders inside. A class may be called "train" or "valid" too."""
        found = {posixpath.basename(folder).lower(): folder for folder in self.below[root] if self.below[folder]}
        return next((found[name] for name in names if name in found), None)

    def classes(self, split: str) -> dict[str, list[str]]:
        """Class name -> its files, both in natural order."""
        classes = defaultdict(list)
        for folder in sorted(self.below[split], key=natural):
            shown = f"{self.where}: class folder {folder!r}"
            try:
                name = unicodedata.normalize("NFC", posixpath.basename(folder))
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{shown} has a name that is not UTF-8. Rename it.") from error
            if self.below[folder]:
                raise DataError(f"{shown} has folders inside ({few(self.below[folder])}), so its classes are not clear. {ALLOWED}")
            if not self.files[folder]:
                raise DataError(f"{shown} is empty. Put images into it or delete it.")
            images, others = self._sorted_out(folder)
            if not images:
                raise DataError(f"{shown} holds no image, but {counted(others)}: {few(others)}. {_fix(others)}")
            self.skipped += others
            classes[name] += images
        if not classes:
            raise DataError(f"{self.where}: there are no class folders{f' in {split!r}' if split else ''}. {ALLOWED}")
        return classes

    def _sorted_out(self, folder: str) -> tuple[list[str], list[str]]:
        """Images of a class folder, and other files, both in natural order. DataError where pictures are of a format that is not read."""
        files = sorted(self.files[folder], key=natural)
        foreign = [path for path in files if is_foreign_picture(path)]
        if foreign:
            raise DataError(f"{self.where}: {counted(foreign)} in class folder {folder!r} cannot be read: {few(foreign)}. {_fix(foreign)}")
        return [path for path in files if is_image(path)], [path for path in files if not is_image(path)]

    def refuse_strangers(self, root: str, train: str, test: str | None) -> None:
        """Images have to be inside class folders; other files may lie outside."""
        outside = {train, test or train, root, ""}
        while root := posixpath.dirname(root):
            outside.add(root)
        loose = sorted(path for folder in outside for path in self.files[folder] if _is_picture(path))
        if loose:
            raise DataError(f"{self.where}: images outside any class folder: {few(loose)}. Move or delete them. {ALLOWED}")


def _is_picture(path: str) -> bool:
    return is_image(path) or is_foreign_picture(path)


def _fix(paths: list[str]) -> str:
    """What to do with files of which none is an image that is read."""
    fixes = dict.fromkeys(form.fix for path in paths if (form := by_suffix(path)))
    return f"{'. '.join(fixes)}." if fixes else f"Images end in {' '.join(sorted(SUFFIXES))}."


def _left_out(paths: list[str]) -> str | None:
    return f"Left out of class folders, because they are no images: {counted(paths)} ({few(paths)})." if paths else None


def _columns(rows: list[tuple[str, int]], read) -> tuple[LazyImages, np.ndarray]:
    paths, labels = zip(*rows, strict=True)
    return LazyImages(paths, read), np.array(labels, np.int32)


def _rows(classes: dict[str, list[str]], names: list[str]) -> list[tuple[str, int]]:
    return [(path, label) for label, name in enumerate(names) for path in classes.get(name, ())]


def _listing(what: str, names: list[str]) -> str | None:
    return f"{what}: {few(names)}." if names else None
