"""The value of every score by one measure, with two baselines: the exact expectation of a random order, and a perfect score."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import nan

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import DRAWN, Results
from ntk_select.evaluate import Interval, Target, interval, top_k_accuracy
from ntk_select.evaluate.measures import expectation_of, named_measure

RANDOM = "random order (exact)"
"""The exact expectation over random orders. It also replaces the score named random, whose records are one random order."""
BEST = "best possible"
"""A score that equals the accuracies: brute force."""
GROUPED = ("within_groups", "across_groups")
MIN_EXPERTS = 3
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

    With one target, one probe sample and one seed an interval has no width, as nothing was resampled. Probe samples and fine-tuning seeds are
    resampled independently, although those of the same seed share images.

    Args:
      results: The results of a benchmark.
      measure: a name of `evaluate.MEASURES`.
      shots: training images per class.
      among: experts to choose from, by name. Pass the same function object each time, such as `single_domain`: values are cached by it. If
        the reference is not among them, gains are over it all the same.
      probe: probe images per class; "standard" is the number that the config assigns to these shots.
      scores: names; all by default.
      task: the only target to use; all by default.
      **options: Options of the measure, such as k=3.

    Raises:
      ConfigError: an unknown measure or option.
    """
    names = results.score_names if scores is None else scores
    found = {name: _interval(results, name, measure, shots, among=among, probe=probe, task=task, **options) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def baselines(
    results: Results, measure: str, shots: Images, *, among: Among | None = None, task: str | None = None, **options
) -> dict[str, Interval]:
    """The same for `RANDOM` (exact; not for measures of groups) and `BEST`. Empty without a target."""
    return measured(results, measure, shots, among=among, scores=(RANDOM, BEST), task=task, **options)


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
    """The targets on which a measure is defined: with at least k experts, and with the reference or the architectures if it needs them.

    A score of None, `RANDOM` or `BEST` needs no records. For gains among experts without the reference, the targets contain the reference too;
    `measured` does not let it be chosen.
    """
    apart = _apart(results, measure, among)
    chosen = among if not apart else results.once(("and the reference", among), lambda: lambda name: among(name) or name == results.config.reference)
    found = results.targets(None if score in (RANDOM, BEST) else score, shots, probe=probe, among=chosen, least=MIN_EXPERTS + apart)
    if measure == "top_k_gain":
        found = [target for target in found if target.reference is not None]
    if measure in GROUPED:
        found = [target for target in found if target.groups is not None]
    return [target for target in found if target.scores.shape[1] - apart >= options.get("k", 1) and task in (None, target.name)]


def in_points(found: Interval | None) -> Interval | None:
    """An interval of fractions in percentage points."""
    return None if found is None else replace(found, value=100 * found.value, low=100 * found.low, high=100 * found.high)


def of_targets(found: Interval | None, targets: int) -> Interval | None:
    """The interval; without ends if at most one target has a value, as nothing is known of others."""
    return found if found is None or targets - found.undefined > 1 else replace(found, low=nan, high=nan)


def _apart(results: Results, measure: str, among: Among | None) -> bool:
    """Whether the reference is needed, and not among the experts to choose from."""
    reference = results.config.reference
    return measure == "top_k_gain" and among is not None and reference is not None and not among(reference)


def _interval(results: Results, score: str, measure: str, shots: Images, **options) -> Interval | None:
    """Cached. Options: `among`, `probe`, `task`, and those of the measure."""
    score = RANDOM if score == DRAWN else score
    key = ("summary", score, measure, shots, *sorted(options.items()))
    if score == RANDOM and measure in GROUPED:
        return None
    of_measure = {name: value for name, value in options.items() if name not in ("among", "probe", "task")}
    of_one = expectation_of(measure, of_measure) if score == RANDOM else named_measure(measure, of_measure)
    if score == BEST:
        of_one = partial(_perfect, of_one)
    if _apart(results, measure, options["among"]):
        of_one = partial(_reference_apart, score == BEST, of_measure)
    targets = partial(usable_targets, results, score, measure, shots, **options)
    return results.once(key, lambda: interval(of_one, found) if (found := targets()) else None)


def _perfect(of_one: Callable, _scores, accuracies, target: Target) -> float:
    return of_one(accuracies, accuracies, target)


def _reference_apart(perfect: bool, options: dict, scores, accuracies, target: Target) -> float:
    others = np.arange(len(accuracies)) != target.reference
    return top_k_accuracy((accuracies if perfect else scores)[others], accuracies[others], **options) - float(accuracies[target.reference])
