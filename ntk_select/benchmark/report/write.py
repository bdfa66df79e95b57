"""Files of a report: the page, figures, and tables."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ntk_select._runtime.files import write_output
from ntk_select.benchmark.report.figures import FIGURES, caption_parts, data, figure_bytes, why_not
from ntk_select.benchmark.report.page import Drawn, page
from ntk_select.benchmark.report.results import Results, read_results
from ntk_select.benchmark.report.tables import TABLES, csv_bytes
from ntk_select.benchmark.report.tables.record import shots_shown
from ntk_select.errors import ConfigError, did_you_mean

PAGE = "page"
"""The name of index.html among those of figures and tables."""


def report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    only: Iterable[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Writes what the results in a folder say.

    index.html is the page, with everything on it. Beside it lie each figure as NAME.png and NAME.svg and the numbers that it shows as NAME.csv,
    and each table as NAME.csv. A figure of which nothing was measured has no file, and the page says why. Results may be of a run that goes on.

    Args:
      folder: of the results; nothing in it is changed but what is below `out`.
      out: folder to write to; FOLDER/report by default.
      only: names of figures and tables ("figure_4", "table_3"), and "page"; everything by default.
      progress: called with (steps done, steps, name of the step that comes next; "" at the end).

    Returns:
      The files, in the order in which they were written.

    Raises:
      ConfigError: there are no results, a name is unknown, or `out` cannot be written.
      DataError: a record is damaged.
      MissingDependencyError: Matplotlib or Jinja is not installed.
    """
    wanted = _wanted(only)
    results = read_results(folder)
    to = Path(folder).expanduser() / "report" if out is None else Path(out).expanduser()
    whole = PAGE in wanted
    steps = [name for name in [*FIGURES, *TABLES] if whole or name in wanted] + ([PAGE] if whole else [])
    drawn, contents, paths = [], {}, []

    def write(name: str, content: bytes) -> None:
        paths.append(write_output(to / name, content))

    for place, name in enumerate(steps):
        if progress:
            progress(place, len(steps), name)
        if name == PAGE:
            write("index.html", page(results, drawn, contents, datetime.now(UTC)).encode())
        elif name in TABLES:
            contents[name] = TABLES[name].content(results)
            if name in wanted:
                write(f"{name}.csv", csv_bytes(contents[name]))
        else:
            drawn.append(_drawn(results, name))
            if name in wanted and drawn[-1].png is not None:
                write(f"{name}.png", drawn[-1].png)
                write(f"{name}.svg", drawn[-1].svg)
                write(f"{name}.csv", _csv(data(results, name)))
    if progress:
        progress(len(steps), len(steps), "")
    return paths


def _wanted(only: Iterable[str] | None) -> set[str]:
    allowed = [*FIGURES, *TABLES, PAGE]
    if only is None:
        return set(allowed)
    wanted = [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in allowed:
            raise ConfigError(f"There is no figure or table {name!r}.{did_you_mean(str(name), allowed)}")
    if not wanted:
        raise ConfigError(f"only is empty. Give names, or nothing for all: {', '.join(allowed)}.")
    return set(wanted)


def _drawn(results: Results, name: str) -> Drawn:
    title = FIGURES[name].title
    if (reason := why_not(results, name)) is not None:
        return Drawn(name, title, why_not=reason)
    svg, png = (figure_bytes(results, name, file_format) for file_format in ("svg", "png"))
    return Drawn(name, title, caption_parts(results, name), svg, png)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "shots": shots_shown(row["shots"])} if "shots" in row else row for row in rows)
    return buffer.getvalue().encode()
