"""Records of a benchmark as tidy tables, and the targets on which scores are compared with accuracies.

`Results` builds each table once: `finetuning_table` has one row per fine-tuning, `score_table` one row per score, expert and probe
sample. Every table and figure of the report is a function of them.
"""

import json
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntk_select.benchmark.cells import Cell, ExpertFacts, TaskFacts
from ntk_select.benchmark.config import BenchConfig, Images, parsed
from ntk_select.benchmark.overlap import overlapping_sources
from ntk_select.benchmark.report.consensus import members_for
from ntk_select.benchmark.store import Store
from ntk_select.errors import ConfigError
from ntk_select.evaluate import Target, consensus, leave_one_out
from ntk_select.ranking.rank import chosen_scores
from ntk_select.ranking.scoring import combined
from ntk_select.scores import Score, ScoreResult, Terms, Unavailable

Row = dict[str, Any]
STATIC = "static_leaderboard"
"""Score of an expert: its accuracies on the other targets. It is known after the benchmark only, and never looks at the target."""
CONSENSUS = "consensus"
"""Score of an expert: its mean rank by two or three cheap scores, chosen for each target by the accuracies on the targets of other clusters."""
CHEAP = {"features", "labels", "source_probs"}
"""Inputs of cheap scores: one forward pass of the expert has them all."""
MIN_EXPERTS = 3
"""Experts that a target must have to be measured on."""
SIZE_GROUPS = 3
"""Groups of experts of similar numbers of parameters, with as many experts each as ties allow."""
DRAWN = "random"
"""Score whose records are one random order of the experts. The report replaces it by the exact expectation over all orders."""
LOST = 10
"""One expert in so many may be given up to use another seed, or may lack a record of a probe sample."""
FINETUNING_COLUMNS = ("key", "role", "expert", "architecture", "task", "images_per_class", "seed", "learning_rate", "accuracy", "balanced_accuracy")
COST_COLUMNS = ("flops", "images", "images_per_second", "train_images", "epochs")
SCORE_COLUMNS = ("expert", "architecture", "task", "images_per_class", "seed", "score", "value", "terms", "unavailable", "higher_is_better")
STEPS = ("preprocess_seconds", "forward_seconds", "backward_seconds", "score_seconds", "shared_seconds")
NUMBERS = {"images_per_class", "learning_rate", "accuracy", "balanced_accuracy", "value", *COST_COLUMNS, *STEPS}


@dataclass(frozen=True)
class GroundTruth:
    """Accuracies after fine-tuning on one task.

    Attributes:
      task, shots: shots is the number of training images per class, None for all.
      experts: names, in the order of the zoo. None was trained on the task's source.
      seeds: fine-tuning seeds with which all of them have a record.
      accuracies: (seeds, experts), 0 to 1; balanced accuracies if the config says so.
      missing: experts that the config requests and that lack a record with one of the seeds, as they failed or the run is unfinished.
      dropped: seeds that are left out because too few experts have a record with them.
    """

    task: str
    shots: Images
    experts: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracies: np.ndarray
    missing: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()

    @property
    def means(self) -> np.ndarray:
        """Mean accuracy of each expert over the seeds."""
        return self.accuracies.mean(axis=0)

    def only(self, among: Callable[[str], bool] | None) -> "GroundTruth":
        """The same, restricted to the experts for which `among` is true; all experts if it is None."""
        if among is None:
            return self
        places = [place for place, name in enumerate(self.experts) if among(name)]
        experts, absent = (tuple(filter(among, names)) for names in (self.experts, self.missing))
        return replace(self, experts=experts, accuracies=self.accuracies[:, places], missing=absent)


