"""Columns and content of the tables of the report, and CSV files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ntk_select.benchmark.report.words import TEXTS
from ntk_select.evaluate import Interval


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
      name: The name in files.
      title: The title on the page, with the unit.
      decimals: Number of decimals that are shown; None for text.
      interval: whether cells are `Interval`s; files have columns NAME, NAME_low and NAME_high.
      nothing: what is shown for a missing value.
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
        """The number or text to sort by; None for a missing value."""
        return _known(cell.value if isinstance(cell, Interval) else cell)

    def shown(self, cell: Any) -> str:
        """The cell as text, such as 0.41 [0.12, 0.66]."""
        value = self.plain(cell)
        if value is None:
            return self.nothing
        if not self.number or isinstance(value, str):
            return str(value)
        text = _fixed(value, self.decimals)
        if isinstance(cell, Interval) and math.isfinite(cell.low):
            text += f" [{_fixed(cell.low, self.decimals)}, {_fixed(cell.high, self.decimals)}]"
        return text

    def in_file(self, cell: Any) -> dict[str, Any]:
        """The cell by the names of the columns of files, numbers in full."""
        ends = {end: _known(getattr(cell, end, None)) for end in ("low", "high")} if self.interval else {}
        return {self.name: self.plain(cell), **{f"{self.name}_{end}": value for end, value in ends.items()}}


def _known(value: Any) -> Any:
    return None if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)) else value


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if decimals else f"{round(value):,}".replace(",", "\u2009")


INTERVALS = ("difference", "gain_points")
"""Columns of intervals."""


def columns(names: str, *others: Column) -> list[Column]:
    """The columns of these names, separated by spaces; `others` replace those of the same name, or follow."""
    special = {column.name: column for column in others}
    first = [special.pop(name) if name in special else _column(name) for name in names.split()]
    return first + list(special.values())


def _column(name: str) -> Column:
    title, *decimals = TEXTS["columns"].get(name, [name.replace("_", " ")])
    return Column(name, title, *decimals, interval=name in INTERVALS, nothing="" if name in ("mark", "why") else "-")


@dataclass(frozen=True)
class Content:
    """A table of some results.

    Attributes:
      columns: one per cell of a row.
      rows: Rows of texts, numbers, intervals, and None for a missing value.
      missing: sentences on what is missing.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    missing: Sequence[str] = ()

    def csv(self) -> bytes:
        """The table as a CSV file: UTF-8, numbers in full, empty cells for missing values."""
        rows = [{k: v for column, cell in zip(self.columns, row, strict=True) for k, v in column.in_file(cell).items()} for row in self.rows]
        return csv_bytes(rows, [name for column in self.columns for name in column.in_file(None)])


def csv_bytes(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> bytes:
    """Rows as a CSV file; `names` of the columns, by default those of the rows."""
    return pd.DataFrame(list(rows), columns=names, dtype=object).to_csv(index=False, lineterminator="\n").encode()
