"""Validation of the forecast: predicted against measured accuracy on the records of a benchmark, an ablation of its choices, and its cost.

    python scripts/benchmarks/forecast.py fidelity --records scripts/results/embedded --figure scripts/figures/forecast.png
    python scripts/benchmarks/forecast.py choices --records scripts/results/embedded --data FOLDER --out runs/forecast --tasks digits neu_steel
    python scripts/benchmarks/forecast.py cost --architecture resnet50 --images 250

`fidelity` only reads records. `choices` computes kernels again, in training mode and with the expert's own statistics, from 4 to 32
directions, and simulates them; interrupted runs resume. `cost` compares one forecast with the forward passes that LFC needs and with one
training step.
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from pandas import DataFrame
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import ntk_select as ns
from ntk_select._runtime.figures import colours, file_content, new_figure
from ntk_select._runtime.files import write_atomically
from ntk_select.benchmark.config import read_config
from ntk_select.benchmark.facts import load
from ntk_select.benchmark.report.forecast import MEAN, PAIR, forecast_accuracy, predictions
from ntk_select.benchmark.report.results import Results, read_results, shots_of
from ntk_select.benchmark.report.words import shots_text
from ntk_select.forecasting.cross_validation import best, cross_validate
from ntk_select.forecasting.kernel import directions_for, training_kernel
from ntk_select.models import open_zoo
from ntk_select.models.architectures import fresh_expert
from ntk_select.training.finetuning.recipe import LEARNING_RATES

CONSOLE = Console(width=150)
DIRECTIONS = (4, 8, 16, 32)


def measured(folder: Path) -> dict[tuple, float]:
    """Fine-tuned accuracy by task, images per class, seed and expert; balanced where the benchmark does so."""
    table = read_results(folder).finetuning_table
    rows = table[table["role"] == "truth"].itertuples()
    return {(row.task, shots_of(row.images_per_class), row.seed, row.expert): row.judged for row in rows}


@dataclass(frozen=True)
class Fidelity:
    """Predicted and measured accuracy."""

    records: Path = Path("scripts/results/embedded")
    """Folder of a benchmark's records, packed."""
    figure: Path | None = None
    """File of the scatter figure."""
    worst: int = 0
    """How many of the largest errors to list, one by one."""

    def run(self) -> None:
        """Prints the report's table of the forecast, and the largest errors, and plots."""
        results = read_results(self.records)
        found = forecast_accuracy(results)
        table = Table(*(column.title for column in found.columns))
        for row in found.rows:
            cells = zip(found.columns, row, strict=True)
            table.add_row(*(column.shown(cell) for column, cell in cells), end_section=row[0] == MEAN)
        CONSOLE.print(table)
        if self.worst:
            CONSOLE.print(_largest_errors(results, self.worst))
        if self.figure is not None:
            write_atomically(self.figure, _scatter(predictions(results), self.figure.suffix[1:]))


def _largest_errors(results: Results, count: int) -> Table:
    """The pairs whose forecast is furthest from the measured accuracy, with the learning rate of both."""
    rates = results.finetuning_table.query("role == 'truth'").drop_duplicates(PAIR, keep="last")[[*PAIR, "learning_rate"]]
    scores = results.score_table.query("score == 'forecast'").drop_duplicates(PAIR, keep="last")
    expected = scores[PAIR].assign(expected_rate=[json.loads(terms)["learning_rate"] if terms else None for terms in scores["terms"]])
    pairs = predictions(results).merge(rates, on=PAIR).merge(expected, on=PAIR)
    pairs = pairs.assign(error=pairs["predicted"] - pairs["measured"])
    table = Table(
        "target", "images per class", "expert", "seed", "forecast (%)", "measured (%)", "error", "rate of the forecast", "rate of validation"
    )
    for row in pairs.reindex(pairs["error"].abs().sort_values(ascending=False).index).head(count).itertuples():
        numbers = (f"{100 * row.predicted:.1f}", f"{100 * row.measured:.1f}", f"{100 * row.error:+.1f}")
        table.add_row(
            row.task,
            shots_text(shots_of(row.images_per_class)),
            row.expert,
            str(row.seed),
            *numbers,
            f"{row.expected_rate:g}",
            f"{row.learning_rate:g}",
        )
    return table


