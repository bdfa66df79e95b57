"""TensorFlow Datasets prepared on disk as ArrayRecord: `tfds:` URIs, where prepared sets are, and reading without TensorFlow."""

import os
import re
import shlex
from dataclasses import dataclass, replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ntk_select.data.bit_depth import BitDepth
from ntk_select.data.decode import ImageReader, LazyImages, PerProcess, look
from ntk_select.data.layout import TEST
from ntk_select.errors import DataError, TaskError, near
from ntk_select.tasks.task import Task, stratified_train

CHARACTER_SETS = {
    "binary_alpha_digits",
    "cmaterdb",
    "emnist",
    "kmnist",
    "mnist",
    "mnist_corrupted",
    "omniglot",
    "svhn_cropped",
    "visual_domain_decathlon",
}
"""Data sets whose mirror images may have another class or none: letters, digits and, in one configuration of the last, traffic signs."""
URI = re.compile(r"(?P<name>[a-zA-Z]\w*)(/(?P<config>[^/:@]+))?(:(?P<version>\d+\.\d+\.\d+))?(@(?P<folder>.+))?")


def load_tfds(argument: str, *, data_dir: str | Path | None = None) -> Task:
    """The task in a prepared data set with one label per image. Nothing is downloaded or prepared.

    Args:
      argument: NAME[/CONFIG][:VERSION][@DATA_DIR]; by default the only configuration and the newest version on disk.
        With @DATA_DIR only that folder is searched.
      data_dir: otherwise searched first, then the default folder ($TFDS_DATA_DIR or ~/tensorflow_datasets).

    The training split is `train`; the test split is `test`, else `validation`.

    Raises:
      TaskError: the argument is malformed, or there are fewer than two classes.
      DataError: not prepared, not in ArrayRecord format, damaged, or without images, labels or a training split.
    """
    parts = parsed(argument)
    folder = find_prepared(parts["name"], parts["config"], parts["version"], places(parts["folder"], data_dir))
    task = read_prepared(folder, parts["name"])
    return replace(task, flips_keep_class=False) if parts["name"] in CHARACTER_SETS else task


def parsed(argument: str) -> re.Match:
    """The parts of an argument: name, config, version and folder. Raises TaskError if it is malformed."""
    parts = URI.fullmatch(argument)
    if not parts:
        raise TaskError(f"Task 'tfds:{argument}': allowed is tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]. Example: tfds:cifar10@~/tensorflow_datasets")
    return parts


