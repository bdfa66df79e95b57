"""Ranking the experts of a zoo for a task, without fine-tuning any."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.cache import Cache
from ntk_select._runtime.checks import is_whole
from ntk_select._runtime.progress import Progress, reporting
from ntk_select.errors import ConfigError, DataError, did_you_mean, explained
from ntk_select.evaluate.resampling import MIN_DRAWS, HalfSamples, half_samples
from ntk_select.experts.expert import Expert
from ntk_select.kernels.gradients import of_params
from ntk_select.ranking.evidence import evidence_for, unmeasured
from ntk_select.ranking.inputs import Gatherer
from ntk_select.ranking.judge import contenders, judgement, ordered
from ntk_select.ranking.record import ExpertScores, Failure, Ranking
from ntk_select.ranking.scorer import Scorer
from ntk_select.resolve import as_experts, as_task
from ntk_select.scores import SCORES, Score, ScoreResult
from ntk_select.scores.installed import known_scores
from ntk_select.scores.record import is_telling
from ntk_select.tasks.copies import distinct
from ntk_select.tasks.task import ProbeSample, Task, probe_sample

Experts = Expert | str | Path | Iterable[Expert | str | Path] | Mapping[str, Expert | Callable[[], Expert]]

DEFAULT_SCORES = ("forecast", "lfc", "lgc")
"""The expected accuracy decides the order; the paper's scores stand beside it."""
IMBALANCE = 5
"""Ratio of the largest to the smallest class from which a ranking warns."""


