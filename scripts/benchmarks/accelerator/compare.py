"""Verdicts: of an accelerator against the CPU, of float32 against float64 on the CPU, and of each device on its own."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accelerator.check import distance, misplaced

OK, OFF, FAILED, SKIPPED, NOT_MADE, NOTHING = "ok", "OFF", "FAILED", "skipped", "not made", "-"
Name = tuple[str, str]
"""Role ("accelerator" or "CPU") and type of a run."""
COMPARISONS: dict[str, tuple[Name, Name]] = {
    "accelerator with CPU, float32": (("accelerator", "float32"), ("CPU", "float32")),
    "accelerator with CPU, float64": (("accelerator", "float64"), ("CPU", "float64")),
    "CPU, float32 with float64": (("CPU", "float32"), ("CPU", "float64")),
}


@dataclass(frozen=True)
class Run:
    """One part in one setting.

    Attributes:
      rows: one per check, as `measure` writes them.
      values: arrays by "NUMBER OF THE CHECK/NAME".
      facts: device, platform, devices, peak_bytes, memory_bytes.
      missing: why there are no rows; "" if there are.
      failed: whether that is a failure.
    """

    rows: tuple[dict, ...] = ()
    values: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Verdict:
    """The worst of several distances, in units of what is allowed; or why there is none; or that nothing was to be compared."""

    verdict: str
    what: str = ""
    off: float = 0.0
    allowed: float = 0.0
    reason: str = ""

    def __str__(self):
        if self.verdict in (OK, OFF):
            return f"{self.off:.1e} of {self.allowed:.0e}{'' if self.verdict == OK else ' ' + OFF}"
        return self.verdict


@dataclass(frozen=True)
class Row:
    """All verdicts of one check.

    Attributes:
      comparisons: by the names in `COMPARISONS`.
      laws, repeat: the worst over all runs: identities on one device, and a second call against the first.
      times: first, compiling, again, and tflops and share where operations are counted, by run.
    """

    part: str
    check: str
    comparisons: dict[str, Verdict]
    laws: Verdict
    repeat: Verdict
    times: dict[str, dict[str, float]]

    @property
    def all(self) -> dict[str, Verdict]:
        """Every verdict by what was compared."""
        return {**self.comparisons, "identities on one device": self.laws, "second call with the first": self.repeat}

    @property
    def verdict(self) -> str:
        """The worst."""
        found = {verdict.verdict for verdict in self.all.values()}
        return next((word for word in (FAILED, OFF, OK, SKIPPED) if word in found), NOTHING if self.times else NOT_MADE)


def rows_of(part: str, runs: dict[Name, Run]) -> list[Row]:
    """The verdicts of a part. `runs` has all four; those that were not made say why."""
    names = list(dict.fromkeys(row["name"] for run in runs.values() for row in run.rows))
    if not names:
        names = [part]
    return [_row(part, name, runs) for name in names]


def _row(part: str, name: str, runs: dict[Name, Run]) -> Row:
    found = {key: _found(run, name) for key, run in runs.items()}
    measured = {key: row for key, (row, _) in found.items() if "again" in row}
    laws = {f"{law}, {' '.join(key)}": tuple(pair) for key, row in measured.items() for law, pair in row["laws"].items()}
    repeat = {
        f"{value}, {' '.join(key)}": (row["repeat"][value], allowed[key[1] == "float64"])
        for key, row in measured.items()
        for value, allowed in row["allowed"].items()
    }
    comparisons = {title: _compared(found[left], found[right], left, right) for title, (left, right) in COMPARISONS.items()}
    return Row(part, name, comparisons, _worst(laws), _worst(repeat), {" ".join(key): _times(runs[key], row) for key, row in measured.items()})


def _found(run: Run, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Row and values of a check."""
    for number, row in enumerate(run.rows):
        if row["name"] == name:
            prefix = f"{number}/"
            return row, {key.removeprefix(prefix): value for key, value in run.values.items() if key.startswith(prefix)}
    return {"failed" if run.failed else "missing": run.missing or "was not reached"}, {}


def _compared(left, right, left_name: Name, right_name: Name) -> Verdict:
    (row, found), (other, expected) = left, right
    for key, verdict in (("failed", FAILED), ("skipped", SKIPPED), ("missing", NOT_MADE)):
        for side, name in ((row, left_name), (other, right_name)):
            if key in side:
                return Verdict(verdict, reason=f"{' '.join(name)}: {side[key]}" if key == "failed" else side[key])
    if left_name[1] != right_name[1] and row["drawn"]:
        return Verdict(NOT_MADE, reason="its random numbers depend on the type")
    allowed = {name: pair[left_name[1] == "float64"] for name, pair in row["allowed"].items()}
    distances = {name: (distance(found[name], expected[name]), most) for name, most in allowed.items()}
    for places, values in row["order"].items():
        distances[f"pairs in another order by {values}"] = (misplaced(found[places], expected[places], expected[values], allowed[values]), 0.0)
    return _worst(distances)


def _worst(distances: dict[str, tuple[float, float]]) -> Verdict:
    if not distances:
        return Verdict(NOTHING)
    name, (off, allowed) = max(distances.items(), key=lambda item: _excess(*item[1]))
    return Verdict(OK if off <= allowed else OFF, name, off, allowed)


def _excess(off: float, allowed: float) -> float:
    if allowed:
        return off / allowed
    return float("inf") if off else 0.0


def _times(run: Run, row: dict) -> dict[str, float]:
    times = {key: row[key] for key in ("first", "compiling", "again", "tflops") if key in row}
    peaks = {other["name"]: other.get("tflops") for other in run.rows}
    if row.get("peak") and peaks.get(row["peak"]):
        times["share"] = row["tflops"] / peaks[row["peak"]]
    return times
