"""Everything that the paper shows, from measured records: figures 1 to 8, tables 1 to 4, and the measures that it lacks.

    python scripts/reproduce_paper.py                                  # the embedded benchmark's records, which lie beside this file
    python scripts/reproduce_paper.py --records runs/mine --only figure_4 table_3

The same as `ntk-select bench report`, with the main findings printed. To measure the records anew, see scripts/configs/embedded_benchmark.toml; the paper's
own benchmark is scripts/configs/paper_benchmark.toml.
"""

from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from ntk_select import evaluate
from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.write import report
from ntk_select.cli.console import progress_bar, split

CONSOLE = Console(width=140)
RECORDS = Path(__file__).parent / "results" / "embedded"


def findings(records: Path) -> Table:
    """Of LFC, LGC and the baselines: gain of the first three, trials to the best expert, Spearman's correlation, with 95 % intervals over targets."""
    results = read_results(records)
    table = Table(title=f"{results.name}: {len(results.task_names)} targets")
    for column in ("shots", "score", "targets", "gain of the first 3, points", "trials to the best", "Spearman"):
        table.add_column(column)
    for shots in results.shots:
        for score in ("lfc", "lgc", "leep", "static_leaderboard", "num_params", "random"):
            if targets := results.targets(score, shots):
                gain = evaluate.interval("top_k_gain", [target for target in targets if target.reference is not None], k=3)
                trials, spearman = evaluate.interval("trials_to_best", targets), evaluate.interval("spearman", targets)
                points = f"{100 * gain.value:.1f} [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
                table.add_row("all" if shots is None else str(shots), score, str(len(targets)), points, str(trials), str(spearman))
    return table


def main(records: Path = RECORDS, out: Path = Path("runs/paper"), only: tuple[str, ...] = ()) -> None:
    """Writes the report and prints the main findings.

    Args:
      records: folder of a benchmark, as `bench run --out` or `bench pack --out` leaves it.
      out: folder for index.html, figures and tables.
      only: figure_1 to figure_8, table_1 to table_4, or others by name; all by default.
    """
    with progress_bar("writing") as progress:
        paths = report(records, out, only=split(only) or None, progress=progress)
    CONSOLE.print(findings(records))
    CONSOLE.print(f"wrote {len(paths)} files into {out}")


if __name__ == "__main__":
    tyro.cli(main)
