"""Which accuracies of fine-tuning on a task are compared, when some are missing?"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntk_select.benchmark.config import Images

Row = dict[str, Any]
LOST = 10
"""One expert of so many may be lost for another seed, or be without a value in another draw."""


@dataclass(frozen=True)
class Truth:
    """Fine-tuning on one task with so many shots.

    Attributes:
      task, shots: shots is None for all images.
      experts: names, in the order of the zoo. None has seen the task's source.
      seeds: with which all of them were fine-tuned.
      accuracies: (s, e), one row a seed; balanced ones where the config says so.
      missing: experts that the config asks for and that have no record with one of the seeds, as they failed or the run goes on.
      dropped: seeds with which other experts were fine-tuned than with the others: too few are common to all.
    """

    task: str
    shots: Images
    experts: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracies: np.ndarray
    missing: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()

    def only(self, among: Callable[[str], bool] | None) -> "Truth":
        """The same of some experts."""
        if among is None:
            return self
        kept = [place for place, name in enumerate(self.experts) if among(name)]
        return replace(
            self,
            experts=tuple(self.experts[place] for place in kept),
            accuracies=self.accuracies[:, kept],
            missing=tuple(filter(among, self.missing)),
        )


def truth_of(
    task: str, shots: Images, rows: Sequence[Row], judged: Callable[[Row], float], zoo: Sequence[str], asked: Sequence[str], reference: str | None
) -> Truth:
    """What is compared of the fine-tunings on a task, one expert and seed a row.

    Args:
      rows: at least one, of strangers to the task's source.
      judged: the accuracy of a row.
      zoo: names in order.
      asked: strangers that the config asks for.
      reference: as in `most_seeds`.
    """
    by_pair = {(row["expert"], row["seed"]): row for row in rows}
    with_seed = defaultdict(set)
    for expert, seed in by_pair:
        with_seed[seed].add(expert)
    seeds = most_seeds(with_seed, reference)
    order = {name: place for place, name in enumerate(zoo)}
    experts = sorted(set.intersection(*(with_seed[seed] for seed in seeds)), key=lambda name: (order.get(name, len(order)), name))
    accuracies = np.array([[judged(by_pair[expert, seed]) for expert in experts] for seed in seeds])
    known = dict.fromkeys([*asked, *sorted(set.union(*with_seed.values()))])
    missing = tuple(name for name in known if name not in experts)
    return Truth(task, shots, tuple(experts), seeds, accuracies, missing, tuple(sorted(set(with_seed) - set(seeds))))


def most_seeds(experts_of: Mapping[int, Set[str]], reference: str | None = None) -> tuple[int, ...]:
    """As many seeds as can be without losing more than a tenth of the experts that the fullest of them has.

    Of as many seeds those with most experts in common, then the smallest. Seeds without the reference, over which gains are taken, are chosen
    only where no such choice has it.

    Args:
      experts_of: by seed, the experts that have it; at least one.
    """
    fullest = max(len(experts) for experts in experts_of.values())
    reached: dict[frozenset, tuple[int, ...]] = {}
    for seed in sorted(experts_of):
        longer = dict(reached)
        for before, seeds in [(experts_of[seed], ()), *reached.items()]:
            common = frozenset(experts_of[seed] & before)
            if enough(len(common), fullest) and len(seeds) + 1 > len(longer.get(common, ())):
                longer[common] = (*seeds, seed)
        reached = longer
    return max(reached.items(), key=lambda found: (reference in found[0], len(found[1]), len(found[0]), [-seed for seed in found[1]]))[1]


def enough(experts: int, fullest: int) -> bool:
    """Whether at most a tenth is lost."""
    return LOST * (fullest - experts) <= fullest
