"""The digits are those of scikit-learn, with a fixed split; IDX files are read as specified, and damaged ones are refused."""

import contextlib
import gzip
import struct
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ntk_select.data import builtin, load_task
from ntk_select.data.builtin import read_idx
from ntk_select.errors import DataError, MissingDependencyError, TaskError
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
    with pytest.raises(TaskError, match=r"'digits:8': this name takes no argument. Try: digits, "):
        load_task("digits:8")


def test_without_scikit_learn_it_is_said_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=r"digits needs the package scikit-learn.*pip install scikit-learn"):
        load_task("digits")


def test_the_mirror_image_of_a_digit_is_none_of_its_class():
    assert load_task("digits").flips_keep_class is False


IMAGES, LABELS = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4), np.array([9, 0, 9], np.uint8)


@pytest.fixture
def idx_bytes():
    """By hand, from the format's description."""
    return lambda array, kind=8: struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path, idx_bytes):
    for name, array in (("train-images-idx3", IMAGES), ("train-labels-idx1", LABELS), ("t10k-images-idx3", IMAGES[:2])):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:2]))
    return tmp_path


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_values_are_those_that_were_packed_whatever_the_name(tmp_path, idx_bytes, pack):
    (tmp_path / "x").write_bytes(pack(idx_bytes(IMAGES)))
    np.testing.assert_array_equal(read_idx(tmp_path / "x", ndim=3), IMAGES)


def test_another_magic_number_of_dimensions_or_type_is_refused(tmp_path, idx_bytes):
    for data in (b"", b"hello world 1234", idx_bytes(LABELS), idx_bytes(IMAGES, kind=13), idx_bytes(IMAGES)[:10]):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(DataError, match=r"x: not an IDX file of unsigned bytes with 3 dimensions.*'00 00 08 03'"):
            read_idx(tmp_path / "x", ndim=3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_too_few_and_too_many_values_are_refused(tmp_path, idx_bytes, pack):
    (tmp_path / "x").write_bytes(pack(idx_bytes(IMAGES)[:-1]))
    with pytest.raises(DataError, match=r"declares 24 values, it has 23"):
        read_idx(tmp_path / "x", ndim=3)
    (tmp_path / "x").write_bytes(pack(idx_bytes(IMAGES) + b"!"))
    with pytest.raises(DataError, match=r"declares 24 values, it has more"):
        read_idx(tmp_path / "x", ndim=3)


def test_a_header_that_promises_too_much_is_refused_before_reading(tmp_path, monkeypatch, idx_bytes):
    (tmp_path / "x").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2))
    with pytest.raises(DataError, match=r"declares .* values; allowed are 1,073,741,824"):
        read_idx(tmp_path / "x", ndim=3)
    monkeypatch.setattr(builtin, "MAX_BYTES", 24)
    (tmp_path / "x").write_bytes(idx_bytes(IMAGES))
    assert read_idx(tmp_path / "x", ndim=3).shape == IMAGES.shape


def test_truncated_and_garbage_gzip_are_refused(tmp_path, idx_bytes):
    whole = gzip.compress(idx_bytes(IMAGES))
    for data in (whole[:-12], b"\x1f\x8bgarbage", whole[:10] + b"\xff" * 20, b"\x1f\x8b"):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(DataError, match=r"x: cannot be read.*Try: download it again"):
            read_idx(tmp_path / "x", ndim=3)


@hypothesis.given(data=st.binary(max_size=60), zipped=st.booleans())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_an_array_or_a_data_error(tmp_path, data, zipped):
    data = b"\0\0\x08\x01\0\0\0" + data
    (tmp_path / "x").write_bytes(gzip.compress(data) if zipped else data)
    with contextlib.suppress(DataError):
        assert read_idx(tmp_path / "x", ndim=1).tobytes() == data[8:]


def test_fashion_mnist_is_read_from_the_folder_that_is_named(fashion):
    task = load_task(f"fashion_mnist:{fashion}")
    assert (task.name, task.licence, task.class_names[9]) == ("fashion_mnist", "MIT", "Ankle boot")
    for got, expected in ((task.images, IMAGES), (task.labels, LABELS), (task.test_images, IMAGES[:2]), (task.test_labels, LABELS[:2])):
        np.testing.assert_array_equal(got, expected)


def test_fashion_mnist_is_found_where_debian_puts_it_or_says_how_to_get_it(fashion, monkeypatch):
    monkeypatch.setattr(builtin, "DEBIAN_FOLDER", fashion)
    assert len(load_task("fashion_mnist").labels) == 3
    (fashion / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte or t10k.*apt install dataset-fashion-mnist.*fashion_mnist:DIR"):
        load_task("fashion_mnist")


def test_images_and_labels_of_different_numbers_are_refused(fashion, idx_bytes):
    (fashion / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS))
    with pytest.raises(DataError, match=r"t10k-images.* has 2 images, t10k-labels.* has 3 labels"):
        load_task(f"fashion_mnist:{fashion}")


def test_labels_above_nine_are_refused(fashion, idx_bytes):
    (fashion / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:2] + 1))
    with pytest.raises(TaskError, match=r"contains 10, but there are 10 class names"):
        load_task(f"fashion_mnist:{fashion}")


def test_what_lies_in_the_place_of_the_file_is_named(tmp_path):
    for content, what in (
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer, .*git lfs pull"),
        (b"<html>", "a web page, .*Try: download"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match=rf"x is {what}"):
            read_idx(tmp_path / "x", ndim=3)
