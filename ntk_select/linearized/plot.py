"""The three curves as a figure: loss, test, how far apart they are, how far the weights moved."""

import numpy as np

from ntk_select.figure import file_content, literal, logarithmic, new_figure, whole_steps
from ntk_select.linearized.beside import Beside

# Colours of Okabe & Ito 2008, which colour-blind readers tell apart; line styles tell them apart in print.
LOOKS = {
    "real training": {"color": "black", "linewidth": 1.8},
    "formula": {"color": "#D55E00", "linewidth": 1.6, "linestyle": "--"},
    "linearised training": {"color": "#0072B2", "linestyle": "none", "marker": "o", "markersize": 4, "markerfacecolor": "none"},
}


def curves(found: Beside, *, title: str = "", loss: str = "", file_format: str = "png") -> bytes:
    """The figure as a file's content.

    Args:
      found: from `beside`.
      title: above the figure.
      loss: name of the loss, for the axis.
      file_format: "png", "svg" or "pdf".

    Raises:
      MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(11, 7.4, "The figure of the curves")
    axes = figure.subplots(2, 2)
    _losses(axes[0, 0], found, "train_losses", f"training loss ({loss})" if loss else "training loss")
    if found.real.test_losses is None:
        axes[0, 1].set_axis_off()
    else:
        _losses(axes[0, 1], found, "test_losses", "test loss")
    _apart(axes[1, 0], found)
    _losses(axes[1, 1], found, "distances", "how far the weights moved", log=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(literal(title), fontsize=12)
    return file_content(figure, file_format)


def _losses(axis, found: Beside, what: str, name: str, log: bool = True) -> None:
    parts = {"real training": found.real, "formula": found.formula, "linearised training": found.linear}
    for label, part in parts.items():
        if part is not None:
            values = getattr(part, what)
            axis.plot(part.times, np.where(np.isfinite(values), values, np.nan), label=label, **LOOKS[label])
    if log and any(np.nanmin(getattr(part, what)) > 0 for part in parts.values() if part is not None):
        logarithmic(axis)
    _steps(axis, name)


def _apart(axis, found: Beside) -> None:
    apart = found.discrepancy()
    lines = {"training loss": apart.loss, "test loss": apart.test_loss, "test outputs": apart.test_outputs}
    if apart.agreement is not None:
        lines["other answers"] = 1 - apart.agreement
    for (label, values), colour in zip(lines.items(), ("#D55E00", "#CC79A7", "#009E73", "0.4"), strict=False):
        if values is not None:
            axis.plot(found.real.times, 100 * np.where(np.isfinite(values), values, np.nan), label=label, color=colour)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9)
    _steps(axis, "formula against real training (%)")


def _steps(axis, name: str) -> None:
    axis.set_xlabel("steps", fontsize=9)
    whole_steps(axis)
    axis.set_title(name, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
