"""`ntk-select rank`: orders the experts of a zoo for a task."""

import fnmatch
import json
import math
import time
from collections.abc import Sequence
from dataclasses import field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ntk_select._runtime.cache import default_folder
from ntk_select.cli.console import duration, print_json, print_line, print_table, print_text, progress_bar, remark, saving
from ntk_select.cli.options import (
    Address,
    Cpus,
    Executor,
    Flag,
    Gpus,
    Json,
    OptionalTaskUri,
    Workers,
    Zoo,
    changed,
    check_writable,
    command_class,
    executor_options,
    no_such_expert,
    numbers,
    repeated,
    split,
    typed,
    zoo_option,
)
from ntk_select.cli.weights import Checkpoint, RandomInit, Yes, ask_before_download, with_weights
from ntk_select.errors import ConfigError, first_line, how_to_install
from ntk_select.tasks.probe_sample import PER_CLASS

MAX_COLUMNS = 4
"""Scores that fit side by side in a terminal."""
FORECAST_OPTIONS = ("--lr", "--epochs", "--batch-norm")
"""Options of the forecasted fine-tuning."""


@command_class
class Rank:
    """Rank the experts of a zoo for a task, best first, without fine-tuning any."""

    task: OptionalTaskUri = None
    zoo: Zoo = ("builtin",)
    scores: tuple[str, ...] = ("forecast", "lfc", "lgc")
    """Scores to compute. The first of them that at least half of the experts have determines the order. Groups: all (the distinct scores), ablation
    (their variants), baselines. To list them: ntk-select scores list."""
    per_class: int = PER_CLASS
    """Images per class that the scores see, at most."""
    seed: int = 0
    """Seed of the probe sample."""
    only: tuple[str, ...] = ()
    """Rank only these experts; a pattern such as 'multi*' selects all that match."""
    resamples: int = 100
    """Half-samples for the intervals; 0 for no intervals."""
    batch_size: int = 32
    """Images per forward pass."""
    reference: Literal["tiny", "resnet18"] = "tiny"
    """Network that is trained on the task for rsa and dds."""
    lr: tuple[str, ...] = ()
    """Learning rates that the forecasted fine-tuning tries; by default 0.01, 0.005 and 0.001."""
    epochs: int = 30
    """Epochs of the forecasted fine-tuning."""
    batch_norm: Literal["train", "frozen"] = "train"
    """How the forecasted fine-tuning treats batch norm."""
    layers: str = "last_conv"
    """Layers whose gradients lgc uses: last_conv, all, or a regular expression over parameter paths."""
    measured: Path | None = None
    """JSON file {expert: {task: accuracy}} of fine-tunings on other tasks, for best_elsewhere."""
    cache: Path | None = field(default_factory=default_folder)
    """Folder in which features, logits and gradient kernels are cached by content."""
    no_cache: Flag = False
    """Neither read nor write the cache."""
    out: Path | None = None
    """Folder for ranking.json, .csv, .parquet and .png, and for agreement.json and .png if there are at least three scores. Finished experts are kept
    in its folder experts: after an interruption the same command resumes."""
    show: Path | None = None
    """Show the ranking in this folder (of --out) again, and compute nothing."""
    checkpoint: Checkpoint = None
    random_init: RandomInit = False
    yes: Yes = False
    executor: Executor = "local"
    workers: Workers = 0
    address: Address = None
    cpus: Cpus = 1
    gpus: Gpus = 0
    json: Json = False

    def run(self) -> int:
        """Ranks, prints and saves. Returns 1 if an expert failed."""
        from ntk_select.data import load_task
        from ntk_select.models import open_zoo
        from ntk_select.models.feature_files import StoredFeatures
        from ntk_select.ranking import rank
        from ntk_select.ranking.expected_time import expected_seconds
        from ntk_select.ranking.features import task_of_labels
        from ntk_select.ranking.rank import chosen_scores
        from ntk_select.ranking.records import FOLDER
        from ntk_select.training.finetuning.recipe import Recipe

        if self.show is not None:
            return self._shown(self.show)
        began, where = time.perf_counter(), executor_options(self)
        task = None if self.task is None else load_task(self.task)
        measured = None if self.measured is None else _read_measured(self.measured)
        zoo = with_weights(self.zoo, self.checkpoint, self.random_init)
        experts = _selected(open_zoo(zoo), self.only, zoo)
        ask_before_download(experts, self.yes)
        task = task_of_labels(experts) if task is None else task
        networks = {name: load for name, load in experts.items() if not isinstance(load, StoredFeatures)}
        if self.out is not None:
            check_writable(self.out)
        scores, recipe = split(self.scores), Recipe(epochs=self.epochs, batch_norm=self.batch_norm)
        rates = numbers("--lr", self.lr, float) if self.lr else None
        if networks and self.executor == "local" and "forecast" in chosen_scores(scores):
            seconds = expected_seconds(networks, task, scores, per_class=self.per_class, seed=self.seed, reference=self.reference)
            if seconds is not None:
                count = f"{len(networks)} expert{'s' if len(networks) > 1 else ''}"
                remark(f"About {duration(seconds)} for {count}. Faster: --scores lfc lgc")
        with progress_bar("ranking") as progress:
            known: list[int] = []  # experts done, at each report

            def report(done: int, total: int, name: str) -> None:
                known.append(done)
                progress(done, total, name)

            ranking = rank(
                experts,
                task,
                scores,
                self.per_class,
                self.seed,
                resamples=self.resamples,
                batch_size=self.batch_size,
                reference=self.reference,
                measured=measured,
                recipe=recipe,
                learning_rates=rates,
                layers=self.layers,
                cache=None if self.no_cache else self.cache,
                progress=report,
                resume=self.out,
                **where,
            )
        if known and known[0]:
            remark(f"{known[0]} of {len(experts)} experts were scored before, by the same command ({self.out}/{FOLDER})")
        paths = [] if self.out is None else saving("The ranking", lambda: ranking.save(self.out))
        if paths and not any(path.suffix == ".png" for path in paths):
            remark(f"No figure was written: that needs the package matplotlib. {how_to_install('matplotlib')}")
        if self.json:
            print_json(ranking.to_dict())
        else:
            print_ranking(ranking, time.perf_counter() - began)
            again = replace(self, zoo=tuple(zoo), checkpoint=None, random_init=False)
            print_line(next_command(ranking, again, len(task.labels), has_network=ranking.best in networks))
        for failure in ranking.failures if self.json else ():
            remark(f"{failure.name} failed: {failure.error}")
        return 1 if ranking.failures or paths is None else 0

    def _shown(self, folder: Path) -> int:
        """Prints a saved ranking."""
        from ntk_select.ranking import Ranking

        if others := [option for option in changed(self) if option not in ("--show", "--json")]:
            raise ConfigError(f"--show prints a ranking as it was saved, without {', '.join(others)}. Try: {typed('rank', '--show', str(folder))}")
        ranking = Ranking.load(folder)
        if self.json:
            print_json(ranking.to_dict())
        else:
            print_ranking(ranking, sum(row.total_seconds for row in ranking) + sum(ranking.shared_seconds.values()))
        return 0


