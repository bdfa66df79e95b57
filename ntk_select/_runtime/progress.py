"""Progress reports: a bar on terminals and in notebooks, lines in log files, or the function of the caller; and timing of steps."""

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ntk_select.errors import ConfigError, escaped

Progress = Callable[[int, int, str], None]
"""A function of (done, total, what)."""
LINE_EVERY = 60.0
"""Seconds between two lines of progress in a log file."""


@contextlib.contextmanager
def reporting(progress: Progress | bool | None, what: str) -> Iterator[Progress | None]:
    """The function to which a long computation reports its progress.

    Args:
      progress: a function of (done, total, what), used unchanged; None for a bar if standard error is a terminal or the code runs in a
        notebook, else nothing; True for a bar drawn by rich, also in a notebook, and a line a minute elsewhere; False for nothing.
      what: title of the bar, as in "fine-tuning".

    Yields:
      The function, or None if nothing is shown.

    Raises:
      ConfigError: `progress` has another type.
    """
    if progress is False or callable(progress):
        yield progress or None
    elif progress is True:
        with bar(what) as shown:
            yield shown
    elif progress is not None:
        raise ConfigError(
            f"progress= must be a function of (done, total, what), None (a bar on a terminal or in a notebook), True or False; given: {progress!r}."
        )
    elif (display := _notebook_display()) is not None:
        yield _line(display, what)
    elif sys.stderr is not None and sys.stderr.isatty():
        with bar(what) as shown:
            yield shown
    else:
        yield None


@contextlib.contextmanager
def bar(what: str) -> Iterator[Progress]:
    """A function of (done, total, what) that draws a transient progress bar on a terminal or in a notebook, and prints a line a minute elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[title]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True, highlight=False)
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(what)
        return
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, title=escaped(what))
        yield lambda done, total, name: shown.update(task, completed=done, total=total, description=escaped(name))


def _lines(what: str) -> Progress:
    """A function that prints lines on standard error, if there is one, at least `LINE_EVERY` seconds apart."""
    last = time.monotonic()

    def report(done: int, total: int, name: str) -> None:
        nonlocal last
        if sys.stderr is not None and time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            print(escaped(f"{what}: {done} of {total} {name}".rstrip()), file=sys.stderr, flush=True)

    return report


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` if the code runs in a notebook or another front end that renders output; else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return importlib.import_module("IPython.display").display if hasattr(shell, "kernel") else None


def _line(display: Callable[..., Any], what: str) -> Progress:
    """A function that updates one line of the output of a notebook."""
    shown = []

    def report(done: int, total: int, name: str) -> None:
        text = {"text/plain": f"{what}: {done} of {total} {name}".rstrip()}
        if shown:
            shown[0].update(text, raw=True)
        else:
            shown.append(display(text, raw=True, display_id=True))

    return report


@contextlib.contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Adds the wall time of the block to `seconds[step]`."""
    start = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start
