"""`ntk-select dynamics`: kernel, prediction, training, and the comparison of their curves."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ntk_select._runtime.files import write_atomically
from ntk_select.cli.console import check_writable, print_json, print_line, print_table, progress_bar, remark
from ntk_select.cli.expert import load_expert
from ntk_select.data import describe, load_task
from ntk_select.errors import ConfigError, MissingDependencyError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.experts.new_head import with_new_head
from ntk_select.linearized.compare import Comparison, compare_training, plot_curves, table_rows
from ntk_select.linearized.layers import layer_factors
from ntk_select.linearized.loss_curve import max_stable_lr
from ntk_select.linearized.losses import CROSS_ENTROPY, check_loss, loss_gradient
from ntk_select.linearized.network import KERNEL_METHODS, NetworkKernel, network_kernel
from ntk_select.linearized.optimizers import OPTIMIZERS, Optimizer
from ntk_select.linearized.predict import targets
from ntk_select.linearized.regime import ANSWERS_CLOSE, LOSS_CLOSE, OUTPUTS_CLOSE
from ntk_select.linearized.theory import generalization_score, initial_speed, label_spectrum, speed_bound
from ntk_select.linearized.train import draw_batches
from ntk_select.models import open_zoo
from ntk_select.tasks.task import ProbeSample, Task, further_sample, probe_sample

if TYPE_CHECKING:
    from ntk_select.cli.dynamics import Dynamics

STEPPING = tuple(name for name in OPTIMIZERS if name != "flow")
MOST_STEPS = 10**9  # more than anybody trains for
RECORDS = 24  # times at which outputs are looked at
NOT_SETTINGS = ("expert", "task", "linear", "explain", "memory_gb", "out", "json")  # said elsewhere, or without effect on the curves
SAFE_SHARE = 0.1  # of the largest stable learning rate, where none is given


def run(command: Dynamics) -> int:
    """Predicts, trains, prints and saves."""
    began = time.perf_counter()
    _check_options(command)
    optimizer = _optimizer(command)
    task, source = load_task(command.task), load_expert(open_zoo, command.zoo, command.expert)
    sample = probe_sample(task, per_class=command.per_class, seed=command.seed)
    y = _targets(command, sample.labels, len(sample.class_names))
    expert = with_new_head(source, y.shape[1], head=command.head, seed=command.seed)
    if command.out is not None:
        check_writable(command.out)
    x = np.asarray(expert.preprocess(sample.images))
    x_test, y_test = _test_images(command, task, expert, sample)
    if command.batch is not None and not 1 <= command.batch <= len(x):
        raise ConfigError(f"--batch {command.batch} must be a whole number from 1 to the {len(x)} training images.")
    batches = None if command.batch is None else draw_batches(len(x), command.batch, command.steps, command.seed)
    with progress_bar("dynamics") as progress:
        kernel = network_kernel(
            expert,
            x,
            x_test,
            layers=command.layers,
            outputs=command.outputs,
            method=command.method,
            memory_gb=command.memory_gb,
            progress=lambda done, total, _: progress(done, total, "kernel"),
        )
        stable = _largest_lr(command, kernel, y.shape)
        if command.lr is None and not math.isfinite(stable):
            raise ConfigError("The kernel is zero: these parameters have no gradient at the start. Type: --head random, or other --layers")
        lr = SAFE_SHARE * stable if command.lr is None else command.lr
        times = np.unique(np.rint(np.concatenate([[0, command.steps], np.geomspace(1, max(command.steps, 1), RECORDS)]))) if command.steps else [0]
        found = compare_training(
            expert,
            x,
            y,
            lr=lr,
            times=times,
            optimizer=optimizer.optimizer,
            momentum=optimizer.momentum,
            weight_decay=command.weight_decay,
            loss=command.loss,
            layers=command.layers,
            x_test=x_test,
            test_targets=y_test,
            batches=batches,
            kernel=kernel,
            linear=command.linear,
            progress=progress,
        )
    record = _record(command, found, task, lr, stable, len(x), 0 if x_test is None else len(x_test))
    if command.explain:
        record["layers"] = [layer._asdict() for layer in layer_factors(expert, x, layers=command.layers, memory_gb=command.memory_gb)]
    files, trouble = [], None
    if command.out is not None:
        try:
            files = _save(command, found, record)
        except OSError as error:  # what was found can still be printed
            trouble = error.strerror
    if command.json:
        print_json(record | {"files": [str(path) for path in files]})
    else:
        _print(command, record, time.perf_counter() - began, kept=bool(files))
    for path in files:
        remark(f"wrote {path}")
    if trouble is not None:
        remark(f"The curves could not be saved in {command.out}: {trouble}. Give another folder with --out.")
    return 0 if trouble is None else 1


def _check_options(command: Dynamics) -> None:
    """Refuses before any work what cannot be done."""
    check_loss(command.loss)
    if isinstance(command.steps, bool) or not 0 <= command.steps <= MOST_STEPS:
        raise ConfigError(f"--steps {command.steps} must be a whole number from 0 to {MOST_STEPS:,}.")
    if command.test < 0:
        raise ConfigError(f"--test {command.test} must be a whole number from 0.")
    if command.lr is not None and not 0 < command.lr < math.inf:
        raise ConfigError(f"--lr {command.lr} must be a positive number.")
    if command.method not in KERNEL_METHODS:
        raise ConfigError(f"--method {command.method} is unknown. Allowed: {', '.join(KERNEL_METHODS)}.")
    if command.optimizer == "flow":
        raise ConfigError("--optimizer flow cannot be trained with. Type: --optimizer gd, with a small --lr")
    if command.optimizer not in STEPPING:
        raise ConfigError(f"--optimizer {command.optimizer} is unknown.{did_you_mean(command.optimizer, STEPPING)}")
    if command.loss in CROSS_ENTROPY and command.lr is None:
        raise ConfigError(f"A largest stable learning rate is known for squared losses alone. Type: {command.again('--lr', '0.01')}")
    if command.loss in CROSS_ENTROPY and command.encoding == "pm1":
        raise ConfigError(f"--loss {command.loss} needs an output a class. Type: --encoding onehot")


def _optimizer(command: Dynamics) -> Optimizer:
    """The optimiser; its learning rate, where none was given, is not known yet."""
    usual = 0.9 if command.optimizer in ("momentum", "nesterov") else 0.0
    return Optimizer(command.optimizer, command.lr or 1.0, usual if command.momentum is None else command.momentum, command.weight_decay)


def _largest_lr(command: Dynamics, kernel: NetworkKernel, shape: tuple[int, int]) -> float | None:
    if command.loss in CROSS_ENTROPY or (kernel.method != "dense" and command.lr is not None):
        return None
    options = {"optimizer": command.optimizer, "momentum": _optimizer(command).momentum, "weight_decay": command.weight_decay, "loss": command.loss}
    return max_stable_lr(kernel.kernel, shape=shape, **options)


def _test_images(command: Dynamics, task: Task, expert: Expert, sample: ProbeSample) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Some test images of the classes that training knows, drawn once for a seed."""
    if task.test_images is None or not command.test:
        return None, None
    more = further_sample(task, sample, most=command.test, seed=[command.seed, 1], test=True)
    if not len(more):
        return None, None
    return np.asarray(expert.preprocess(more.images)), _targets(command, more.labels, len(more.class_names))


