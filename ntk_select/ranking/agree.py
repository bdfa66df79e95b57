"""Which scores agree? Rank correlations over the experts, between every pair of scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ntk_select._runtime.figures import colours, file_content, format_of, literal, new_figure
from ntk_select._runtime.files import write_output
from ntk_select.errors import ConfigError, UndefinedScoreError
from ntk_select.ranking.record import Ranking
from ntk_select.scores import ScoreResult
from ntk_select.scores.dissimilarity import spearman

LEAST_EXPERTS = 4


@dataclass(frozen=True)
class Agreement:
    """Spearman correlations between scores over experts, each score turned so that higher is better.

    Attributes:
      names: of the scores.
      matrix: (scores, scores), mean over the rankings; NaN where no ranking has four experts with both scores, or one is constant.
      rankings: how many of them each mean is over.
    """

    names: tuple[str, ...]
    matrix: Float[np.ndarray, "s s"]
    rankings: Float[np.ndarray, "s s"]

    @property
    def known(self) -> list[int]:
        """Places of the scores that have a correlation with some other."""
        return [place for place in range(len(self.names)) if np.isfinite(np.delete(self.matrix[place], place)).any()]

    def ordered(self) -> "Agreement":
        """With scores that agree beside each other (average linkage), without those that have no correlation with any other."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        known = order = self.known
        if len(known) > 2:
            distance = 1 - np.nan_to_num(self.matrix[np.ix_(known, known)], nan=0.0)
            np.fill_diagonal(distance, 0)
            order = [known[place] for place in leaves_list(linkage(squareform(distance), "average", True))]
        return Agreement(tuple(self.names[place] for place in order), self.matrix[np.ix_(order, order)], self.rankings[np.ix_(order, order)])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: names, and the matrix with None for what is not known."""
        return {"scores": list(self.names), "spearman": [[float(v) if np.isfinite(v) else None for v in row] for row in self.matrix]}

    def report(self, path: str | Path, title: str = "") -> Path:
        """Writes the matrix as a figure: .png, .svg or .pdf. Raises ConfigError for another ending or an unwritable place, and
        MissingDependencyError without matplotlib."""
        path = Path(path).expanduser()
        return write_output(path, figure_bytes(self, format_of(path), title))


def agreement(rankings: Ranking | Sequence[Ranking]) -> Agreement:
    """How far the scores of one or several rankings order the experts alike.

    Args:
      rankings: with the same scores; each counts with the experts that it has.

    Raises:
      ConfigError: no ranking, or rankings of different scores.
    """
    rankings = [rankings] if isinstance(rankings, Ranking) else list(rankings)
    if not rankings or len({ranking.score_names for ranking in rankings}) != 1:
        raise ConfigError(f"agreement takes at least one ranking, all of the same scores; it was given {len(rankings)}.")
    names = rankings[0].score_names
    found = np.array([_one(ranking) for ranking in rankings])
    known = np.isfinite(found).sum(axis=0)
    matrix = np.divide(np.nansum(found, axis=0), known, out=np.full(known.shape, np.nan), where=known > 0)
    return Agreement(names, matrix, known)


def _one(ranking: Ranking) -> np.ndarray:
    columns = np.array([[_turned(ranking, row, name) for row in ranking.experts] for name in ranking.score_names], np.float64)
    matrix = np.full((len(columns), len(columns)), np.nan)
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[: i + 1]):
            both = np.isfinite(first) & np.isfinite(second)
            if both.sum() >= LEAST_EXPERTS:
                try:
                    matrix[i, j] = matrix[j, i] = spearman(first[both], second[both])
                except UndefinedScoreError:
                    continue
    return matrix


def _turned(ranking: Ranking, row, name: str) -> float:
    outcome = row.scores[name]
    if not isinstance(outcome, ScoreResult):
        return np.nan
    return outcome.value if ranking.higher_is_better.get(name, True) else -outcome.value


def figure_bytes(found: Agreement, file_format: str, title: str = "") -> bytes:
    """The matrix as a heat map, scores that agree beside each other.

    Raises:
      ConfigError: no two scores have four experts in common.
      MissingDependencyError: without matplotlib.
    """
    if not found.known:
        raise ConfigError(f"No two of the {len(found.names)} scores have {LEAST_EXPERTS} experts in common, so that there is nothing to draw.")
    found = found.ordered()
    size = 2.8 + 0.36 * len(found.names)
    figure = new_figure(size + 0.6, size, "The figure of an agreement")
    axes = figure.subplots()
    image = axes.imshow(found.matrix, cmap=colours("RdBu_r"), vmin=-1, vmax=1)
    places = range(len(found.names))
    names = [literal(name) for name in found.names]
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    axes.tick_params(length=0)
    for i in places:
        for j in places:
            if i != j and np.isfinite(found.matrix[i, j]):
                dark = abs(found.matrix[i, j]) > 0.6
                text = f"{found.matrix[i, j]:.1f}".replace("-0.0", "0.0")
                axes.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if dark else "0.2")
    figure.colorbar(image, ax=axes, shrink=0.6, label="Spearman correlation over experts")
    if title:
        axes.set_title(literal(title), fontsize=10)
    return file_content(figure, file_format)
