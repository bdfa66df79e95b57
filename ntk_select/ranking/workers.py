"""The scoring of experts on workers: of this process, of other processes, or of other machines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.cache import Cache
from ntk_select._runtime.progress import Progress
from ntk_select.errors import DataError, explained
from ntk_select.executors import check_sendable, executor_of
from ntk_select.experts.expert import Expert
from ntk_select.ranking.inputs import ScoreInputs
from ntk_select.ranking.records import NOTES, Outcome, Records
from ntk_select.ranking.scoring import Scorer
from ntk_select.scores import SCORES, Score
from ntk_select.scores.table import known_scores
from ntk_select.tasks.labels_only import has_images
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import ChosenImages, Task


@dataclass(frozen=True)
class ExpertItem:
    """An expert to be scored: its name, and the function that loads it; None for the reference network."""

    key: str
    load: Callable[[], Expert] | None


class ScoreExperts:
    """Work of an executor: the scores of an expert on the probe sample. In other processes the images are read again, or the chosen ones are sent.

    Args:
      task, sample: the images.
      scores: scores by name.
      halves: index sets into the probe sample.
      cache: folder of the cache, or None.
      progress: called during the training of the reference network, in this process only.
      reference_features: of a reference network that another worker has trained.
      options: further arguments of `ScoreInputs`.
    """

    def __init__(
        self,
        task: Task,
        sample: ProbeSample,
        scores: Mapping[str, Score],
        halves: Sequence[np.ndarray],
        *,
        cache: Any = None,
        progress: Progress | None = None,
        reference_features: np.ndarray | str | None = None,
        **options: Any,
    ):
        self.task, self.sample, self.scores, self.halves = task, sample, scores, halves
        self.cache, self.progress, self.reference_features, self.options = cache, progress, reference_features, options

    @property
    def needs_reference(self) -> bool:
        """Whether a reference network is to be trained."""
        wanted = any("reference_features" in score.takes for score in self.scores.values())
        return wanted and self.reference_features is None and has_images(self.task)

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer of this worker."""
        inputs = ScoreInputs(self.task, self.sample, self.scores, cache=Cache(self.cache), progress=self.progress, **self.options)
        if self.reference_features is not None:
            inputs.reference_features = self.reference_features
        return Scorer(inputs, self.halves)

    def __call__(self, item: ExpertItem) -> Outcome:
        """The outcome of an expert. Raises DataError if an image of the task cannot be decoded."""
        inputs = self.scorer.inputs
        notes, spent = {name: getattr(inputs, name) for name in NOTES}, dict(inputs.seconds)
        for of_last in notes.values():
            of_last.clear()
        found: dict[str, Any] = {}
        if item.load is None:
            found["features"] = inputs.reference_features
        else:
            try:
                found["scored"] = self.scorer.score(item.key, item.load)
            except DataError:
                raise  # of the task's images, the same for all experts
            except Exception as error:  # foreign code; the other experts are ranked
                found["error"] = explained(error)
        found |= {name: tuple(own) for name, own in notes.items()} | {"trouble": tuple(filter(None, [inputs.cache.trouble]))}
        seconds = {step: value - spent.get(step, 0.0) for step, value in inputs.seconds.items() if value != spent.get(step)}
        return Outcome(item.key, **found, shared_seconds=seconds, device=jax.devices()[0].platform)

    def failed(self, item: ExpertItem, error: str) -> Outcome:
        """The outcome of an expert whose workers were lost."""
        return Outcome(item.key, error=error)

    def with_reference(self, outcome: Outcome) -> "ScoreExperts":
        """The same work, with the features of the trained reference network."""
        features = outcome.features
        if features is None:
            features = f"The reference network of RSA and DDS is not available: {outcome.error}"
        options = {**self.options, "reference": "tiny"}  # not used, and smaller than an expert
        return ScoreExperts(self.task, self.sample, self.scores, self.halves, cache=self.cache, reference_features=features, **options)

    def __getstate__(self) -> dict[str, Any]:
        task, sample = self.task, self.sample
        if has_images(task):
            images, unused = task.images, {"test_images": None, "test_labels": None}
            chosen = images[sample.indices] if isinstance(images, np.ndarray) else ChosenImages(images, sample.indices)
            sample = replace(sample, images=chosen)
            task = replace(task, **unused) if self.needs_reference else replace(task, images=Elsewhere(len(images)), **unused)
        scores = {name: name if _is_known(name, score) else score for name, score in self.scores.items()}
        own = {name: value for name, value in self.__dict__.items() if name != "scorer"}
        return {**own, "task": task, "sample": sample, "scores": scores, "progress": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        known = known_scores()[0]
        state["scores"] = {name: known[name] if isinstance(score, str) else score for name, score in state["scores"].items()}
        self.__dict__.update(state)


class Elsewhere(Sequence):
    """Images that were not sent to this worker."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, position):
        raise DataError("The training images of the task are not on this worker. Try: executor='local' (--executor local)")


def _is_known(name: str, score: Score) -> bool:
    return SCORES.get(name) is score or known_scores()[0].get(name) is score


def score_all(
    work: ScoreExperts,
    loaders: Mapping[str, Callable[[], Expert]],
    records: Records,
    *,
    executor: str,
    options: Mapping[str, Any],
    progress: Progress | None,
) -> tuple[list[Outcome], list[Outcome]]:
    """The outcomes of all experts, in their order, and that of a reference network that was trained for them.

    Experts with a record have its outcome at once; the others are scored by an executor.

    Args:
      work: what is done with each expert.
      loaders: functions that load one expert each, by name.
      records: where finished experts are kept.
      executor: name of the executor.
      options: options of the executor.
      progress: called with (experts done, experts, name): of the next where one follows the other, otherwise of the last.

    Raises:
      ConfigError: something cannot be sent to the workers, the executor cannot start, or a record cannot be written.
      DataError: an image of the task cannot be decoded.
    """
    execute = executor_of(executor)
    found = {name: outcome for name in loaders if (outcome := records.get(name)) is not None}
    items = [ExpertItem(name, load) for name, load in loaders.items() if name not in found]
    alone, shared = executor == "local", []

    def report(name: str) -> None:
        if progress:
            rest = len(loaders) - len(found)
            progress(len(found), len(loaders), (items[-rest].key if rest else "") if alone else name)

    def done(outcome: Outcome) -> bool:
        found[outcome.name] = outcome
        records.put(outcome)
        report(outcome.name)
        return False

    if items and not alone:
        _check_all_sendable(work, items, executor)
    report("")
    if items and not alone and work.needs_reference:  # once, and not by this process, which would occupy the device of a worker
        execute(work, [[ExpertItem("reference network", None)]], lambda outcome: shared.append(outcome), **{**options, "workers": 1})
        work = work.with_reference(shared[0])
    if items:
        execute(work, [items] if alone else _by_architecture(items), done, **options)
    return [found[name] for name in loaders], shared


def _by_architecture(items: Iterable[ExpertItem]) -> list[list[ExpertItem]]:
    """Groups of experts that share compiled programs, largest first."""
    groups: dict[str, list[ExpertItem]] = {}
    for item in items:
        try:
            architecture = str(item.load.card.architecture)
        except Exception:  # no card, or foreign code, which the ranking reports
            architecture = ""
        groups.setdefault(architecture, []).append(item)
    return sorted(groups.values(), key=len, reverse=True)


def _check_all_sendable(work: ScoreExperts, items: Iterable[ExpertItem], executor: str) -> None:
    """Raises ConfigError, which names what cannot be sent to a worker."""
    for name, score in work.scores.items():
        if not _is_known(name, score):
            hint = "functions at the top level of a module, or executor='local' (--executor local)"
            check_sendable(score, f"Score {name!r}", hint, executor=executor)
    check_sendable(work.options.get("reference"), "The reference network", executor=executor)
    for item in items:
        check_sendable(item.load, f"Expert {item.key!r}", executor=executor)
    check_sendable(work, f"The task {work.task.name!r}", executor=executor)
