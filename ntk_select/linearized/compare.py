"""Comparison of the kernel prediction, training of the linearised network, and real training: curves, errors, table and figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ntk_select._runtime.figures import file_content, format_of, literal, logarithmic, new_figure, whole_steps
from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Expert
from ntk_select.kernels.engine.arguments import read_two_sides
from ntk_select.linearized.network import NetworkKernel, linearize, network_kernel
from ntk_select.linearized.optimizers import Optimizer, Scalar, read_times
from ntk_select.linearized.predict import Prediction, predict
from ntk_select.linearized.problem import Batches, Examples, TestExamples, TestValues, Times, Values, host_only
from ntk_select.linearized.regime import Regime, regime
from ntk_select.linearized.train import Trajectory, train

TABLE_ROWS = 9
# Colours of Okabe & Ito 2008, distinguishable with colour blindness; line styles differ for print.
STYLES = {
    "real training": {"color": "black", "linewidth": 1.8},
    "formula": {"color": "#D55E00", "linewidth": 1.6, "linestyle": "--"},
    "linearised training": {"color": "#0072B2", "linestyle": "none", "marker": "o", "markersize": 4, "markerfacecolor": "none"},
}


class Discrepancy(NamedTuple):
    """Error of a curve relative to real training, at t times.

    Attributes:
      loss: |L - L_real| / L_real on the training examples.
      test_loss: the same on test examples.
      test_outputs: |f - f_real| / |f_real - f_0| on test examples; 1 is as wrong as no training at all.
      agreement: fraction of test examples with the same predicted class (largest output, or sign of a single output).
      distance: |w - w_0| relative to that of real training.

    Where real training overflowed, errors are infinite and predicted classes count as different.
    """

    loss: Float[np.ndarray, " t"]
    test_loss: Float[np.ndarray, " t"] | None
    test_outputs: Float[np.ndarray, " t"] | None
    agreement: Float[np.ndarray, " t"] | None
    distance: Float[np.ndarray, " t"]


class Comparison(NamedTuple):
    """Three curves at the same numbers of steps. The repr is a table of training losses and the steps up to which the formula can be
    trusted; `report(path)` draws a figure.

    Attributes:
      formula: curve predicted from the kernel.
      linear: training of fn_lin; None if not requested.
      real: training of the network itself, from the same start with the same batches.
      kernel: kernel used by the formula.
      targets, test_targets: as given.
    """

    formula: Prediction
    linear: Trajectory | None
    real: Trajectory
    kernel: NetworkKernel
    targets: Float[np.ndarray, "n ..."]
    test_targets: Float[np.ndarray, "n2 ..."] | None

    def __repr__(self):
        columns = {"steps": self.real.times, "formula": self.formula.train_losses}
        columns |= {} if self.linear is None else {"linearised": self.linear.train_losses}
        columns |= {"real": self.real.train_losses, "error": self.discrepancy().loss}
        rows = [list(columns), *([_cell(name, column[row]) for name, column in columns.items()] for row in table_rows(len(self.real.times)))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        test = "" if self.real.test_outputs is None else f", {self.real.test_outputs.shape[1]} test examples"
        head = f"Training loss of {len(self.targets)} examples{test}; error: of the formula, relative to real training"
        return "\n".join([head, *lines, *self.regime().sentences()])

    def report(self, path: str | Path, *, title: str = "", loss: str = "") -> Path:
        """Writes a figure of the curves: .png, .svg or .pdf.

        Args:
          path: path of the file.
          title: title of the figure.
          loss: name of the loss, for the axis label.

        Raises:
          ConfigError: another extension, or a path that cannot be written.
          MissingDependencyError: matplotlib is not installed.
        """
        from ntk_select._runtime.files import write_output

        path = Path(path).expanduser()
        return write_output(path, plot_curves(self, title=title, loss=loss, file_format=format_of(path)))

    def discrepancy(self, curve: str = "formula") -> Discrepancy:
        """Error of the "formula" or the "linear" training relative to real training; zero where neither has changed."""
        found = {"formula": self.formula, "linear": self.linear}.get(curve)
        if found is None:
            raise ConfigError(f"There is no curve {curve!r}. Allowed: 'formula', and 'linear' after compare_training(..., linear=True).")
        real, loss = self.real, _relative(found.train_losses, self.real.train_losses)
        test_loss = None if real.test_losses is None else _relative(found.test_losses, real.test_losses)
        distance = _ratio(found.distances, real.distances)
        if real.test_outputs is None:
            return Discrepancy(loss, test_loss, None, None, distance)
        with np.errstate(over="ignore", invalid="ignore"):
            change, real_change = (part.test_outputs - part.test_outputs[0] for part in (found, real))
            outputs = _ratio(_norms(change - real_change), _norms(real_change), both_zero=0.0)
        return Discrepancy(loss, test_loss, outputs, _agreement(found.test_outputs, real.test_outputs), distance)

    def regime(self) -> Regime:
        """The steps of this training up to which the formula can be trusted, for the loss and for individual predictions."""
        apart = self.discrepancy()
        return regime(self.real.times, apart.loss, apart.test_outputs, apart.agreement)

    def accuracy(self, curve: str = "real") -> Float[np.ndarray, " t"] | None:
        """Test accuracy of the "formula", "linear" or "real" training, 0 to 1; None without test targets."""
        found = {"formula": self.formula, "linear": self.linear, "real": self.real}.get(curve)
        if found is None:
            raise ConfigError(f"There is no curve {curve!r}. Allowed: 'formula', 'real', and 'linear' after compare_training(..., linear=True).")
        return None if self.test_targets is None else _agreement(found.test_outputs, self.test_targets[None])


@host_only
def compare_training(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Examples,
    targets: Values,
    *,
    lr: Scalar,
    steps: int | None = None,
    times: Times | None = None,
    optimizer: str = "gd",
    momentum: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    loss: str = "half_sum",
    params: Any = None,
    layers: Any = None,
    x_test: TestExamples | None = None,
    test_targets: TestValues | None = None,
    batches: Batches | None = None,
    kernel: NetworkKernel | None = None,
    linear: bool = True,
    batch_size: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Predicts a training from the kernel, carries it out, and compares both.

    Args:
      expert_or_fn, params, layers: as for `linearize`.
      x, targets, x_test, test_targets: as for `train`.
      lr, optimizer, momentum, weight_decay, loss, batches: as for `predict`, with a discrete optimiser, "gd" by default.
      steps, times: as for `train`; step 0 is always recorded.
      kernel: kernel of the same network and examples, from `network_kernel`; computed if None.
      linear: also train the linearised network, which checks the formula.
      batch_size: examples per pass.
      progress: called with (done, all, what).

    Returns:
      A `Comparison`: `formula`, `linear` and `real`, each with times, train_losses, train_outputs, distances and, with test
      examples, test_outputs and test_losses; the `kernel`; and the methods `discrepancy()`, `accuracy()` and `report("curves.png")`.

    Raises:
      ConfigError: as `predict` and `train`, or optimizer="flow".

    Cost: the kernel and two trainings; the linearised one costs about twice the real one.
    """
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    if not method.discrete:
        raise ConfigError("Real training takes discrete steps. Try: optimizer='gd', with a small lr to approximate the flow")
    when = np.union1d(0.0, read_times(method, times, steps))
    if kernel is not None and x_test is not None and kernel.cross_kernel is None:
        raise ConfigError("kernel= has no cross_kernel for x_test. Try: kernel=network_kernel(expert, x, x_test), or leave kernel out")
    x, x_test = read_two_sides(x, x_test)

    def named(what: str):
        return None if progress is None else lambda done, total, _: progress(done, total, what)

    def trained(network, what: str, **options):
        shared = {"x_test": x_test, "test_targets": test_targets, "loss": loss, "weight_decay": weight_decay, "batches": batches}
        return train(network, x, targets, method.to_optax(), times=when, batch_size=batch_size, progress=named(what), **shared, **options)

    real = trained(expert_or_fn, "real training", params=params, layers=layers)
    linearised = trained(linearize(expert_or_fn, params, layers=layers), "linearised training") if linear else None
    if kernel is None:
        kernel = network_kernel(expert_or_fn, x, x_test, params=params, layers=layers, batch_size=batch_size, progress=named("kernel"))
    options = {"lr": lr, "times": when, "optimizer": optimizer, "momentum": momentum, "weight_decay": weight_decay, "loss": loss, "batches": batches}
    if x_test is not None:
        options |= {"cross_kernel": kernel.cross_kernel, "test_outputs": real.test_outputs[0], "test_targets": test_targets}
    formula = predict(kernel.kernel, real.train_outputs[0], targets, **options)
    return Comparison(formula, linearised, real, kernel, np.asarray(targets), None if test_targets is None else np.asarray(test_targets))


