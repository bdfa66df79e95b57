"""Comparison of sketched kernels with the exact ones: error, LGC, ranking, time and memory by kind and dimension.

`compare` computes the cells, one per expert, kind, dimension and seed; `Comparison` holds and summarises them;
`comparison_plot` draws them.
"""

import ctypes
import gc
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.stats import kendalltau, spearmanr

from ntk_select._runtime.checks import check_progress, is_whole
from ntk_select.errors import ConfigError, DataError, ModelError, TaskError, UndefinedScoreError, did_you_mean, first_line
from ntk_select.experts.expert import Expert
from ntk_select.experts.probe import has_pooled_last_conv
from ntk_select.kernels.alignment import checked_labels, kernel_label_correlation
from ntk_select.kernels.gradients import OUTPUTS, expert_inputs, gradient_kernel, gradient_sketch
from ntk_select.kernels.sketches import Sketch, SketchedKernel, sketched_correlation
from ntk_select.kernels.sketches.projection import ALL_KINDS

Experts = Mapping[str, Expert | Callable[[], Expert]]
Inputs = Float[np.ndarray, "n ..."] | Callable[[Expert], Float[np.ndarray, "n ..."]]
DIMS = (512, 2048, 8192)
PROCESS = Path("/proc/self")
"""Where Linux reports the memory of this process."""


@dataclass(frozen=True)
class ExactCell:
    """The exact kernel of one expert.

    Attributes:
      expert: its name.
      images: n.
      correlation: exact LGC; None where it is undefined.
      effective_rank: r = (tr K)^2 / |K|_F^2, between 1 and n.
      norm: |K|_F.
      seconds: of a second call, without compilation.
      bytes: of the kernel, n^2 numbers.
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
      standard_error: of LGC, by the formula; without a formula, from the spread of the blocks.
      low, high: 95 % interval for the exact LGC.
      holds: whether the interval contains the exact LGC.
      seconds: of the sketch and the kernel Z Z'; None for the first of several seeds, whose call may compile.
      sketch_seconds: of the sketch alone.
      bytes: of the sketch, n dim numbers.
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
      kind, dim: of the sketches.
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


def compare(
    experts: Experts,
    inputs: Inputs,
    labels: Int[np.ndarray, " n"],
    *,
    kinds: Sequence[str] = ALL_KINDS,
    dims: Sequence[int] = DIMS,
    seeds: Sequence[int] = (0, 1, 2),
    most_dim: Mapping[str, int] | None = None,
    layers: str = "last_conv",
    outputs: str = "trace",
    blocks: int | None = None,
    memory: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Computes the exact kernel and LGC of each expert, and those of a sketch for each kind, dimension and seed.

    Args:
      experts: by name, each an `Expert` or a function that loads one. One expert is in memory at a time.
      inputs: preprocessed network inputs of the probe sample; or a function of the expert that returns them, where experts differ in that.
      labels: class ids, any integers.
      kinds, dims, seeds: of the sketches. A seed is the same projection for all experts of one architecture.
      most_dim: {kind: largest dimension}, for kinds that take too long beyond it.
      layers, outputs: as for `gradient_kernel`; strings only.
      blocks: of each sketch; None as `gradient_sketch` chooses.
      memory: also measure the peak memory, with one more call for each kind and dimension, and for the exact kernel.
      progress: called with (done, all, what) before each kind and dimension of each expert, and at the end.

    Returns:
      A `Comparison`. Times exclude compilation: the first seed's sketch of a kind and dimension is not timed, and if it
      is the only one it is made again.

    Raises:
      ConfigError, ModelError, TaskError: invalid arguments, checked for all experts before anything is compiled.

    Cost: for each expert two exact kernels (three with `memory`), and seeds + 1 sketches of each kind and dimension.
    """
    labels = checked_labels(labels)
    if len(np.unique(labels)) < 2:
        raise TaskError("All examples are of one class; a correlation with the labels needs at least two.")
    _check_experts(experts, layers, outputs)
    cells = _checked_cells(kinds, dims, blocks, most_dim or {})
    seeds = _integers("seeds", seeds, "0, 1")
    if not callable(inputs):
        _check_inputs(np.asarray(inputs), labels, "inputs")
    check_progress(progress)
    steps, calls = len(experts) * (1 + len(cells)), itertools.count()
    say = (lambda what: progress(next(calls), steps, what)) if progress else lambda _: None
    exact, rows, left_out = [], [], []
    for name, given in experts.items():
        say(f"{name}: exact")
        expert = _loaded(name, given)
        x = _check_inputs(np.asarray(inputs(expert) if callable(inputs) else inputs), labels, f"inputs of {name}")
        kernel, found = _exact(name, lambda: gradient_kernel(expert, x, layers=layers, outputs=outputs), labels, memory)  # noqa: B023
        exact.append(found)
        for kind, dim in cells:
            say(f"{name}: {kind}, {dim}")

            def draw(seed: int, kind=kind, dim=dim, expert=expert, x=x) -> SketchedKernel:
                return gradient_sketch(expert, x, Sketch(dim, kind, seed, blocks), layers=layers, outputs=outputs)

            try:
                rows += _sketched(found, kernel, labels, draw, seeds, memory)
            except ConfigError as error:  # the exact kernel was accepted, so it is this sketch that does not fit
                left_out.append(LeftOut(name, kind, dim, str(error)))
    say("done")
    return Comparison(layers, outputs, tuple(exact), tuple(rows), tuple(left_out))


