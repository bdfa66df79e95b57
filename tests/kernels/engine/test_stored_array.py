"""Reading of arrays on disk: indexing as in NumPy, of the required chunks only."""

import itertools
import shutil

import numpy as np
import pytest

from ntk_select.errors import DataError
from ntk_select.kernels.engine.store import open_store

FULL = np.random.default_rng(0).normal(size=(8, 3, 8, 3)).transpose(0, 2, 1, 3)
FULL = FULL + FULL.transpose(1, 0, 3, 2)


def written(folder, block):
    """A store with all blocks of FULL written."""
    digests = {"x1": np.arange(128, dtype=np.uint8).reshape(8, 16)}
    store = open_store(folder, {"fn": "f"}, digests, what="kernel", symmetric=True, tail=(3, 3), dtype=np.float64, block=block)
    for part in itertools.combinations_with_replacement([slice(*ends) for ends in itertools.pairwise(store.tile_bounds[0])], 2):
        store.write(FULL[part], *part)
    return store


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return written(tmp_path_factory.mktemp("stored") / "kernel", block=4).result()


KEYS = [
    0,
    -1,
    np.int64(3),
    slice(None),
    slice(2, 5),
    slice(-3, None),
    slice(None, None, -1),
    slice(6, 0, -2),
    slice(1, 100, 3),
    slice(5, 2),
    slice(20, 30),
    (),
    ...,
    None,
    (1, 2),
    (1, 2, 0, 1),
    (-1, slice(None), -2),
    (slice(1, 3), slice(None, None, -3), 0),
    (..., 0),
    (1, ..., None, 2),
    (None, slice(2), None, 1, ...),
    (slice(None), None, 3),
    [1, 5],
    np.array([True, False] * 4),
    (slice(None), [0, 2]),
    np.ix_([1, 3], [0, 7]),
    True,
    np.array(2),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_is_that_of_numpy(stored, key):
    expected = FULL[key]
    assert type(stored[key]) is type(expected)
    np.testing.assert_array_equal(stored[key], expected, strict=True)


@pytest.mark.parametrize("key", [8, -9, (0, 0, 0, 0, 0), (..., ...), "a", 1.0, (0, 8)], ids=str)
def test_bad_indices_are_named_as_numpy_does(stored, key):
    with pytest.raises(IndexError) as expected:
        FULL[key]
    with pytest.raises(IndexError) as found:
        stored[key]
    assert str(found.value) == str(expected.value)


def test_an_index_reads_only_its_chunks(tmp_path):
    found = written(tmp_path / "kernel", block=2).result()
    for place in itertools.product(range(4), repeat=2):
        if 1 not in place:
            file = tmp_path.joinpath("kernel", "kernel.zarr", "c", *map(str, place), "0", "0")
            content = bytearray(file.read_bytes())
            content[len(content) // 3] ^= 4
            file.write_bytes(content)
    np.testing.assert_array_equal(found[3], FULL[3])
    np.testing.assert_array_equal(found[:, 2], FULL[:, 2])


def test_a_stored_array_is_an_array_that_cannot_be_changed(stored):
    assert (len(stored), stored.shape, stored.ndim, stored.dtype) == (8, (8, 8, 3, 3), 4, np.float64)
    assert repr(stored).startswith("StoredArray(kernel, shape=(8, 8, 3, 3), dtype=float64, folder='")
    assert np.asarray(stored, np.float32).dtype == np.float32
    np.testing.assert_array_equal(list(stored), FULL)
    with pytest.raises(TypeError):
        stored[0] = 1
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(stored, copy=False)


def test_an_array_that_vanishes_is_named(tmp_path):
    folder = tmp_path / "kernel"
    store = written(folder, block=2)
    found = store.result()
    shutil.rmtree(folder / "kernel.zarr")
    with pytest.raises(DataError, match="cannot hold the kernel: NOT_FOUND"):
        store.result()
    with pytest.raises(DataError, match="cannot hold the kernel: NOT_FOUND"):
        found[0]
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="cannot hold the kernel: .*No such file"):
        store.write(FULL[:2, :2], slice(0, 2), slice(0, 2))