def predicted_classes(outputs: Float[np.ndarray, "t n ..."]) -> Int[np.ndarray, "t n"]:
    """Predicted class of each example: the largest output, or the sign of a single output; -1 if outputs are not finite."""
    rows = outputs[..., None] if outputs.ndim == 2 else outputs
    found = (rows[..., 0] > 0).astype(int) if rows.shape[2] == 1 else rows.argmax(axis=2)
    return np.where(np.isfinite(rows).all(axis=2), found, -1)


def table_rows(count: int) -> Int[np.ndarray, " rows"]:
    """Indices of the times shown in a printed table, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, TABLE_ROWS).round().astype(int))


def _agreement(given: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Fraction of equal classes; -1 equals nothing."""
    given, real = predicted_classes(given), predicted_classes(real)
    return ((given == real) & (real >= 0)).mean(axis=1)


def _cell(name: str, value: float) -> str:
    if name == "error":
        return "0 %" if value < 1e-10 else f"{100 * value:.2g} %"
    return f"{value:g}" if name == "steps" else f"{value:.4g}"


def _relative(given: np.ndarray, real: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return _ratio(np.abs(given - real), np.abs(real), both_zero=0.0)


def _ratio(above: np.ndarray, below: np.ndarray, both_zero: float = 1.0) -> np.ndarray:
    """above / below; infinity if both overflowed."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where((above == 0) & (below == 0), both_zero, above / below)
    return np.where(np.isnan(ratio), np.inf, ratio)


def _norms(arrays: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(arrays).sum(axis=tuple(range(1, arrays.ndim))))


def plot_curves(found: Comparison, *, title: str = "", loss: str = "", file_format: str = "png") -> bytes:
    """Content of the file written by `Comparison.report`. Raises MissingDependencyError if matplotlib is not installed."""
    figure = new_figure(11, 7.4, "The figure of the curves")
    axes = figure.subplots(2, 2)
    curves = {"real training": found.real, "formula": found.formula, "linearised training": found.linear}

    def panel(axis, title: str, lines: dict, log: bool = False):
        """`lines`: label -> (values, style)."""
        lines = {label: line for label, line in lines.items() if line[0] is not None}
        for label, (values, style) in lines.items():
            axis.plot(found.real.times, np.where(np.isfinite(values), values, np.nan), label=label, **style)
        if log and any(np.nanmin(values) > 0 for values, _ in lines.values()):
            logarithmic(axis)
        axis.set_xlabel("steps", fontsize=9)
        whole_steps(axis)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)

    def of_curves(name: str) -> dict:
        return {label: (getattr(curve, name, None), STYLES[label]) for label, curve in curves.items()}

    panel(axes[0, 0], f"training loss ({loss})" if loss else "training loss", of_curves("train_losses"), log=True)
    if found.real.test_losses is None:
        axes[0, 1].set_axis_off()
    else:
        panel(axes[0, 1], "test loss", of_curves("test_losses"), log=True)
    apart = found.discrepancy()
    errors = {"training loss": apart.loss, "test loss": apart.test_loss, "test outputs": apart.test_outputs}
    errors["different predictions"] = None if apart.agreement is None else 1 - apart.agreement
    percent = [None if values is None else 100 * values for values in errors.values()]
    colours = ({"color": colour} for colour in ("#D55E00", "#CC79A7", "#009E73", "0.4"))
    panel(axes[1, 0], "error of the formula, relative to real training (%)", dict(zip(errors, zip(percent, colours, strict=True), strict=True)))
    axes[1, 0].set_ylim(bottom=0)
    axes[1, 0].legend(frameon=False, fontsize=9)
    panel(axes[1, 1], "distance of the weights from initialisation", of_curves("distances"))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(literal(title), fontsize=12)
    return file_content(figure, file_format)
