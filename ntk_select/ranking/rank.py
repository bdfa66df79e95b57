"""The ranking of the experts of a zoo for a task, without fine-tuning any."""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.cache import Cache
from ntk_select._runtime.checks import is_whole
from ntk_select._runtime.progress import Progress, reporting, timed
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.intervals import MIN_RESAMPLES, half_samples
from ntk_select.executors import checked_options, executor_of
from ntk_select.experts.expert import Expert
from ntk_select.experts.feature_expert import FeatureExpert
from ntk_select.kernels.gradients import of_params
from ntk_select.ranking.evidence import evidence_for, unmeasured
from ntk_select.ranking.features import task_of_labels
from ntk_select.ranking.judge import contenders, judgement, ordered
from ntk_select.ranking.record import ExpertScores, Failure, Ranking
from ntk_select.ranking.records import NOTES, Outcome, Records, identity_of, key_of_settings
from ntk_select.ranking.scoring import compared, values_on_halves, with_intervals
from ntk_select.ranking.workers import ScoreExperts, score_all
from ntk_select.resolve import Loaded, as_experts, as_task
from ntk_select.scores import SCORES, Score, ScoreResult
from ntk_select.scores.score import is_informative
from ntk_select.scores.table import GROUPS, known_scores
from ntk_select.tasks.copies import distinct
from ntk_select.tasks.labels_only import has_images
from ntk_select.tasks.probe_sample import PER_CLASS, ProbeSample, probe_sample
from ntk_select.tasks.shift import has_test_images, remarks_on_test_images
from ntk_select.tasks.task import Task

AnExpert = Expert | FeatureExpert
Experts = AnExpert | str | Path | Iterable[AnExpert | str | Path] | Mapping[str, AnExpert | Callable[[], AnExpert]]

DEFAULT_SCORES = ("forecast", "lfc", "lgc")
"""The forecast determines the order; the scores of the paper are shown with it."""
IMBALANCE = 5
"""Ratio of the largest to the smallest class above which a ranking warns."""


