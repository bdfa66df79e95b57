"""The regime of validity of the kernel prediction: the steps up to which it is close to real training."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

LOSS_CLOSE = 0.05
"""Largest relative error of a training loss that counts as predicted."""
OUTPUTS_CLOSE = 0.1
"""Largest error of test outputs, relative to their change since the start, that counts as predicted."""
ANSWERS_CLOSE = 0.95
"""Smallest fraction of test examples with the same predicted class for which classes count as predicted."""


class Regime(NamedTuple):
    """Last recorded steps up to which the formula stays close to real training.

    Attributes:
      steps: number of steps of the whole training.
      loss: step up to which the training loss is within `LOSS_CLOSE`.
      outputs: step up to which test outputs are within `OUTPUTS_CLOSE` of their change; None without test examples.
      answers: step up to which at least `ANSWERS_CLOSE` of predicted classes are equal; None without test examples.
      largest_loss_error: largest error of the training loss over the whole training.
      last_loss_error, last_output_error, last_agreement: errors and agreement at its end.
    """

    steps: float
    loss: float
    outputs: float | None
    answers: float | None
    largest_loss_error: float
    last_loss_error: float
    last_output_error: float | None
    last_agreement: float | None

    @property
    def single_answers(self) -> float | None:
        """Step up to which both outputs and classes of individual test examples are predicted; None without test examples."""
        return None if self.outputs is None or self.answers is None else min(self.outputs, self.answers)

    @property
    def throughout(self) -> bool:
        """Whether everything compared is predicted up to the end."""
        return self.steps == min(self.loss, self.steps if self.single_answers is None else self.single_answers)

    def sentences(self) -> list[str]:
        """The regime in sentences: the measured errors, and for what the formula can be used."""
        end = f"{self.steps:g}"
        parts = [
            f"Training loss: within {_percent(LOSS_CLOSE)} of real training {_until(self.loss, end)}; at most {_percent(self.largest_loss_error)} off, "
            f"{_percent(self.last_loss_error)} at step {end}."
            if np.isfinite(self.largest_loss_error)
            else f"Training loss: within {_percent(LOSS_CLOSE)} of real training {_until(self.loss, end)}; later, one of the two is not finite."
        ]
        if self.single_answers is not None:
            parts += [
                f"Test outputs: within {_percent(OUTPUTS_CLOSE)} of their change since the start {_until(self.outputs, end)}; "
                f"{_percent(self.last_output_error)} off at step {end}.",
                f"Predicted classes: equal for at least {_percent(ANSWERS_CLOSE)} of the test images {_until(self.answers, end)}; "
                f"{_percent(self.last_agreement)} at step {end}.",
            ]
        return [*parts, self._conclusion()]

    def _conclusion(self) -> str:
        if self.throughout:
            what = "the training loss" if self.single_answers is None else "the loss and for individual predictions"
            return f"In this run the formula can be trusted throughout for {what}."
        parts = [] if self.single_answers is None else [f"for individual predictions up to step {self.single_answers:g}"]
        parts.append(f"for the {'loss' if parts else 'training loss'} up to step {self.loss:g}")
        return f"In this run the formula can be trusted {' and '.join(parts)}; after that, only its trend."


def regime(
    times: Float[np.ndarray, " t"],
    loss: Float[np.ndarray, " t"],
    outputs: Float[np.ndarray, " t"] | None = None,
    agreement: Float[np.ndarray, " t"] | None = None,
) -> Regime:
    """The regime from a `Discrepancy` at `times`: errors of `loss` and test `outputs`, and `agreement`."""
    return Regime(
        float(times[-1]),
        _last(times, loss <= LOSS_CLOSE),
        None if outputs is None else _last(times, outputs <= OUTPUTS_CLOSE),
        None if agreement is None else _last(times, agreement >= ANSWERS_CLOSE),
        float(loss.max()),
        float(loss[-1]),
        None if outputs is None else float(outputs[-1]),
        None if agreement is None else float(agreement[-1]),
    )


def _last(times: Float[np.ndarray, " t"], good: Bool[np.ndarray, " t"]) -> float:
    """The last time before the first that is not good; at least the start, where both curves agree."""
    return float(times[-1] if good.all() else times[max(int(good.argmin()) - 1, 0)])


def _until(step: float, end: str) -> str:
    return f"up to the end, step {end}" if f"{step:g}" == end else f"up to step {step:g}"


def _percent(value: float | None) -> str:
    return "infinitely" if value is None or not np.isfinite(value) else f"{round(100 * value, 2 if value < 0.01 else 1):g} %"
