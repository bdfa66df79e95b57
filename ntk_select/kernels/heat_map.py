"""Heat map of a kernel, with images sorted by class, next to that of the cosines of their gradients."""

import numpy as np
from jaxtyping import Float, Int

from ntk_select._runtime.figures import file_content, literal, new_figure
from ntk_select.errors import TaskError
from ntk_select.kernels.saved_kernel import class_trace

MAX_NAMES = 40
"""Number of classes beyond which only some names and no lines are drawn."""
TAILS = (0.5, 99.5)
"""Percentiles of the entries at the ends of the colour scale."""


def cosines(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Kernel normalised to unit diagonal: cosines of the angles between gradients. Rows of norm zero stay zero."""
    norms = np.sqrt(np.maximum(np.diagonal(kernel), 0).astype(np.float64))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return kernel * scale[:, None] * scale


def class_order(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Stable permutation that sorts images by class."""
    return np.argsort(labels, kind="stable")


def colour_range(values: np.ndarray) -> tuple[float, float, str]:
    """Ends of the colour scale, robust to outliers, and the colour map: symmetric about zero if signs are mixed."""
    low, high = (float(end) for end in np.percentile(values, TAILS))
    if low < -0.05 * high or high <= 0:
        end = max(abs(low), abs(high)) or 1.0
        return -end, end, "RdBu_r"
    low = max(low, 0.0)
    return (low, high, "viridis") if high > low else (low - 0.5, high + 0.5, "viridis")


def heat_map(
    kernel: Float[np.ndarray, "n n ..."],
    labels: Int[np.ndarray, " n"],
    class_names: tuple[str, ...],
    *,
    title: str = "",
    of: str = "gradients",
    file_format: str = "png",
) -> bytes:
    """The figure as file content: the kernel (for several outputs the mean over them) and its cosines.

    Args:
      kernel: A kernel, as `ntk` returns it.
      labels: class ids, positions in `class_names`.
      class_names: written at the middle of each class.
      title: above the figure.
      of: what the kernel holds the inner products of, "gradients" or "features".
      file_format: "png", "svg" or "pdf".

    Raises:
      TaskError: labels that do not fit the kernel.
      MissingDependencyError: matplotlib is not installed.
    """
    figure = _figure(np.asarray(kernel), np.asarray(labels), class_names, title, of)
    return file_content(figure, file_format, tight=True)


def _figure(kernel, labels, class_names, title, of):
    figure = new_figure(13, 6.1, "The heat map of a kernel")
    if labels.ndim != 1 or len(labels) == 0 or kernel.shape[:2] != 2 * labels.shape:
        raise TaskError(f"The kernel has shape {kernel.shape} for labels {labels.shape}; each image needs one label.")
    order = class_order(labels)
    kernel, labels = class_trace(kernel)[np.ix_(order, order)], labels[order]
    pairs = ~np.eye(len(labels), dtype=bool) if len(labels) > 1 else np.ones((1, 1), bool)
    angles = cosines(kernel)
    panels = ((f"inner product of {of}", kernel, kernel), (f"cosine of {of}", angles, angles[pairs]))
    for axis, (what, values, typical) in zip(figure.subplots(1, 2), panels, strict=True):
        low, high, colours = colour_range(typical)
        image = axis.imshow(values, vmin=low, vmax=high, cmap=colours)
        beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        extend = beyond[bool(values.min() < low), bool(values.max() > high)]
        bar = figure.colorbar(image, ax=axis, shrink=0.9, aspect=35, pad=0.02, extend=extend, extendfrac=0.03)
        bar.outline.set_visible(False)
        axis.set_title(what, fontsize=10)
        _mark_classes(axis, labels, class_names, "0.3" if low < 0 else "white")
    figure.suptitle(literal(title), fontsize=12)
    return figure


def _mark_classes(axis, labels, class_names, colour):
    """Lines between the classes and names at their centres; for many classes no lines and only some names."""
    present, first, counts = np.unique(labels, return_index=True, return_counts=True)
    for start in first[1:] if len(present) <= MAX_NAMES else ():  # lines would hide what they divide
        axis.axhline(start - 0.5, color=colour, linewidth=0.5)
        axis.axvline(start - 0.5, color=colour, linewidth=0.5)
    step = -(-len(present) // MAX_NAMES)
    middles, names = (first + (counts - 1) / 2)[::step], [literal(_short(class_names[label])) for label in present[::step]]
    size = 9 if len(names) <= 20 else 6
    axis.set_yticks(middles, names, fontsize=size)
    axis.set_xticks(middles, names, fontsize=size, rotation=90 if max(map(len, names)) * len(names) > 60 else 0)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
