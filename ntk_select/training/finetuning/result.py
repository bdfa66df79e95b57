"""The result of a fine-tuning: its report, figure and files, and the fine-tuned network as an expert of a zoo."""

import contextlib
import json
import math
import shutil
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ntk_select._runtime.figures import file_content, format_of, literal, logarithmic, new_figure, whole_steps
from ntk_select._runtime.files import file_name, write_output
from ntk_select.errors import ModelError
from ntk_select.evaluate.intervals import wilson
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert
from ntk_select.experts.new_head import has_new_head, in_place
from ntk_select.tasks.task import Task
from ntk_select.training.finetuning.recipe import Recipe, training_images


@dataclass(frozen=True)
class Trial:
    """One learning rate of a search.

    Args:
      learning_rate: initial learning rate, before any decay.
      accuracy, loss: top-1 accuracy and cross-entropy used to choose among rates; None if nothing was held out, or training diverged.
      losses: mean training loss of each epoch.
      diverged: the message of the divergence; None if training did not diverge.
    """

    learning_rate: float
    accuracy: float | None
    loss: float | None
    losses: tuple[float, ...]
    diverged: str | None = None


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """The result of `finetune`. Its repr is a short report; `report(path)` draws the training losses.

    Attributes:
      expert, task: names.
      shots: training images per class, at most; None for all.
      seed, sample_seed: seeds of the training, and of the choice of training images.
      train_images, test_images: numbers of images.
      learning_rate: chosen learning rate, before any decay.
      choose: "validation", "paper" (chosen on the test set), or "given" for a single learning rate.
      accuracy, balanced_accuracy: top-1 accuracy on the whole test set, 0 to 1, over images and averaged over classes.
      per_class: test accuracy of each class by name; None for classes without test images.
      test_loss: mean cross-entropy on the test set, in nats.
      losses: mean training loss of each epoch, of the network that was tested.
      trials: one per learning rate.
      images: number of images seen in all trainings, counted with repetition.
      seconds: time spent to "read" images, "compile", "train" and "evaluate".
      images_per_second: speed of training, without compilation; None if all trainings were restored from checkpoints.
      flops: operations of all trainings, counting convolutions and matrix products.
      cost: `flops` in units of one training of the reference expert on the same images at one learning rate; None without a reference.
      recipe: recipe of the training.
      tuned: the fine-tuned expert, ready for use.
      checkpoints: folders from which the same call resumes.
      extended: learning rates tried past the end of the given ones.
      edge: "largest" or "smallest" if the best learning rate is at that end of all that were tried; otherwise None.
      test_split: how test images were split off, for a task without a test set; otherwise None.
      copies: remark on copies of training images among test or validation images; None if there are none.
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
    copies: str | None = None

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of `accuracy` over the choice of test images. It does not cover the choice of training images or the seed."""
        return wilson(self.accuracy, self.test_images)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the test images and on the choice of the learning rate, in sentences."""
        remarks = [] if self.test_split is None else [self.test_split]
        if self.extended:
            given = [trial.learning_rate for trial in self.trials if trial.learning_rate not in self.extended]
            end = f"largest, {max(given):g}" if self.extended[0] > max(given) else f"smallest, {min(given):g}"
            remarks.append(f"The best of the given learning rates was the {end}; also tried: {', '.join(f'{rate:g}' for rate in self.extended)}.")
        if self.edge is not None:
            rates = [trial.learning_rate for trial in self.trials]
            end, other = (max(rates), "larger") if self.edge == "largest" else (min(rates), "smaller")
            remarks.append(f"The best learning rate, {end:g}, is the {self.edge} that was tried; a {other} one may be better.")
        if self.copies is not None:
            remarks.append(self.copies)
        return tuple(remarks)

    def to_dict(self) -> dict[str, Any]:
        """Everything except the expert and the checkpoints, as JSON types."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("tuned", "recipe", "trials", "checkpoints")}
        record |= dict(zip(("accuracy_low", "accuracy_high"), self.accuracy_interval, strict=True))
        record["seconds"] = {step: round(value, 3) for step, value in self.seconds.items()}
        lists = {"losses": list(self.losses), "extended": list(self.extended), "notes": list(self.notes)}
        return {**record, **lists, "trials": [asdict(trial) for trial in self.trials], "recipe": asdict(self.recipe)}

    def save(self, folder: str | Path) -> list[Path]:
        """Writes result.json, and curves.png if matplotlib is installed. Returns their paths.

        Raises:
          ConfigError: the folder cannot be written.
        """
        folder = Path(folder).expanduser()
        paths = [write_output(folder / "result.json", (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())]
        with contextlib.suppress(ImportError):
            paths.append(self.report(folder / "curves.png"))
        return paths

    def delete_checkpoints(self) -> None:
        """Deletes the checkpoints of this fine-tuning."""
        for folder in self.checkpoints:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Deprecated name of `delete_checkpoints`."""
        warnings.warn("FinetuneResult.forget is deprecated. Try: FinetuneResult.delete_checkpoints", DeprecationWarning, stacklevel=2)
        self.delete_checkpoints()

    def report(self, path: str | Path) -> Path:
        """Writes a figure of the training losses at all learning rates, that of the tested network in bold: .png, .svg or .pdf.

        Raises:
          ConfigError: another extension, or a path that cannot be written.
          MissingDependencyError: matplotlib is not installed.
        """
        path = Path(path).expanduser()
        file_format = format_of(path)
        figure = new_figure(6, 4, "A figure of a fine-tuning")
        axes = figure.add_subplot()
        for trial in self.trials:
            if trial.losses:
                outcome = " (diverged)" if trial.diverged else "" if trial.accuracy is None else f": {100 * trial.accuracy:.1f} %"
                axes.plot(range(1, len(trial.losses) + 1), trial.losses, lw=1, label=f"{trial.learning_rate:g}{outcome}")
        label = f"{self.learning_rate:g}, tested: {100 * self.accuracy:.1f} %"
        axes.plot(range(1, len(self.losses) + 1), self.losses, color="black", lw=2, label=label)
        for epoch in self.recipe.decays:
            axes.axvline(epoch + 0.5, color="0.8", lw=1, zorder=0)
        if any(loss > 0 for losses in (self.losses, *(trial.losses for trial in self.trials)) for loss in losses):
            logarithmic(axes)
        whole_steps(axes)
        axes.set(xlabel="epoch", ylabel="training loss", title=literal(f"{self.expert} on {self.task}"))
        axes.legend(title="learning rate", frameon=False)
        return write_output(path, file_content(figure, file_format))

    def __repr__(self):
        how = {"validation": "chosen on validation", "paper": "chosen on test, as in the paper", "given": "given"}[self.choose]
        low, high = self.accuracy_interval
        lines = [
            f"{self.expert} on {self.task}: {100 * self.accuracy:.1f} % of {self.test_images:,} test images (95 %: {100 * low:.1f} to "
            f"{100 * high:.1f}; balanced {100 * self.balanced_accuracy:.1f} %), from {self.train_images:,} training images",
            f"learning rate {self.learning_rate:g} ({how}); {self.recipe.epochs} epochs, seed {self.seed}; {self._effort()}",
        ]
        for trial in self.trials:
            outcome = trial.diverged or ("" if trial.accuracy is None else f"{100 * trial.accuracy:.1f} %, loss {trial.loss:.3f}")
            lines.append(f"  {trial.learning_rate:<8g} {outcome or f'training loss {trial.losses[-1]:.3f}'}")
        return "\n".join([*lines, *self.notes])

    def _effort(self) -> str:
        speed = "" if self.images_per_second is None else f", {self.images_per_second:,.0f} images/s"
        cost = "" if self.cost is None or math.isnan(self.cost) else f", {self.cost:.2f} reference fine-tunes"
        return f"{sum(self.seconds.values()):.1f} s{speed}{cost}"


def saved_name(expert: str, task: str) -> str:
    """Name of the expert that `save_expert` writes."""
    return file_name(f"{expert}-on-{task}")


def save_expert(result: FinetuneResult, original: Expert, task: Task, folder: str | Path, *, replace_existing: bool = False) -> Card:
    """Writes the fine-tuned network as a new expert below `folder`, for `open_zoo` and `rank`.

    Args:
      result: result of fine-tuning `original` on `task`.
      original: original expert, with a card that names its architecture.
      folder: folder of experts; the new one is EXPERT-on-TASK.
      replace_existing: overwrite an expert of this name.

    Returns:
      The card of the new expert.

    Raises:
      ModelError: the original has no card or no head, or has a new head itself; an expert of this name exists; or the result is of
        another expert or task.
    """
    from ntk_select.models.expert_folder import flatten, unflatten, write_expert

    if original.card is None:
        raise ModelError(f"Expert {original.name!r} has no card that names its architecture, so it cannot be saved as an expert.")
    if (result.expert, result.task) != (original.name, task.name):
        raise ModelError(f"The result is of {result.expert!r} on {result.task!r}, not of {original.name!r} on {task.name!r}.")
    if has_new_head(original):
        raise ModelError(
            f"Expert {original.name!r} has a new head, so its card no longer describes it. "
            "Try: save the first fine-tuning, and fine-tune the expert that open_zoo returns"
        )
    task = task if result.test_split is None else task.with_test_split()
    indices = training_images(task, result.shots, result.sample_seed)
    name = saved_name(original.name, task.name)
    card = replace(
        original.card,
        name=name,
        source=task.name,
        num_classes=task.num_classes,
        class_names=task.class_names,
        class_counts=tuple(np.bincount(task.labels[indices], minlength=task.num_classes).tolist()),
        num_images=result.train_images,
        test_accuracy=round(result.accuracy, 5),
        initialised_from=original.name,
        licence=f"weights as of {original.name}; images: {task.licence or 'unknown'}",
        num_parameters=result.tuned.num_params,
        origin=None,
        training={"fine_tuned": True, "seed": result.seed, "shots": result.shots, "learning_rate": result.learning_rate, **asdict(result.recipe)},
    )
    tensors = flatten(in_place(result.tuned, original))
    variables = unflatten(
        {key: value for key, value in tensors.items() if np.asarray(value).dtype.kind == "f"}
    )  # without counters of PyTorch's batch norm
    return write_expert(Path(folder).expanduser() / name, variables, card, replace_existing=replace_existing)
