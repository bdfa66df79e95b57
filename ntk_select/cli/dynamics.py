"""`ntk-select dynamics`: a fine-tuning as the kernel predicts it, compared with the fine-tuning itself."""

import csv
import dataclasses
import io
import json
import math
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ntk_select._runtime.files import write_output
from ntk_select.cli.console import percent, print_json, print_line, print_table, progress_bar, remark, saving
from ntk_select.cli.options import Flag, Json, TaskUri, Zoo, check_writable, command_class, load_expert, repeated
from ntk_select.errors import ConfigError, MissingDependencyError

MAX_STEPS = 10**9
NOT_SETTINGS = ("expert", "task", "linear", "explain", "memory_gb", "out", "json")
"""Options that are recorded elsewhere, or do not affect the curves."""
TABLE = {
    "step": "step",
    "loss_formula": "loss: formula",
    "loss_linear": "linearised",
    "loss_real": "real",
    "loss_error": "error",
    "test_output_error": "test outputs: error",
    "agreement": "same classes",
    "accuracy_formula": "accuracy: formula",
    "accuracy_real": "accuracy: real",
}
"""Columns of the printed table: curve -> heading."""


@command_class
class Dynamics:
    """Predict the fine-tuning of one expert from its kernel, fine-tune it, and compare the curves."""

    expert: str
    """The expert, as the zoo names it, or timm:NAME."""
    task: TaskUri
    zoo: Zoo = ("builtin",)
    lr: float | None = None
    """Learning rate. Default: 0.1 x the largest stable learning rate of the linearised network."""
    steps: int = 50
    """Steps of training."""
    optimizer: Literal["gd", "momentum", "nesterov"] = "gd"
    """Optimiser."""
    momentum: float | None = None
    """Momentum of the last two; 0.9 by default."""
    weight_decay: float = 0.0
    """Decay towards the pre-trained weights."""
    loss: Literal["mean", "half_sum", "sum", "cross_entropy", "cross_entropy_sum"] = "mean"
    """Loss; the first three are of squares."""
    layers: str = "all"
    """Parameters that are fine-tuned: all, last_conv, ^head/, or another regular expression over their paths."""
    head: Literal["random", "zero"] = "random"
    """Initialisation of the new head."""
    encoding: Literal["onehot", "pm1"] = "onehot"
    """onehot: one output per class; pm1: for two classes, one output of -1 and +1, as in the paper's binary case."""
    outputs: Literal["full", "trace"] = "full"
    """full: the exact kernel; trace: its mean over the outputs, used for each of them."""
    method: Literal["auto", "dense", "matrix-free"] = "auto"
    """dense, matrix-free, or auto for the cheaper one."""
    per_class: int = 10
    """Training images per class, at most."""
    test: int = 100
    """Test images, at most."""
    batch: int | None = None
    """Images per mini-batch; by default each step uses all images."""
    seed: int = 0
    """Seed of the images, the head and the mini-batches."""
    linear: bool = True
    """Also train the linearised network, which the formula should match up to rounding."""
    explain: Flag = False
    """Also report, layer by layer, how much of the kernel is explained by the feature kernel and other simpler ones (appendix A)."""
    memory_gb: float | None = None
    """Memory that the kernel may use; by default half of what is free."""
    out: Path | None = None
    """Folder for the figure (dynamics.png), the table (dynamics.csv) and the full record (dynamics.json)."""
    json: Json = False

    def run(self) -> int:
        """Predicts, trains, prints and saves."""
        import numpy as np

        from ntk_select.data import load_task
        from ntk_select.experts.new_head import with_new_head
        from ntk_select.linearized import draw_batches, layer_factors
        from ntk_select.linearized.experiment import run_experiment
        from ntk_select.tasks.probe_sample import probe_sample

        began = time.perf_counter()
        momentum = _check(self)
        if self.out is not None:
            check_writable(self.out)
        task, source = load_task(self.task), load_expert(self.zoo, self.expert)
        sample = probe_sample(task, per_class=self.per_class, seed=self.seed)
        y = self._targets(sample.labels, len(sample.class_names))
        expert = with_new_head(source, y.shape[1], head=self.head, seed=self.seed)
        x = np.asarray(expert.preprocess(sample.images))
        x_test, y_test = self._test_images(task, expert, sample)
        if self.batch is not None and not 1 <= self.batch <= len(x):
            raise ConfigError(f"--batch {self.batch} must be a whole number from 1 to the {len(x)} training images.")
        with progress_bar("dynamics") as progress:
            found = run_experiment(
                expert,
                x,
                y,
                x_test=x_test,
                test_targets=y_test,
                batches=None if self.batch is None else draw_batches(len(x), self.batch, self.steps, self.seed),
                momentum=momentum,
                progress=progress,
                **{
                    name: getattr(self, name)
                    for name in ("optimizer", "lr", "weight_decay", "loss", "steps", "layers", "outputs", "method", "memory_gb", "linear")
                },
            )
        record = _record(self, found, task, len(x), 0 if x_test is None else len(x_test))
        if self.explain:
            record["layers"] = [layer._asdict() for layer in layer_factors(expert, x, layers=self.layers, memory_gb=self.memory_gb)]
        files = [] if self.out is None else saving("The curves", lambda: _save(self.out.expanduser(), found, record))
        if self.json:
            print_json(record | {"files": [str(path) for path in files or ()]})
        else:
            _print(self, record, found.first_step, time.perf_counter() - began)
            print_line(f"The files are in {self.out.expanduser()}" if files else "Next: " + repeated(self, "--out", "runs/dynamics"))
        return 1 if files is None else 0

    def _targets(self, labels, classes: int):
        """(n, c), where c is 1 for the encoding -1 and +1."""
        from ntk_select.linearized.losses import targets

        return targets(labels, classes, encoding=self.encoding).reshape(len(labels), -1)

    def _test_images(self, task, expert, sample) -> tuple:
        """Inputs and targets of test images whose classes are among the training classes, sampled by the seed; (None, None) without any."""
        import numpy as np

        from ntk_select.tasks.probe_sample import further_sample

        if task.test_images is None or not self.test:
            return None, None
        more = further_sample(task, sample, most=self.test, seed=[self.seed, 1], test=True)
        if not len(more):
            return None, None
        return np.asarray(expert.preprocess(more.images)), self._targets(more.labels, len(more.class_names))


