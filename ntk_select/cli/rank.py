"""`ntk-select rank`: orders the experts of a zoo for a task."""

import fnmatch
import json as json_module
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.text import Text

from ntk_select._runtime.cache import default_folder
from ntk_select.cli.console import (
    Flag,
    check_writable,
    command,
    numbers,
    out,
    print_json,
    print_line,
    print_table,
    progress_bar,
    remark,
    split,
    zoo_option,
)
from ntk_select.cli.expert import no_such_expert
from ntk_select.errors import ConfigError, first_line, how_to_install

MOST_COLUMNS = 4
"""Scores that fit side by side in a terminal."""


@dataclass(frozen=True)
class Rank:
    """Rank the experts of a zoo for a task, best first, without fine-tuning any."""

    task: str
    """The task: digits, fashion_mnist, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the experts are: builtin, folders of experts, or several of them."""
    scores: tuple[str, ...] = ("forecast", "lfc", "lgc")
    """Scores to compute, or all; the first decides the order. To see them type: ntk-select scores list."""
    per_class: int = 25
    """Images of each class that the scores see, at most."""
    seed: int = 0
    """Seed of the probe sample."""
    only: tuple[str, ...] = ()
    """Rank only these experts; a pattern such as 'multi*' stands for all that match."""
    draws: int = 100
    """Half-samples behind the intervals; 0 for none."""
    batch_size: int = 32
    """Images per forward pass."""
    reference: str = "tiny"
    """Network that is trained on the task for rsa and dds: tiny, or resnet18."""
    lr: tuple[str, ...] = ()
    """Learning rates that fine-tuning will try, for forecast; 0.01, 0.005 and 0.001 if none is given."""
    epochs: int = 30
    """Epochs of the fine-tuning that forecast simulates."""
    batch_norm: str = "train"
    """How batch norm will be fine-tuned, for forecast: train, or frozen."""
    layers: str = "last_conv"
    """Layers whose gradients lgc takes: last_conv, all, or a regular expression for paths of parameters."""
    measured: Path | None = None
    """JSON file {expert: {task: accuracy}} of fine-tunings on other tasks, for best_elsewhere."""
    cache: Path | None = field(default_factory=default_folder)
    """Folder in which features, logits and gradient kernels are kept by content."""
    no_cache: Flag = field(default=False)
    """Keep nothing, and look nothing up."""
    out: Path | None = None
    """Folder for ranking.json, .csv, .parquet and .png, and for agreement.json and .png where there are three scores."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Ranks, prints and saves. Returns 1 if an expert failed."""
        from ntk_select.data import load_task
        from ntk_select.models import open_zoo
        from ntk_select.ranking import rank
        from ntk_select.ranking.estimate import expected_seconds
        from ntk_select.training.finetuning.recipe import Recipe

        began = time.perf_counter()
        task = load_task(self.task)
        measured = None if self.measured is None else _read_measured(self.measured)
        experts = _chosen(open_zoo(split(self.zoo)), self.only, self.zoo)
        if self.out is not None:
            check_writable(self.out)
        scores, recipe = split(self.scores), Recipe(epochs=self.epochs, batch_norm=self.batch_norm)
        rates = numbers("--lr", self.lr, float) if self.lr else None
        if "forecast" in scores or "all" in scores:
            seconds = expected_seconds(experts, task, per_class=self.per_class, seed=self.seed)
            if seconds is not None:
                remark(
                    f"About {_duration(seconds)} for {len(experts)} expert{'s' if len(experts) > 1 else ''}. Only lfc and lgc, for much less: --scores lfc lgc"
                )
        with progress_bar("ranking") as progress:
            ranking = rank(
                experts,
                task,
                scores,
                self.per_class,
                self.seed,
                draws=self.draws,
                batch_size=self.batch_size,
                reference=self.reference,
                measured=measured,
                recipe=recipe,
                learning_rates=rates,
                layers=self.layers,
                cache=None if self.no_cache else self.cache,
                progress=progress,
            )
        saved, trouble = [], None
        if self.out is not None:
            try:
                saved = ranking.save(self.out)
            except ConfigError as error:  # of the disk; the ranking is still there to be printed
                trouble = error
        if self.json:
            print_json(ranking.to_dict())
        else:
            print_ranking(ranking, time.perf_counter() - began)
            print_line(
                next_command(
                    ranking,
                    self.task,
                    len(task.labels),
                    self.zoo,
                    self._other_options(),
                    tuning=self._fine_tuning(),
                )
            )
        for path in saved:
            remark(f"wrote {path}")
        if saved and not any(path.suffix == ".png" for path in saved):
            remark(f"No figure was written: that needs the package matplotlib. {how_to_install('matplotlib')}")
        for failure in ranking.failures if self.json else ():
            remark(f"{failure.name} failed: {failure.error}")
        if trouble is not None:
            remark(f"The ranking could not be saved: {trouble}", "red")
        return 1 if ranking.failures or trouble else 0

    def _fine_tuning(self) -> list[str]:
        """The options of the fine-tuning that is forecast."""
        words = ["--lr", *split(self.lr)] if self.lr else []
        words += ["--epochs", str(self.epochs)] if self.epochs != Rank.epochs else []
        return words + (["--batch-norm", self.batch_norm] if self.batch_norm != Rank.batch_norm else [])

    def _other_options(self) -> list[str]:
        """The options that a repetition of this ranking must name."""
        words = [] if split(self.scores) == list(Rank.scores) else ["--scores", *split(self.scores)]
        words += ["--only", *split(self.only)] if self.only else []
        words += ["--reference", self.reference] if self.reference != "tiny" else []
        words += self._fine_tuning()
        words += ["--layers", self.layers] if self.layers != Rank.layers else []
        words += ["--measured", str(self.measured)] if self.measured else []
        words += ["--draws", str(self.draws)] if self.draws != Rank.draws else []
        words += ["--batch-size", str(self.batch_size)] if self.batch_size != Rank.batch_size else []
        words += ["--no-cache"] if self.no_cache else ["--cache", str(self.cache)] if self.cache not in (None, default_folder()) else []
        return words + (["--seed", str(self.seed)] if self.seed else [])


