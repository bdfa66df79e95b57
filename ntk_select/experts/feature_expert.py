"""Experts without their network: features, and predictions if any, that were computed elsewhere, in any framework."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select._runtime.checks import is_number, is_whole
from ntk_select.errors import ModelError, not_finite

TEXTS, COUNTS, SHARES = ("source", "architecture"), ("num_params", "source_size"), ("source_accuracy",)
"""Fields that are text, whole numbers, and numbers from 0 to 1."""
ROUNDING = 1e-2
"""Allowed deviation of a sum of probabilities from 1; half precision and many classes add up to less."""


class Classes(NamedTuple):
    """The class of each image.

    Attributes:
      labels: (n,) ids, 0 .. len(names) - 1.
      names: names of the classes.
      named: whether the names were given; otherwise they are numbers.
    """

    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    named: bool


@dataclass(frozen=True, eq=False)
class FeatureExpert:
    """An expert without its network: features of the training images of a task, computed in any framework. `rank` takes it like an `Expert`.

    All scores that need only features, labels and predictions are those of the network itself. Scores that need the network (`forecast`, `lgc`
    without `gradient_kernel`) are unavailable, and it cannot be fine-tuned. The same names are those of the arrays in a file of
    features (`open_zoo`).

    Args:
      name: unique in its zoo.
      features: (n, d) floats, pre-logits in evaluation mode: one row for each training image of the task, in the order of the task.
      labels: (n,) integers, the class of each image. Needed where `rank` has no task; if there is one, its labels must be the same, up to the
        names of the classes.
      logits: (n, s) outputs of the expert's own head over the s classes of its source, for LEEP and NCE.
      source_probs: (n, s) softmax of these logits, in their place.
      gradient_kernel: (n, n) inner products of the gradients of the last convolution, for LGC.
      class_names: names of the classes of the task; labels are indices into them. Without, each label value is a class, named by its number.
      source: name of the data set that it was trained on.
      architecture: name of its network.
      num_params: number of its parameters.
      source_size: number of training images of its source.
      source_accuracy: accuracy on the test set of its source, 0 to 1.
      source_counts: (s,) training images of each class of its source.
      own_source_means: (s, d) means of the features over each class of its source.

    Raises:
      ModelError: a shape, type or range is another, numbers are not finite, or both `logits` and `source_probs` are given.
    """

    name: str
    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None = None
    logits: Float[np.ndarray, "n s"] | None = None
    source_probs: Float[np.ndarray, "n s"] | None = None
    gradient_kernel: Float[np.ndarray, "n n"] | None = None
    class_names: Sequence[str] | None = None
    source: str | None = None
    architecture: str | None = None
    num_params: int | None = None
    source_size: int | None = None
    source_accuracy: float | None = None
    source_counts: Int[np.ndarray, " s"] | None = None
    own_source_means: Float[np.ndarray, "s d"] | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise ModelError(f"FeatureExpert: name={self.name!r} must be text that is not empty.")
        for field in ("features", "logits", "source_probs", "gradient_kernel", "own_source_means"):
            self._set(field, self._floats(field))
        n, d = self.features.shape
        for field in ("logits", "source_probs", "gradient_kernel"):
            if (array := getattr(self, field)) is not None and len(array) != n:
                raise self._error(field, f"{len(array):,} rows, for {n:,} rows of features; both have one row per image")
        if self.gradient_kernel is not None and self.gradient_kernel.shape != (n, n):
            raise self._error("gradient_kernel", f"shape {self.gradient_kernel.shape}; it must be ({n}, {n}), one row and one column per image")
        self._check_predictions()
        self._check_source(d)
        self._set("labels", self._integers("labels", n, "image"))
        self._set("class_names", self._names())
        for field in TEXTS:
            if not isinstance(value := getattr(self, field), str | None):
                raise ModelError(f"Expert {self.name!r}: {field}={value!r} must be text, or None if unknown.")
        for field in COUNTS:
            if (value := getattr(self, field)) is not None and (not is_whole(value) or value < 0):
                raise ModelError(f"Expert {self.name!r}: {field}={value!r} must be a whole number from 0, or None if unknown.")
        for field in SHARES:
            if (value := getattr(self, field)) is not None and (not is_number(value) or not 0 <= value <= 1):
                raise ModelError(f"Expert {self.name!r}: {field}={value!r} must be a number from 0 to 1, or None if unknown.")

    @property
    def classes(self) -> Classes | None:
        """The class of each image; None without labels."""
        return classes_of(self.labels, self.class_names)

    @property
    def card(self) -> "FeatureCard":
        """What is known of it."""
        outputs, classes = next((array for array in (self.logits, self.source_probs) if array is not None), None), self.classes
        return FeatureCard(
            self.name,
            *self.features.shape,
            tuple(field.name for field in fields(self) if field.name != "name" and getattr(self, field.name) is not None),
            source=self.source,
            architecture=self.architecture,
            num_classes=0 if outputs is None else outputs.shape[1],
            num_parameters=self.num_params,
            num_images=self.source_size,
            test_accuracy=self.source_accuracy,
            class_names=classes.names if classes else (),
            class_counts=tuple(np.bincount(classes.labels, minlength=len(classes.names)).tolist()) if classes else (),
        )

    def __len__(self):
        return len(self.features)

    def __repr__(self):
        return f"FeatureExpert({self.name!r}, images={len(self.features):,}, features={self.features.shape[1]:,})"

    def _set(self, field: str, value) -> None:
        object.__setattr__(self, field, value)

    def _error(self, field: str, says: str) -> ModelError:
        return ModelError(f"Expert {self.name!r}: {field} has {says}.")

    def _array(self, field: str) -> np.ndarray | None:
        given = getattr(self, field)
        if given is None:
            return None
        try:
            return np.asarray(given)
        except Exception as error:  # arrays of other packages raise their own types, as of a tensor on another device
            raise ModelError(f"Expert {self.name!r}: {field} is no array ({type(error).__name__}). Try: numpy.asarray({field})") from error

    def _floats(self, field: str) -> np.ndarray | None:
        """A finite floating-point array with two axes."""
        array = self._array(field)
        if array is None and field == "features":
            raise ModelError(f"Expert {self.name!r} has no features. Try: FeatureExpert(name, features), an array (n, d), one row per image")
        if array is None:
            return None
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        if array.dtype.kind != "f":
            hint = f" Try: {field}.astype(numpy.float32)" if array.dtype.kind in "iub" else ""
            raise ModelError(f"Expert {self.name!r}: {field} is {array.dtype}; it must be floating point.{hint}")
        if array.ndim != 2 or 0 in array.shape:
            hint = " To pool over space, try: features.mean((1, 2)), or (2, 3) if channels come first" if array.ndim == 4 else ""
            row = "class of the source" if field == "own_source_means" else "image"
            raise ModelError(f"Expert {self.name!r}: {field} has shape {array.shape}; it must have two axes, not empty, one row per {row}.{hint}")
        if not np.isfinite(array).all():
            raise ModelError(not_finite(f"Expert {self.name!r}: {field} has"))
        return array

    def _integers(self, field: str, n: int | None, row: str) -> np.ndarray | None:
        """One integer for each of n images or classes; any number of them if None."""
        array = self._array(field)
        if array is None:
            return None
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        if array.ndim != 1 or array.dtype.kind not in "iu" or (n is not None and len(array) != n):
            shape = f" ({n},)" if n is not None else ""
            hint = _how_to_label(array) if field == "labels" else ""
            raise ModelError(f"Expert {self.name!r}: {field} is {array.dtype} {array.shape}; it must be integers{shape}, one per {row}.{hint}")
        return array.astype(np.int64)

    def _names(self) -> tuple[str, ...] | None:
        if self.class_names is None:
            return None
        names = self.class_names.tolist() if isinstance(self.class_names, np.ndarray) else self.class_names
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise ModelError(f"Expert {self.name!r}: class_names={self.class_names!r} must be one text per class, as in ('cat', 'dog').")
        if len(set(names)) < len(names):
            raise ModelError(f"Expert {self.name!r}: class_names has duplicates; the names of classes must differ.")
        if self.labels is not None and not (self.labels.min() >= 0 and self.labels.max() < len(names)):
            raise ModelError(
                f"Expert {self.name!r}: labels run from {self.labels.min()} to {self.labels.max()}; with {len(names)} class_names they must be "
                f"0 .. {len(names) - 1}, indices into them."
            )
        return tuple(names)

    def _check_predictions(self) -> None:
        probs = self.source_probs
        if probs is None:
            return
        if self.logits is not None:
            raise ModelError(f"Expert {self.name!r} has both logits and source_probs, their softmax; one is enough. Try: logits alone")
        if probs.min() < 0 or np.abs(probs.sum(axis=1, dtype=np.float64) - 1).max() > ROUNDING:
            raise ModelError(
                f"Expert {self.name!r}: source_probs are not probabilities: they must be 0 or above and sum to 1 for each image. "
                "For outputs before the softmax, try: logits in place of source_probs"
            )

    def _check_source(self, width: int) -> None:
        counts, means = self._integers("source_counts", None, "class of the source"), self.own_source_means
        self._set("source_counts", counts)
        if counts is not None and (len(counts) == 0 or counts.min() < 0 or counts.max() == 0):
            raise ModelError(f"Expert {self.name!r}: source_counts must be numbers of images, 0 or above, and not all 0.")
        if means is not None and means.shape[1] != width:
            raise self._error("own_source_means", f"{means.shape[1]:,} columns, for {width:,} features; they must be means of the features")
        if means is not None and counts is not None and len(means) != len(counts):
            raise self._error(
                "own_source_means", f"{len(means):,} rows, for {len(counts):,} source_counts; both have one row per class of the source"
            )


@dataclass(frozen=True)
class FeatureCard:
    """What is known of an expert of features, with the names of `Card` where both have a field.

    Attributes:
      name: name of the expert.
      images: rows of the features.
      features: columns of the features.
      given: names of everything that is given: the arrays of its file.
      source, architecture: as in `Card`; None if unknown.
      num_classes: outputs of its own head; 0 without logits.
      num_parameters, num_images, test_accuracy: as in `Card`: num_params, source_size and source_accuracy.
      initialised_from: as in `Card`; always unknown.
      class_names, class_counts: classes of the task and their numbers of images; empty without labels.
    """

    name: str
    images: int
    features: int
    given: tuple[str, ...]
    source: str | None = None
    architecture: str | None = None
    num_classes: int = 0
    num_parameters: int | None = None
    num_images: int | None = None
    test_accuracy: float | None = None
    initialised_from: str | None = None
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()


def classes_of(labels: Num[np.ndarray, " n"] | None, class_names: Sequence[str] | None) -> Classes | None:
    """Labels renumbered to 0 .. classes - 1 where the classes have no names; None without labels."""
    if labels is None:
        return None
    if class_names is not None:
        return Classes(labels, tuple(class_names), True)
    values, ids = np.unique(labels, return_inverse=True)
    return Classes(ids, tuple(map(str, values)), False)


def first_difference(one: Classes, other: Classes) -> int | None:
    """Position of the first of n images that is of another class; None if there is none.

    Classes are compared by name if both have the same names, otherwise by which images share a class: numbers and names may differ.
    """
    named = [np.array(each.names)[each.labels] for each in (one, other)]
    same_names = one.named and other.named and set(named[0]) == set(named[1])
    a, b = named if same_names else (_by_first_image(each.labels) for each in (one, other))
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else None


def _by_first_image(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Position of the first image of each image's class."""
    firsts, ids = np.unique(labels, return_index=True, return_inverse=True)[1:]
    return firsts[ids]


def _how_to_label(labels: np.ndarray) -> str:
    """Hint for the conversion of labels to integers."""
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        return " For one-hot labels, try: labels.argmax(1)"
    if labels.dtype.kind in "iu":
        return ""
    if labels.dtype.kind in "UT":
        return " For names, try: class_names, labels = numpy.unique(labels, return_inverse=True)"
    return " For other values, try: numpy.unique(labels, return_inverse=True)[1]"


def with_network(expert: Any) -> Any:
    """The expert, if it has its network.

    Raises:
      ModelError: it is a `FeatureExpert`.
    """
    if isinstance(expert, FeatureExpert):
        raise ModelError(
            f"Expert {expert.name!r} is known by its features only, and this needs its network. "
            "Try: its network, as timm:NAME, ntk_select.torch_expert(name, model), or ntk_select.Expert(name, apply_fn, params, ...)"
        )
    return expert
