"""`ntk-select rank`: which experts of a zoo are worth fine-tuning on a task?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from ntk_select.cli.console import Flag, check_writable, command, out, print_json, print_line, print_table, progress_bar, remarks, split, zoo_option
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.plugins import builtin
from ntk_select.scores import ScoreResult


@dataclass(frozen=True)
class Rank:
    """Rank the experts of a zoo for a task, best first, without fine-tuning any."""

    task: str
    """The task: digits, fashion_mnist, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the experts are: builtin, folders of experts, or several of them."""
    scores: tuple[str, ...] = ("lfc", "lgc")
    """Scores to compute; the first decides the order."""
    per_class: int = 25
    """Images a class that the scores see, at most."""
    seed: int = 0
    """Seed of the probe sample."""
    only: tuple[str, ...] = ()
    """Rank only these experts."""
    draws: int = 100
    """Half-samples behind the intervals; 0 for none."""
    batch_size: int = 32
    """Images per forward pass."""
    out: Path | None = None
    """Folder for ranking.json, .csv, .parquet and .png."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Ranks, prints and saves. Returns 1 if an expert failed."""
        from ntk_select.ranking import rank

        began = time.perf_counter()
        task = builtin("load_task")(self.task)
        experts = _chosen(builtin("open_zoo")(split(self.zoo)), split(self.only))
        if self.out is not None:
            check_writable(self.out)
        with progress_bar("ranking") as progress:
            ranking = rank(
                experts, task, split(self.scores), self.per_class, self.seed, draws=self.draws, batch_size=self.batch_size, progress=progress
            )
        saved = ranking.save(self.out) if self.out is not None else []
        if self.json:
            print_json(ranking.to_dict())
        else:
            print_ranking(ranking, time.perf_counter() - began)
            print_line(next_command(ranking, self.task, len(task.labels), self.zoo, self._other_options()))
        for path in saved:
            remarks().print(f"wrote {path}", markup=False, soft_wrap=True)
        if saved and not any(path.suffix == ".png" for path in saved):
            remarks().print("No figure was written: that needs the package matplotlib. Type: pip install matplotlib")
        for failure in ranking.failures if self.json else ():
            remarks().print(f"{failure.name} failed: {failure.error}", markup=False)
        return 1 if ranking.failures else 0

    def _other_options(self) -> list[str]:
        """The options that a repetition of this ranking must name."""
        words = [] if split(self.scores) == ["lfc", "lgc"] else ["--scores", *split(self.scores)]
        words += ["--only", *split(self.only)] if self.only else []
        return words + (["--seed", str(self.seed)] if self.seed else [])


def print_ranking(ranking, seconds: float) -> None:
    """The table, the failures, the warnings and the judgement."""
    console, record = out(), ranking.task

    def cell(outcome) -> str:
        if not isinstance(outcome, ScoreResult):
            return "unavailable"
        return f"{outcome.value:.4f}" if outcome.low is None else f"{outcome.value:.4f} [{outcome.low:.3f}, {outcome.high:.3f}]"

    wide = console.width >= 130
    middle = ("source", "architecture") if wide else ()
    rows = [
        [
            str(e.rank),
            e.name,
            *(getattr(e, name) or "?" for name in middle),
            *(cell(e.scores[name]) for name in ranking.score_names),
            f"{e.total_seconds:.2f}",
        ]
        for e in ranking.experts
    ]
    title = f"{record['name']}: {record['images']} images of {record['classes']} classes, seed {record['seed']}; intervals 95 %"
    print_table(title, ["rank", "expert", *middle, *ranking.score_names, "seconds"], rows, right=("rank", "seconds"))
    reasons = {(name, e.scores[name].reason) for e in ranking.experts for name in ranking.score_names if not isinstance(e.scores[name], ScoreResult)}
    for name, reason in sorted(reasons):
        console.print(Text(f"{name} unavailable: {reason}"))
    for failure in ranking.failures:
        console.print(Text(f"{failure.name} failed: {failure.error}", style="red"))
    for warning in record["warnings"]:
        console.print(Text(f"Note: {warning}"))
    console.print(Text(ranking.judgement, style="bold"))
    console.print(f"{len(ranking.experts)} scored, {len(ranking.failures)} failed, in {seconds:.1f} s.")


def next_command(ranking, uri: str, available: int, zoo: Sequence[str] = ("builtin",), options: Sequence[str] = ()) -> str:
    """What to type next: more images when the first ones are tied and there are more, otherwise a look at the best."""
    record = ranking.task
    if ranking.best is None:
        return "Next: " + command("zoo", "verify", *zoo_option(zoo))
    if ranking.tied > 1 and available > record["images"]:
        more = command("rank", "--task", uri, "--per-class", str(4 * record["per_class"]), *options, *zoo_option(zoo))
        return f"Next, to tell them apart with more images: {more}"
    return "Next, to see what it is: " + command("zoo", "show", ranking.best, *zoo_option(zoo))


def _chosen(experts: dict[str, Any], only: list[str]) -> dict[str, Any]:
    for name in only:
        if name not in experts:
            raise ConfigError(f"--only: there is no expert {name!r} in the zoo.{did_you_mean(name, experts)}")
    return {name: experts[name] for name in only} if only else experts
