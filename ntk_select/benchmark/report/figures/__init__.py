"""Which figures has a report? The paper's eight, each with the numbers that it draws.

for name in FIGURES:
    content = figure_bytes(results, name, "png")
    print(caption(results, name) if content else why_not(results, name))
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ntk_select._runtime.figures import file_content
from ntk_select.benchmark.report.results import Results
from ntk_select.errors import ConfigError, did_you_mean

from . import figure_1, figure_2, figure_3, figure_4, figure_5, figure_6, figure_7, figure_8


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
      title: of the figure.
      caption: of results, in parts: what it shows, of what, and what is missing.
      data: of results: rows of the numbers that are drawn; empty where nothing of it was measured.
      nothing: of results without such rows: why.
      draw: of results with such rows: a matplotlib figure.
    """

    title: str
    caption: Callable[[Results], tuple[str, ...]]
    data: Callable[[Results], list[dict[str, Any]]]
    nothing: Callable[[Results], str]
    draw: Callable[[Results], Any]


def _of(module: ModuleType) -> Figure:
    return Figure(module.TITLE, module.text, module.data, module.nothing, module.draw)


FIGURES: dict[str, Figure] = {
    module.__name__.rpartition(".")[2]: _of(module) for module in (figure_1, figure_2, figure_3, figure_4, figure_5, figure_6, figure_7, figure_8)
}


def figure_bytes(results: Results, name: str, file_format: str) -> bytes | None:
    """A figure as "png", "svg" or "pdf", the same bytes for the same results; None where nothing of it was measured, see `why_not`.

    Raises:
      ConfigError: there is no such figure.
      MissingDependencyError: matplotlib is not installed.
    """
    return file_content(_named(name).draw(results), file_format) if data(results, name) else None


def why_not(results: Results, name: str) -> str | None:
    """Why there is no such figure of these results, in a sentence; None where there is one. Raises ConfigError for an unknown name."""
    return None if data(results, name) else _named(name).nothing(results)


def data(results: Results, name: str) -> list[dict[str, Any]]:
    """The numbers that a figure draws, all rows with the same columns; empty where there is no figure. Raises ConfigError for an unknown name."""
    key = ("figures", name)
    if key not in results.kept:
        results.kept[key] = _named(name).data(results)
    return [dict(row) for row in results.kept[key]]


def caption(results: Results, name: str) -> str:
    """What a figure shows, of what, and what is missing. Raises ConfigError for an unknown name."""
    return " ".join(caption_parts(results, name))


def caption_parts(results: Results, name: str) -> tuple[str, ...]:
    """The caption in parts: first what is said of this figure alone, then sentences that several figures may share. Raises as `caption`."""
    return _named(name).caption(results)


def _named(name: str) -> Figure:
    if name not in FIGURES:
        raise ConfigError(f"There is no figure {name!r}.{did_you_mean(name, FIGURES)}")
    return FIGURES[name]