def places(folder: str | Path | None, data_dir: str | Path | None) -> list[Path]:
    """Folders to search: `folder` alone if given; else `data_dir`, then $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    chosen = [folder] if folder else [data_dir, default] if data_dir else [default]
    return [Path(os.path.expanduser(place)) for place in chosen]


def find(name: str, config: str | None, version: str | None, where: list[Path]) -> Path | None:
    """The folder PLACE/NAME[/CONFIG]/VERSION of the first place that has one. Imports nothing.

    Raises:
      DataError: a place has several configurations and none is given, or cannot be read.
    """
    for place in where:
        folder = place / name / config if config else place / name
        versions = _versions(folder)
        if not versions and not config:
            configs = sorted(path for path in _folders(folder) if _versions(path))
            if len(configs) > 1:
                shown = " or ".join(f"tfds:{name}/{path.name}" for path in configs)
                raise DataError(f"{folder}: has several configurations. Try: {shown}, with @{place} if needed")
            versions = _versions(configs[0]) if configs else []
        chosen = [path for path in versions if version in (None, path.name)]
        if chosen:
            return chosen[-1]
    return None


def find_prepared(name: str, config: str | None, version: str | None, where: list[Path]) -> Path:
    """As `find`, with an error that gives the command to prepare the set.

    Raises:
      DataError: no place has it, or a place has several configurations and none is given.
    """
    found = find(name, config, version, where)
    if found:
        return found
    full = f"{name}{f'/{config}' if config else ''}{f':{version}' if version else ''}"
    uri = f"tfds:{full}" if where[0] == places(None, None)[0] else f"tfds:{full}@{where[0]}"
    raise DataError(
        f"tfds:{full} is not prepared in {' or '.join(map(str, where))}.{similar(name, where)} To download and prepare it, try: "
        f"download=True, or: {shlex.join(['ntk-select', 'tasks', 'show', uri, '--download'])}"
    )


def similar(name: str, where: list[Path]) -> str:
    """Suffix of an error message with similar names, unless there is a set of this name."""
    import tensorflow_datasets as tfds

    known = {path.name for place in where for path in _folders(place)} | set(tfds.list_builders(with_community_datasets=False))
    return "" if name in known else near(name, known)


def _versions(folder: Path) -> list[Path]:
    """Prepared versions below a folder, oldest first."""
    found = [path for path in _folders(folder) if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()] if os.path.isdir(folder) else []
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}).") from error


def read_prepared(folder: Path, name: str, *, train: str = "train", test: str | None = None, share: float | None = None) -> Task:
    """The task in a prepared data set with one label per image.

    Image and label are the supervised keys of the set, or the features `image` and `label`. Images are decoded on access by
    `decode_image`.

    Args:
      folder: folder of one version of the set.
      name: name of the task; the name of a configuration is appended.
      train: the training split, or several joined by "+".
      test: as `train`; by default the first of `layout.TEST` that exists and has labels.
      share: fraction of the training split that is for training; the rest is the test set (`stratified_train`). Only without `test`.

    Raises:
      DataError: not in ArrayRecord format, damaged, or without images, labels or one of the splits.
    """
    info = _open(folder).info
    image_key, label_key = _keys(folder, info.features, info.supervised_keys)
    for split in [train] if test is None else [train, test]:
        for part in split.split("+"):
            if part not in info.splits or not info.splits[part].num_examples:
                raise DataError(f"{folder}: there is no split {part!r}, or it is empty. Splits: {', '.join(sorted(info.splits)) or '(none)'}.")

    warnings, labels = [], _labels(folder, train, label_key)
    chosen, test_split, test_chosen, test_labels = np.arange(len(labels)), None, None, None
    if share is not None:
        mask = stratified_train(labels, round(len(labels) * share))
        chosen, test_split, test_chosen, test_labels = np.flatnonzero(mask), train, np.flatnonzero(~mask), labels[~mask]
    else:
        for split in [test] if test else [split for split in TEST if split in info.splits and info.splits[split].num_examples]:
            there = _labels(folder, split, label_key)
            if there.min() >= 0:
                test_split, test_chosen, test_labels = split, np.arange(len(there)), there
                break
            warnings.append(f"Ignored, because it has images without a label: the split {split!r}.")
    train_images = _source(folder, train, image_key), chosen
    test_images = None if test_split is None else (_source(folder, test_split, image_key), test_chosen)
    depth = BitDepth(train_images, test_images or (train_images[0], ()), warnings, look)
    task = Task(
        "-".join(filter(None, (name, info.config_name))),
        _images(*train_images, depth),
        labels[chosen],
        tuple(info.features[label_key].names),
        None if test_images is None else _images(*test_images, depth),
        test_labels,
        licence=info.redistribution_info.license or None,
        details={"warnings": warnings},
    )
    if info.features[image_key].np_dtype == np.uint16:
        depth.probe()
    return task


def _open(folder: Path):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        formats = {form.value for form in builder.info.available_file_formats()}
    except Exception as error:  # errors in either of the two JSON files
        raise DataError(f"{folder}: TensorFlow Datasets cannot read it ({error}). Prepare it again.") from error
    if "array_record" not in formats:
        raise DataError(
            f"{folder}: prepared as {', '.join(sorted(formats))}, which needs TensorFlow. "
            "Prepare it in another folder with file_format='array_record'."
        )
    return builder


def _keys(folder: Path, features, supervised) -> tuple[str, str]:
    """Names of the image feature and of the label feature."""
    import tensorflow_datasets as tfds

    features = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    for keys in (supervised, ("image", "label")):
        if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
            image, label = (features.get(key) for key in keys)
            readable = type(image) is tfds.features.Image and image.np_dtype in (np.uint8, np.uint16)
            if readable and isinstance(label, tfds.features.ClassLabel):
                return keys
    shown = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in sorted(features.items()))
    several = any(isinstance(getattr(feature, "feature", None), tfds.features.ClassLabel) for feature in features.values())
    hint = " Multi-label data sets are not supported: prepare a set with one class per image." if several else ""
    raise DataError(
        f"{folder}: expected a feature 'image' of type Image with 8 or 16 bits and a feature 'label' of type ClassLabel. "
        f"It has {shown or '(none)'}.{hint}"
    )


def _source(folder: Path, split: str, key: str) -> "RecordSource":
    return RecordSource(folder, split, PerProcess(partial(_fields, folder, split, key)))


def _images(source: "RecordSource", chosen: np.ndarray, depth: BitDepth) -> LazyImages:
    return LazyImages(chosen, ImageReader(source, depth))


def _labels(folder: Path, split: str, key: str) -> np.ndarray:
    read = _fields(folder, split, key)
    return np.array([read(index) for index in range(len(read))], np.int64)


@dataclass(frozen=True)
class RecordSource:
    """Encoded images by record number."""

    folder: Path
    split: str
    fields: PerProcess

    def open(self, index: int) -> BinaryIO:
        """The encoded image of record `index`, as an opened file."""
        return BytesIO(self.content(index))

    def content(self, index: int) -> bytes:
        """The encoded image of record `index`."""
        return self.fields()(index)

    def name(self, index: int) -> str:
        """Folder, split and record number, for error messages."""
        return f"{self.folder}, split {self.split}, record {index}"

    def origin(self, index: int) -> tuple[tuple[str, ...], str]:
        """All files of the prepared set; split and record number."""
        return _files(self.folder), f"{self.split} {index}"


@cache
def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(os.path.abspath(path) for path in folder.iterdir()))


@dataclass(frozen=True)
class _Fields:
    """One feature of each record of a split, images undecoded."""

    where: str
    source: Any
    feature: Any
    decoders: dict[str, Any]

    def __len__(self):
        return len(self.source)

    def __call__(self, index: int):
        try:
            (value,) = self.feature.deserialize_example_np(self.source[int(index)], decoders=self.decoders).values()
            if value is None:
                raise ValueError("empty")
        except Exception as error:  # ArrayRecord and protobuf raise different types on damaged files
            raise DataError(f"{self.where}, record {index}: cannot be read ({error}). Prepare the set again.") from error
        return value


def _fields(folder: Path, split: str, key: str) -> _Fields:
    import tensorflow_datasets as tfds

    builder = _open(folder)
    feature = builder.info.features[key]
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
    decoders = {key: tfds.decode.SkipDecoding()} if isinstance(feature, tfds.features.Image) else {}
    return _Fields(f"{folder}, split {split}", source, tfds.features.FeaturesDict({key: feature}), decoders)