def _exact(name: str, run: Callable[[], np.ndarray], labels, memory: bool) -> tuple[np.ndarray, ExactCell]:
    run()
    kernel, seconds = timed(run)
    norm = float(np.linalg.norm(kernel))
    if not norm > 0:
        raise ModelError(f"The kernel of expert {name!r} is zero, so that relative errors are undefined.")
    try:
        correlation = kernel_label_correlation(kernel, labels)
    except UndefinedScoreError:
        correlation = None
    peak = peak_added(run) if memory else None
    return kernel, ExactCell(name, len(kernel), correlation, float(np.trace(kernel)) ** 2 / norm**2, norm, seconds, kernel.nbytes, peak)


def _sketched(exact: ExactCell, kernel: np.ndarray, labels, draw: Callable[[int], SketchedKernel], seeds: list[int], memory: bool):
    """The cells of one kind and dimension. The first call compiles; a second call of the same seed is timed if there is no other seed."""
    first, rows = draw(seeds[0]), []
    peak = peak_added(lambda: draw(seeds[0]).kernel) if memory else None
    for seed in seeds:
        sketched, sketch_seconds, seconds = first, None, None
        if seed != seeds[0] or len(seeds) == 1:
            sketched, sketch_seconds = timed(lambda seed=seed: draw(seed))
            seconds = sketch_seconds + timed(lambda sketched=sketched: sketched.kernel)[1]
        rows.append(
            SketchCell(
                expert=exact.expert,
                kind=sketched.kind,
                dim=sketched.dim,
                seed=seed,
                blocks=sketched.blocks,
                error=float(np.linalg.norm(sketched.kernel - kernel)) / exact.norm,
                law=exact.law(sketched.dim),
                predicted_error=sketched.predicted_error(),
                measured_error=sketched.measured_error(),
                **_score(sketched, labels, exact.correlation),
                seconds=seconds,
                sketch_seconds=sketch_seconds,
                bytes=sketched.sketch.nbytes,
                peak_bytes=peak,
            )
        )
    return rows