def rank(
    experts: Experts,
    task: Task | str | Path | None = None,
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
    executor: str = "local",
    workers: int = 0,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    resume: str | Path | None = None,
    draws: int | None = None,
) -> Ranking:
    """Scores every expert on one probe sample of the task and orders them.

    One forward pass per expert serves all scores. An expert that fails is reported in the result, the others are ranked; a score that
    is not defined for an expert is `Unavailable`, with the reason.

    Scores use training images only. With `forecast` among them, the probe sample is also compared with as many test images per class, if there are
    any, in the features of the first expert: where they differ, one of `task["warnings"]` says that accuracies may be lower than forecast. This
    changes neither scores nor order, and test labels only say which images are of the same class. It costs loading that expert again and a forward
    pass over both samples, a small part of the expert's forecast.

    Args:
      experts: experts, names of embedded experts, zoos ("builtin", a folder of experts, "features:PATH"; see `open_zoo`), or a mapping from
        names to functions that load one expert each, so that only one is in memory at a time.
      task: the target task, or its URI as for `load_task`. None if every expert is a `FeatureExpert` with labels, the
        same for all.
      scores: names in `SCORES`; "all" for the main group, one score of each kind (in the config of a benchmark "all" is every score);
        "ablation" for their variants and near-duplicates; "baselines"; or a mapping from names to `Score`, for scores of your own. The
        first that at least half of the experts have determines the order.
      per_class: largest number of images per class that the scores see; duplicates are left out.
      seed: seed of the probe sample, the half-samples, the reference network and scores with random numbers.
      resamples: number of half-samples for intervals and verdict; 0 for none. Costly scores use at most 25. The accuracy of a
        forecast has Wilson's interval; gbc, nleep, pactran, generalization, generalization_features and the baselines have none.
      batch_size: images per forward pass.
      reference: reference network of RSA and DDS: an expert trained on the task, or the network to train ("tiny", "resnet18"); see
        `trained_reference`.
      measured: accuracies after fine-tuning, by expert and task, for `best_elsewhere`. Those on this task are left out.
      recipe: a `Recipe`, how the experts will be fine-tuned, for `forecast`; that of the paper if None.
      learning_rates: rates to try in that fine-tuning; those of the paper if None.
      layers: layers whose gradients LGC takes: "last_conv" (as the expert names it; where it has none, the weights of its last block), "all",
        or a regular expression for the "/"-joined paths of the parameters.
      cache: folder in which features, logits and gradient kernels are cached by content, so that further scores of the same experts
        and images need no forward pass; None for no cache.
      progress: called with (experts done, number of experts, name of the next); while a reference network is
        trained, with its epochs. With several workers the name is that of the last. None shows a bar on a terminal or in a notebook, False nothing.
      executor: where experts are scored: "local" (this process), "processes" (of this machine; in a script below `if __name__ == "__main__":`), or
        "ray" (a cluster). A lost worker costs one expert, which is started again, at most three times. The numbers are those of "local", up to
        rounding: threads and devices may differ.
      workers: number of workers; 0 for as many as fit.
      address: address of a running Ray cluster ("auto", HOST:PORT or ray://HOST:10001); None starts one on this machine.
      cpus, gpus: CPUs and GPUs per Ray worker.
      resume: folder in which every finished expert is recorded (below experts/), so that the same call resumes after an interruption and scores only
        experts that are new or failed. Any other setting, image, score or weight is another record. None to keep nothing. Experts are
        identified by their cards; without a card by their weights, if they are in memory, or by the function that loads them and the state of
        its files.
      draws: deprecated name of `resamples`.

    Raises:
      ConfigError: an unknown score, no experts, two experts of one name, an option out of range, an expert, task or score that cannot be sent to
        another process, no cluster, or a folder `resume` that cannot be written.
      ModelError: unknown name of an expert or zoo.
      TaskError: `per_class` or `seed` out of range; without a task, an expert without labels, or different labels of two experts.
      DataError: an image of the task cannot be decoded.

    Reference: Deshpande et al. 2021, sections 3 and 5.
    """
    task = task if task is None else as_task(task)
    chosen = chosen_scores(scores)
    if draws is not None:
        warnings.warn("rank(..., draws=...) is deprecated. Try: rank(..., resamples=...)", DeprecationWarning, stacklevel=2)
        resamples = draws
    if not is_whole(resamples) or (resamples != 0 and resamples < MIN_RESAMPLES):
        raise ConfigError(
            f"resamples={resamples!r} must be 0 (no intervals) or a whole number from {MIN_RESAMPLES}. Try: resamples=100 (--resamples 100)"
        )
    if not is_whole(batch_size) or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r} must be an integer of at least 1. Try: batch_size=32 (--batch-size 32)")
    if measured is not None and not (isinstance(measured, Mapping) and all(isinstance(row, Mapping) for row in measured.values())):
        raise ConfigError("measured must be {expert: {task: accuracy from 0 to 1}}. Try: measured={'resnet18': {'flowers': 0.9}}")
    if not isinstance(cache, str | Path | None):
        raise ConfigError(f"cache is of type {type(cache).__name__}; it must be the path of a folder, or None.")
    if not isinstance(resume, str | Path | None):
        raise ConfigError(f"resume is of type {type(resume).__name__}; it must be the path of a folder, or None.")
    executor_of(executor)
    executor_options = checked_options(workers, address, cpus, gpus)
    if layers != "last_conv":
        of_params(layers, None)
    training = _training(recipe, learning_rates)
    loaders = as_experts(experts)
    if not loaders:
        raise ConfigError("There is no expert to rank. Try: rank('builtin', ...); to list experts: ntk-select zoo list")
    task = task_of_labels(loaders) if task is None else task
    if any("reference_features" in score.takes for score in chosen.values()) and not isinstance(reference, Expert):
        from ntk_select.training.reference import check_reference  # imported here because of Optax

        check_reference(reference)
    drawn = probe_sample(task, per_class=per_class, seed=seed)
    sample, notes = distinct(drawn) if has_images(task) else (drawn, [])
    halves = half_samples(sample.labels, resamples=resamples, seed=seed)
    elsewhere = {name: row for name, row in (measured or {}).items() if name in loaders}
    options = {
        "seed": seed,
        "batch_size": batch_size,
        **training,
        "reference": reference,
        "measured": elsewhere,
        "names": [*loaders],
        "layers": layers,
    }
    records = Records(resume, None if resume is None else _key(task, sample, chosen, {**options, "resamples": resamples}), loaders, sample)
    with reporting(progress, "ranking") as report:
        work = ScoreExperts(task, sample, chosen, halves.rows, cache=cache, progress=report, **options)
        outcomes, shared = score_all(work, loaders, records, executor=executor, options=executor_options, progress=report)
    Cache(cache).prune()
    found = [outcome.scored for outcome in outcomes if outcome.scored is not None]
    failures = [Failure(outcome.name, outcome.error) for outcome in outcomes if outcome.scored is None]
    notes = [*notes, *records.notes()]

    rows = [each.row for each in found]
    deciding = _deciding(list(chosen), rows)
    on_halves = {name: values_on_halves(name, score, found) for name, score in chosen.items()}
    rows = [with_intervals(row, chosen, on_halves, halves, len(sample.class_names)) for row in compared(chosen, rows)]
    rows = ordered(rows, deciding, chosen[deciding])
    seconds = _summed([*shared, *outcomes])
    if rows and any("training_kernel" in score.takes and isinstance(rows[0].scores[name], ScoreResult) for name, score in chosen.items()):
        notes = [*_on_test_images(work, loaders[rows[0].name], seconds), *notes]
    among = contenders(rows, on_halves[deciding], deciding, halves)
    verdict = judgement(rows, among, deciding, chosen, images=len(sample), resamples=resamples, halved=len(halves.rows) > 0)
    return Ranking(
        task=_task_record(
            *(task, sample, chosen, [*shared, *outcomes]),
            per_class=per_class,
            seed=seed,
            copies=len(drawn) - len(sample),
            notes=notes,
            cut=_cut(rows, chosen, len(sample.class_names)),
        ),
        score_names=tuple(chosen),
        deciding=deciding,
        evidence=_evidence(deciding, chosen, layers) if among else "",
        fine_tuning=_fine_tuning(**training) if any("training_kernel" in score.takes for score in chosen.values()) else None,
        experts=tuple(rows),
        failures=tuple(failures),
        contenders=among,
        judgement=verdict,
        versions={package: version(package) for package in ("jax", "numpy")} | {"device": _devices(outcomes)},
        higher_is_better={name: score.higher_is_better for name, score in chosen.items()},
        shared_seconds=seconds,
    )


