"""A ranking and its representations: table, HTML, JSON, pandas, files."""

import csv
import html
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from ntk_select._runtime.figures import format_of
from ntk_select._runtime.files import write_output
from ntk_select.errors import ConfigError, DataError, did_you_mean, explained, few, first_line, missing
from ntk_select.ranking.agreement import agreement
from ntk_select.ranking.plot import ranking_figure
from ntk_select.scores import SCORES, ScoreResult, Unavailable
from ntk_select.scores.score import is_informative

MAX_NOTE_LENGTH, MAX_NOTES = 300, 12
"""Characters of a note below the table, and number of notes."""
UNEVEN = 0.3
"""Difference of the two sides of an interval, in units of its width, above which both ends are shown."""
MAX_COLUMNS = 6
"""Largest number of scores in a printed table."""
CONTENDER, EQUAL = "~", "="
"""Marks after the rank of an expert that cannot be distinguished from the best, or has the same value."""


@dataclass(frozen=True)
class ExpertScores:
    """One row of a ranking.

    Attributes:
      rank: 1 is best. Experts without the deciding score are last.
      scores: outcome of each score, by name.
      seconds: time by step: "load", "preprocess", "cache" (look-up), "forward", "backward" (gradients and their
        kernel), "inputs" (a score's own), "scores", "intervals". Steps that were not needed are absent.
      score_seconds: time of "scores", by score.
    """

    rank: int
    name: str
    source: str | None
    architecture: str | None
    num_params: int | None
    scores: dict[str, ScoreResult | Unavailable]
    seconds: dict[str, float]
    score_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        """Time of all steps."""
        return sum(self.seconds.values())


RECORD = "ranking.json"
"""File of a saved ranking that `load` reads."""
BRACKETS = "{score}: accuracy to expect after fine-tuning; in ( ) the value that orders the experts."
OF_ACCURACY = ("accuracy", "accuracy_low", "accuracy_high", "learning_rate")
"""Details of a forecast that its JSON has next to the value."""


@dataclass(frozen=True)
class Failure:
    """An expert that could not be scored, and the error message."""

    name: str
    error: str


