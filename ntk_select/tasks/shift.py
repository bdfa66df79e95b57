"""Difference between the test images and the training images of a task: a nearest-neighbour two-sample test within classes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from ntk_select._runtime.checks import check_count
from ntk_select.errors import TaskError, explained, not_finite
from ntk_select.tasks.copies import distinct
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import ChosenImages, Task

NEIGHBOURS, PERMUTATIONS = 3, 999
"""Nearest images that are counted for each image, and permutations of the null distribution."""
SIGNIFICANT = 0.001
"""Largest p-value at which a difference is reported: the smallest that `PERMUTATIONS` can give."""
CONSTANT = 1e-6
"""Standard deviation, relative to the largest value, up to which a feature counts as constant: rounding in float32."""
ROUNDING = 1e-9
"""Shares that differ by less are equal."""


@dataclass(frozen=True)
class TwoSampleTest:
    """The result of `two_sample_test`.

    Attributes:
      share: share of the nearest images of the same class that are from the own sample, 0 to 1.
      expected: its mean over all permutations, what one population would give.
      z: their difference in standard deviations of the permutations; 0 if these are all equal.
      p_value: share of the permutations, with the sample itself among them, whose share is as large: from 1 / (permutations + 1) to 1.
      neighbours: nearest images that were counted for each image.
    """

    share: float
    expected: float
    z: float
    p_value: float
    neighbours: int


def two_sample_test(
    features_a: Num[np.ndarray, "n d"],
    labels_a: Int[np.ndarray, " n"],
    features_b: Num[np.ndarray, "m d"],
    labels_b: Int[np.ndarray, " m"],
    *,
    neighbours: int = NEIGHBOURS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> TwoSampleTest | None:
    """Tests whether two samples of images differ within their classes.

    If both samples are from one population, an image's nearest neighbours of its class belong to either sample in proportion to their sizes; if not,
    they belong to its own sample more often. The test is one-sided and by permutation within classes, so that its p-value is exact for
    exchangeable images, and samples that differ in their class frequencies alone do not differ.

    Args:
      features_a, features_b: features of the images of each sample, compared in float64 after each is scaled to unit variance over both
        samples; features that are constant are ignored.
      labels_a, labels_b: class ids. Classes without an image in one of the samples are ignored.
      neighbours: nearest images of the same class that are counted for each image: all others where a class has fewer. Images at equal distance
        share the last places.
      permutations: number of random permutations.
      seed: seed of the permutations.

    Returns:
      The test; None if no class has images in both samples. The share and its expected value do not depend on the order of the images, nor on the
      unit or the origin of a feature. Where all images of each class have the same features, z is 0 and the p-value 1.

    Raises:
      ConfigError: `neighbours` or `permutations` below 1, or `seed` below 0.
      TaskError: features are not finite or of different widths, or there is not one label per image.

    Cost: for a class with n images of both samples n^2 d operations for the distances and n^2 for each permutation; memory for n^2 distances and
    2 n x permutations numbers. 2 x 25 images of each of 10 classes take about 0.05 s.

    Reference: Schilling 1986, JASA 81, 799-806; Henze 1988, Annals of Statistics 16, 772-783.
    """
    check_count("neighbours", neighbours, 1)
    check_count("permutations", permutations, 1)
    check_count("seed", seed, 0)
    features, labels, signs = _pooled(features_a, labels_a, features_b, labels_b)
    shared = np.intersect1d(labels[signs > 0], labels[signs < 0])
    if not len(shared):
        return None
    compared = np.isin(labels, shared)
    features, labels, signs = _standardised(features[compared]), labels[compared], signs[compared]
    rng = np.random.default_rng(seed)
    total = observed = expected = 0.0
    permuted = np.zeros(permutations)
    for label in shared:
        own = signs[labels == label]
        weights = _neighbour_weights(features[labels == label], neighbours)
        n, sum_of_weights = len(own), weights.sum()
        total += sum_of_weights
        observed += own @ weights @ own
        expected += sum_of_weights * (own.sum() ** 2 - n) / (n * (n - 1))  # the mean product of the signs of two images
        drawn = rng.permuted(np.tile(own, (permutations, 1)), axis=1)
        permuted += ((drawn @ weights) * drawn).sum(axis=1)
    observed, expected, permuted = ((1 + value / total) / 2 for value in (observed, expected, permuted))
    spread = permuted.std()
    return TwoSampleTest(
        share=float(observed),
        expected=float(expected),
        z=float((observed - expected) / spread) if spread > ROUNDING else 0.0,
        p_value=float((1 + (permuted >= observed - ROUNDING).sum()) / (permutations + 1)),
        neighbours=int(neighbours),
    )


def _pooled(features_a, labels_a, features_b, labels_b) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels of both samples, and 1 for images of the first and -1 for those of the second."""
    samples = [(np.asarray(features, np.float64), np.asarray(labels)) for features, labels in ((features_a, labels_a), (features_b, labels_b))]
    for name, (features, labels) in zip("ab", samples, strict=True):
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise TaskError(
                f"features_{name} has shape {features.shape} and labels_{name} {labels.shape}; they must be (n, d) and (n,), one row per image."
            )
        if not np.isfinite(features).all():
            raise TaskError(not_finite(f"features_{name} has"))
    (one, of_one), (other, of_other) = samples
    if one.shape[1] != other.shape[1]:
        raise TaskError(f"The samples have {one.shape[1]:,} and {other.shape[1]:,} features; they must have the same. Try: features of one expert")
    return np.concatenate([one, other]), np.concatenate([of_one, of_other]), np.repeat([1.0, -1.0], [len(one), len(other)])


