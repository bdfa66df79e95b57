"""What does a comparison of sketches with exact kernels say? Its cells, what they say together, and a table of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from ntk_select.errors import ConfigError, DataError, first_line


@dataclass(frozen=True)
class ExactCell:
    """The exact kernel of one expert.

    Attributes:
      expert: its name.
      images: n.
      correlation: exact LGC; None where it has no value.
      effective_rank: r = (tr K)^2 / |K|_F^2, between 1 and n.
      norm: |K|_F.
      seconds: of a second call, without compilation.
      bytes: of the kernel, n^2 numbers.
      peak_bytes: memory added at the highest point of a call; None where that cannot be known.
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
        """The relative error |K^ - K|_F / |K|_F to expect of `dim` columns, sqrt((1 + r) / dim); "gaussian" attains it."""
        return float(np.sqrt((1 + self.effective_rank) / dim))


@dataclass(frozen=True)
class SketchCell:
    """One sketch of one expert, beside its exact kernel.

    Attributes:
      expert, kind, dim, seed, blocks: which sketch.
      error: |K^ - K|_F / |K|_F.
      law: what the exact kernel says it should be, sqrt((1 + r) / dim).
      predicted_error, measured_error: what the sketch itself says of it; see `SketchedKernel`. None where it says nothing.
      correlation: LGC from the sketch; None where it has no value, or the exact one has none.
      correlation_error: LGC from the sketch minus the exact one.
      standard_error: of LGC, by the formula; without one, as the blocks disagree.
      low, high: 95 % interval for the exact LGC.
      holds: whether the interval holds it.
      seconds: of the sketch and the kernel Z Z' together; None for the first of several seeds, whose call may compile.
      sketch_seconds: of the sketch alone.
      bytes: of the sketch, n dim numbers.
      peak_bytes: memory added at the highest point of a call, the kernel Z Z' included; the same for all seeds.
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
    """A sketch that cannot be had for an expert, and why."""

    expert: str
    kind: str
    dim: int
    reason: str


@dataclass(frozen=True)
class RankingChange:
    """How the order of the experts by sketched LGC differs from the exact order.

    Attributes:
      kind, dim, seed: of the sketches, the same for all experts.
      spearman, kendall: rank correlation with the exact order; 1 if it is the same.
      same_first: whether the same expert comes first.
    """

    kind: str
    dim: int
    seed: int
    spearman: float
    kendall: float
    same_first: bool


@dataclass(frozen=True)
class Summary:
    """What all experts and seeds say of one kind and dimension.

    Attributes:
      kind, dim: of the sketches.
      cells: how many sketches.
      error, law, predicted_error, measured_error, correlation_error, standard_error: root mean squares of those of the cells
        that have one; None if none has.
      held: share of the intervals that hold the exact LGC; None without intervals.
      spearman, kendall, same_first: means over the seeds of the change of the order; None unless all experts have a value, and
        there are two at least.
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
    """Exact kernels beside sketched ones, for some experts on one probe sample.

    Attributes:
      layers, outputs: what was differentiated; see `gradient_kernel`.
      exact: one cell an expert.
      rows: one cell for each expert, kind, dimension and seed.
      left_out: sketches that could not be had.
    """

    layers: str
    outputs: str
    exact: tuple[ExactCell, ...]
    rows: tuple[SketchCell, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def experts(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(cell.expert for cell in self.exact)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of sketches that are there, in the order in which they were asked for."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions, smallest first."""
        return tuple(sorted({row.dim for row in self.rows}))

    def law(self, dim: int) -> float:
        """The relative error to expect of `dim` columns: root mean square over the experts."""
        return _root_mean_square(cell.law(dim) for cell in self.exact)

    def rankings(self) -> tuple[RankingChange, ...]:
        """The change of the order of the experts, for each kind, dimension and seed for which all experts have a value.

        Empty for a single expert, and where the exact LGC of an expert has no value.
        """
        exact = [cell.correlation for cell in self.exact]
        if len(exact) < 2 or None in exact:
            return ()
        found, names = {}, self.experts
        for row in self.rows:
            found.setdefault((row.kind, row.dim, row.seed), {})[row.expert] = row.correlation
        changes = []
        for address, values in found.items():
            sketched = [values.get(name) for name in names]
            if None in sketched or len(set(sketched)) == 1 or len(set(exact)) == 1:
                continue
            rank = (float(measure(exact, sketched).statistic) for measure in (spearmanr, kendalltau))
            changes.append(RankingChange(*address, *rank, bool(np.argmax(exact) == np.argmax(sketched))))
        return tuple(changes)

    def summaries(self) -> tuple[Summary, ...]:
        """All experts and seeds together, for each kind and, within it, each dimension."""
        changes, order = self.rankings(), {kind: place for place, kind in enumerate(self.kinds)}
        address = lambda row: (order[row.kind], row.dim)  # noqa: E731
        found = []
        for _, group in groupby(sorted(self.rows, key=address), key=address):
            rows = list(group)
            kind, dim = rows[0].kind, rows[0].dim
            moved = [change for change in changes if (change.kind, change.dim) == (kind, dim)]
            found.append(_summary(rows, moved))
        return tuple(found)

    def slopes(self) -> dict[str, float]:
        """For each kind the power of the dimension with which its error falls, by least squares on logarithms; the law says -1/2.

        Kinds with fewer than two dimensions, or an error of zero, have none.
        """
        found = {}
        for kind in self.kinds:
            points = [(cell.dim, cell.error) for cell in self.summaries() if cell.kind == kind]
            if len(points) > 1 and all(error > 0 for _, error in points):
                found[kind] = float(np.polyfit(*np.log(np.array(points)).T, 1)[0])
        return found

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Names of the columns, and one row of texts for each kind and dimension; columns without any value are left out."""
        summaries = self.summaries()
        shown = [(name, [None if value(row) is None else text(value(row)) for row in summaries]) for name, value, text in COLUMNS]
        shown = [(name, cells) for name, cells in shown if any(cell is not None for cell in cells)]
        rows = [tuple(cell if cell is not None else "-" for cell in row) for row in zip(*(cells for _, cells in shown), strict=True)]
        return tuple(name for name, _ in shown), rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold: all cells, and what they say together."""
        return {
            "layers": self.layers,
            "outputs": self.outputs,
            "exact": [asdict(cell) for cell in self.exact],
            "rows": [asdict(row) for row in self.rows],
            "left_out": [asdict(cell) for cell in self.left_out],
            "summaries": [asdict(summary) for summary in self.summaries()],
            "rankings": [asdict(change) for change in self.rankings()],
            "slopes": self.slopes(),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Comparison":
        """The comparison that `to_dict` wrote. Raises DataError for anything else."""
        try:
            parts = {name: tuple(kind(**cell) for cell in record[name]) for name, kind in _PARTS.items()}
            return cls(record["layers"], record["outputs"], **parts)
        except (KeyError, TypeError) as error:
            raise DataError(f"This is no comparison that was saved by this version ({type(error).__name__}: {first_line(error)}).") from error


def merged(parts: Sequence[Comparison]) -> Comparison:
    """Comparisons of different experts as one.

    Raises:
      ConfigError: there are none, they ask different questions, or an expert is in two of them.
    """
    if not parts:
        raise ConfigError("There is no comparison to put together.")
    if len({(part.layers, part.outputs) for part in parts}) > 1:
        raise ConfigError("These comparisons differentiate different layers or outputs, and do not belong together.")
    names = [name for part in parts for name in part.experts]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"Expert {min(twice)!r} is in two of the comparisons.")
    joined = {part: tuple(cell for one in parts for cell in getattr(one, part)) for part in _PARTS}
    return Comparison(parts[0].layers, parts[0].outputs, **joined)


_PARTS = {"exact": ExactCell, "rows": SketchCell, "left_out": LeftOut}
_ROOT_MEAN_SQUARES = ("error", "law", "predicted_error", "measured_error", "correlation_error", "standard_error")


def _summary(rows: list[SketchCell], changes: list[RankingChange]) -> Summary:
    def all_of(name: str, cells=rows):
        return [getattr(cell, name) for cell in cells if getattr(cell, name) is not None]

    def mean(values: list) -> float | None:
        return float(np.mean(values)) if values else None

    return Summary(
        kind=rows[0].kind,
        dim=rows[0].dim,
        cells=len(rows),
        **{name: _root_mean_square(all_of(name)) for name in _ROOT_MEAN_SQUARES},
        held=mean(all_of("holds")),
        **{field.name: mean(all_of(field.name, changes)) for field in fields(RankingChange)[3:]},
        **{name: float(np.median(all_of(name))) for name in ("seconds", "sketch_seconds")},
        **{name: mean(all_of(name)) for name in ("bytes", "peak_bytes")},
    )


def _root_mean_square(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.sqrt(np.mean(np.square(values)))) if values else None


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.3g}"


COLUMNS: tuple[tuple[str, Callable[[Summary], Any], Callable[[Any], str]], ...] = (
    ("kind", lambda cell: cell.kind, str),
    ("dim", lambda cell: cell.dim, str),
    ("error", lambda cell: cell.error, "{:.4f}".format),
    ("law", lambda cell: cell.law, "{:.4f}".format),
    ("predicted", lambda cell: cell.predicted_error, "{:.4f}".format),
    ("measured", lambda cell: cell.measured_error, "{:.4f}".format),
    ("LGC error", lambda cell: cell.correlation_error, "{:.4f}".format),
    ("LGC predicted", lambda cell: cell.standard_error, "{:.4f}".format),
    ("held", lambda cell: cell.held, "{:.0%}".format),
    ("Spearman", lambda cell: cell.spearman, "{:.4f}".format),
    ("Kendall", lambda cell: cell.kendall, "{:.3f}".format),
    ("same first", lambda cell: cell.same_first, "{:.0%}".format),
    ("seconds", lambda cell: cell.seconds, "{:.3f}".format),
    ("sketch MB", lambda cell: cell.bytes, _megabytes),
    ("peak MB", lambda cell: cell.peak_bytes, _megabytes),
)
"""Heads of the table, in order: (name, value of a summary, text of the value)."""
