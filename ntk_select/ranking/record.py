"""A ranking, and its forms: table, JSON, pandas, files."""

import csv
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntk_select._runtime.figures import format_of
from ntk_select._runtime.files import write_output
from ntk_select.errors import did_you_mean, missing
from ntk_select.scores import SCORES, ScoreResult, Unavailable
from ntk_select.scores.dissimilarity import ranked
from ntk_select.scores.record import is_telling

LONGEST, MOST_REMARKS = 300, 12
"""Letters of a remark below the table, and remarks."""
UNEVEN = 0.3
"""Difference of the two sides of an interval, in units of its width, from which both ends are shown."""
MOST_COLUMNS = 6
"""Scores that a printed ranking shows side by side."""
CONTENDER, EQUAL = "~", "="
"""Stand behind the rank of an expert that cannot be told from the best, or has the same value."""


@dataclass(frozen=True)
class ExpertScores:
    """One row of a ranking.

    Attributes:
      rank: 1 is best. Experts whose deciding score is unavailable come last.
      scores: outcome of each score, by name.
      seconds: time by step: "load", "preprocess", "cache" (looking up what is known), "forward", "backward" (gradients and their
        kernel), "scores", "intervals". Steps that were not needed are absent.
      score_seconds: of "scores", by score.
    """

    rank: int
    name: str
    source: str | None
    architecture: str | None
    num_params: int
    scores: dict[str, ScoreResult | Unavailable]
    seconds: dict[str, float]
    score_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        """Time of all steps."""
        return sum(self.seconds.values())


OF_ACCURACY = ("accuracy", "accuracy_low", "accuracy_high", "learning_rate")
"""Details of a forecast that stand beside its value."""


@dataclass(frozen=True)
class Failure:
    """An expert that could not be scored, and the sentence that says why."""

    name: str
    error: str


