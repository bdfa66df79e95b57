"""Figures of a ranking (scores with intervals, or places if there are many scores) and of the agreement of scores."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ntk_select._runtime.figures import colours, file_content, literal, new_figure
from ntk_select.scores import SCORES, ScoreResult

LETTERS = 12
"""Characters of a title per inch."""
MAX_PANELS = 6
"""Largest number of scores with a panel each; for more scores the figure shows the place of each expert by each score."""


def ranking_figure(ranking, file_format: str) -> bytes:
    """The figure as a file's content: "png", "svg" or "pdf". Raises MissingDependencyError without matplotlib."""
    experts, names = ranking.experts, ranking.score_names
    height = 1.9 + 0.26 * max(len(experts), 3)
    many = len(names) > MAX_PANELS and len(experts) > 0
    panels = 1 if many else min(len(names), MAX_PANELS)
    figure = new_figure(*((3.6 + 0.42 * len(names), height + 1.2) if many else (3.2 + 3.0 * panels, height)), "The figure of a ranking")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    if many:
        _places(figure, axes[0], ranking)
    else:
        _values(figure, axes, ranking)
    axes[0].set_yticks(range(len(experts)), [f"{literal(expert.name)}  {expert.rank}" for expert in experts])
    axes[0].set_ylim(max(len(experts), 1) - 0.5, -0.5)
    text = f"{ranking.task['name']}: {ranking.judgement} {ranking.evidence}"
    title = textwrap.fill(text, int(LETTERS * figure.get_figwidth()), break_on_hyphens=False)
    figure.suptitle(literal(title), fontsize=10)
    return file_content(figure, file_format)


def _values(figure, axes, ranking) -> None:
    experts = ranking.experts
    sources = list(dict.fromkeys(expert.source or "" for expert in experts))
    points = {}
    for axis, name in zip(axes, ranking.score_names, strict=False):
        for position, expert in enumerate(experts):
            outcome = expert.scores[name]
            colour = f"C{sources.index(expert.source or '') % 10}"
            if not isinstance(outcome, ScoreResult):
                continue
            value, low, high = SCORES[name].displayed(outcome) if name in SCORES else (outcome.value, outcome.low, outcome.high)
            if low is not None:
                axis.plot([low, high], [position, position], color=colour, linewidth=1.5, solid_capstyle="round")
            points[literal(expert.source or "unknown")] = axis.plot(value, position, "o", color=colour, markersize=5)[0]
        for position, expert in enumerate(experts if ranking.tied > 1 else ()):
            if expert.name in ranking.contenders:
                axis.axhspan(position - 0.5, position + 0.5, color="0.93", zorder=0)
        axis.set_xlabel(literal(f"{name}: expected accuracy" if name in SCORES and SCORES[name].shown else name))
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    if len(sources) > 1:
        figure.legend(points.values(), points, title="trained on", loc="outside lower center", ncols=min(len(points), 3 * len(axes)), frameon=False)


def _places(figure, axis, ranking) -> None:
    places = np.array([[ranking.places(name).get(expert.name, np.nan) for name in ranking.score_names] for expert in ranking.experts], np.float64)
    places = places.reshape(len(ranking.experts), len(ranking.score_names))
    image = axis.imshow(places, cmap=colours("viridis_r"), aspect="auto", vmin=1, vmax=max(len(ranking.experts), 2))
    for (row, column), place in np.ndenumerate(places):
        if np.isfinite(place):
            axis.text(column, row, f"{place:g}", ha="center", va="center", fontsize=6, color="white" if place > 0.55 * len(places) else "0.2")
    axis.set_xticks(range(len(ranking.score_names)), [literal(name) for name in ranking.score_names], rotation=90)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="place by the score", shrink=0.8)


def agreement_figure(names: Sequence[str], matrix: Float[np.ndarray, "s s"], file_format: str, title: str = "") -> bytes:
    """A heat map of correlations between scores, as a file's content. Raises MissingDependencyError without matplotlib."""
    size = 2.8 + 0.36 * len(names)
    figure = new_figure(size + 0.6, size, "The figure of an agreement")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap=colours("RdBu_r"), vmin=-1, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, list(map(literal, names)), rotation=90)
    axes.set_yticks(places, list(map(literal, names)))
    axes.tick_params(length=0)
    for i in places:
        for j in places:
            if i != j and np.isfinite(matrix[i, j]):
                dark = abs(matrix[i, j]) > 0.6
                text = f"{matrix[i, j]:.1f}".replace("-0.0", "0.0")
                axes.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if dark else "0.2")
    figure.colorbar(image, ax=axes, shrink=0.6, label="Spearman correlation over experts")
    if title:
        axes.set_title(literal(title), fontsize=10)
    return file_content(figure, file_format)