def print_ranking(ranking, seconds: float) -> None:
    """Prints the table, notes and judgement; of many scores only the deciding one, and a second table with the top experts by each score."""
    from ntk_select.ranking.record import cell

    record, names = ranking.task, ranking.score_names
    shown = names if len(names) <= MAX_COLUMNS else (ranking.deciding or names[0],)
    rows = [
        [
            ranking.shown_rank(row),
            row.name,
            row.source or "?",
            row.architecture or "?",
            *(cell(row.scores[name], name) for name in shown),
            f"{row.total_seconds:.2f}",
        ]
        for row in ranking
    ]
    title = f"{record['name']}: {record['images']} images of {record['classes']} classes, seed {record['seed']}"
    columns = ["rank", "expert", "source", "architecture", *shown, "seconds"]
    optional = ("seconds", "architecture", "source", *reversed(shown[1:]))
    print_table(title, columns, rows, right=("rank", *shown, "seconds"), optional=optional, names=("expert",))
    if any(getattr(row.scores[name], "low", None) is not None for row in ranking for name in shown):
        uneven = any("[" in text for row in rows for text in row[4 : 4 + len(shown)])
        print_text(f"± {'and [ ] ' if uneven else ''}95 %, over the choice of images.")
    for mark in ranking.marks:
        print_text(mark)
    if shown != names and ranking.experts:
        _print_scores(ranking)
    for note in ranking.notes():
        print_text(note)
    print_text(ranking.judgement, style="bold")
    if ranking.evidence:
        print_text(ranking.evidence)
    print_text(f"{len(ranking)} scored, {len(ranking.failures)} failed, in {seconds:.1f} s{_time_by_step(ranking)}.")


