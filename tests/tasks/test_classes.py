"""A part of the classes of a task has their images and no others, with labels in the order of the classes."""

from dataclasses import replace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.tasks.classes import of_classes


@pytest.fixture
def task(rng):
    """Twelve images of three classes, six of them as a test set."""
    images, labels = rng.integers(0, 255, (12, 4, 4), np.uint8), np.arange(12) % 3
    return ns.Task("letters", images, labels, ("Greek_a", "Latin_a", "Greek_b"), images[:6], labels[:6])


def test_a_part_of_the_classes_is_a_task_of_its_own(task):
    part = of_classes(task, ("Greek_*",))
    assert part.class_names == ("Greek_a", "Greek_b")
    kept = np.flatnonzero(task.labels != 1)
    np.testing.assert_array_equal(part.labels, np.where(task.labels[kept] == 2, 1, 0))
    np.testing.assert_array_equal(np.stack(list(part.images)), task.images[kept])
    np.testing.assert_array_equal(np.stack(list(part.test_images)), task.images[[0, 2, 3, 5]])
    np.testing.assert_array_equal(part.test_labels, [0, 1, 0, 1])


def test_several_patterns_are_one_part_in_the_order_of_the_classes(task):
    assert of_classes(task, ("Latin_*", "*_b")).class_names == ("Latin_a", "Greek_b")


def test_a_task_without_a_test_set_has_parts_as_well(task):
    part = of_classes(replace(task, test_images=None, test_labels=None), ("Greek_*",))
    assert (part.test_images, part.test_labels) == (None, None)


def test_patterns_that_fit_no_class_are_refused(task):
    with pytest.raises(ConfigError, match=r"classes = \['Runes_\*'\] matches no class of 'letters': Greek_a, Latin_a, Greek_b"):
        of_classes(task, ("Runes_*",))


def test_every_image_keeps_its_class_and_patterns_distinguish_capitals(task):
    """By a loop over the images: each is that of the whole task with the same class name."""
    part = of_classes(task, ("Latin_a", "Greek_[b-z]"))
    wanted = [(image, task.class_names[label]) for image, label in zip(task.images, task.labels, strict=True) if label != 0]
    found = [(image, part.class_names[label]) for image, label in zip(part.images, part.labels, strict=True)]
    assert [name for _, name in found] == [name for _, name in wanted]
    for (image, _), (expected, _) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(image, expected)
    with pytest.raises(ConfigError, match="matches no class"):
        of_classes(task, ("greek_*",))


def test_all_classes_are_the_whole_task(task):
    whole = of_classes(task, ("*",))
    assert whole.class_names == task.class_names
    np.testing.assert_array_equal(whole.labels, task.labels)
    np.testing.assert_array_equal(np.stack(list(whole.images)), task.images)
