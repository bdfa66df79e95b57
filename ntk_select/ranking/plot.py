"""A ranking as a figure: every expert's scores with their intervals."""

from ntk_select.figure import file_content, literal, new_figure
from ntk_select.scores import ScoreResult


def figure_bytes(ranking, file_format: str) -> bytes:
    """The figure as a file's content: "png", "svg" or "pdf". Raises MissingDependencyError without matplotlib."""
    experts, names = ranking.experts, ranking.score_names
    figure = new_figure(3.2 + 3.0 * len(names), 1.4 + 0.26 * max(len(experts), 3), "The figure of a ranking")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    sources = list(dict.fromkeys(expert.source or "" for expert in experts))
    for axis, name in zip(axes, names, strict=True):
        for position, expert in enumerate(experts):
            outcome = expert.scores[name]
            colour = f"C{sources.index(expert.source or '') % 10}"
            if not isinstance(outcome, ScoreResult):
                continue
            if outcome.low is not None:
                axis.plot([outcome.low, outcome.high], [position, position], color=colour, linewidth=1.5, solid_capstyle="round")
            axis.plot(outcome.value, position, "o", color=colour, markersize=5)
        if ranking.tied > 1:
            axis.axhspan(-0.5, ranking.tied - 0.5, color="0.93", zorder=0)
        axis.set_xlabel(name)
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(experts)), [f"{literal(expert.name)}  {expert.rank}" for expert in experts])
    axes[0].set_ylim(max(len(experts), 1) - 0.5, -0.5)
    figure.suptitle(literal(f"{ranking.task['name']}: {ranking.judgement}"), fontsize=10)
    return file_content(figure, file_format)
