"""Measures by name, and the exact expectation of each over all orders of the experts."""

import inspect
from collections.abc import Callable
from functools import partial
from itertools import permutations

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.correlations import CORRELATIONS, MIN_EXPERTS, across_groups, fidelity, within_groups
from ntk_select.evaluate.selection import hit_rate, regret, top_k_accuracy, top_k_gain, trials_to_best
from ntk_select.evaluate.target import Target, fractions, one_per_expert

Measure = Callable[[np.ndarray, np.ndarray, Target], float]

SELECTIONS: dict[str, Callable[..., float]] = {
    "hit_rate": hit_rate,
    "regret": regret,
    "top_k_accuracy": top_k_accuracy,
    "top_k_gain": top_k_gain,
    "trials_to_best": trials_to_best,
}
MEASURES: dict[str, Callable[..., float]] = {
    **CORRELATIONS,
    **SELECTIONS,
    "across_groups": across_groups,
    "fidelity": fidelity,
    "within_groups": within_groups,
}


def named_measure(measure: str | Measure, options: dict) -> Measure:
    """The measure as a function of the scores of one probe sample, the accuracies and the target, which has the reference and the groups.

    Args:
      measure: a name of `MEASURES`, or such a function already.
      options: options of the measure, such as k; `within_groups` takes the correlation as `measure`, Spearman's by default.

    Raises:
      ConfigError: an unknown name or option; options given with a function. The function that is returned raises it too, for a target
        without the reference or the groups that its measure needs.
    """
    if callable(measure):
        if options:
            raise ConfigError(f"Options ({', '.join(options)}) require a measure given by name. Try: functools.partial(function, ...)")
        return measure
    if measure not in MEASURES:
        raise ConfigError(f"{measure!r} is not a measure.{did_you_mean(str(measure), MEASURES)}")
    refuse_other_options(measure, options, from_target=("reference", "groups"))
    if measure == "top_k_gain":
        return lambda scores, accuracies, target: top_k_gain(scores, accuracies, accuracies[_given(target, "reference", measure)], **options)
    if measure == "across_groups":
        return lambda scores, accuracies, target: across_groups(scores, accuracies, _given(target, "groups", measure))
    if measure == "within_groups":
        within = partial(within_groups, options.get("measure", "spearman"))
        return lambda scores, accuracies, target: within(scores, accuracies, _given(target, "groups", measure))
    of_pair = partial(MEASURES[measure], **options)
    return lambda scores, accuracies, _: of_pair(scores, accuracies)


def refuse_other_options(measure: str, options: dict, from_target: tuple[str, ...] = ()) -> None:
    """Raises ConfigError for an unknown option of this measure."""
    allowed = [name for name in inspect.signature(MEASURES[measure]).parameters if name not in ("scores", "accuracies", *from_target)]
    for option in options:
        if option not in allowed:
            raise ConfigError(f"{measure} has no option {option!r}.{did_you_mean(option, allowed)}")


def _given(target: Target, field: str, measure: str):
    value = getattr(target, field)
    if value is None:
        raise ConfigError(f"{measure} needs the {field} of every target, and target {target.name!r} has none. Try: Target(..., {field}=...).")
    return value


MAX_ENUMERATED = 6
RANDOM_ORDERS = 2000


