"""A forecast: what fine-tuning is expected to reach, how surely, and why."""

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ntk_select._runtime.figures import format_of
from ntk_select.forecasting.cross_validation import Curve, Outlook
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.finetuning.search import edge_of


@dataclass(frozen=True, eq=False)
class Forecast:
    """What came out of `forecast`. Printed, a short report; `plot()` draws the expected curves.

    Attributes:
      expert, task: names.
      images, classes: that were looked at.
      training_images: of the fine-tuning that is forecast.
      recipe: of that fine-tuning.
      by_rate: what is expected of each learning rate, largest first.
      best: of the rate with the least expected loss.
      per_class, shots, seed: as asked for.
      directions: behind the kernel.
      weights: |w_0|, the norm of the expert's parameters.
      shares: of the kernel, by part of the network; None without `explain`.
      nonlinearity: how far the network is from its linearisation where training is expected to end; see `linearity`. None without `explain`.
      warnings: what was noticed about the images, such as copies.
    """

    expert: str
    task: str
    images: int
    classes: int
    training_images: int
    recipe: Recipe
    by_rate: Mapping[float, Outlook] = field(repr=False)
    best: Outlook = field(repr=False)
    per_class: int
    shots: int | None
    seed: int
    directions: int
    weights: float
    shares: Mapping[str, float] | None = None
    nonlinearity: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def learning_rate(self) -> float:
        """The learning rate to take: that with the least expected loss on new images."""
        return self.best.learning_rate

    @property
    def accuracy(self) -> float:
        """Expected accuracy on new images, 0 .. 1."""
        return self.best.accuracy

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the accuracy, over the choice of the images that judge."""
        return self.best.low

    @property
    def high(self) -> float:
        """Upper end of that interval."""
        return self.best.high

    @property
    def balanced_accuracy(self) -> float:
        """Expected mean over classes of their accuracies, 0 .. 1."""
        return self.best.balanced_accuracy

    @property
    def loss(self) -> float:
        """Expected mean cross-entropy on new images, in nats."""
        return self.best.loss

    @property
    def curve(self) -> Curve:
        """What is expected after each epoch."""
        return self.best.curve

    @property
    def distance(self) -> float:
        """How far the weights are expected to move, |w - w_0|."""
        return self.best.distance

    @property
    def edge(self) -> str | None:
        """ "largest" or "smallest" if the best learning rate is that one of several; None if it is between others."""
        return edge_of(self.best.learning_rate, list(self.by_rate))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        names = ("expert", "task", "images", "classes", "training_images", "per_class", "shots", "seed", "directions", "weights", "nonlinearity")
        record: dict[str, Any] = {name: _known(getattr(self, name)) for name in names}
        record |= {
            name: _known(getattr(self, name))
            for name in ("learning_rate", "edge", "accuracy", "low", "high", "balanced_accuracy", "loss", "distance")
        }
        kept = [name for name in Outlook.__dataclass_fields__ if name not in ("curve", "log_likelihoods", "right")]
        record["by_rate"] = [
            {name: _known(getattr(one, name)) for name in kept}
            | {name: [_known(float(value)) for value in values] for name, values in one.curve._asdict().items()}
            for one in self.by_rate.values()
        ]
        return {
            **record,
            "shares": None if self.shares is None else dict(self.shares),
            "recipe": asdict(self.recipe),
            "warnings": list(self.warnings),
        }

    def plot(self):
        """The expected curves of all learning rates as a matplotlib Figure. Raises MissingDependencyError without matplotlib."""
        from ntk_select.forecasting.plot import curves

        return curves(self)

    def report(self, path: str | Path) -> Path:
        """Writes the figure: .png, .svg or .pdf. Raises ConfigError for another ending or an unwritable place."""
        from ntk_select._runtime.figures import file_content
        from ntk_select._runtime.files import write_output

        path = Path(path).expanduser()
        file_format = format_of(path)
        return write_output(path, file_content(self.plot(), file_format))

    def _lines(self) -> list[str]:
        edge = f" (the {self.edge} of {len(self.by_rate)}: one beyond it may be better)" if self.edge else ""
        best, on = self.best, f"{self.training_images:,} training images of {self.classes} classes"
        return [
            f"{self.expert} on {self.task}: {percent(best.accuracy)} expected after fine-tuning on {on} (95 %: {percent(best.low)} to "
            f"{percent(best.high)}; balanced {percent(best.balanced_accuracy)}; loss {best.loss:.3f})",
            f"learning rate {best.learning_rate:g}{edge}; {self.recipe.epochs} epochs; from {self.images:,} images, seed {self.seed}",
        ]

    def _rates(self) -> list[tuple[str, str, str, str, str]]:
        rows = [("learning rate", "accuracy", "95 %", "loss", "training loss")]
        for rate, one in self.by_rate.items():
            told = (
                ("diverges", "", "", "")
                if one.diverged
                else (
                    percent(one.accuracy),
                    f"{percent(one.low)} to {percent(one.high)}",
                    f"{one.loss:.3f}",
                    f"{one.curve.training_losses[-1]:.3f}",
                )
            )
            rows.append((f"{rate:g}", *told))
        return rows

    def _reasons(self) -> list[str]:
        found = (
            [f"The weights are expected to move by {self.distance:.3g}, {percent(self.distance / self.weights)} of their norm."]
            if self.weights
            else []
        )
        if self.shares is not None:
            largest = sorted(self.shares.items(), key=lambda item: -item[1])[:4]
            found.append(f"The kernel comes from {', '.join(f'{name} ({percent(share)})' for name, share in largest)}.")
        if self.nonlinearity is not None:
            found.append(f"There the network is off its linearisation by {percent(self.nonlinearity)} of how far its outputs have moved.")
        return [*found, *self.warnings]

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
    """A share, as people write it."""
    return f"{100 * share:.1f} %"


def _known(value):
    """None for what JSON cannot hold."""
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