def _score(sketched: SketchedKernel, labels, exact: float | None) -> dict[str, Any]:
    names = ("correlation", "correlation_error", "standard_error", "low", "high", "holds")
    try:
        score = None if exact is None else sketched_correlation(sketched, labels)
    except UndefinedScoreError:
        score = None
    if score is None:
        return dict.fromkeys(names)
    error = score.standard_error if score.standard_error is not None else score.measured_error
    holds = None if score.low is None else bool(score.low <= exact <= score.high)
    return dict(zip(names, (score.value, score.value - exact, error, score.low, score.high, holds), strict=True))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the seconds it took."""
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


def peak_added(run: Callable[[], Any]) -> int | None:
    """Peak host memory that a call adds to the memory in use before it, in bytes; None where it cannot be measured.

    Freed memory is first returned to the system, since it would not be counted when it is used again. On accelerators,
    whose memory this is not, and outside Linux the result is None and the call is not made.
    """

    def status(key: str) -> int:
        lines = (PROCESS / "status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])

    if jax.default_backend() != "cpu":
        return None
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")  # resets the high-water mark to the memory in use
        before = status("VmRSS")
    except (OSError, AttributeError, LookupError, ValueError):
        return None
    run()
    return max(0, status("VmHWM") - before)


def _checked_cells(kinds, dims, blocks, most_dim: Mapping[str, int]) -> list[tuple[str, int]]:
    """The pairs of kind and dimension, kind by kind, smallest dimension first. Raises ConfigError."""
    if isinstance(kinds, str):
        raise ConfigError(f"kinds={kinds!r} must be a sequence. Try: kinds=({kinds!r},)")
    kinds, dims = list(dict.fromkeys(kinds)), sorted(_integers("dims", dims, "256, 1024"))
    if not kinds:
        raise ConfigError(f"kinds= names no kind of sketch.{did_you_mean('', ALL_KINDS)}")
    for kind in most_dim:
        if kind not in ALL_KINDS:
            raise ConfigError(f"most_dim: there is no sketch {kind!r}.{did_you_mean(str(kind), ALL_KINDS)}")
    sketches = [Sketch(dim, kind, blocks=blocks) for kind in kinds for dim in dims if dim <= most_dim.get(kind, dim)]  # checks the values
    if not sketches:
        raise ConfigError(f"most_dim leaves no dimension: the smallest is {dims[0]}.")
    return [(sketch.kind, sketch.dim) for sketch in sketches]


def _integers(name: str, values, example: str) -> list[int]:
    """Distinct integers, at least one. Raises ConfigError."""
    numbers = list(values) if isinstance(values, Sequence | np.ndarray | range) and not isinstance(values, str) else []
    if not numbers or not all(map(is_whole, numbers)):
        raise ConfigError(f"{name}={values!r} must be a sequence of whole numbers, one at least. Try: {name}=({example})")
    return list(dict.fromkeys(map(int, numbers)))


def _check_experts(experts, layers: str, outputs: str) -> None:
    """Raises before any computation for what an expert lacks. Each expert is loaded for the check, and released."""
    if not isinstance(experts, Mapping) or not experts:
        raise ConfigError("experts= takes a mapping from names to experts, or to functions that load them, with at least one.")
    if not isinstance(layers, str):
        raise ConfigError(f"layers={layers!r} must be 'last_conv', 'all', or a regular expression over parameter paths.")
    if not isinstance(outputs, str) or outputs not in OUTPUTS:
        raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(str(outputs), OUTPUTS)}")
    for name, given in experts.items():
        expert = _loaded(name, given)
        if layers == "last_conv" and has_pooled_last_conv(expert) and expert.head is None and outputs != "features":
            raise ModelError(f"Expert {name!r} has no head, and so no gradient of outputs. Try: outputs='features'")
        expert_inputs(expert, layers, outputs)


def _loaded(name: str, given) -> Expert:
    expert = given if isinstance(given, Expert) else given() if callable(given) else given
    if not isinstance(expert, Expert):
        raise ConfigError(f"experts[{name!r}] gives a {type(expert).__name__}; expected an Expert, or a function that returns one.")
    return expert


def _check_inputs(x: np.ndarray, labels: np.ndarray, what: str) -> np.ndarray:
    if x.ndim == 0 or len(x) != len(labels):
        raise TaskError(f"The {what} have shape {x.shape} for {len(labels)} labels; each example needs one label.")
    return x