def _print_scores(ranking) -> None:
    """Prints the top experts by each of many scores, and how well the scores agree."""
    import numpy as np

    from ntk_select.ranking import agreement
    from ntk_select.ranking.evidence import MEASURED_AT, SPEARMAN
    from ntk_select.ranking.record import cell

    ranks, rows, firsts = {row.name: row.rank for row in ranking}, [], set()
    deciding = ranking.deciding or ranking.score_names[0]
    matrix = agreement(ranking).matrix
    with_deciding = matrix[ranking.score_names.index(deciding)]
    for position, name in enumerate(ranking.score_names):
        places = ranking.places(name)
        if not places:
            continue
        order = sorted(places, key=lambda expert: (places[expert], ranks[expert]))
        firsts.add(order[0])
        agrees = "-" if name == deciding or not math.isfinite(with_deciding[position]) else f"{with_deciding[position]:.2f}"
        measured = SPEARMAN.get(name, (None,))[-1]
        spent = sum(row.score_seconds.get(name, 0.0) for row in ranking)
        value = cell(ranking[order[0]].scores[name], name)
        rows.append([name, _first_three(order, places, ranks), value, agrees, "-" if measured is None else f"{measured:.2f}", f"{spent:.2f}"])
    columns = ["score", "top three experts", "value of the first", f"agrees with {deciding}", "predicted accuracy", "seconds"]
    title = "Top three experts by score, named by their ranks above; = between those that tie"
    print_table(title, columns, rows, right=columns[2:], optional=("seconds", columns[3]), names=("score",))
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    agreeing = f", the median rank correlation of two scores is {np.nanmedian(pairs):.2f}" if np.isfinite(pairs).any() else ""
    print_line(
        f"These {len(rows)} scores put {len(firsts)} different experts first{agreeing}: they measure different properties; do not average them. "
        f"Trust those that predicted accuracy before (rank correlation at {MEASURED_AT[-1]} images per class, 1 is perfect)."
    )


def _first_three(order: Sequence[str], places: dict[str, float], ranks: dict[str, int]) -> str:
    """Ranks of the first three experts, "=" between those that tie, and how many more tie with the third."""
    text = str(ranks[order[0]])
    for before, expert in pairwise(order[:3]):
        text += f"{'=' if places[before] == places[expert] else ' '}{ranks[expert]}"
    more = sum(places[expert] == places[order[2]] for expert in order[3:]) if len(order) > 3 else 0
    return text + (f" (= {more} more)" if more else "")


def _time_by_step(ranking) -> str:
    """Seconds by step, named as in the paper's table 3, in parentheses; "" if nothing took time."""
    spent = dict(ranking.shared_seconds)
    for row in ranking.experts:
        for step, seconds in row.seconds.items():
            spent[step] = spent.get(step, 0.0) + seconds
    parts = ", ".join(f"{step} {seconds:.1f}" for step, seconds in spent.items() if seconds >= 0.05)
    return f" ({parts})" if parts else ""


def next_command(ranking, command: Rank, available: int, *, has_network: bool = True) -> str:
    """A suggestion: more images where the first experts are tied and there are more images, otherwise fine-tuning of the best.

    Args:
      command: the command that made the ranking.
      available: number of training images of the task, duplicates included.
      has_network: whether the best has its network; a file of features cannot be fine-tuned.
    """
    record = ranking.task
    if ranking.best is None:
        return "Next: " + typed("zoo", "verify", *zoo_option(command.zoo))
    if ranking.tied > 1 and available > record["images"] + record["copies"]:
        return "Next, to tell them apart with more images: " + repeated(replace(command, per_class=4 * record["per_class"]))
    if not has_network:
        return f"Next: fine-tune {ranking.best!r} where its features were computed; its file has no network."
    forecast = [word for option, words in changed(command).items() if option in FORECAST_OPTIONS for word in (option, *words)]
    words = [
        "--expert",
        ranking.best,
        "--task",
        command.task,
        *forecast,
        *([] if ranking.best.startswith(("timm:", "hf-hub:")) else zoo_option(command.zoo)),
    ]
    return "Next, to fine-tune the first: " + typed("finetune", *words)


def _read_measured(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--measured {str(path)!r} cannot be read as JSON: {first_line(error)}.") from error
    rows = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(row, dict) and all(isinstance(v, int | float) and 0 <= v <= 1 for v in row.values()) for row in rows):
        raise ConfigError(f"--measured {str(path)!r} must contain {{expert: {{task: accuracy from 0 to 1}}}}.")
    return found


def _selected(experts: dict[str, Any], words: Sequence[str], zoo: Sequence[str]) -> dict[str, Any]:
    """The experts that --only names or whose names match its patterns; all without --only."""
    only = split(words)
    if words and not only:
        raise ConfigError(f"--only names no expert. Try: {typed('zoo', 'list', *zoo_option(zoo))}")
    found = {}
    for word in only:
        matching = [word] if word in experts else fnmatch.filter(experts, word)
        if not matching:
            raise no_such_expert(word, experts, zoo, "--only")
        found |= {name: experts[name] for name in matching}
    return found if only else experts
