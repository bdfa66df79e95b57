"""Figure 8: agreement of feature kernels with the labels over fine-tuning."""

import numpy as np

from ntk_select._runtime.figures import literal
from ntk_select.benchmark.config import KernelsConfig
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.truths import Row
from ntk_select.benchmark.report.words import shots_text

from .look import begun, caption

TITLE = "Feature kernels during fine-tuning"
ROLES = ("kernel",)


def data(results: Results) -> list[dict]:
    """One row an expert, target and epoch: LFC, test accuracy in percent, and the mean of the kernel within and between classes.

    There is no accuracy before training. The kernel is divided by its largest absolute entry; its diagonal counts in neither mean.
    """
    rows = []
    for row in _ordered(results):
        kernel, labels = _matrix(row), np.array(row["labels"])
        same = labels[:, None] == labels
        off = ~np.eye(len(labels), dtype=bool)
        rows.append(
            {
                "target": row["task"],
                "expert": row["expert"],
                "epochs": row["epochs"],
                "images": len(labels),
                "classes": len(np.unique(labels)),
                "lfc": row["lfc"],
                "accuracy_percent": None if row["accuracy"] is None else 100 * row["accuracy"],
                "within_classes": _mean(kernel[same & off]),
                "between_classes": _mean(kernel[~same]),
            }
        )
    return rows


def nothing(results: Results) -> str:
    """Why there is no figure."""
    return "The config asks for no kernels." if results.config.kernels is None else "No kernel was measured yet."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    wanted = results.config.kernels
    how = f" {_how(wanted)}" if wanted else ""
    return caption(
        results,
        "Inner products of the features of images, sorted by class, divided by their largest; lines part the classes."
        f"{how} The paper's figure 8 has 25 images per class of UC Merced after 0, 15 and 30 epochs: the expert of NWPU-RESISC45, also aerial images, "
        "has the highest LFC and a kernel that is high within classes and near zero elsewhere.",
        ROLES,
    )


def _how(wanted: KernelsConfig) -> str:
    full = isinstance(wanted.shots, str)
    among = "" if full or wanted.shots >= wanted.per_class else f", {wanted.shots} of the {wanted.per_class} of each class"
    return (
        f"Trained with one seed on {shots_text(None if full else wanted.shots)} with the learning rate {wanted.learning_rate:g}. With the same seed "
        "the images of "
        f"the kernel are among those trained on{among}: after epoch 0 LFC is that of training images."
    )


def draw(results: Results):
    """A row an expert and target, a column an epoch."""
    rows = _ordered(results)
    lines = list(dict.fromkeys((row["expert"], row["task"]) for row in rows))
    epochs = sorted({row["epochs"] for row in rows})
    figure = begun(results, TITLE, 1.6 + 2.9 * len(epochs), 1.2 + 2.9 * len(lines), ROLES)
    axes = figure.subplots(len(lines), len(epochs), squeeze=False)
    image, lowest = None, min(0.0, *(min(row["kernel"]) for row in rows))
    for line, pair in enumerate(lines):
        for column, epoch in enumerate(epochs):
            axis = axes[line, column]
            axis.set_xticks([]), axis.set_yticks([])
            row = next((row for row in rows if (row["expert"], row["task"], row["epochs"]) == (*pair, epoch)), None)
            if row is None:
                axis.text(0.5, 0.5, f"epoch {epoch}:\nnot yet", ha="center", va="center", fontsize=8, color="0.5", transform=axis.transAxes)
            else:
                image = _panel(axis, row, lowest)
        axes[line, 0].set_ylabel(literal(f"{pair[0]}\non {pair[1]}"), fontsize=8)
    figure.colorbar(image, ax=axes, label="inner product of features / largest", shrink=0.6)
    return figure


def _panel(axis, row: Row, lowest: float):
    image = axis.imshow(_matrix(row), cmap="viridis", vmin=lowest, vmax=1, interpolation="nearest")
    for place in np.flatnonzero(np.diff(row["labels"])) + 0.5:
        axis.axvline(place, color="white", linewidth=0.5)
        axis.axhline(place, color="white", linewidth=0.5)
    accuracy = "" if row["accuracy"] is None else f", accuracy {100 * row['accuracy']:.1f} %"
    axis.set_title(f"epoch {row['epochs']}: LFC {row['lfc']:.3f}{accuracy}", fontsize=8)
    return image


def _ordered(results: Results) -> list[Row]:
    """By target and expert as the config has them, and epoch."""
    wanted = results.config.kernels
    experts, tasks = (list(wanted.experts), list(wanted.tasks)) if wanted else ([], [])
    return sorted(
        (row for row in results.kernels if wanted and row["expert"] in experts and row["task"] in tasks),
        key=lambda row: (tasks.index(row["task"]), experts.index(row["expert"]), row["epochs"]),
    )


def _matrix(row: Row) -> np.ndarray:
    size = len(row["labels"])
    return np.array(row["kernel"]).reshape(size, size)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
