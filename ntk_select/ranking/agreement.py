"""Agreement of scores: rank correlations over the experts between every pair of scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ntk_select._runtime.figures import format_of
from ntk_select._runtime.files import write_output
from ntk_select.errors import ConfigError
from ntk_select.evaluate.correlations import rank_correlation
from ntk_select.ranking.plot import agreement_figure
from ntk_select.scores import ScoreResult

if TYPE_CHECKING:
    from ntk_select.ranking.record import Ranking

MIN_EXPERTS = 4
"""Experts with both scores below which there is no correlation."""


@dataclass(frozen=True)
class Agreement:
    """Spearman correlations between scores over experts, each score signed so that higher is better.

    Attributes:
      names: names of the scores.
      matrix: (scores, scores), mean over the rankings; NaN if no ranking has four experts with both scores, or one score is constant.
      rankings: number of rankings behind each mean.
    """

    names: tuple[str, ...]
    matrix: Float[np.ndarray, "s s"]
    rankings: Float[np.ndarray, "s s"]

    @property
    def known(self) -> list[int]:
        """Indices of the scores that have a correlation with any other."""
        return [place for place in range(len(self.names)) if np.isfinite(np.delete(self.matrix[place], place)).any()]

    def ordered(self) -> "Agreement":
        """Scores that agree next to each other (average linkage), without those that have no correlation with any other."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        known = order = self.known
        if len(known) > 2:
            distance = 1 - np.nan_to_num(self.matrix[np.ix_(known, known)], nan=0.0)
            np.fill_diagonal(distance, 0)
            order = [known[place] for place in leaves_list(linkage(squareform(distance), "average", True))]
        return Agreement(tuple(self.names[place] for place in order), self.matrix[np.ix_(order, order)], self.rankings[np.ix_(order, order)])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: names, and the matrix with None for NaN."""
        return {"scores": list(self.names), "spearman": [[float(v) if np.isfinite(v) else None for v in row] for row in self.matrix]}

    def report(self, path: str | Path, title: str = "") -> Path:
        """Writes the matrix as a figure: .png, .svg or .pdf. Raises ConfigError for another ending, an unwritable place, or
        no correlation at all, and MissingDependencyError without matplotlib."""
        path = Path(path).expanduser()
        return write_output(path, self.figure(format_of(path), title))

    def figure(self, file_format: str, title: str = "") -> bytes:
        """The matrix as a heat map, scores that agree next to each other: "png", "svg" or "pdf". Raises as `report`."""
        if not self.known:
            raise ConfigError(f"No two of the {len(self.names)} scores have {MIN_EXPERTS} experts in common, so there is nothing to draw.")
        ordered = self.ordered()
        return agreement_figure(ordered.names, ordered.matrix, file_format, title)


def agreement(rankings: "Ranking | Sequence[Ranking]") -> Agreement:
    """Rank correlations between the scores of one or several rankings.

    Args:
      rankings: rankings with the same scores; each over its own experts.

    Raises:
      ConfigError: no ranking, or rankings of different scores.
    """
    rankings = list(rankings) if isinstance(rankings, Sequence) else [rankings]
    if not rankings or len({ranking.score_names for ranking in rankings}) != 1:
        raise ConfigError(f"agreement takes at least one ranking, all of the same scores; it was given {len(rankings)}.")
    names = rankings[0].score_names
    found = np.array([_one(ranking) for ranking in rankings])
    known = np.isfinite(found).sum(axis=0)
    matrix = np.divide(np.nansum(found, axis=0), known, out=np.full(known.shape, np.nan), where=known > 0)
    return Agreement(names, matrix, known)


def _one(ranking: "Ranking") -> np.ndarray:
    columns = np.array([[_signed(ranking, row, name) for row in ranking.experts] for name in ranking.score_names], np.float64)
    matrix = np.full((len(columns), len(columns)), np.nan)
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[: i + 1]):
            both = np.isfinite(first) & np.isfinite(second)
            if both.sum() >= MIN_EXPERTS:
                matrix[i, j] = matrix[j, i] = rank_correlation(first[both], second[both])
    return matrix


def _signed(ranking: "Ranking", row, name: str) -> float:
    outcome = row.scores[name]
    if not isinstance(outcome, ScoreResult):
        return np.nan
    return outcome.value if ranking.higher_is_better.get(name, True) else -outcome.value
