"""The cache returns exactly what was stored; keys of file states change with the content of the files, or are None."""

import os
import sys
import time

import numpy as np
import pytest

from ntk_select._runtime import cache
from ntk_select._runtime.cache import Cache, default_folder, key_of, state_of

KEY = key_of("a")


def test_arrays_come_back_as_they_were(tmp_path, rng):
    arrays = {"features": rng.normal(size=(3, 2)).astype(np.float32), "logits": rng.normal(size=(3, 5))}
    Cache(tmp_path / "new" / "folder").put(KEY, arrays)
    found = Cache(tmp_path / "new" / "folder").get(KEY)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert Cache(tmp_path / "new" / "folder").get(key_of("b")) is None


def test_keys_differ_with_content_type_shape_and_where_the_parts_meet():
    zeros = np.zeros(4, np.float32)
    keys = [
        key_of("ab", "c"),
        key_of("a", "bc"),
        key_of("abc"),
        key_of(zeros),
        key_of(zeros.reshape(2, 2)),
        key_of(zeros.view(np.int32)),
        key_of(zeros + 1),
        key_of(zeros, zeros),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(np.arange(6).reshape(2, 3).T) == key_of(np.arange(6).reshape(2, 3).T.copy())


def test_no_folder_keeps_nothing():
    cache = Cache(None)
    cache.put(KEY, {"a": np.zeros(1)})
    cache.prune()
    assert not cache
    assert cache.get(KEY) is None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"no zip at all"])
def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path, damage):
    cache = Cache(tmp_path)
    cache.put(KEY, {"a": np.arange(1000)})
    (file,) = tmp_path.glob("*/*.npz")
    whole = file.read_bytes()
    for content in (damage, whole[: len(whole) // 2], whole[:200] + b"\xff" * 50 + whole[250:]):
        file.write_bytes(content)
        assert cache.get(KEY) is None
    cache.put(KEY, {"a": np.arange(3)})
    np.testing.assert_array_equal(cache.get(KEY)["a"], np.arange(3))


def test_a_pickle_in_the_folder_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    file = tmp_path / KEY[:2] / f"{KEY}.npz"
    file.parent.mkdir()
    np.savez(file, a=np.array([Evil()], dtype=object))
    assert Cache(tmp_path).get(KEY) is None
    assert not (tmp_path / "pwned").exists()


def test_a_place_that_cannot_be_written_is_said_and_costs_no_result(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file")
    cache.put(KEY, {"a": np.zeros(1)})
    assert "cannot be written" in cache.trouble
    assert "Try: another cache folder (--cache)" in cache.trouble
    assert cache.get(KEY) is None
    cache.put(KEY, {"a": np.zeros(1)})
    assert (tmp_path / "file").read_text() == "in the way"


def test_any_single_bit_that_is_turned_gives_the_arrays_or_nothing(tmp_path):
    cache, arrays = Cache(tmp_path), {"a": np.arange(3, dtype=np.int8), "b": np.zeros(2, np.int8)}
    cache.put(KEY, arrays)
    (file,) = tmp_path.glob("*/*.npz")
    whole = file.read_bytes()
    for place in range(0, len(whole), 3):
        for bit in (0, 5):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            found = cache.get(KEY)
            assert found is None or {name: value.tolist() for name, value in found.items()} == {"a": [0, 1, 2], "b": [0, 0]}


def test_a_folder_that_is_only_read_still_gives_what_it_holds(tmp_path, monkeypatch):
    Cache(tmp_path).put(KEY, {"a": np.arange(3)})

    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(os, "utime", forbidden)
    assert Cache(tmp_path).get(KEY)["a"].tolist() == [0, 1, 2]


def test_what_was_used_least_recently_goes_first(tmp_path):
    cache = Cache(tmp_path)
    keys = [key_of(str(number)) for number in range(4)]
    for age, key in enumerate(keys):
        cache.put(key, {"a": np.zeros(1000)})
        os.utime(tmp_path / key[:2] / f"{key}.npz", (age, age))
    assert cache.get(keys[0]) is not None  # used now
    cache.prune(largest=2 * 9000)
    assert [cache.get(key) is not None for key in keys] == [True, False, False, True]
    cache.prune(largest=0)
    assert not list(tmp_path.glob("*/*.npz"))


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"NTK_SELECT_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/ntk_select"),
        ({"HOME": "/c"}, "/c/.cache/ntk_select"),
    ],
)
def test_the_folder_is_where_the_system_keeps_caches(monkeypatch, variables, folder):
    for name in ("NTK_SELECT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(default_folder()) == folder


def test_without_a_home_there_is_no_folder(monkeypatch):
    for name in ("NTK_SELECT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(sys.modules["ntk_select._runtime.cache"].Path, "home", homeless)
    assert default_folder() is None


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files that count as old."""
    monkeypatch.setattr(cache, "FRESH", -3600.0)
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        with open(path, "w") as file:
            file.write("x")
    return paths


def test_the_same_files_have_the_same_state(files):
    assert state_of(((path,), "") for path in files) == state_of([((path,), "") for path in files]) is not None


def test_another_name_order_or_file_is_another_state(files):
    (a, b), known = files, set()
    for origins in ([((a,), "")], [((b,), "")], [((a,), "1")], [((a,), ""), ((b,), "")], [((b,), ""), ((a,), "")], [((a, b), "")], []):
        known.add(state_of(origins))
    assert len(known) == 7


def test_a_change_of_content_of_time_or_of_the_file_itself_is_another_state(files, tmp_path):
    def state():
        return state_of([((files[0],), "")])

    states = [state()]
    with open(files[0], "w") as file:
        file.write("yy")
    states.append(state())
    os.utime(files[0], ns=(1, 1))
    states.append(state())
    os.replace(files[1], files[0])
    states.append(state())
    assert len(set(states)) == 4


def test_what_cannot_be_vouched_for_has_no_state(files, tmp_path, monkeypatch):
    assert state_of([((files[0],), ""), None]) is None
    assert state_of([((str(tmp_path / "gone"),), "")]) is None
    monkeypatch.setattr(cache, "FRESH", 3600.0)
    assert state_of([((files[0],), "")]) is None
    os.utime(files[0], (time.time() - 9999, time.time() - 9999))
    assert state_of([((files[0],), "")]) is None, "the time of its status is young"
