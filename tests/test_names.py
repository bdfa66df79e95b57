"""Is what a user looks for in `ntk_select` there, and nothing else?"""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ntk_select.data import load_task
from ntk_select.models import linen_expert, nnx_expert, open_zoo

import ntk_select as ns
from ntk_select import plugins
from ntk_select.ranking.rank import chosen_scores
from ntk_select.scores import installed

ROOT = Path(__file__).parent.parent
OF_THE_ROOMS = {"load_task": load_task, "open_zoo": open_zoo, "linen_expert": linen_expert, "nnx_expert": nnx_expert}


def test_dir_shows_all_that_is_meant_for_users_and_nothing_else():
    shown = {name for name in dir(ns) if not name.startswith("__")}
    assert shown == set(ns.__all__)
    assert {"finetune", "Recipe", "linearized", "evaluate", "rank", "load_task", "linen_expert", "nnx_expert", "open_zoo"} <= shown


def test_every_name_leads_to_something(monkeypatch):
    monkeypatch.setattr(plugins, "builtin", OF_THE_ROOMS.get)
    assert all(getattr(ns, name) is not None for name in ns.__all__)


@pytest.mark.parametrize("name", OF_THE_ROOMS)
def test_functions_of_the_other_rooms_come_through_entry_points(name, monkeypatch):
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["ntk_select.builtin"]
    monkeypatch.setattr(plugins, "entry_points", lambda group, name: [EntryPoint(name, table[name], group)])
    vars(ns).pop(name, None)
    assert getattr(ns, name) is OF_THE_ROOMS[name]


def test_a_name_that_is_not_there_is_an_attribute_error():
    for name in ("nothing", "_nothing", "cli.rank"):
        with pytest.raises(AttributeError, match=f"module 'ntk_select' has no attribute '{name}'"):
            getattr(ns, name)


def test_parts_are_there_without_a_further_import_and_shadow_no_function():
    """In a Python of its own, for here everything is imported already."""
    says = "import ntk_select as ns; print(ns.task.__name__, ns.kernels.__name__, ns.engine.__name__, ns.ranking.__name__, callable(ns.selfcheck))"
    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["ntk_select.task", "ntk_select.kernels", "ntk_select.engine", "ntk_select.ranking", "True"], done.stderr


@pytest.mark.parametrize("how", ["import ntk_select.selfcheck", "from ntk_select.selfcheck import Check, SelfCheck"])
def test_the_module_of_the_selfcheck_does_not_shadow_its_function(how):
    says = f"{how}; import ntk_select as ns; print(ns.selfcheck.__name__, ns.selfcheck.__module__, callable(ns.selfcheck))"
    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["selfcheck", "ntk_select.selfcheck", "True"], done.stderr


def test_a_score_of_a_package_is_found_by_the_lines_that_the_example_shows(monkeypatch):
    """The lines of pyproject.toml in the docstring of scripts/04, read as TOML, name a score for `rank`."""
    text = (ROOT / "scripts/04_your_own_score.py").read_text()
    lines = [line.strip() for line in text.split('"""')[1].splitlines() if line.startswith("    ")]
    (row,) = tomllib.loads("\n".join(lines))["project"]["entry-points"]["ntk_select.scores"].items()
    mine = ns.scores.SCORES["lfc"]
    monkeypatch.setattr(EntryPoint, "load", lambda self: mine if self.value == row[1] else None)
    monkeypatch.setattr(installed, "entry_points", lambda group: [EntryPoint(*row, group)] if group == "ntk_select.scores" else [])
    assert chosen_scores([row[0]]) == {row[0]: mine}
