"""`ntk-select finetune`: the accuracy of experts after fine-tuning on a task."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

from rich.text import Text

from ntk_select._runtime.files import file_name
from ntk_select.cli.console import (
    Flag,
    check_writable,
    command,
    numbers,
    out,
    print_json,
    print_line,
    print_table,
    progress_bar,
    remark,
    split,
    zoo_option,
)
from ntk_select.cli.expert import load_expert
from ntk_select.errors import ConfigError, ModelError, NtkSelectError, explained

CHOSEN = {"validation": ("by validation", "validation %"), "paper": ("by test, as in the paper", "by rate, test %"), "given": ("given", "")}
"""Where the learning rate comes from, and the column of what each was judged by."""

REFERENCE = "cifar10-resnet_small"
"""Of the built-in zoo: one fine-tuning of it is the unit of cost."""


@dataclass(frozen=True)
class Finetune:
    """Fine-tune experts on a task, by the paper's recipe, and test them."""

    expert: tuple[str, ...]
    """The experts, as the zoo names them."""
    task: str
    """The task: digits, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive. Without a test set a fifth of
    the images of each class is kept for testing."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the experts are: builtin, folders of experts, or several of them."""
    shots: str = "full"
    """Training images of each class, or full."""
    lr: tuple[str, ...] = ("0.01", "0.005", "0.001")
    """Learning rates to try. Where the best is the largest or the smallest, up to four further ones are tried past it."""
    no_extend: Flag = field(default=False)
    """Try only the learning rates that are named."""
    choose: str = "validation"
    """What chooses the learning rate: validation (a fifth of the training images), or paper: the test set, as the paper did, without further rates."""
    search: str = "grid"
    """grid tries the learning rates that are named; optuna also others around them."""
    trials: int = 10
    """Learning rates that Optuna tries."""
    epochs: int = 30
    """Passes over the training images; the learning rate is divided by ten at one half and five sixths."""
    batch_size: int = 32
    """Images in a step."""
    augment: str = "auto"
    """crop_flip, crop, flip or none; auto is crop_flip, or crop for digits and other tasks that say that flips change the class."""
    batch_norm: str = "train"
    """train, or frozen."""
    precision: str = "float32"
    """float32, or bfloat16 for activations."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds of head, order, augmentation and choice of images; one fine-tuning each."""
    reference: str | None = None
    """Expert whose fine-tuning with one learning rate is the unit of cost; of the built-in zoo cifar10-resnet_small."""
    checkpoints: Path | None = Path("runs/checkpoints")
    """Folder from which interrupted training resumes, and in which the next command finds finished training; None keeps nothing."""
    out: Path | None = None
    """Folder for result.json and curves.png of each fine-tuning."""
    save_model: Path | None = None
    """Folder of experts to put the fine-tuned ones into; of several seeds the first that succeeds."""
    replace: Flag = field(default=False)
    """Write over experts of the same names in --save-model."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Fine-tunes, prints and saves. Returns 1 if an expert failed."""
        from ntk_select.data import load_task
        from ntk_select.models import open_zoo
        from ntk_select.training.finetuning import Recipe, finetune, keep, kept_name

        recipe = Recipe(epochs=self.epochs, batch_size=self.batch_size, augment=self.augment, batch_norm=self.batch_norm, precision=self.precision)
        rates, seeds = numbers("--lr", self.lr, float), numbers("--seeds", self.seeds, int)
        shots = ["full"] if self.shots == "full" else numbers("--shots", [self.shots], int)
        if len(shots) > 1:
            raise ConfigError(f"--shots {self.shots!r} must be one number, or full.")
        experts = [load_expert(open_zoo, self.zoo, name) for name in dict.fromkeys(split(self.expert))]
        if not experts:
            raise ConfigError("--expert needs a name. To see them type: ntk-select zoo list")
        task = load_task(self.task)
        reference = self._reference(open_zoo)
        for folder, option in ((self.out, "--out"), (self.save_model, "--save-model"), (self.checkpoints, "--checkpoints")):
            if folder is not None:
                check_writable(folder, option)
        if self.save_model is not None and not self.replace:
            for name in (kept_name(expert.name, task.name) for expert in experts):
                if (self.save_model.expanduser() / name).exists():
                    raise ConfigError(f"There is already an expert {name!r} in {self.save_model}. Give another folder, or replace it: --replace")
        results, failures, paths = [], {}, []
        for expert in experts:
            for seed in seeds:
                try:
                    with progress_bar(f"fine-tuning {expert.name}") as progress, warnings.catch_warnings():
                        warnings.filterwarnings("ignore", ".*There was no test set")  # the notes of the results say it
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
                            progress=partial(_report, progress, expert.name),
                        )
                except Exception as error:  # an expert is foreign code: whatever it raises must not cost the others
                    if isinstance(error, NtkSelectError) and not isinstance(error, ModelError) and not results:
                        raise  # the task or an option: no expert can do better
                    failures[f"{expert.name}, seed {seed}"] = explained(error)
                    continue
                results.append(result)
                try:
                    if self.out is not None:
                        paths += result.save(self.out / file_name(f"{expert.name}-seed{seed}"))
                    if self.save_model is not None and expert.name not in {result.expert for result in results[:-1]}:
                        card = keep(result, expert, task, self.save_model, replace_existing=self.replace)
                        paths.append(self.save_model.expanduser() / card.name)
                except (NtkSelectError, OSError) as error:  # its numbers are still there to be printed
                    failures[f"{expert.name}, seed {seed}"] = f"The result could not be saved: {explained(error)}"
        if self.json:
            print_json({"results": [result.to_dict() for result in results], "failures": failures})
        else:
            print_results(results)
            self._next(results)
        if not failures and (self.save_model is not None or len(results) > 1):  # else a repetition, or the next command, finds them
            for result in results:
                result.forget()
        for path in paths:
            remark(f"wrote {path}")
        for name, error in failures.items():
            remark(f"{name} failed: {error}", "red")
        return 1 if failures else 0

    def _reference(self, open_zoo):
        if self.reference is not None:
            return load_expert(open_zoo, self.zoo, self.reference)
        return load_expert(open_zoo, ("builtin",), REFERENCE) if split(self.zoo) == ["builtin"] else None

    def _next(self, results) -> None:
        if len(results) == 1 and self.save_model is None:
            words = ["--expert", results[0].expert, "--task", self.task, "--shots", self.shots, *self._options(), *zoo_option(self.zoo)]
            print_line("Next, to keep the fine-tuned expert: " + command("finetune", *words, "--save-model", "my_zoo"))

    def _options(self) -> list[str]:
        """The words for what differs from the defaults and decides the result, so that kept states are found again."""
        words = []
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in ("expert", "task", "zoo", "shots", "out", "save_model", "replace", "json") and value != each.default:
                values = [] if value is True else split(value) if isinstance(value, tuple) else [value]
                words += ["--" + each.name.replace("_", "-"), *map(str, values)]
        return words


