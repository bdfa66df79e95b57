"""Control characters in foreign names do not reach the terminal."""

import pytest

from ntk_select.cli import main
from ntk_select.cli.console import print_line, print_table, remark
from ntk_select.errors import escaped

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\u202egnp.exe"


def test_control_characters_are_written_out():
    assert escaped(EVIL) == r"\x1b]0;owned\x07\x1b[31mred\x9b2J\r\u202egnp.exe"
    assert escaped("größe 日本語 🐱\nline") == "größe 日本語 🐱\nline"


@pytest.mark.parametrize(
    "show",
    [
        lambda: print_line(EVIL),
        lambda: print_table(EVIL, ("expert",), [(EVIL,)]),
        lambda: remark(EVIL, "red"),
        lambda: main(["tasks", "show", f"folder:/nowhere/{EVIL}"]),
    ],
    ids=["line", "table", "remark", "error"],
)
def test_no_way_to_the_terminal_lets_them_through(show, capsys):
    show()
    shown = "".join(capsys.readouterr())
    assert r"\x1b[31mred\x9b2J" in shown.replace("\n", "")
    assert not set(shown) & {"\x1b", "\x9b", "\x07", "\r", "\u202e"}


def test_a_home_that_is_nobodys_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "plan", "~nobody-of-that-name/config.toml"]) == 2
    assert (
        "A path begins with ~, and the home directory is unknown (Could not determine home directory.). Try: the full path" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
