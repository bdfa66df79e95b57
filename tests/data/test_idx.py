"""IDX files are read as the format's description says, and damaged ones are refused. Fashion-MNIST is four of them."""

import contextlib
import gzip
import struct

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from ntk_select.data import fashion_mnist, idx, load_task
from ntk_select.data.idx import read_idx

from ntk_select.errors import DataError, TaskError

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
    with pytest.raises(DataError, match=r"promises 24 values, it has 23"):
        read_idx(tmp_path / "x", ndim=3)
    (tmp_path / "x").write_bytes(pack(idx_bytes(IMAGES) + b"!"))
    with pytest.raises(DataError, match=r"promises 24 values, it has more"):
        read_idx(tmp_path / "x", ndim=3)


def test_a_header_that_promises_too_much_is_refused_before_reading(tmp_path, monkeypatch, idx_bytes):
    (tmp_path / "x").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2))
    with pytest.raises(DataError, match=r"promises .* values; allowed are 1,073,741,824"):
        read_idx(tmp_path / "x", ndim=3)
    monkeypatch.setattr(idx, "MAX_BYTES", 24)
    (tmp_path / "x").write_bytes(idx_bytes(IMAGES))
    assert read_idx(tmp_path / "x", ndim=3).shape == IMAGES.shape


def test_truncated_and_garbage_gzip_are_refused(tmp_path, idx_bytes):
    whole = gzip.compress(idx_bytes(IMAGES))
    for data in (whole[:-12], b"\x1f\x8bgarbage", whole[:10] + b"\xff" * 20, b"\x1f\x8b"):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(DataError, match=r"x: cannot be read.*Fetch it again"):
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
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", fashion)
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
        (b"<html>", "a web page, .*Fetch"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match=rf"x is {what}"):
            read_idx(tmp_path / "x", ndim=3)
