"""Rank correlations between scores over the experts of a zoo, averaged over tasks, as a figure and a table.

    python scripts/benchmarks/score_agreement.py --tasks digits zip:DIR/magnetic_tile.zip zip:DIR/grocery.zip --out runs/agreement

Experts that were trained on a task, or initialised from weights that were, are excluded for it. Forward passes are cached in
the cache of `ntk-select rank`, and the ranking of every task in the output folder: interrupted runs resume.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import ntk_select as ns
from ntk_select._runtime.cache import default_folder
from ntk_select._runtime.files import write_atomically
from ntk_select.cli.console import progress_bar
from ntk_select.cli.options import split
from ntk_select.data import load_task
from ntk_select.models import open_zoo
from ntk_select.ranking import Agreement, ExpertScores, Ranking
from ntk_select.scores import SCORES, ScoreResult, Unavailable

CONSOLE = Console(width=160)


def unrelated(zoo: dict, task: str) -> dict:
    """Experts that have not seen the task: neither trained on it nor on top of weights that were."""
    seen = {name: load.card.seen for name, load in zoo.items()}
    return {name: load for name, load in zoo.items() if task not in (*seen[name], *seen.get(load.card.initialised_from, ()))}


def ranked(uri: str, zoo: dict, folder: Path, per_class: int, seed: int) -> Ranking:
    """The ranking of one task by all scores, from the folder if it exists there."""
    task = load_task(uri)
    file = folder / f"{task.name}-{per_class}-{seed}" / "ranking.json"
    if not file.exists():
        began = time.perf_counter()
        with progress_bar(task.name) as progress:
            ranking = ns.rank(
                unrelated(zoo, task.name),
                task,
                ("all", "ablation", "baselines"),
                per_class,
                seed,
                resamples=0,
                cache=default_folder(),
                progress=progress,
            )
        ranking.save(file.parent)
        CONSOLE.print(f"{task.name}: {len(ranking.experts)} experts, {ranking.task['images']} images, {time.perf_counter() - began:.0f} s")
    return read(file)


def read(file: Path) -> Ranking:
    """A saved ranking, as far as the agreement needs it."""
    record = json.loads(file.read_text())

    def outcome(stored):
        return Unavailable(stored["unavailable"]) if stored["value"] is None else ScoreResult(stored["value"])

    experts = tuple(
        ExpertScores(e["rank"], e["name"], e["source"], e["architecture"], e["parameters"], {n: outcome(s) for n, s in e["scores"].items()}, {})
        for e in record["experts"]
    )
    return Ranking(record["task"], tuple(record["scores"]), experts, higher_is_better=record["higher_is_better"])


def pairs_table(found: Agreement, often: np.ndarray, how: str) -> Table:
    """For every score the scores that it agrees with most, and its correlation with LFC and LGC."""
    table = Table(title=f"Spearman correlation {how}, mean over tasks (and the smallest)")
    for column in ("score", "lfc", "lgc", "source_size", "knn", "agrees most with"):
        table.add_column(column)
    for i in sorted(found.known, key=lambda place: -np.nan_to_num(found.matrix[place, found.names.index("lfc")])):
        row = found.matrix[i].copy()
        row[i] = np.nan
        most = [j for j in np.argsort(-np.nan_to_num(row, nan=-2))[:3] if np.isfinite(row[j])]
        cells = []
        for other in ("lfc", "lgc", "source_size", "knn"):
            j = found.names.index(other)
            cells.append("-" if i == j or not np.isfinite(row[j]) else f"{row[j]:.2f} ({np.nanmin(often[:, i, j]):.2f})")
        table.add_row(found.names[i], *cells, ", ".join(f"{found.names[j]} {row[j]:.2f}" for j in most))
    return table


def main(
    tasks: tuple[str, ...] = ("digits",), zoo: tuple[str, ...] = ("builtin",), out: Path = Path("runs/agreement"), per_class: int = 25, seed: int = 0
) -> None:
    """Ranks the zoo for every task by all scores and compares the rankings.

    Args:
      tasks: task URIs.
      zoo: names or folders of zoos.
      out: folder for agreement.json and .png, agreement_within.json and .png, and the rankings.
      per_class: images per class.
      seed: seed of the probe sample.
    """
    experts = open_zoo(split(zoo))
    rankings = [ranked(uri, experts, out, per_class, seed) for uri in split(tasks)]
    names = ", ".join(ranking.task["name"] for ranking in rankings)
    for file, parts, how in (
        ("agreement", rankings, "over experts"),
        ("agreement_within", [part for ranking in rankings for part in by_architecture(ranking)], "over experts of one architecture"),
    ):
        found = ns.agreement(parts)
        CONSOLE.print(pairs_table(found, np.array([ns.agreement(part).matrix for part in parts]), how))
        write_atomically(out / f"{file}.json", (json.dumps({"tasks": names, **found.to_dict()}, indent=1) + "\n").encode())
        figure = found.report(out / f"{file}.png", f"{len(SCORES)} scores, {len(experts)} experts; Spearman {how}, mean over {names}")
        CONSOLE.print(f"wrote {out / file}.json and {figure}")


def by_architecture(ranking: Ranking) -> list[Ranking]:
    """The ranking split by architecture, which removes what a score owes to the width of a network."""
    kinds = dict.fromkeys(expert.architecture for expert in ranking.experts)
    return [replace(ranking, experts=tuple(expert for expert in ranking.experts if expert.architecture == kind)) for kind in kinds]


if __name__ == "__main__":
    tyro.cli(main)
