"""The two-sample test is a permutation test of the nearest neighbours within classes; its remark is on tasks whose test images differ."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ntk_select import Task, probe_sample
from ntk_select.errors import ConfigError, TaskError
from ntk_select.tasks.shift import remarks_on_test_images, two_sample_test


def samples(seed=0, *, a=(15, 15), b=(15, 15), width=6, shift=0.0):
    """Features and labels of two samples with different class means; `shift` is added to the second."""
    rng = np.random.default_rng(seed)
    means = 3 * rng.normal(size=(len(a), width))

    def drawn(counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        return means[labels] + rng.normal(size=(len(labels), width)), labels

    one, other = drawn(a), drawn(b)
    return *one, other[0] + shift, other[1]


def share_by_hand(one, of_one, other, of_other, neighbours):
    """The share with scikit-learn's neighbours of each class."""
    features, labels = np.concatenate([one, other]), np.concatenate([of_one, of_other])
    own = np.arange(len(labels)) < len(of_one)
    features = (features - features.mean(0)) / features.std(0)
    hits = []
    for label in np.intersect1d(of_one, of_other):
        x, group = features[labels == label], own[labels == label]
        found = NearestNeighbors(n_neighbors=min(neighbours, len(x) - 1)).fit(x).kneighbors(return_distance=False)
        hits.append((group[found] == group[:, None]).ravel())
    return np.concatenate(hits).mean()


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize(("a", "b"), [((12, 12), (12, 12)), ((20, 3, 1), (4, 9, 2))])
def test_the_share_is_that_of_the_neighbours_of_scikit_learn(a, b, neighbours):
    given = samples(a=a, b=b, shift=0.7)
    assert two_sample_test(*given, neighbours=neighbours).share == pytest.approx(share_by_hand(*given, neighbours), abs=1e-12)


def test_a_small_case_has_the_distribution_of_all_permutations():
    one, of_one, other, of_other = samples(3, a=(3, 2), b=(3, 3), shift=1.5)
    features, labels = np.concatenate([one, other]), np.concatenate([of_one, of_other])
    chosen = [[np.array(places) for places in combinations(np.flatnonzero(labels == label), size)] for label, size in ((0, 3), (1, 2))]
    shares = []
    for places in product(*chosen):
        first = np.isin(np.arange(len(labels)), np.concatenate(places))
        shares.append(share_by_hand(features[first], labels[first], features[~first], labels[~first], 2))
    assert len(shares) == 20 * 10
    found = two_sample_test(one, of_one, other, of_other, neighbours=2, permutations=40_000)
    assert found.expected == pytest.approx(np.mean(shares), abs=1e-12)
    assert found.z == pytest.approx((found.share - np.mean(shares)) / np.std(shares), rel=0.02)
    exact = np.mean(np.array(shares) >= found.share - 1e-9)
    assert abs(found.p_value - exact) < 4 * np.sqrt(exact * (1 - exact) / 40_000) + 1 / 40_001


def test_p_values_of_one_population_are_uniform():
    """Never more frequent than their size, and hardly less: the share has few values."""
    p = np.array([two_sample_test(*samples(seed, a=(12, 8), b=(9, 14)), permutations=199).p_value for seed in range(400)])
    for size in (0.02, 0.05, 0.1, 0.25, 0.5, 0.75):
        error = 3 * np.sqrt(size * (1 - size) / len(p))
        assert size - 0.06 - error < np.mean(p <= size) < size + error


def test_a_shift_is_found_and_the_more_the_larger():
    z = [two_sample_test(*samples(shift=shift)).z for shift in (0.0, 0.5, 1.0, 2.0)]
    assert z == sorted(z)
    found = two_sample_test(*samples(shift=1.0))
    assert found.p_value == 0.001
    assert found.share > 0.6 > found.expected


def test_different_class_frequencies_alone_are_no_difference():
    """Without the restriction to classes they would be: the classes are apart."""
    for seed in range(5):
        one, of_one, other, of_other = samples(seed, a=(30, 4), b=(4, 30))
        assert two_sample_test(one, of_one, other, of_other).p_value > 0.01
        assert two_sample_test(one, 0 * of_one, other, 0 * of_other).p_value == 0.001


