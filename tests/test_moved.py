"""Module names of version 0.1 are aliases of the new ones."""

import importlib
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


def test_a_module_below_a_moved_package_is_loaded_once():
    code = "from ntk_select.engine.plan import choose; import ntk_select.kernels.engine.plan as new; print(new.choose is choose)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_other_names_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ntk_select.nothing")
    assert not hasattr(ns, "nothing")