@dataclass(frozen=True)
class Results:
    """The measurements of a benchmark.

    Attributes:
      name: The name of the config.
      config, config_text: what was requested.
      experts, tasks: their facts, by name. Experts are those of the whole zoo, since experts may have started from one that takes no part.
      cells: The cells of the config.
      finetunings, scores, kernels: rows of the records. Synthetic records are both fine-tunings and scores.
      skipped: pairs of expert and task that were left out, with the reason.
      versions: Versions of packages, as the last run found them; `measured_with` has those of the records.
      failures: Failures of requested cells that have no record, by key.
      warnings: sentences on likely mistakes in the config.
    """

    name: str
    config: BenchConfig
    config_text: str
    experts: Mapping[str, ExpertFacts]
    tasks: Mapping[str, TaskFacts]
    cells: Sequence[Cell]
    finetunings: Sequence[Row]
    scores: Sequence[Row]
    kernels: Sequence[Row]
    skipped: Sequence[Row] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, Row] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @cached_property
    def finetuning_table(self) -> pd.DataFrame:
        """One row per fine-tuning.

        Next to the columns of the records: `judged`, the accuracy by which experts are compared on this task, and `source_overlap`.
        `images_per_class` is infinite for all images.
        """
        table = self._tidy(self.finetunings, (*FINETUNING_COLUMNS, *COST_COLUMNS))
        balanced = table["task"].isin(self.balanced)
        return table.assign(judged=table["accuracy"].where(~balanced, table["balanced_accuracy"]))

    @cached_property
    def score_table(self) -> pd.DataFrame:
        """One row per score, expert, task and probe sample, with `source_overlap`; `images_per_class` is infinite for all images."""
        return self._tidy(self.scores, (*SCORE_COLUMNS, *STEPS))

    def _tidy(self, rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
        table = pd.DataFrame(list(rows), columns=list(columns)).astype({name: float for name in columns if name in NUMBERS})
        overlap = [self.source_overlap(*pair) for pair in zip(table["expert"], table["task"], strict=True)]
        return table.assign(images_per_class=table["images_per_class"].fillna(np.inf), source_overlap=np.array(overlap, bool))

    @cached_property
    def _cache(self) -> dict:
        return {}

    def once(self, key: tuple, build: Callable[[], Any]) -> Any:
        """The value of `build()`, computed at the first call with this key: tables and figures share it."""
        if key not in self._cache:
            self._cache[key] = build()
        return self._cache[key]

    @property
    def task_names(self) -> tuple[str, ...]:
        """In the order of the config."""
        return tuple(self.tasks) or tuple(dict.fromkeys(row["task"] for row in self.finetunings))

    @cached_property
    def selected(self) -> dict[str, ExpertFacts]:
        """Facts of the experts that the config selects, those left out on every task included; `experts` has the whole zoo."""
        names = {cell.expert for cell in self.cells} | {row["expert"] for row in self.skipped}
        return {name: facts for name, facts in self.experts.items() if name in names}

    @cached_property
    def measured_experts(self) -> tuple[str, ...]:
        """Experts that are scored or fine-tuned, in the order of the zoo; not untrained networks, nor experts of figures 1 and 8 only."""
        names = dict.fromkeys(cell.expert for cell in self.cells if (cell.role or cell.kind) in ("score", "truth", "synthetic"))
        return (*(name for name in self.experts if name in names), *(name for name in names if name not in self.experts))

    @cached_property
    def shots(self) -> tuple[Images, ...]:
        """All numbers of training images per class with a record, fewest first, None (all images) last."""
        table = self.finetuning_table
        return tuple(shots_of(images) for images in sorted(set(table["images_per_class"][table["role"] == "truth"])))

    @cached_property
    def score_names(self) -> tuple[str, ...]:
        """All scores that have a value anywhere, except `DRAWN`, the static leaderboard, and the consensus of two or more cheap scores."""
        return (*self._measured_scores, STATIC, *([CONSENSUS] if len(self.cheap_scores) > 1 else []))

    @cached_property
    def _measured_scores(self) -> tuple[str, ...]:
        known = {row["score"] for row in self.scores if row["value"] is not None or row["terms"] is not None} - {DRAWN}
        return tuple(name for name in dict.fromkeys(row["score"] for row in self.scores) if name in known)

    @cached_property
    def cheap_scores(self) -> tuple[str, ...]:
        """Measured scores that need nothing but features, labels and predictions of the source's classes, by `Score.needs`."""
        needs = {name: set(self.known_scores[name].needs) for name in self._measured_scores if name in self.known_scores}
        return tuple(name for name, needed in needs.items() if needed and needed <= CHEAP)

    @cached_property
    def sizes(self) -> dict[str, str]:
        """The group of similar size of each measured expert: thirds of the experts by parameters, equal numbers in one group.

        Heads are included: records do not separate them. Empty if a number is unknown, or if there is only one group.
        """
        known = {name: self.experts[name].parameters for name in self.measured_experts if name in self.experts}
        if not known or None in known.values():
            return {}
        numbers = np.array(list(known.values()))
        ends = np.quantile(numbers, np.arange(1, SIZE_GROUPS) / SIZE_GROUPS, method="inverted_cdf")
        places = np.searchsorted(ends, numbers)
        names = {place: f"{numbers[places == place].min():,} to {numbers[places == place].max():,} parameters" for place in sorted(set(places))}
        return dict(zip(known, (names[place] for place in places), strict=True)) if len(names) > 1 else {}

    def cluster(self, task: str) -> str:
        """The data set that a target shares with others, by the config; its own name without one."""
        wanted = self.config.tasks.get(task)
        return wanted.cluster if wanted is not None and wanted.cluster else task

    @property
    def balanced(self) -> tuple[str, ...]:
        """Tasks on which experts are compared by balanced accuracy."""
        return tuple(name for name, wanted in self.config.tasks.items() if wanted.judged_by == "balanced_accuracy")

    def source_overlap(self, expert: str, task: str) -> bool:
        """Whether an expert was trained on a source of a task, by the present config and cards. False for untrained and synthetic experts."""
        return (expert, task) in self._overlaps

    @cached_property
    def _overlaps(self) -> set[tuple[str, str]]:
        return {
            (name, task) for name, facts in self.experts.items() for task in self.config.tasks if overlapping_sources(self.config, task, facts.seen)
        }

    def ground_truth(self, task: str, shots: Images) -> GroundTruth | None:
        """Accuracies after fine-tuning, without experts trained on the task's source; None where no record exists."""
        return self._ground_truths.get((task, shots))

    @cached_property
    def _ground_truths(self) -> dict[tuple[str, Images], GroundTruth]:
        requested = defaultdict(list)
        for cell in self.cells:
            if (cell.role or cell.kind) in ("truth", "synthetic") and not self.source_overlap(cell.expert, cell.task):
                requested[cell.task, cell.images].append(cell.expert)
        table = self.finetuning_table
        table = table[(table["role"] == "truth") & ~table["source_overlap"]].drop_duplicates(
            ["task", "images_per_class", "expert", "seed"], keep="last"
        )
        found = {}
        for (task, images), rows in table.groupby(["task", "images_per_class"], sort=False):
            key = task, shots_of(images)
            by_seed = rows.pivot(index="seed", columns="expert", values="judged")
            found[key] = self._complete(*key, by_seed, requested[key])
        return found

    def _complete(self, task: str, shots: Images, by_seed: pd.DataFrame, requested: Sequence[str]) -> GroundTruth:
        """The largest part of a table (seeds, experts) without gaps, as `most_seeds` chooses it."""
        experts_of = {seed: set(row.index[row.notna()]) for seed, row in by_seed.iterrows()}
        seeds = most_seeds(experts_of, self.config.reference)
        order = {name: place for place, name in enumerate(self.experts)}
        experts = sorted(set.intersection(*(experts_of[seed] for seed in seeds)), key=lambda name: (order.get(name, len(order)), name))
        absent = tuple(name for name in dict.fromkeys([*requested, *by_seed.columns]) if name not in experts)
        dropped = tuple(sorted(set(experts_of) - set(seeds)))
        accuracies = by_seed.loc[list(seeds), experts].to_numpy(float)
        return GroundTruth(task, shots, tuple(experts), seeds, accuracies, absent, dropped)

    def ground_truths(self) -> list[GroundTruth]:
        """All of them, by shots and then by task."""
        return [truth for shots in self.shots for task in self.task_names if (truth := self.ground_truth(task, shots)) is not None]

    def targets(
        self,
        score: str | None,
        shots: Images,
        *,
        probe: Images | str = "standard",
        least: int = MIN_EXPERTS,
        among: Callable[[str], bool] | None = None,
    ) -> list[Target]:
        """One target per task with this many shots, for `ntk_select.evaluate`.

        Args:
          score: a name of `score_names`; values are signed so that higher is better. None and "random" give equal values to all experts, of
            which selections are the exact mean over random orders.
          shots: training images per class.
          probe: probe images per class; "standard" is the number that the config assigns to these shots. Synthetic scores use no images.
          least: experts that a task must have.
          among: restricts the experts by name. Scores that compare experts with each other are still computed over the whole zoo. Targets are
            cached by it: pass the same function object each time, such as `single_domain`.
        """
        key = ("targets", score, shots, probe, least, among)
        return list(self.once(key, lambda: self._targets(score, shots, probe, least, among)))

    def _targets(self, score: str | None, shots: Images, probe: Images | str, least: int, among: Callable[[str], bool] | None) -> list[Target]:
        found, reference = [], self.config.reference
        for task in self.task_names:
            truth = self.ground_truth(task, shots)
            if truth is None or len((truth := truth.only(among)).experts) < max(least, 1):
                continue
            values = self._values(score, truth, self.config.probe_of(shots) if probe == "standard" else probe, among)
            if values is None:
                continue
            place = truth.experts.index(reference) if reference in truth.experts else None
            architectures = tuple(self.experts[name].architecture for name in truth.experts) if self.experts else None
            found.append(Target(task, values, truth.accuracies, reference=place, groups=architectures, cluster=self.cluster(task)))
        return found

    def _values(self, score: str | None, truth: GroundTruth, probe: Images, among: Callable[[str], bool] | None) -> np.ndarray | None:
        """(probe samples, experts) of a score, or None where no expert has a value: that would only be a random order."""
        if score in (None, DRAWN):
            return np.zeros((1, len(truth.experts)))
        if score == STATIC:
            return self._static(truth, among)
        if score == CONSENSUS:
            names, _ = self.consensus_of(truth.shots, probe, among).get(truth.task, ((), 0.0))
            values = [self._values(name, truth, probe, among) for name in names]
            return np.array([consensus(np.array(draw)) for draw in zip(*values, strict=True)]) if names else None
        draws = self._score_values.get((score, truth.task, images_of(truth.shots if self.config.synthetic else probe)))
        return values_of(draws, truth.experts) if draws else None

    def _static(self, truth: GroundTruth, among: Callable[[str], bool] | None) -> np.ndarray | None:
        others = [each.only(among) for task in self.task_names if (each := self.ground_truth(task, truth.shots)) is not None]
        others = [each for each in others if each.experts]
        if len(others) < 2:
            return None
        names = list(dict.fromkeys(name for each in others for name in each.experts))
        table = pd.DataFrame([pd.Series(each.means, each.experts).reindex(names) for each in others], index=[each.task for each in others])
        scores = pd.DataFrame(leave_one_out(table.to_numpy()), table.index, table.columns)
        return scores.loc[[truth.task], list(truth.experts)].to_numpy()

    def consensus_of(self, shots: Images, probe: Images, among: Callable[[str], bool] | None = None) -> dict[str, tuple[tuple[str, ...], float]]:
        """The scores of the consensus on each target with three experts or more, and their mean correlation on the targets of other clusters.

        Chosen by Spearman's correlation among the cheap scores that have a value for every expert on every target, on as many probe samples as
        the others. Empty if fewer than two are left, or if all targets are of one cluster.
        """
        return self.once(("consensus", shots, probe, among), lambda: self._consensus_of(shots, probe, among))

    def _consensus_of(self, shots: Images, probe: Images, among: Callable[[str], bool] | None) -> dict[str, tuple[tuple[str, ...], float]]:
        truths = [truth.only(among) for task in self.task_names if (truth := self.ground_truth(task, shots)) is not None]
        truths = [truth for truth in truths if len(truth.experts) >= MIN_EXPERTS]
        found = {name: [self._values(name, truth, probe, among) for truth in truths] for name in self.cheap_scores}
        found = {name: each for name, each in found.items() if all(values is not None and np.isfinite(values).all() for values in each)}
        most = [max(map(len, values)) for values in zip(*found.values(), strict=True)]
        found = {name: each for name, each in found.items() if list(map(len, each)) == most}
        if not truths or not found:
            return {}
        values = [np.array(of_target) for of_target in zip(*found.values(), strict=True)]
        choices = members_for(values, [truth.means for truth in truths], [self.cluster(truth.task) for truth in truths])
        names = list(found)
        tasks = [truth.task for truth in truths] if choices else []
        return {task: (tuple(names[place] for place in members), value) for task, (members, value) in zip(tasks, choices, strict=True)}

    @cached_property
    def known_scores(self) -> dict[str, Score]:
        """The scores of the records that are installed here, by name."""
        found = {}
        for name in dict.fromkeys(row["score"] for row in self.scores):
            try:
                found |= chosen_scores([name])
            except Exception:  # the package of the score is not installed, or is broken: foreign code may raise anything
                continue
        return found

    @cached_property
    def _score_values(self) -> dict[tuple, dict[int, pd.Series]]:
        """(score, task, images per class) -> seed of the probe sample -> values by expert, signed so that higher is better; NaN for none."""
        table = self.score_table[~self.score_table["source_overlap"]].drop_duplicates([*SCORE_COLUMNS[2:6], "expert"], keep="last")
        signed = table["value"].where(table["higher_is_better"].astype(bool), -table["value"])
        table = table.assign(signed=signed).set_index("expert")
        found = defaultdict(dict)
        for (score, task, images, seed), draw in table.groupby(["score", "task", "images_per_class", "seed"], sort=False):
            compares = (draw["terms"].notna() & draw["value"].isna()).any()
            found[score, task, images][seed] = self._combined(score, draw) if compares else draw["signed"]
        return found

    def _combined(self, score: str, draw: pd.DataFrame) -> pd.Series:
        """Values of a score that compares the zoo, of one probe sample, over the experts not trained on the source; NaN if it is not installed."""
        if score not in self.known_scores:
            return pd.Series(np.nan, draw.index)
        rows = zip(draw["terms"], draw["unavailable"], strict=True)
        outcomes = [Terms(json.loads(terms)) if isinstance(terms, str) else Unavailable(str(why)) for terms, why in rows]
        values = [outcome.value if isinstance(outcome, ScoreResult) else np.nan for outcome in combined(self.known_scores[score], outcomes)]
        return pd.Series(values, draw.index, float) * (1 if draw["higher_is_better"].iloc[0] else -1)

    @cached_property
    def measured_with(self) -> dict[str, tuple[str, ...]]:
        """All versions that the records name, by package and "device": several if a run was resumed after an upgrade or on another machine."""
        found = defaultdict(set)
        for row in (*self.finetunings, *self.scores, *self.kernels):
            for column, value in row.items():
                if value and (column == "device" or column.endswith("_version")):
                    found[column.removesuffix("_version")].add(value)
        return {name: tuple(sorted(values)) for name, values in sorted(found.items())}


def read_results(folder: str | Path) -> Results:
    """The measurements in a folder.

    Raises:
      ConfigError: it contains no benchmark, or nothing was measured yet.
      DataError: a record is damaged.
    """
    store = Store(folder)
    manifest, cells = store.manifest(), store.cells()
    keys = defaultdict(list)
    for cell in cells:
        keys[cell.kind].append(cell.key)
    finetunings, scores, kernels = (store.read(kind, keys[kind]).to_pylist() for kind in ("truth", "score", "kernel"))
    for row in store.read("synthetic", keys["synthetic"]).to_pylist():
        finetunings.append({**row, "role": "truth"})
        scores += [{**row, **each, "terms": None, "unavailable": None, "higher_is_better": True} for each in row["scores"]]
    if not finetunings and not scores:
        raise ConfigError(f"Nothing has been measured in {str(store.folder)!r} yet. Try: ntk-select bench run CONFIG --out {store.folder}")
    waiting = {cell.key for cell in cells} - {row["key"] for row in (*finetunings, *scores, *kernels)}
    return Results(
        manifest["name"],
        parsed(tomllib.loads(manifest["config"]), Path(manifest["name"])),
        manifest["config"],
        {name: ExpertFacts(**{**facts, "seen": tuple(facts["seen"])}) for name, facts in manifest["experts"].items()},
        {name: TaskFacts(**facts) for name, facts in manifest["tasks"].items()},
        cells,
        finetunings,
        scores,
        kernels,
        manifest["skipped"],
        manifest["versions"],
        {key: failure for key, failure in store.failures().items() if key in waiting},
        manifest.get("warnings", []),
    )


def images_of(shots: Images) -> float:
    """A number of images per class as tables have it: infinite for all images."""
    return np.inf if shots is None else float(shots)


def shots_of(images: float) -> Images:
    """The inverse of `images_of`."""
    return None if np.isinf(images) else int(images)


def most_seeds(experts_of: Mapping[int, Set[str]], reference: str | None = None) -> tuple[int, ...]:
    """The most seeds whose common experts are at least nine tenths of those that the fullest seed has.

    Among equally many seeds, those with the most experts in common, then the smallest. Seeds without the reference, over which gains are
    taken, are chosen only if no admissible choice has it.

    Args:
      experts_of: Experts with a record, by seed; at least one seed.
      reference: name of the reference expert, if any.

    Cost: at most one step per pair of a seed and a distinct set of common experts.
    """
    fullest = max(len(experts) for experts in experts_of.values())
    reached: dict[frozenset, tuple[int, ...]] = {}
    for seed in sorted(experts_of):
        longer = dict(reached)
        for before, seeds in [(experts_of[seed], ()), *reached.items()]:
            common = frozenset(experts_of[seed] & before)
            if enough(len(common), fullest) and len(seeds) + 1 > len(longer.get(common, ())):
                longer[common] = (*seeds, seed)
        reached = longer
    return max(reached.items(), key=lambda found: (reference in found[0], len(found[1]), len(found[0]), [-seed for seed in found[1]]))[1]


def enough(experts: int, fullest: int) -> bool:
    """Whether at most one expert in `LOST` is missing."""
    return LOST * (fullest - experts) <= fullest


def values_of(draws: Mapping[int, pd.Series], experts: Sequence[str]) -> np.ndarray | None:
    """(probe samples, experts); NaN for an expert without a value. None where no expert has one: that would only be a random order.

    Probe samples with records of fewer than nine tenths of the experts that the fullest one has are left out.
    """
    recorded = {seed: int(values.index.isin(experts).sum()) for seed, values in draws.items()}
    used = [values for seed, values in sorted(draws.items()) if enough(recorded[seed], max(recorded.values()))]
    values = np.array([each.reindex(list(experts)).to_numpy(float) for each in used])
    return None if np.isnan(values).all() else values
