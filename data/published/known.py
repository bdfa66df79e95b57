"""What is recorded of a set of the benchmark?"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """One row of table 4, and where its images come from.

    Attributes:
      title: the set's own name.
      role: "source" (experts are trained on it) or "target" (experts are fine-tuned on it).
      train, test, classes: the table's figures; None where they are not known.
      unconfirmed: which of these three no source but memory gives: the table itself could not be read again.
      evidence: what speaks for the figures.
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
      note: where the archive and the table differ.
    """

    title: str
    role: str
    train: int | None = None
    test: int | None = None
    classes: int | None = None
    unconfirmed: tuple[str, ...] = ()
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
    note: str = ""

    @property
    def share(self) -> float | None:
        """The table's share of training images; None where it is not known."""
        return None if self.train is None or self.test is None else self.train / (self.train + self.test)
