"""Cost of the scores: LFC and LGC of an expert and its images; all scores of features, compared with the naive formulas; memory.

    python scripts/benchmarks/scores.py                                  # two embedded experts, digits
    python scripts/benchmarks/scores.py --arch resnet101 --size 224      # random weights: the cost is the same
    python scripts/benchmarks/scores.py --features                       # every score of features, compared with naive_scores.py
    python scripts/benchmarks/scores.py --memory 500 5000                # peak memory of a ranking of so many images of 224 pixels

LFC and LGC start from the same resized images in memory; their calls alternate: a slow moment of the machine
affects both. The first call includes compilation and is reported separately. Only ratios carry over to another machine.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro
from naive_scores import NAIVE, NAIVE_TERMS
from rich.console import Console
from rich.table import Table

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import forward
from ntk_select.models import ZOO, build, initialise, make_expert
from ntk_select.scores import SCORES, Features


def random_expert(architecture: str, size: int) -> Expert:
    """An expert with random weights and a head of 1,000 classes."""
    module, rng = build(architecture, num_classes=1000), np.random.default_rng(0)

    def leaf(path, shape):
        if path[-1].key == "kernel":
            return (rng.normal(size=shape.shape) * np.sqrt(2 / np.prod(shape.shape[:-1]))).astype(np.float32)
        return np.full(shape.shape, 0.0 if path[-1].key in ("bias", "mean") else 0.5, np.float32)

    shapes = jax.eval_shape(partial(initialise, module, size=size), jax.random.key(0))
    return make_expert(architecture, module, jax.tree_util.tree_map_with_path(leaf, shapes), preprocess=ns.Preprocess(size))


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(expert: Expert, task: ns.Task, *, per_class: int, repeats: int, batch_size: int) -> dict[str, float]:
    """Median seconds of either score, and of the first call with its compilation."""
    sample = ns.probe_sample(task, per_class=per_class)
    pixels = expert.preprocess.resized(sample.images)

    def lfc():
        passes = forward(expert, expert.preprocess.normalised(pixels), batch_size=batch_size)
        return ns.lfc(np.asarray(passes.features), sample.labels)

    def lgc():
        return ns.lgc(expert, expert.preprocess.normalised(pixels), sample.labels, batch_size=batch_size)

    first = [seconds_of(lfc), seconds_of(lgc)]
    pairs = [(seconds_of(lfc), seconds_of(lgc)) for _ in range(repeats)]
    lfc_seconds, lgc_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "images": len(sample),
        "lfc seconds": lfc_seconds,
        "lgc seconds": lgc_seconds,
        "lgc / lfc": statistics.median(b / a for a, b in pairs),
        "first lfc": first[0],
        "first lgc": first[1],
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measure_features(n: int, d: int, c: int) -> list[dict[str, str | float]]:
    """Seconds of every score that needs only features and labels: alone, among all others (decompositions shared), and naive."""
    rng = np.random.default_rng(0)
    names = [name for name, score in SCORES.items() if score.needs == ("features", "labels")]

    def sample(n, d, c):
        labels = np.arange(n) % c
        return np.maximum(rng.normal(size=(n, d)) + 0.35 * rng.normal(size=(c, d))[labels], 0), labels

    small = sample(200, 70, 3)
    for run in (*(SCORES[name].fn for name in names), *NAIVE.values(), *(naive for _, naive in NAIVE_TERMS.values())):
        run(*small)  # imports are not what is measured
    array, labels = sample(n, d, c)
    shared, rows, total = Features(array), [], 0.0
    for name in names:
        score = SCORES[name]
        alone = seconds_of(lambda score=score: score.evaluate(features=Features(array), labels=labels))
        began = time.perf_counter()
        outcome = score.evaluate(features=shared, labels=labels)
        total += (among := time.perf_counter() - began)
        row = {"score": name, "alone": alone, "among all": among, "naive": "-", "naive / alone": "-", "relative difference": "-"}
        term, naive = NAIVE_TERMS.get(name, (None, NAIVE.get(name)))
        if naive is not None:
            began = time.perf_counter()
            expected = naive(array, labels)
            spent = time.perf_counter() - began
            value = outcome.details[term] if term else outcome.value
            row |= {"naive": spent, "naive / alone": "-" if term else spent / alone, "relative difference": f"{abs(value / expected - 1):.0e}"}
        rows.append(row)
    return [*rows, {"score": "all", "alone": "", "among all": total, "naive": "", "naive / alone": "", "relative difference": ""}]


class Noise(Sequence):
    """Images of 256 pixels, generated on access, as a decoder does."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, place: int) -> np.ndarray:
        return np.random.default_rng(place).integers(0, 256, size=(256, 256, 3), dtype=np.uint8)


def patches(_variables, x):
    """Means over patches of 8 x 8 pixels: a network of negligible cost, to measure the handling of images alone."""
    return x.reshape(len(x), x.shape[1] // 8, 8, x.shape[2] // 8, 8, 3).mean((2, 4)).reshape(len(x), -1)


def peak_memory(images: int, size: int) -> dict[str, float | int]:
    """Peak memory of this process after a ranking by LFC, and the part of it that was there before."""
    expert = ns.Expert("patches", patches, {}, features_fn=patches, preprocess=ns.Preprocess(size, resize=256 * size // 224))
    task = ns.Task("noise", Noise(images), np.arange(images) % 100, tuple(map(str, range(100))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = seconds_of(lambda: ns.rank([expert], task, ("lfc",), per_class=images, resamples=0, progress=False))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"images": images, "GB before": before, "peak GB": peak, "MB per image": 1024 * (peak - before) / images, "seconds": seconds}


def in_fresh_processes(images: tuple[int, ...], size: int) -> list[dict]:
    """`peak_memory` of each number of images, in a process of its own."""
    rows = []
    for count in images:
        program = f"import json, scores as b; print(json.dumps(b.peak_memory({count}, {size})))"
        found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
        rows.append(json.loads(found.stdout.splitlines()[-1]))
    return rows


def main(
    arch: tuple[str, ...] = (),
    size: int = 224,
    task: str = "digits",
    per_class: int = 25,
    repeats: int = 9,
    batch_size: int = 32,
    features: bool = False,
    shape: tuple[int, int, int] = (2500, 2048, 100),
    memory: tuple[int, ...] = (),
) -> None:
    """Measures and prints a table.

    Args:
      arch: architectures with random weights; none for two embedded experts.
      size: input size of `arch`, in pixels.
      task: a task URI.
      per_class: images per class.
      repeats: calls behind each median.
      batch_size: images per forward pass.
      features: measure all scores of features instead.
      shape: images, features and classes for `features`.
      memory: numbers of images; measure the peak memory of a ranking instead.
    """
    if memory:
        rows = in_fresh_processes(memory, size)
    elif features:
        rows = measure_features(*shape)
    else:
        experts = [random_expert(name, size) for name in arch] or [ZOO["cifar10-resnet_small"](), ZOO["cifar10-densenet_small"]()]
        loaded = load_task(task)
        rows = [{"expert": expert.name, **measure(expert, loaded, per_class=per_class, repeats=repeats, batch_size=batch_size)} for expert in experts]
    table = Table()
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    tyro.cli(main)
