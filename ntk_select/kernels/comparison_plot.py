"""Figure of a comparison of sketched and exact kernels: error, LGC, ranking, time and memory against the dimension."""

from collections.abc import Callable

from ntk_select._runtime.figures import file_content, literal, logarithmic, new_figure
from ntk_select.errors import ConfigError
from ntk_select.kernels.comparison import Comparison, Summary

# Colours of Okabe & Ito 2008, distinguishable for colour-blind readers; the markers are for print.
LOOKS = {
    "countsketch": ("#0072B2", "o"),
    "rademacher": ("#E69F00", "s"),
    "gaussian": ("#D55E00", "D"),
    "srht": ("#009E73", "^"),
    "kronecker": ("#CC79A7", "v"),
    "jvp": ("#56B4E9", "P"),
}
GREY = "0.35"


def comparison_figure(comparison: Comparison, *, title: str = "", file_format: str = "png") -> bytes:
    """The figure as the content of a file.

    Panels, each against the dimension: error of the kernel with its law, error of LGC with its standard error, time and,
    if known, peak memory, both with the exact kernel's; for several experts also the rank correlation, and the share of
    intervals that contain the exact LGC.

    Args:
      comparison: A comparison with at least one sketch.
      title: above the figure.
      file_format: "png", "svg" or "pdf".

    Raises:
      ConfigError: the comparison contains no sketch.
      MissingDependencyError: matplotlib is not installed.
    """
    figure = _figure(comparison, title)
    return file_content(figure, file_format, tight=True)


def _figure(comparison: Comparison, title: str):
    if not comparison.rows:
        raise ConfigError("There is no sketch to draw." + "".join(f" {cell.kind}: {cell.reason}" for cell in comparison.left_out[:1]))
    panels = _panels(comparison)
    columns = 3 if len(panels) > 4 else 2
    lines = -(-len(panels) // columns)
    figure = new_figure(4.4 * columns, 3.3 * lines + 0.9, "The figure of a comparison")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis, comparison)
        _dimensions(axis, comparison.dims)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    entries = {}
    for axis in axes[: len(panels)]:
        entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(len(entries), 5), frameon=False, fontsize=9)
    figure.suptitle(literal(title), fontsize=12)
    return figure


def _panels(comparison: Comparison) -> list[Callable]:
    summaries = comparison.summaries()

    def known(name: str) -> bool:
        return any(getattr(cell, name) is not None for cell in summaries)

    panels = [_kernel_error]
    panels += [_score_error] if known("correlation_error") else []
    panels += [_rank_correlation] if known("spearman") else []
    panels += [_seconds] if known("seconds") else []
    panels += [_memory] if known("peak_bytes") else []
    return panels + ([_held] if known("held") and len(comparison.experts) > 1 else [])


def _kernel_error(axis, comparison: Comparison) -> None:
    _lines(axis, comparison, lambda cell: cell.error)
    axis.plot(
        comparison.dims,
        [comparison.law(dim) for dim in comparison.dims],
        "--",
        color="black",
        linewidth=1.4,
        label=r"law $\sqrt{(1 + r)/k}$",
        zorder=5,
    )
    logarithmic(axis)
    axis.set_title("relative error of the kernel, Frobenius", fontsize=10)


def _score_error(axis, comparison: Comparison) -> None:
    _lines(axis, comparison, lambda cell: cell.correlation_error)
    by_formula = {
        cell.dim: cell.standard_error for cell in comparison.summaries() if cell.predicted_error is not None and cell.standard_error is not None
    }
    if by_formula:
        dims = sorted(by_formula)
        axis.plot(dims, [by_formula[dim] for dim in dims], ":", color="black", linewidth=1.8, label="predicted standard error", zorder=5)
    logarithmic(axis)
    axis.set_title("error of LGC", fontsize=10)


def _rank_correlation(axis, comparison: Comparison) -> None:
    _lines(axis, comparison, lambda cell: cell.spearman)
    axis.axhline(1, color=GREY, linewidth=0.8, zorder=1)
    lowest = min(cell.spearman for cell in comparison.summaries() if cell.spearman is not None)
    axis.set_ylim(min(lowest, 0.99) - 0.05 * (1 - min(lowest, 0.99)), 1 + 0.05 * (1 - min(lowest, 0.99)))
    axis.set_title(f"Spearman with the exact order of {len(comparison.experts)} experts", fontsize=10)


def _seconds(axis, comparison: Comparison) -> None:
    _lines(axis, comparison, lambda cell: cell.seconds)
    exact = sorted(cell.seconds for cell in comparison.exact)
    _exact_line(axis, exact[len(exact) // 2])
    logarithmic(axis)
    axis.set_title("seconds", fontsize=10)


def _memory(axis, comparison: Comparison) -> None:
    _lines(axis, comparison, lambda cell: None if cell.peak_bytes is None else cell.peak_bytes / 1e6)
    exact = [cell.peak_bytes for cell in comparison.exact if cell.peak_bytes is not None]
    if exact:
        _exact_line(axis, sum(exact) / len(exact) / 1e6)
    logarithmic(axis)
    axis.set_title("peak memory added, MB", fontsize=10)


def _held(axis, comparison: Comparison) -> None:
    _lines(axis, comparison, lambda cell: None if cell.held is None else 100 * cell.held)
    axis.axhline(95, color=GREY, linewidth=0.8, zorder=1)
    axis.set_ylim(top=101)
    axis.set_title("95 % intervals that contain the exact LGC, %", fontsize=10)


def _lines(axis, comparison: Comparison, value: Callable[[Summary], float | None]) -> None:
    for kind in comparison.kinds:
        points = [(cell.dim, value(cell)) for cell in comparison.summaries() if cell.kind == kind and value(cell) is not None]
        if points:
            colour, marker = LOOKS.get(kind, ("black", "x"))
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, linewidth=1.4, label=kind, zorder=3)


def _exact_line(axis, value: float) -> None:
    axis.axhline(value, color="black", linewidth=1.2, linestyle="-.", label="exact kernel", zorder=2)


def _dimensions(axis, dims: tuple[int, ...]) -> None:
    """A logarithmic axis with the dimensions as ticks."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(dims, [str(dim) for dim in dims])
    axis.tick_params(axis="x", which="minor", bottom=False)
    axis.set_xlabel("dimension k", fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(color="0.92", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
