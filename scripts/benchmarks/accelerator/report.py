"""The result as tables for a terminal and in Markdown, as sentences on what is off, and as JSON."""

from collections import Counter
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from accelerator.compare import COMPARISONS, FAILED, NOT_MADE, NOTHING, OFF, OK, SKIPPED, Name, Row, Run


def tables(rows: list[Row], runs: dict[str, dict[Name, Run]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Columns and cells by title."""
    verdicts = [[row.part, row.check, *map(str, row.comparisons.values()), str(row.laws), str(row.repeat), row.verdict] for row in rows]
    timed = [
        [row.part, row.check, run, *(f"{times[key]:.3g}" for key in ("first", "compiling", "again")), _rate(times)]
        for row in rows
        for run, times in row.times.items()
    ]
    memory = [
        [part, " ".join(name), "unknown" if run.facts["peak_bytes"] is None else f"{run.facts['peak_bytes'] / 1e9:.2f}"]
        for part, by_name in runs.items()
        for name, run in by_name.items()
        if run.facts
    ]
    return {
        "Relative distance of what is allowed": (["part", "check", *COMPARISONS, "identities", "repeated", ""], verdicts),
        "Seconds": (["part", "check", "run", "first call", "of it compiling", "a later call", "TFLOP/s, of the product's"], timed),
        "Peak memory, GB": (["part", "run", "GB"], memory),
    }


def _rate(times: dict[str, float]) -> str:
    return "" if "tflops" not in times else f"{times['tflops']:.3g}" + (f", {times['share']:.0%}" if "share" in times else "")


def sentences(rows: list[Row], devices: dict[str, str], alone: str) -> list[str]:
    """What was compared with what, what is off, what was left out and why, and the result."""
    found = [f"{role}: {device}." for role, device in devices.items()]
    if alone:
        found.append(f"Comparisons with an accelerator were not made: {alone}.")
    for row in rows:
        for compared, verdict in row.all.items():
            if verdict.verdict == OFF:
                found.append(
                    f"{OFF}: {row.part}, {row.check}, {compared}: {verdict.what} is off by {verdict.off:.2e}; allowed: {verdict.allowed:.0e}."
                )
            elif verdict.verdict == FAILED:
                found.append(f"{FAILED}: {row.part}, {row.check}, {compared}: {verdict.reason}.")
    left = dict.fromkeys(
        f"{verdict.verdict}: {row.part}, {row.check}, {compared}: {verdict.reason}."
        for row in rows
        for compared, verdict in row.comparisons.items()
        if verdict.verdict in (SKIPPED, NOT_MADE) and verdict.reason != alone
    )
    repeated = [row.repeat.off for row in rows if row.repeat.verdict in (OK, OFF)]
    bits = f"Repeated bit for bit: {sum(off == 0 for off in repeated)} of {len(repeated)} checks."
    return [*found, *left, bits, _result(rows)]


def right(rows: list[Row]) -> bool:
    """Whether nothing is off and nothing failed."""
    return not any(verdict.verdict in (OFF, FAILED) for row in rows for verdict in row.all.values())


def _result(rows: list[Row]) -> str:
    counts = Counter(row.verdict for row in rows)
    made = sum(verdict.verdict == OK for row in rows for title, verdict in row.comparisons.items() if title.startswith("accelerator"))
    compared = any(verdict.verdict in (OK, OFF) for row in rows for title, verdict in row.comparisons.items() if title.startswith("accelerator"))
    of = f"{made} comparisons of the accelerator with the CPU are within what is allowed" if compared else "no accelerator was compared"
    return f"{'Nothing is off' if right(rows) else 'SOME RESULTS ARE WRONG'}. Checks: {_list(counts)}; {of}."


def _list(counts: Counter) -> str:
    return ", ".join(f"{count} {'timed only' if verdict == NOTHING else verdict}" for verdict, count in counts.items())


def show(rows: list[Row], runs, lines: list[str]) -> None:
    """Prints tables and sentences."""
    console = Console(width=190)
    for title, (columns, cells) in tables(rows, runs).items():
        table = Table(*columns, title=title)
        for line in cells:
            table.add_row(*line)
        console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def markdown(rows: list[Row], runs, lines: list[str], title: str) -> str:
    """The same as a page."""
    parts = [f"# {title}", "\n".join(f"- {line}" for line in lines)]
    for heading, (columns, cells) in tables(rows, runs).items():
        table = [columns, ["---"] * len(columns), *cells]
        parts.append(f"## {heading}\n\n" + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table))
    return "\n\n".join(parts) + "\n"


def record(rows: list[Row], runs, lines: list[str], facts: dict) -> dict:
    """The same as JSON."""
    memory = {part: {" ".join(name): run.facts for name, run in by_name.items() if run.facts} for part, by_name in runs.items()}
    return {**facts, "right": right(rows), "sentences": lines, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows], "runs": memory}
