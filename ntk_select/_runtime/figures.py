"""How does a figure come to be without a display, and become the content of a file?"""

import io
import warnings
from pathlib import Path

from ntk_select.errors import ConfigError, missing


def new_figure(width: float, height: float, purpose: str):
    """An empty matplotlib figure, in inches.

    Args:
      purpose: the beginning of the sentence without matplotlib, as in "The heat map of a kernel".

    Raises:
      MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", purpose) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def format_of(path: Path) -> str:
    """The format that the ending of a figure's name asks for. Raises ConfigError for another ending."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"report: {path.name!r} ends in {path.suffix!r}; allowed are .png, .svg and .pdf.")
    return path.suffix[1:]


def colours(name: str):
    """A colour map of matplotlib, in which what is not known is grey."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="0.85")


FEW, SOME = 10, 1000
"""Largest divided by smallest value up to which a logarithmic axis has ticks as a linear one, and up to which at 1, 2 and 5."""


def logarithmic(axis) -> None:
    """Makes the y axis of a panel, on which everything is drawn, logarithmic: with plain numbers at its ticks where powers of ten would be too few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high / low > SOME:
        return
    few = high / low <= FEW
    ticks = [tick for tick in MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high] if few else []
    axis.yaxis.set_major_locator(FixedLocator(ticks) if few else LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    if few:
        axis.yaxis.set_minor_locator(NullLocator())


def whole_steps(axis) -> None:
    """Ticks of the x axis at whole numbers alone: of steps or epochs."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def file_content(figure, file_format: str, *, tight: bool = False) -> bytes:
    """The figure as "png", "svg" or "pdf", the same bytes every time; `tight` cuts its margins."""
    import matplotlib

    buffer = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "ntk-select"}):
        # Names may be in any script; a letter that the font lacks becomes a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(buffer, format=file_format, dpi=150, bbox_inches="tight" if tight else None, metadata=metadata)
    return buffer.getvalue()


def literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
