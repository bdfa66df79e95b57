"""Three curves of one training: the formula, the linearised network trained, the real network trained; and how far apart they are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ntk_select.engine.inputs import checked_pair as checked_examples
from ntk_select.errors import ConfigError
from ntk_select.expert import Expert
from ntk_select.figure import format_of
from ntk_select.linearized.network import NetworkKernel, linearize, network_kernel
from ntk_select.linearized.predict import Prediction, predict
from ntk_select.linearized.rules import Rule, read_times
from ntk_select.linearized.train import Trajectory, optimizer_of, train

ROWS = 9
"""Of the table that is printed."""


class Discrepancy(NamedTuple):
    """How far one curve is from real training, at each of t times.

    Attributes:
      loss: |L - L_real| / L_real on the training examples.
      test_loss: the same on the test examples.
      test_outputs: |f - f_real| / |f_real - f_0| on the test examples: 1 is as wrong as no training at all.
      agreement: share of test examples with the same answer, by the largest output or by the sign of a single one.
      distance: |w - w_0| over that of real training.

    All are infinite, and answers unequal, where real training overflowed.
    """

    loss: Float[np.ndarray, " t"]
    test_loss: Float[np.ndarray, " t"] | None
    test_outputs: Float[np.ndarray, " t"] | None
    agreement: Float[np.ndarray, " t"] | None
    distance: Float[np.ndarray, " t"]


class Beside(NamedTuple):
    """The three curves at the same numbers of steps. Printed, a table of the training losses; `report(path)` draws all of it.

    Attributes:
      formula: from the kernel alone.
      linear: fn_lin, trained; None if it was not asked for.
      real: the network itself, trained from the same start with the same batches.
      kernel: that the formula used.
      targets, test_targets: what was to be learnt.
    """

    formula: Prediction
    linear: Trajectory | None
    real: Trajectory
    kernel: NetworkKernel
    targets: Float[np.ndarray, "n ..."]
    test_targets: Float[np.ndarray, "n2 ..."] | None

    def __repr__(self):
        apart = self.discrepancy().loss
        columns = {"steps": self.real.times, "formula": self.formula.train_losses}
        columns |= {} if self.linear is None else {"linearised": self.linear.train_losses}
        columns |= {"real": self.real.train_losses, "error": apart}
        rows = [list(columns), *([_cell(name, column[place]) for name, column in columns.items()] for place in rows_shown(len(apart)))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        test = "" if self.real.test_outputs is None else f", {self.real.test_outputs.shape[1]} test examples"
        return "\n".join([f"Training loss of {len(self.targets)} examples{test}; error: of the formula, relative to real training", *lines])

    def report(self, path: str | Path, *, title: str = "", loss: str = "") -> Path:
        """Writes the figure of the curves: .png, .svg or .pdf.

        Args:
          path: of the file.
          title: above the figure.
          loss: name of the loss, for the axis.

        Raises:
          ConfigError: another ending, or a place that cannot be written.
          MissingDependencyError: matplotlib is not installed.
        """
        from ntk_select.linearized.plot import curves  # here, for it imports this file
        from ntk_select.ranking.record import written

        path = Path(path).expanduser()
        return written(path, curves(self, title=title, loss=loss, file_format=format_of(path)))

    def discrepancy(self, curve: str = "formula") -> Discrepancy:
        """Of the "formula", or of the "linear" training, from real training. Where neither has moved, it is zero."""
        found = {"formula": self.formula, "linear": self.linear}.get(curve)
        if found is None:
            raise ConfigError(f"There is no curve {curve!r} here. Allowed: 'formula', and 'linear' where beside(..., linear=True) was asked for.")
        real, test = self.real, self.real.test_outputs is not None
        return Discrepancy(
            _relative(found.train_losses, real.train_losses),
            None if real.test_losses is None else _relative(found.test_losses, real.test_losses),
            _moved_apart(found.test_outputs, real.test_outputs) if test else None,
            _same(found.test_outputs, real.test_outputs) if test else None,
            _ratio(found.distances, real.distances),
        )

    def accuracy(self, curve: str = "real") -> Float[np.ndarray, " t"] | None:
        """Share of test examples that "formula", "linear" or "real" training answers rightly; None without test targets."""
        found = {"formula": self.formula, "linear": self.linear, "real": self.real}.get(curve)
        if found is None:
            raise ConfigError(f"There is no curve {curve!r} here. Allowed: 'formula', 'real', and 'linear' where it was asked for.")
        return None if self.test_targets is None else _same(found.test_outputs, self.test_targets[None])


def beside(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Shaped[Array, "n ..."],
    targets: Float[Array, " n"] | Float[Array, "n c"],
    *,
    lr: float,
    steps: int | None = None,
    times: Sequence[int] | None = None,
    optimizer: str = "gd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loss: str = "half_sum",
    params: Any = None,
    layers: Any = None,
    x_test: Shaped[Array, "n2 ..."] | None = None,
    test_targets: Float[Array, "n2 ..."] | None = None,
    batches: Sequence[Int[np.ndarray, " b"]] | None = None,
    kernel: NetworkKernel | None = None,
    linear: bool = True,
    batch_size: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Beside:
    """Predicts a training from the kernel, and does it.

    Args:
      expert_or_fn, params, layers: as for `linearize`.
      x, targets, x_test, test_targets: as for `train`.
      lr, optimizer, momentum, weight_decay, loss, batches: as for `predict`; the optimiser must take steps.
      steps, times: as for `train`; the start is always recorded as well.
      kernel: of the same network and examples, if it is there already (`network_kernel`).
      linear: also train the linearised network. The formula says where it goes; this checks it.
      batch_size: examples in one pass.
      progress: called with (done, all, what).

    Returns:
      A `Beside`: `formula`, `linear` and `real`, each with times, train_losses, train_outputs, distances and, where there are test
      examples, test_outputs and test_losses; the `kernel`; and the methods `discrepancy()`, `accuracy()` and `report("curves.png")`.

    Raises:
      ConfigError: as `predict` and `train`, or optimizer="flow".

    Cost: the kernel, and two trainings, of which the linearised one costs about twice the real one.
    """
    rule = Rule(optimizer, lr, momentum, weight_decay)
    if not rule.discrete:
        raise ConfigError("Real training takes steps. Type: optimizer='gd', with a small lr for the flow")
    when = np.union1d(0.0, read_times(rule, times, steps))
    if kernel is not None and x_test is not None and kernel.cross_kernel is None:
        raise ConfigError("kernel= has no cross_kernel for x_test. Type: kernel=network_kernel(expert, x, x_test), or leave kernel out")
    x, x_test = checked_examples(x, x_test)
    shared = {"x_test": x_test, "test_targets": test_targets, "loss": loss, "weight_decay": weight_decay, "batches": batches}
    shared |= {"times": when, "batch_size": batch_size}
    tx = optimizer_of(rule)
    real = train(expert_or_fn, x, targets, tx, params=params, layers=layers, progress=_named(progress, "real training"), **shared)
    trained = None
    if linear:
        trained = train(linearize(expert_or_fn, params, layers=layers), x, targets, tx, progress=_named(progress, "linearised training"), **shared)
    if kernel is None:
        kernel = network_kernel(expert_or_fn, x, x_test, params=params, layers=layers, batch_size=batch_size, progress=_named(progress, "kernel"))
    test = {}
    if x_test is not None:
        test = {"cross_kernel": kernel.cross_kernel, "test_outputs": real.test_outputs[0], "test_targets": test_targets}
    formula = predict(
        kernel.kernel,
        real.train_outputs[0],
        targets,
        lr=lr,
        times=when,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        loss=loss,
        batches=batches,
        **test,
    )
    return Beside(formula, trained, real, kernel, np.asarray(targets), None if test_targets is None else np.asarray(test_targets))


def answers(outputs: Float[np.ndarray, "t n ..."]) -> Int[np.ndarray, "t n"]:
    """The class of each example: the largest output, or the sign of a single one; -1 where the outputs are not finite."""
    rows = outputs[..., None] if outputs.ndim == 2 else outputs
    found = (rows[..., 0] > 0).astype(int) if rows.shape[2] == 1 else rows.argmax(axis=2)
    return np.where(np.isfinite(rows).all(axis=2), found, -1)


def rows_shown(count: int) -> Int[np.ndarray, " rows"]:
    """Places of the times that a table for people shows, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, ROWS).round().astype(int))


def _same(given: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Share of equal answers; none is equal to nothing."""
    given, real = answers(given), answers(real)
    return ((given == real) & (real >= 0)).mean(axis=1)


def _cell(name: str, value: float) -> str:
    if name == "error":
        return "0 %" if value < 1e-10 else f"{100 * value:.2g} %"
    return f"{value:g}" if name == "steps" else f"{value:.4g}"


def _named(progress, what: str):
    return None if progress is None else lambda done, total, _: progress(done, total, what)


def _relative(given: np.ndarray, real: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return _ratio(np.abs(given - real), np.abs(real), nothing=0.0)


def _ratio(above: np.ndarray, below: np.ndarray, nothing: float = 1.0) -> np.ndarray:
    """above / below; `nothing` where both are zero, infinity where both overflowed."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where((above == 0) & (below == 0), nothing, above / below)
    return np.where(np.isnan(ratio), np.inf, ratio)


def _moved_apart(given: np.ndarray, real: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, real.ndim))
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.sqrt(np.square((given - given[0]) - (real - real[0])).sum(axis=axes))
        return _ratio(apart, np.sqrt(np.square(real - real[0]).sum(axis=axes)), nothing=0.0)
