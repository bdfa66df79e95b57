"""A ranking as a figure: every expert's scores with their intervals."""

import io
import warnings

from ntk_select.errors import missing
from ntk_select.scores import ScoreResult


def figure_bytes(ranking, file_format: str) -> bytes:
    """The figure as a file's content: "png", "svg" or "pdf". Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", "The figure of a ranking") from error
    experts, names = ranking.experts, ranking.score_names
    figure = Figure(figsize=(3.2 + 3.0 * len(names), 1.4 + 0.26 * max(len(experts), 3)), layout="constrained")
    FigureCanvasAgg(figure)
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
    axes[0].set_yticks(range(len(experts)), [f"{_literal(expert.name)}  {expert.rank}" for expert in experts])
    axes[0].set_ylim(max(len(experts), 1) - 0.5, -0.5)
    figure.suptitle(_literal(f"{ranking.task['name']}: {ranking.judgement}"), fontsize=10)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; a letter that the font lacks becomes a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format=file_format, dpi=150, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


def _literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