def _key(task: Task, sample: ProbeSample, scores: Mapping[str, Score], options: Mapping[str, Any]) -> str | None:
    """Key of the settings of a ranking; None if something in them cannot be identified."""
    settings = {name: value for name, value in options.items() if name != "names"}
    if not isinstance(settings["reference"], str):
        settings["reference"] = identity_of(Loaded(settings["reference"]), sample)
    return None if settings["reference"] is None else key_of_settings(task, sample, scores, **settings)


def _on_test_images(work: ScoreExperts, load: Callable[[], AnExpert], seconds: dict[str, float]) -> list[str]:
    """A sentence if the test images differ from the probe sample in the features of an expert; the time is added to `seconds`."""
    load = lru_cache(load)  # once for both samples

    def features_of(part: ProbeSample) -> np.ndarray | None:
        expert = load()
        if isinstance(expert, FeatureExpert):
            return None
        return work.scorer.inputs.features_of(expert, None if part is work.sample else part.images)

    if not has_test_images(work.task):
        return []
    with timed(seconds, "test images"):
        return remarks_on_test_images(work.task, work.sample, features_of, seed=work.options["seed"])


def _devices(outcomes: Sequence[Outcome]) -> str:
    """The kinds of devices that scored the experts."""
    return ", ".join(sorted({outcome.device for outcome in outcomes} - {""})) or jax.devices()[0].platform