def _targets(command: Dynamics, labels: np.ndarray, classes: int) -> np.ndarray:
    """(n, c), c being 1 for -1 and +1."""
    return targets(labels, classes, encoding=command.encoding).reshape(len(labels), -1)


def _record(command: Dynamics, found: Comparison, task: Task, lr: float, stable: float | None, n: int, n_test: int) -> dict[str, Any]:
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
        "expert": command.expert,
        "task": describe(task) | {"uri": command.task},
        "images": n,
        "test_images": n_test,
        "settings": {
            **{name: value for name, value in dataclasses.asdict(command).items() if name not in NOT_SETTINGS},
            "lr": lr,
            "momentum": _optimizer(command).momentum,
            "largest_stable_lr": stable,
        },
        "kernel": {"method": found.kernel.method, "why": found.kernel.why, "products": formula.products},
        "theory": _theory(command, found, lr),
        "regime": _regime(found),
        "curves": {name: [_plain(value) for value in values] for name, values in curves.items()},
        "device": device.platform,
        "versions": {name: version(name) for name in ("ntk-select", "jax", "numpy")},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _regime(found: Comparison) -> dict[str, Any]:
    """Up to which step the prediction can be trusted, as plain values and in words."""
    regime = found.regime()
    values = {name: None if value is None else _plain(value) for name, value in regime._asdict().items()}
    close = {"loss_close": LOSS_CLOSE, "outputs_close": OUTPUTS_CLOSE, "answers_close": ANSWERS_CLOSE}
    return values | close | {"throughout": regime.throughout, "sentences": regime.sentences()}