def _check(command: Dynamics) -> float:
    """Raises ConfigError before any computation for invalid options. Returns the momentum."""
    from ntk_select.linearized.losses import CROSS_ENTROPY
    from ntk_select.linearized.optimizers import Optimizer

    if not 0 <= command.steps <= MAX_STEPS:
        raise ConfigError(f"--steps {command.steps} must be a whole number from 0 to {MAX_STEPS:,}.")
    if command.test < 0:
        raise ConfigError(f"--test {command.test} must be a whole number from 0.")
    if command.lr is not None and not 0 < command.lr < math.inf:
        raise ConfigError(f"--lr {command.lr} must be a positive number.")
    if command.loss in CROSS_ENTROPY and command.lr is None:
        raise ConfigError(f"A largest stable learning rate is known for squared losses only. Try: {repeated(command, '--lr', '0.01')}")
    if command.loss in CROSS_ENTROPY and command.encoding == "pm1":
        raise ConfigError(f"--loss {command.loss} needs one output per class. Try: --encoding onehot")
    usual = 0.9 if command.optimizer in ("momentum", "nesterov") else 0.0
    return Optimizer(command.optimizer, command.lr or 1.0, usual if command.momentum is None else command.momentum, command.weight_decay).momentum


def _record(command: Dynamics, found, task, n: int, n_test: int) -> dict[str, Any]:
    """The whole result as JSON-ready values."""
    import jax

    from ntk_select.data import describe

    kernel, options = found.comparison.kernel, {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    settings = {name: value for name, value in options.items() if name not in NOT_SETTINGS}
    return {
        "expert": command.expert,
        "task": describe(task) | {"uri": command.task},
        "images": n,
        "test_images": n_test,
        "settings": settings | {"lr": found.optimizer.lr, "momentum": found.optimizer.momentum, "largest_stable_lr": found.largest_stable_lr},
        "kernel": {"method": kernel.method, "why": kernel.reason, "products": found.comparison.formula.products},
        "theory": found.theory(),
        "regime": found.regime(),
        "curves": found.curves(),
        "device": jax.devices()[0].platform,
        "versions": {name: version(name) for name in ("ntk-select", "jax", "numpy")},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _save(folder: Path, found, record: dict[str, Any]) -> list[Path]:
    """Writes the record, the table and, with matplotlib, the figure. Raises ConfigError where the folder cannot be written."""
    table, settings = io.StringIO(), record["settings"]
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(record["curves"])
    writer.writerows(zip(*record["curves"].values(), strict=True))
    files = [
        write_output(folder / "dynamics.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode()),
        write_output(folder / "dynamics.csv", table.getvalue().encode()),
    ]
    title = (
        f"{record['expert']} on {record['task']['name']}: {settings['optimizer']}, lr {settings['lr']:.3g}, {settings['layers']} layers, {found.loss}"
    )
    try:
        files.append(found.comparison.report(folder / "dynamics.png", title=title, loss=found.loss))
    except MissingDependencyError as error:
        remark(f"No figure was written. {error}")
    return files


def _print(command: Dynamics, record: dict[str, Any], first_step: float, seconds: float) -> None:
    from ntk_select.linearized.compare import table_rows

    settings, theory, curves, kernel = record["settings"], record["theory"], record["curves"], record["kernel"]
    images = f"{record['images']} training and {record['test_images']} test images"
    print_line(f"Fine-tuning {command.expert} on {record['task']['name']}, {images}, in {seconds:.1f} s", style="bold")
    stable = settings["largest_stable_lr"]
    print_line(
        f"{settings['optimizer']}, lr {settings['lr']:.4g}"
        + (f" ({settings['lr'] / stable:.2g} x the largest stable learning rate of the linearised network)" if stable else "")
        + f", layers {command.layers}, loss {command.loss}; {kernel['method']} kernel"
        + (f", {kernel['products']} products." if kernel["products"] else ".")
    )
    names = {key: name for key, name in TABLE.items() if key in curves}
    rows = [[_cell(key, curves[key][place]) for key in names] for place in table_rows(len(curves["step"]))]
    optional = [TABLE[key] for key in ("loss_linear", "agreement", "test_output_error", "accuracy_real", "accuracy_formula")]
    print_table("Predicted and real", list(names.values()), rows, right=tuple(names.values()), optional=optional)
    for sentence in record["regime"]["sentences"]:
        print_line(sentence)
    if not record["regime"]["throughout"]:
        print_line("For a closer prediction, try: a smaller --lr, fewer --steps, or fewer trained parameters, as in --layers ^head/")
    if theory.get("measured_speed") is not None:
        print_line(
            f"First step: to first order in the learning rate the kernel predicts that the loss falls by {first_step * theory['speed']:.4g} "
            f"(equation 3 of the paper); it changed by {-first_step * theory['measured_speed']:+.4g}."
        )
    if "generalization" in theory:
        print_line(
            f"Difficulty of the labels for this kernel: {theory['generalization']:.4g} (equation 4, Y'(kernel + r)^-1 Y with r = "
            f"{theory['ridge']:.3g}). Among experts on the same images, a lower value predicts better generalisation."
        )
        print_line(
            f"Initial speed: {theory['quadratic_form']:.4g} (equation 5, dY' kernel dY, with dY the error at the start); its lower "
            f"bound is {max(theory['quadratic_form_bound'], 0):.4g}, which is larger the easier that error is to fit."
        )
    if command.explain:
        head = ["parameter", "share", "by features", "by inputs", "by cotangents", "by inputs x cotangents"]
        rows = [
            [str(layer["name"]).removeprefix("params/"), *("" if value is None else percent(value) for value in list(layer.values())[1:])]
            for layer in record["layers"]
        ]
        title = "How much of each parameter's kernel simpler kernels explain (appendix A)"
        print_table(title, head, rows, right=tuple(head[1:]), optional=("by inputs", "by cotangents"))


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "inf"
    if key == "step":
        return f"{value:.0f}"
    return f"{value:.1%}" if key.endswith("error") or key.startswith(("accuracy", "agreement")) else f"{value:.4g}"
