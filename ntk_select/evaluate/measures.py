"""Which measure does a name stand for, and what does it take from a target?"""

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.evaluate.groups import CORRELATIONS, across_groups, within_groups
from ntk_select.evaluate.selection import hit_rate, regret, top_k_accuracy, top_k_gain, trials_to_best
from ntk_select.evaluate.target import Target

Measure = Callable[[np.ndarray, np.ndarray, Target], float]

SELECTIONS: dict[str, Callable[..., float]] = {
    "hit_rate": hit_rate,
    "regret": regret,
    "top_k_accuracy": top_k_accuracy,
    "top_k_gain": top_k_gain,
    "trials_to_best": trials_to_best,
}
MEASURES: dict[str, Callable[..., float]] = {**CORRELATIONS, **SELECTIONS, "across_groups": across_groups, "within_groups": within_groups}


def named_measure(measure: str | Measure, options: dict) -> Measure:
    """A function of the scores of one draw, of accuracies and of the target, which gives the reference and the groups.

    Args:
      measure: a name of `MEASURES`, or such a function already.
      options: of the measure, such as k; `within_groups` takes the correlation as `measure`, Spearman's by default.

    Raises:
      ConfigError: an unknown name or option; options beside a function. The function that is returned raises it too, for a target
        without the reference or the groups that its measure needs.
    """
    if callable(measure):
        if options:
            raise ConfigError(f"Options ({', '.join(options)}) go with the name of a measure. Put them into the function, as functools.partial does.")
        return measure
    if measure not in MEASURES:
        raise ConfigError(f"{measure!r} is no measure.{did_you_mean(str(measure), MEASURES)}")
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
    """Raises ConfigError for an option that this measure does not have."""
    allowed = [name for name in inspect.signature(MEASURES[measure]).parameters if name not in ("scores", "accuracies", *from_target)]
    for option in options:
        if option not in allowed:
            raise ConfigError(f"{measure} has no option {option!r}.{did_you_mean(option, allowed)}")


def _given(target: Target, field: str, measure: str):
    value = getattr(target, field)
    if value is None:
        raise ConfigError(f"{measure} needs the {field} of every target, and target {target.name!r} has none. Type: Target(..., {field}=...).")
    return value
