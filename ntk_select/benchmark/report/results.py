"""Measurements in the form in which tables and figures use them."""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ntk_select.benchmark.cells import Cell, ExpertFacts, TaskFacts, on_own_source
from ntk_select.benchmark.config import BenchConfig, Images, parsed
from ntk_select.benchmark.report.truths import Row, Truth, truth_of
from ntk_select.benchmark.report.values import ByDraw, known_scores, of_experts, score_values
from ntk_select.benchmark.store import Store
from ntk_select.errors import ConfigError
from ntk_select.evaluate import Target, leave_one_out
from ntk_select.scores import Score

STATIC = "static_leaderboard"
"""The score of an expert by its accuracies on the other targets: known after the benchmark, never looks at the target."""
DRAWN = "random"
"""The score whose records are one drawn order of the experts. The report never looks at them: the exact expectation over all orders stands for it."""


@dataclass(frozen=True)
class Results:
    """The measurements of a benchmark.

    Attributes:
      name: of the config.
      config, config_text: what was asked for.
      experts, tasks: what is known of them, by name; experts are those of the whole zoo, from which others may have started.
      cells: that the config asks for.
      truths, scores, kernels: rows of the records. Synthetic records are both truths and scores.
      skipped: pairs of expert and task that were left out, with the reason.
      versions: of packages, as the last run found them; `measured_with` has those of the records.
      failures: of cells that are asked for and have no record, by key.
      warnings: sentences on what in the config looks like a mistake.
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
    warnings: Sequence[str] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """In the order of the config."""
        return tuple(self.tasks) or tuple(dict.fromkeys(row["task"] for row in self.truths))

    @cached_property
    def taking_part(self) -> dict[str, ExpertFacts]:
        """What is known of the experts that the config asks for, those that were left out on every task among them; `experts` is the whole zoo."""
        names = {cell.expert for cell in self.cells} | {row["expert"] for row in self.skipped}
        return {name: facts for name, facts in self.experts.items() if name in names}

    @cached_property
    def measured_experts(self) -> tuple[str, ...]:
        """Names of the experts with a cell that is no beside (an untrained network, a wide search, a kernel), in the order of the zoo."""
        names = dict.fromkeys(cell.expert for cell in self.cells if (cell.role or cell.kind) in ("score", "truth", "synthetic"))
        return (*(name for name in self.experts if name in names), *(name for name in names if name not in self.experts))

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
        """All scores that have a value anywhere but `DRAWN`, and the static leaderboard."""
        known = {row["score"] for row in self.scores if row["value"] is not None or row["terms"] is not None} - {DRAWN}
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

    def own_source(self, expert: str, task: str) -> bool:
        """Whether an expert has seen a source of a task, by what config and cards say now. Of untrained and made-up ones nothing is known."""
        return (expert, task) in self._own_sources

    @cached_property
    def _own_sources(self) -> set[tuple[str, str]]:
        return {(name, task) for name, facts in self.experts.items() for task in self.config.tasks if on_own_source(self.config, task, facts)}

    def truth(self, task: str, shots: Images) -> Truth | None:
        """What fine-tuning gave; None where there is nothing yet. Experts on their own source are left out."""
        return self._all_truths.get((task, shots))

    @cached_property
    def _all_truths(self) -> dict[tuple[str, Images], Truth]:
        found, asked = defaultdict(list), defaultdict(dict)
        for row in self.of_role("truth"):
            if not self.own_source(row["expert"], row["task"]):
                found[row["task"], row["images_per_class"]].append(row)
        for cell in self.cells:
            if (cell.role or cell.kind) in ("truth", "synthetic") and not self.own_source(cell.expert, cell.task):
                asked[cell.task, cell.images][cell.expert] = None
        return {key: truth_of(*key, rows, self.judged, list(self.experts), list(asked[key]), self.config.reference) for key, rows in found.items()}

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
          score: a name of `score_names`; its sign is such that higher is better. None, and "random", stand for a score that is the same for all
            experts, of which selections are the exact mean over random orders.
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
        if score in (None, DRAWN):
            return np.zeros((1, len(truth.experts)))
        if score == STATIC:
            return self._static(truth, among)
        by_draw = self._score_values.get((score, truth.task, truth.shots if self.config.synthetic else probe))
        return of_experts(by_draw, truth.experts) if by_draw else None

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
    def known_scores(self) -> dict[str, Score]:
        """The scores of the records, by name, as far as they are at hand."""
        return known_scores(dict.fromkeys(row["score"] for row in self.scores))

    @cached_property
    def _score_values(self) -> dict[tuple, ByDraw]:
        return score_values(self.scores, self.own_source, self.known_scores)

    @cached_property
    def measured_with(self) -> dict[str, tuple[str, ...]]:
        """By package, and "device", all that the records name: several where a run was resumed after an upgrade, or by another machine."""
        found = defaultdict(set)
        for row in (*self.truths, *self.scores, *self.kernels):
            for column, value in row.items():
                if value and (column == "device" or column.endswith("_version")):
                    found[column.removesuffix("_version")].add(value)
        return {name: tuple(sorted(values)) for name, values in sorted(found.items())}


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
    waiting = {cell.key for cell in cells} - {row["key"] for row in (*truths, *scores, *kernels)}
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
        {key: failure for key, failure in store.failures().items() if key in waiting},
        manifest.get("warnings", []),
    )
