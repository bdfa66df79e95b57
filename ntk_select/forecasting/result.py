"""The result of `forecast`: expected accuracy, its interval, explanation, report and figure."""

import html
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ntk_select._runtime.figures import file_content, format_of, literal, logarithmic, new_figure, whole_steps
from ntk_select._runtime.files import write_output
from ntk_select.forecasting.cross_validation import Curve, RateForecast
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.finetuning.search import edge_of


@dataclass(frozen=True, eq=False)
class Forecast:
    """The result of `forecast`. Its repr is a short report; `plot()` draws the expected curves.

    Attributes:
      expert, task: names.
      images, classes: number of images and classes in the probe sample, without copies.
      training_images: number of training images of the forecasted fine-tuning.
      recipe: recipe of that fine-tuning.
      by_rate: forecast of each learning rate, largest first.
      best: forecast of the learning rate that the search of `finetune` would choose: of the largest expected accuracy, then of the smallest loss.
      order_value: value by which `rank` orders experts, higher is better; see `ntk_select.forecasting.order_value`.
      per_class, shots, seed: as given.
      directions: number of random directions for the kernel.
      initial_norm: |w_0|, the norm of the expert's parameters.
      shares: share of each part of the network in the kernel's trace; None without `explain`.
      nonlinearity: deviation from the linearised network at the expected end of training, relative to the change of outputs; None without `explain`.
      warnings: remarks on the images, such as copies, or test images that differ from the training images.
    """

    expert: str
    task: str
    images: int
    classes: int
    training_images: int
    recipe: Recipe
    by_rate: Mapping[float, RateForecast] = field(repr=False)
    best: RateForecast = field(repr=False)
    order_value: float
    per_class: int
    shots: int | None
    seed: int
    directions: int
    initial_norm: float
    shares: Mapping[str, float] | None = None
    nonlinearity: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def learning_rate(self) -> float:
        """The learning rate with the largest expected accuracy on new images, before any decay."""
        return self.best.learning_rate

    @property
    def accuracy(self) -> float:
        """Expected accuracy on new images with the class frequencies of the probe sample, 0 to 1."""
        return self.best.accuracy

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the accuracy, over the choice of held-out images."""
        return self.best.low

    @property
    def high(self) -> float:
        """Upper end of that interval."""
        return self.best.high

    @property
    def balanced_accuracy(self) -> float:
        """Expected accuracy averaged over classes, 0 to 1."""
        return self.best.balanced_accuracy

    @property
    def loss(self) -> float:
        """Expected mean cross-entropy on new images, in nats."""
        return self.best.loss

    @property
    def curve(self) -> Curve:
        """Expected accuracy and losses after each epoch."""
        return self.best.curve

    @property
    def distance(self) -> float:
        """Expected distance of the weights from the start, |w - w_0|."""
        return self.best.distance

    @property
    def edge(self) -> str | None:
        """ "largest" or "smallest" if the best learning rate is at that end of several; otherwise None."""
        return edge_of(self.best.learning_rate, list(self.by_rate))

    @property
    def weights(self) -> float:
        """Deprecated name of `initial_norm`."""
        warnings.warn("Forecast.weights is deprecated. Try: Forecast.initial_norm", DeprecationWarning, stacklevel=2)
        return self.initial_norm

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        names = ("expert", "task", "images", "classes", "training_images", "per_class", "shots", "seed", "directions", "nonlinearity")
        names += ("order_value", "learning_rate", "edge", "accuracy", "low", "high", "balanced_accuracy", "loss", "distance")
        arrays = ("curve", "log_likelihoods", "correct")
        rates = [
            {name: _finite(getattr(one, name)) for name in RateForecast.__dataclass_fields__ if name not in arrays}
            | {name: [_finite(float(value)) for value in values] for name, values in one.curve._asdict().items()}
            for one in self.by_rate.values()
        ]
        return {
            **{name: _finite(getattr(self, name)) for name in names},
            "weights": _finite(self.initial_norm),
            "by_rate": rates,
            "shares": None if self.shares is None else dict(self.shares),
            "recipe": asdict(self.recipe),
            "warnings": list(self.warnings),
        }

    def plot(self):
        """Expected accuracy and losses over epochs for each learning rate, the best one in bold, as a matplotlib Figure.

        Raises:
          MissingDependencyError: matplotlib is not installed.
        """
        figure = new_figure(9, 3.8, "The figure of a forecast")
        left, right = figure.subplots(1, 2)
        epochs = range(1, self.recipe.epochs + 1)
        colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
        for index, (rate, one) in enumerate(self.by_rate.items()):
            if one.diverged:
                continue
            style = {"color": colours[index % len(colours)], "lw": 2.4 if one is self.best else 1.2}
            left.plot(epochs, 100 * one.curve.accuracies, label=f"{rate:g}: {100 * one.accuracy:.1f} %", **style)
            right.plot(epochs, one.curve.losses, **style)
            right.plot(epochs, one.curve.training_losses, linestyle=":", **style)
        error = [[100 * (self.accuracy - self.low)], [100 * (self.high - self.accuracy)]]
        left.errorbar([self.recipe.epochs], [100 * self.accuracy], yerr=error, color="black", capsize=4, fmt="o", ms=4)
        right.plot([], [], color="0.3", label="new images")
        right.plot([], [], color="0.3", linestyle=":", label="training images")
        for axes in (left, right):
            for epoch in self.recipe.decays:
                axes.axvline(epoch + 0.5, color="0.85", lw=1, zorder=0)
            whole_steps(axes)
            axes.set_xlabel("epoch")
            axes.spines[["top", "right"]].set_visible(False)
        logarithmic(right)
        left.set_ylabel("expected accuracy on new images (%)")
        right.set_ylabel("expected loss (nats)")
        left.legend(title="learning rate", frameon=False, loc="lower right")
        right.legend(frameon=False)
        figure.suptitle(literal(f"{self.expert} on {self.task}"), fontsize=11)
        return figure

    def report(self, path: str | Path) -> Path:
        """Writes the figure: .png, .svg or .pdf.

        Raises:
          ConfigError: another extension, or a path that cannot be written.
          MissingDependencyError: matplotlib is not installed.
        """
        path = Path(path).expanduser()
        file_format = format_of(path)
        return write_output(path, file_content(self.plot(), file_format))

    def _lines(self) -> list[str]:
        edge = f" (the {self.edge} of {len(self.by_rate)}: a rate past it may be better)" if self.edge else ""
        best, on = self.best, f"{self.training_images:,} training images of {self.classes} classes"
        return [
            f"{self.expert} on {self.task}: {percent(best.accuracy)} expected after fine-tuning on {on} (95 %: {percent(best.low)} to "
            f"{percent(best.high)}; balanced {percent(best.balanced_accuracy)}; loss {best.loss:.3f})",
            f"learning rate {best.learning_rate:g}{edge}; {self.recipe.epochs} epochs; from {self.images:,} images, seed {self.seed}",
        ]

    def _rates(self) -> list[tuple[str, ...]]:
        rows = [("learning rate", "accuracy", "95 %", "loss", "training loss")]
        for rate, one in self.by_rate.items():
            interval, training_loss = f"{percent(one.low)} to {percent(one.high)}", f"{one.curve.training_losses[-1]:.3f}"
            cells = ("diverges", "", "", "") if one.diverged else (percent(one.accuracy), interval, f"{one.loss:.3f}", training_loss)
            rows.append((f"{rate:g}", *cells))
        return rows

    def _reasons(self) -> list[str]:
        reasons = []
        if self.initial_norm:
            share = percent(self.distance / self.initial_norm)
            reasons.append(f"The weights are expected to move by {self.distance:.3g}, {share} of their norm.")
        if self.shares is not None:
            largest = sorted(self.shares.items(), key=lambda item: -item[1])[:4]
            reasons.append(f"Largest shares of the kernel: {', '.join(f'{name} ({percent(share)})' for name, share in largest)}.")
        if self.nonlinearity is not None:
            reasons.append(f"There the network deviates from its linearisation by {percent(self.nonlinearity)} of the change of its outputs.")
        return [*reasons, *self.warnings]

    def __repr__(self):
        rows = self._rates()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*self._lines(), *table, *self._reasons()])

    def _repr_html_(self) -> str:
        head, *rows = self._rates()
        lines = [f"<p>{html.escape(line)}</p>" for line in self._lines()]
        cells = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
        cells += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
        return "".join([*lines, f"<table>{''.join(cells)}</table>", *(f"<p>{html.escape(line)}</p>" for line in self._reasons())])


def percent(share: float) -> str:
    """A fraction in per cent."""
    return f"{100 * share:.1f} %"


def _finite(value):
    """The value; None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
