"""`ntk_select` exports the documented names and nothing else."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import ntk_select as ns
from ntk_select.ranking.rank import chosen_scores
from ntk_select.scores import table as score_table

ROOT = Path(__file__).parent.parent


def test_dir_shows_all_that_is_meant_for_users_and_nothing_else():
    shown = {name for name in dir(ns) if not name.startswith("__")}
    assert shown == set(ns.__all__)
    assert {"finetune", "Recipe", "linearized", "evaluate", "rank", "load_task", "linen_expert", "nnx_expert", "open_zoo"} <= shown


def test_every_name_leads_to_something():
    assert all(getattr(ns, name) is not None for name in ns.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    for name in ("nothing", "_nothing", "cli.rank"):
        with pytest.raises(AttributeError, match=f"module 'ntk_select' has no attribute '{name}'"):
            getattr(ns, name)


def test_parts_are_there_without_a_further_import_and_shadow_no_function():
    """In a Python of its own, for here everything is imported already."""
    says = "import ntk_select as ns; print(ns.tasks.__name__, ns.kernels.__name__, ns.ranking.__name__, callable(ns.selfcheck))"
    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["ntk_select.tasks", "ntk_select.kernels", "ntk_select.ranking", "True"], done.stderr


def test_a_score_of_a_package_is_found_by_the_lines_that_the_example_shows(monkeypatch):
    """The lines of pyproject.toml in the docstring of scripts/04, read as TOML, name a score for `rank`."""
    text = (ROOT / "scripts/examples/04_your_own_score.py").read_text()
    lines = [line.strip() for line in text.split('"""')[1].splitlines() if line.startswith("    ")]
    (row,) = tomllib.loads("\n".join(lines))["project"]["entry-points"]["ntk_select.scores"].items()
    mine = ns.scores.SCORES["lfc"]
    monkeypatch.setattr(EntryPoint, "load", lambda self: mine if self.value == row[1] else None)
    monkeypatch.setattr(score_table, "entry_points", lambda group: [EntryPoint(*row, group)] if group == "ntk_select.scores" else [])
    assert chosen_scores([row[0]]) == {row[0]: mine}
