"""What did a self-check find, and how is it shown?"""

import math
from dataclasses import dataclass

import numpy as np

VERDICTS = ("holds", "FAILS", "skipped", "notice")
Outcome = tuple[float, float, str]  # of one law: difference, tolerance, remark
AGREED: Outcome = (math.nan, math.nan, "")  # where no numbers are compared


class Skip(Exception):
    """A law cannot be tried here; the message says why."""


class Notice(Exception):
    """Worth a look, but no failure."""


def relative(given, expected) -> float:
    """Largest difference over the largest number expected."""
    given, expected = np.asarray(given, np.float64), np.asarray(expected, np.float64)
    if given.shape != expected.shape:
        return math.inf
    worst, scale = float(np.abs(given - expected).max()), float(np.abs(expected).max())
    if worst == 0:
        return 0.0
    return worst / scale if scale else worst * math.inf


@dataclass(frozen=True)
class Check:
    """One law and what came of it.

    Attributes:
      law: the identity.
      compared: on what.
      verdict: "holds", "FAILS", "skipped", or "notice" (worth a look, but no failure).
      difference: the largest one, relative to the largest number compared; NaN where nothing was compared.
      tolerance: what `difference` may be at most.
      remark: of a failure the usual cause; why it was skipped; or what else was measured.
    """

    law: str
    compared: str
    verdict: str
    difference: float = math.nan
    tolerance: float = math.nan
    remark: str = ""


@dataclass(frozen=True)
class SelfCheck:
    """What `selfcheck` found. Print it.

    Attributes:
      subject: how much of the model was looked at, and in which precision.
      checks: a `Check` for each law.
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether no law fails. Skipped laws and notices do not count."""
        return not any(check.verdict == "FAILS" for check in self.checks)

    def __str__(self):
        counts = {verdict: sum(check.verdict == verdict for check in self.checks) for verdict in VERDICTS}
        widths = [max(len(text) for text in ("law", *(check.law for check in self.checks))), max(len(check.compared) for check in self.checks)]
        lines = [
            f"{self.subject}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count),
            "",
            f"{'law':{widths[0]}}  {'compared':{widths[1]}}  difference  tolerance  verdict",
        ]
        for check in self.checks:
            numbers = (check.difference, check.tolerance)
            difference, tolerance = ("-" if all(map(math.isnan, numbers)) else f"{value:.1e}" for value in numbers)
            lines.append(f"{check.law:{widths[0]}}  {check.compared:{widths[1]}}  {difference:>10}  {tolerance:>9}  {check.verdict}")
            lines += [f"    {check.remark}"] if check.remark else []
        return "\n".join(lines)

    __repr__ = __str__
