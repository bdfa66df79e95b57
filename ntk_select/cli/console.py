"""How do commands talk? Results go to standard output, progress and remarks to standard error."""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ntk_select.errors import ConfigError

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value and without a --no- twin."""


def out() -> Console:
    """Standard output; wide when it is not a terminal, so that a file never loses a column."""
    return Console(width=None if sys.stdout.isatty() else 180, highlight=False)


def remarks() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 180)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def print_line(text: str, style: str = "") -> None:
    """One line on standard output, never folded, so that a command in it can be copied."""
    out().print(Text(text, style=style), soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table for people; columns named in `right` are numbers."""
    print_line(title, style="bold")
    table = Table()
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in ("rank", "expert", "kind", "field")
        )
    for row in rows:
        table.add_row(*map(Text, row))  # as Text: names in brackets are no markup
    out().print(table)


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A progress(done, total, name) callback that draws a bar on standard error."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=remarks(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


def split(values: Sequence[str]) -> list[str]:
    """Both `--scores lfc lgc` and `--scores lfc,lgc` are understood; a path with a comma that exists stays whole."""
    return [part for value in values for part in ([value] if os.path.exists(value) else value.split(",")) if part]


def command(*words: str) -> str:
    """A command to type, quoted for the shell."""
    return shlex.join(("ntk-select", *words))


def zoo_option(zoo: Sequence[str]) -> list[str]:
    """The words that name the same zoo again; none for the built-in one."""
    return [] if split(zoo) == ["builtin"] else ["--zoo", *split(zoo)]


def check_writable(folder: Path, option: str = "--out") -> None:
    """Refuses before the work what could not be saved after it."""
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".ntk-select-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{option} {str(folder)!r} cannot be written: {error.strerror}. Give another folder.") from error
