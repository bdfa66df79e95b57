"""Checks this package on an accelerator: exactness against the host in float64, share of the peak, and seconds by row.

    python scripts/benchmarks/check_accelerator.py                   # a few minutes on one GPU
    python scripts/benchmarks/check_accelerator.py --size 32 --networks resnet18 --dense 1024   # small, to try it on a CPU
    python scripts/benchmarks/check_accelerator.py --out check.json

Exits with status 1 if a result is further from float64 than its tolerance. Needs no network and no data: images are
noise, the expert is one of the embedded ones.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from ntk import Ours
from ntk_workload import images, network, weights
from rich.console import Console
from rich.table import Table

import ntk_select as ns

TOLERANCES = {"highest": 1e-4, "high": 3e-3, "default": 3e-2}
"""Relative Frobenius distance from float64 that is allowed for each precision of products."""


@dataclass
class Check:
    """All checks, one after the other."""

    size: int = 224
    """Pixels of the timed networks."""
    networks: tuple[str, ...] = ("resnet18", "resnet50")
    """The timed networks."""
    shapes: tuple[str, ...] = ("8x8", "1x128")
    """Examples x outputs of the timed kernels."""
    examples: int = 16
    """Images of the checks of exactness."""
    dense: int = 8192
    """Size of the matrix product that measures the peak."""
    peak_tflops: float | None = None
    """Peak of the device in float32, instead of the measured one."""
    out: Path | None = None
    """A JSON file for the results."""
    rows: list[dict] = field(default_factory=list, init=False)

    def run(self) -> bool:
        """Prints the tables. Returns whether all results are within their tolerances."""
        began, device = time.perf_counter(), jax.devices()[0]
        facts = {"device": device.device_kind, "platform": device.platform, "devices": jax.device_count(), "jax": jax.__version__}
        print(", ".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
        self._kernels()
        self._sketches()
        self._scores()
        self._training()
        peaks = self._peaks()
        for name in self.networks:
            for shape in self.shapes:
                self._timed(name, *map(int, shape.split("x")), peaks)
        facts |= {"seconds": round(time.perf_counter() - began, 1), "right": all(row.get("right", True) for row in self.rows)}
        print(f"{'All results are within their tolerances' if facts['right'] else 'SOME RESULTS ARE WRONG'}; {facts['seconds']} s in all.")
        if self.out is not None:
            self.out.write_text(json.dumps({**facts, "rows": self.rows}, indent=1))
        return facts["right"]

    def _kernels(self) -> None:
        params, x = weights(outputs=10), images(self.examples)
        for outputs in ("trace", "full"):
            exact = _on_host(lambda cast, outputs=outputs: ns.ntk(network, cast(params), cast(x), outputs=outputs))
            for precision in TOLERANCES:
                run = lambda outputs=outputs, precision=precision: ns.ntk(network, params, x, outputs=outputs, precision=precision)  # noqa: E731
                self._compared(f"kernel, {outputs}", precision, run, exact)
        exact = _on_host(lambda cast: ns.ntk_vector_product(network, cast(params), cast(x), np.ones((len(x), 10))))
        self._compared("Theta v", "highest", lambda: ns.ntk_vector_product(network, params, x, np.ones((len(x), 10), np.float32)), exact)

    def _sketches(self) -> None:
        params, x = weights(outputs=10), images(self.examples)
        for kind in ("countsketch", "srht", "kronecker"):
            options = {"dim": 512, "kind": kind}
            exact = _on_host(lambda cast, options=options: ns.sketch(network, cast(params), cast(x), **options))
            self._compared(f"sketch, {kind}", "highest", lambda options=options: ns.sketch(network, params, x, **options), exact, factor=10)

    def _scores(self) -> None:
        expert = ns.open_zoo("builtin")["cifar10-resnet_small"]()
        x = np.random.default_rng(0).uniform(size=(40, 32, 32, 3)).astype(np.float32)
        labels = np.arange(40) % 4
        features = np.asarray(expert.features_fn(expert.variables, x))
        self._compared("LFC", "highest", lambda: np.array(ns.lfc(features, labels)), _on_host(lambda cast: np.array(ns.lfc(cast(features), labels))))
        exact = _on_host(lambda cast: ns.ntk(expert.apply_fn, cast(expert.variables), cast(x), layers=_last_conv(expert)))
        self._compared("kernel of LGC", "highest", lambda: ns.gradient_kernel(expert, x), exact)
        score = ns.kernel_label_correlation(exact, labels)
        self._compared("LGC", "highest", lambda: np.array(float(ns.lgc(expert, x, labels))), np.array(score))

    def _training(self) -> None:
        params, x = weights(outputs=10), images(self.examples)
        targets = np.eye(10)[np.arange(len(x)) % 10]

        def outputs(cast, params=params):
            options = {"params": cast(params), "loss": "cross_entropy", "steps": 2}
            trained = ns.linearized.train(network, cast(x), targets, optax.sgd(1e-3, momentum=0.9, nesterov=True), **options)
            return trained.train_outputs[-1] - trained.train_outputs[0]

        self._compared("two steps of fine-tuning", "highest", lambda: outputs(lambda tree: tree), _on_host(outputs), factor=100)

    def _compared(self, what: str, precision: str, run: Callable[[], Any], exact: np.ndarray, *, factor: float = 1.0) -> None:
        jax.block_until_ready(run())
        found, seconds = _timed(run)
        error = float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))
        row = {"what": what, "precision": precision, "error": error, "seconds": seconds, "right": error <= factor * TOLERANCES[precision]}
        self.rows.append(row)
        print(f"{what:28} {precision:8} relative error {error:.1e}  {seconds:8.4f} s  {'right' if row['right'] else 'WRONG'}", flush=True)

    def _peaks(self) -> dict[str, float]:
        a = jnp.ones((self.dense, self.dense), jnp.float32)
        peaks = {}
        for precision in ("highest", "default"):
            product = jax.jit(lambda a, precision=precision: jnp.matmul(a, a, precision=precision))
            jax.block_until_ready(product(a))
            peaks[precision] = self.peak_tflops or 2 * self.dense**3 / _timed(lambda product=product: product(a))[1] / 1e12
            print(f"matrix product of {self.dense}, {precision}: {peaks[precision]:.2f} TFLOP/s", flush=True)
        return peaks

    def _timed(self, name: str, examples: int, outputs: int, peaks: dict[str, float]) -> None:
        fn, params, layers = Ours(examples, outputs, network=name, size=self.size)._model()
        x1, x2 = jax.device_put((images(examples, self.size), images(examples, self.size, seed=2)))
        flops = ns.ntk_plan(fn, params, x1, x2, layers=layers).flops
        table = Table("kernel", "precision", "seconds", "first call", "TFLOP/s", "share of the product's")
        for precision, peak in peaks.items():
            run = lambda precision=precision: ns.ntk(fn, params, x1, x2, layers=layers, precision=precision)  # noqa: E731
            first = _timed(run)[1]
            seconds = min(_timed(run)[1] for _ in range(3))
            rate = flops / seconds / 1e12
            what = f"{name}, {examples} x {examples}, {outputs} outputs, {self.size} px"
            self.rows.append({"what": what, "precision": precision, "seconds": seconds, "first": first, "tflops": rate, "share": rate / peak})
            table.add_row(what, precision, f"{seconds:.4f}", f"{first:.1f}", f"{rate:.2f}", f"{rate / peak:.0%}")
        Console(width=120).print(table)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = jax.block_until_ready(run())
    return found, time.perf_counter() - began


def _on_host(run: Callable[[Callable], Any]) -> np.ndarray:
    """The result of run(cast) on the host, with `cast` to float64."""

    def cast(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if np.asarray(leaf).dtype.kind == "f" else leaf, tree)

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(run(cast), np.float64)


def _last_conv(expert) -> str:
    return "^" + "/".join(("params", *expert.last_conv.path)) + "$"


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(Check).run() else 1)