def _summed(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Seconds that were spent once per worker, by step."""
    spent: dict[str, float] = {}
    for step, seconds in (item for outcome in outcomes for item in outcome.shared_seconds.items()):
        spent[step] = spent.get(step, 0.0) + seconds
    return spent


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
                known = isinstance(score, str) and score in SCORES
                call = f"ntk_select.scores.SCORES[{score!r}]" if known else "ntk_select.scores.Score(fn, needs, ...)"
                raise ConfigError(f"scores[{name!r}] is a {type(score).__name__}, not a Score. Try: {call}")
        chosen = dict(scores)
    elif isinstance(scores, Iterable):
        names = [scores] if isinstance(scores, str) else list(scores)
        known, broken = known_scores() if set(names) - set(SCORES) else (SCORES, {})
        groups = {GROUPS[name] for name in names if name in GROUPS}
        names = [name for name in names if name not in GROUPS] + [name for name, score in known.items() if score.group in groups]
        for name in names:
            if isinstance(name, Score):
                raise ConfigError("A Score among scores= has no name. Try: scores={'mine': score}")
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


def _fine_tuning(recipe: Any = None, learning_rates: Sequence[float] | None = None) -> dict[str, Any]:
    """The recipe and the learning rates of the forecast, as in JSON."""
    from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe  # imported here because of Optax

    return json.loads(json.dumps({"recipe": asdict(recipe or Recipe()), "learning_rates": list(learning_rates or LEARNING_RATES)}))


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
    task: Task,
    sample: ProbeSample,
    scores: Mapping[str, Score],
    outcomes: Sequence[Outcome],
    *,
    per_class: int,
    seed: int,
    copies: int,
    notes: Sequence[str],
    cut: Sequence[str],
) -> dict[str, Any]:
    counts = np.bincount(sample.labels)
    headless, blocks, estimated, uncached, extractors, trouble = (_collected(outcomes, name) for name in (*NOTES, "trouble"))
    found = [*task.details.get("warnings", []), *notes]
    absent = [name for name in task.class_names if name not in sample.class_names]
    if absent:
        found.append(f"Classes without a training image, left out ({len(absent)}): {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    single = [sample.class_names[i] for i in np.flatnonzero(counts == 1)]
    if single:
        found.append(f"Classes with one image only ({len(single)}): {', '.join(single[:5])}{' ...' if len(single) > 5 else ''}")
    if headless:
        found.append(f"Without a head, LGC is over the pre-logits, not comparable with the others: {', '.join(headless)}")
    if blocks:
        found.append(f"Without a last convolution, LGC is over the weights of the last block: {', '.join(blocks)}")
    if estimated:
        found.append(f"LGC is estimated from random directions, since the exact kernel is costly: {', '.join(estimated)}")
    if len(extractors) > 1:
        found.append(f"domain_similarity is not comparable between experts of different extractors: {', '.join(extractors)}")
    if any("labels" in score.takes for score in scores.values()) and counts.max() > IMBALANCE * counts.min():
        found.append(
            f"Unbalanced: {counts.max()} images of the largest class, {counts.min()} of the smallest. Accuracies of knn and linear_probe are biased "
            "towards the largest (see their detail `balanced`); a smaller per_class balances the classes."
        )
    if uncached:
        found.append(f"Not cached, because they call back to Python or cannot be traced: {', '.join(uncached)}")
    found += [*trouble, *cut]
    return {
        "name": task.name,
        "uri": task.uri,
        "classes": len(sample.class_names),
        "images": len(sample),
        "copies": copies,
        "per_class": int(per_class),
        "seed": int(seed),
        "smallest_class": int(counts.min()),
        "warnings": list(dict.fromkeys(found)),
    }


def _collected(outcomes: Sequence[Outcome], name: str) -> list[str]:
    """What the outcomes have in a field, each once."""
    return list(dict.fromkeys(each for outcome in outcomes for each in getattr(outcome, name)))
