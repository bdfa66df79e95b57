"""Features with the decompositions that several scores share; each is computed once, when it is first needed."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.errors import UndefinedScoreError
from ntk_select.kernels.alignment import CONSTANT, checked_classes, checked_features


class Decomposition(NamedTuple):
    """Thin SVD, left and right vectors as columns and rows, cut to the numerical rank k: F = left @ diag(values) @ right."""

    left: Float[np.ndarray, "n k"]
    values: Float[np.ndarray, " k"]
    right: Float[np.ndarray, "k d"]

    @property
    def coordinates(self) -> Float[np.ndarray, "n k"]:
        """The rows along the right vectors: principal components where the features were centred."""
        return self.left * self.values


@dataclass(frozen=True, eq=False)
class Features:
    """Features (n, d) of a probe sample, in float64. Every score takes them in place of the plain array.

    Args:
      array: one row per image.
      precision: relative rounding error of its numbers; None for that of its type. Features that were computed in single precision have
        that precision whatever their type; half precision counts as single.

    Raises:
      TaskError: not a finite array (n, d).
    """

    array: Num[np.ndarray, "n d"]
    precision: float | None = None

    def __post_init__(self):
        checked, given = checked_features(self.array), np.asarray(self.array)
        if self.precision is None:
            object.__setattr__(self, "precision", float(np.finfo(np.float64 if given.dtype == np.float64 else np.float32).eps))
        object.__setattr__(self, "array", checked)

    def __len__(self):
        return len(self.array)

    def take(self, rows: Int[np.ndarray, " m"]) -> "Features":
        """The features of some of the images."""
        return Features(self.array[rows], self.precision)

    @property
    def width(self) -> int:
        """Number of features, d."""
        return self.array.shape[1]

    @cached_property
    def centred(self) -> Float[np.ndarray, "n d"]:
        """The features minus their column means."""
        return self.array - self.array.mean(axis=0)

    @cached_property
    def constant(self) -> bool:
        """Whether all images have the same features, up to rounding: exactly then the centred features may have rank 0."""
        rounding = max(CONSTANT, (max(self.array.shape) * self.precision) ** 2)
        return not (self.centred**2).sum() > rounding * (self.array**2).sum()

    @cached_property
    def plain_svd(self) -> Decomposition:
        """SVD of the features without centring. Values below max(n, d) eps times the largest count as rounding errors."""
        return self._decomposed(self.array)

    @cached_property
    def svd(self) -> Decomposition:
        """SVD of the centred features. Signs are such that the row largest in a component is positive there."""
        return self._decomposed(self.centred)

    def _decomposed(self, array: np.ndarray) -> Decomposition:
        left, values, right = np.linalg.svd(array, full_matrices=False)
        # Centring can leave noise at the scale of what was subtracted.
        scale = max(values[0], np.linalg.norm(self.array) / np.sqrt(min(self.array.shape)))
        rank = int((values > scale * max(array.shape) * self.precision).sum())
        left, values, right = left[:, :rank], values[:rank], right[:rank]
        signs = np.where(left[np.abs(left).argmax(axis=0), np.arange(rank)] < 0, -1.0, 1.0)
        return Decomposition(left * signs, values, right * signs[:, None])


def as_features(features: Num[np.ndarray, "n d"] | Features) -> Features:
    """The features as `Features`. Raises TaskError."""
    return features if isinstance(features, Features) else Features(features)


class Labelled(NamedTuple):
    """Features with labels 0 .. c - 1, every class present, and the number of images of each."""

    features: Features
    labels: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " c"]


def labelled(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> Labelled:
    """Checked features and labels.

    Raises:
      TaskError: inconsistent shapes, or features that are not finite.
      UndefinedScoreError: one class only, one image in every class, or the same features for all images.
    """
    features = as_features(features)
    ids, counts = checked_classes(labels, len(features))
    if features.constant:
        raise UndefinedScoreError("The features are constant over all images (or zero), so they do not distinguish the classes.")
    return Labelled(features, ids, counts)


def fits_any_labels(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"], components: int | None = None) -> str:
    """Explains that the classes can be fitted perfectly for any labels: the features span all directions within the classes.

    Args:
      features, labels: inputs of a score that is defined on them.
      components: principal components that the score looks at; all if None.

    Returns:
      A sentence, or "" if the fit depends on the labels.
    """
    features, ids, counts = labelled(features, labels)
    rank = len(features.svd.values) if components is None else min(components, len(features.svd.values))
    most = features.width if components is None else min(components, features.width)
    if rank < len(ids) - len(counts):
        return ""
    return (
        f"{len(ids)} images of {len(counts)} classes span all {rank} directions of their features within the classes, where any labels can be "
        f"fitted: compare the value with that of shuffled labels. Needed are more than {most + len(counts)} images, or hscore_shrinkage, logme, knn "
        "or linear_probe."
    )


def class_sums(rows: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "c k"]:
    """Sum of the rows of each class, in the order of the labels, which may be any integers."""
    order = np.argsort(labels, kind="stable")
    return np.add.reduceat(rows[order], np.unique(labels[order], return_index=True)[1], axis=0)


def class_means(rows: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, "c k"]:
    """Mean of the rows of each class."""
    return class_sums(rows, labels) / counts[:, None]


def one_hot(labels: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, "n c"]:
    """1 at the label, 0 elsewhere."""
    return (labels[:, None] == np.arange(classes)).astype(np.float64)
