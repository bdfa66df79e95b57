"""`ntk-select finetune`: the accuracy of experts after fine-tuning on a task."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ntk_select._runtime.files import file_name
from ntk_select.cli.console import percent, print_json, print_line, print_table, print_text, progress_bar, remark
from ntk_select.cli.options import (
    TASK_KINDS,
    Flag,
    Json,
    Track,
    TrackUri,
    Zoo,
    check_writable,
    command_class,
    load_expert,
    numbers,
    repeated,
    split,
    tracker_of,
)
from ntk_select.errors import ConfigError, ModelError, NtkSelectError, explained, few

CHOSEN = {"validation": ("by validation", "validation %"), "paper": ("by test, as in the paper", "by rate, test %"), "given": ("given", "")}
"""How the learning rate was chosen, and the heading of the column of accuracies by rate."""
REFERENCE = "cifar10-resnet_small"
"""Expert of the built-in zoo; one fine-tuning of it is the unit of cost."""


@command_class
class Finetune:
    """Fine-tune experts on a task, by the paper's recipe, and test them."""

    expert: tuple[str, ...]
    """The experts, as the zoo names them, or timm:NAME."""
    task: Annotated[
        str, tyro.conf.arg(help=f"The task: {TASK_KINDS}. Without a test set a fifth of the images of each class is held out for testing.")
    ]
    zoo: Zoo = ("builtin",)
    shots: str = "full"
    """Training images per class, or full."""
    lr: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[STR [STR ...]]")] = None
    """Learning rates to try; by default 0.01, 0.005 and 0.001. Where the best is the largest or the smallest, up to four further ones are tried beyond it."""
    no_extend: Flag = False
    """Try only the given learning rates."""
    choose: Literal["validation", "paper"] = "validation"
    """How the learning rate is chosen: validation (on a fifth of the training images), or paper: on the test set, as in the paper, without further rates."""
    search: Literal["grid", "optuna"] = "grid"
    """grid tries the given learning rates; optuna also tries others around them."""
    trials: int = 10
    """Learning rates that Optuna tries."""
    epochs: int = 30
    """Passes over the training images; the learning rate is divided by ten at one half and five sixths."""
    batch_size: int = 32
    """Images per step."""
    augment: Literal["auto", "crop_flip", "crop", "flip", "none"] = "auto"
    """Augmentation; auto is crop_flip, or crop for digits and other tasks in which flips change the class."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Whether batch statistics are updated, or those of the expert are used."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds of head, order, augmentation and choice of images; one fine-tuning per seed."""
    reference: str | None = None
    """Expert whose fine-tuning with one learning rate is the unit of cost; of the built-in zoo cifar10-resnet_small."""
    checkpoints: Path | None = Path("runs/checkpoints")
    """Folder from which interrupted training resumes, and in which the next command finds finished training; None stores nothing."""
    out: Path | None = None
    """Folder for result.json and curves.png of each fine-tuning."""
    save_model: Path | None = None
    """Folder of experts to which the fine-tuned ones are added; of several seeds the first that succeeds."""
    replace: Flag = False
    """Overwrite experts of the same names in --save-model."""
    track: Track = None
    track_uri: TrackUri = None
    json: Json = False

    def run(self) -> int:
        """Fine-tunes, prints and saves. Returns 1 if an expert failed."""
        from ntk_select.data import load_task
        from ntk_select.training.finetuning import LEARNING_RATES, Recipe, finetune, save_expert, saved_name

        recipe = Recipe(epochs=self.epochs, batch_size=self.batch_size, augment=self.augment, batch_norm=self.batch_norm, precision=self.precision)
        rates, seeds = LEARNING_RATES if self.lr is None else numbers("--lr", self.lr, float), numbers("--seeds", self.seeds, int)
        shots = ["full"] if self.shots == "full" else numbers("--shots", [self.shots], int)
        if len(shots) > 1:
            raise ConfigError(f"--shots {self.shots!r} must be one number, or full.")
        for folder, option in ((self.out, "--out"), (self.save_model, "--save-model"), (self.checkpoints, "--checkpoints")):
            if folder is not None:
                check_writable(folder, option)
        experts = [load_expert(self.zoo, name) for name in dict.fromkeys(split(self.expert))]
        if not experts:
            raise ConfigError("--expert needs a name. Try: ntk-select zoo list")
        task = load_task(self.task)
        self._check_apart([expert.name for expert in experts])
        reference = self._reference()
        if self.save_model is not None and not self.replace:
            for name in (saved_name(expert.name, task.name) for expert in experts):
                if (self.save_model.expanduser() / name).exists():
                    raise ConfigError(f"{self.save_model} already contains an expert {name!r}. Try: another folder, or --replace")
        tracker = tracker_of(self.track, self.track_uri)
        results, failures, paths, saved = [], {}, [], set()
        for expert, seed in ((expert, seed) for expert in experts for seed in seeds):
            label = f"{expert.name}, seed {seed}"
            try:
                with progress_bar(f"fine-tuning {expert.name}") as progress, warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*There was no test set")  # reported by the notes of the results

                    def report(done: int, total: int, name: str, expert=expert, progress=progress) -> None:
                        progress(done, total, f"epochs{name.removeprefix(expert.name)}")  # the name may end in a rate beyond the grid

                    result = finetune(
                        expert,
                        task,
                        shots=shots[0],
                        learning_rates=rates,
                        extend=not self.no_extend,
                        choose=self.choose,
                        recipe=recipe,
                        search=self.search,
                        trials=self.trials,
                        seed=seed,
                        reference=reference,
                        checkpoints=self.checkpoints,
                        track=tracker,
                        progress=report,
                    )
            except Exception as error:  # an expert is foreign code: whatever it raises must not affect the others
                if isinstance(error, NtkSelectError) and not isinstance(error, ModelError) and not results:
                    raise  # the task or an option is wrong, for every expert
                failures[label] = explained(error)
                continue
            results.append(result)
            try:
                if self.out is not None:
                    paths += result.save(self.out / file_name(f"{expert.name}-seed{seed}"))
                if self.save_model is not None and expert.name not in saved:
                    saved.add(expert.name)
                    card = save_expert(result, expert, task, self.save_model, replace_existing=self.replace)
                    paths.append(self.save_model.expanduser() / card.name)
            except (NtkSelectError, OSError) as error:  # the numbers can still be printed
                failures[label] = f"The result could not be saved: {explained(error)}"
        if self.json:
            print_json({"results": [result.to_dict() for result in results], "failures": failures})
        else:
            print_results(results)
            if len(results) == 1 and self.save_model is None:
                print_line("Next, to save the fine-tuned expert: " + self._next(results[0].expert))
        if not failures and (self.save_model is not None or len(results) > 1):  # else the next command needs the checkpoints
            for result in results:
                result.delete_checkpoints()
        for path in paths:
            remark(f"wrote {path}")
        for name, error in failures.items():
            remark(f"{name} failed: {error}", "red")
        return 1 if failures else 0

    def _check_apart(self, names: Sequence[str]) -> None:
        """Raises ConfigError if two experts would be written to one folder, as some file systems understand its name."""
        folders = [file_name(name).casefold() for name in names]
        alike = [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]
        if alike and (self.out is not None or self.save_model is not None):
            raise ConfigError(f"--expert: {few(alike)} would be written to one folder. Try: a command for each, with another --out or --save-model")

    def _reference(self):
        if self.reference is not None:
            return load_expert(self.zoo, self.reference)
        return load_expert(("builtin",), REFERENCE) if split(self.zoo) == ["builtin"] else None

    def _next(self, expert: str) -> str:
        """The command that fine-tunes this expert again, from the checkpoints, and saves it."""
        return repeated(
            replace(self, expert=(expert,)),
            "--save-model",
            "my_zoo",
            without=("--out", "--save-model", "--replace", "--track", "--track-uri", "--json"),
        )


