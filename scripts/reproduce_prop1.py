"""Compares the linearised theory with real fine-tuning: Proposition 1 and equations 3 to 5 over the embedded zoo.

    python scripts/reproduce_prop1.py                       # the embedded experts on digits; about a minute for each on two cores
    python scripts/reproduce_prop1.py --tasks digits fashion_mnist folder:my_images --out runs/prop1

For every expert and task: a new head, the kernel of a few images per class, and
  * full-batch training at fractions of the expert's largest stable learning rate: up to which step is the formula accurate?
  * training of all experts at one learning rate: does dY' Theta dY (eq. 3) predict which experts learn faster?
  * fine-tuning with cross-entropy, Nesterov momentum, and the learning rate chosen on held-out images: do Y' Theta^-1 Y (eq. 4),
    LFC and LGC predict which experts end with the smaller test error?
The answers are Spearman correlations over experts with 95 % bootstrap intervals. Intervals treat experts as independent, though some
share their source or ancestor, and are not corrected for the number of questions. Experts trained on the task itself are excluded.
One file per cell is written into OUT/cells; existing files are not computed again.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

import ntk_select as ns
from ntk_select._runtime.figures import file_content, new_figure
from ntk_select._runtime.files import write_atomically
from ntk_select.cli.console import progress_bar
from ntk_select.cli.options import split
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, MissingDependencyError, did_you_mean
from ntk_select.linearized.compare import predicted_classes
from ntk_select.models import ZOO

CONSOLE = Console(width=150, highlight=False)
LINEAR = ns.linearized


@dataclass(frozen=True)
class Protocol:
    """Settings of a cell, in addition to expert and task."""

    per_class: int = 10
    """Training images per class."""
    test: int = 200
    """Test images."""
    held_out: int = 200
    """Further training images, to choose the learning rate of fine-tuning."""
    shares: tuple[float, ...] = (0.02, 0.1, 0.5)
    """Learning rates of full-batch training, in units of the largest stable one."""
    common_lr: float = 2e-4
    """The learning rate at which experts are compared."""
    steps: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """Lengths of full-batch training."""
    fine_tuning_lrs: tuple[float, ...] = (0.01, 0.005, 0.001)
    epochs: int = 30
    batch: int = 32
    seed: int = 0
    """Of images, head and batches."""


def measure(name: str, uri: str, protocol: Protocol, progress=None) -> dict[str, Any]:
    """All measurements of one expert on one task."""
    task, source = load_task(uri), ZOO[name]()
    if task.test_images is None:
        raise ConfigError(f"The task {uri!r} has no test images, which this comparison needs. Try: a folder with train/ and test/")
    sample = ns.probe_sample(task, per_class=protocol.per_class, seed=protocol.seed)
    classes = len(sample.class_names)
    expert = ns.with_new_head(source, classes, seed=protocol.seed)
    x, y = np.asarray(expert.preprocess(sample.images)), LINEAR.targets(sample.labels, classes)
    further = {
        "test": ns.further_sample(task, sample, most=protocol.test, seed=[protocol.seed, 1], test=True),
        "held out": ns.further_sample(task, sample, most=protocol.held_out, seed=[protocol.seed, 2]),
    }
    if not all(map(len, further.values())):
        raise ConfigError(f"Task {task.name!r} has no images left to choose the learning rate on, or none to test on. Try: a smaller --per-class")
    (x_test, y_test), (x_held, y_held) = (
        (np.asarray(expert.preprocess(more.images)), LINEAR.targets(more.labels, classes)) for more in further.values()
    )

    kernel = LINEAR.network_kernel(expert, x, x_test, method="dense", progress=progress)
    trace = np.einsum("ijaa->ij", kernel.kernel) / classes
    stable = LINEAR.max_stable_lr(kernel.kernel, loss="mean")
    common = {"loss": "mean", "x_test": x_test, "test_targets": y_test, "kernel": kernel, "linear": False, "progress": progress}
    runs = {}
    for share in protocol.shares:
        found = LINEAR.compare_training(expert, x, y, lr=share * stable, times=protocol.steps, **common)
        apart = found.discrepancy()
        runs[str(share)] = {
            "times": found.real.times.tolist(),
            "loss": plain(found.real.train_losses),
            "formula": plain(found.formula.train_losses),
            "loss_error": plain(apart.loss),
            "output_error": plain(apart.test_outputs),
            "agreement": plain(apart.agreement),
            "distance_ratio": plain(apart.distance),
        }
    together = LINEAR.compare_training(expert, x, y, lr=protocol.common_lr, times=protocol.steps, **common)
    residual = y - together.formula.train_outputs[0]
    size = residual.size
    score = LINEAR.generalization_score(kernel.kernel, y)
    bound = LINEAR.speed_bound(kernel.kernel, residual)
    ridge = LINEAR.kernel_ridge(
        kernel.kernel,
        y,
        ridge=score.ridge,
        outputs=together.formula.train_outputs[0],
        cross_kernel=kernel.cross_kernel,
        test_outputs=together.real.test_outputs[0],
    )
    mean_eigenvalue = float(np.einsum("iiaa->", kernel.kernel)) / size
    lrs = fine_tune(expert, x, y, x_held, y_held, x_test, y_test, protocol, progress)
    best = max(lrs, key=lambda lr: (lrs[lr]["held_out"], -float(lr)))
    return {
        "expert": name,
        "task": task.name,
        "own_source": task.name in (*source.card.seen, (source.card.initialised_from or "").partition("-")[0]),
        "classes": classes,
        "lfc": ns.lfc(np.asarray(source.features_fn(source.variables, x)), sample.labels),
        "lgc": ns.lgc(source, x, sample.labels),
        "lgc_network": ns.kernel_label_correlation(trace, sample.labels),
        "speed": LINEAR.initial_speed(kernel.kernel, residual, loss="mean"),
        "speed_per_scale": bound.speed / (float(np.square(residual).sum()) * mean_eigenvalue),
        "generalization": score.value,
        "generalization_per_scale": score.value * mean_eigenvalue / size,
        "bound_holds": bool(bound.bound <= bound.speed * (1 + 1e-9)),
        "largest_stable_lr": stable,
        "runs": runs,
        "common": {"times": together.real.times.tolist(), "loss": plain(together.real.train_losses), "formula": plain(together.formula.train_losses)},
        "linear_test_error": float(1 - (ridge.test_outputs.argmax(1) == y_test.argmax(1)).mean()),
        "fine_tuning": lrs,
        "test_error": 1 - lrs[best]["test"],
        "chosen_lr": float(best),
    }


def fine_tune(expert, x, y, x_held, y_held, x_test, y_test, protocol: Protocol, progress) -> dict[str, dict[str, float]]:
    """The paper's recipe on the few images: accuracy on held-out and on test images, by learning rate."""
    batch = min(protocol.batch, len(x))
    epoch = len(x) // batch
    batches = LINEAR.draw_batches(len(x), batch, protocol.epochs * epoch, protocol.seed)
    looked, wanted = np.concatenate([x_held, x_test]), np.concatenate([y_held, y_test]).argmax(1)
    found = {}
    for lr in protocol.fine_tuning_lrs:
        schedule = optax.piecewise_constant_schedule(lr, {protocol.epochs // 2 * epoch: 0.1, protocol.epochs * 5 // 6 * epoch: 0.1})
        optimizer = optax.sgd(schedule, momentum=0.9, nesterov=True)
        options = {"loss": "cross_entropy", "weight_decay": 1e-4, "batches": batches, "x_test": looked, "progress": progress}
        run = LINEAR.train(expert, x, y, optimizer, times=[len(batches)], **options)
        right = (predicted_classes(run.test_outputs)[0] == wanted) & np.isfinite(run.test_outputs[0]).all(axis=1)
        found[str(lr)] = {"held_out": float(right[: len(x_held)].mean()), "test": float(right[len(x_held) :].mean())}
    return found


def plain(values) -> list[float | None]:
    """Numbers for JSON; None for those that overflowed."""
    return [float(value) if np.isfinite(value) else None for value in values]


def spearman(a, b, resamples: int = 4000) -> tuple[float, float, float]:
    """Rank correlation with a 95 % interval: percentiles over resampled experts."""
    a, b = np.asarray(a, float), np.asarray(b, float)

    def correlation(a, b):
        a, b = rankdata(a, axis=-1), rankdata(b, axis=-1)
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

    drawn = np.random.default_rng(0).integers(len(a), size=(resamples, len(a)))
    low, high = np.nanpercentile(correlation(a[drawn], b[drawn]), [2.5, 97.5])
    return float(correlation(a, b)), float(low), float(high)


def fall(cell: dict[str, Any], place: int) -> float:
    """Decrease of the real loss at the common learning rate up to a record; minus infinity if it overflowed."""
    loss = cell["common"]["loss"]
    return -np.inf if loss[place] is None else loss[0] - loss[place]


QUESTIONS = [
    ("dY'TdY (eq. 3): real fall of the loss in {first} step", lambda c: c["speed"], lambda c: fall(c, 1)),
    ("dY'TdY (eq. 3): real fall of the loss in {last} steps", lambda c: c["speed"], lambda c: fall(c, -1)),
    ("Y'T^-1Y (eq. 4): test error, fine-tuned", lambda c: c["generalization"], lambda c: c["test_error"]),
    ("Y'T^-1Y (eq. 4): test error, linearised", lambda c: c["generalization"], lambda c: c["linear_test_error"]),
    ("Y'T^-1Y, free of scale: test error, fine-tuned", lambda c: c["generalization_per_scale"], lambda c: c["test_error"]),
    ("Y'T^-1Y, free of scale: test error, linearised", lambda c: c["generalization_per_scale"], lambda c: c["linear_test_error"]),
    ("dY'TdY: minus Y'T^-1Y (partly scale alone)", lambda c: c["speed"], lambda c: -c["generalization"]),
    ("the same, free of scale", lambda c: c["speed_per_scale"], lambda c: -c["generalization_per_scale"]),
    ("LFC: dY'TdY", lambda c: c["lfc"], lambda c: c["speed"]),
    ("LGC: dY'TdY", lambda c: c["lgc"], lambda c: c["speed"]),
    ("LFC: dY'TdY, free of scale", lambda c: c["lfc"], lambda c: c["speed_per_scale"]),
    ("LGC: dY'TdY, free of scale", lambda c: c["lgc"], lambda c: c["speed_per_scale"]),
    ("LFC: minus Y'T^-1Y", lambda c: c["lfc"], lambda c: -c["generalization"]),
    ("LGC: minus Y'T^-1Y", lambda c: c["lgc"], lambda c: -c["generalization"]),
    ("LFC: fine-tuned accuracy", lambda c: c["lfc"], lambda c: -c["test_error"]),
    ("LGC: fine-tuned accuracy", lambda c: c["lgc"], lambda c: -c["test_error"]),
    ("LGC of the whole network, new head: fine-tuned accuracy", lambda c: c["lgc_network"], lambda c: -c["test_error"]),
    ("dY'TdY: fine-tuned accuracy", lambda c: c["speed"], lambda c: -c["test_error"]),
    ("dY'TdY, free of scale: fine-tuned accuracy", lambda c: c["speed_per_scale"], lambda c: -c["test_error"]),
    ("linearised accuracy: fine-tuned accuracy", lambda c: -c["linear_test_error"], lambda c: -c["test_error"]),
]
"""Name, predictor, predicted quantity; the theory, or the hypothesis, predicts a high correlation."""


def answer(cells: list[dict[str, Any]], protocol: Protocol) -> list[dict[str, Any]]:
    """Each question for each task."""
    rows = []
    for name, given, wanted in QUESTIONS:
        title = name.format(first=protocol.steps[0], last=protocol.steps[-1])
        for task in dict.fromkeys(cell["task"] for cell in cells):
            chosen = [cell for cell in cells if cell["task"] == task and not cell["own_source"]]
            if len(chosen) > 3:
                value, low, high = spearman([given(c) for c in chosen], [wanted(c) for c in chosen])
                rows.append(
                    {
                        "question": title,
                        "task": task,
                        "experts": len(chosen),
                        **dict(zip(("value", "low", "high"), plain([value, low, high]), strict=True)),
                    }
                )
    return rows


def where_it_holds(cells: list[dict[str, Any]], what: str) -> dict[str, dict[int, float | None]]:
    """Median over experts and tasks of a discrepancy, by share of the stable learning rate and by steps."""
    found = {}
    for share in cells[0]["runs"]:
        times = cells[0]["runs"][share]["times"]
        columns = [[np.inf if v is None else v for v in (cell["runs"][share][what][place] for cell in cells)] for place in range(len(times))]
        found[share] = {int(time): plain([np.median(column)])[0] for time, column in zip(times, columns, strict=True) if time}
    return found


def main(
    protocol: tyro.conf.OmitArgPrefixes[Protocol] = Protocol(),
    tasks: tuple[str, ...] = ("digits",),
    only: tuple[str, ...] = (),
    out: Path = Path("runs/reproduce_prop1"),
) -> dict[str, Any]:
    """Measures missing cells, prints the answers and writes them.

    Args:
      protocol: learning rates, steps and sizes of the trainings.
      tasks: task URIs.
      only: names of experts; all by default.
      out: folder for the answers, the figure and one file per cell.
    """
    names = split(only) or list(ZOO)
    for name in names:
        if name not in ZOO:
            raise ConfigError(f"--only: there is no expert {name!r} in the zoo.{did_you_mean(name, ZOO)}")
    cells, todo = [], [(uri, name) for uri in split(tasks) for name in names]
    with progress_bar("measuring") as progress:
        for place, (uri, name) in enumerate(todo):
            request = {"protocol": json.loads(json.dumps(asdict(protocol))), "task": uri, "weights": ZOO[name].card.sha256}
            file = out / "cells" / f"{hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]}-{name}.json"
            if not file.exists():

                def within(done: int, steps: int, what: str, place=place, name=name) -> None:
                    progress(place, len(todo), f"{name}: {what} {done}/{steps}")

                cell = measure(name, uri, protocol, within)
                jax.clear_caches()  # programs of one cell serve no other
                write_atomically(file, json.dumps({"asked": request, **cell}, indent=1, allow_nan=False).encode())
            cells.append(json.loads(file.read_text(encoding="utf-8")))
            progress(place + 1, len(todo), "")
    result = {
        "protocol": asdict(protocol),
        "answers": answer(cells, protocol),
        "eq. 5 held": f"{sum(cell['bound_holds'] for cell in cells)} of {len(cells)}",
        **{what: where_it_holds(cells, what) for what in ("loss_error", "output_error", "agreement", "distance_ratio")},
    }
    show(result, cells)
    write_atomically(out / "prop1.json", json.dumps(result, indent=1, allow_nan=False, default=str).encode())
    try:
        write_atomically(out / "prop1.png", figure(result, cells, protocol))
    except MissingDependencyError as error:
        CONSOLE.print(f"No figure was written. {error}", markup=False)
    CONSOLE.print(f"wrote {out / 'prop1.json'}", markup=False)
    return result


def show(result: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    """Prints the tables."""
    table = Table(title=f"Spearman over experts, 95 % bootstrap intervals; {len(cells)} cells")
    for column in ("question", "task", "experts", "correlation", "interval"):
        table.add_column(column, justify="left" if column in ("question", "task") else "right")
    for row in result["answers"]:
        interval = "-" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}"
        table.add_row(row["question"], row["task"], str(row["experts"]), "-" if row["value"] is None else f"{row['value']:+.2f}", interval)
    CONSOLE.print(table)
    for what, title in (
        ("loss_error", "Formula against real training: error of the loss"),
        ("output_error", "error of the test outputs, relative to their change"),
        ("agreement", "share of equal test predictions"),
    ):
        steps = list(next(iter(result[what].values())))
        table = Table(title=f"{title} (median)")
        table.add_column("lr / stable lr", justify="right")
        for step in steps:
            table.add_column(f"{step} steps", justify="right")
        for share, row in result[what].items():
            table.add_row(share, *("inf" if row[step] is None else f"{row[step]:.1%}" for step in steps))
        CONSOLE.print(table)
    CONSOLE.print(f"Equation 5 held in {result['eq. 5 held']} cells.")


def figure(result: dict[str, Any], cells: list[dict[str, Any]], protocol: Protocol) -> bytes:
    """Discrepancy by learning rate and length; the correlations with their intervals."""
    page = new_figure(14, 9, "The figure")
    grid = page.add_gridspec(2, 3, width_ratios=(1, 1, 1.5))
    panels = (("loss_error", "error of the training loss (%)"), ("output_error", "error of the test outputs (%)"))
    panels += (("agreement", "equal test predictions (%)"), ("distance_ratio", "distance of the weights, formula / real (%)"))
    for place, (what, title) in enumerate(panels):
        axis = page.add_subplot(grid[place // 2, place % 2])
        for (share, row), colour in zip(result[what].items(), ("#009E73", "#0072B2", "#D55E00", "#CC79A7"), strict=False):
            values = [np.nan if value is None else 100 * value for value in row.values()]
            axis.plot(list(row), values, marker="o", markersize=3, color=colour, label=f"lr {share} x the stable one")
        axis.set(xscale="log", title=title, xlabel="steps")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if not place:
            axis.legend(frameon=False, fontsize=8)
    axis = page.add_subplot(grid[:, 2])
    tasks = list(dict.fromkeys(row["task"] for row in result["answers"]))
    questions = list(dict.fromkeys(row["question"] for row in result["answers"]))
    for row in result["answers"]:
        if row["value"] is not None:
            height = -questions.index(row["question"]) - 0.22 * (tasks.index(row["task"]) - (len(tasks) - 1) / 2)
            colour = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.4")[tasks.index(row["task"]) % 5]
            axis.plot([row["low"], row["high"]], [height, height], color=colour, linewidth=1.5)
            label = row["task"] if row["question"] == questions[0] else None
            axis.plot(row["value"], height, marker="o", color=colour, markersize=4, linestyle="none", label=label)
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set_yticks([-place for place in range(len(questions))], questions, fontsize=8)
    axis.set(xlim=(-1.05, 1.05), title="Spearman over experts, 95 % intervals")
    axis.spines[["top", "right"]].set_visible(False)
    if tasks:
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    page.suptitle(f"The linearised theory and real fine-tuning: {len(cells)} pairs of expert and task, {protocol.per_class} images per class")
    return file_content(page, "png")


if __name__ == "__main__":
    tyro.cli(main)
