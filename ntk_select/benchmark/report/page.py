"""The results on one page that needs no server, no network and no other file."""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.tables import TABLES, Column, Content
from ntk_select.benchmark.report.tables.in_words import what_is_missing, what_it_does_not_show, what_it_is, what_was_found
from ntk_select.errors import missing

TEMPLATE = Path(__file__).with_name("page.html.j2")
FILTER_FROM = 12
"""Rows above which a table has a box to filter them."""
SHORT, LONG = 42, 60
"""Letters up to which a column of texts is not broken into lines, and from which it is given some width."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it.

    Args:
      name: by which files and links know it.
      title: what it is of.
      caption: the text below it; in parts, those that figures share stand once above them all.
      svg, png: its content; None where nothing of it was measured.
      why_not: the reason, where there is none.
    """

    name: str
    title: str
    caption: str | Sequence[str] = ""
    svg: bytes | None = None
    png: bytes | None = None
    why_not: str | None = None

    @property
    def heading(self) -> str:
        """As in "Figure 1. A zoo"."""
        return f"{self.name.replace('_', ' ').capitalize()}. {self.title}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The caption in parts; a text is one."""
        found = [self.caption] if isinstance(self.caption, str) else self.caption
        return tuple(part for part in found if part)

    @property
    def uri(self) -> str | None:
        """The smaller of both as a data URI."""
        found = [(len(content), kind, content) for kind, content in (("svg+xml", self.svg), ("png", self.png)) if content is not None]
        if not found:
            return None
        _, kind, content = min(found)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def page(results: Results, figures: Sequence[Drawn], contents: Mapping[str, Content], when: datetime) -> str:
    """The page as HTML, the same for the same arguments.

    Args:
      results: what was measured.
      figures: in their order.
      contents: of tables, by their names in `TABLES`.
      when: that stands on it.

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
    """Parts that the captions of several figures have, each with their names, as in "Figures 4, 6"."""
    of = defaultdict(list)
    for figure in figures:
        for part in figure.parts if figure.uri else ():
            of[part].append(figure.name.removeprefix("figure_"))
    return {part: f"Figures {', '.join(names)}" for part, names in of.items() if len(set(names)) > 1}


def _listed(seeds) -> str:
    return ", ".join(map(str, sorted(set(seeds)))) or "none"


def _table(name: str, content: Content) -> dict[str, Any]:
    kinds = [_kind(column, [row[place] for row in content.rows]) for place, column in enumerate(content.columns)]
    rows = [
        [
            {"kind": kind, "value": _sorted_by(column, cell), "shown": column.shown(cell)}
            for kind, column, cell in zip(kinds, content.columns, row, strict=True)
        ]
        for row in content.rows
    ]
    return {
        "name": name,
        "title": TABLES[name].title,
        "note": TABLES[name].note,
        "missing": content.missing,
        "columns": content.columns,
        "rows": rows,
    }


def _sorted_by(column: Column, cell: Any) -> Any:
    """A number where others in the column are: "all" images are more than any."""
    value = column.plain(cell)
    return "Infinity" if column.number and isinstance(value, str) else value


def _kind(column: Column, cells: Sequence[Any]) -> str:
    if column.number:
        return "number"
    longest = max((len(column.shown(cell)) for cell in cells), default=0)
    return "text short" if longest <= SHORT else "text long" if longest >= LONG else "text"