@dataclass(frozen=True)
class Ranking:
    """Experts in the order in which they are worth fine-tuning, best first.

    `len(ranking)`, iteration and `ranking[0]` are over the experts; `ranking["name"]` is the row of one.

    Attributes:
      task: name, uri, classes, images seen, copies left out, images per class, seed, warnings.
      score_names: the scores.
      deciding: the score that decides the order: the first that at least half of the experts have.
      evidence: how well that score has predicted accuracy after fine-tuning, in one sentence; "" where no expert has it.
      fine_tuning: recipe and learning rates of the forecast; None where there is none.
      experts: best first.
      failures: experts that could not be scored.
      contenders: names of the experts that cannot be told from the best one, itself the first; empty if no expert has the deciding score.
      judgement: that in words, what the best is expected to reach, and whom other scores put first.
      higher_is_better: the direction of each score.
      shared_seconds: time spent once for all experts: "reference" (a network trained on the task), "extractor".
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
        """Name of the first expert; None when none could be scored."""
        return self.experts[0].name if self.contenders else None

    @property
    def tied(self) -> int:
        """Number of `contenders`: 1 where the best stands alone, 0 where no expert has the deciding score."""
        return len(self.contenders)

    def __len__(self):
        return len(self.experts)

    def __iter__(self) -> Iterator[ExpertScores]:
        return iter(self.experts)

    def __getitem__(self, key: int | slice | str) -> ExpertScores | tuple[ExpertScores, ...]:
        """The row at a place, the rows of a slice, or the row of a name. Raises IndexError or KeyError."""
        if not isinstance(key, str):
            return self.experts[key]
        for row in self.experts:
            if row.name == key:
                return row
        raise KeyError(f"{key!r} is not in this ranking.{did_you_mean(key, [row.name for row in self.experts])}")

    def places(self, name: str) -> dict[str, float]:
        """Place of each expert by one score, 1 the best, those that tie on the mean of their places; experts without it are absent."""
        sign = -1 if self.higher_is_better.get(name, True) else 1
        known = [expert for expert in self.experts if isinstance(expert.scores[name], ScoreResult)]
        ranks = ranked([sign * expert.scores[name].value for expert in known])
        return {expert.name: float(rank) for expert, rank in zip(known, ranks, strict=True)}

    def shown_rank(self, row: ExpertScores) -> str:
        """The rank, with a mark behind it where the expert cannot be told from the best, or has the same value."""
        if row.name not in self.contenders[1:]:
            return str(row.rank)
        name = self.deciding or self.score_names[0]
        return f"{row.rank} {EQUAL if row.scores[name].value == self.experts[0].scores[name].value else CONTENDER}"

    @property
    def marks(self) -> list[str]:
        """What the marks behind ranks mean, those that occur."""
        shown = {self.shown_rank(row)[-1] for row in self.experts}
        said = {CONTENDER: "cannot be told from the first (95 %, over the choice of images).", EQUAL: "has the same value as the first."}
        return [f"{mark} {meaning}" for mark, meaning in said.items() if mark in shown]

    def _table(self) -> list[list[str]]:
        """Rows of text under a heading; of many scores only the deciding one."""
        names = self.score_names if len(self.score_names) <= MOST_COLUMNS else (self.deciding or self.score_names[0],)
        cells = [[self.shown_rank(row), row.name, *(cell(row.scores[name], name) for name in names)] for row in self.experts]
        return [["rank", "expert", *names], *cells]

    def _lines_below(self) -> list[str]:
        marked = self.marks
        remarks = [f"{', '.join(names)} unavailable{extent}: {reason}" for (extent, reason), names in self.reasons().items()]
        remarks += [f"{', '.join(names)}: {remark}" for remark, names in self.remarks().items()]
        remarks += [f"{failure.name} failed: {failure.error}" for failure in self.failures]
        remarks += [f"Note: {warning}" for warning in self.task.get("warnings", ())]
        remarks = [remark if len(remark) <= LONGEST else remark[: LONGEST - 4] + " ..." for remark in remarks]
        if len(remarks) > MOST_REMARKS:
            remarks[MOST_REMARKS:] = [f"and {len(remarks) - MOST_REMARKS} more remarks: see failures, and the reason of each score that is not there"]
        hidden = len(self.score_names) - len(self._table()[0]) + 2
        marked += [f"{hidden} more scores: to_pandas() has all."] if hidden else []
        return [*marked, *remarks, *filter(None, (self.judgement, self.evidence))]

    def __repr__(self):
        table = self._table()
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]
        return "\n".join([f"Ranking of {len(self.experts)} experts for {self.task['name']}", *lines, *self._lines_below()])

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        cells = [f"<tr>{''.join(f'<th>{html.escape(text)}</th>' for text in head)}</tr>"]
        cells += [f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows]
        title = html.escape(f"Ranking of {len(self.experts)} experts for {self.task['name']}")
        return "".join([f"<p>{title}</p><table>{''.join(cells)}</table>", *(f"<p>{html.escape(line)}</p>" for line in self._lines_below())])

    def remarks(self) -> dict[str, list[str]]:
        """Names of the scores whose values say little, by one expert's remark for all."""
        found: dict[str, list[str]] = {}
        for name in self.score_names:
            remarks = [row.scores[name].remark for row in self.experts if isinstance(row.scores[name], ScoreResult) and row.scores[name].remark]
            if remarks:
                found.setdefault(remarks[0], []).append(name)
        return found

    def reasons(self) -> dict[tuple[str, str], list[str]]:
        """Names of the scores that lack for the same reason, by how many experts lack them ("" for all) and one expert's reason for all."""
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
                outcome = expert.scores[name]
                known = isinstance(outcome, ScoreResult)
                row |= {
                    name: outcome.value if known else None,
                    f"{name}_low": outcome.low if known else None,
                    f"{name}_high": outcome.high if known else None,
                }
            row["seconds"] = expert.total_seconds
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The ranking as JSON-ready values; what `ntk-select rank --json` prints."""

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
                    "seconds": _rounded(e.seconds),
                    "score_seconds": _rounded(e.score_seconds),
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
            "shared_seconds": _rounded(self.shared_seconds),
        }

    def to_pandas(self):
        """The ranking as a pandas DataFrame, one row per expert. Raises MissingDependencyError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise missing("pandas", "Ranking.to_pandas") from error
        return pandas.DataFrame(self._rows())

    def save(self, folder: str | Path) -> list[Path]:
        """Writes ranking.json, ranking.csv and ranking.parquet (and ranking.png with matplotlib), each whole or not at all.

        Where three scores can be compared also agreement.json (and .png): which of them order the experts alike.

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
            "ranking.json": (json.dumps(self.to_dict(), indent=1) + "\n").encode(),
            "ranking.csv": text.getvalue().encode(),
            "ranking.parquet": _parquet(rows),
        }
        from ntk_select.ranking import agree, plot

        together = agree.agreement(self)
        together = together if len(together.known) > 2 else None
        if together is not None:
            contents["agreement.json"] = (json.dumps(together.to_dict(), indent=1) + "\n").encode()
        try:
            contents["ranking.png"] = plot.figure_bytes(self, "png")
            if together is not None:
                contents["agreement.png"] = agree.figure_bytes(together, "png", self.task["name"])
        except ImportError:
            pass
        return [write_output(folder / name, content) for name, content in contents.items()]

    def report(self, path: str | Path) -> Path:
        """Writes the figure of the ranking: .png, .svg or .pdf. Raises ConfigError for another ending or an unwritable place."""
        from ntk_select.ranking.plot import figure_bytes

        path = Path(path).expanduser()
        return write_output(path, figure_bytes(self, format_of(path)))


def firsts(rows: Sequence[ExpertScores], name: str, higher_is_better: bool = True) -> list[str]:
    """Names of the experts that are best by one score: several where they tie, none where no expert has it or it would fit any labels."""
    known = {row.name: row.scores[name].value for row in rows if is_telling(row.scores[name])}
    best = (max if higher_is_better else min)(known.values(), default=None)
    return [expert for expert, value in known.items() if value == best]


def cell(outcome: ScoreResult | Unavailable, name: str) -> str:
    """A score as a table shows it: 0.204 ±0.022; 0.98 [0.90, 1.00] where the interval lies unevenly around the value; in per cent where it is an
    accuracy; with what chance gives where it says little."""
    if not isinstance(outcome, ScoreResult):
        return "-"
    percent = name in SCORES and SCORES[name].unit == "accuracy"
    factor, places, unit = (100, 1, " %") if percent else (1, 3 if abs(outcome.value) < 100 else 1, "")
    text = f"{factor * outcome.value:.{places}f}"
    if outcome.low is not None:
        below, above = outcome.value - outcome.low, outcome.high - outcome.value
        even = abs(above - below) <= UNEVEN * (above + below)
        text += (
            f" ±{factor * (below + above) / 2:.{places}f}" if even else f" [{factor * outcome.low:.{places}f}, {factor * outcome.high:.{places}f}]"
        )
    chance = f" (chance {outcome.by_chance['value']:.{places}f})" if "value" in outcome.by_chance else ""
    return text + unit + chance


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {step: round(value, 4) for step, value in seconds.items()}


def _parquet(rows) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing("pyarrow", "Saving a ranking") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()
