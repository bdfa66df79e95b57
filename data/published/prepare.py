"""Preparation of a published archive as an ArrayRecord data set."""

import io
import os
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from ntk_select.data.image_files import PILLOW_FORMATS
from ntk_select.data.published.archive import Archive
from ntk_select.data.published.catalogue import KNOWN, KnownSet, find_known, next_command
from ntk_select.data.published.readers import READERS, Contents
from ntk_select.data.tfds import places
from ntk_select.data.tfds_download import without_tensorflow
from ntk_select.errors import DataError, TaskError, did_you_mean, few


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`: the folder, the numbers of images per split, of classes, and of files dropped because they are not images."""

    folder: Path
    train: int
    test: int
    classes: int
    left_out: int


def prepare(name: str, archive: str | Path, *, data_dir: str | Path | None = None, any_size: bool = False, progress=None) -> Prepared:
    """Writes a data set as ArrayRecord with TensorFlow Datasets, without TensorFlow and without network access.

    Images stay encoded as published. The files appear in `data_dir` only when all are written.

    Args:
      name: key of `READERS`.
      archive: the archive, or the folder of archives and lists, described by the `layout` of the set.
      data_dir: folder for the prepared set; by default that of TensorFlow Datasets ($TFDS_DATA_DIR or ~/tensorflow_datasets).
      any_size: accept an archive whose numbers of images or classes differ from the table.
      progress: progress(done, total, name), called for each image.

    Raises:
      TaskError: the name is unknown.
      DataError: the set is prepared already; the archive is damaged, has another format or another size than in the table;
        or the folder cannot be written.
    """
    if name not in KNOWN:
        raise TaskError(f"Unknown set {name!r}.{did_you_mean(name, READERS)} Try: ntk-select tasks prepare magnetic_tile --archive PATH")
    place = places(None, None)[0] if data_dir is None else Path(os.path.expanduser(data_dir))
    if name not in READERS:
        raise DataError(f"{name} is prepared by TensorFlow Datasets, not here. {KNOWN[name].obtain} Then try: {next_command(name, place)}")
    existing = find_known(name, str(place))
    if existing:
        raise DataError(f"{name} is already prepared in {existing} and is not overwritten. Try: delete that folder, or data_dir=DIR (--data-dir DIR)")
    known = KNOWN[name]
    with Archive(archive, known.layout) as opened:
        contents = READERS[name](opened)
        _check(name, known, opened, contents, any_size)
        writer = _Writer(name, known, opened, contents, progress)
        folder = _write(writer, place)
    return Prepared(folder, writer.written["train"], writer.written["test"], len(contents.class_names), writer.left_out)


def _check(name: str, known: KnownSet, archive: Archive, contents: Contents, any_size: bool) -> None:
    found = (len(contents.train), len(contents.test), len(contents.class_names))
    shown = "{:,} training and {:,} test images of {:,} classes".format(*found)
    if not contents.train or not contents.test or len(contents.class_names) < 2:
        raise DataError(f"{archive.where}: contains {shown} of {name}; a task needs both, of at least two classes. Expected: {archive.layout}.")
    names = [name for name in contents.class_names if len(name.strip().splitlines()) != 1 or name != name.encode(errors="ignore").decode()]
    if names:
        raise DataError(f"{archive.where}: class names that do not fit in one line of text: {few(list(map(ascii, names)))}. Try: download it again")
    duplicates = [image for rows in (contents.train, contents.test) for image, times in Counter(image for image, _ in rows).items() if times > 1]
    if duplicates:
        raise DataError(f"{archive.where}: listed with more than one class: {few(duplicates)}. Expected: {archive.layout}.")
    if known.fixed and not any_size and found != (known.train, known.test, known.classes):
        raise DataError(
            f"{archive.where}: contains {shown}; table 4 has {known.train:,}, {known.test:,} and {known.classes:,}. Is the archive complete, "
            "and has nothing been added? To prepare it as it is, try: any_size=True (--any-size)"
        )


class _Writer:
    """Generates the records of each split, and counts them."""

    def __init__(self, name: str, known: KnownSet, archive: Archive, contents: Contents, progress):
        self.name, self.known, self._archive, self.contents, self._progress = name, known, archive, contents, progress or (lambda *_: None)
        self.written, self.left_out, self.problem = {"train": 0, "test": 0}, 0, None

    def records(self, split: str):
        """Pairs (key, record) in the order of the archive, in which a compressed tar is read fastest."""
        places = {path: place for place, path in enumerate(self._archive.names)}
        total = len(self.contents.train) + len(self.contents.test)
        for key, label in sorted(getattr(self.contents, split), key=lambda row: places.get(row[0], 0)):
            try:
                encoded = self._read(key)
            except DataError as error:
                self.problem = error
                raise
            if encoded is None:
                self.left_out += 1
            else:
                yield key, {"image": io.BytesIO(encoded), "label": label}
                self.written[split] += 1
            self._progress(sum(self.written.values()) + self.left_out, total, key)
        if not self.written[split]:
            self.problem = DataError(f"{self._archive.where}: no file of the {split} split is an image. Try: download the archive again")
            raise self.problem

    def _read(self, key: str) -> bytes | None:
        """An encoded image; None if the file is not an image and may be dropped. Only the header is read."""
        from PIL import Image

        encoded = self.contents.read(key)
        try:
            with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS):
                return encoded
        except Exception as error:  # Pillow's readers raise many types on damaged files
            if self.known.fixed:
                raise DataError(f"{self._archive.where}, {key}: cannot be read as an image. Try: download the archive again") from error
            return None


def _write(writer: _Writer, place: Path) -> Path:
    import tensorflow_datasets as tfds

    known = writer.known

    class Published(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        __module__ = name = writer.name  # TensorFlow Datasets would search for files next to a real module

        def _info(self):
            label = tfds.features.ClassLabel(names=writer.contents.class_names)
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{known.title}. Split: {known.split}. {known.note}".strip(),
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label}),
                supervised_keys=("image", "label"),
                homepage=known.home,
                citation=known.citation,
                license=known.licence,
            )

        def _split_generators(self, dl_manager):  # noqa: ARG002 - nothing is downloaded
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split):
            return writer.records(split)

    tfds.disable_progress_bar()
    try:
        builder = Published(data_dir=place, file_format="array_record")
        with redirect_stdout(io.StringIO()), without_tensorflow(builder):  # suppresses the output of TensorFlow Datasets
            builder.download_and_prepare()
    except OSError as error:
        raise writer.problem or DataError(f"{place}: cannot be written ({error}). Try: data_dir=ANOTHER_FOLDER (--data-dir)") from error
    except Exception as error:  # TensorFlow Datasets adds its own text to our errors
        if writer.problem is None:
            raise
        raise writer.problem from error
    finally:
        tfds.enable_progress_bar()
    return Path(builder.data_path)
