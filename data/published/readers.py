"""Readers of the published archives: which images are in each data set, their classes and their split."""

import io
import json
import pickle
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ntk_select.data.layout import natural
from ntk_select.data.published.archive import Archive, stem
from ntk_select.data.published.catalogue import KNOWN
from ntk_select.errors import DataError, few
from ntk_select.tasks.task import stratified_train

Row = tuple[str, int]  # argument of `Contents.read`; class id


@dataclass(frozen=True)
class Contents:
    """Class names, the rows of both splits, and read(key) -> encoded bytes of an image."""

    class_names: tuple[str, ...]
    train: list[Row]
    test: list[Row]
    read: Callable[[str], bytes]


def with_class_ids(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], list[Row]]:
    """Class names in natural order, and rows with class ids, from pairs (image, class name)."""
    pairs = list(pairs)
    names = sorted({name for _, name in pairs}, key=natural)
    ids = {name: label for label, name in enumerate(names)}
    return tuple(names), [(image, ids[name]) for image, name in pairs]


def split_by_share(rows: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Training and test rows: a stratified split with `share` of each class for training, independent of the order of `rows`."""
    rows = sorted(set(rows), key=lambda row: natural(row[0]))
    mask = stratified_train(np.array([label for _, label in rows], int), round(share * len(rows)))
    return [row for row, train in zip(rows, mask, strict=True) if train], [row for row, train in zip(rows, mask, strict=True) if not train]


def rows_present(archive: Archive, rows: list[Row], paths: dict[str, str], *, all_of_them: bool) -> list[Row]:
    """Rows with the image id replaced by its path. Duplicate rows and rows without an image are dropped.

    Raises:
      DataError: an image is missing and `all_of_them` is set.
    """
    absent = [image for image, _ in rows if image not in paths]
    if absent and all_of_them:
        raise DataError(f"{archive.where}: {len(absent):,} of {len(rows):,} listed images are missing: {few(absent)}. Expected: {archive.layout}.")
    return [(paths[image], label) for image, label in dict.fromkeys(rows) if image in paths]


def read_json(archive: Archive, name: str) -> dict:
    """The object in a JSON file of the archive.

    Raises:
      DataError: the file is missing, a placeholder (Git LFS pointer, web page), not JSON, or not an object.
    """
    path = archive.find(name)
    content = archive.read_list(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{archive.where}, {path}: not JSON ({error}). Try: download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{archive.where}, {path}: not a JSON object but a {type(value).__name__}. Expected: {archive.layout}.")
    return value


def malformed(archive: Archive, name: str, error: Exception) -> DataError:
    """The error for a list that does not have the published format."""
    return DataError(f"{archive.where}, {name}: not in the published format ({type(error).__name__}: {error}). Expected: {archive.layout}.")


def inaturalist2019(archive: Archive) -> Contents:
    """iNaturalist 2019: train2019.json and val2019.json in COCO's form, and the images at their `file_name`.

    The validation images are the test set. Classes are ordered by id. Where two classes have the same name, as in
    lists with anonymised names, the id is appended.
    """
    train, names = _coco(archive, "train2019.json")
    test, others = _coco(archive, "val2019.json")
    if names != others:
        raise malformed(archive, "val2019.json", ValueError("its categories are not those of train2019.json"))
    paths = {path: path for path in archive.names}
    return Contents(names, *(rows_present(archive, rows, paths, all_of_them=True) for rows in (train, test)), archive.read)


def imaterialist(archive: Archive) -> Contents:
    """iMaterialist (product) 2019: train.json and val.json list id, url and class; files are named by id.

    Only URLs are published, so missing images are dropped. Classes have numbers instead of names. The validation
    images are the test set.
    """
    lists = []
    for name in ("train.json", "val.json"):
        listed = read_json(archive, name)
        try:
            lists.append([(str(image["id"]).removesuffix(".jpg"), int(image["class"])) for image in listed["images"]])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise malformed(archive, name, error) from error
    wanted = {image for rows in lists for image, _ in rows}
    paths = archive.by(lambda path: _id(path) if _id(path) in wanted else None)
    names = sorted({label for rows in lists for _, label in rows})
    ids = {label: number for number, label in enumerate(names)}
    train, test = ([(image, ids[label]) for image, label in rows_present(archive, rows, paths, all_of_them=False)] for rows in lists)
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
        raise malformed(archive, name, error) from error
    often = Counter(title for _, title in categories)
    return rows, tuple(title if often[title] == 1 else f"{title} ({number})" for number, title in categories)


SIDE = 32
ALLOWED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def cucumber(archive: Archive) -> Contents:
    """CUCUMBER-9, prototype 1: files in the format of CIFAR-10, with three rows (red, green, blue) per image in `data`.

    Batches 1 to 5 are for training, the test batch for testing. The images are published as raw pixels and are
    encoded here as PNG, which is lossless.
    """
    names = tuple(str(name) for name in _field(archive, "batches.meta", "label_names", list))
    pixels, split = {}, {}
    for part, files in (("train", [f"data_batch_{number}" for number in range(1, 6)]), ("test", ["test_batch"])):
        split[part] = []
        for file in files:
            labels = [int(label) for label in _field(archive, file, "labels", list)]
            images = _field(archive, file, "data", np.ndarray)
            if images.dtype != np.uint8 or images.size != 3 * SIDE * SIDE * len(labels):
                raise malformed(archive, file, ValueError(f"{images.dtype} {images.shape} for {len(labels)} labels"))
            if not set(labels) <= set(range(len(names))):
                raise malformed(archive, file, ValueError(f"labels {sorted(set(labels))} for {len(names)} names"))
            for number, (image, label) in enumerate(zip(images.reshape(-1, 3, SIDE, SIDE), labels, strict=True)):
                pixels[f"{file}/{number}"] = image.transpose(1, 2, 0)
                split[part].append((f"{file}/{number}", label))
    return Contents(names, split["train"], split["test"], lambda key: _png(pixels[key]))


class _Arrays(pickle.Unpickler):
    """Unpickles lists, strings and arrays, and refuses everything that could run code."""

    def find_class(self, module: str, name: str):
        """The class or function of an allowed name."""
        module = module.replace("numpy.core.", "numpy._core.")  # the name before NumPy 2
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of an array")
        return super().find_class(module, name)


def _field(archive: Archive, file: str, key: str, kind: type):
    path = archive.find(file)
    try:
        value = _Arrays(io.BytesIO(archive.read(path)), encoding="latin1").load()[key]
        if kind is list:
            value = list(value)
        if not isinstance(value, kind):
            raise TypeError(f"{key} is a {type(value).__name__}")
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises many types
        raise malformed(archive, path, error) from error
    return value


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()


LANDMARKS, IMAGES = 256, 215_601


def google_landmarks(archive: Archive) -> Contents:
    """Google Landmarks v2: the 256 landmarks with the most listed images, and at most 215,601 of their available images.

    The list is train_clean.csv (landmark_id,images) or else train.csv (id,url,landmark_id). Ties are broken by the lower
    id. Of more than 215,601 images a stratified sample is taken, with seed 0. The paper does not publish its selection,
    so this rule is ours.
    """
    listed = _landmark_list(archive)
    counts = Counter(landmark for _, landmark in listed)
    chosen = set(sorted(counts, key=lambda landmark: (-counts[landmark], int(landmark)))[:LANDMARKS])
    paths = archive.by(lambda path: stem(path) if path.endswith(".jpg") else None)
    names, rows = with_class_ids((paths[image], landmark) for image, landmark in listed if landmark in chosen and image in paths)
    if not rows:
        raise DataError(f"{archive.where}: none of the listed images exists. Expected: {archive.layout}.")
    if len(rows) > IMAGES:
        rows = sorted(rows, key=lambda row: natural(row[0]))
        sampled = stratified_train(np.array([label for _, label in rows]), IMAGES)
        rows = [row for row, taken in zip(rows, sampled, strict=True) if taken]
    return Contents(names, *split_by_share(rows, KNOWN["google_landmarks"].share), archive.read)


def _landmark_list(archive: Archive) -> list[tuple[str, str]]:
    """Pairs (image id, landmark id). Without the csv module, whose field size limit is below the length of an image list."""
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
        raise malformed(archive, name, error) from error
    return rows


def logo_2k(archive: Archive) -> Contents:
    """Logo-2K+: the authors' lists name ROOT/LOGO/IMAGE, the path of each image below any folder.

    The class is ROOT/LOGO, since two roots may contain logos of the same name. The lists are List/train_images_root.txt
    and List/test_images_root.txt as distributed, or train.txt and test.txt as in the authors' code.
    """
    paths = archive.by(lambda path: "/".join(path.split("/")[-3:]))
    train = _logo_list(archive, "train_images_root.txt", "train.txt")
    test = _logo_list(archive, "test_images_root.txt", "test.txt")
    names, rows = with_class_ids(train + test)
    split = [rows[: len(train)], rows[len(train) :]]
    return Contents(names, *(rows_present(archive, part, paths, all_of_them=True) for part in split), archive.read)


def belga_logos(archive: Archive) -> Contents:
    """BelgaLogos: the local ground truth has one box per line, with name, logo, image, type, state and four corners.

    State 1 means clearly visible. The class of a photograph is the only logo that is clearly visible in it; photographs
    with no or several visible logos are dropped. The split, 75 % of each class for training, is ours.
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
            raise malformed(archive, f"{name}, line {number}", error) from error
        if state == "1":
            seen[image].add(logo)
    names, rows = with_class_ids((image, *logos) for image, logos in seen.items() if len(logos) == 1)
    rows = rows_present(archive, rows, archive.by(posixpath.basename), all_of_them=True)
    return Contents(names, *split_by_share(rows, 0.75), archive.read)


def _logo_list(archive: Archive, *names: str) -> list[tuple[str, str]]:
    """Pairs (path, ROOT/LOGO), one per line."""
    rows = []
    for line in archive.lines(*names):
        path = line.replace("\\", "/").removeprefix("./")
        if path.count("/") != 2:
            raise malformed(archive, archive.find(*names), ValueError(f"{line!r} is not ROOT/LOGO/IMAGE"))
        rows.append((path, posixpath.dirname(path)))
    return rows


TILE = re.compile(r"(?:.*/)?MT_(\w+)/Imgs/[^/]+\.jpg", re.IGNORECASE)
FLOOD = ("other", "depth")


def magnetic_tile(archive: Archive) -> Contents:
    """Magnetic Tile Defects: MT_CLASS/Imgs/IMAGE.jpg; the masks with the same names and .png are ignored.

    75 % of each class is for training, seed 0: 1,008 of 1,344 images.
    """
    found = ((path, TILE.fullmatch(path)) for path in archive.names)
    names, rows = with_class_ids((path, match[1].capitalize()) for path, match in found if match)
    return Contents(names, *split_by_share(rows, KNOWN["magnetic_tile"].share), archive.read)


def eu_flood(archive: Archive) -> Contents:
    """European Flood 2013: lists of ids in relevance/, and images ID.jpg.

    Two classes, as in the table: images listed as relevant for the depth of the water, and all other listed images.
    Each listed image counts once. 85 % of each class is for training, seed 0: 3,153 of 3,710.
    """
    labels = {}
    for task in ("irrelevant", "flooding", "pollution", "depth"):
        labels |= dict.fromkeys(archive.lines(f"relevance/{task}.txt"), int(task == "depth"))
    paths = archive.by(lambda path: stem(path) if path.lower().endswith(".jpg") and stem(path) in labels else None)
    rows = rows_present(archive, list(labels.items()), paths, all_of_them=True)
    return Contents(FLOOD, *split_by_share(rows, KNOWN["eu_flood"].share), archive.read)


READERS: dict[str, Callable[[Archive], Contents]] = {
    "logo_2k": logo_2k,
    "google_landmarks": google_landmarks,
    "inaturalist2019": inaturalist2019,
    "imaterialist": imaterialist,
    "magnetic_tile": magnetic_tile,
    "cucumber": cucumber,
    "eu_flood": eu_flood,
    "belga_logos": belga_logos,
}
