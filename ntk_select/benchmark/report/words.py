"""By which words, and in which order, does a report speak of scores, experts and images?"""

from collections.abc import Sequence

from ntk_select.benchmark.config import Images

FIRST = ("forecast", "lfc", "lgc", "leep", "rsa", "domain_similarity", "feature_metrics")
"""Scores of the paper, which stand first."""
DOMAIN = "@"
"""Before the domain in the name of an expert that was trained on several."""
MOST_NAMES = 5
"""That are listed before the others are only counted."""


def paper_first(names: Sequence[str]) -> list[str]:
    """The scores of the paper first, then the others as they come."""
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def single_domain(expert: str) -> bool:
    """Whether an expert was trained on one domain."""
    return DOMAIN not in expert


def multi_domain(expert: str) -> bool:
    """Whether an expert is one domain of a network that was trained on several."""
    return DOMAIN in expert


def counted(number: int, noun: str) -> str:
    """As in "1 seed" and "3 seeds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[object]) -> str:
    """As in "a, b", and with many as in "a, b, c, d, e and 7 more"."""
    more = len(names) - MOST_NAMES
    return ", ".join(map(str, names)) if more <= 0 else f"{', '.join(map(str, names[:MOST_NAMES]))} and {more} more"


def seeds_text(seeds: Sequence[int]) -> str:
    """As in "seed 0" and "seeds 0, 1"."""
    return f"seed{'' if len(seeds) == 1 else 's'} {listed(seeds)}"


def shots_text(shots: Images) -> str:
    """As in "20 images per class"."""
    return "all images" if shots is None else f"{counted(shots, 'image')} per class"


def balanced_text(tasks: Sequence[str]) -> str:
    """The sentence that says on which tasks accuracy is the mean over classes; empty where it is on none."""
    return f"Accuracy is balanced, the mean over classes, on {', '.join(tasks)}." if tasks else ""
