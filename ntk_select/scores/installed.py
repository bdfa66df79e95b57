"""Which scores are there, with those of installed packages?"""

from importlib.metadata import entry_points
from typing import NamedTuple

from ntk_select.errors import explained
from ntk_select.scores.record import Score
from ntk_select.scores.table import SCORES


class Known(NamedTuple):
    """Scores by name.

    Attributes:
      scores: of this package, and those of installed packages; these replace none.
      broken: what is the matter with those that could not be loaded.
    """

    scores: dict[str, Score]
    broken: dict[str, str]


def known_scores() -> Known:
    """The table of this package, and the entry points `ntk_select.scores`."""
    scores, broken = dict(SCORES), {}
    for entry in entry_points(group="ntk_select.scores"):
        if entry.name in scores:
            continue
        try:
            found = entry.load()
        except Exception as error:  # noqa: BLE001: of somebody else's package, whatever it is
            broken[entry.name] = explained(error)
            continue
        if isinstance(found, Score):
            scores[entry.name] = found
        else:
            broken[entry.name] = f"it is a {type(found).__name__}, not an ntk_select.scores.Score"
    return Known(scores, broken)
