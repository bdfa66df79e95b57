"""Which experts are worth fine-tuning on a task, judged without fine-tuning any?"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from ntk_select.engine.kernel import ntk_plan
from ntk_select.errors import ConfigError, DataError, ModelError, NtkSelectError, did_you_mean, first_line
from ntk_select.expert import Expert
from ntk_select.gradients import expert_question, gradient_kernel
from ntk_select.last_conv import pooled_kernel
from ntk_select.preprocess import Preprocess
from ntk_select.probe import forward, has_pooled_last_conv
from ntk_select.ranking.record import ExpertScores, Failure, Ranking
from ntk_select.resampling import MIN_DRAWS, Z95, HalfSamples, half_samples
from ntk_select.scores import SCORES, Score, ScoreResult, Unavailable
from ntk_select.task import ProbeSample, Task, probe_sample

Experts = Iterable[Expert] | Mapping[str, Callable[[], Expert]]
Progress = Callable[[int, int, str], None]

MAX_PRODUCTS = 5e12
"""What a ranking spends on one expert's gradient kernel where its cost grows with the number of outputs: minutes of a CPU."""


def rank(
    experts: Experts,
    task: Task,
    scores: Sequence[str] = ("lfc", "lgc"),
    per_class: int = 25,
    seed: int = 0,
    *,
    draws: int = 100,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Ranking:
    """Scores every expert on one probe sample of the task and orders them.

    One forward pass per expert serves all scores. An expert that fails is reported in the result and the rest go on.

    Args:
      experts: experts, or a mapping from names to functions that load one, so that only one is in memory.
      task: the target task; only training images are used.
      scores: names in `SCORES`; the first decides the order.
      per_class: images a class that the scores see, at most.
      seed: of the probe sample, the half-samples and the random score.
      draws: half-samples behind the intervals; 0 for no intervals.
      batch_size: images per forward pass.
      progress: called with (experts done, experts in all, name of the next) as the work goes on.

    Raises:
      ConfigError: an unknown score, no experts, two of one name, or `draws` or `batch_size` out of range.
      TaskError: `per_class` or `seed` out of range.
      DataError: an image of the task cannot be decoded.

    Reference: Deshpande et al. 2021, sections 3 and 5.
    """
    if not isinstance(task, Task):
        raise ConfigError(
            f"rank takes a Task, not {type(task).__name__}. Type: ntk_select.data.load_task('digits'), or ntk_select.Task(name, images, ...)"
        )
    scores = _checked_scores(scores)
    if draws != 0 and draws < MIN_DRAWS:
        raise ConfigError(f"draws is {draws}; it must be 0 (no intervals) or at least {MIN_DRAWS}.")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    loaders = _loaders(experts)
    sample = probe_sample(task, per_class=per_class, seed=seed)
    halves = half_samples(sample.labels, draws=draws, seed=seed)
    scorer = _Scorer(sample, scores, halves, seed, batch_size)

    rows, half_values, failures = [], {}, []
    for done, (name, load) in enumerate(loaders.items()):
        if progress:
            progress(done, len(loaders), name)
        try:
            row, values = scorer.score(name, load)
        except DataError:
            raise  # the task's own images: no expert can do better
        except NtkSelectError as error:
            failures.append(Failure(name, str(error)))
        except Exception as error:  # an expert is foreign code: whatever it raises must not cost the others
            failures.append(Failure(name, f"{type(error).__name__}: {first_line(error)}"))
        else:
            rows.append(row)
            half_values[name] = values
    if progress:
        progress(len(loaders), len(loaders), "")

    rows = _ordered(rows, scores[0])
    tied = _tied(rows, half_values, scores[0], halves)
    return Ranking(
        task=_task_record(task, sample, per_class, seed, scorer.headless),
        score_names=tuple(scores),
        experts=tuple(rows),
        failures=tuple(failures),
        tied=tied,
        judgement=_judgement(rows, tied, scores[0], len(sample), draws, bool(halves.rows)),
        versions={package: version(package) for package in ("jax", "numpy")} | {"device": jax.devices()[0].platform},
    )


def _checked_scores(scores: Sequence[str]) -> list[str]:
    scores = [scores] if isinstance(scores, str) else list(dict.fromkeys(scores))
    if not scores:
        raise ConfigError(f"No score was named.{did_you_mean('', SCORES)}")
    for name in scores:
        if name not in SCORES:
            raise ConfigError(f"Score {name!r} is unknown.{did_you_mean(name, SCORES)}")
    return scores


def _loaders(experts: Experts) -> dict[str, Callable[[], Expert]]:
    if isinstance(experts, Mapping):
        loaders = {name: (lambda e=expert: e) if isinstance(expert, Expert) else expert for name, expert in experts.items()}
    else:
        listed = [experts] if isinstance(experts, Expert) else list(experts)
        for expert in listed:
            if not isinstance(expert, Expert):
                raise ConfigError(f"rank takes experts, not {type(expert).__name__}. Type: ntk_select.Expert(name, apply_fn, params, ...)")
        loaders = {expert.name: (lambda expert=expert: expert) for expert in listed}
        if len(loaders) < len(listed):
            names = [expert.name for expert in listed]
            raise ConfigError(f"Two experts are named {next(n for n in names if names.count(n) > 1)!r}; names must differ.")
    if not loaders:
        raise ConfigError("There is no expert to rank. Give at least one; to see what is there type: ntk-select zoo list")
    return loaders


class _Scorer:
    """Scores one expert after another on the same images."""

    def __init__(self, sample: ProbeSample, scores: list[str], halves: HalfSamples, seed: int, batch_size: int):
        self.sample, self.scores, self.halves, self.seed, self.batch_size = sample, scores, halves, seed, batch_size
        self.needs = {name for score in scores for name in SCORES[score].needs}
        self.resized: dict[tuple, np.ndarray] = {}
        self.headless: list[str] = []

    def score(self, name: str, load: Callable[[], Expert]) -> tuple[ExpertScores, dict[str, np.ndarray]]:
        seconds: dict[str, float] = {}
        with _timed(seconds, "load"):
            expert = load()
        inputs: dict[str, Any] = {"labels": self.sample.labels, "name": name, "seed": self.seed}
        reasons: dict[str, str] = {}
        if self.needs & {"features", "gradient_kernel"}:
            with _timed(seconds, "preprocess"):
                x = self._network_inputs(expert)
            pooled = "gradient_kernel" in self.needs and has_pooled_last_conv(expert)
            with _timed(seconds, "forward"):
                passes = jax.block_until_ready(forward(expert, x, last_conv=pooled, batch_size=self.batch_size))
                inputs["features"] = None if passes.features is None else np.asarray(passes.features)
            if "gradient_kernel" in self.needs:
                with _timed(seconds, "kernel"):
                    inputs["gradient_kernel"], reasons["gradient_kernel"] = self._gradient_kernel(expert, x, passes, pooled)
        with _timed(seconds, "scores"):
            outcomes = {score: _explained(SCORES[score], SCORES[score](**inputs), reasons) for score in self.scores}
            values = {score: self._on_halves(SCORES[score], inputs) for score in self.scores if isinstance(outcomes[score], ScoreResult)}
            for score, on_halves in values.items():
                margin, value = Z95 * self.halves.standard_error(on_halves), outcomes[score].value
                if np.isfinite(margin):
                    outcomes[score] = replace(outcomes[score], low=value - margin, high=value + margin)
        card = expert.card
        row = ExpertScores(0, name, card and card.source, card and card.architecture, expert.num_params, outcomes, seconds)
        return row, values

    def _gradient_kernel(self, expert: Expert, x, passes, pooled: bool) -> tuple[np.ndarray | None, str]:
        """The kernel, or None and why there is none. An expert without a head is differentiated at its pre-logits."""
        outputs = "trace"
        if expert.head is None and passes.features is not None:
            outputs = "features"
            self.headless.append(expert.name)
        if not pooled and (cost := self._products(expert, x, outputs)) > MAX_PRODUCTS:
            return None, (
                f"The exact kernel of this network's ending needs {cost:.1e} products, above the {MAX_PRODUCTS:.0e} that a ranking spends on it. "
                "To have it all the same call ntk_select.lgc(expert, x, labels), or for less, with its error, "
                "ntk_select.lgc(..., sketch=ntk_select.Sketch(kind='jvp'))."
            )
        try:
            kernel = pooled_kernel(expert, passes, outputs) if pooled else gradient_kernel(expert, x, outputs=outputs, batch_size=self.batch_size)
        except NtkSelectError as error:
            return None, str(error)
        return (kernel, "") if np.isfinite(kernel).all() else (None, "The gradients hold NaN or infinity.")

    def _products(self, expert: Expert, x, outputs) -> float:
        """What the engine expects to multiply for the kernel of the last convolution, forward passes apart."""
        if expert.last_conv is None:
            return 0.0
        fn, variables, outputs, layers = expert_question(expert, "last_conv", outputs)
        plan = ntk_plan(fn, variables, x, outputs=outputs, layers=layers)
        return (plan.flops - plan.pass_flops) / 2

    def _network_inputs(self, expert: Expert) -> np.ndarray:
        preprocess = expert.preprocess
        if preprocess is None:
            raise ModelError(
                f"Expert {expert.name!r} has no preprocess, so that images cannot enter it. Type: Expert(..., preprocess=Preprocess(size=224))"
            )
        if not isinstance(preprocess, Preprocess):
            return np.asarray(preprocess(self.sample.images))
        if preprocess.geometry not in self.resized:
            self.resized[preprocess.geometry] = preprocess.resized(self.sample.images)
        return preprocess.normalised(self.resized[preprocess.geometry])

    def _on_halves(self, score: Score, inputs: dict[str, Any]) -> np.ndarray:
        """The score on every half-sample, NaN where it has no value there; nothing for a score that ignores the images."""
        if not score.resampled:
            return np.zeros(0)
        outcomes = [score(**{**inputs, **_taken(inputs, half)}) for half in self.halves.rows]
        return np.array([outcome.value if isinstance(outcome, ScoreResult) else np.nan for outcome in outcomes])


def _taken(inputs: dict[str, Any], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of a subset of the examples."""
    taken = {name: inputs[name][rows] for name in ("features", "labels") if inputs.get(name) is not None}
    if inputs.get("gradient_kernel") is not None:
        taken["gradient_kernel"] = inputs["gradient_kernel"][np.ix_(rows, rows)]
    return taken


def _explained(score: Score, outcome, reasons: dict[str, str]):
    """Says why an input is absent, where that is known."""
    known = [reasons[name] for name in score.needs if reasons.get(name)]
    return Unavailable(known[0]) if known and isinstance(outcome, Unavailable) else outcome


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - began


def _ordered(rows: list[ExpertScores], deciding: str) -> list[ExpertScores]:
    sign = -1 if SCORES[deciding].higher_is_better else 1

    def key(row: ExpertScores):
        outcome = row.scores[deciding]
        return (0, sign * outcome.value, row.name) if isinstance(outcome, ScoreResult) else (1, 0.0, row.name)

    return [replace(row, rank=position) for position, row in enumerate(sorted(rows, key=key), start=1)]


def _tied(rows: list[ExpertScores], half_values: dict[str, dict[str, np.ndarray]], deciding: str, halves: HalfSamples) -> int:
    """How many of the first experts cannot be told from the best: up to the last one that cannot. 1 without half-samples."""
    scored = [row for row in rows if isinstance(row.scores[deciding], ScoreResult)]
    if not scored:
        return 0
    best, tied = scored[0], 1
    for position, row in enumerate(scored[1:], start=2):
        difference = row.scores[deciding].value - best.scores[deciding].value
        pair = half_values[best.name][deciding], half_values[row.name][deciding]
        if difference == 0 or (len(pair[0]) > 0 and not halves.told_apart(*pair, difference)):
            tied = position
    return tied


def _judgement(rows: list[ExpertScores], tied: int, deciding: str, images: int, draws: int, intervals: bool) -> str:
    if tied == 0:
        return f"No expert could be given the score {deciding}."
    best, scored = rows[0].name, sum(isinstance(row.scores[deciding], ScoreResult) for row in rows)
    if not SCORES[deciding].resampled:
        return f"{best} comes first by {deciding}, which says nothing about the task."
    if draws == 0:
        return f"{best} comes first by {deciding}; without draws nothing can be said of how surely."
    if not intervals:
        return f"{best} comes first by {deciding}; so few images a class are too few to say how surely."
    if scored == 1:
        return f"{best} is the only expert{'' if len(rows) == 1 else f' with the score {deciding}'}; there is nothing to compare."
    if tied == 1:
        others = "all others" if scored == len(rows) else f"the {scored - 1} others that have the score"
        return f"{best} is ahead of {others} by {deciding} on these {images} images (95 %)."
    if tied == scored:
        return f"No expert can be told from the best by {deciding} on these {images} images (95 %)."
    return f"1 to {tied} cannot be told apart by {deciding} on these {images} images (95 %)."


def _task_record(task: Task, sample: ProbeSample, per_class: int, seed: int, headless: list[str]) -> dict[str, Any]:
    counts = np.bincount(sample.labels)
    warnings = list(task.details.get("warnings", []))
    absent = [name for name in task.class_names if name not in sample.class_names]
    if absent:
        warnings.append(f"Classes without a training image, left out ({len(absent)}): {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    single = [sample.class_names[i] for i in np.flatnonzero(counts == 1)]
    if single:
        warnings.append(f"Classes with one image only ({len(single)}): {', '.join(single[:5])}{' ...' if len(single) > 5 else ''}")
    if headless:
        warnings.append(f"Without a head, LGC is over the pre-logits, not comparable with the others: {', '.join(headless)}")
    return {
        "name": task.name,
        "uri": task.uri,
        "classes": len(sample.class_names),
        "images": len(sample),
        "per_class": int(per_class),
        "seed": int(seed),
        "smallest_class": int(counts.min()),
        "warnings": list(dict.fromkeys(warnings)),
    }