def _standardised(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
    """The features that are not constant, with mean 0 and variance 1."""
    largest = np.abs(features).max(axis=0)
    features = features / np.where(largest > 0, largest, 1)
    spread = features.std(axis=0)
    varies = spread > CONSTANT
    return (features[:, varies] - features[:, varies].mean(axis=0)) / spread[varies]


def _neighbour_weights(features: Float[np.ndarray, "n d"], neighbours: int) -> Float[np.ndarray, "n n"]:
    """Row i has 1 for each nearest neighbour of image i, and fractions for images at equal distance that share the last places."""
    from scipy.spatial.distance import cdist  # imported here because it takes long

    distances = cdist(features, features, "sqeuclidean") if features.shape[1] else np.zeros((len(features), len(features)))
    np.fill_diagonal(distances, np.inf)
    k = min(neighbours, len(features) - 1)
    last = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    closer, tied = distances < last, distances == last
    return closer + tied * (k - closer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)


def has_test_images(task: Task) -> bool:
    """Whether the task has a test set with images."""
    return task.test_images is not None and len(task.test_images) > 0


def remarks_on_test_images(
    task: Task, sample: ProbeSample, features_of: Callable[[ProbeSample], Float[np.ndarray, "n d"] | None], *, seed: int = 0
) -> list[str]:
    """A sentence if the test images of a task differ from its training images, for which accuracies are forecast.

    The probe sample is compared with at most as many test images of each class, without copies, by `two_sample_test`. Test labels serve to find the
    images of each class only.

    Args:
      task: the task.
      sample: its probe sample.
      features_of: features of a sample by one expert; None if it has none.
      seed: seed of the choice of test images and of the permutations.

    Returns:
      One sentence where the p-value is at most `SIGNIFICANT`, or where an exception prevents the comparison; otherwise none, as without test
      images. No exception propagates.

    Cost: decodes the chosen test images, and two calls of `features_of`.
    """
    if not has_test_images(task):
        return []
    try:
        tested = _test_sample(task, sample, seed)
        if not len(tested):
            return []
        tested, _ = distinct(tested)
        features = [features_of(part) for part in (sample, tested)]
        if any(each is None for each in features):
            return []
        found = two_sample_test(features[0], sample.labels, features[1], tested.labels, seed=seed)
    except Exception as error:  # images that no score needs, and foreign code
        return [f"The test images could not be compared with the training images: {explained(error)}"]
    if found is None or found.p_value > SIGNIFICANT:
        return []
    return [
        f"The test images differ from the training images (of the {found.neighbours} nearest images of the same class {100 * found.share:.0f} % are "
        f"from the own set, {100 * found.expected:.0f} % would be expected of one population; p = {found.p_value:.1g}): accuracies on the test set "
        "may be lower than forecast."
    ]


def _test_sample(task: Task, sample: ProbeSample, seed: int) -> ProbeSample:
    """Random test images of the classes of the probe sample, at most as many of each; with its class ids."""
    present, counts = np.unique(task.labels[sample.indices]), np.bincount(sample.labels)
    chosen = []
    for label, count in zip(present, counts, strict=True):
        members = np.flatnonzero(task.test_labels == label)
        chosen.append(np.sort(np.random.default_rng([seed, int(label), 1]).permutation(members)[:count]))
    labels = np.repeat(np.arange(len(present), dtype=np.int32), [len(each) for each in chosen])
    indices = np.concatenate(chosen)
    return ProbeSample(ChosenImages(task.test_images, indices), labels, sample.class_names, indices)
