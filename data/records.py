"""Reading of TensorFlow Datasets that lie prepared on disk, without TensorFlow."""

import os
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ntk_select.errors import DataError
from ntk_select.tasks.task import Task, stratified_train

from .decode import ImageReader, look
from .depth import Depth
from .lazy import LazyImages, PerProcess

TEST = ("test", "validation", "valid", "val")  # the first that is there with labels


def read_prepared(folder: Path, name: str, *, train: str = "train", test: str | None = None, share: float | None = None) -> Task:
    """The task in a prepared set of images with one label each.

    The image and the label are the set's supervised keys, or the features `image` and `label`. Encoded images go
    through `decode_image`, one when asked for.

    Args:
      folder: the folder of one version.
      name: of the task; the name of a configuration is added to it.
      train: the training split, or several joined by "+".
      test: as `train`; by default the first of `TEST` that is there and has labels.
      share: of the training split that is for training, the rest being the test set (`stratified_train`). Only
        without `test`.

    Raises:
      DataError: not as ArrayRecord, damaged, or without an image, a label or a split.
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
            warnings.append(f"Not read, because it has images without a label: the split {split!r}.")
    train_images = _source(folder, train, image_key), chosen
    test_images = None if test_split is None else (_source(folder, test_split, image_key), test_chosen)
    depth = Depth(train_images, test_images or (train_images[0], ()), warnings, look)
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
    except Exception as error:  # any error of the two JSON files
        raise DataError(f"{folder}: TensorFlow Datasets cannot read it ({error}). Prepare it again.") from error
    if "array_record" not in formats:
        raise DataError(
            f"{folder}: prepared as {', '.join(sorted(formats))}, which cannot be read without TensorFlow. "
            "Prepare it in another folder with file_format='array_record'."
        )
    return builder


def _keys(folder: Path, features, supervised) -> tuple[str, str]:
    """The names of the image and of its label."""
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
    hint = " Labels of several classes per image (multi-label) are no task: prepare a set with one class for each." if several else ""
    raise DataError(
        f"{folder}: needed are a feature 'image' that is an Image of 8 or 16 bits and a feature 'label' that is a ClassLabel. "
        f"It has {shown or '(none)'}.{hint}"
    )


def _source(folder: Path, split: str, key: str) -> "RecordSource":
    return RecordSource(folder, split, PerProcess(partial(_fields, folder, split, key)))


def _images(source: "RecordSource", chosen: np.ndarray, depth: Depth) -> LazyImages:
    return LazyImages(chosen, ImageReader(source, depth))


def _labels(folder: Path, split: str, key: str) -> np.ndarray:
    read = _fields(folder, split, key)
    return np.array([read(index) for index in range(len(read))], np.int64)


@dataclass(frozen=True)
class RecordSource:
    """Encoded images by the numbers of their records."""

    folder: Path
    split: str
    fields: PerProcess

    def open(self, index: int) -> BinaryIO:
        """The encoded image of record `index`, open."""
        return BytesIO(self.content(index))

    def content(self, index: int) -> bytes:
        """The encoded image of record `index`."""
        return self.fields()(index)

    def name(self, index: int) -> str:
        """Folder, split and number."""
        return f"{self.folder}, split {self.split}, record {index}"

    def origin(self, index: int) -> tuple[tuple[str, ...], str]:
        """All files of the prepared set, and split and number."""
        return _files(self.folder), f"{self.split} {index}"


@cache
def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(os.path.abspath(path) for path in folder.iterdir()))


@dataclass(frozen=True)
class _Fields:
    """One feature of each record of a split; images stay encoded."""

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
                raise ValueError("nothing in it")
        except Exception as error:  # ArrayRecord and the protocol buffer raise their own on damaged files
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