def print_ranking(ranking, seconds: float) -> None:
    """The table, the failures, the warnings and the judgement; of many scores the first, and a second table of what each says."""
    from ntk_select.ranking.record import cell

    console, record = out(), ranking.task
    shown = ranking.score_names if len(ranking.score_names) <= MOST_COLUMNS else (ranking.deciding or ranking.score_names[0],)
    rows = [
        [
            ranking.shown_rank(e),
            e.name,
            e.source or "?",
            e.architecture or "?",
            *(cell(e.scores[name], name) for name in shown),
            f"{e.total_seconds:.2f}",
        ]
        for e in ranking
    ]
    title = f"{record['name']}: {record['images']} images of {record['classes']} classes, seed {record['seed']}"
    columns = ["rank", "expert", "source", "architecture", *shown, "seconds"]
    narrow = ("seconds", "architecture", "source", *reversed(shown[1:]))
    print_table(title, columns, rows, right=("rank", *shown, "seconds"), optional=narrow, names=("expert",))
    if any(getattr(e.scores[name], "low", None) is not None for e in ranking for name in shown):
        console.print(Text("± 95 %, over the choice of images."))
    for mark in ranking.marks:
        console.print(Text(mark))
    if shown != ranking.score_names and ranking.experts:
        _print_scores(ranking)
    for (extent, reason), names in ranking.reasons().items():
        console.print(Text(f"{', '.join(names)} unavailable{extent}: {reason}"))
    for reason, names in ranking.remarks().items():
        console.print(Text(f"{', '.join(names)}: {reason}"))
    for failure in ranking.failures:
        console.print(Text(f"{failure.name} failed: {failure.error}", style="red"))
    for warning in record["warnings"]:
        console.print(Text(f"Note: {warning}"))
    console.print(Text(ranking.judgement, style="bold"))
    if ranking.evidence:
        console.print(Text(ranking.evidence))
    console.print(Text(f"{len(ranking)} scored, {len(ranking.failures)} failed, in {seconds:.1f} s{_spent(ranking)}."))


