"""The images of an archive that are in the set, with their classes and splits."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ntk_select.errors import DataError
from ntk_select.tasks.task import stratified_train

from ..layout import few, natural
from .archive import Archive

Row = tuple[str, int]  # what `read` wants for the image; its class


@dataclass(frozen=True)
class Contents:
    """Class names, the images of both splits, and how the encoded bytes of one are read."""

    class_names: tuple[str, ...]
    train: list[Row]
    test: list[Row]
    read: Callable[[str], bytes]


def numbered(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], list[Row]]:
    """Class names in natural order, and rows, from (image, class name)."""
    pairs = list(pairs)
    names = sorted({name for _, name in pairs}, key=natural)
    ids = {name: label for label, name in enumerate(names)}
    return tuple(names), [(image, ids[name]) for image, name in pairs]


def cut(rows: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Training and test rows: `share` of every class for training, whatever the order in which rows are given."""
    rows = sorted(set(rows), key=lambda row: natural(row[0]))
    mask = stratified_train(np.array([label for _, label in rows], int), round(share * len(rows)))
    return [row for row, train in zip(rows, mask, strict=True) if train], [row for row, train in zip(rows, mask, strict=True) if not train]


def present(archive: Archive, rows: list[Row], paths: dict[str, str], *, all_of_them: bool) -> list[Row]:
    """Rows with the image's id replaced by its path; those that are listed twice or
    whose image is not there are left out.

    Raises:
      DataError: an image is not there, and `all_of_them` have to be.
    """
    gone = [image for image, _ in rows if image not in paths]
    if gone and all_of_them:
        raise DataError(f"{archive.where}: {len(gone):,} of {len(rows):,} listed images are not there: {few(gone)}. Needed is: {archive.layout}.")
    return [(paths[image], label) for image, label in dict.fromkeys(rows) if image in paths]


def read_json(archive: Archive, name: str) -> dict:
    """What a JSON file of the archive holds.

    Raises:
      DataError: not there, something else in its place, not JSON, or not an object.
    """
    path = archive.find(name)
    content = archive.read_list(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{archive.where}, {path}: not JSON ({error}). Download it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{archive.where}, {path}: holds a {type(value).__name__}; it should be an object. Needed is: {archive.layout}.")
    return value


def wrong(archive: Archive, name: str, error: Exception) -> DataError:
    """The error for a list that is not of the published form."""
    return DataError(f"{archive.where}, {name}: not of the published form ({type(error).__name__}: {error}). Needed is: {archive.layout}.")
