"""The classes of the images of iNaturalist 2019 and iMaterialist 2019, whose lists are JSON."""

from collections import Counter

from .archive import Archive
from .contents import Contents, Row, present, read_json, wrong


def inaturalist2019(archive: Archive) -> Contents:
    """iNaturalist 2019: train2019.json and val2019.json in COCO's form, and the images at their `file_name`.

    The validation images are the test set. Classes keep the order of their ids; where two have the same name, as in
    lists whose names are still hidden, the id is added.
    """
    train, names = _coco(archive, "train2019.json")
    test, others = _coco(archive, "val2019.json")
    if names != others:
        raise wrong(archive, "val2019.json", ValueError("its categories are not those of train2019.json"))
    paths = {path: path for path in archive.names}
    return Contents(names, *(present(archive, rows, paths, all_of_them=True) for rows in (train, test)), archive.read)


def imaterialist(archive: Archive) -> Contents:
    """iMaterialist (product) 2019: train.json and val.json list id, url and class; a file is named by the id.

    Only addresses are published, so images that are not there are left out. Classes have no names, only numbers. The
    validation images are the test set.
    """
    lists = []
    for name in ("train.json", "val.json"):
        listed = read_json(archive, name)
        try:
            lists.append([(str(image["id"]).removesuffix(".jpg"), int(image["class"])) for image in listed["images"]])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise wrong(archive, name, error) from error
    wanted = {image for rows in lists for image, _ in rows}
    paths = archive.by(lambda path: _id(path) if _id(path) in wanted else None)
    names = sorted({label for rows in lists for _, label in rows})
    ids = {label: number for number, label in enumerate(names)}
    train, test = ([(image, ids[label]) for image, label in present(archive, rows, paths, all_of_them=False)] for rows in lists)
    return Contents(tuple(map(str, names)), train, test, archive.read)


def _id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".jpg")


def _coco(archive: Archive, name: str) -> tuple[list[Row], tuple[str, ...]]:
    listed = read_json(archive, name)
    try:
        categories = sorted((int(entry["id"]), str(entry["name"])) for entry in listed["categories"])
        ids = {number: label for label, (number, _) in enumerate(categories)}
        files = {entry["id"]: str(entry["file_name"]) for entry in listed["images"]}
        rows = [(files[entry["image_id"]], ids[entry["category_id"]]) for entry in listed["annotations"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise wrong(archive, name, error) from error
    often = Counter(title for _, title in categories)
    return rows, tuple(title if often[title] == 1 else f"{title} ({number})" for number, title in categories)
