"""The ranking of the experts of a zoo for a task, without fine-tuning any."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.cache import Cache
from ntk_select._runtime.checks import is_whole
from ntk_select._runtime.progress import Progress, reporting
from ntk_select.errors import ConfigError, DataError, did_you_mean, explained
from ntk_select.evaluate.intervals import MIN_RESAMPLES, half_samples
from ntk_select.experts.expert import Expert
from ntk_select.kernels.gradients import of_params
from ntk_select.ranking.evidence import evidence_for, unmeasured
from ntk_select.ranking.inputs import ScoreInputs
from ntk_select.ranking.judge import contenders, judgement, ordered
from ntk_select.ranking.record import ExpertScores, Failure, Ranking
from ntk_select.ranking.scoring import Scorer, with_intervals
from ntk_select.resolve import as_experts, as_task
from ntk_select.scores import SCORES, Score, ScoreResult
from ntk_select.scores.score import is_informative
from ntk_select.scores.table import GROUPS, known_scores
from ntk_select.tasks.copies import distinct
from ntk_select.tasks.probe_sample import PER_CLASS, ProbeSample, probe_sample
from ntk_select.tasks.task import Task

Experts = Expert | str | Path | Iterable[Expert | str | Path] | Mapping[str, Expert | Callable[[], Expert]]

DEFAULT_SCORES = ("forecast", "lfc", "lgc")
"""The expected accuracy determines the order; the scores of the paper are shown with it."""
IMBALANCE = 5
"""Ratio of the largest to the smallest class above which a ranking warns."""


def rank(
    experts: Experts,
    task: Task | str | Path,
    scores: Sequence[str] | Mapping[str, Score] = DEFAULT_SCORES,
    per_class: int = PER_CLASS,
    seed: int = 0,
    *,
    resamples: int = 100,
    batch_size: int = 32,
    reference: Expert | str = "tiny",
    measured: Mapping[str, Mapping[str, float]] | None = None,
    recipe: Any = None,
    learning_rates: float | Sequence[float] | None = None,
    layers: str = "last_conv",
    cache: str | Path | None = None,
    progress: Progress | bool | None = None,
    draws: int | None = None,
) -> Ranking:
    """Scores every expert on one probe sample of the task and orders them.

    One forward pass per expert serves all scores. An expert that fails is reported in the result, the others are ranked; a score that
    is not defined for an expert is `Unavailable`, with the reason.

    Args:
      experts: experts, names of embedded experts, zoos ("builtin", or a folder of experts), or a mapping from names to functions that
        load one expert each, so that only one is in memory at a time.
      task: the target task, or its URI as for `load_task`; only training images are used.
      scores: names in `SCORES`; "all" for the main group, one score of each kind (in the config of a benchmark "all" is every score);
        "ablation" for their variants and near-duplicates; "baselines"; or a mapping from names to `Score`, for scores of your own. The
        first that at least half of the experts have determines the order.
      per_class: largest number of images per class that the scores see; duplicates are left out.
      seed: seed of the probe sample, the half-samples, the reference network and scores with random numbers.
      resamples: number of half-samples for intervals and verdict; 0 for none. Costly scores use at most 25. A forecast has an interval of its
        own, over the held-out images; gbc, nleep, pactran, generalization, generalization_features and the baselines have none.
      batch_size: images per forward pass.
      reference: reference network of RSA and DDS: an expert trained on the task, or the network to train ("tiny", "resnet18"); see
        `trained_reference`.
      measured: accuracies after fine-tuning, by expert and task, for `best_elsewhere`. Those on this task are left out.
      recipe: a `Recipe`, how the experts will be fine-tuned, for `forecast`; that of the paper if None.
      learning_rates: rates to try in that fine-tuning; those of the paper if None.
      layers: layers whose gradients LGC takes: "last_conv" (as the expert names it), "all", or a regular expression for the "/"-joined
        paths of the parameters, for networks without a last convolution.
      cache: folder in which features, logits and gradient kernels are cached by content, so that further scores of the same experts
        and images need no forward pass; None for no cache.
      progress: called with (experts done, number of experts, name of the next); while a reference network is
        trained, with its epochs. None shows a bar on a terminal or in a notebook, False nothing.
      draws: deprecated name of `resamples`.

    Raises:
      ConfigError: an unknown score, no experts, two experts of one name, or an option out of range.
      ModelError: unknown name of an expert or zoo.
      TaskError: `per_class` or `seed` out of range.
      DataError: an image of the task cannot be decoded.

    Reference: Deshpande et al. 2021, sections 3 and 5.
    """
    task = as_task(task)
    chosen = chosen_scores(scores)
    if draws is not None:
        warnings.warn("rank(..., draws=...) is deprecated. Try: rank(..., resamples=...)", DeprecationWarning, stacklevel=2)
        resamples = draws
    if not is_whole(resamples) or (resamples != 0 and resamples < MIN_RESAMPLES):
        raise ConfigError(f"resamples={resamples!r} must be 0 (no intervals) or at least {MIN_RESAMPLES}, a whole number.")
    if not is_whole(batch_size) or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r} must be an integer of at least 1.")
    if measured is not None and not (isinstance(measured, Mapping) and all(isinstance(row, Mapping) for row in measured.values())):
        raise ConfigError("measured must be {expert: {task: accuracy from 0 to 1}}.")
    if not isinstance(cache, str | Path | None):
        raise ConfigError(f"cache is of type {type(cache).__name__}; it must be the path of a folder, or None.")
    if layers != "last_conv":
        of_params(layers, None)
    training = _training(recipe, learning_rates)
    loaders = as_experts(experts)
    if not loaders:
        raise ConfigError("There is no expert to rank. Try: rank('builtin', ...); to list experts: ntk-select zoo list")
    if any("reference_features" in score.takes for score in chosen.values()) and not isinstance(reference, Expert):
        from ntk_select.training.reference import check_reference  # imported here because of Optax

        check_reference(reference)
    drawn = probe_sample(task, per_class=per_class, seed=seed)
    sample, notes = distinct(drawn)
    halves = half_samples(sample.labels, resamples=resamples, seed=seed)
    cached = Cache(cache)
    rows, failures = [], []
    with reporting(progress, "ranking") as report:
        options = {"reference": reference, "measured": measured, "names": loaders, "layers": layers, "progress": report}
        inputs = ScoreInputs(task, sample, chosen, seed=seed, batch_size=batch_size, cache=cached, **training, **options)
        scorer = Scorer(inputs, halves.rows)
        for done, (name, load) in enumerate(loaders.items()):
            if report:
                report(done, len(loaders), name)
            try:
                rows.append(scorer.score(name, load))
            except DataError:
                raise  # of the task's images, the same for all experts
            except Exception as error:  # foreign code; the other experts are ranked
                failures.append(Failure(name, explained(error)))
        if report:
            report(len(loaders), len(loaders), "")
    cached.prune()

    deciding = _deciding(list(chosen), rows)
    on_halves = {name: scorer.on_halves(name, rows) for name in chosen}
    rows = [with_intervals(row, chosen, on_halves, halves, len(sample.class_names)) for row in scorer.compared(rows)]
    rows = ordered(rows, deciding, chosen[deciding])
    among = contenders(rows, on_halves[deciding], deciding, halves)
    verdict = judgement(rows, among, deciding, chosen, images=len(sample), resamples=resamples, halved=len(halves.rows) > 0)
    return Ranking(
        task=_task_record(
            task, sample, inputs, per_class=per_class, copies=len(drawn) - len(sample), notes=notes, cut=_cut(rows, chosen, len(sample.class_names))
        ),
        score_names=tuple(chosen),
        deciding=deciding,
        evidence=_evidence(deciding, chosen, layers) if among else "",
        fine_tuning=_fine_tuning(inputs) if "training_kernel" in inputs.needs else None,
        experts=tuple(rows),
        failures=tuple(failures),
        contenders=among,
        judgement=verdict,
        versions={package: version(package) for package in ("jax", "numpy")} | {"device": jax.devices()[0].platform},
        higher_is_better={name: score.higher_is_better for name, score in chosen.items()},
        shared_seconds=inputs.seconds,
    )


def _deciding(names: Sequence[str], rows: Sequence[ExpertScores]) -> str:
    """The first score that at least half of the experts have; else the first that any has; else the first."""
    known = {name: sum(is_informative(row.scores[name]) for row in rows) for name in names}
    return next((name for least in (max(len(rows) / 2, 1), 1) for name in names if known[name] >= least), names[0])


def _evidence(name: str, scores: Mapping[str, Score], layers: str) -> str:
    """How well a score has predicted accuracy, if it is the score that was measured."""
    measured = scores[name] is SCORES.get(name) and (layers == "last_conv" or "gradient_kernel" not in scores[name].takes)
    return evidence_for(name) if measured else unmeasured(name)


def _training(recipe, learning_rates) -> dict[str, Any]:
    """The options of the forecasted fine-tuning. Raises ConfigError for invalid ones."""
    if recipe is None and learning_rates is None:
        return {}
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe, checked_rates  # imported here because of Optax

    if recipe is not None and not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe={recipe!r} must be a Recipe. Try: ntk_select.Recipe(epochs=30)")
    return {"recipe": recipe or Recipe(), "learning_rates": checked_rates(LEARNING_RATES if learning_rates is None else learning_rates)}


def chosen_scores(scores: Sequence[str] | Mapping[str, Score]) -> dict[str, Score]:
    """Scores by name, including those of installed packages.

    Args:
      scores: names of scores and of groups ("all", "ablation", "baselines"), or `Score` by name. Scores that are named come first,
        then those of the groups in the order of the table.

    Raises:
      ConfigError: no score, or an unknown name.
    """
    if isinstance(scores, Mapping):
        for name, score in scores.items():
            if not isinstance(score, Score):
                raise ConfigError(f"scores[{name!r}] is a {type(score).__name__}, not a Score. Try: ntk_select.scores.Score(fn, needs, ...)")
        chosen = dict(scores)
    elif isinstance(scores, Iterable):
        names = [scores] if isinstance(scores, str) else list(scores)
        known, broken = known_scores() if set(names) - set(SCORES) else (SCORES, {})
        groups = {GROUPS[name] for name in names if name in GROUPS}
        names = [name for name in names if name not in GROUPS] + [name for name, score in known.items() if score.group in groups]
        for name in names:
            if name in broken:
                raise ConfigError(f"Score {name!r} of an installed package cannot be loaded: {broken[name]}")
            if name not in known:
                raise ConfigError(f"Score {name!r} is unknown.{did_you_mean(str(name), [*known, *GROUPS])}")
        chosen = {name: known[name] for name in names}
    else:
        raise ConfigError(f"scores is of type {type(scores).__name__}; it must be names, as in ('lfc', 'lgc'), or a mapping from names to Score.")
    if not chosen:
        raise ConfigError(f"No score was named.{did_you_mean('', SCORES)}")
    return chosen


def _fine_tuning(inputs: ScoreInputs) -> dict[str, Any]:
    """The recipe and the learning rates of the forecast, JSON-ready."""
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe  # imported here because of Optax

    return {"recipe": asdict(inputs.recipe or Recipe()), "learning_rates": list(inputs.learning_rates or LEARNING_RATES)}


def _cut(rows: list[ExpertScores], scores: dict[str, Score], classes: int) -> list[str]:
    """A note on the scores whose intervals are cut at the end of the range."""
    found = []
    for name, score in scores.items():
        limits = set(score.limits_for(classes))
        results = [row.scores[name] for row in rows if isinstance(row.scores[name], ScoreResult)]
        if score.resampled and any(result.low is not None and {result.low, result.high} & limits - {result.value} for result in results):
            found.append(name)
    return [f"Intervals are cut at the ends of the range of {', '.join(found)}."] if found else []


def _task_record(
    task: Task, sample: ProbeSample, inputs: ScoreInputs, *, per_class: int, copies: int, notes: list[str], cut: list[str]
) -> dict[str, Any]:
    counts = np.bincount(sample.labels)
    found = [*task.details.get("warnings", []), *notes]
    absent = [name for name in task.class_names if name not in sample.class_names]
    if absent:
        found.append(f"Classes without a training image, left out ({len(absent)}): {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    single = [sample.class_names[i] for i in np.flatnonzero(counts == 1)]
    if single:
        found.append(f"Classes with one image only ({len(single)}): {', '.join(single[:5])}{' ...' if len(single) > 5 else ''}")
    if inputs.headless:
        found.append(f"Without a head, LGC is over the pre-logits, not comparable with the others: {', '.join(inputs.headless)}")
    if len(inputs.extractors) > 1:
        found.append(f"domain_similarity is not comparable between experts of different extractors: {', '.join(inputs.extractors)}")
    if "labels" in inputs.needs and counts.max() > IMBALANCE * counts.min():
        found.append(
            f"Unbalanced: {counts.max()} images of the largest class, {counts.min()} of the smallest. Accuracies of knn and linear_probe are biased "
            "towards the largest (see their detail `balanced`); a smaller per_class balances the classes."
        )
    if inputs.uncached:
        found.append(f"Not cached, because they call back to Python or cannot be traced: {', '.join(dict.fromkeys(inputs.uncached))}")
    if inputs.cache.trouble:
        found.append(inputs.cache.trouble)
    found.extend(cut)
    return {
        "name": task.name,
        "uri": task.uri,
        "classes": len(sample.class_names),
        "images": len(sample),
        "copies": copies,
        "per_class": int(per_class),
        "seed": int(inputs.seed),
        "smallest_class": int(counts.min()),
        "warnings": list(dict.fromkeys(found)),
    }
