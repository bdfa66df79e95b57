"""One experiment: a fine-tuning as the kernel predicts it, the fine-tuning itself, and a JSON-ready record of both."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Expert
from ntk_select.linearized.compare import Comparison, compare_training
from ntk_select.linearized.losses import CROSS_ENTROPY, check_loss, loss_gradient
from ntk_select.linearized.network import network_kernel
from ntk_select.linearized.optimizers import Optimizer
from ntk_select.linearized.regime import ANSWERS_CLOSE, LOSS_CLOSE, OUTPUTS_CLOSE
from ntk_select.linearized.stability import default_lr, max_stable_lr
from ntk_select.linearized.theory import generalization_score, initial_speed, label_spectrum, speed_bound

RECORDS = 24
"""Number of steps, spaced logarithmically, after which outputs are recorded."""


class Experiment(NamedTuple):
    """Result of `run_experiment`.

    Attributes:
      comparison: predicted and real curves.
      optimizer: optimiser with the learning rate that was used.
      loss: name of the loss.
      largest_stable_lr: largest stable learning rate of the linearised network; None where it is unknown (cross-entropy) or was not needed.
      full_batch: whether each step used all training images.
    """

    comparison: Comparison
    optimizer: Optimizer
    loss: str
    largest_stable_lr: float | None
    full_batch: bool

    @property
    def first_step(self) -> float:
        """Length of the first step in units of the gradient; Nesterov's method takes a longer one."""
        return self.optimizer.lr * (1 + self.optimizer.momentum if self.optimizer.optimizer == "nesterov" else 1)

    def curves(self) -> dict[str, list[float | None]]:
        """Columns by name, one value per recorded step; None for a value that overflowed."""
        found, real, formula = self.comparison, self.comparison.real, self.comparison.formula
        apart = found.discrepancy()
        curves = {"step": real.times, "loss_formula": formula.train_losses, "loss_real": real.train_losses, "loss_error": apart.loss}
        if found.linear is not None:
            curves |= {"loss_linear": found.linear.train_losses, "linear_error": found.discrepancy("linear").loss}
        if real.test_losses is not None:
            curves |= {"test_loss_formula": formula.test_losses, "test_loss_real": real.test_losses, "test_loss_error": apart.test_loss}
            curves |= {"test_output_error": apart.test_outputs, "agreement": apart.agreement}
            curves |= {"accuracy_formula": found.accuracy("formula"), "accuracy_real": found.accuracy("real")}
        curves |= {"distance_formula": formula.distances, "distance_real": real.distances}
        return {name: [_finite(value) for value in values] for name, values in curves.items()}

    def regime(self) -> dict[str, Any]:
        """Steps up to which the prediction can be trusted (`Comparison.regime`), the thresholds, and the same in sentences."""
        regime = self.comparison.regime()
        values = {name: None if value is None else _finite(value) for name, value in regime._asdict().items()}
        close = {"loss_close": LOSS_CLOSE, "outputs_close": OUTPUTS_CLOSE, "answers_close": ANSWERS_CLOSE}
        return values | close | {"throughout": regime.throughout, "sentences": regime.sentences()}

    def theory(self) -> dict[str, float | None]:
        """Equations 3 to 5 of the paper for this training: initial speed, predicted and measured; generalisation score; speed bound."""
        found = self.comparison
        start, theta, real = found.formula.train_outputs[0], found.kernel.kernel, found.real
        residual = found.targets - start
        numbers = {"speed": initial_speed(theta, loss_gradient(self.loss, start, found.targets))}
        if 1 in real.times and self.full_batch:
            first = int(np.flatnonzero(real.times == 1)[0])
            numbers["measured_speed"] = _finite((real.train_losses[0] - real.train_losses[first]) / self.first_step)
        if not callable(theta) and theta.any():
            score, bound = generalization_score(theta, found.targets), speed_bound(theta, residual)
            numbers |= {"generalization": score.value, "generalization_bound": score.bound, "ridge": score.ridge}
            numbers |= {"quadratic_form": bound.speed, "quadratic_form_bound": bound.bound}
            if residual.any():
                spectrum = label_spectrum(theta, residual)
                numbers["residual_in_first_10"] = float(spectrum.cumulative[min(9, len(spectrum.values) - 1)])
        return numbers


def run_experiment(
    expert: Expert,
    x: Float[np.ndarray, "n ..."],
    targets: Float[np.ndarray, "n ..."],
    *,
    optimizer: str = "gd",
    lr: float | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loss: str = "mean",
    steps: int = 50,
    layers: Any = "all",
    outputs: str = "full",
    method: str = "auto",
    memory_gb: float | None = None,
    x_test: Float[np.ndarray, "n2 ..."] | None = None,
    test_targets: Float[np.ndarray, "n2 ..."] | None = None,
    batches: Any = None,
    linear: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Experiment:
    """Computes the kernel, chooses a learning rate where none is given, and compares predicted with real training.

    Args:
      expert: expert with the head that is to be trained.
      lr: learning rate. None: `default_lr`, 0.1 x the largest stable learning rate of the linearised network, for squared losses only.
      steps: number of steps of training; outputs are recorded after 0, ..., `steps` of them, spaced logarithmically.
      layers, outputs, method, memory_gb: as for `network_kernel`.
      x, targets, optimizer, momentum, weight_decay, loss, x_test, test_targets, batches, linear, progress: as for `compare_training`;
        by default "gd" and "mean".

    Raises:
      ConfigError: as `network_kernel` and `compare_training`; or no learning rate is given and the kernel is zero, or the loss
        is a cross-entropy.

    Cost: that of `network_kernel` and `compare_training`.
    """
    check_loss(loss)
    rule = Optimizer(optimizer, 1.0 if lr is None else lr, momentum, weight_decay)
    if lr is None and loss in CROSS_ENTROPY:
        raise ConfigError("A largest stable learning rate is known for squared losses only. Try: lr=0.01")

    def in_kernel(done: int, total: int, _: str) -> None:
        progress(done, total, "kernel")

    kernel = network_kernel(
        expert,
        x,
        x_test,
        layers=layers,
        outputs=outputs,
        method=method,
        memory_gb=memory_gb,
        progress=None if progress is None else in_kernel,
    )
    options = {"optimizer": optimizer, "momentum": momentum, "weight_decay": weight_decay, "loss": loss}
    stable = None
    if loss not in CROSS_ENTROPY and (kernel.method == "dense" or lr is None):
        stable = max_stable_lr(kernel.kernel, shape=targets.shape, **options)
    if lr is None:
        lr = default_lr(stable)
    times = np.unique(np.rint(np.concatenate([[0, steps], np.geomspace(1, max(steps, 1), RECORDS)]))) if steps else [0]
    test = {"x_test": x_test, "test_targets": test_targets}
    found = compare_training(
        expert, x, targets, lr=lr, times=times, layers=layers, batches=batches, kernel=kernel, linear=linear, progress=progress, **test, **options
    )
    return Experiment(found, replace(rule, lr=lr), loss, stable, batches is None)


def _finite(value) -> float | None:
    """A number that JSON has; None for one that overflowed."""
    return float(value) if np.isfinite(value) else None
