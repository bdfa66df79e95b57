"""Cells, summaries and table of a comparison of sketched kernels with exact ones; `compare` computes it, `comparison_plot` draws it."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau, spearmanr

from ntk_select.errors import ConfigError, DataError, first_line


@dataclass(frozen=True)
class ExactCell:
    """The exact kernel of one expert.

    Attributes:
      expert: its name.
      images: n.
      correlation: exact LGC; None where it is undefined.
      effective_rank: r = (tr K)^2 / |K|_F^2, between 1 and n.
      norm: |K|_F.
      seconds: Duration of a second call, without compilation.
      bytes: Size of the kernel, n^2 numbers.
      peak_bytes: memory added at the highest point of a call; None if unknown.
    """

    expert: str
    images: int
    correlation: float | None
    effective_rank: float
    norm: float
    seconds: float
    bytes: int
    peak_bytes: int | None = None

    def law(self, dim: int) -> float:
        """The expected relative error |K^ - K|_F / |K|_F of `dim` columns, sqrt((1 + r) / dim); "gaussian" attains it."""
        return float(np.sqrt((1 + self.effective_rank) / dim))


@dataclass(frozen=True)
class SketchCell:
    """One sketch of one expert, compared with its exact kernel.

    Attributes:
      expert, kind, dim, seed, blocks: which sketch.
      error: |K^ - K|_F / |K|_F.
      law: its expected value, sqrt((1 + r) / dim), r from the exact kernel.
      predicted_error, measured_error: the sketch's own estimates of it, see `SketchedKernel`; None if it has none.
      correlation: LGC from the sketch; None if it, or the exact one, is undefined.
      correlation_error: LGC from the sketch minus the exact one.
      standard_error: Standard error of LGC, by the formula; without a formula, from the spread of the blocks.
      low, high: 95 % interval for the exact LGC.
      holds: whether the interval contains the exact LGC.
      seconds: Duration of the sketch and the kernel Z Z'; None for the first of several seeds, whose call may compile.
      sketch_seconds: Duration of the sketch alone.
      bytes: Size of the sketch, n dim numbers.
      peak_bytes: memory added at the highest point of a call, Z Z' included; the same for all seeds.
    """

    expert: str
    kind: str
    dim: int
    seed: int
    blocks: int
    error: float
    law: float
    predicted_error: float | None
    measured_error: float | None
    correlation: float | None
    correlation_error: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    holds: bool | None
    seconds: float | None
    sketch_seconds: float | None
    bytes: int
    peak_bytes: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """A sketch that cannot be computed for an expert, and why."""

    expert: str
    kind: str
    dim: int
    reason: str


@dataclass(frozen=True)
class RankingChange:
    """Ranking of the experts by sketched LGC compared with the exact ranking: rank correlations, and whether the same expert is first."""

    kind: str
    dim: int
    seed: int
    spearman: float
    kendall: float
    same_first: bool


@dataclass(frozen=True)
class Summary:
    """One kind and dimension over all experts and seeds. A field is None where no cell has a value.

    Attributes:
      kind, dim: Kind and dimension of the sketches.
      cells: number of sketches.
      error, law, predicted_error, measured_error, correlation_error, standard_error: root mean squares over the cells.
      held: share of the 95 % intervals that contain the exact LGC.
      spearman, kendall, same_first: means over the seeds; None unless there are two experts and all have a value.
      seconds, sketch_seconds: medians.
      bytes, peak_bytes: means.
    """

    kind: str
    dim: int
    cells: int
    error: float
    law: float
    predicted_error: float | None
    measured_error: float | None
    correlation_error: float | None
    standard_error: float | None
    held: float | None
    spearman: float | None
    kendall: float | None
    same_first: float | None
    seconds: float
    sketch_seconds: float
    bytes: float
    peak_bytes: float | None


@dataclass(frozen=True)
class Comparison:
    """Exact and sketched kernels of some experts on one probe sample.

    Attributes:
      layers, outputs: what was differentiated; see `gradient_kernel`.
      exact: one cell per expert.
      rows: one cell per expert, kind, dimension and seed.
      left_out: sketches that cannot be computed for an expert.
    """

    layers: str
    outputs: str
    exact: tuple[ExactCell, ...]
    rows: tuple[SketchCell, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""
        return tuple(cell.expert for cell in self.exact)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of sketches, in the order requested."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions, smallest first."""
        return tuple(sorted({row.dim for row in self.rows}))

    def law(self, dim: int) -> float:
        """The expected relative error of `dim` columns: root mean square over the experts."""
        return _root_mean_square(cell.law(dim) for cell in self.exact)

    def rankings(self) -> tuple[RankingChange, ...]:
        """Change of the ranking for each kind, dimension and seed; empty for a single expert, or where an LGC is undefined or all are equal."""
        exact, found, changes = [cell.correlation for cell in self.exact], {}, []
        if len(exact) < 2 or None in exact or len(set(exact)) == 1:
            return ()
        for row in self.rows:
            found.setdefault((row.kind, row.dim, row.seed), {})[row.expert] = row.correlation
        for address, values in found.items():
            sketched = [values.get(name) for name in self.experts]
            if None not in sketched and len(set(sketched)) > 1:
                rank = (float(measure(exact, sketched).statistic) for measure in (spearmanr, kendalltau))
                changes.append(RankingChange(*address, *rank, bool(np.argmax(exact) == np.argmax(sketched))))
        return tuple(changes)

    def summaries(self) -> tuple[Summary, ...]:
        """One summary per kind and, within it, per dimension."""
        found, changes = [], self.rankings()
        for kind, dim in itertools.product(self.kinds, self.dims):
            rows, moved = ([cell for cell in cells if (cell.kind, cell.dim) == (kind, dim)] for cells in (self.rows, changes))
            found += [_summary(kind, dim, rows, moved)] if rows else []
        return tuple(found)

    def slopes(self) -> dict[str, float]:
        """Exponent b of error ~ dim^b for each kind, by least squares on logarithms; the law says -1/2.

        Kinds with fewer than two dimensions, or an error of zero, are absent.
        """
        found = {}
        for kind in self.kinds:
            points = [(cell.dim, cell.error) for cell in self.summaries() if cell.kind == kind]
            if len(points) > 1 and all(error > 0 for _, error in points):
                found[kind] = float(np.polyfit(*np.log(np.array(points)).T, 1)[0])
        return found

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Names of the columns, and one row of texts per kind and dimension. Columns without any value are left out."""
        summaries = self.summaries()
        shown = {name: [getattr(row, column.field) for row in summaries] for name, column in COLUMNS.items()}
        shown = {name: values for name, values in shown.items() if any(value is not None for value in values)}
        texts = [["-" if value is None else COLUMNS[name].text(value) for value in values] for name, values in shown.items()]
        return tuple(shown), list(zip(*texts, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: all cells, their summaries, and what `rankings` and `slopes` return."""
        summary = {"summaries": [asdict(cell) for cell in self.summaries()], "rankings": [asdict(change) for change in self.rankings()]}
        return asdict(self) | summary | {"slopes": self.slopes()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Comparison":
        """The comparison that `to_dict` wrote. Raises DataError for anything else."""
        try:
            parts = {name: tuple(kind(**cell) for cell in record[name]) for name, kind in _PARTS.items()}
            return cls(record["layers"], record["outputs"], **parts)
        except (KeyError, TypeError) as error:
            raise DataError(f"This is not a comparison that this version saved ({type(error).__name__}: {first_line(error)}).") from error


_PARTS = {"exact": ExactCell, "rows": SketchCell, "left_out": LeftOut}
_ROOT_MEAN_SQUARES = ("error", "law", "predicted_error", "measured_error", "correlation_error", "standard_error")
_FOUR_DIGITS, _PERCENT, _MEGABYTES = "{:.4f}".format, "{:.0%}".format, lambda value: f"{value / 1e6:.3g}"


class Column(NamedTuple):
    """A column of the printed table: the field of a `Summary`, how a value is printed, and what it means."""

    field: str
    text: Callable[[Any], str]
    meaning: str = ""


COLUMNS = {
    "kind": Column("kind", str),
    "dim": Column("dim", str),
    "error": Column("error", _FOUR_DIGITS, "|sketched - exact kernel| / |exact kernel|, Frobenius norm"),
    "law": Column("law", _FOUR_DIGITS, "that error by theory, from the exact kernel"),
    "predicted": Column("predicted_error", _FOUR_DIGITS, "that error by the formula, from the sketch alone"),
    "measured": Column("measured_error", _FOUR_DIGITS, "that error from the spread of the sketch's blocks"),
    "LGC error": Column("correlation_error", _FOUR_DIGITS, "error of the kernel's correlation with the labels"),
    "LGC predicted": Column("standard_error", _FOUR_DIGITS, "its standard error, from the sketch alone"),
    "coverage": Column("held", _PERCENT, "share of the 95 % intervals that contain the exact LGC"),
    "Spearman": Column("spearman", _FOUR_DIGITS, "rank correlation with the ranking of the experts by the exact kernels"),
    "Kendall": Column("kendall", "{:.3f}".format, "the same by Kendall"),
    "same first": Column("same_first", _PERCENT, "share of seeds with the same first expert"),
    "seconds": Column("seconds", "{:.3f}".format, "median time of a kernel"),
    "sketch MB": Column("bytes", _MEGABYTES, "size of the sketch"),
    "peak MB": Column("peak_bytes", _MEGABYTES, "largest amount of memory added"),
}
"""Columns of the table, in order. Errors are root mean squares over the seeds."""


def _summary(kind: str, dim: int, rows: list[SketchCell], changes: list[RankingChange]) -> Summary:
    def over(cells: list, name: str, statistic: Callable = np.mean) -> float | None:
        values = [getattr(cell, name) for cell in cells if getattr(cell, name) is not None]
        return float(statistic(values)) if values else None

    return Summary(
        kind,
        dim,
        len(rows),
        held=over(rows, "holds"),
        **{name: over(rows, name, _root_mean_square) for name in _ROOT_MEAN_SQUARES},
        **{field.name: over(changes, field.name) for field in fields(RankingChange)[3:]},
        **{name: over(rows, name, np.median) for name in ("seconds", "sketch_seconds")},
        **{name: over(rows, name) for name in ("bytes", "peak_bytes")},
    )


def _root_mean_square(values: Iterable[float]) -> float:
    return float(np.sqrt(np.mean(np.square(list(values)))))


def merged(parts: Sequence[Comparison]) -> Comparison:
    """Comparisons of different experts merged into one.

    Raises:
      ConfigError: no comparison is given, they differ in layers or outputs, or two contain the same expert.
    """
    if not parts:
        raise ConfigError("There is no comparison to merge.")
    if len({(part.layers, part.outputs) for part in parts}) > 1:
        raise ConfigError("These comparisons differentiate different layers or outputs, and cannot be merged.")
    names = [name for part in parts for name in part.experts]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"Expert {min(twice)!r} is in two of the comparisons.")
    joined = {part: tuple(cell for one in parts for cell in getattr(one, part)) for part in _PARTS}
    return Comparison(parts[0].layers, parts[0].outputs, **joined)
