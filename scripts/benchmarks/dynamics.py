"""Cost of a predicted loss curve: one eigendecomposition of the kernel, compared with Lanczos on products with it.

    python scripts/benchmarks/dynamics.py                        # both methods up to 400 images; about five minutes on two cores
    python scripts/benchmarks/dynamics.py --sizes --alone 5000 --task zip:cifar10.zip    # matrix-free alone, where the kernel no longer fits

Each measurement runs in its own process, which reports its peak memory. Times include compilation; only ratios carry over to
another machine.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.models import ZOO

LINEAR = ns.linearized


@dataclass(frozen=True)
class Measure:
    """One measurement; printed as JSON."""

    n: int
    method: str
    expert: str
    task: str
    lr: float
    steps: int
    max_products: int


def measured(ask: Measure) -> dict:
    """The curve after 0 .. steps steps, its time and the peak memory of this process."""
    task = load_task(ask.task)
    chosen = np.sort(np.random.default_rng(0).permutation(len(task.labels))[: ask.n])
    expert = ns.with_new_head(ZOO[ask.expert](), task.num_classes)
    x = np.asarray(expert.preprocess([np.asarray(task.images[int(place)]) for place in chosen]))
    y = LINEAR.targets(task.labels[chosen], task.num_classes)
    start = LINEAR.train(expert, x, y, optax.sgd(0.0), times=[0]).train_outputs[0]
    before = peak()
    began = time.perf_counter()
    kernel = LINEAR.network_kernel(expert, x, method=ask.method)
    found = LINEAR.loss_curve(kernel.kernel, y - start, lr=ask.lr, steps=ask.steps, optimizer="gd", loss="mean", max_products=ask.max_products)
    seconds = time.perf_counter() - began
    products = getattr(kernel.kernel, "count", 0)
    return {"seconds": seconds, "peak_gb": peak(), "before_gb": before, "products": products, "why": kernel.reason, "curve": found.tolist()}


def peak() -> float:
    """Peak memory of this process in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)


def main(
    sizes: tuple[int, ...] = (100, 200, 400),
    alone: tuple[int, ...] = (),
    expert: str = "fashion_mnist-resnet_small",
    task: str = "digits",
    lr: float = 0.005,
    steps: int = 200,
    max_products: int = 300,
    measure: str = "",
) -> None:
    """Measures and prints a table.

    Args:
      sizes: numbers of training images for both methods.
      alone: further numbers, for the matrix-free method alone.
      expert: name of an embedded expert.
      task: a task URI.
      lr: learning rate of plain descent on the mean squared error.
      steps: length of the curve.
      max_products: limit of the matrix-free method.
      measure: one measurement as JSON, which the script passes to its own subprocess.
    """
    if measure:
        print(json.dumps(measured(Measure(**json.loads(measure)))))
        return
    table = Table(title=f"{expert} on {task}, ten outputs: {steps} steps of descent")
    for column in ("images", "method", "seconds", "peak GB", "products", "largest relative difference of the losses"):
        table.add_column(column, justify="right")
    console = Console(width=150)
    for n in (*sizes, *alone):
        curves = {}
        for method in ("dense", "matrix-free") if n in sizes else ("matrix-free",):
            ask = {"n": n, "method": method, "expert": expert, "task": task, "lr": lr, "steps": steps, "max_products": max_products}
            done = subprocess.run([sys.executable, __file__, "--measure", json.dumps(ask)], capture_output=True, text=True)
            if done.returncode:
                console.print(done.stderr[-2000:], markup=False)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            curves[method] = np.array(found["curve"])
            apart = np.abs(curves[method] / curves["dense"] - 1).max() if len(curves) == 2 else None
            row = [
                str(n),
                method,
                f"{found['seconds']:.1f}",
                f"{found['peak_gb']:.2f}",
                str(found["products"]),
                "" if apart is None else f"{apart:.1e}",
            ]
            table.add_row(*row)
            console.print(f"{n} images, {method}: {found['seconds']:.1f} s. {found['why']}", markup=False)
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
