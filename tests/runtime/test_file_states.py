"""The key of file states changes with the content of the files, or is None."""

import os
import time

import pytest

from ntk_select._runtime import cache
from ntk_select._runtime.cache import state_of


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