def _duration(seconds: float) -> str:
    """Seconds in words, no more exact than they are known."""
    if seconds < 90:
        return f"{max(round(seconds / 5) * 5, 5)} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _print_scores(ranking) -> None:
    """What each of many scores says, and how far they agree."""
    import numpy as np

    from ntk_select.ranking import agreement
    from ntk_select.ranking.evidence import PER_CLASS, SPEARMAN
    from ntk_select.ranking.record import cell

    numbers, rows, firsts = {e.name: e.rank for e in ranking}, [], set()
    deciding = ranking.deciding or ranking.score_names[0]
    matrix = agreement(ranking).matrix
    together = matrix[ranking.score_names.index(deciding)]
    for position, name in enumerate(ranking.score_names):
        places = ranking.places(name)
        if not places:
            continue
        first = sorted(places, key=lambda expert: (places[expert], numbers[expert]))
        firsts.add(first[0])
        agrees = "-" if name == deciding or not math.isfinite(together[position]) else f"{together[position]:.2f}"
        measured = SPEARMAN.get(name, (None,))[-1]
        spent = sum(e.score_seconds.get(name, 0.0) for e in ranking)
        value = cell(ranking[first[0]].scores[name], name)
        rows.append([name, _first_three(first, places, numbers), value, agrees, "-" if measured is None else f"{measured:.2f}", f"{spent:.2f}"])
    columns = ["score", "its first three", "value of its first", f"agrees with {deciding}", "predicted accuracy", "seconds"]
    print_table(
        "What each score says: experts by their numbers above, = between those that tie",
        columns,
        rows,
        right=columns[2:],
        optional=("seconds", columns[3]),
        names=("score",),
    )
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    agreeing = f", the rank correlation of two scores is {np.nanmedian(pairs):.2f} in the median" if np.isfinite(pairs).any() else ""
    print_line(
        f"These {len(rows)} scores put {len(firsts)} different experts first{agreeing}: they measure different things, and do not vote. "
        f"Trust those that predicted accuracy before (rank correlation at {PER_CLASS[-1]} images per class, 1 is perfect)."
    )


def _first_three(order: Sequence[str], places: dict[str, float], numbers: dict[str, int]) -> str:
    """Numbers of the first three experts, "=" between those that tie, and how many more tie with the third."""
    text = str(numbers[order[0]])
    for before, expert in pairwise(order[:3]):
        text += f"{'=' if places[before] == places[expert] else ' '}{numbers[expert]}"
    more = sum(places[expert] == places[order[2]] for expert in order[3:]) if len(order) > 3 else 0
    return text + (f" (= {more} more)" if more else "")


def _spent(ranking) -> str:
    """Where the time went, in the words of the paper's table 3 and the steps around it."""
    spent = dict(ranking.shared_seconds)
    for expert in ranking.experts:
        for step, seconds in expert.seconds.items():
            spent[step] = spent.get(step, 0.0) + seconds
    told = ", ".join(f"{step} {seconds:.1f}" for step, seconds in spent.items() if seconds >= 0.05)
    return f" ({told})" if told else ""


def next_command(
    ranking,
    uri: str,
    available: int,
    zoo: Sequence[str] = ("builtin",),
    options: Sequence[str] = (),
    *,
    tuning: Sequence[str] = (),
) -> str:
    """What to type next: more images when the first ones are tied and there are more, otherwise the fine-tuning of the best.

    Args:
      available: training images of the task, copies included.
      tuning: options of the fine-tuning that was forecast.
    """
    record = ranking.task
    if ranking.best is None:
        return "Next: " + command("zoo", "verify", *zoo_option(zoo))
    if ranking.tied > 1 and available > record["images"] + record["copies"]:
        more = command("rank", "--task", uri, "--per-class", str(4 * record["per_class"]), *options, *zoo_option(zoo))
        return f"Next, to tell them apart with more images: {more}"
    return "Next, to fine-tune the first: " + command("finetune", "--expert", ranking.best, "--task", uri, *tuning, *zoo_option(zoo))


def _read_measured(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json_module.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--measured {str(path)!r} cannot be read as JSON: {first_line(error)}.") from error
    rows = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(row, dict) and all(isinstance(v, int | float) and 0 <= v <= 1 for v in row.values()) for row in rows):
        raise ConfigError(f"--measured {str(path)!r} must hold {{expert: {{task: accuracy from 0 to 1}}}}.")
    return found


def _chosen(experts: dict[str, Any], words: Sequence[str], zoo: Sequence[str]) -> dict[str, Any]:
    only = split(words)
    if words and not only:
        raise ConfigError(f"--only names no expert. To see what there is type: {command('zoo', 'list', *zoo_option(zoo))}")
    found = {}
    for word in only:
        matching = [word] if word in experts else fnmatch.filter(experts, word)
        if not matching:
            raise no_such_expert(word, experts, zoo, "--only")
        found |= {name: experts[name] for name in matching}
    return found if only else experts