def _scatter(pairs: DataFrame, file_format: str) -> bytes:
    sizes = pairs.groupby("images_per_class")
    tasks = pairs["task"].unique()
    figure = new_figure(4.6 * len(sizes), 5.0 + 0.3 * -(-len(tasks) // 4), "The figure of fidelity")
    palette = colours("tab20")
    for axes, (images, of_size) in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        for place, (task, found) in enumerate(of_size.groupby("task")):
            axes.plot(100 * found["predicted"], 100 * found["measured"], "o", ms=3, color=palette(place % 20), label=task)
        axes.plot([0, 100], [0, 100], color="0.6", lw=1, zorder=0)
        axes.set(
            xlabel="forecast accuracy (%)",
            ylabel="measured after fine-tuning (%)",
            title=shots_text(shots_of(images)),
            xlim=(0, 100),
            ylim=(0, 100),
        )
        axes.set_aspect("equal")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return file_content(figure, file_format)


@dataclass(frozen=True)
class Choices:
    """Ablation of the forecast's choices: Spearman correlation with measured accuracy, mean over the targets."""

    data: Path
    """Folder of the benchmark's data."""
    records: Path = Path("scripts/results/embedded")
    """Folder of its records, packed."""
    config: Path = Path("scripts/configs/embedded_benchmark.toml")
    """Its config."""
    out: Path = Path("runs/forecast")
    """Folder for kernels; existing ones are not computed again."""
    tasks: tuple[str, ...] = ()
    """Only these targets."""

    def run(self) -> None:
        """Computes missing kernels and prints a table."""
        ground_truth, config = measured(self.records), read_config(self.config)
        zoo = open_zoo(list(config.zoo))
        found = defaultdict(lambda: defaultdict(list))
        for name in self.tasks or config.tasks:
            task, recipe = load(name, config.tasks[name], self.data), config.recipe_of(name)
            for shots in sorted({key[1] for key in ground_truth if key[0] == name}):
                experts = sorted(key[3] for key in ground_truth if key[:3] == (name, shots, 0))
                real = [ground_truth[name, shots, 0, expert] for expert in experts]
                values = [self._of(replace(zoo[expert](), name=expert), task, shots, recipe, config.learning_rates) for expert in experts]
                for way in values[0]:
                    for score in ("accuracy", "loss"):
                        sign = 1 if score == "accuracy" else -1
                        order = spearmanr([sign * value[way][score] for value in values], real)[0]
                        found[way][shots, score].append((order, np.mean([value[way]["accuracy"] for value in values]) - np.mean(real)))
                CONSOLE.print(f"{name}, {shots} images per class: {len(experts)} experts")
        columns = sorted({column for line in found.values() for column in line})
        table = Table(
            "kernel, directions, folds", *(f"{score}, {shots}" for shots, score in columns), *(f"bias, {shots}" for shots, _ in columns[::2])
        )
        for way, line in found.items():
            orders = [f"{np.mean([order for order, _ in line[column]]):.2f}" for column in columns]
            table.add_row(way, *orders, *(f"{100 * np.mean([bias for _, bias in line[column]]):+.1f}" for column in columns[::2]))
        CONSOLE.print(table)

    def _of(self, expert: ns.Expert, task: ns.Task, shots: int, recipe: ns.Recipe, rates: tuple[float, ...]) -> dict[str, dict[str, float]]:
        file = self.out / f"{task.name}-{shots}-{expert.name}.json"
        if file.exists():
            return json.loads(file.read_text())
        sample = ns.probe_sample(task, per_class=shots)
        x, values = np.asarray(expert.preprocess(sample.images)), {}
        for mode in ("train", "frozen"):
            for directions in DIRECTIONS:
                kernel = training_kernel(expert, x, batch_norm=mode, directions=directions, seed=directions)
                for folds in (5, 10):
                    outlooks = cross_validate(kernel.with_head(), sample.labels, replace(recipe, batch_norm=mode), rates, folds=folds)
                    chosen = best(outlooks) or outlooks[-1]
                    values[f"{mode}, {directions}, {folds}"] = {"accuracy": chosen.accuracy, "loss": min(chosen.loss, 1e3)}
        write_atomically(file, json.dumps(values).encode())
        return values


@dataclass(frozen=True)
class Cost:
    """Seconds of one forecast, of the forward passes that LFC needs, and of a training step."""

    architecture: str = "resnet50"
    """Of the network, with random weights."""
    images: int = 250
    """In the probe sample, of ten classes."""
    size: int = 224
    """Pixels along an image."""

    def run(self) -> None:
        """Prints seconds and ratios."""
        expert = fresh_expert("network", self.architecture, num_classes=1000, preprocess=ns.Preprocess(size=self.size))
        rng = np.random.default_rng(0)
        x, labels = rng.normal(size=(self.images, self.size, self.size, 3)).astype(np.float32), np.arange(self.images) % 10
        width = expert.head_kernel.shape[0]
        forward = jax.jit(expert.features_fn)
        passes = _seconds(lambda: [np.asarray(forward(expert.variables, x[first : first + 25])) for first in range(0, self.images, 25)])
        began = time.perf_counter()
        kernel = training_kernel(expert, x)
        whole = time.perf_counter() - began
        simulated = _seconds(partial(cross_validate, kernel.with_head(), labels, ns.Recipe(), LEARNING_RATES))
        batch = (x[:32], labels[:32])

        def loss(params):
            return ns.training.mean_cross_entropy(expert.train_fn({"params": params, **expert.state}, batch[0])[0].logits, batch[1])

        step = jax.jit(jax.grad(loss))
        steps = _seconds(lambda: jax.block_until_ready(step(expert.params)))
        tuning = steps * -(-self.images // 32) * 30 * 4
        CONSOLE.print(
            f"{self.architecture}, {self.images} images of {self.size} px, {directions_for(width)} directions: kernel {whole:.1f} s with compilation, "
            f"simulation {simulated:.2f} s; forward passes {passes:.1f} s: {(whole + simulated) / passes:.1f} times. A fine-tuning with three rates and "
            f"its last training, from a step of {steps:.1f} s: {tuning / 3600:.1f} hours, {tuning / (whole + simulated):.0f} forecasts."
        )


def _seconds(work) -> float:
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    Command = (
        Annotated[Fidelity, tyro.conf.subcommand("fidelity")]
        | Annotated[Choices, tyro.conf.subcommand("choices")]
        | Annotated[Cost, tyro.conf.subcommand("cost")]
    )
    tyro.cli(Command).run()
