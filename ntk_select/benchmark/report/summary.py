"""The value of every score by one measure, with baselines: the exact expectation of a random order, another fine-tuning, and a perfect score."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import nan

import numpy as np

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.results import DRAWN, MIN_EXPERTS, Results
from ntk_select.evaluate import Interval, Paired, Target, against_random, interval, noise_ceiling, other_seed, paired, top_k_accuracy
from ntk_select.evaluate.bootstrap import AXES, mean_of_known
from ntk_select.evaluate.measures import expectation_of, named_measure

RANDOM = "random order (exact)"
"""The exact expectation over random orders. It also replaces the score named random, whose records are one random order."""
BEST = "best possible"
"""A score that equals the accuracies: brute force."""
OTHER_SEED = "another fine-tuning"
"""Accuracies of the other seeds as the score, one seed as the accuracies (`evaluate.other_seed`)."""
CEILING = "ceiling (noise of fine-tuning)"
"""Spearman's correlation that the expected accuracies of the experts would have (`evaluate.noise_ceiling`)."""
CEILINGS = (OTHER_SEED, CEILING)
"""Targets with two fine-tuning seeds have them."""
SIZED = "within_sizes"
"""The measure `within_groups` with groups of experts of similar size in place of architectures."""
GROUPED = ("within_groups", "across_groups", SIZED)
UNEXPECTED = (*GROUPED, "fidelity")
"""Measures without an exact expectation over random orders."""

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
      measure: a name of `evaluate.MEASURES`, or `SIZED`.
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
    """The same for `RANDOM` (exact; not for `UNEXPECTED` measures) and `BEST`. Empty without a target."""
    return measured(results, measure, shots, among=among, scores=(RANDOM, BEST), task=task, **options)


def ceilings(results: Results, measure: str, shots: Images, *, among: Among | None = None, **options) -> dict[str, Interval]:
    """The same for `OTHER_SEED`, and for `CEILING` by Spearman's correlation. Only targets are resampled. Empty without a target of two seeds."""
    return measured(results, measure, shots, among=among, scores=CEILINGS, **options)


def by_target(results: Results, score: str, measure: str, shots: Images, **options) -> dict[str, float]:
    """The value of a score on each target of `usable_targets`, mean over its probe samples; NaN where it has none. Options as `measured`."""
    among = options.get("among")
    of_one = _of_one(results, score, measure, among, _of_measure(options))
    if of_one is None:
        return {}
    found = usable_targets(results, score, measure, shots, **options)
    return {each.name: float(mean_of_known(np.array([of_one(row, each.mean_accuracies(), each) for row in each.scores]))) for each in found}


def compared(results: Results, score: str, other: str, measure: str, shots: Images, **options) -> tuple[Paired, int] | None:
    """A score minus another one, or minus `RANDOM`, on the targets on which both have values, and the number of these; None without any.

    Both have equally many probe samples there, or one has a single one.
    """
    first = usable_targets(results, score, measure, shots, **options)
    if other == RANDOM:
        found = against_random(measure, first, **options) if first else None
        return None if found is None else (replace(found, difference=_of_clusters(found.difference, first)), len(first))
    second = {target.name: target for target in usable_targets(results, other, measure, shots, **options)}
    pairs = [(target, second[target.name]) for target in first if target.name in second]
    pairs = [(x, y) for x, y in pairs if len(x.scores) == len(y.scores) or 1 in (len(x.scores), len(y.scores))]
    if not pairs:
        return None
    found = paired(measure, *zip(*pairs, strict=True), **options)
    return replace(found, difference=_of_clusters(found.difference, [target for target, _ in pairs])), len(pairs)


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

    A score of None, `RANDOM` or `BEST` needs no records, and those of `CEILINGS` need targets with two seeds of fine-tuning. For gains among
    experts without the reference, the targets contain the reference too; `measured` does not let it be chosen.
    """
    apart = _apart(results, measure, among)
    chosen = among if not apart else results.once(("and the reference", among), lambda: lambda name: among(name) or name == results.config.reference)
    found = results.targets(None if score in (RANDOM, BEST, *CEILINGS) else score, shots, probe=probe, among=chosen, least=MIN_EXPERTS + apart)
    if score in CEILINGS:
        found = [target for target in found if len(target.accuracies) > 1]
    if measure == SIZED:
        found = [replace(target, groups=_sizes(results, target.name, shots, among)) for target in found]
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


def _sizes(results: Results, task: str, shots: Images, among: Among | None) -> tuple[str, ...] | None:
    return tuple(results.sizes[name] for name in results.ground_truth(task, shots).only(among).experts) if results.sizes else None


def _interval(results: Results, score: str, measure: str, shots: Images, **options) -> Interval | None:
    """Cached. Options: `among`, `probe`, `task`, and those of the measure."""
    score = RANDOM if score == DRAWN else score
    key = ("summary", score, measure, shots, *sorted(options.items()))
    of_one = _of_one(results, score, measure, options["among"], _of_measure(options))
    if of_one is None:
        return None
    targets = partial(usable_targets, results, score, measure, shots, **options)
    over = ("targets",) if score in CEILINGS else AXES
    return results.once(key, lambda: _of_clusters(interval(of_one, found, over=over), found) if (found := targets()) else None)


def _of_clusters(found: Interval, targets: Sequence[Target]) -> Interval:
    """The interval; without ends if several targets are all of one cluster, as nothing is known of others."""
    return found if len(targets) == 1 or len({target.cluster for target in targets}) > 1 else replace(found, low=nan, high=nan)


def _of_measure(options: dict) -> dict:
    return {name: value for name, value in options.items() if name not in ("among", "probe", "task")}


def _of_one(results: Results, score: str, measure: str, among: Among | None, options: dict) -> Callable | None:
    """The measure as a function of the scores of a probe sample, accuracies and the target; None where a baseline is not defined."""
    if (score == RANDOM and measure in UNEXPECTED) or (score == CEILING and measure != "spearman"):
        return None
    named = "within_groups" if measure == SIZED else measure
    of_one = expectation_of(named, options) if score == RANDOM else named_measure(named, options)
    if score == BEST:
        of_one = partial(_perfect, of_one)
    if _apart(results, measure, among):
        of_one = partial(_reference_apart, score == BEST, options)
    return partial(_again, of_one) if score == OTHER_SEED else _ceiling if score == CEILING else of_one


def _perfect(of_one: Callable, _scores, accuracies, target: Target) -> float:
    return of_one(accuracies, accuracies, target)


def _again(of_one: Callable, _scores, _accuracies, target: Target) -> float:
    """The mean over the seeds, each once as the accuracies."""
    return float(mean_of_known(np.array([of_one(each.scores[0], each.accuracies[0], each) for each in other_seed(target)])))


def _ceiling(_scores, _accuracies, target: Target) -> float:
    return noise_ceiling(target.accuracies)


def _reference_apart(perfect: bool, options: dict, scores, accuracies, target: Target) -> float:
    others = np.arange(len(accuracies)) != target.reference
    return top_k_accuracy((accuracies if perfect else scores)[others], accuracies[others], **options) - float(accuracies[target.reference])
