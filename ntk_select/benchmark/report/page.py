"""The results on one HTML page that needs no server, no network and no other file."""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ntk_select.benchmark.report.columns import Column, Content
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import TEXTS, what_is_missing, what_it_does_not_show, what_it_is, what_was_found
from ntk_select.errors import missing

TEMPLATE = Path(__file__).with_name("page.html.j2")
FILTER_FROM = 12
"""Tables with more rows have a box to filter them."""
SHORT, LONG = 42, 60
"""Characters up to which a column of text is not wrapped, and from which it gets a minimum width."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it.

    Args:
      name: The name of its files and links.
      title: one line.
      caption: the parts of the text below it; those that several figures share are shown once above all figures.
      svg, png: its content; None if nothing of it was measured.
      why_not: the reason, if there is none.
    """

    name: str
    title: str
    caption: Sequence[str] = ()
    svg: bytes | None = None
    png: bytes | None = None
    why_not: str | None = None

    @property
    def heading(self) -> str:
        """As in "Figure 1. A zoo"."""
        return f"{self.name.replace('_', ' ').capitalize()}. {self.title}"

    @property
    def uri(self) -> str | None:
        """The smaller of both contents as a data URI."""
        found = [(len(content), kind, content) for kind, content in (("svg+xml", self.svg), ("png", self.png)) if content is not None]
        if not found:
            return None
        _, kind, content = min(found)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def page(results: Results, figures: Sequence[Drawn], contents: Mapping[str, Content], when: datetime) -> str:
    """The page as HTML, the same for the same arguments.

    Args:
      results: what was measured.
      figures: All figures, in their order.
      contents: Tables by their names in `tables.TABLES`.
      when: the date on the page.

    Raises:
      MissingDependencyError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise missing("jinja2", "The page of a report") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Model selection on {results.name}",
        name=results.name,
        what=what_it_is(results),
        when=when.strftime("%Y-%m-%d %H:%M %Z").strip(),
        summary=[
            ("What was found", what_was_found(results)),
            ("What is missing", what_is_missing(results)),
            ("What it does not show", what_it_does_not_show(results)),
        ],
        figures=figures,
        shared=_shared(figures),
        tables=[_table(name, content) for name, content in contents.items()],
        filter_from=FILTER_FROM,
        config=results.config_text,
        versions=results.versions,
        measured_with=results.measured_with,
        seeds=_listed(cell.seed for cell in results.cells if cell.kind in ("truth", "synthetic")),
        draws=_listed(cell.seed for cell in results.cells if cell.kind in ("score", "synthetic")),
    )


def _shared(figures: Sequence[Drawn]) -> dict[str, str]:
    """Parts of captions that several figures have, each with their names, as in "Figures 4, 6"."""
    of = defaultdict(list)
    for figure in figures:
        for part in figure.caption if figure.uri else ():
            of[part].append(figure.name.removeprefix("figure_"))
    return {part: f"Figures {', '.join(names)}" for part, names in of.items() if len(set(names)) > 1}


def _listed(seeds) -> str:
    return ", ".join(map(str, sorted(set(seeds)))) or "none"


def _table(name: str, content: Content) -> dict[str, Any]:
    by_column = zip(content.columns, zip(*content.rows, strict=True), strict=True) if content.rows else ()
    cells = [
        [{"kind": kind, "value": _sorted_by(column, cell), "shown": column.shown(cell)} for cell in column_cells]
        for column, column_cells in by_column
        for kind in [_kind(column, column_cells)]
    ]
    shown = {"columns": content.columns, "rows": list(zip(*cells, strict=True)), "missing": content.missing}
    return {"name": name, "title": TEXTS[name]["title"], "note": " ".join(TEXTS[name]["text"].split()), **shown}


def _sorted_by(column: Column, cell: Any) -> Any:
    """The value of a cell for sorting: "all" images are more than any number."""
    value = column.plain(cell)
    return "Infinity" if column.number and isinstance(value, str) else value


def _kind(column: Column, cells: Sequence[Any]) -> str:
    if column.number:
        return "number"
    longest = max(len(column.shown(cell)) for cell in cells)
    return "text short" if longest <= SHORT else "text long" if longest >= LONG else "text"
