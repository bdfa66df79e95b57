"""The digits are scikit-learn's, split once and for all."""

import sys

import numpy as np
import pytest
from ntk_select.data import load_task

from ntk_select.errors import MissingDependencyError, TaskError
from ntk_select.tasks.task import stratified_train


def test_train_and_test_together_are_all_of_scikit_learns_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    task = load_task("digits")
    assert (task.images.shape, task.test_images.shape, task.class_names) == ((1000, 8, 8), (797, 8, 8), tuple("0123456789"))
    assert (task.images.dtype, task.images.min(), task.images.max()) == (np.uint8, 0, 255)
    images, labels = np.concatenate([task.images, task.test_images]), np.concatenate([task.labels, task.test_labels])
    np.testing.assert_array_equal(np.sort(labels), np.sort(bunch.target))
    back = np.round(images * (16 / 255))  # 17 grey values survive the way there and back
    both = {(image.tobytes(), label) for image, label in zip(back, labels, strict=True)}
    assert both == {(image.tobytes(), label) for image, label in zip(bunch.images, bunch.target, strict=True)}


def test_the_split_takes_the_same_share_of_every_class():
    labels = np.random.default_rng(1).integers(0, 10, 1797)
    train = stratified_train(labels, 1000)
    assert train.sum() == 1000
    share = np.bincount(labels[train]) - np.bincount(labels) * 1000 / 1797
    assert np.abs(share).max() <= 1


def test_the_split_is_the_first_part_of_a_permutation_of_every_class():
    train = stratified_train(np.repeat(np.arange(3), 100), 150).reshape(3, 100)
    rng = np.random.RandomState(0)
    for of_class in train:
        np.testing.assert_array_equal(np.flatnonzero(of_class), np.sort(rng.permutation(100)[:50]))


def test_nothing_follows_the_name():
    with pytest.raises(TaskError, match=r"'digits:8': nothing follows this name. Type: digits."):
        load_task("digits:8")


def test_without_scikit_learn_it_is_said_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=r"digits needs the package scikit-learn.*pip install scikit-learn"):
        load_task("digits")


def test_the_mirror_image_of_a_digit_is_none_of_its_class():
    assert load_task("digits").flips_keep_class is False
