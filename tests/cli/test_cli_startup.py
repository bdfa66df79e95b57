"""Help, lists and errors import neither JAX nor what only other commands need; `--help` describes every command."""

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

from ntk_select.cli import COMMANDS, main

QUICK = [
    ["--help"],
    ["--version"],
    ["ran"],
    ["rank", "--help"],
    ["rank", "--tsk", "digits"],
    ["kernel", "--help"],
    ["dynamics", "--help"],
    ["finetune", "--help"],
    ["demo", "--help"],
    ["zoo", "list", "--help"],
    ["bench", "run"],
    ["tasks", "list"],
    ["scores", "list"],
]


def test_help_lists_and_mistakes_need_neither_jax_nor_what_trains():
    code = f"""
import contextlib, io, sys
from ntk_select.cli import main
for words in {QUICK!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(words)
    found = [name for name in ("jax", "flax", "optax", "scipy.stats", "matplotlib") if name in sys.modules]
    assert not found, (words, found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_help_says_of_every_command_what_its_class_says(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stopped.value.code == 0
    for name, (title, says) in COMMANDS.items():
        command = getattr(importlib.import_module(f"ntk_select.cli.{name}"), title)
        assert command.__doc__ == says
        assert f"• {name} {says}" in shown


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ntk-select {version('ntk-select')}\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "ntk-select --version" in capsys.readouterr().out


def test_completion_for_a_shell_knows_the_options_of_all_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--tyro-print-completion", "bash"])
    script = capsys.readouterr().out
    for option in ("--per-class", "--explain", "--sketch-seed", "--save-model", "--shard"):
        assert option in script
