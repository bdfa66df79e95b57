"""The logos on the images of Logo-2K+ and BelgaLogos."""

import posixpath
from collections import defaultdict

from .archive import Archive
from .contents import Contents, cut, numbered, present, wrong


def logo_2k(archive: Archive) -> Contents:
    """Logo-2K+: the authors' lists name ROOT/LOGO/IMAGE, and so lie the images, below any folder.

    The class is ROOT/LOGO, since a logo's name could stand below two roots. The names of the lists are those that the
    set's users read (List/train_images_root.txt); train.txt and test.txt are those of the authors' own code.
    """
    paths = archive.by(lambda path: "/".join(path.split("/")[-3:]))
    train = _listed(archive, "train_images_root.txt", "train.txt")
    test = _listed(archive, "test_images_root.txt", "test.txt")
    names, rows = numbered(train + test)
    split = [rows[: len(train)], rows[len(train) :]]
    return Contents(names, *(present(archive, part, paths, all_of_them=True) for part in split), archive.read)


def belga_logos(archive: Archive) -> Contents:
    """BelgaLogos: the local ground truth has a box a line, with name, logo, image, type, state and four corners.

    State 1 means clearly visible. The class of a photograph is the only logo that is clearly visible in it; photographs
    with none or with several logos are left out. 75 % of every class is for training: that is our choice.
    """
    seen = defaultdict(set)
    name = "qset3_internal_and_local.gt"
    for number, line in enumerate(archive.lines(name), 1):
        try:
            _, logo, image, _, state, *box = line.split()
            [float(side) for side in box]
            if len(box) != 4 or state not in ("0", "1"):
                raise ValueError("allowed are 9 columns, of which the fifth is 0 or 1")
        except ValueError as error:
            raise wrong(archive, f"{name}, line {number}", error) from error
        if state == "1":
            seen[image].add(logo)
    names, rows = numbered((image, *logos) for image, logos in seen.items() if len(logos) == 1)
    rows = present(archive, rows, archive.by(posixpath.basename), all_of_them=True)
    return Contents(names, *cut(rows, 0.75), archive.read)


def _listed(archive: Archive, *names: str) -> list[tuple[str, str]]:
    """(path, ROOT/LOGO) of each line."""
    rows = []
    for line in archive.lines(*names):
        path = line.replace("\\", "/").removeprefix("./")
        if path.count("/") != 2:
            raise wrong(archive, archive.find(*names), ValueError(f"{line!r} is not ROOT/LOGO/IMAGE"))
        rows.append((path, posixpath.dirname(path)))
    return rows
