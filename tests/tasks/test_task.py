"""Tasks are validated on construction; probe samples are balanced, seeded and lazy."""

from collections.abc import Sequence

import numpy as np
import pytest

from ntk_select import Task, further_sample, probe_sample
from ntk_select.errors import TaskError

NAMES = ("cat", "dog", "emu")


class Counting(Sequence):
    """Images that record which of them were accessed."""

    def __init__(self, images):
        self.images, self.asked = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.images[index]


def pictures(n, shape=(2, 2, 3)):
    """n images, the i-th full of the number i."""
    return np.concatenate([np.zeros((0, *shape), np.uint8), *(np.full((1, *shape), i % 256, np.uint8) for i in range(n))])


def task_with(labels, names=NAMES, **options):
    return Task("t", pictures(len(labels)), np.asarray(labels), names, **options)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1), (2, 2, 3)])
def test_an_array_of_grey_or_colour_images_is_a_task(shape):
    task = Task("t", pictures(3, shape), [0, 1, 2], NAMES)
    assert (len(task.images), task.num_classes, task.labels.dtype) == (3, 3, np.int32)
    assert repr(task) == "Task('t', train=3, test=0, classes=3)"


def test_images_of_different_sizes_are_a_task():
    images = [np.zeros((2, 5, 3), np.uint8), np.zeros((7, 3), np.uint8)]
    assert len(Task("t", images, [0, 1], NAMES).images) == 2


def test_labels_cannot_be_changed_afterwards_and_the_given_array_stays_writable():
    given = np.array([0, 1])
    task = task_with(given)
    with pytest.raises(ValueError, match="read-only"):
        task.labels[0] = 1
    given[0] = 1
    assert task.labels[0] == 0


def test_class_names_become_text_and_one_text_is_not_several_names():
    assert task_with([0, 1], names=[7, "dog"]).class_names == ("7", "dog")
    with pytest.raises(TaskError, match=r"class_names is the string 'cd'; expected one name per class, as in \('cat', 'dog'\)"):
        task_with([0, 1], names="cd")


def test_making_a_task_decodes_nothing():
    images = Counting(pictures(4))
    Task("t", images, [0, 0, 1, 1], NAMES, images, [0, 0, 1, 1])
    assert images.asked == []


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (pictures(2).astype(np.float32), [0, 1], {}, r"float32; they must be uint8.*\* 255"),
        (pictures(2)[0, 0], [0, 1], {}, r"shape \(2, 3\); allowed are \(n, h, w\)"),
        (pictures(2, (2, 2, 4)), [0, 1], {}, r"shape \(2, 2, 2, 4\); allowed are"),
        (pictures(2, (2, 0, 3)), [0, 1], {}, "no pixels"),
        (pictures(2), [0, 1, 1], {}, r"labels has shape \(3,\) for 2 images; it must be \(2,\)"),
        (pictures(2), [[0], [1]], {}, r"labels has shape \(2, 1\) for 2 images"),
        (pictures(2), [0.0, 1.0], {}, "labels is float64; class ids must be integers 0 .. 2"),
        (pictures(2), [False, True], {}, "labels is bool"),
        (pictures(2), [0, 3], {}, "labels contains 3, but there are 3 class names.*return_inverse"),
        (pictures(2), [-1, 0], {}, "labels contains -1"),
        (pictures(0), [], {}, "no training images"),
        (pictures(2), [1, 1], {}, r"one class only \('dog'\)"),
        (pictures(2), [0, 1], {"test_images": pictures(2)}, "only one of test_images and test_labels"),
        (pictures(2), [0, 1], {"test_labels": [0, 1]}, "only one of test_images and test_labels"),
        (pictures(2), [0, 1], {"test_images": pictures(1), "test_labels": [0, 1]}, r"test_labels has shape \(2,\) for 1 images"),
        (pictures(2), [0, 1], {"test_images": pictures(1), "test_labels": [3]}, r"test_labels contains 3, .*try: np.unique\(test_labels, "),
        (pictures(2), [0, 1], {"test_images": pictures(2), "test_labels": np.eye(2)}, r"test_labels has shape .*try: test_labels.argmax\(1\)"),
        (pictures(2), [0, 1], {"test_images": pictures(1) / 255, "test_labels": [0]}, r"test_images are float64; .*try: \(test_images \* 255\)"),
    ],
)
def test_what_makes_no_task_is_refused(images, labels, options, message):
    with pytest.raises(TaskError, match=message):
        Task("t", images, labels, NAMES, **options)