def random_expectation(measure: str, accuracies: Float[np.ndarray, " e"], /, **options) -> float:
    """The mean of a measure over all orders of the experts: its value for an uninformative score.

    For a selection it is the value of the measure with equal scores. For a correlation it is 0, except for `weighted_tau` with ties in the
    accuracies: it breaks these ties by the scores, so an uninformative score usually has 0.02 to 0.07 for thirty experts with a
    few ties at the top. Its mean is exact for up to six experts; beyond, one part is averaged over 2000 seeded orders, with a standard
    error near 0.0001.

    Args:
      measure: "top_k_accuracy", "top_k_gain", "regret", "trials_to_best", "hit_rate", or one of the four correlations.
      accuracies: after fine-tuning, 0 to 1.
      **options: options of the measure; `top_k_gain` needs `reference`.

    Returns:
      A number in the range of the measure; NaN for a correlation with fewer than three experts or equal accuracies.

    Raises:
      ConfigError: an unknown measure or option, accuracies outside 0 to 1, and what the measure itself raises.

    Cost: O(e log e); O(e^2) per seeded order.
    """
    accuracies = fractions(one_per_expert(accuracies, "accuracies"))
    refuse_unexpected(measure, options)
    if measure in SELECTIONS:
        if measure == "top_k_gain" and "reference" not in options:
            raise ConfigError("top_k_gain needs the accuracy of the reference expert. Try: reference=0.7")
        return SELECTIONS[measure](np.zeros(len(accuracies)), accuracies, **options)
    if len(accuracies) < MIN_EXPERTS or accuracies.max() == accuracies.min():
        return float("nan")
    return _weighted_tau(accuracies) if measure == "weighted_tau" else 0.0


def expectation_of(measure: str, options: dict) -> Measure:
    """`random_expectation` as a measure of a target: over the experts that the measure uses, with the reference of the target.

    Raises:
      ConfigError: an unknown measure or option. The function that is returned raises it for a target without the reference that it needs.
    """
    refuse_unexpected(measure, options)

    def expected(scores: np.ndarray, accuracies: np.ndarray, target: Target) -> float:
        if measure in CORRELATIONS:
            known = accuracies[~np.isnan(scores)]
            return random_expectation(measure, known, **options) if len(known) else float("nan")
        given = {} if target.reference is None else {"reference": float(accuracies[target.reference])}
        return random_expectation(measure, accuracies, **options, **(given if measure == "top_k_gain" else {}))

    return expected


def refuse_unexpected(measure: str, options: dict) -> None:
    """Raises ConfigError for a measure without a known expectation over random orders, and for an unknown option."""
    if measure not in SELECTIONS and measure not in CORRELATIONS:
        raise ConfigError(f"{measure!r} has no known expectation.{did_you_mean(str(measure), [*SELECTIONS, *CORRELATIONS])}")
    refuse_other_options(measure, options)


def _weighted_tau(accuracies: np.ndarray) -> float:
    weights = 1 / np.arange(1, len(accuracies) + 1)
    _, group, sizes = np.unique(accuracies, return_inverse=True, return_counts=True)
    return 0.0 if len(sizes) == len(accuracies) else (_ranked_by_accuracy(sizes[::-1], weights) + _ranked_by_score(group, sizes, weights)) / 2


def _ranked_by_accuracy(sizes: np.ndarray, weights: np.ndarray) -> float:
    """Exact: the p-th of n experts that tie in accuracy is the one of them with the p-th highest score, which exceeds the score of
    an expert outside with the chance (n + 1 - p) / (n + 1). All norms are the same in every order."""
    e, above, excess, squared = len(weights), 0, 0.0, 0.0
    for n in sizes:
        p, own = np.arange(1, n + 1), weights[above : above + n]
        excess += own @ (n + 1 - 2 * p) / (n + 1) * (e - n - 2 * above)
        squared += own.sum() * (e - n)
        above += n
    return float(excess / np.sqrt(squared * weights.sum() * (e - 1)))


def _ranked_by_score(group: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> float:
    """The numerator has mean 0, but the norm of the accuracies depends on the order. Only what the norm changes is averaged."""
    e, rng = len(group), np.random.default_rng(0)
    orders = permutations(range(e)) if e <= MAX_ENUMERATED else (rng.permutation(e) for _ in range(RANDOM_ORDERS))
    later, usual, found = np.sign(np.arange(e) - np.arange(e)[:, None]), weights.mean() * (e - sizes[group]).sum(), []
    for order in orders:
        tried = group[list(order)]
        concordance = weights @ (np.sign(tried[:, None] - tried) * later).sum(axis=1)
        found.append(concordance * ((weights @ (e - sizes[tried])) ** -0.5 - usual**-0.5))
    return float(np.mean(found) / np.sqrt(weights.sum() * (e - 1)))
