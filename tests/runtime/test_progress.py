"""Progress is a bar on terminals and in notebooks, a line a minute in log files, or the function of the caller."""

import io
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from ntk_select._runtime.progress import reporting
from ntk_select.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_function_is_used_as_it_is_and_false_means_nothing():
    with reporting(print, "work") as progress:
        assert progress is print
    with reporting(False, "work") as progress:
        assert progress is None


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["file", "no standard error"])
def test_nothing_is_shown_where_nobody_watches(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    with reporting(None, "work") as progress:
        assert progress is None
    with reporting(True, "work") as progress:
        progress(1, 2, "steps")
    assert stream is None or stream.getvalue() == ""


def test_a_log_file_gets_a_line_a_minute(monkeypatch):
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with reporting(True, "ranking") as progress:
        for done in range(1, 8):
            now[0] += 20.0
            progress(done, 7, f"expert\x1b{done}")
    assert log.getvalue() == "ranking: 3 of 7 expert\\x1b3\nranking: 6 of 7 expert\\x1b6\n"


def test_a_terminal_gets_a_bar_with_its_title_and_counts(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with reporting(None, "fine-tuning [x]") as progress:
        progress(3, 7, "a\x1b[2Jb")
    shown = terminal.getvalue()
    assert "fine-tuning [x]" in shown
    assert "3/7" in shown
    assert "\\x1b[2Jb" in shown
    assert "\x1b[2J" not in shown


def test_a_notebook_gets_one_line_that_is_kept_up_to_date(monkeypatch):
    shown = []

    def display(content, **options):
        shown.append((content, options))
        return SimpleNamespace(update=lambda content, **options: shown.append((content, options)))

    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython, module.display = lambda: SimpleNamespace(kernel=1), display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with reporting(None, "forecast") as progress:
        progress(1, 9, "passes")
        progress(9, 9, "")
    assert shown == [
        ({"text/plain": "forecast: 1 of 9 passes"}, {"raw": True, "display_id": True}),
        ({"text/plain": "forecast: 9 of 9"}, {"raw": True}),
    ]
    ipython.get_ipython = SimpleNamespace  # IPython in a terminal has no kernel
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with reporting(None, "forecast") as progress:
        assert progress is None


@pytest.mark.parametrize("given", [3, "bar"])
def test_anything_else_is_refused(given):
    says = r"progress= must be a function of \(done, total, what\), None \(a bar on a terminal or in a notebook\), True or False; given: "
    with pytest.raises(ConfigError, match=says), reporting(given, "work"):
        pass