def test_an_empty_test_set_is_allowed():
    assert len(task_with([0, 1], test_images=pictures(0), test_labels=[]).test_labels) == 0


LABELS = np.repeat([0, 1, 2], [30, 4, 9])


@pytest.mark.parametrize(("per_class", "counts"), [(1, [1, 1, 1]), (4, [4, 4, 4]), (7, [7, 4, 7]), (100, [30, 4, 9])])
def test_the_sample_holds_per_class_images_of_each_class_or_all_there_are(per_class, counts):
    sample = probe_sample(task_with(LABELS), per_class=per_class)
    assert np.bincount(sample.labels).tolist() == counts
    assert len(set(sample.indices.tolist())) == len(sample) == sum(counts)


def test_images_and_labels_belong_together():
    order = np.random.default_rng(0).permutation(len(LABELS))
    sample = probe_sample(task_with(LABELS[order]), per_class=5)
    np.testing.assert_array_equal(sample.labels, LABELS[order][sample.indices])
    np.testing.assert_array_equal([image[0, 0, 0] for image in sample.images], sample.indices)


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    first, again, other = (probe_sample(task_with(LABELS), per_class=5, seed=seed).indices for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_the_draw_of_a_class_does_not_depend_on_the_other_classes():
    labels = np.random.default_rng(1).integers(0, 3, 60)
    sample = probe_sample(task_with(labels), per_class=5, seed=2)
    kept = labels == 1
    elsewhere = np.where(kept, 1, np.random.default_rng(2).choice([0, 2], 60))
    other = probe_sample(task_with(elsewhere), per_class=5, seed=2)
    assert set(sample.indices[sample.labels == 1]) == set(other.indices[other.labels == 1])
    assert set(sample.indices[sample.labels == 0]) != set(other.indices[other.labels == 0])


def test_classes_with_the_same_number_of_images_are_drawn_differently():
    labels = np.tile([0, 1], 30)
    sample = probe_sample(task_with(labels), per_class=10)
    assert set(sample.indices[sample.labels == 0] // 2) != set(sample.indices[sample.labels == 1] // 2)


def test_every_image_of_a_class_is_drawn_equally_often():
    task, repeats = task_with(LABELS), 600
    times = np.zeros(len(LABELS))
    for seed in range(repeats):
        times[probe_sample(task, per_class=6, seed=seed).indices] += 1
    for label, share in ((0, 6 / 30), (1, 1.0), (2, 6 / 9)):
        deviation = np.abs(times[label == LABELS] / repeats - share)
        assert deviation.max() <= 4 * np.sqrt(share * (1 - share) / repeats)


def test_absent_classes_are_renumbered_away_and_names_follow():
    sample = probe_sample(task_with([3, 3, 1, 1, 1], names=("cat", "dog", "emu", "fox", "gnu")))
    assert sample.class_names == ("dog", "fox")
    assert sample.labels.tolist() == [0, 0, 0, 1, 1]
    assert sample.labels.dtype == np.int32


def test_only_drawn_training_images_are_decoded():
    train, test = Counting(pictures(len(LABELS))), Counting(pictures(3))
    sample = probe_sample(Task("t", train, LABELS, NAMES, test, [0, 1, 2]), per_class=2)
    assert train.asked == []
    for image, index in zip(sample.images, sample.indices, strict=True):
        np.testing.assert_array_equal(image, train.images[index])
    assert train.asked == sample.indices.tolist()
    assert test.asked == []


@pytest.mark.parametrize("per_class", [0, -3])
def test_less_than_one_image_per_class_is_refused(per_class):
    with pytest.raises(TaskError, match=f"per_class={per_class} must be an integer of at least 1"):
        probe_sample(task_with(LABELS), per_class=per_class)


def test_a_negative_seed_is_refused_in_words():
    with pytest.raises(TaskError, match="seed"):
        probe_sample(task_with(LABELS), seed=-1)


def test_a_further_sample_is_of_other_images_and_keeps_the_numbering_of_the_classes():
    labels = np.repeat([0, 2, 3], 8)
    images = np.arange(24, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    task = Task("t", images, labels, ("a", "absent", "c", "d"), test_images=images[:5], test_labels=np.array([3, 1, 0, 2, 2]))
    sample = probe_sample(task, per_class=3)
    more = further_sample(task, sample, most=100, seed=[0, 2])
    assert set(more.indices) == set(range(24)) - set(sample.indices)
    assert [sample.class_names[label] for label in more.labels] == [task.class_names[label] for label in labels[more.indices]]
    assert [int(image[0, 0]) for image in more.images] == more.indices.tolist()
    tested = further_sample(task, sample, most=100, seed=[0, 1], test=True)
    assert tested.indices.tolist() == [0, 2, 3, 4]  # class 1 has no training image
    assert tested.labels.tolist() == [2, 0, 1, 1]
    few = [further_sample(task, sample, most=4, seed=[seed, 2]).indices.tolist() for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert len(few[0]) == 4
    assert len(further_sample(task, probe_sample(task, per_class=8), most=9, seed=[0])) == 0


def test_whether_flips_keep_the_class_is_yes_no_or_not_known():
    images, labels = np.zeros((2, 4, 4), np.uint8), np.array([0, 1])
    for known in (True, False, None):
        assert Task("t", images, labels, ("a", "b"), flips_keep_class=known).flips_keep_class is known
    for wrong in ("no", 0, np.array([True])):
        with pytest.raises(TaskError, match="flips_keep_class=.* must be True, False, or None if unknown"):
            Task("t", images, labels, ("a", "b"), flips_keep_class=wrong)


SEVERAL = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]], bool)


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (np.eye(3, dtype=int)[[0, 1, 2, 0]], r"For one-hot labels, try: labels.argmax\(1\)$"),
        (
            np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]),
            r"multi-label\): 2 of 4 images have several of the 3 classes, 1 have none\..*labels == 1\).sum\(1\) == 1",
        ),
        (
            np.array([[True, True], [False, True], [True, False], [True, False]]),
            "multi-label.*1 of 4 images have several of the 2 classes, 0 have none",
        ),
        (np.array([[1.0, 0, -1], [0, 0, 1], [1, 1, 1], [0, np.nan, 0]]), "multi-label.* with missing values"),
        (
            np.where(SEVERAL, 0.95, 0.05),
            r"multi-label\): 2 of 4 .*if 0.95 is yes and 0.05 no\..*\(labels > 0.5\).sum\(1\) == 1, .*\(labels\[:, 0\] > 0.5\)",
        ),
        (
            (SEVERAL * 255).astype(np.uint8),
            r"multi-label\): 2 of 4 images have several of the 3 classes, 1 have none, if 255 is yes.*\(labels > 127.5\)",
        ),
        (np.where(SEVERAL, 2, 1), r"multi-label\): 2 of 4 .*if 2 is yes and 1 no\..*\(labels > 1.5\)"),
        (np.where(SEVERAL, 1, -1), r"multi-label\): 2 of 4 .*1 have none\..*\(labels == 1\).sum\(1\) == 1"),
        (np.where(SEVERAL, 1.0, np.nan), "multi-label.* with missing values"),
        (
            np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.0], [0.5, 0.9, 0.4], [0.1, 0.2, 1]]),
            r"do not sum to 1: .*multi-label\).*\(labels > 0.5\).sum\(1\) == 1",
        ),
        (np.eye(3)[[0, 1, 2, 0]] * 255, r"For one-hot labels, try: labels.argmax\(1\)$"),
        (np.eye(3)[[0, 1, 2, 0]] * 0.85 + 0.05, r"For one-hot labels, try: labels.argmax\(1\)$"),
        (np.array([[70.0, 30.0], [10, 90], [50, 50], [100, 0]]), "soft labels.*for the most probable class"),
        (
            ["Effusion|Mass", "No Finding", "Mass", "Mass"],
            r"1 of 4 strings contain '\|', as in 'Effusion\|Mass'\. .*multi-label\)\..*is part of a name, try: np.unique",
        ),
        (["a; b", "b", "a", "c; a"], "2 of 4 strings contain ';', as in 'a; b'.*multi-label"),
        ([b"a,b", b"b", b"a", b"a"], "1 of 4 strings contain ',', as in 'a,b'.*multi-label"),
        (np.array(["a|b", "b", "a", "a"], object), r"1 of 4 strings contain '\|'.*multi-label"),
        (np.array([[0.7, 0.3], [0.1, 0.9], [0.5, 0.5], [1, 0]]), "soft labels.*for the most probable class"),
        (np.array([[3, 17], [4, 18], [3, 19], [4, 18]]), r"2 numbers per image.*choose a column, as in labels\[:, 0\]"),
        (np.array([[0.2, 3.0], [1, 2], [3, 4], [2, 2]]), "2 scores per image"),
        (np.array([[0], [1], [0], [1]]), r"Try: labels\[:, 0\]"),
        (np.zeros((4, 2, 2), int), "A task has one class per image"),
        ([[0, 1], [2], [0], [1]], "several classes per image .multi-label."),
        (np.array([[0, 1], [2], [0], [1]], object), "several classes per image .multi-label."),
        (["cat", "dog", "cat", "dog"], r"For names, try: np.unique\(labels, return_inverse=True\)"),
        ([0.0, 1.0, 0.0, 1.0], r"labels.astype\(int\)"),
    ],
)
def test_labels_of_other_kinds_are_called_what_they_are(labels, hint):
    with pytest.raises(TaskError, match=hint) as caught:
        Task("t", pictures(4), labels, NAMES)
    assert ("argmax" in str(caught.value)) == any(word in hint for word in ("one-hot", "soft", "scores"))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_images_of_more_bits_are_refused_with_their_conversion(dtype):
    images = (pictures(3, (2, 2)).astype(dtype) * 2000).astype(dtype)
    with pytest.raises(TaskError, match=r"must be uint8 \(0 to 255\). Its values run up to 4000; if they have 12 bits.*images / 4095 \* 255"):
        Task("t", images, [0, 1, 2], NAMES)


