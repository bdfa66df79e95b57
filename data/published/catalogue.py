"""The data sets of the benchmark: the catalogue of table 4, and loading of sets that have been prepared on disk.

`KNOWN` is table 4 of Deshpande et al. 2021, "A linearized framework and a new benchmark for model selection for
fine-tuning" (arXiv 2102.00084): 8 sources, then 11 targets, read from `catalogue.toml`.
"""

import os
import shlex
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from ntk_select.data import tfds
from ntk_select.data.tfds_download import download_tfds
from ntk_select.errors import DataError
from ntk_select.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """One row of table 4, and where its images come from.

    Attributes:
      title: name of the data set.
      role: "source" (experts are trained on it) or "target" (experts are fine-tuned on it).
      train, test, classes: numbers of images and classes in the table.
      evidence: what the authors and others report of these numbers.
      split: description of the split.
      licence: terms of the images.
      home: the authors' web page.
      obtain: how to get the files.
      citation: authors and year.
      layout: content of the archive that `prepare` reads; "" if TensorFlow Datasets prepares the set.
      download: size of the files, if known.
      tfds: name in TensorFlow Datasets; None if `prepare` writes the set.
      train_split, test_split: splits of the prepared set, joined by "+". With `test_split=None` the test set is held out from
        the training split by `stratified_train`.
      fixed: whether a complete archive has exactly the table's images and classes. False for sets of which only URLs are
        published, and where the table does not define the selection of images.
      flips_keep_class: as in `Task`: False where a mirror image is not of the same class, as for lettering.
      note: differences between the published images and the table, with both numbers.
    """

    title: str
    role: str
    train: int
    test: int
    classes: int
    evidence: str
    split: str
    licence: str
    home: str
    obtain: str
    citation: str
    layout: str = ""
    download: str | None = None
    tfds: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    fixed: bool = True
    flips_keep_class: bool | None = None
    note: str = ""

    def __post_init__(self):
        object.__setattr__(self, "test_split", self.test_split or None)  # TOML has no null

    @property
    def share(self) -> float:
        """Fraction of training images in the table."""
        return self.train / (self.train + self.test)


_RECORDS = tomllib.loads((Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8"))
KNOWN = {name: KnownSet(**record) for name, record in _RECORDS.items()}


def find_known(name: str, argument: str = "", *, data_dir: str | Path | None = None) -> Path | None:
    """The folder of a prepared set, or None. Imports nothing and reads no image.

    Args:
      name: key of `KNOWN`.
      argument: the only folder to search, the text after the colon of the URI; "" for `data_dir` and the default folder of
        TensorFlow Datasets.
      data_dir: searched first.
    """
    return tfds.find(KNOWN[name].tfds or name, None, None, tfds.places(argument, data_dir))


def load_known(name: str, argument: str = "", *, data_dir: str | Path | None = None) -> Task:
    """The task of a prepared set, split as in the table. Nothing is downloaded or prepared.

    Args:
      name, argument, data_dir: as for `find_known`.

    Returns:
      A task whose warnings list the differences from the table in images and classes.

    Raises:
      DataError: the set is not prepared, or cannot be read.
    """
    known, folder = KNOWN[name], find_known(name, argument, data_dir=data_dir)
    if folder is None:
        where = tfds.places(argument, data_dir)
        raise DataError(f"{name} is not prepared in {' or '.join(map(str, where))}. {known.obtain} Then try: {next_command(name, where[0])}")
    share = known.share if known.test_split is None else None
    task = tfds.read_prepared(folder, name, train=known.train_split, test=known.test_split, share=share)
    here = {"training images": len(task.labels), "test images": len(task.test_labels), "classes": task.num_classes}
    table = dict(zip(here, (known.train, known.test, known.classes), strict=True))
    warnings = [f"The table has {table[what]:,} {what}; here are {here[what]:,}." for what in here if table[what] != here[what]]
    details = {"warnings": [*task.details["warnings"], *warnings]}
    return replace(task, licence=task.licence or known.licence, details=details, flips_keep_class=known.flips_keep_class)


def download_known(name: str, argument: str = "", *, data_dir: str | Path | None = None) -> None:
    """Downloads and prepares a set that TensorFlow Datasets has, unless it is prepared. Arguments as for `find_known`; raises as `download_tfds`."""
    if find_known(name, argument, data_dir=data_dir) is None:
        download_tfds(KNOWN[name].tfds or name, data_dir=tfds.places(argument, data_dir)[0])


def next_command(name: str, data_dir: str | Path | None = None) -> str:
    """The shell command that prepares the set in `data_dir`, by default the folder of TensorFlow Datasets."""
    default = tfds.places(None, None)[0]
    folder = Path(os.path.expanduser(data_dir or default))
    if KNOWN[name].tfds:
        return shlex.join(["ntk-select", "tasks", "show", name if folder == default else f"{name}:{folder}", "--download"])
    return shlex.join(["ntk-select", "tasks", "prepare", name, "--archive", "PATH", *([] if folder == default else ["--data-dir", str(folder)])])
