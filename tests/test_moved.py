"""Module names of version 0.1 are aliases of the new ones."""

import importlib
import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import ntk_select as ns
from ntk_select._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_at_its_new_place(old, monkeypatch):
    monkeypatch.delitem(sys.modules, f"ntk_select.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=rf"ntk_select\.{old} is now ntk_select\.{MOVED[old]}\. Try: import "):
        found = importlib.import_module(f"ntk_select.{old}")
    new = importlib.import_module(f"ntk_select.{MOVED[old]}")
    assert found is new
    assert new.__name__ == new.__spec__.name == f"ntk_select.{MOVED[old]}"


@pytest.mark.parametrize("old", [old for old in MOVED if hasattr(importlib.import_module(f"ntk_select.{MOVED[old]}"), "__path__")])
def test_every_module_below_a_moved_package_has_its_old_name(old):
    package = importlib.import_module(f"ntk_select.{MOVED[old]}")
    for below in (module.name for module in pkgutil.iter_modules(package.__path__)):
        with pytest.warns(DeprecationWarning, match=rf"ntk_select\.{old}\.{below} is now ntk_select\.{MOVED[old]}\.{below}\. Try: import "):
            spec = importlib.util.find_spec(f"ntk_select.{old}.{below}")
        assert spec.loader.new == f"ntk_select.{MOVED[old]}.{below}"


def test_a_module_below_a_moved_package_is_loaded_once():
    code = (
        "from ntk_select.engine.plan import make_plan; import ntk_select.kernels.engine.plan as new;"
        "from ntk_select.sketches.score import with_error; import ntk_select.kernels.sketches.correlation as correlation;"
        "print(new.make_plan is make_plan and correlation.with_error is with_error)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_other_names_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ntk_select.nothing")
    assert not hasattr(ns, "nothing")
    assert importlib.util.find_spec("ntk_select.engine.nothing") is None
