"""Fixtures of the fuzzing tests: targets that run in a folder of their own and leave it unchanged."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


class Seeds(dict):
    """Said in a word, where a failing test says what it was given."""

    def __repr__(self):
        return "Seeds()"


@pytest.fixture(scope="session")
def inputs(loaded) -> ModuleType:
    """Strategies for inputs that are nearly valid."""
    return loaded("fuzz/inputs.py")


@pytest.fixture(scope="session")
def seeds(loaded) -> dict[str, list[bytes]]:
    """Valid inputs of each target."""
    return Seeds(loaded("fuzz/seeds.py").seeds())


@pytest.fixture
def safely(loaded, tmp_path, monkeypatch) -> Callable[[str, bytes], Any]:
    """safely(target, data): what the target makes of the bytes. Nothing is written but its input, and nothing beyond a folder of its own."""
    targets, watch = loaded("fuzz/targets.py").TARGETS, loaded("fuzz/watch.py").WATCH
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))

    def run(target: str, data: bytes) -> Any:
        with watch.over(tmp_path):
            result = targets[target](data, tmp_path)
        given = [path for path in tmp_path.iterdir() if path != home]
        assert len(given) <= 1
        assert all(path.read_bytes() in (data, data[1:]) for path in given)
        assert not list(home.iterdir())
        for path in given:
            path.unlink()
        return result

    return run