def print_results(results: Sequence) -> None:
    """A table of fine-tunings, and of several seeds their means."""
    if not results:
        return
    first, several = results[0], any(len(result.trials) > 1 for result in results)
    rows = [
        [
            result.expert,
            str(result.seed),
            f"{100 * result.accuracy:.2f} %",
            "{:.1f} to {:.1f}".format(*(100 * end for end in result.accuracy_interval)),
            f"{100 * result.balanced_accuracy:.2f} %",
            f"{result.learning_rate:g}",
            *([" ".join(f"{trial.learning_rate:g}:{_trial(trial)}" for trial in result.trials)] if several else []),
            "-" if result.images_per_second is None else f"{result.images_per_second:,.0f}",
            "-" if result.cost is None else f"{result.cost:.2f}",
            f"{sum(result.seconds.values()):.1f}",
        ]
        for result in results
    ]
    shots = "all training images" if first.shots is None else f"{first.shots} images per class"
    title = f"{first.task}: {shots} ({first.train_images:,}), tested on {first.test_images:,}; learning rate {CHOSEN[first.choose][0]}"
    trials = CHOSEN[first.choose][1]
    columns = ["expert", "seed", "accuracy", "95 %", "balanced", "rate", *([trials] if several else []), "images/s", "cost", "seconds"]
    print_table(
        title,
        columns,
        rows,
        right=("seed", "accuracy", "95 %", "balanced", "rate", "images/s", "cost", "seconds"),
        optional=("images/s", "seconds", trials, "balanced", "cost"),
        sentences=(trials,),
    )
    _explain(results)
    for result in results:
        for note in result.notes:
            print_line(f"{result.expert}, seed {result.seed}: {note}" if len(results) > 1 else note)
    for name in dict.fromkeys(result.expert for result in results):
        values = [100 * result.accuracy for result in results if result.expert == name]
        if len(values) > 1:
            spread = statistics.stdev(values)
            out().print(Text(f"{name}: {statistics.mean(values):.2f} % (standard deviation {spread:.2f} over {len(values)} seeds)"))


def _explain(results: Sequence) -> None:
    """What the columns of the table mean whose headings are too short to say it."""
    first = results[0]
    said = [f"95 %: interval of the accuracy over the choice of the {first.test_images:,} test images, not of training images and seeds"]
    if first.choose == "validation":
        said.append(
            f"validation %: accuracy by learning rate, on the fifth of the {first.train_images:,} images that was held out (one a class at least)"
        )
    elif first.choose == "paper":
        said.append(f"by rate, test %: accuracy by learning rate, on the {first.test_images:,} test images")
    if any(result.cost is not None for result in results):
        said.append("cost: work, in units of one fine-tuning of the reference expert on the same images with one learning rate")
    for line in said:
        print_line(f"{line[0].upper()}{line[1:]}.")


def _report(progress, expert: str, done: int, total: int, name: str) -> None:
    """Says of the bar that it counts epochs; `finetune` adds to the name of the expert the rate that is beyond the grid."""
    progress(done, total, f"epochs{name.removeprefix(expert)}")


def _trial(trial) -> str:
    return "diverged" if trial.diverged else "-" if trial.accuracy is None else f"{100 * trial.accuracy:.1f}"