def print_results(results: Sequence) -> None:
    """Prints a table of fine-tunings and, for several seeds, their means."""
    if not results:
        return
    first, several = results[0], any(len(result.trials) > 1 for result in results)
    rows = [
        [
            result.expert,
            str(result.seed),
            percent(result.accuracy, 2),
            "{:.1f} to {:.1f}".format(*(100 * end for end in result.accuracy_interval)),
            percent(result.balanced_accuracy, 2),
            f"{result.learning_rate:g}",
            *([" ".join(f"{trial.learning_rate:g}:{_trial(trial)}" for trial in result.trials)] if several else []),
            "-" if result.images_per_second is None else f"{result.images_per_second:,.0f}",
            "-" if result.cost is None else f"{result.cost:.2f}",
            f"{sum(result.seconds.values()):.1f}",
        ]
        for result in results
    ]
    chosen, trials = CHOSEN[first.choose]
    shots = "all training images" if first.shots is None else f"{first.shots} images per class"
    title = f"{first.task}: {shots} ({first.train_images:,}), tested on {first.test_images:,}; learning rate {chosen}"
    numeric = ("seed", "accuracy", "95 %", "balanced", "rate", "images/s", "cost", "seconds")
    columns = ["expert", *numeric[:5], *([trials] if several else []), *numeric[5:]]
    print_table(title, columns, rows, right=numeric, optional=("images/s", "seconds", trials, "balanced", "cost"), sentences=(trials,))
    print_line(f"95 %: interval of the accuracy over the choice of the {first.test_images:,} test images, not of training images and seeds.")
    if first.choose == "validation":
        held_out = f"the fifth of the {first.train_images:,} images that was held out (at least one per class)"
        print_line(f"Validation %: accuracy by learning rate, on {held_out}.")
    elif first.choose == "paper":
        print_line(f"By rate, test %: accuracy by learning rate, on the {first.test_images:,} test images.")
    if any(result.cost is not None for result in results):
        print_line("Cost: work, in units of one fine-tuning of the reference expert on the same images with one learning rate.")
    for result in results:
        for note in result.notes:
            print_line(f"{result.expert}, seed {result.seed}: {note}" if len(results) > 1 else note)
    for name in dict.fromkeys(result.expert for result in results):
        values = [100 * result.accuracy for result in results if result.expert == name]
        if len(values) > 1:
            spread = statistics.stdev(values)
            print_text(f"{name}: {statistics.mean(values):.2f} % (standard deviation {spread:.2f} over {len(values)} seeds)")


def _trial(trial) -> str:
    return "diverged" if trial.diverged else "-" if trial.accuracy is None else f"{100 * trial.accuracy:.1f}"
