"""Progress of long calls: a bar on a terminal or in a notebook unless the caller gives a function of their own."""

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ntk_select.errors import ConfigError, escaped

Progress = Callable[[int, int, str], None]
"""A function of (done, all, what)."""


@contextlib.contextmanager
def reporting(progress: Progress | bool | None, what: str) -> Iterator[Progress | None]:
    """The function that a long call reports to.

    Args:
      progress: a function of (done, all, what), which is used as it is; None for a bar where standard error is a terminal or the code runs
        in a notebook, and nothing elsewhere; True for a bar everywhere; False for nothing.
      what: title of the bar, as in "fine-tuning".

    Yields:
      The function, or None where nothing is to be shown.

    Raises:
      ConfigError: `progress` is something else.
    """
    if progress is False or callable(progress):
        yield progress or None
    elif progress is True:
        with bar(what) as shown:
            yield shown
    elif progress is not None:
        raise ConfigError(
            f"progress= takes a function of (done, all, what), None (a bar on a terminal or in a notebook), True or False; given: {progress!r}."
        )
    elif (display := _notebook_display()) is not None:
        yield _line(display, what)
    elif sys.stderr is not None and sys.stderr.isatty():
        with bar(what) as shown:
            yield shown
    else:
        yield None


@contextlib.contextmanager
def bar(what: str, console: Any = None) -> Iterator[Progress]:
    """A function of (done, all, what) that draws a bar, which vanishes at the end. `console` is a rich Console; by default standard error."""
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
    with Progress(*columns, console=console or Console(stderr=True, highlight=False), transient=True) as shown:
        task = shown.add_task("", total=None, title=escaped(what))
        yield lambda done, total, name: shown.update(task, completed=done, total=total, description=escaped(name))


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` where a notebook or another front end that renders output runs the code; else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return importlib.import_module("IPython.display").display if hasattr(shell, "kernel") else None


def _line(display: Callable[..., Any], what: str) -> Progress:
    """A function that keeps one line of a notebook's output up to date."""
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
    """Adds the time of a block to `seconds[step]`."""
    began = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - began
