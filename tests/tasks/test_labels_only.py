"""A task of labels alone samples the images that a task with images would, and has none to show."""

import numpy as np
import pytest

from ntk_select import Task, probe_sample
from ntk_select.errors import DataError, TaskError
from ntk_select.tasks.labels_only import NO_COPIES, NoImages, has_images, labels_only_task

LABELS = np.random.default_rng(0).integers(0, 3, 40)


def test_the_probe_sample_is_that_of_a_task_with_images():
    bare, whole = labels_only_task("a", LABELS, "xyz"), Task("a", np.zeros((40, 2, 2), np.uint8), LABELS, tuple("xyz"))
    assert (has_images(bare), has_images(whole)) == (False, True)
    assert bare.details["warnings"] == [NO_COPIES]
    for seed in range(3):
        samples = [probe_sample(task, per_class=5, seed=seed) for task in (bare, whole)]
        np.testing.assert_array_equal(samples[0].indices, samples[1].indices)
        np.testing.assert_array_equal(samples[0].labels, samples[1].labels)


def test_there_is_no_image():
    task = labels_only_task("a", LABELS, "xyz")
    with pytest.raises(DataError, match=r"labels without images\. Try: a task with its images, as in rank\(experts, task\) \(--task\)"):
        task.images[0]
    with pytest.raises(IndexError):
        NoImages(3)[3]


def test_one_class_is_no_task():
    with pytest.raises(TaskError, match="one class only"):
        labels_only_task("a", np.zeros(3, int), ("x",))
