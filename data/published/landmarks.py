"""The images of Google Landmarks v2 that are in the subset, with their landmarks."""

from collections import Counter

import numpy as np

from ntk_select.errors import DataError
from ntk_select.tasks.task import stratified_train

from ..layout import natural
from .archive import Archive, stem
from .contents import Contents, cut, numbered, wrong
from .sources import SOURCES

LANDMARKS, IMAGES = 256, 215_601


def google_landmarks(archive: Archive) -> Contents:
    """The 256 landmarks with most images in the list, and at most 215,601 of their images that are there.

    The list is train_clean.csv (landmark_id,images) or else train.csv (id,url,landmark_id). Of equally many images the
    lower id comes first. Of more than 215,601 images the same share of every landmark is taken, with seed 0. The paper
    gives no rule, so this one is ours.
    """
    listed = _listed(archive)
    counts = Counter(landmark for _, landmark in listed)
    chosen = set(sorted(counts, key=lambda landmark: (-counts[landmark], int(landmark)))[:LANDMARKS])
    paths = archive.by(lambda path: stem(path) if path.endswith(".jpg") else None)
    names, rows = numbered((paths[image], landmark) for image, landmark in listed if landmark in chosen and image in paths)
    if not rows:
        raise DataError(f"{archive.where}: none of the images of the list is there. Needed is: {archive.layout}.")
    if len(rows) > IMAGES:
        rows = sorted(rows, key=lambda row: natural(row[0]))
        kept = stratified_train(np.array([label for _, label in rows]), IMAGES)
        rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
    return Contents(names, *cut(rows, SOURCES["google_landmarks"].share), archive.read)


def _listed(archive: Archive) -> list[tuple[str, str]]:
    """(image id, landmark id). Not the module csv: a landmark's images may be more than it takes in one field."""
    name = archive.find("train_clean.csv", "train.csv")
    head, *lines = archive.lines(name)
    try:
        if head == "landmark_id,images":
            rows = [(image, line.partition(",")[0]) for line in lines for image in line.partition(",")[2].split()]
        elif head == "id,url,landmark_id":
            rows = [(line.partition(",")[0].strip('"'), line.rpartition(",")[2]) for line in lines]
        else:
            raise ValueError(f"its first line is {head[:60]!r}")
        {int(landmark) for _, landmark in rows}
    except ValueError as error:
        raise wrong(archive, name, error) from error
    return rows
