"""Files of a report: the page, figures, and tables."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from ntk_select._runtime.files import write_output
from ntk_select.benchmark.report.columns import csv_bytes
from ntk_select.benchmark.report.figures import FIGURES, caption_parts, data, figure_bytes, why_not
from ntk_select.benchmark.report.page import Drawn, page
from ntk_select.benchmark.report.results import Results, read_results
from ntk_select.benchmark.report.tables import TABLES, content
from ntk_select.benchmark.report.words import TEXTS, shots_shown
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
    """Writes the report of the results in a folder.

    index.html is the page, with everything on it. In the same folder are each figure as NAME.png and NAME.svg with its numbers as NAME.csv, and
    each table as NAME.csv. A figure of which nothing was measured has no file, and the page gives the reason. A run may be unfinished.

    Args:
      folder: Folder of the results; nothing in it is changed except below `out`.
      out: folder to write to; FOLDER/report by default.
      only: names of figures and tables ("figure_4", "table_3"), and "page"; everything by default.
      progress: called with (steps done, steps, name of the next step; "" at the end).

    Returns:
      The files, in the order in which they were written.

    Raises:
      ConfigError: there are no results, a name is unknown, or `out` cannot be written.
      DataError: a record is damaged.
      MissingDependencyError: Matplotlib, Jinja or pandas is not installed.
    """
    wanted = _wanted(only)
    results = read_results(folder)
    to = Path(folder).expanduser() / "report" if out is None else Path(out).expanduser()
    whole = PAGE in wanted
    steps = [name for name in [*FIGURES, *TABLES] if whole or name in wanted] + ([PAGE] if whole else [])
    drawn, contents, paths = [], {}, []

    def write(name: str, file: bytes) -> None:
        paths.append(write_output(to / name, file))

    for place, name in enumerate(steps):
        if progress:
            progress(place, len(steps), name)
        if name == PAGE:
            write("index.html", page(results, drawn, contents, datetime.now(UTC)).encode())
        elif name in TABLES:
            contents[name] = content(results, name)
            if name in wanted:
                write(f"{name}.csv", contents[name].csv())
        else:
            drawn.append(figure := _drawn(results, name))
            if name in wanted and figure.png is not None:
                write(f"{name}.png", figure.png)
                write(f"{name}.svg", figure.svg)
                write(f"{name}.csv", figure_csv(results, name))
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
        raise ConfigError(f"only is empty. Allowed: {', '.join(allowed)}. Try: only=None for all of them.")
    return set(wanted)


def _drawn(results: Results, name: str) -> Drawn:
    title = TEXTS[name]["title"]
    if (reason := why_not(results, name)) is not None:
        return Drawn(name, title, why_not=reason)
    svg, png = (figure_bytes(results, name, file_format) for file_format in ("svg", "png"))
    return Drawn(name, title, caption_parts(results, name), svg, png)


def figure_csv(results: Results, name: str) -> bytes:
    """The numbers of a figure as a CSV file."""
    return csv_bytes([{**row, "shots": shots_shown(row["shots"])} if "shots" in row else row for row in data(results, name)])
