"""The record of a set of the benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """One row of table 4, and where its images come from.

    Attributes:
      title: the set's own name.
      role: "source" (experts are trained on it) or "target" (experts are fine-tuned on it).
      train, test, classes: the table's figures.
      evidence: what the authors and others say of the figures.
      split: the rule of the split, in words.
      licence: terms of the images.
      home: the page of the authors.
      obtain: how to get the files.
      layout: what the archive holds that `prepare` reads; "" if TensorFlow Datasets prepares the set.
      citation: authors and year.
      download: size of the files, if known.
      tfds: the name TensorFlow Datasets has for it; None if it is prepared here.
      train_split, test_split: splits of the prepared set, joined by "+". A test split of None is cut from the training
        split, the same share of every class, as `stratified_train` says.
      fixed: whether an archive that is complete has exactly the table's images and classes. Not so for sets of which
        only the addresses are published, and where the table leaves the choice of images open.
      flips_keep_class: as of a `Task`: False where a mirror image is not of the class, as of lettering.
      note: where the published images and the table differ, with the figures of both.
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

    @property
    def share(self) -> float:
        """The table's share of training images."""
        return self.train / (self.train + self.test)