def test_order_unit_and_origin_do_not_matter(rng):
    one, of_one, other, of_other = samples(shift=0.6)
    found = two_sample_test(one, of_one, other, of_other)
    order, reverse = rng.permutation(len(one)), slice(None, None, -1)
    unit = 10.0 ** rng.integers(-150, 150, one.shape[1])
    again = two_sample_test((one * unit)[order], of_one[order], (other * unit)[reverse], of_other[reverse])
    moved = two_sample_test(one + 50, of_one + 7, other + 50, of_other + 7)
    exchanged = two_sample_test(other, of_other, one, of_one)
    for each in (again, moved, exchanged):
        assert (each.share, each.expected) == pytest.approx((found.share, found.expected), abs=1e-12)
        assert each.z == pytest.approx(found.z, rel=0.15)
    assert found == two_sample_test(one, of_one, other, of_other)


def test_the_order_of_features_and_reflections_do_not_matter(rng):
    """Rotations that keep unit variances."""
    one, of_one, other, of_other = samples(shift=0.6)
    columns, signs = rng.permutation(one.shape[1]), rng.choice([-1.0, 1.0], one.shape[1])
    turned = two_sample_test(one[:, columns] * signs, of_one, other[:, columns] * signs, of_other)
    assert turned.share == pytest.approx(two_sample_test(one, of_one, other, of_other).share, abs=1e-12)


def test_constant_features_are_ignored(rng):
    one, of_one, other, of_other = samples(shift=0.6)
    noise = [np.float32(1e4) * (1 + 1e-7 * rng.normal(size=(len(x), 1))) for x in (one, other)]
    noise[1] += 1e-4  # as rounding in float32
    wider = [np.concatenate([x, np.full((len(x), 2), 0.3), each], axis=1) for x, each in zip((one, other), noise, strict=True)]
    assert two_sample_test(wider[0], of_one, wider[1], of_other) == two_sample_test(one, of_one, other, of_other)


def test_images_that_are_all_alike_do_not_differ():
    labels = np.repeat([0, 1], 8)
    found = two_sample_test(np.ones((16, 3)), labels, np.ones((16, 3)), labels)
    assert (found.z, found.p_value) == (0.0, 1.0)
    assert found.share == pytest.approx(found.expected) == pytest.approx(7 / 15)


def test_neighbours_at_equal_distance_share_the_last_places():
    """On a line at 0 1 | 2: the middle has two at distance 1, of which one place is half of the own sample."""
    found = two_sample_test(np.array([[0.0], [1.0]]), np.zeros(2, int), np.array([[2.0]]), np.zeros(1, int), neighbours=1)
    assert found.share == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_class_of_one_sample_alone_is_ignored():
    one, of_one, other, of_other = samples(shift=0.6)
    found = two_sample_test(one, of_one, other, of_other)
    more, of_more = np.concatenate([one, one + 1e3]), np.concatenate([of_one, of_one + 5])
    assert two_sample_test(more, of_more, other, of_other) == found
    assert two_sample_test(one, of_one, other, of_other + 5) is None
    assert two_sample_test(one[:0], of_one[:0], other, of_other) is None


