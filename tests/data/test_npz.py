"""Arrays in a .npz file become a task, or an error message names the wrong array and its fix."""

import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ntk_select.data import load_task
from ntk_select.data import npz as npz_module
from ntk_select.errors import DataError, NtkSelectError, TaskError

IMAGES, LABELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3), np.array([0, 1, 2, 0, 1])


@pytest.fixture
def npz(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return load_task(tmp_path / "a.npz")

    return save


@pytest.mark.parametrize(
    "keys",
    [
        ("images", "labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("x_train", "y_train", "x_val", "y_val"),
    ],
)
def test_every_spelling_gives_the_arrays_that_were_saved(npz, keys):
    task = npz(**dict(zip(keys, (IMAGES, LABELS, IMAGES[:2], LABELS[:2]), strict=True)))
    assert (task.name, task.class_names) == ("a", ("0", "1", "2"))
    for got, expected in ((task.images, IMAGES), (task.labels, LABELS), (task.test_images, IMAGES[:2]), (task.test_labels, LABELS[:2])):
        np.testing.assert_array_equal(got, expected)


def test_medmnist_arrays_with_column_labels_and_all_three_splits_are_read(npz):
    column = LABELS[:, None].astype(np.uint8)
    task = npz(train_images=IMAGES, train_labels=column, val_images=IMAGES, val_labels=column, test_images=IMAGES[:2], test_labels=column[:2])
    np.testing.assert_array_equal(task.labels, LABELS)
    assert len(task.test_images) == 2


def test_without_a_test_set_there_is_none(npz):
    assert npz(images=np.stack([IMAGES] * 3, -1), labels=LABELS).test_images is None


def test_labels_are_positions_in_the_class_names(npz):
    task = npz(images=IMAGES, labels=LABELS, class_names=np.array(["ant", "cat", "dog", "eel"]))
    assert task.class_names == ("ant", "cat", "dog", "eel")
    np.testing.assert_array_equal(task.labels, LABELS)


def test_without_names_each_value_that_occurs_is_a_class_named_by_its_number(npz):
    task = npz(images=IMAGES, labels=LABELS * 10 + 3, test_images=IMAGES, test_labels=LABELS * 10 - LABELS + 3)
    assert task.class_names == ("3", "12", "13", "21", "23")
    assert [task.class_names[i] for i in task.labels] == ["3", "13", "23", "3", "13"]
    assert [task.class_names[i] for i in task.test_labels] == ["3", "12", "21", "3", "12"]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"image": IMAGES, "labels": LABELS},
            r"a.npz: has the arrays image, labels; expected images and labels or x_train and y_train or .*np.savez",
        ),
        ({}, r"has the arrays \(none\)"),
        (
            {"images": IMAGES, "labels": LABELS, "test_images": IMAGES},
            "images, labels, test_images; expected both test_images and test_labels, or neither",
        ),
        ({"images": IMAGES / 255, "labels": LABELS}, r"a.npz: array 'images' is float64 \(5, 4, 3\); images are uint8.*\(images \* 255\).round"),
        ({"images": IMAGES.astype(int), "labels": LABELS}, "is int64 .*astype"),
        ({"images": IMAGES.reshape(5, 12), "labels": LABELS}, r"is uint8 \(5, 12\); allowed are \(n, h, w\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "not empty"),
        ({"images": np.zeros((5, 3, 8, 8), np.uint8), "labels": LABELS}, r"channels come first, try: images.transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((5, 8, 8, 4), np.uint8), "labels": LABELS}, r"opacity, try: images\[\.\.\., :3\]"),
        ({"images": IMAGES, "labels": LABELS[:4]}, r"array 'labels' is int64 \(4,\); expected integers \(5,\)"),
        ({"images": IMAGES, "labels": np.eye(3)[LABELS]}, r"array 'labels' is float64 \(5, 3\).*labels.argmax\(1\)"),
        (
            {"images": IMAGES, "labels": np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])},
            r"array 'labels' is int64 \(5, 3\).*multi-label\): 1 of 5 images have several of the 3 classes, 1 have none",
        ),
        ({"images": IMAGES.astype(np.int32) * 60, "labels": LABELS}, r"is int32 .*12 bits, so that 4095 is white, try: \(images / 4095"),
        ({"images": IMAGES.astype(np.uint16) % 20, "labels": LABELS}, r"array 'images': the grey values of images of more than 8 bits reach only 19"),
        (
            {"images": IMAGES.astype(np.uint16) * 60, "labels": LABELS, "test_images": IMAGES.astype(np.uint16) * 1000, "test_labels": LABELS},
            "array 'test_images' has values above 4,095, the largest of 'images'. Try: convert the images to 8 bits",
        ),
        ({"images": IMAGES, "labels": LABELS.astype(str)}, r"np.unique\(labels, return_inverse=True\)"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels run from -1 to 1; allowed are 0 and above"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b"])},
            r"labels run from 0 to 2; allowed are 0 .. 1, indices into class_names",
        ),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.arange(3)}, r"array 'class_names' is int64 \(3,\); expected strings"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES / 1, "test_labels": LABELS}, "array 'test_images' is float64"),
        ({"images": IMAGES, "labels": LABELS.astype(object)}, "array 'labels' cannot be read .*Object arrays cannot be loaded.*plain array"),
    ],
)
def test_a_wrong_array_is_named_with_what_to_type(npz, arrays, sentence):
    with pytest.raises(NtkSelectError, match=sentence):
        npz(**arrays)


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 1, 3)])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_arrays_of_16_bits_get_the_depth_of_the_training_images(npz, bits, shape):
    white = (1 << bits) - 1
    images = np.linspace(0, white, 60).round().astype(np.uint16).reshape(shape)
    task = npz(images=images, labels=LABELS, test_images=images[:2] // 4, test_labels=LABELS[:2])
    assert task.images.dtype == task.test_images.dtype == np.uint8
    assert np.abs(task.images - images * (255 / white)).max() <= 0.5
    assert np.abs(task.test_images - images[:2] // 4 * (255 / white)).max() <= 0.5
    assert f"Images of more than 8 bits are read as {bits} bits, 0 to {white:,}: their largest value is {white:,}." in task.details["warnings"]


def test_only_the_arrays_of_16_bits_are_scaled(npz):
    task = npz(images=IMAGES, labels=LABELS, test_images=IMAGES.astype(np.uint16) * 60, test_labels=LABELS)
    np.testing.assert_array_equal(task.images, IMAGES)
    assert np.abs(task.test_images - IMAGES * (60 * 255 / 4095)).max() <= 0.5


def test_one_class_is_no_task(npz):
    with pytest.raises(TaskError, match=r"one class only"):
        npz(images=IMAGES, labels=LABELS * 0)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for data in (b"", b"hello", b"PK\x03\x04 hello"):
        path.write_bytes(data)
        with pytest.raises(NtkSelectError, match=r"a.npz: cannot be read as an .npz file"):
            load_task(path)
    with path.open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(NtkSelectError, match=r"a.npz: a single array, not .npz"):
        load_task(path)


STAND_INS = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"a.npz is a Git LFS pointer, .* Try, .*: git lfs pull\.$"),
    (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\r\noid sha256:0\r\n", r"a.npz is a Git LFS pointer, .* Try, .*: git lfs pull\.$"),
    (b"<!DOCTYPE html><html><body>Sign in</body></html>", r"a.npz is a web page, .*Try: download the file itself\.$"),
]


@pytest.mark.parametrize(("content", "sentence"), STAND_INS)
def test_what_lies_in_the_place_of_the_file_is_named(tmp_path, content, sentence):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        load_task(tmp_path / "a.npz")


def test_nobody_is_told_to_load_a_pickle_unsafely(tmp_path):
    for content in (b'{"error": "gated"}', pickle.dumps([1, 2])):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"a.npz: cannot be read as an .npz file \(it is neither a zip archive nor an array\)\. Is it complete"):
            load_task(tmp_path / "a.npz")


def test_a_file_that_may_not_be_opened_is_named(npz, tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    npz(images=IMAGES, labels=LABELS)
    monkeypatch.setattr(npz_module, "open", refuse, raising=False)
    with pytest.raises(NtkSelectError, match=r"a.npz: cannot be opened \(Permission denied\)"):
        load_task(tmp_path / "a.npz")


@hypothesis.given(place=st.integers(0, 10_000), value=st.integers(0, 255))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=40)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_byte_gives_the_arrays_or_an_error_of_ours(tmp_path, place, value):
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[place % len(data)] = value
    (tmp_path / "a.npz").write_bytes(data)
    try:
        task = load_task(tmp_path / "a.npz")
    except NtkSelectError:
        return
    np.testing.assert_array_equal(task.images, IMAGES)
