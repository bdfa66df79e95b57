"""What was measured, in the form in which tables and figures ask for it?"""

import json
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ntk_select.benchmark.cells import Cell, ExpertFacts, TaskFacts
from ntk_select.benchmark.config import BenchConfig, Images, parsed
from ntk_select.benchmark.store import Store
from ntk_select.errors import ConfigError
from ntk_select.evaluate import Target, leave_one_out
from ntk_select.scores import SCORES, ScoreResult, Unavailable

STATIC = "static_leaderboard"
"""The score of an expert by its accuracies on the other targets: known after the benchmark, never looks at the target."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """Fine-tuning on one task with so many shots.

    Attributes:
      task, shots: shots is None for all images.
      experts: names, in the order of the zoo. None has seen the task's source.
      seeds: with which all of them were fine-tuned.
      accuracies: (s, e), one row a seed; balanced ones where the config says so.
      missing: experts that the config asks for and that have no record, most often because they failed or the run goes on.
    """

    task: str
    shots: Images
    experts: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracies: np.ndarray
    missing: tuple[str, ...] = ()

    def only(self, among: Callable[[str], bool] | None) -> "Truth":
        """The same of some experts."""
        if among is None:
            return self
        kept = [place for place, name in enumerate(self.experts) if among(name)]
        return replace(
            self,
            experts=tuple(self.experts[place] for place in kept),
            accuracies=self.accuracies[:, kept],
            missing=tuple(filter(among, self.missing)),
        )


@dataclass(frozen=True)
class Results:
    """The measurements of a benchmark.

    Attributes:
      name: of the config.
      config, config_text: what was asked for.
      experts, tasks: what is known of them, by name.
      cells: that the config asks for.
      truths, scores, kernels: rows of the records. Synthetic records are both truths and scores.
      skipped: pairs of expert and task that were left out, with the reason.
      versions: of packages.
      failures: by key.
    """

    name: str
    config: BenchConfig
    config_text: str
    experts: Mapping[str, ExpertFacts]
    tasks: Mapping[str, TaskFacts]
    cells: Sequence[Cell]
    truths: Sequence[Row]
    scores: Sequence[Row]
    kernels: Sequence[Row]
    skipped: Sequence[Row] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, Row] = field(default_factory=dict)

    @property
    def task_names(self) -> tuple[str, ...]:
        """In the order of the config."""
        return tuple(self.tasks) or tuple(dict.fromkeys(row["task"] for row in self.truths))

    @cached_property
    def shots(self) -> tuple[Images, ...]:
        """All numbers of shots that were measured, fewest first, None (all images) last."""
        return tuple(sorted({row["images_per_class"] for row in self.of_role("truth")}, key=lambda shots: (shots is None, shots)))

    @cached_property
    def kept(self) -> dict:
        """What was computed from these results already, so that figures and tables share it; keys begin with the name of the module."""
        return {}

    @cached_property
    def score_names(self) -> tuple[str, ...]:
        """All scores that have a value anywhere, and the static leaderboard."""
        known = {row["score"] for row in self.scores if row["value"] is not None or row["terms"] is not None}
        return (*(name for name in dict.fromkeys(row["score"] for row in self.scores) if name in known), STATIC)

    def of_role(self, role: str) -> list[Row]:
        """Truths of a role: "truth", "untrained", "search"."""
        return self._by_role[role]

    @cached_property
    def _by_role(self) -> dict[str, list[Row]]:
        found = defaultdict(list)
        for row in self.truths:
            found[row["role"]].append(row)
        return found

    def truth(self, task: str, shots: Images) -> Truth | None:
        """What fine-tuning gave; None where there is nothing yet. Experts on their own source are left out."""
        return self._all_truths.get((task, shots))

    @cached_property
    def _all_truths(self) -> dict[tuple[str, Images], Truth]:
        found: dict[tuple, dict[tuple[str, int], Row]] = defaultdict(dict)
        for row in self.of_role("truth"):
            if not row["own_source"]:
                found[row["task"], row["images_per_class"]][row["expert"], row["seed"]] = row
        asked = defaultdict(dict)
        for cell in self.cells:
            if cell.kind == "truth" and cell.role == "truth":
                asked[cell.task, cell.images][cell.expert] = None
        return {key: self._truth(*key, rows, tuple(asked[key])) for key, rows in found.items()}

    def _truth(self, task: str, shots: Images, rows: Mapping[tuple[str, int], Row], asked: tuple[str, ...]) -> Truth:
        """The seeds that most experts have, and the experts that have all of those."""
        order = {name: place for place, name in enumerate(self.experts)}
        experts = sorted({expert for expert, _ in rows}, key=lambda name: (order.get(name, len(order)), name))
        seeds = sorted({seed for _, seed in rows})
        counts = {seed: sum((expert, seed) in rows for expert in experts) for seed in seeds}
        kept = [seed for seed in seeds if counts[seed] == max(counts.values())]
        whole = [expert for expert in experts if all((expert, seed) in rows for seed in kept)]
        if not whole:
            kept = kept[:1]
            whole = [expert for expert in experts if (expert, kept[0]) in rows]
        accuracies = np.array([[self.judged(rows[expert, seed]) for expert in whole] for seed in kept])
        own = {row["expert"] for row in self.truths if row["own_source"] and row["task"] == task}
        return Truth(task, shots, tuple(whole), tuple(kept), accuracies, tuple(name for name in asked if name not in whole and name not in own))

    def judged(self, row: Row) -> float:
        """The accuracy of a fine-tuning by which it is compared: the plain or the balanced one, as the config says of the task."""
        wanted = self.config.tasks.get(row["task"])
        return row["accuracy" if wanted is None else wanted.judged_by]

    @property
    def balanced(self) -> tuple[str, ...]:
        """Tasks that are judged by balanced accuracy."""
        return tuple(name for name, wanted in self.config.tasks.items() if wanted.judged_by == "balanced_accuracy")

    def targets(
        self,
        score: str | None,
        shots: Images,
        *,
        probe: Images | str = "standard",
        least: int = 3,
        among: Callable[[str], bool] | None = None,
    ) -> list[Target]:
        """One target for every task with this many shots, for `ntk_select.evaluate`.

        Args:
          score: a name of `score_names`; its sign is such that higher is better. None stands for a score that is the same for all experts.
          shots: of fine-tuning.
          probe: images of each class that the scores saw; "standard" is what counts for these shots. Made-up scores saw none.
          least: experts that a task must have.
          among: which names of experts count; all by default. Scores that compare the zoo do so over all of it all the same.
        """
        found = []
        for task in self.task_names:
            truth = self.truth(task, shots)
            if truth is None or len((truth := truth.only(among)).experts) < max(least, 1):
                continue
            values = self._values(score, truth, self.config.probe_of(shots) if probe == "standard" else probe, among)
            if values is None:
                continue
            reference = self.config.reference
            found.append(
                Target(
                    task,
                    values,
                    truth.accuracies,
                    reference=truth.experts.index(reference) if reference in truth.experts else None,
                    groups=tuple(self.experts[name].architecture for name in truth.experts) if self.experts else None,
                )
            )
        return found

    def _values(self, score: str | None, truth: Truth, probe: Images, among: Callable[[str], bool] | None) -> np.ndarray | None:
        """(draws, experts) of a score, or None where no expert has a value: that would only be a random order."""
        if score is None:
            return np.zeros((1, len(truth.experts)))
        if score == STATIC:
            return self._static(truth, among)
        by_draw = self._score_values.get((score, truth.task, truth.shots if self.config.synthetic else probe))
        if not by_draw:
            return None
        whole = max(len(set(found) & set(truth.experts)) for found in by_draw.values())
        draws = [found for found in by_draw.values() if len(set(found) & set(truth.experts)) == whole]
        values = np.array([[found.get(expert, np.nan) for expert in truth.experts] for found in draws])
        return None if np.isnan(values).all() else values

    def _static(self, truth: Truth, among: Callable[[str], bool] | None) -> np.ndarray | None:
        found = [each.only(among) for task in self.task_names if (each := self.truth(task, truth.shots)) is not None]
        found = [each for each in found if each.experts]
        if len(found) < 2:
            return None
        names = list(dict.fromkeys(name for each in found for name in each.experts))
        table = np.full((len(found), len(names)), np.nan)
        for row, there in enumerate(found):
            table[row, [names.index(name) for name in there.experts]] = there.accuracies.mean(axis=0)
        scores = leave_one_out(table)[[each.task for each in found].index(truth.task)]
        return scores[[names.index(name) for name in truth.experts]][None]

    @cached_property
    def _score_values(self) -> dict[tuple, dict[int, dict[str, float]]]:
        """(score, task, images of a class) -> seed -> expert -> value, those that compare the zoo combined over the experts that are no strangers to comparison."""
        rows: dict[tuple, dict[str, Row]] = defaultdict(dict)
        for row in self.scores:
            if not row["own_source"]:
                rows[row["score"], row["task"], row["images_per_class"], row["seed"]][row["expert"]] = row
        found: dict[tuple, dict[int, dict[str, float]]] = defaultdict(dict)
        for (score, task, images, seed), by_expert in rows.items():
            relative = any(row["terms"] is not None for row in by_expert.values())
            sign = 1 if next(iter(by_expert.values()))["higher_is_better"] else -1
            if relative:
                outcomes = [
                    Unavailable(row["unavailable"] or "") if row["terms"] is None else ScoreResult(0.0, details=json.loads(row["terms"]))
                    for row in by_expert.values()
                ]
                combined = SCORES[score].combined(outcomes) if score in SCORES else outcomes
                values = [outcome.value if isinstance(outcome, ScoreResult) else np.nan for outcome in combined]
            else:
                values = [np.nan if row["value"] is None else row["value"] for row in by_expert.values()]
            found[score, task, images][seed] = {expert: sign * value for expert, value in zip(by_expert, values, strict=True)}
        return found

    def reference_flops(self, task: str, shots: Images) -> float | None:
        """Operations of one training of the reference expert with one learning rate on all images: the unit of cost."""
        for row in self.of_role("truth"):
            if (row["expert"], row["task"], row["images_per_class"]) == (self.config.reference, task, shots) and row.get("flops"):
                return row["flops"] / row["images"] * row["train_images"] * row["epochs"]
        return None


def read_results(folder: str | Path) -> Results:
    """The measurements in a folder.

    Raises:
      ConfigError: it holds no benchmark, or nothing was measured yet.
      DataError: a record is damaged.
    """
    store = Store(folder)
    manifest, cells = store.manifest(), store.cells()
    keys = defaultdict(list)
    for cell in cells:
        keys[cell.kind].append(cell.key)
    truths, scores, kernels = (store.read(kind, keys[kind]).to_pylist() for kind in ("truth", "score", "kernel"))
    for row in store.read("synthetic", keys["synthetic"]).to_pylist():
        truths.append({**row, "role": "truth"})
        scores += [{**row, **each, "terms": None, "unavailable": None, "higher_is_better": True} for each in row["scores"]]
    if not truths and not scores:
        raise ConfigError(f"Nothing has been measured in {str(store.folder)!r} yet. Type: ntk-select bench run CONFIG --out {store.folder}")
    return Results(
        manifest["name"],
        parsed(tomllib.loads(manifest["config"]), Path(manifest["name"])),
        manifest["config"],
        {name: ExpertFacts(**{**facts, "seen": tuple(facts["seen"])}) for name, facts in manifest["experts"].items()},
        {name: TaskFacts(**facts) for name, facts in manifest["tasks"].items()},
        cells,
        truths,
        scores,
        kernels,
        manifest["skipped"],
        manifest["versions"],
        store.failures(),
    )