def _theory(command: Dynamics, found: Comparison, lr: float) -> dict[str, Any]:
    """Equations 3 to 5 on this very training."""
    residual = found.targets - found.formula.train_outputs[0]
    gradient = loss_gradient(command.loss, found.formula.train_outputs[0], found.targets)
    theta = found.kernel.kernel
    said = {"speed": initial_speed(theta, gradient)}
    if 1 in found.real.times and command.batch is None:
        first = int(np.flatnonzero(found.real.times == 1)[0])
        said["measured_speed"] = _plain((found.real.train_losses[0] - found.real.train_losses[first]) / _first_step(command, lr))
    if not callable(theta) and theta.any():
        score, bound = generalization_score(theta, found.targets), speed_bound(theta, residual)
        said |= {"generalization": score.value, "generalization_bound": score.bound, "ridge": score.ridge}
        said |= {"quadratic_form": bound.speed, "quadratic_form_bound": bound.bound}
        if residual.any():
            spectrum = label_spectrum(theta, residual)
            said["residual_in_first_10"] = float(spectrum.cumulative[min(9, len(spectrum.values) - 1)])
    return said


def _first_step(command: Dynamics, lr: float) -> float:
    """Length of the first step in units of the gradient; that of Nesterov's method is longer."""
    optimizer = _optimizer(command)
    return lr * (1 + optimizer.momentum if optimizer.optimizer == "nesterov" else 1)


def _save(command: Dynamics, found: Comparison, record: dict[str, Any]) -> list[Path]:
    folder = command.out.expanduser()
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
        title = (
            f"{command.expert} on {record['task']['name']}: {settings['optimizer']}, lr {settings['lr']:.3g}, {command.layers} layers, {command.loss}"
        )
        files["dynamics.png"] = plot_curves(found, title=title, loss=command.loss)
    except MissingDependencyError as error:
        remark(f"No figure was written. {error}")
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _print(command: Dynamics, record: dict[str, Any], seconds: float, *, kept: bool) -> None:
    settings, theory, curves = record["settings"], record["theory"], record["curves"]
    images = f"{record['images']} training and {record['test_images']} test images"
    print_line(f"Fine-tuning {command.expert} on {record['task']['name']}, {images}, in {seconds:.1f} s", style="bold")
    stable = settings["largest_stable_lr"]
    print_line(
        f"{settings['optimizer']}, lr {settings['lr']:.4g}"
        + (f" ({settings['lr'] / stable:.2g} x the largest stable learning rate of the linearised network)" if stable else "")
        + f", layers {command.layers}, loss {command.loss}; {record['kernel']['method']} kernel"
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
    places = table_rows(len(curves["step"]))
    rows = [[_shown(key, curves[key][place]) for key in names] for place in places]
    print_table(
        "Predicted and real",
        list(names.values()),
        rows,
        right=tuple(names.values()),
        optional=("linearised", "same answers", "test outputs: error", "real ", "accuracy: formula"),
    )
    for sentence in record["regime"]["sentences"]:
        print_line(sentence)
    if not record["regime"]["throughout"]:
        print_line("To stay closer: a smaller --lr, fewer --steps, or fewer trained parameters, as in --layers ^head/")
    if theory.get("measured_speed") is not None:
        step = _first_step(command, settings["lr"])
        print_line(
            f"First step: to first order in the learning rate the kernel predicts that the loss falls by {step * theory['speed']:.4g} (equation 3 of the "
            f"paper); it changed by {-step * theory['measured_speed']:+.4g}."
        )
    if "generalization" in theory:
        print_line(
            f"How hard the labels are to fit with this kernel: {theory['generalization']:.4g} (equation 4, Y'(kernel + r)^-1 Y with r = "
            f"{theory['ridge']:.3g}). Of experts on the same images, a lower value promises better generalisation."
        )
        print_line(
            f"How fast the error begins to fall: {theory['quadratic_form']:.4g} (equation 5, dY' kernel dY, with dY the error at the start); never below "
            f"{max(theory['quadratic_form_bound'], 0):.4g}, which is larger the easier that error is to fit."
        )
    if command.explain:
        head = ["parameter", "share", "by features", "by inputs", "by cotangents", "by inputs x cotangents"]
        rows = [[str(layer["name"]).removeprefix("params/"), *map(_percent, list(layer.values())[1:])] for layer in record["layers"]]
        print_table(
            "How much of each parameter's kernel simpler kernels explain (appendix A)",
            head,
            rows,
            right=tuple(head[1:]),
            optional=("by inputs", "by cotangents"),
        )
    print_line("Next: " + command.again("--out", "runs/dynamics") if not kept else f"Look into {command.out.expanduser()}")


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