@dataclass(frozen=True)
class Ranking:
    """Experts in the order in which to try fine-tuning, best first.

    `len(ranking)`, iteration and `ranking[0]` are over the experts; `ranking["name"]` is the row of one.

    Attributes:
      task: name, uri, classes, images of the probe sample, duplicates left out, images per class, seed, warnings.
      score_names: names of the scores.
      deciding: the score that determines the order: the first that at least half of the experts have.
      evidence: how well that score has predicted accuracy after fine-tuning, in one sentence; "" if no expert has it.
      fine_tuning: recipe and learning rates of the forecast; None without one.
      experts: best first.
      failures: experts that could not be scored.
      contenders: names of the experts that cannot be distinguished from the best, starting with the best; empty if no expert has the deciding score.
      judgement: the verdict in words, the expected accuracy of the best, and the experts that other scores put first.
      higher_is_better: the direction of each score.
      shared_seconds: time spent once for all experts: "reference" (a network trained on the task), "extractor", "test images" (their comparison
        with the training images).
    """

    task: dict[str, Any]
    score_names: tuple[str, ...]
    experts: tuple[ExpertScores, ...]
    failures: tuple[Failure, ...] = ()
    contenders: tuple[str, ...] = ()
    judgement: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    shared_seconds: dict[str, float] = field(default_factory=dict)
    deciding: str = ""
    evidence: str = ""
    fine_tuning: dict[str, Any] | None = None

    @property
    def best(self) -> str | None:
        """Name of the first expert; None if no expert has the deciding score."""
        return self.experts[0].name if self.contenders else None

    @property
    def tied(self) -> int:
        """Number of `contenders`: 1 if the best can be distinguished from all others, 0 if no expert has the deciding score."""
        return len(self.contenders)

    def __len__(self):
        return len(self.experts)

    def __iter__(self) -> Iterator[ExpertScores]:
        return iter(self.experts)

    def __getitem__(self, key: int | slice | str) -> ExpertScores | tuple[ExpertScores, ...]:
        """The row at an index, the rows of a slice, or the row of a name. Raises IndexError or KeyError."""
        if not isinstance(key, str):
            return self.experts[key]
        for row in self.experts:
            if row.name == key:
                return row
        raise KeyError(f"{key!r} is not in this ranking.{did_you_mean(key, [row.name for row in self.experts])}")

    def places(self, name: str) -> dict[str, float]:
        """Place of each expert by one score, 1 is best, ties have their mean place; experts without the score are absent."""
        from scipy.stats import rankdata

        sign = -1 if self.higher_is_better.get(name, True) else 1
        known = [expert for expert in self.experts if isinstance(expert.scores[name], ScoreResult)]
        ranks = rankdata([sign * expert.scores[name].value for expert in known])
        return {expert.name: float(rank) for expert, rank in zip(known, ranks, strict=True)}

    def shown_rank(self, row: ExpertScores) -> str:
        """The rank, with a mark if the expert cannot be distinguished from the best or has the same value."""
        if row.name not in self.contenders[1:]:
            return str(row.rank)
        name = self.deciding or self.score_names[0]
        return f"{row.rank} {EQUAL if row.scores[name].value == self.experts[0].scores[name].value else CONTENDER}"

    @property
    def marks(self) -> list[str]:
        """The meaning of the marks after ranks and of numbers in brackets, for those that occur."""
        shown = {self.shown_rank(row)[-1] for row in self.experts}
        meanings = {CONTENDER: "cannot be distinguished from the first (95 %, over the choice of images).", EQUAL: "has the same value as the first."}
        marks = [f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in shown]
        for name in self.score_names:
            found = [row.scores[name] for row in self.experts]
            if name in SCORES and any(isinstance(outcome, ScoreResult) and SCORES[name].shows_accuracy(outcome) for outcome in found):
                marks.append(BRACKETS.format(score=name))
        return marks

    def _table(self, names: Sequence[str] | None = None) -> list[list[str]]:
        """Rows of text below a heading; of many scores only the deciding one, unless scores are named."""
        if names is None:
            names = self.score_names if len(self.score_names) <= MAX_COLUMNS else (self.deciding or self.score_names[0],)
        cells = [[self.shown_rank(row), row.name, *(cell(row.scores[name], name) for name in names)] for row in self.experts]
        return [["rank", "expert", *names], *cells]

    def notes(self) -> list[str]:
        """Sentences on what is missing or uncertain: unavailable scores, remarks on values, failures, warnings."""
        notes = [f"{', '.join(names)} unavailable{extent}: {reason}" for (extent, reason), names in self.reasons().items()]
        notes += [f"{', '.join(names)}: {remark}" for remark, names in self.remarks().items()]
        notes += [f"{failure.name} failed: {failure.error}" for failure in self.failures]
        return notes + [f"Note: {warning}" for warning in self.task.get("warnings", ())]

    def summary_lines(self, hidden: bool = True) -> list[str]:
        """The lines below a printed ranking: marks, the number of scores that are not shown (if `hidden`), notes (shortened where they are long or
        many), judgement and evidence."""
        notes = [note if len(note) <= MAX_NOTE_LENGTH else note[: MAX_NOTE_LENGTH - 4] + " ..." for note in self.notes()]
        if len(notes) > MAX_NOTES:
            notes[MAX_NOTES:] = [f"and {len(notes) - MAX_NOTES} more notes: see notes()"]
        more = len(self.score_names) - len(self._table()[0]) + 2 if hidden else 0
        return [*self.marks, *([f"{more} more scores: see to_pandas()."] if more else []), *notes, *filter(None, (self.judgement, self.evidence))]

    def _title(self) -> str:
        return f"Ranking of {len(self.experts)} expert{'s' if len(self.experts) != 1 else ''} for {self.task['name']}"

    def __repr__(self):
        table = self._table()
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]
        return "\n".join([self._title(), *lines, *self.summary_lines()])

    def _repr_html_(self) -> str:
        """All scores as a table of a notebook, the deciding one first; contenders are bold, and reasons and remarks are shown on hovering."""
        deciding = self.deciding or self.score_names[0]
        names = (deciding, *(name for name in self.score_names if name != deciding))
        head, *rows = self._table(names)
        lines = [f"<tr>{''.join(f'<th>{html.escape(text)}</th>' for text in head)}</tr>"]
        for expert, texts in zip(self.experts, rows, strict=True):
            marks = ("<b>", "</b>") if expert.name in self.contenders else ("", "")
            hints = ["", "", *(_hint(expert.scores[name]) for name in names)]
            lines.append(f"<tr>{''.join(_html_cell(text, hint, *marks) for text, hint in zip(texts, hints, strict=True))}</tr>")
        title = html.escape(self._title())
        below = (f"<p>{html.escape(line)}</p>" for line in self.summary_lines(hidden=False))
        return "".join([f"<p>{title}</p><table>{''.join(lines)}</table>", *below])

    def remarks(self) -> dict[str, list[str]]:
        """Names of the scores whose values are not informative, by the remark of one expert."""
        found: dict[str, list[str]] = {}
        for name in self.score_names:
            remarks = [row.scores[name].remark for row in self.experts if isinstance(row.scores[name], ScoreResult) and row.scores[name].remark]
            if remarks:
                found.setdefault(remarks[0], []).append(name)
        return found

    def reasons(self) -> dict[tuple[str, str], list[str]]:
        """Names of unavailable scores, by how many experts lack them ("" for all) and the reason of one expert."""
        found: dict[tuple[str, str], list[str]] = {}
        for name in self.score_names:
            reasons = [e.scores[name].reason for e in self.experts if not isinstance(e.scores[name], ScoreResult)]
            if reasons:
                extent = "" if len(reasons) == len(self.experts) else f" for {len(reasons)} of {len(self.experts)}"
                found.setdefault((extent, reasons[0]), []).append(name)
        return found

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for expert in self.experts:
            row = {"rank": expert.rank, "expert": expert.name, "source": expert.source, "architecture": expert.architecture}
            row["parameters"] = expert.num_params
            for name in self.score_names:
                for ending, attribute in (("", "value"), ("_low", "low"), ("_high", "high")):
                    row[name + ending] = getattr(expert.scores[name], attribute, None)
                if name in SCORES and (shown := SCORES[name].shown):
                    details = getattr(expert.scores[name], "details", {})
                    row |= {f"{name}_{detail}": details.get(detail) for detail in (shown, f"{shown}_low", f"{shown}_high")}
            row["seconds"] = expert.total_seconds
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The ranking as JSON-ready values, as `ntk-select rank --json` prints them."""

        def outcome(result: ScoreResult | Unavailable):
            if isinstance(result, Unavailable):
                return {"value": None, "low": None, "high": None, "unavailable": result.reason}
            details = {"details": dict(result.details)} if result.details else {}
            details |= {name: result.details[name] for name in OF_ACCURACY if name in result.details}
            details |= {"remark": result.remark, "by_chance": dict(result.by_chance)} if result.remark else {}
            return {"value": result.value, "low": result.low, "high": result.high, **details}

        return {
            "task": self.task,
            "scores": list(self.score_names),
            "deciding": self.deciding,
            "fine_tuning": self.fine_tuning,
            "experts": [
                {
                    "name": e.name,
                    "rank": e.rank,
                    "source": e.source,
                    "architecture": e.architecture,
                    "parameters": e.num_params,
                    "scores": {name: outcome(e.scores[name]) for name in self.score_names},
                    "seconds": dict(e.seconds),
                    "score_seconds": dict(e.score_seconds),
                }
                for e in self.experts
            ],
            "failures": [{"name": f.name, "error": f.error} for f in self.failures],
            "tied": self.tied,
            "contenders": list(self.contenders),
            "judgement": self.judgement,
            "evidence": self.evidence,
            "firsts": {name: firsts(self.experts, name, self.higher_is_better.get(name, True)) for name in self.score_names},
            "versions": self.versions,
            "higher_is_better": self.higher_is_better,
            "shared_seconds": dict(self.shared_seconds),
        }

    def to_pandas(self):
        """The ranking as a pandas DataFrame with everything it contains.

        One row per expert, best first: rank, expert, source, architecture, parameters; for every score SCORE, SCORE_low and SCORE_high, for those
        that have them SCORE_unavailable (the reason), SCORE_remark, SCORE_by_chance, every detail as SCORE_DETAIL (forecast_learning_rate), and
        SCORE_seconds; seconds, and seconds_STEP by step. Experts that failed follow, with `error` and without a rank. `attrs` has all other fields of
        the ranking, by their names in `to_dict`. Whole numbers are of type Int64, which has missing values.

        Raises:
          MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise missing("pandas", "Ranking.to_pandas") from error
        rows = [own | more for own, more in zip(self._rows(), map(_further_columns, self.experts), strict=True)]
        rows += [{"expert": failure.name, "error": failure.error} for failure in self.failures]
        first = dict.fromkeys(["rank", "expert", *(name for row in self._rows() for name in row)])
        columns = list(first | dict.fromkeys(name for row in rows for name in row))
        frame = pandas.DataFrame(rows, columns=columns)
        for name in {"rank", "parameters"} & set(columns):
            frame[name] = frame[name].astype("Int64")
        frame.attrs = {name: value for name, value in self.to_dict().items() if name not in ("experts", "failures")}
        return frame

    @classmethod
    def load(cls, path: str | Path) -> "Ranking":
        """The ranking that `save` wrote, equal to the original in all fields.

        Args:
          path: the folder, or its ranking.json.

        Raises:
          ConfigError: there is none.
          DataError: the file is damaged, or is no ranking.
        """
        path = Path(path).expanduser()
        file = path / RECORD if os.path.isdir(path) else path
        if os.path.exists(file) and not os.path.isfile(file):
            raise ConfigError(f"{str(file)!r} is not a file. Try: the folder of Ranking.save (ntk-select rank --out)")
        try:
            record = json.loads(file.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
        except OSError as error:
            raise ConfigError(
                f"{str(path)!r} contains no ranking ({file.name}: {error.strerror}). Try: the folder of Ranking.save (ntk-select rank --out)"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file} cannot be read as JSON ({first_line(error)}). Try: rank again, with the same folder for resume (--out)"
            ) from error
        try:
            return _ranking(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{file} is not a ranking of this version ({explained(error)}). Try: rank again, with the same folder for resume (--out)"
            ) from error

    def save(self, folder: str | Path) -> list[Path]:
        """Writes ranking.json, ranking.csv and ranking.parquet (and ranking.png with matplotlib), each atomically.

        If at least three scores can be compared, also agreement.json (and .png), the correlations between scores.

        Returns the paths. Raises ConfigError when the folder cannot be written.
        """
        folder = Path(folder).expanduser()
        text = io.StringIO()
        rows = self._rows()
        if rows:
            writer = csv.DictWriter(text, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        contents = {
            RECORD: (json.dumps(self.to_dict(), indent=1) + "\n").encode(),
            "ranking.csv": text.getvalue().encode(),
            "ranking.parquet": _parquet(rows),
        }
        between_scores = agreement(self)
        compared = len(between_scores.known) > 2
        if compared:
            contents["agreement.json"] = (json.dumps(between_scores.to_dict(), indent=1) + "\n").encode()
        try:
            contents["ranking.png"] = ranking_figure(self, "png")
            if compared:
                contents["agreement.png"] = between_scores.figure("png", self.task["name"])
        except ImportError:
            pass
        return [write_output(folder / name, content) for name, content in contents.items()]

    def report(self, path: str | Path) -> Path:
        """Writes the figure of the ranking: .png, .svg or .pdf. Raises ConfigError for another ending or an unwritable place."""
        path = Path(path).expanduser()
        return write_output(path, ranking_figure(self, format_of(path)))


Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Details(TypedDict, total=False):
    """Types of the details of a score that are shown; any others may be there."""

    accuracy: Finite
    accuracy_low: Finite
    accuracy_high: Finite
    learning_rate: Finite


class _Score(TypedDict):
    value: Finite | None
    low: Finite | None
    high: Finite | None
    unavailable: NotRequired[str]
    details: NotRequired[Details]
    remark: NotRequired[str]
    by_chance: NotRequired[dict[str, Finite]]


class _Row(TypedDict):
    name: str
    rank: Whole
    source: str | None
    architecture: str | None
    parameters: Whole | None
    scores: dict[str, _Score]
    seconds: dict[str, Finite]
    score_seconds: dict[str, Finite]


class _Failure(TypedDict):
    name: str
    error: str


class _Task(TypedDict):
    name: str
    images: Whole
    classes: Whole
    seed: Whole
    warnings: NotRequired[list[str]]


class _Record(TypedDict):
    """What `Ranking.to_dict` makes and `Ranking.load` reads."""

    task: _Task
    scores: Annotated[list[str], Meta(min_length=1)]
    deciding: str
    fine_tuning: dict[str, Any] | None
    experts: list[_Row]
    failures: list[_Failure]
    contenders: list[str]
    judgement: str
    evidence: str
    versions: dict[str, Any]
    higher_is_better: dict[str, bool]
    shared_seconds: dict[str, Finite]


def _finite(text: str) -> float:
    """A number of a JSON file. Raises ValueError if it is infinite or NaN."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _ranking(record: Mapping[str, Any]) -> Ranking:
    """The ranking of a dictionary as `Ranking.to_dict` makes it. Raises TypeError, ValueError or KeyError for any other."""
    msgspec.convert(record, _Record)  # raises a ValueError; what it makes of the record lacks the other facts of the task
    names = tuple(record["scores"])
    rows = [
        ExpertScores(
            *(row["rank"], row["name"], row["source"], row["architecture"], row["parameters"]),
            {name: _outcome(row["scores"][name]) for name in names},
            dict(row["seconds"]),
            dict(row["score_seconds"]),
        )
        for row in record["experts"]
    ]
    same = ("task", "deciding", "fine_tuning", "judgement", "evidence", "versions", "higher_is_better", "shared_seconds")
    failures = tuple(Failure(failure["name"], failure["error"]) for failure in record["failures"])
    deciding, contenders = record["deciding"] or names[0], tuple(record["contenders"])
    if deciding not in names:
        raise ValueError(f"the deciding score {deciding!r} is not one of {', '.join(names)}")
    with_value = [row.name for row in rows if isinstance(row.scores[deciding], ScoreResult)]
    if contenders and (not set(contenders) <= set(with_value) or contenders[0] != rows[0].name):
        raise ValueError(f"the contenders {few(contenders)} are not experts with the score {deciding}, starting with the first")
    return Ranking(score_names=names, experts=tuple(rows), failures=failures, contenders=contenders, **{name: record[name] for name in same})


def _outcome(found: Mapping[str, Any]) -> ScoreResult | Unavailable:
    if "unavailable" in found:
        return Unavailable(found["unavailable"])
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None or (low is None) != (high is None):
        raise ValueError(f"{value!r}, {[low, high]!r}: a score and its limits must be numbers")
    remark = found.get("remark", "")
    by_chance = found.get("by_chance", {}) if remark else {}
    return ScoreResult(value, low, high, found.get("details", {}), remark=remark, by_chance=by_chance)


def _further_columns(row: ExpertScores) -> dict[str, Any]:
    """The columns of a row besides those that all files have."""
    found: dict[str, Any] = {}
    for name, outcome in row.scores.items():
        if isinstance(outcome, Unavailable):
            found[f"{name}_unavailable"] = outcome.reason
            continue
        found |= {f"{name}_{detail}": value for detail, value in outcome.details.items() if detail not in ("low", "high")}
        found |= {f"{name}_remark": outcome.remark, f"{name}_by_chance": outcome.by_chance.get("value")} if outcome.remark else {}
    found |= {f"{name}_seconds": seconds for name, seconds in row.score_seconds.items()}
    return found | {f"seconds_{step}": seconds for step, seconds in row.seconds.items()}


def _hint(outcome: ScoreResult | Unavailable) -> str:
    """What a notebook shows on hovering over a score."""
    return outcome.reason if isinstance(outcome, Unavailable) else outcome.remark


def _html_cell(text: str, hint: str, before: str, after: str) -> str:
    title = f' title="{html.escape(hint)}"' if hint else ""
    return f"<td{title}>{before}{html.escape(text)}{after}</td>"


def firsts(rows: Sequence[ExpertScores], name: str, higher_is_better: bool = True) -> list[str]:
    """Names of the experts that are best by one score: several if they tie, none if no expert has an informative value."""
    known = {row.name: row.scores[name].value for row in rows if is_informative(row.scores[name])}
    best = (max if higher_is_better else min)(known.values(), default=None)
    return [expert for expert, value in known.items() if value == best]


def cell(outcome: ScoreResult | Unavailable, name: str) -> str:
    """A score as a table shows it: 0.204 ±0.022; 0.98 [0.90, 1.00] if the interval is not symmetric; in per cent if it is an
    accuracy; with the value by chance if it is not informative. A forecast is shown as the expected accuracy, and the value that
    orders the experts: 78.3 ±5.0 % (0.92)."""
    if not isinstance(outcome, ScoreResult):
        return "-"
    score = SCORES.get(name)
    if score is not None and score.shows_accuracy(outcome):
        return f"{_with_interval(*score.displayed(outcome), 100, 1)} % ({outcome.value:.2f})"
    percent = score is not None and score.unit == "accuracy"
    factor, places, unit = (100, 1, " %") if percent else (1, 3 if abs(outcome.value) < 100 else 1, "")
    text = _with_interval(outcome.value, outcome.low, outcome.high, factor, places)
    chance = f" (chance {outcome.by_chance['value']:.{places}f})" if "value" in outcome.by_chance else ""
    return text + unit + chance


def _with_interval(value: float, low: float | None, high: float | None, factor: int, places: int) -> str:
    text = f"{factor * value:.{places}f}"
    if low is None or high is None:
        return text
    below, above = value - low, high - value
    even = abs(above - below) <= UNEVEN * (above + below)
    return text + (f" ±{factor * (below + above) / 2:.{places}f}" if even else f" [{factor * low:.{places}f}, {factor * high:.{places}f}]")


def _parquet(rows) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing("pyarrow", "Saving a ranking") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()
