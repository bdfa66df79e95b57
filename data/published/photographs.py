"""The classes of the images of Magnetic Tile Defects and of European Flood 2013."""

import re

from .archive import Archive, stem
from .contents import Contents, cut, numbered, present
from .targets import TARGETS

TILE = re.compile(r"(?:.*/)?MT_(\w+)/Imgs/[^/]+\.jpg", re.IGNORECASE)
FLOOD = ("other", "depth")


def magnetic_tile(archive: Archive) -> Contents:
    """Magnetic Tile Defects: MT_CLASS/Imgs/IMAGE.jpg, beside masks of the same name with .png, which are not read.

    75 % of every class is for training, seed 0: 1,008 of 1,344 images.
    """
    found = ((path, TILE.fullmatch(path)) for path in archive.names)
    names, rows = numbered((path, match[1].capitalize()) for path, match in found if match)
    return Contents(names, *cut(rows, TARGETS["magnetic_tile"].share), archive.read)


def eu_flood(archive: Archive) -> Contents:
    """European Flood 2013: lists of ids in relevance/, and images ID.jpg.

    Two classes, as in the table: images that are listed as relevant for the depth of the water, and all others, whichever
    lists they are in. So every listed image counts once. 85 % of every class is for training, seed 0: 3,153 of 3,710.
    """
    of = {}
    for task in ("irrelevant", "flooding", "pollution", "depth"):
        of |= dict.fromkeys(archive.lines(f"relevance/{task}.txt"), int(task == "depth"))
    paths = archive.by(lambda path: stem(path) if path.lower().endswith(".jpg") and stem(path) in of else None)
    rows = present(archive, list(of.items()), paths, all_of_them=True)
    return Contents(FLOOD, *cut(rows, TARGETS["eu_flood"].share), archive.read)
