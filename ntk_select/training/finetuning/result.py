"""The result of a fine-tuning."""

import contextlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ntk_select._runtime.figures import format_of
from ntk_select.evaluate.intervals import wilson
from ntk_select.experts.expert import Expert

from .recipe import Recipe


@dataclass(frozen=True)
class Trial:
    """One learning rate.

    Args:
      learning_rate: of the first epochs.
      accuracy, loss: top-1 and cross-entropy by which it was judged; None where nothing was held out, or when it diverged.
      losses: mean training loss of each epoch.
      diverged: what was said when it did.
    """

    learning_rate: float
    accuracy: float | None
    loss: float | None
    losses: tuple[float, ...]
    diverged: str | None = None


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """What came out of `finetune`.

    Attributes:
      expert, task: names.
      shots: training images of each class, at most; None for all.
      seed, sample_seed: of the training; of the choice of images.
      train_images, test_images: numbers of images.
      learning_rate: that was chosen.
      choose: "validation", "paper" (the test set), or "given" where there was nothing to choose.
      accuracy, balanced_accuracy: top-1 on the whole test set, 0 .. 1, and its mean over classes.
      per_class: test accuracy of each class by name; None for classes without test images.
      test_loss: mean cross-entropy on the test set.
      losses: mean training loss of each epoch of the training that was tested.
      trials: one for each learning rate.
      images: seen in all trainings, each as often as it was seen.
      seconds: spent to "read" images, "compile", "train" and "evaluate".
      images_per_second: in training, compilation left out; None where everything was taken up again finished.
      flops: of all trainings, by convolutions and matrix products.
      cost: `flops` in units of one training of the reference expert on the same images with one learning rate; None without a reference.
      recipe: of the training.
      tuned: the fine-tuned expert, ready to be used.
      checkpoints: folders by which the same call would resume, or be done at once.
      extended: learning rates that were tried besides the given ones, whose best was the largest or the smallest.
      edge: "largest" or "smallest" if the best of the rates that were tried is still that one; None if it is between others.
      test_split: how the test images were chosen of a task that had no test set; else None.
    """

    expert: str
    task: str
    shots: int | None
    seed: int
    sample_seed: int
    train_images: int
    test_images: int
    learning_rate: float
    choose: str
    accuracy: float
    balanced_accuracy: float
    per_class: dict[str, float | None]
    test_loss: float
    losses: tuple[float, ...]
    trials: tuple[Trial, ...]
    images: int
    seconds: dict[str, float]
    images_per_second: float | None
    flops: float
    cost: float | None
    recipe: Recipe
    tuned: Expert = field(repr=False)
    checkpoints: tuple[Path, ...] = ()
    extended: tuple[float, ...] = ()
    edge: str | None = None
    test_split: str | None = None

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy` over the choice of the test images (Wilson). It covers neither the training images nor the seed."""
        return wilson(self.accuracy, self.test_images)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the test images and of the choice of the learning rate, in sentences."""
        said = [] if self.test_split is None else [self.test_split]
        if self.extended:
            given = [trial.learning_rate for trial in self.trials if trial.learning_rate not in self.extended]
            end = f"largest, {max(given):g}" if self.extended[0] > max(given) else f"smallest, {min(given):g}"
            said.append(f"The best of the given learning rates was the {end}; also tried: {', '.join(f'{rate:g}' for rate in self.extended)}.")
        if self.edge is not None:
            rates = [trial.learning_rate for trial in self.trials]
            end, other = (max(rates), "larger") if self.edge == "largest" else (min(rates), "smaller")
            said.append(f"The best learning rate, {end:g}, is the {self.edge} that was tried; a {other} one may be better.")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the expert itself, as JSON can hold it."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("tuned", "recipe", "trials", "checkpoints")}
        record |= dict(zip(("accuracy_low", "accuracy_high"), self.accuracy_interval, strict=True))
        record["seconds"] = {step: round(value, 3) for step, value in self.seconds.items()}
        lists = {"losses": list(self.losses), "extended": list(self.extended), "notes": list(self.notes)}
        return {**record, **lists, "trials": [asdict(trial) for trial in self.trials], "recipe": asdict(self.recipe)}

    def save(self, folder: str | Path) -> list[Path]:
        """Writes result.json, and curves.png if matplotlib is installed; returns their paths.

        Raises:
          ConfigError: the folder cannot be written.
        """
        from ntk_select._runtime.files import write_output

        folder = Path(folder).expanduser()
        paths = [write_output(folder / "result.json", (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())]
        with contextlib.suppress(ImportError):
            paths.append(self.report(folder / "curves.png"))
        return paths

    def forget(self) -> None:
        """Deletes the checkpoints of this fine-tuning."""
        for folder in self.checkpoints:
            shutil.rmtree(folder, ignore_errors=True)

    def report(self, path: str | Path) -> Path:
        """Writes the training losses of all learning rates as a figure: .png, .svg or .pdf. Raises ConfigError for another ending."""
        from ntk_select._runtime.files import write_output

        from .plot import figure_bytes

        path = Path(path).expanduser()
        return write_output(path, figure_bytes(self, format_of(path)))

    def __repr__(self):
        how = {"validation": "chosen on validation", "paper": "chosen on test, as in the paper", "given": "given"}[self.choose]
        low, high = self.accuracy_interval
        lines = [
            f"{self.expert} on {self.task}: {100 * self.accuracy:.1f} % of {self.test_images:,} test images (95 %: {100 * low:.1f} to "
            f"{100 * high:.1f}; balanced {100 * self.balanced_accuracy:.1f} %), from {self.train_images:,} training images",
            f"learning rate {self.learning_rate:g} ({how}); {self.recipe.epochs} epochs, seed {self.seed}; {_told(self)}",
        ]
        for trial in self.trials:
            outcome = trial.diverged or ("" if trial.accuracy is None else f"{100 * trial.accuracy:.1f} %, loss {trial.loss:.3f}")
            lines.append(f"  {trial.learning_rate:<8g} {outcome or f'training loss {trial.losses[-1]:.3f}'}")
        return "\n".join([*lines, *self.notes])


def _told(result: FinetuneResult) -> str:
    spent = sum(result.seconds.values())
    speed = "" if result.images_per_second is None else f", {result.images_per_second:,.0f} images/s"
    cost = "" if result.cost is None or math.isnan(result.cost) else f", {result.cost:.2f} reference fine-tunes"
    return f"{spent:.1f} s{speed}{cost}"