def test_one_image_of_each_sample_says_nothing():
    found = two_sample_test(np.array([[0.0], [5.0]]), np.array([0, 1]), np.array([[1.0], [9.0]]), np.array([0, 1]))
    assert (found.share, found.expected, found.z, found.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("name", ["neighbours", "permutations"])
def test_counts_are_checked(name):
    with pytest.raises(ConfigError, match=rf"{name}=0 must be a whole number from 1\."):
        two_sample_test(*samples(), **{name: 0})


def test_the_seed_is_checked():
    with pytest.raises(ConfigError, match=r"seed=-1 must be a whole number from 0\."):
        two_sample_test(*samples(), seed=-1)


def test_arrays_are_checked():
    one, of_one, other, of_other = samples()
    with pytest.raises(
        TaskError, match=r"features_b has shape \(30, 6\) and labels_b \(29,\); they must be \(n, d\) and \(n,\), one row per image\."
    ):
        two_sample_test(one, of_one, other, of_other[1:])
    with pytest.raises(TaskError, match=r"features_a has shape \(30,\)"):
        two_sample_test(one[:, 0], of_one, other, of_other)
    with pytest.raises(TaskError, match=r"features_a has NaN or infinity\. Usual causes: half precision"):
        two_sample_test(np.where(one == one[2, 3], np.nan, one), of_one, other, of_other)
    with pytest.raises(TaskError, match=r"The samples have 6 and 5 features; they must have the same\. Try: features of one expert"):
        two_sample_test(one, of_one, other[:, 1:], of_other)


def task(seed=0, *, each=20, tests=(25, 25, 25), change=lambda images: images):
    """Grey images of noise around a pattern per class, split at random; `change` is applied to the test images."""
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(60, 190, (3, 4, 4))

    def drawn(labels):
        return np.clip(patterns[labels] + 25 * rng.normal(size=(len(labels), 4, 4)), 0, 255).astype(np.uint8)

    labels, test_labels = np.repeat(np.arange(3), each), np.repeat(np.arange(3), tests)
    return Task("scenes", drawn(labels), labels, tuple("abc"), change(drawn(test_labels)), test_labels)


def brighter(images):
    return (images // 2 + 100).astype(np.uint8)


def pixels(sample):
    return np.stack([np.asarray(image, np.float64).ravel() for image in sample.images])


def remarks(task, features_of=pixels, **options):
    return remarks_on_test_images(task, probe_sample(task), features_of, **options)


def test_the_remark_is_one_sentence_with_the_shares():
    (remark,) = remarks(task(change=brighter))
    assert remark.startswith("The test images differ from the training images (of the 3 nearest images of the same class ")
    assert remark.endswith(" % would be expected of one population; p = 0.001): accuracies on the test set may be lower than forecast.")
    assert len(f"Note: {remark}") <= 300


def test_no_remark_where_the_split_is_random_or_there_is_no_test_set():
    assert [found for seed in range(20) for found in remarks(task(seed), seed=seed)] == []
    with_tests = task(change=brighter)
    assert remarks(replace(with_tests, test_images=None, test_labels=None)) == []
    assert remarks(replace(with_tests, test_images=with_tests.test_images[:0], test_labels=with_tests.test_labels[:0])) == []


def test_no_remark_by_an_expert_without_features():
    assert remarks(task(change=brighter), lambda _: None) == []


def test_at_most_as_many_test_images_of_a_class_as_the_probe_sample_has():
    seen = []

    def features_of(sample):
        seen.append(np.bincount(sample.labels).tolist())
        return pixels(sample)

    few = task(each=10, tests=(25, 4, 12))
    remarks(few, features_of)
    assert seen == [[10, 10, 10], [10, 4, 10]]
    images = few.test_images.copy()
    images[25:29] = images[25]  # copies
    remarks(replace(few, test_images=images), features_of)
    assert seen[-1] == [10, 1, 10]


def test_a_class_without_test_or_training_images_is_no_obstacle():
    there = task(tests=(25, 0, 25), change=brighter)
    assert len(remarks(there)) == 1
    kept = there.labels != 0
    alone = replace(there, images=there.images[kept], labels=there.labels[kept])
    assert len(remarks(alone)) == 1
    of_others = there.test_labels == 0
    assert remarks(replace(alone, test_images=there.test_images[of_others], test_labels=there.test_labels[of_others])) == []


class Damaged(Sequence):
    """Images of which none can be decoded."""

    def __len__(self):
        return 75

    def __getitem__(self, position):
        raise OSError(f"image {position} is truncated")


def test_a_failure_is_a_sentence():
    (remark,) = remarks(replace(task(), test_images=Damaged()))
    assert remark.startswith("The test images could not be compared with the training images: ")
    assert "is truncated" in remark

    def broken(sample):
        raise ZeroDivisionError("of an expert")

    (remark,) = remarks(task(), broken)
    assert remark == "The test images could not be compared with the training images: ZeroDivisionError: of an expert"
