"""How do commands talk? Results go to standard output, progress and remarks to standard error."""

import json
import math
import os
import re
import secrets
import shlex
import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ntk_select._runtime.progress import Progress, bar
from ntk_select.errors import ConfigError, escaped, first_line

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value and without a --no- twin."""
SENTENCE, NAME = 20, 24
"""Letters that a column of sentences, and one of names, keeps at least."""


PIPED = 180
"""Columns of an output that is no terminal and whose reader set no COLUMNS."""


def out() -> Console:
    """Standard output: as wide as the terminal, as $COLUMNS says, or so wide that a file never loses a column."""
    return Console(width=None if sys.stdout.isatty() else _asked_width() or PIPED, highlight=False)


def _asked_width() -> int | None:
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdecimal() and int(asked) else None


def remarks() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 180)


def remark(text: Any, style: str = "") -> None:
    """One line on standard error, never folded."""
    remarks().print(Text(escaped(str(text)), style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def print_line(text: str, style: str = "") -> None:
    """One line on standard output, never folded, so that a command in it can be copied."""
    out().print(Text(escaped(text), style=style), soft_wrap=True)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
    sentences: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """A table for people, with what there is room for.

    Args:
      right: columns of numbers, which are never broken.
      optional: columns that a narrow terminal lacks, the first to go first; a line below the table names them.
      sentences: columns that go over several lines before any other is left out.
      names: columns of names, which a narrow terminal shows without the start that all have in common, and shortened in the middle.
    """
    print_line(title, style="bold")
    console = out()
    cells = {column: [escaped(row[place]) for row in rows] for place, column in enumerate(columns)}
    room = console.width if sys.stdout.isatty() or _asked_width() else math.inf
    shown, heads = list(columns), {column: column for column in columns}

    def needed(foldable: Sequence[str]) -> int:
        """Width of the table when these columns may go over several lines."""
        widest = {column: max(cell_len(line) for text in (*cells[column], heads[column]) for line in text.splitlines() or [""]) for column in shown}
        least = {**dict.fromkeys(foldable, SENTENCE), **dict.fromkeys(names, NAME)}
        return sum(3 + min(width, least.get(column, width)) for column, width in widest.items()) + 1

    if needed(sentences) > room:  # the headings of numbers go over several lines before anything is left out
        heads |= {column: _folded(column, max(map(cell_len, cells[column]), default=0)) for column in right}
    for column in (column for column in optional if column in shown):
        if needed(sentences) > room:
            shown.remove(column)
    left = room - needed(sentences)
    for column in (column for column in names if column in shown):
        longest = max(map(cell_len, cells[column]), default=0)
        if longest - NAME > left:
            start = _common_start(cells[column])
            if start:
                print_line(f"Every {column} begins with {start}")
            cells[column] = _shortened([text.removeprefix(start) for text in cells[column]], int(NAME + left))
            left -= max(max(map(cell_len, cells[column])) - NAME, 0)
    table = Table()
    for column in shown:
        table.add_column(heads[column], justify="right" if column in right else "left", overflow="fold", no_wrap=column in right)
    for number in range(len(rows)):
        table.add_row(*(Text(cells[column][number]) for column in shown))  # as Text: names in brackets are no markup
    texts = [column for column in shown if column not in right]
    console.width = max(console.width, needed(texts))  # rather a long line than a number that is cut
    console.print(table, crop=False)
    if len(shown) < len(columns):
        left_out = [column for column in columns if column not in shown]
        print_line(f"No room for: {', '.join(left_out)}. A wider terminal shows more, --json everything.")


def _common_start(texts: Sequence[str]) -> str:
    """What all texts begin with, up to a separator; "" where that saves little."""
    same = [len(set(letters)) == 1 for letters in zip(*texts, strict=False)]
    common = texts[0][: [*same, False].index(False)] if len(texts) > 1 else ""
    start = re.match(r".*[-_./:@ ]|", common)[0]
    return start if len(start) >= 4 else ""


def _shortened(texts: Sequence[str], width: int) -> list[str]:
    """The texts, of those that are wider their two ends, so that different ones stay different: in this width if it can be done, else in more."""
    longest = max(map(len, texts))
    for room in range(width, longest):
        for tail in sorted(range(1, room - 1), key=lambda tail: abs(2 * tail - room)):
            found = [text if len(text) <= room else f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}" for text in texts]
            if len(set(found)) == len(set(texts)):
                return found
    return list(texts)


def _folded(heading: str, width: int) -> str:
    """A heading in lines of this width, without breaking a word."""
    return "\n".join(textwrap.wrap(heading, max(width, 1), break_long_words=False)) if heading.split() else heading


def progress_bar(what: str) -> AbstractContextManager[Progress]:
    """A progress(done, total, name) callback that draws a bar on standard error."""
    return bar(what, remarks())


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
    """Refuses before the work what could not be saved after it. Leaves nothing behind: another option may be wrong as well."""
    try:
        place = _nearest(Path(os.path.abspath(folder.expanduser())))
        if not place.is_dir():
            raise ConfigError(f"{option} {str(folder)!r} cannot be written: {place.name} is not a folder. Give another folder.")
        probe = place / f".ntk-select-write-test-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home for ~
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"{option} {str(folder)!r} cannot be written: {reason}. Give another folder.") from error


def _nearest(path: Path) -> Path:
    """What there is of a path: itself, or the nearest folder above."""
    try:
        path.lstat()
    except FileNotFoundError:
        return path if path == path.parent else _nearest(path.parent)
    return path


def numbers(option: str, texts: Sequence[str], kind: type) -> list:
    """The numbers of an option, each once. Raises ConfigError for what is none, or where there is none."""
    found = []
    for text in split(texts):
        try:
            found.append(kind(text))
        except ValueError as error:
            raise ConfigError(f"{option} {text!r} is not a {'whole ' if kind is int else ''}number.") from error
    if not found:
        raise ConfigError(f"{option} needs at least one number.")
    return list(dict.fromkeys(found))