SIZES = [30, 4, 9, 2, 1]
MANY = np.random.default_rng(3).permutation(np.repeat(np.arange(5), SIZES))


@pytest.mark.parametrize(("share", "tested"), [(0.2, [6, 1, 2, 1, 0]), (0.5, [15, 2, 4, 1, 0]), (0.99, [29, 3, 8, 1, 0]), (0.01, [1, 1, 1, 1, 0])])
def test_a_test_split_takes_a_share_of_each_class_and_leaves_one(share, tested):
    task = task_with(MANY, names=tuple("abcde"), licence="free", details={"warnings": ["odd"], "more": 1}).with_test_split(share)
    assert np.bincount(task.test_labels, minlength=5).tolist() == tested
    assert np.bincount(task.labels).tolist() == [size - n for size, n in zip(SIZES, tested, strict=True)]
    train, test = ([int(image[0, 0, 0]) for image in images] for images in (task.images, task.test_images))
    assert sorted(train + test) == list(range(46))
    assert (train, test) == (sorted(train), sorted(test))
    np.testing.assert_array_equal(MANY[train], task.labels)
    np.testing.assert_array_equal(MANY[test], task.test_labels)
    assert (task.licence, task.details["more"], task.details["warnings"]) == ("free", 1, ["odd", task.details["test_split"]])
    assert (
        f"{sum(tested)} of 46 images, {100 * share:g} % of each class (seed 0), are held out for testing. Classes with one image (1) are"
        in task.details["warnings"][1]
    )


