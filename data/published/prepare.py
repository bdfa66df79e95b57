"""Turning an archive, as its authors publish it, into a prepared set."""

import io
import os
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from ntk_select.errors import DataError, TaskError, did_you_mean

from .. import prepared
from ..decode import FORMATS
from ..layout import few
from . import KNOWN
from .archive import Archive
from .contents import Contents
from .known import KnownSet
from .load import find_known, next_command
from .readers import READERS


@dataclass(frozen=True)
class Prepared:
    """What `prepare` has written: the folder, images of each split, classes, and files left out because they are no images."""

    folder: Path
    train: int
    test: int
    classes: int
    left_out: int


def prepare(name: str, archive: str | Path, *, data_dir: str | Path | None = None, any_size: bool = False, progress=None) -> Prepared:
    """Writes a set as ArrayRecord, through TensorFlow Datasets but without TensorFlow and without the network.

    Images stay encoded as published. No file appears in `data_dir` before all is written.

    Args:
      name: of a set in `READERS`.
      archive: the archive, or the folder of archives and lists, that the set's `layout` describes.
      data_dir: by default TensorFlow Datasets' own folder ($TFDS_DATA_DIR or ~/tensorflow_datasets).
      any_size: accept an archive whose images or classes differ in number from the table.
      progress: progress(done, total, name), called for every image.

    Raises:
      TaskError: no such name.
      DataError: it is prepared there already; the archive is not of the published form, damaged, or of another size
        than the table says; or the folder cannot be written.
    """
    if name not in KNOWN:
        raise TaskError(f"Unknown set {name!r}.{did_you_mean(name, READERS)} Example: ntk-select tasks prepare magnetic_tile --archive PATH")
    place = prepared.places(None, None)[0] if data_dir is None else Path(os.path.expanduser(data_dir))
    if name not in READERS:
        raise DataError(f"{name} is prepared by TensorFlow Datasets, not here. {KNOWN[name].obtain} Then type: {next_command(name, place)}")
    there = find_known(name, str(place))
    if there:
        raise DataError(f"{name} lies prepared in {there} and is not overwritten. Delete that folder first, or give another with --data-dir DIR.")
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
        raise DataError(f"{archive.where}: holds {shown} of {name}; a task needs both, of at least two classes. Needed is: {archive.layout}.")
    names = [name for name in contents.class_names if len(name.strip().splitlines()) != 1 or name != name.encode(errors="ignore").decode()]
    if names:
        raise DataError(f"{archive.where}: class names that cannot be written in a line: {few(list(map(ascii, names)))}. Download it again.")
    often = [image for rows in (contents.train, contents.test) for image, times in Counter(image for image, _ in rows).items() if times > 1]
    if often:
        raise DataError(f"{archive.where}: listed with more than one class: {few(often)}. Needed is: {archive.layout}.")
    if known.fixed and not any_size and found != (known.train, known.test, known.classes):
        raise DataError(
            f"{archive.where}: holds {shown}; table 4 has {known.train:,}, {known.test:,} and {known.classes:,}. Is the archive complete, "
            "and has nothing been added? To prepare it as it is, add --any-size (any_size=True)."
        )


class _Writer:
    """Gives the records of each split, and counts them."""

    def __init__(self, name: str, known: KnownSet, archive: Archive, contents: Contents, progress):
        self.name, self.known, self._archive, self.contents, self._progress = name, known, archive, contents, progress or (lambda *_: None)
        self.written, self.left_out, self.problem = {"train": 0, "test": 0}, 0, None

    def records(self, split: str):
        """(key, record) in the order of the archive, which a compressed tar is quick in."""
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
            self.problem = DataError(f"{self._archive.where}: no file of the {split} split is an image. Download them again.")
            raise self.problem

    def _read(self, key: str) -> bytes | None:
        """An encoded image; None if it is no image and may be left out. Pixels are decoded only when they are asked for."""
        from PIL import Image

        encoded = self.contents.read(key)
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS):
                return encoded
        except Exception as error:  # Pillow's readers raise almost anything on damaged files
            if self.known.fixed:
                raise DataError(f"{self._archive.where}, {key}: not an image that can be read. Download the archive again.") from error
            return None


def _write(writer: _Writer, place: Path) -> Path:
    import tensorflow_datasets as tfds

    known = writer.known

    class Published(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        __module__ = name = writer.name  # TensorFlow Datasets would look for files beside a real module

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
        with redirect_stdout(io.StringIO()):  # TensorFlow Datasets prints what it does
            builder.download_and_prepare()
    except OSError as error:
        raise writer.problem or DataError(f"{place}: cannot be written ({error}). Give another folder with --data-dir DIR.") from error
    except Exception as error:  # TensorFlow Datasets adds its own text to errors of the archive
        if writer.problem is None:
            raise
        raise writer.problem from error
    finally:
        tfds.enable_progress_bar()
    return Path(builder.data_path)
