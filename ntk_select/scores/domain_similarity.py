"""Domain Similarity: earth mover's distance between the expert's source data and the task's images."""

import math
import warnings

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select.errors import ConfigError, TaskError, UndefinedScoreError, missing
from ntk_select.kernels.alignment import checked_labels
from ntk_select.scores.features import Features, as_features, class_means
from ntk_select.scores.score import ScoreResult

GAMMA = 0.01
MIN_IMAGES = 5


def domain_similarity(
    source_means: Float[np.ndarray, "s d"],
    source_counts: Int[np.ndarray, " s"],
    domain_features: Num[np.ndarray, "n d"] | Features,
    labels: Int[np.ndarray, " n"],
    class_counts: Int[np.ndarray, " c"] | None = None,
    *,
    gamma: float = GAMMA,
    min_images: int = MIN_IMAGES,
) -> ScoreResult:
    """exp(-gamma d), d the earth mover's distance between the class means of source and task, weighted by their images.

    Args:
      source_means: class means of the source data by one extractor.
      source_counts: training images of each source class.
      domain_features: the task's images by the same extractor. With one extractor for the whole zoo experts are comparable, but
        experts of one source tie; with the expert itself (`domain_similarity_own`) the value depends on the scale of its features.
      labels: class ids of these images, any integers.
      class_counts: training images of the task's classes, in the order of their ids; None counts `labels`.
      gamma: as in the paper of Cui et al.
      min_images: classes with fewer images, on either side, are left out.

    Returns:
      0 to 1, higher is better. Detail `distance`: d.

    Raises:
      UndefinedScoreError: no class has enough images.
      TaskError: inconsistent shapes, or numbers that are not finite.
      ConfigError: `gamma` or `min_images` out of range.
      MissingDependencyError: without POT.

    Reference: Cui et al. 2018, Large scale fine-grained categorization and domain-specific transfer learning, eq. 3; classes under
    5 images as in Deshpande et al. 2021.  Cost: O(s c d) and the transport of s by c classes.
    """
    from scipy.spatial.distance import cdist

    if not 0 < gamma < math.inf or min_images < 1:
        raise ConfigError(f"domain_similarity: gamma={gamma!r} must be above 0, and min_images={min_images!r} at least 1.")
    labels = checked_labels(labels)
    target = as_features(domain_features)
    source, counts = as_features(source_means).array, np.asarray(source_counts, np.float64)
    ids, sizes = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    weights = np.asarray(sizes if class_counts is None else class_counts, np.float64)
    for given, wanted, what in (
        (target.array.shape, (len(labels), source.shape[1]), "domain_features"),
        (counts.shape, (len(source),), "source_counts"),
        (weights.shape, sizes.shape, "class_counts"),
    ):
        if given != wanted:
            raise TaskError(f"{what} have shape {given}, not {wanted}: one row per image, one number per class, features of one extractor.")
    for numbers, what in ((counts, "source_counts"), (weights, "class_counts")):
        if not np.isfinite(numbers).all():
            raise TaskError(f"{what} contain NaN or infinity; they must be numbers of images.")
    ot = _transport()
    from_classes, to_classes = counts >= min_images, weights >= min_images
    if not from_classes.any() or not to_classes.any():
        side = "source" if not from_classes.any() else "task"
        raise UndefinedScoreError(f"Every class of the {side} has fewer than {min_images} images.")
    means = class_means(target.array, ids, sizes)[to_classes]
    cost = cdist(source[from_classes], means)
    masses = [side / side.sum() for side in (counts[from_classes], weights[to_classes])]
    distance = float(ot.emd2(*masses, cost))
    return ScoreResult(math.exp(-gamma * distance), details={"distance": distance})


def _transport():
    try:
        with warnings.catch_warnings():
            for kind in (SyntaxWarning, DeprecationWarning):  # of its docstrings, when Python compiles it for the first time
                warnings.simplefilter("ignore", kind)
            import ot
    except ImportError as error:
        raise missing("POT", "Domain Similarity") from error
    return ot


def domain_similarity_own(own_source_means, source_counts, features, labels, class_counts=None) -> ScoreResult:
    """`domain_similarity` with the expert itself as the extractor. It depends on the scale of the features, so experts are not comparable."""
    return domain_similarity(own_source_means, source_counts, features, labels, class_counts)