def test_a_test_split_depends_on_the_seed_and_decodes_nothing():
    images = Counting(pictures(len(MANY)))
    task = Task("t", images, MANY, tuple("abcde"))
    splits = [[int(image[0, 0, 0]) for image in task.with_test_split(0.3, seed).test_images] for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    images.asked.clear()
    split = task.with_test_split()
    assert images.asked == []
    assert task.test_images is None
    assert len(split.test_images) == 10


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (MANY, {"share": 0.0}, r"share=0.0 must be above 0 and below 1"),
        (MANY, {"share": 1}, "share=1"),
        (MANY, {"share": True}, "share=True"),
        (MANY, {"share": float("nan")}, "share=nan"),
        (MANY, {"seed": -1}, "seed=-1 must be an integer"),
        (MANY, {"seed": 2**32}, "seed=4294967296"),
        (MANY, {"seed": 0.5}, "seed=0.5"),
        ([0, 1, 2], {}, "no class has two images, so none can be held out for testing"),
    ],
)
def test_a_test_split_that_cannot_be_is_refused(labels, arguments, message):
    with pytest.raises(TaskError, match=message):
        task_with(labels, names=tuple("abcde")).with_test_split(**arguments)


def test_a_task_with_a_test_set_is_not_split_again():
    with pytest.raises(TaskError, match="has a test set of 2 images. Try: without with_test_split"):
        task_with([0, 0, 1], test_images=pictures(2), test_labels=[0, 1]).with_test_split()
    assert len(task_with([0, 0, 1], test_images=pictures(0), test_labels=[]).with_test_split().test_images) == 1
