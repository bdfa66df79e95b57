"""`ntk-select dynamics`: what the kernel predicts of a fine-tuning, beside the fine-tuning itself."""

import csv
import dataclasses
import io
import json
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select.cli.console import Flag, check_writable, command, print_json, print_line, print_table, progress_bar, remarks, zoo_option
from ntk_select.cli.expert import load_expert
from ntk_select.errors import ConfigError, MissingDependencyError
from ntk_select.expert import Expert
from ntk_select.files import write_atomically
from ntk_select.linearized.beside import Beside, beside
from ntk_select.linearized.curve import max_stable_lr
from ntk_select.linearized.layers import layer_factors
from ntk_select.linearized.losses import CROSS_ENTROPY, check_loss, loss_gradient
from ntk_select.linearized.network import METHODS, NetworkKernel, network_kernel
from ntk_select.linearized.plot import curves
from ntk_select.linearized.predict import targets
from ntk_select.linearized.rules import Rule
from ntk_select.linearized.theory import generalization_score, initial_speed, label_spectrum, speed_bound
from ntk_select.linearized.train import draw_batches
from ntk_select.new_head import with_new_head
from ntk_select.plugins import builtin
from ntk_select.task import ProbeSample, Task, further_sample, probe_sample

RECORDS = 24  # times at which outputs are looked at
ROWS = 9  # of the table for people
NOT_SETTINGS = ("expert", "task", "linear", "explain", "memory_gb", "out", "json")  # said elsewhere, or without effect on the curves
SAFE_SHARE = 0.1  # of the largest stable learning rate, where none is given