def rank(
    experts: Experts,
    task: Task | str | Path,
    scores: Sequence[str] | Mapping[str, Score] = DEFAULT_SCORES,
    per_class: int = 25,
    seed: int = 0,
    *,
    draws: int = 100,
    batch_size: int = 32,
    reference: Expert | str = "tiny",
    measured: Mapping[str, Mapping[str, float]] | None = None,
    recipe: Any = None,
    learning_rates: float | Sequence[float] | None = None,
    layers: str = "last_conv",
    cache: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Ranking:
    """Scores every expert on one probe sample of the task and orders them.

    One forward pass per expert serves all scores. An expert that fails is reported in the result and the rest go on; a score that
    an expert cannot have is there with the reason.

    Args:
      experts: experts, names of embedded experts, zoos ("builtin", or a folder of experts), or a mapping from names to functions that
        load one, so that only one is in memory.
      task: the target task, or its URI as for `load_task`; only training images are used.
      scores: names in `SCORES`, or "all"; or a mapping from names to `Score`, for scores of your own. The first that at least half of the
        experts have decides the order.
      per_class: images of each class that the scores see, at most; copies of one image are left out.
      seed: of the probe sample, the half-samples, the reference network and the scores that draw.
      draws: half-samples behind the intervals and the verdict; 0 for none (a forecast has an interval of its own). Costly scores take 25 at most.
      batch_size: images per forward pass.
      reference: for RSA and DDS: an expert that was trained on the task, or the network that is to be ("tiny", "resnet18"); see
        `trained_reference`.
      measured: accuracies after fine-tuning, by expert and task, for `best_elsewhere`. Those on this very task are left out.
      recipe: a `Recipe`, how the experts will be fine-tuned, for `forecast`; that of the paper if None.
      learning_rates: that will be tried then; those of the paper if None.
      layers: whose gradients LGC takes: "last_conv" (as the expert names it), "all", or a regular expression that is searched in the
        "/"-joined paths of the parameters, for networks without a last convolution.
      cache: folder in which features, logits and gradient kernels are kept by content, so that the next score of the same experts
        and images costs no forward pass; None keeps nothing.
      progress: called with (experts done, experts in all, name of the next) as the work goes on; while a reference network is
        trained, with its epochs. None shows a bar on a terminal or in a notebook, False nothing.

    Raises:
      ConfigError: an unknown score, no experts, two of one name, or an option out of range.
      ModelError: there is no expert or zoo of a name.
      TaskError: `per_class` or `seed` out of range.
      DataError: an image of the task cannot be decoded.

    Reference: Deshpande et al. 2021, sections 3 and 5.
    """
    task = as_task(task)
    chosen = chosen_scores(scores)
    if not is_whole(draws) or (draws != 0 and draws < MIN_DRAWS):
        raise ConfigError(f"draws is {draws!r}; it must be 0 (no intervals) or at least {MIN_DRAWS}, a whole number.")
    if not is_whole(batch_size) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; it must be at least 1, a whole number.")
    if measured is not None and not (isinstance(measured, Mapping) and all(isinstance(row, Mapping) for row in measured.values())):
        raise ConfigError("measured must be {expert: {task: accuracy from 0 to 1}}.")
    if not isinstance(cache, str | Path | None):
        raise ConfigError(f"cache is of type {type(cache).__name__}; it must be the path of a folder, or None.")
    if layers != "last_conv":
        of_params(layers, None)
    training = _training(recipe, learning_rates)
    loaders = as_experts(experts)
    if not loaders:
        raise ConfigError("There is no expert to rank. Give at least one; to see what is there type: ntk-select zoo list")
    needs = {name for score in chosen.values() for name in score.takes}
    if "reference_features" in needs and not isinstance(reference, Expert):
        from ntk_select.training.reference import check_reference  # here, for it imports Optax

        check_reference(reference)
    drawn = probe_sample(task, per_class=per_class, seed=seed)
    sample, noticed = distinct(drawn)
    halves = half_samples(sample.labels, draws=draws, seed=seed)
    kept = Cache(cache)
    rows, failures = [], []
    with reporting(progress, "ranking") as report:
        options = {"reference": reference, "measured": measured, "names": loaders, "layers": layers, "progress": report}
        gatherer = Gatherer(task, sample, needs, seed=seed, batch_size=batch_size, cache=kept, **training, **options)
        scorer = Scorer(gatherer, chosen, halves.rows)
        for done, (name, load) in enumerate(loaders.items()):
            if report:
                report(done, len(loaders), name)
            try:
                rows.append(scorer.score(name, load))
            except DataError:
                raise  # the task's own images: no expert can do better
            except Exception as error:  # an expert is foreign code: whatever it raises must not cost the others
                failures.append(Failure(name, explained(error)))
        if report:
            report(len(loaders), len(loaders), "")
    kept.prune()

    deciding = _deciding(list(chosen), rows)
    on_halves = {name: scorer.on_halves(name, rows) for name in chosen}
    rows = [_with_intervals(row, chosen, on_halves, halves, len(sample.class_names)) for row in scorer.compared(rows)]
    rows = ordered(rows, deciding, chosen[deciding])
    among = contenders(rows, on_halves[deciding], deciding, halves)
    verdict = judgement(rows, among, deciding, chosen, images=len(sample), draws=draws, halved=len(halves.rows) > 0)
    return Ranking(
        task=_task_record(
            task, sample, per_class, seed, gatherer, needs, noticed, _cut(rows, chosen, len(sample.class_names)), len(drawn) - len(sample)
        ),
        score_names=tuple(chosen),
        deciding=deciding,
        evidence=_evidence(deciding, chosen, layers) if among else "",
        fine_tuning=None if "training_kernel" not in needs else _fine_tuning(gatherer),
        experts=tuple(rows),
        failures=tuple(failures),
        contenders=among,
        judgement=verdict,
        versions={package: version(package) for package in ("jax", "numpy")} | {"device": jax.devices()[0].platform},
        higher_is_better={name: score.higher_is_better for name, score in chosen.items()},
        shared_seconds=gatherer.seconds,
    )


def _deciding(names: Sequence[str], rows: Sequence[ExpertScores]) -> str:
    """The first score that at least half of the experts have; else the first that any has; else the first."""
    known = {name: sum(is_telling(row.scores[name]) for row in rows) for name in names}
    return next((name for least in (max(len(rows) / 2, 1), 1) for name in names if known[name] >= least), names[0])


def _evidence(name: str, scores: Mapping[str, Score], layers: str) -> str:
    """How well a score has predicted accuracy, where it is the one that was measured."""
    measured = scores[name] is SCORES.get(name) and (layers == "last_conv" or "gradient_kernel" not in scores[name].takes)
    return evidence_for(name) if measured else unmeasured(name)


def _training(recipe, learning_rates) -> dict[str, Any]:
    """The fine-tuning that is forecast. Raises ConfigError for what is none."""
    if recipe is None and learning_rates is None:
        return {}
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe, checked_rates  # here, for it imports Optax

    if recipe is not None and not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe={recipe!r} must be a Recipe. Type: ntk_select.Recipe(epochs=30)")
    return {"recipe": recipe or Recipe(), "learning_rates": checked_rates(LEARNING_RATES if learning_rates is None else learning_rates)}


def chosen_scores(scores: Sequence[str] | Mapping[str, Score]) -> dict[str, Score]:
    """Scores by name, those of installed packages among them. Raises ConfigError for none, or a name that is unknown."""
    chosen = _by_name(scores)
    if not chosen:
        raise ConfigError(f"No score was named.{did_you_mean('', SCORES)}")
    return chosen


def _by_name(scores: Sequence[str] | Mapping[str, Score]) -> dict[str, Score]:
    if isinstance(scores, Mapping):
        for name, score in scores.items():
            if not isinstance(score, Score):
                raise ConfigError(f"scores[{name!r}] is a {type(score).__name__}, not a Score. Type: ntk_select.scores.Score(fn, needs, ...)")
        return dict(scores)
    if not isinstance(scores, Iterable):
        raise ConfigError(f"scores is of type {type(scores).__name__}; it must be names, as in ('lfc', 'lgc'), or a mapping from names to Score.")
    names = [scores] if isinstance(scores, str) else list(dict.fromkeys(scores))
    known, broken = known_scores() if set(names) - set(SCORES) else (SCORES, {})
    if "all" in names:
        names = list(dict.fromkeys([*(name for name in names if name != "all"), *known]))
    for name in names:
        if name in broken:
            raise ConfigError(f"Score {name!r} of an installed package cannot be loaded: {broken[name]}")
        if name not in known:
            raise ConfigError(f"Score {name!r} is unknown.{did_you_mean(str(name), [*known, 'all'])}")
    return {name: known[name] for name in names}


def _fine_tuning(gatherer: Gatherer) -> dict[str, Any]:
    """The recipe and the learning rates of the forecast, JSON-ready."""
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe  # here, for it imports Optax

    return {"recipe": asdict(gatherer.recipe or Recipe()), "learning_rates": list(gatherer.learning_rates or LEARNING_RATES)}


def _with_intervals(
    row: ExpertScores, scores: dict[str, Score], on_halves: dict[str, dict[str, np.ndarray]], halves: HalfSamples, classes: int
) -> ExpertScores:
    outcomes = dict(row.scores)
    for name, score in scores.items():
        outcome, values = outcomes[name], on_halves[name].get(row.name)
        if is_telling(outcome) and outcome.low is None and values is not None and np.isfinite(margin := halves.margin(values)):
            low, high = score.limits_for(classes)
            outcomes[name] = replace(outcome, low=max(outcome.value - margin, low), high=min(outcome.value + margin, high))
    return replace(row, scores=outcomes)


def _cut(rows: list[ExpertScores], scores: dict[str, Score], classes: int) -> list[str]:
    """Says of which scores intervals end where the range of the score does."""
    found = []
    for name, score in scores.items():
        limits = set(score.limits_for(classes))
        results = [row.scores[name] for row in rows if isinstance(row.scores[name], ScoreResult)]
        if score.resampled and any(result.low is not None and {result.low, result.high} & limits - {result.value} for result in results):
            found.append(name)
    return [f"Intervals are cut at the ends of the range of {', '.join(found)}."] if found else []


def _task_record(
    task: Task, sample: ProbeSample, per_class: int, seed: int, gatherer: Gatherer, needs: set[str], noticed: list[str], cut: list[str], copies: int
) -> dict[str, Any]:
    counts = np.bincount(sample.labels)
    warnings = [*task.details.get("warnings", []), *noticed]
    absent = [name for name in task.class_names if name not in sample.class_names]
    if absent:
        warnings.append(f"Classes without a training image, left out ({len(absent)}): {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    single = [sample.class_names[i] for i in np.flatnonzero(counts == 1)]
    if single:
        warnings.append(f"Classes with one image only ({len(single)}): {', '.join(single[:5])}{' ...' if len(single) > 5 else ''}")
    if gatherer.headless:
        warnings.append(f"Without a head, LGC is over the pre-logits, not comparable with the others: {', '.join(gatherer.headless)}")
    if len(gatherer.extractors) > 1:
        warnings.append(f"domain_similarity is not comparable between experts of different extractors: {', '.join(gatherer.extractors)}")
    if "labels" in needs and counts.max() > IMBALANCE * counts.min():
        warnings.append(
            f"Unbalanced: {counts.max()} images of the largest class, {counts.min()} of the smallest. Accuracies of knn and linear_probe lean to the "
            "largest (see their details, balanced); --per-class evens the classes out."
        )
    if gatherer.not_kept:
        warnings.append(f"Not kept in the cache, for they call back to Python or cannot be traced: {', '.join(dict.fromkeys(gatherer.not_kept))}")
    if gatherer.cache.trouble:
        warnings.append(gatherer.cache.trouble)
    warnings.extend(cut)
    return {
        "name": task.name,
        "uri": task.uri,
        "classes": len(sample.class_names),
        "images": len(sample),
        "copies": copies,
        "per_class": int(per_class),
        "seed": int(seed),
        "smallest_class": int(counts.min()),
        "warnings": list(dict.fromkeys(warnings)),
    }
