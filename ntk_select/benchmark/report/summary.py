"""The value of every score by one measure, and the baselines: a random order, exactly, and a perfect score."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import DRAWN, Results
from ntk_select.evaluate import Interval, Target, interval, top_k_accuracy
from ntk_select.evaluate.chance import expectation_of
from ntk_select.evaluate.measures import named_measure

RANDOM = "random order (exact)"
"""The exact expectation over random orders. It also stands for the score named random, whose records are one drawn order."""
BEST = "best possible"
"""A score that knows the accuracies: brute force."""
GROUPED = ("within_groups", "across_groups")
LEAST = 3
"""Experts that a target must have."""

Among = Callable[[str], bool]


def measured(
    results: Results,
    measure: str,
    shots: Images,
    *,
    among: Among | None = None,
    probe: Images | str = "standard",
    scores: Sequence[str] | None = None,
    task: str | None = None,
    **options,
) -> dict[str, Interval]:
    """The mean of a measure over targets with its 95 % interval, for every score that has a target.

    With one target, one draw and one seed an interval has no width: it knows nothing of what could have been. Draws and seeds are resampled
    independently, though those of the same number share their images.

    Args:
      results: of a benchmark.
      measure: a name of `evaluate.MEASURES`.
      shots: of fine-tuning.
      among: experts that are chosen from. A function that stays the same object, such as `single_domain`, is computed once. Where the
        reference is not among them, gains are over it all the same.
      probe: images of each class that the scores saw; "standard" is what counts for these shots.
      scores: names; all by default.
      task: the one target that counts; all by default.
      **options: of the measure, such as k=3.

    Raises:
      ConfigError: an unknown measure or option.
    """
    names = results.score_names if scores is None else scores
    found = {name: _interval(results, name, measure, shots, among, probe, task, options) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def baselines(
    results: Results, measure: str, shots: Images, *, among: Among | None = None, task: str | None = None, **options
) -> dict[str, Interval]:
    """The same of a random order (exactly; not for measures of groups) and of a perfect score, by their names `RANDOM` and `BEST`.

    Empty without a target.
    """
    found = {name: _interval(results, name, measure, shots, among, "standard", task, options) for name in (RANDOM, BEST)}
    return {name: each for name, each in found.items() if each is not None}


def usable_targets(
    results: Results,
    score: str | None,
    measure: str,
    shots: Images,
    *,
    among: Among | None = None,
    probe: Images | str = "standard",
    task: str | None = None,
    **options,
) -> list[Target]:
    """The targets on which a measure can be taken: with k experts or more, and with the reference or the architectures if it needs them.

    For gains among experts without the reference, the targets hold the reference too; `measured` does not let it be chosen.
    """
    apart = _apart(results, measure, among)
    chosen = among if not apart else lambda name: among(name) or name == results.config.reference
    found = results.targets(score, shots, probe=probe, among=chosen, least=LEAST + apart)
    if measure == "top_k_gain":
        found = [target for target in found if target.reference is not None]
    if measure in GROUPED:
        found = [target for target in found if target.groups is not None]
    return [target for target in found if target.scores.shape[1] - apart >= options.get("k", 1) and task in (None, target.name)]


def _apart(results: Results, measure: str, among: Among | None) -> bool:
    """Whether the reference is needed, and not among the experts that are chosen from."""
    reference = results.config.reference
    return measure == "top_k_gain" and among is not None and reference is not None and not among(reference)


def _interval(
    results: Results, score: str, measure: str, shots: Images, among: Among | None, probe: Images | str, task: str | None, options: dict
) -> Interval | None:
    score = RANDOM if score == DRAWN else score
    key = ("summary", score, measure, shots, among, probe, task, *sorted(options.items()))
    if key not in results.kept:
        baseline = score in (RANDOM, BEST)
        targets = usable_targets(results, None if baseline else score, measure, shots, among=among, probe=probe, task=task, **options)
        if score == RANDOM and measure in GROUPED:
            return None
        of_one = expectation_of(measure, options) if score == RANDOM else named_measure(measure, options)
        if score == BEST:
            of_one = partial(_perfect, of_one)
        if _apart(results, measure, among):
            of_one = partial(_reference_apart, score == BEST, options)
        results.kept[key] = interval(of_one, targets) if targets else None
    return results.kept[key]


def _perfect(of_one: Callable, _scores, accuracies, target: Target) -> float:
    return of_one(accuracies, accuracies, target)


def _reference_apart(perfect: bool, options: dict, scores, accuracies, target: Target) -> float:
    others = np.arange(len(accuracies)) != target.reference
    return top_k_accuracy((accuracies if perfect else scores)[others], accuracies[others], **options) - float(accuracies[target.reference])