@dataclass(frozen=True)
class Dynamics:
    """Predict the fine-tuning of one expert from its kernel, fine-tune it, and lay the curves beside each other."""

    expert: str
    """The expert."""
    task: str
    """The task: digits, fashion_mnist, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the expert is: builtin, folders of experts, or several of them."""
    lr: float | None = None
    """Learning rate; a tenth of the largest that the linearised network bears, if not given."""
    steps: int = 50
    """Steps of training."""
    optimizer: str = "gd"
    """gd, momentum or nesterov."""
    momentum: float | None = None
    """Of the last two; 0.9 if not given."""
    weight_decay: float = 0.0
    """Strength of the pull back to the pre-trained weights."""
    loss: str = "mean"
    """mean, half_sum or sum of squares; cross_entropy or cross_entropy_sum."""
    layers: str = "all"
    """Parameters that are fine-tuned: all, last_conv, ^head/, or another regular expression over their paths."""
    head: str = "random"
    """The new head begins random, or zero."""
    encoding: str = "onehot"
    """onehot: one output a class; pm1: for two classes, one output of -1 and +1, as in the paper's binary case."""
    outputs: str = "full"
    """full: the exact kernel; trace: its mean over the outputs, which stands for all of them."""
    method: str = "auto"
    """auto: dense or matrix-free, whichever costs less."""
    per_class: int = 10
    """Training images a class, at most."""
    test: int = 100
    """Test images, at most."""
    batch: int | None = None
    """Images in a mini-batch; all of them at every step, if not given."""
    seed: int = 0
    """Of the images, the head and the mini-batches."""
    linear: bool = True
    """Also train the linearised network, which the formula should meet to rounding."""
    explain: Flag = field(default=False)
    """Also say, layer by layer, how much of the kernel the features' kernel and other simpler ones stand for (appendix A)."""
    memory_gb: float | None = None
    """Memory that the kernel may take; by default half of what is free."""
    out: Path | None = None
    """Folder for the figure (dynamics.png), the table (dynamics.csv) and everything (dynamics.json)."""
    json: Flag = field(default=False)
    """Print JSON instead of text."""

    def run(self) -> int:
        """Predicts, trains, prints and saves."""
        began = time.perf_counter()
        self._check_options()
        rule = self._rule()
        task, source = builtin("load_task")(self.task), load_expert(builtin("open_zoo"), self.zoo, self.expert)
        sample = probe_sample(task, per_class=self.per_class, seed=self.seed)
        y = self._targets(sample.labels, len(sample.class_names))
        expert = with_new_head(source, y.shape[1], head=self.head, seed=self.seed)
        if self.out is not None:
            check_writable(self.out)
        x = np.asarray(expert.preprocess(sample.images))
        x_test, y_test = self._test_images(task, expert, sample)
        if self.batch is not None and not 1 <= self.batch <= len(x):
            raise ConfigError(f"--batch {self.batch} must be a whole number from 1 to the {len(x)} training images.")
        batches = None if self.batch is None else draw_batches(len(x), self.batch, self.steps, self.seed)
        with progress_bar("dynamics") as progress:
            kernel = network_kernel(
                expert,
                x,
                x_test,
                layers=self.layers,
                outputs=self.outputs,
                method=self.method,
                memory_gb=self.memory_gb,
                progress=lambda done, total, _: progress(done, total, "kernel"),
            )
            stable = self._largest_lr(kernel, y.shape)
            if self.lr is None and not math.isfinite(stable):
                raise ConfigError("The kernel is zero: these parameters have no gradient at the start. Type: --head random, or other --layers")
            lr = SAFE_SHARE * stable if self.lr is None else self.lr
            times = np.unique(np.rint(np.concatenate([[0, self.steps], np.geomspace(1, max(self.steps, 1), RECORDS)]))) if self.steps else [0]
            found = beside(
                expert,
                x,
                y,
                lr=lr,
                times=times,
                optimizer=rule.optimizer,
                momentum=rule.momentum,
                weight_decay=self.weight_decay,
                loss=self.loss,
                layers=self.layers,
                x_test=x_test,
                test_targets=y_test,
                batches=batches,
                kernel=kernel,
                linear=self.linear,
                progress=progress,
            )
        record = self._record(found, task, lr, stable, len(x), 0 if x_test is None else len(x_test))
        if self.explain:
            record["layers"] = [layer._asdict() for layer in layer_factors(expert, x, layers=self.layers, memory_gb=self.memory_gb)]
        files = [] if self.out is None else self._save(found, record)
        if self.json:
            print_json(record | {"files": [str(path) for path in files]})
        else:
            self._print(record, time.perf_counter() - began)
        for path in files:
            remarks().print(f"wrote {path}", markup=False, soft_wrap=True)
        return 0

    def _check_options(self) -> None:
        """Refuses before any work what cannot be done."""
        check_loss(self.loss)
        if isinstance(self.steps, bool) or self.steps < 0:
            raise ConfigError(f"--steps {self.steps} must be a whole number from 0.")
        if self.test < 0:
            raise ConfigError(f"--test {self.test} must be a whole number from 0.")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError(f"--lr {self.lr} must be a positive number.")
        if self.method not in METHODS:
            raise ConfigError(f"--method {self.method} is unknown. Allowed: {', '.join(METHODS)}.")
        if self.optimizer == "flow":
            raise ConfigError("--optimizer flow cannot be trained with. Type: --optimizer gd, with a small --lr")
        if self.loss in CROSS_ENTROPY and self.lr is None:
            raise ConfigError(f"A largest stable learning rate is known for squared losses alone. Type: {self.again('--lr', '0.01')}")
        if self.loss in CROSS_ENTROPY and self.encoding == "pm1":
            raise ConfigError(f"--loss {self.loss} needs an output a class. Type: --encoding onehot")

    def _rule(self) -> Rule:
        """The optimiser; its learning rate, where none was given, is not known yet."""
        usual = 0.9 if self.optimizer in ("momentum", "nesterov") else 0.0
        return Rule(self.optimizer, self.lr or 1.0, usual if self.momentum is None else self.momentum, self.weight_decay)

    def _largest_lr(self, kernel: NetworkKernel, shape: tuple[int, int]) -> float | None:
        if self.loss in CROSS_ENTROPY or (kernel.method != "dense" and self.lr is not None):
            return None
        options = {"optimizer": self.optimizer, "momentum": self._rule().momentum, "weight_decay": self.weight_decay, "loss": self.loss}
        return max_stable_lr(kernel.kernel, shape=shape, **options)

    def _test_images(self, task: Task, expert: Expert, sample: ProbeSample) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Some test images of the classes that training knows, drawn once for a seed."""
        if task.test_images is None or not self.test:
            return None, None
        more = further_sample(task, sample, most=self.test, seed=[self.seed, 1], test=True)
        if not len(more):
            return None, None
        return np.asarray(expert.preprocess(more.images)), self._targets(more.labels, len(more.class_names))

    def _targets(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(n, c), c being 1 for -1 and +1."""
        return targets(labels, classes, encoding=self.encoding).reshape(len(labels), -1)

    def again(self, *more: str) -> str:
        """The command to type for the same again, with more options."""
        words = ["dynamics", "--expert", self.expert, "--task", self.task, *zoo_option(self.zoo)]
        for option in dataclasses.fields(self)[3:]:
            value = getattr(self, option.name)
            if option.name not in ("out", "json") and value != option.default:
                name = option.name.replace("_", "-")
                words += [f"--{name}"] if value is True else [f"--no-{name}"] if value is False else [f"--{name}", str(value)]
        return command(*words, *more)

    def _record(self, found: Beside, task: Task, lr: float, stable: float | None, n: int, n_test: int) -> dict[str, Any]:
        """Everything that was found, as plain values."""
        real, formula, device = found.real, found.formula, jax.devices()[0]
        apart = found.discrepancy()
        curves = {"step": real.times, "loss_formula": formula.train_losses, "loss_real": real.train_losses, "loss_error": apart.loss}
        if found.linear is not None:
            curves |= {"loss_linear": found.linear.train_losses, "linear_error": found.discrepancy("linear").loss}
        if real.test_losses is not None:
            curves |= {"test_loss_formula": formula.test_losses, "test_loss_real": real.test_losses, "test_loss_error": apart.test_loss}
            curves |= {"test_output_error": apart.test_outputs, "agreement": apart.agreement}
            curves |= {"accuracy_formula": found.accuracy("formula"), "accuracy_real": found.accuracy("real")}
        curves |= {"distance_formula": formula.distances, "distance_real": real.distances}
        return {
            "expert": self.expert,
            "task": builtin("describe_task")(task) | {"uri": self.task},
            "images": n,
            "test_images": n_test,
            "settings": {
                **{name: value for name, value in dataclasses.asdict(self).items() if name not in NOT_SETTINGS},
                "lr": lr,
                "momentum": self._rule().momentum,
                "largest_stable_lr": stable,
            },
            "kernel": {"method": found.kernel.method, "why": found.kernel.why, "products": formula.products},
            "theory": self._theory(found, lr),
            "curves": {name: [_plain(value) for value in values] for name, values in curves.items()},
            "device": device.platform,
            "versions": {name: version(name) for name in ("ntk-select", "jax", "numpy")},
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _theory(self, found: Beside, lr: float) -> dict[str, Any]:
        """Equations 3 to 5 on this very training."""
        residual = found.targets - found.formula.train_outputs[0]
        gradient = loss_gradient(self.loss, found.formula.train_outputs[0], found.targets)
        theta = found.kernel.kernel
        said = {"speed": initial_speed(theta, gradient)}
        if 1 in found.real.times and self.batch is None:
            first = int(np.flatnonzero(found.real.times == 1)[0])
            rule = self._rule()
            step = lr * (1 + rule.momentum if rule.optimizer == "nesterov" else 1)  # Nesterov's first step is longer
            said["measured_speed"] = _plain((found.real.train_losses[0] - found.real.train_losses[first]) / step)
        if not callable(theta) and theta.any():
            score, bound = generalization_score(theta, found.targets), speed_bound(theta, residual)
            said |= {"generalization": score.value, "generalization_bound": score.bound, "ridge": score.ridge}
            said |= {"quadratic_form": bound.speed, "quadratic_form_bound": bound.bound}
            if residual.any():
                spectrum = label_spectrum(theta, residual)
                said["residual_in_first_10"] = float(spectrum.cumulative[min(9, len(spectrum.values) - 1)])
        return said

    def _save(self, found: Beside, record: dict[str, Any]) -> list[Path]:
        folder = self.out.expanduser()
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(record["curves"])
        writer.writerows(zip(*record["curves"].values(), strict=True))
        files = {
            "dynamics.json": json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode(),
            "dynamics.csv": table.getvalue().encode(),
        }
        try:
            settings = record["settings"]
            title = f"{self.expert} on {record['task']['name']}: {settings['optimizer']}, lr {settings['lr']:.3g}, {self.layers} layers, {self.loss}"
            files["dynamics.png"] = curves(found, title=title, loss=self.loss)
        except MissingDependencyError as error:
            remarks().print(f"No figure was written. {error}", markup=False, soft_wrap=True)
        for name, content in files.items():
            write_atomically(folder / name, content)
        return [folder / name for name in files]

    def _print(self, record: dict[str, Any], seconds: float) -> None:
        settings, theory, curves = record["settings"], record["theory"], record["curves"]
        images = f"{record['images']} training and {record['test_images']} test images"
        print_line(f"Fine-tuning {self.expert} on {record['task']['name']}, {images}, in {seconds:.1f} s", style="bold")
        stable = settings["largest_stable_lr"]
        print_line(
            f"{settings['optimizer']}, lr {settings['lr']:.4g}"
            + (f" ({settings['lr'] / stable:.2g} of the largest that the linearised network bears)" if stable else "")
            + f", layers {self.layers}, loss {self.loss}; {record['kernel']['method']} kernel"
            + (f", {record['kernel']['products']} products." if record["kernel"]["products"] else ".")
        )
        names = {"step": "step", "loss_formula": "loss: formula", "loss_linear": "linearised", "loss_real": "real", "loss_error": "error"}
        names |= {
            "test_output_error": "test outputs: error",
            "agreement": "same answers",
            "accuracy_formula": "accuracy: formula",
            "accuracy_real": "real ",
        }
        names = {key: name for key, name in names.items() if key in curves}
        places = np.unique(np.rint(np.linspace(0, len(curves["step"]) - 1, ROWS)).astype(int))
        rows = [[_shown(key, curves[key][place]) for key in names] for place in places]
        print_table("Predicted and real", list(names.values()), rows, right=tuple(names.values()))
        if theory.get("measured_speed") is not None:
            print_line(f"The loss begins to fall by {theory['speed']:.4g} lr a step (eq. 3); the first step: {theory['measured_speed']:.4g} lr.")
        if "generalization" in theory:
            print_line(f"Y'(Theta + r)^-1 Y = {theory['generalization']:.4g} at r = {theory['ridge']:.3g} (eq. 4, lower is better).")
            print_line(f"dY' Theta dY = {theory['quadratic_form']:.4g}, never below {max(theory['quadratic_form_bound'], 0):.4g} (eq. 5).")
        if self.explain:
            head = ["parameter", "share", "by features", "by inputs", "by cotangents", "by inputs x cotangents"]
            rows = [[str(layer["name"]).removeprefix("params/"), *map(_percent, list(layer.values())[1:])] for layer in record["layers"]]
            print_table("How much of each parameter's kernel simpler kernels explain (appendix A)", head, rows, right=tuple(head[1:]))
        print_line("Next: " + self.again("--out", "runs/dynamics") if self.out is None else f"Look into {self.out.expanduser()}")


def _plain(value) -> float | None:
    """A number that JSON has; None for one that overflowed."""
    return float(value) if np.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "inf"
    if key == "step":
        return f"{value:.0f}"
    return f"{value:.1%}" if key.endswith("error") or key.startswith(("accuracy", "agreement")) else f"{value:.4g}"
