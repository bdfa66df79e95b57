"""Matplotlib figures without a display, their axes, and their file content."""

import io
import warnings
from pathlib import Path

from ntk_select.errors import ConfigError, missing


def new_figure(width: float, height: float, purpose: str):
    """An empty matplotlib figure.

    Args:
      width, height: size in inches.
      purpose: beginning of the error message without matplotlib, as in "The heat map of a kernel".

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
    """The file format by the suffix of a figure's name. Raises ConfigError for other suffixes."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"report: {path.name!r} ends in {path.suffix!r}; allowed are .png, .svg and .pdf.")
    return path.suffix[1:]


def colours(name: str):
    """A colour map of matplotlib in which missing values are grey."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="0.85")


LINEAR_TICKS, DENSE_TICKS = 10, 1000
"""Ratios of the largest to the smallest value up to which a logarithmic axis has the ticks of a linear one, and ticks at 1, 2 and 5."""


def logarithmic(axis) -> None:
    """Makes the y axis of a finished panel logarithmic, with plain numbers as tick labels if powers of ten would be too few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high / low > DENSE_TICKS:
        return
    few = high / low <= LINEAR_TICKS
    ticks = [tick for tick in MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high] if few else []
    axis.yaxis.set_major_locator(FixedLocator(ticks) if few else LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    if few:
        axis.yaxis.set_minor_locator(NullLocator())


def whole_steps(axis) -> None:
    """Restricts ticks of the x axis to integers, for steps or epochs."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def file_content(figure, file_format: str, *, tight: bool = False) -> bytes:
    """The figure as deterministic "png", "svg" or "pdf" bytes; `tight` crops the margins."""
    import matplotlib

    buffer = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "ntk-select"}):
        # Names may be in any script; missing glyphs become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(buffer, format=file_format, dpi=150, bbox_inches="tight" if tight else None, metadata=metadata)
    return buffer.getvalue()


def literal(text: str) -> str:
    """Text escaped for matplotlib, without formulas."""
    return text.replace("$", r"\$")
