"""The error about a missing package names the command that installs it."""

import re
import tomllib
from pathlib import Path

import pytest

from ntk_select.errors import EXTRAS, missing

ROOT = Path(__file__).parents[1]
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def named(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_that_is_named_brings_the_package(package):
    assert package in named(OPTIONAL[EXTRAS[package]])
    assert str(missing(package, "This")).endswith(
        f"Try: pip install {package}, or in the folder of the repository: uv pip install -e '.[{EXTRAS[package]}]'"
    )


def test_every_optional_package_is_known():
    assert {package for name, extra in OPTIONAL.items() if name != "all" for package in named(extra)} == set(EXTRAS)


def test_a_package_that_no_extra_brings_is_named_alone():
    assert str(missing("Pillow", "Resizing images")) == "Resizing images needs the package Pillow, which is not installed. Try: pip install Pillow"


def test_a_package_that_is_there_and_cannot_be_imported_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("raise ImportError('libhalf.so.1: failed to map segment from shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        import half_there  # noqa: F401
    except ImportError:
        message = str(missing("half-there", "This"))
    assert message == (
        "This needs the package half-there, which cannot be imported (ImportError: libhalf.so.1: failed to map segment from shared object). "
        "Try: pip install --upgrade --force-reinstall half-there"
    )


@pytest.mark.parametrize("room", ["ntk_select", "models", "data"])
def test_what_needs_a_package_is_one_thing(room):
    for file in (ROOT / room).rglob("*.py"):
        for purpose in re.findall(r"(?:missing\([^,()]+, f?|new_figure\([^,()]+, [^,()]+, )\"([^\"]+)\"", file.read_text()):
            assert not re.match(r"(The )?\w+s of ", purpose), purpose
