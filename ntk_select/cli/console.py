"""Output of the commands: results go to standard output, progress and remarks to standard error; tables fit the terminal."""

import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ntk_select._runtime.progress import bar
from ntk_select.errors import ConfigError, escaped

progress_bar = bar
"""progress_bar(title): a context with a function of (done, total, name) that draws a bar on standard error."""
SENTENCE, NAME = 20, 24
"""Minimum width of a column of sentences, and of a column of names."""
PIPED = 180
"""Columns of an output that is not a terminal, where COLUMNS is not set."""


def _has_width() -> bool:
    """Whether standard output has a width of its own: that of the terminal, or COLUMNS."""
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").strip("0").isdecimal()


def out() -> Console:
    """Standard output, as wide as the terminal or COLUMNS says, else so wide that no column is lost."""
    return Console(width=None if _has_width() else PIPED, highlight=False)


def print_json(value: Any) -> None:
    """Prints one JSON document to standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def print_line(text: str, style: str = "") -> None:
    """Prints one line to standard output without wrapping: a command in it can be copied."""
    out().print(Text(escaped(text), style=style), soft_wrap=True)


def print_text(text: str, style: str = "") -> None:
    """Prints a sentence to standard output, wrapped to its width."""
    out().print(Text(escaped(text), style=style))


def remark(text: Any, style: str = "") -> None:
    """Prints one line to standard error without wrapping."""
    Console(stderr=True, highlight=False).print(Text(escaped(str(text)), style=style), soft_wrap=True)


def saving(what: str, save: Callable[[], Sequence[Path]]) -> list[Path] | None:
    """Saves a result and prints the paths; None, with a remark, where that is impossible: the result itself can still be printed."""
    try:
        paths = save()
    except ConfigError as error:
        remark(f"{what} could not be saved: {error}", "red")
        return None
    for path in paths:
        remark(f"wrote {path}")
    return list(paths)


def duration(seconds: float) -> str:
    """An estimated time in words, with the precision of an estimate."""
    if seconds < 90:
        return f"{max(round(seconds / 5) * 5, 5)} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one as "12.3 %"; "?" for None."""
    return "?" if share is None else f"{100 * share:.{digits}f} %"


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
    sentences: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """Prints a table that fits the terminal.

    Args:
      right: columns of numbers, which are never broken.
      optional: columns that a narrow terminal omits, in this order; a line below the table names them.
      sentences: columns that are wrapped before any other column is omitted.
      names: columns of names, which a narrow terminal shows without their common prefix, and shortened in the middle.
    """
    print_line(title, style="bold")
    console = out()
    cells = {column: [escaped(row[place]) for row in rows] for place, column in enumerate(columns)}
    room = console.width if _has_width() else math.inf
    shown, heads = list(columns), {column: column for column in columns}

    def needed(wrapped: Sequence[str]) -> int:
        """Width of the table when these columns may be wrapped."""
        widest = {column: max(cell_len(line) for text in (*cells[column], heads[column]) for line in text.splitlines() or [""]) for column in shown}
        least = {**dict.fromkeys(wrapped, SENTENCE), **dict.fromkeys(names, NAME)}
        return sum(3 + min(width, least.get(column, width)) for column, width in widest.items()) + 1

    if needed(sentences) > room:  # the headings of numbers are wrapped before anything is omitted
        for column in right:
            width = max(map(cell_len, cells[column]), default=0)
            heads[column] = "\n".join(textwrap.wrap(column, max(width, 1), break_long_words=False)) or column
    for column in (column for column in optional if column in shown):
        if needed(sentences) > room:
            shown.remove(column)
    spare = room - needed(sentences)
    for column in (column for column in names if column in shown):
        longest = max(map(cell_len, cells[column]), default=0)
        if longest - NAME > spare:
            start = _common_prefix(cells[column])
            if start:
                print_line(f"Every {column} begins with {start}")
            cells[column] = _shortened([text.removeprefix(start) for text in cells[column]], int(NAME + spare))
            spare -= max(max(map(cell_len, cells[column])) - NAME, 0)
    table = Table()
    for column in shown:
        table.add_column(heads[column], justify="right" if column in right else "left", overflow="fold", no_wrap=column in right)
    for number in range(len(rows)):
        table.add_row(*(Text(cells[column][number]) for column in shown))  # as Text: names in brackets are not markup
    console.width = max(console.width, needed([column for column in shown if column not in right]))  # rather a long line than a broken number
    console.print(table, crop=False)
    if len(shown) < len(columns):
        print_line(f"No room for: {', '.join(column for column in columns if column not in shown)}. A wider terminal shows more, --json everything.")


def _common_prefix(texts: Sequence[str]) -> str:
    """The prefix that all texts share, up to a separator; "" where that saves little."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False)) if len(texts) > 1 else ()
    common = "".join(letters[0] for letters in same)
    start = re.match(r".*[-_./:@ ]|", common)[0]
    return start if len(start) >= 4 else ""


def _shortened(texts: Sequence[str], width: int) -> list[str]:
    """The texts with the middle of the longer ones replaced by "…", in this width, or the next in which different texts stay different."""
    for room in range(width, max(map(len, texts))):
        for tail in sorted(range(1, room - 1), key=lambda tail: abs(2 * tail - room)):
            found = [text if len(text) <= room else f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}" for text in texts]
            if len(set(found)) == len(set(texts)):
                return found
    return list(texts)
