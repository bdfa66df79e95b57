"""What is a table of the report, and what does it look like in a file?"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import Results
from ntk_select.evaluate import Interval


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
      name: in files.
      title: on the page, with the unit.
      decimals: with which a number is shown; None for text.
      interval: whether cells are `Interval`s; files have columns NAME, NAME_low and NAME_high.
      nothing: what is shown where there is nothing.
    """

    name: str
    title: str
    decimals: int | None = None
    interval: bool = False
    nothing: str = "-"

    @property
    def number(self) -> bool:
        """Whether its cells are numbers (or intervals)."""
        return self.decimals is not None

    def plain(self, cell: Any) -> Any:
        """What is sorted by: the number, the text, or None where there is nothing."""
        cell = cell.value if isinstance(cell, Interval) else cell
        return None if cell is None or cell == "" or (isinstance(cell, float) and not math.isfinite(cell)) else cell

    def shown(self, cell: Any) -> str:
        """The cell in words, as 0.41 [0.12, 0.66]."""
        value = self.plain(cell)
        if value is None:
            return self.nothing
        if not self.number or isinstance(value, str):
            return str(value)
        text = _fixed(value, self.decimals)
        if isinstance(cell, Interval) and math.isfinite(cell.low):
            text += f" [{_fixed(cell.low, self.decimals)}, {_fixed(cell.high, self.decimals)}]"
        return text


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if decimals else f"{round(value):,}".replace(",", "\u2009")


@dataclass(frozen=True)
class Content:
    """A table of some results.

    Attributes:
      columns: as many as each row has cells.
      rows: of texts, numbers, intervals, and None where there is nothing.
      missing: sentences on what is not there.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
      title: of a line.
      note: sentences on what the numbers mean.
      content: what it holds, given results.
    """

    title: str
    note: str
    content: Callable[[Results], Content]


def csv_bytes(content: Content) -> bytes:
    """The table as a CSV file: UTF-8, numbers in full, empty cells where there is nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [[column.name, f"{column.name}_low", f"{column.name}_high"] if column.interval else [column.name] for column in content.columns]
    writer.writerow([name for each in names for name in each])
    for row in content.rows:
        writer.writerow([value for column, cell in zip(content.columns, row, strict=True) for value in _in_file(column, cell)])
    return buffer.getvalue().encode()


def _in_file(column: Column, cell: Any) -> list[Any]:
    plain = column.plain(cell)
    if not column.interval:
        return ["" if plain is None else plain]
    ends = [cell.low, cell.high] if isinstance(cell, Interval) else [None, None]
    return ["" if value is None or not math.isfinite(value) else value for value in (plain, *ends)]


def in_points(found: Interval | None) -> Interval | None:
    """An interval of fractions in percentage points."""
    return None if found is None else replace(found, value=100 * found.value, low=100 * found.low, high=100 * found.high)


def of_targets(found: Interval | None, targets: int) -> Interval | None:
    """The interval; where one target alone has a value the mean, for nothing is known of others."""
    return found if found is None or targets - found.undefined > 1 else replace(found, low=math.nan, high=math.nan)


def shots_shown(shots: Images) -> int | str:
    """Images of a class as they stand in tables."""
    return "all" if shots is None else shots
