"""Reproduces the paper from measured records: figures 1 to 8, tables 1 to 4, and further measures.

    python scripts/reproduce_paper.py                                  # the embedded benchmark's records, scripts/results/embedded
    python scripts/reproduce_paper.py --records runs/mine --only figure_4 table_3

Equivalent to `ntk-select bench report`, with the main findings printed. To measure the records again, see
scripts/configs/embedded_benchmark.toml; the paper's own benchmark is scripts/configs/paper_benchmark.toml.
"""

from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.summary import BEST, RANDOM, baselines, measured, usable_targets
from ntk_select.benchmark.report.write import report
from ntk_select.cli.console import progress_bar
from ntk_select.cli.options import split

CONSOLE = Console(width=140)
RECORDS = Path(__file__).parent / "results" / "embedded"
SCORES = ("forecast", "lfc", "lgc", "leep", "static_leaderboard", "num_params")


def findings(records: Path) -> Table:
    """Gain of the first three, trials to the best expert and Spearman's correlation of some scores, a random order (exactly) and a perfect score, with 95 % intervals."""
    results = read_results(records)
    table = Table(title=f"{results.name}: {len(results.task_names)} targets")
    for column in ("shots", "score", "targets", "gain of the first 3, points", "trials to the best", "Spearman"):
        table.add_column(column)
    for shots in results.shots:
        gain, trials, spearman = (
            measured(results, measure, shots, scores=SCORES, **options) | baselines(results, measure, shots, **options)
            for measure, options in (("top_k_gain", {"k": 3}), ("trials_to_best", {}), ("spearman", {}))
        )
        for score in trials:
            targets = len(usable_targets(results, None if score in (RANDOM, BEST) else score, "trials_to_best", shots))
            points = f"{100 * gain[score].value:.1f} [{100 * gain[score].low:.1f}, {100 * gain[score].high:.1f}]" if score in gain else "-"
            table.add_row("all" if shots is None else str(shots), score, str(targets), points, str(trials[score]), str(spearman[score]))
    return table


def main(records: Path = RECORDS, out: Path = Path("runs/paper"), only: tuple[str, ...] = ()) -> None:
    """Writes the report and prints the main findings.

    Args:
      records: folder of a benchmark, as `bench run --out` or `bench pack --out` writes it.
      out: folder for index.html, figures and tables.
      only: figure_1 to figure_8, table_1 to table_4, or others by name; all by default.
    """
    with progress_bar("writing") as progress:
        paths = report(records, out, only=split(only) or None, progress=progress)
    CONSOLE.print(findings(records))
    CONSOLE.print(f"wrote {len(paths)} files into {out}")


if __name__ == "__main__":
    tyro.cli(main)
