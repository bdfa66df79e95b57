"""Time and memory of the exact kernel, compared with neural-tangents and with the engine's own plan.

    python scripts/benchmarks/ntk.py                                   # all of it, about ten minutes on two cores
    python scripts/benchmarks/ntk.py --peer-python OLD/bin/python      # with structured derivatives, which need jax 0.4.23
    python scripts/benchmarks/ntk.py --suite spaces                    # per-layer choice against parameter space alone
    python scripts/benchmarks/ntk.py --suite accelerator               # ResNet-18 and ResNet-50 at 224 pixels
    python scripts/benchmarks/ntk.py --suite before --before CHECKOUT  # each row in an earlier version of this package as well

OLD is an environment with `pip install jax==0.4.23 jaxlib==0.4.23 neural-tangents==0.6.5 "numpy<2" "scipy<1.13"`.
Every measurement runs in its own process, which reports its peak memory; times exclude compilation.
The workload is the class trace of `ntk_workload.network`, float32. Only ratios carry over to another machine.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from ntk_workload import images, network, weights
from rich.console import Console
from rich.table import Table

import ntk_select as ns

HERE = Path(__file__).parent
STRUCTURED = "STRUCTURED_DERIVATIVES"
COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Ours:
    """One measurement of this package, printed as JSON. The other suites call it."""

    examples: int
    outputs: int
    network: str = "workload"
    size: int = 32
    space: Literal["parameter", "sample"] | None = None
    memory_gb: float | None = None
    precision: str = "highest"
    repeats: int = 3
    square: bool = True
    method: str = "structured"
    batch_size: int | None = None

    def run(self) -> None:
        """Times the kernel; the first call compiles and is not counted."""
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event) if event == COMPILED else None)
        fn, params, layers = self._model()
        x1 = images(self.examples, self.size) if self.network not in ROWS else _rows(self.examples)
        x2 = None if self.square else images(self.examples, self.size, seed=2)
        options = {"layers": layers, "memory_gb": self.memory_gb, "batch_size": self.batch_size}
        engine = {"space": self.space} if self.method == "structured" else {"method": self.method}
        seconds, programs, start, before = [], [], _resident(), len(compiled)
        for _ in range(self.repeats + 1):
            call = fn if self.network != "lambda" else lambda params, x: fn(params, x)
            began = time.perf_counter()
            kernel = np.asarray(ns.ntk(call, params, x1, x2, precision=self.precision, **options, **engine))
            seconds.append(time.perf_counter() - began)
            programs.append(len(compiled) - before)
        plan = ns.ntk_plan(fn, params, x1, x2, **options, space=self.space)
        peak = _resident()
        if jax.default_backend() != "cpu":
            peak, start = jax.devices()[0].memory_stats()["peak_bytes_in_use"], 0
        result = {
            "seconds": min(seconds[1:]),
            "first": seconds[0],
            "programs": programs[0],
            "again": programs[-1] - programs[0],
            "peak_bytes": peak,
            "added_bytes": peak - start,
            "flops": plan.flops,
            "predicted_bytes": plan.peak_bytes,
        }
        print(json.dumps({**result, "sum": float(kernel.sum()), "trace": float(np.trace(kernel))}))

    def _model(self):
        if self.network == "workload":
            return network, jax.device_put(weights(outputs=self.outputs)), None
        if self.network in ROWS:
            rng = np.random.default_rng(0)
            params = {"w": rng.normal(size=(64, self.outputs)), "b": rng.normal(size=64), "v": rng.normal(size=(64, 64))}
            return ROWS[self.network], jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params), None
        if self.network == "embedded":
            expert = ns.open_zoo("builtin")["cifar10-resnet_small"]()
            return expert.apply_fn, jax.device_put(expert.variables), "^params/"
        from ntk_select.models import build, initialise

        module, rng = build(self.network, num_classes=self.outputs), np.random.default_rng(0)

        def leaf(path, shape):
            if path[-1].key == "kernel":
                return (rng.normal(size=shape.shape) * np.sqrt(2 / np.prod(shape.shape[:-1]))).astype(np.float32)
            return np.full(shape.shape, 0.0 if path[-1].key in ("bias", "mean") else 0.5, np.float32)

        shapes = jax.eval_shape(partial(initialise, module, size=self.size), jax.random.key(0))
        return module.apply, jax.device_put(jax.tree_util.tree_map_with_path(leaf, shapes)), "^params/"


def _rows(n: int) -> np.ndarray:
    """Noise for the functions in `ROWS`."""
    return np.random.default_rng(1).normal(size=(n, 64)).astype(np.float32)


ROWS = {
    "given": lambda params, x: x @ params["w"],
    "tanh": lambda params, x: jnp.tanh(x @ params["v"] + params["b"]) @ params["w"],
    "relu": lambda params, x: jax.nn.relu(x @ params["v"] + params["b"]) @ params["w"],
    "lambda": lambda params, x: jnp.tanh(x @ params["v"] + params["b"]) @ params["w"],
}
"""Small functions: a linear one, whose gradients are the examples; networks of one layer; one that is a new function at every call."""


@dataclass(frozen=True)
class Leak:
    """Memory that is not released after many functions, each of which captures an array of its own."""

    functions: int = 100
    megabytes: int = 25

    def run(self) -> None:
        """Prints the growth of the resident memory from the third function on."""
        x, params, held = _rows(8), {"v": np.ones((64, 3), np.float32)}, []
        for index in range(self.functions):
            captured = jnp.full(self.megabytes * 250_000, 1.0 + index)
            ns.ntk(lambda params, x, captured=captured: jnp.tanh(x @ params["v"]) * captured[:3], params, x)
            del captured
            status = Path("/proc/self/status").read_text().splitlines()
            held.append(int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024)
        print(json.dumps({"functions": self.functions, "grown_bytes": held[-1] - held[2]}))


def _resident() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Suite:
    """Suites of measurements."""

    suite: Literal["all", "peer", "scaling", "spaces", "accelerator", "before"] = "all"
    """Suite: against neural-tangents; growth with the examples; per-layer choice; 224 pixels on an accelerator; against an earlier version."""
    before: Path | None = None
    """A checkout of an earlier version of this package."""
    peer_python: Path | None = None
    """A Python with jax 0.4.23 and neural-tangents 0.6.5, for its structured derivatives."""
    repeats: int = 3
    """Timed runs of each; the fastest counts."""
    peak_tflops: float | None = None
    """Peak of the device in float32, to report the fraction that is reached."""

    def run(self) -> None:
        """Measures and prints the tables."""
        for name in ("peer", "scaling", "spaces") if self.suite == "all" else (self.suite,):
            getattr(self, f"_{name}")()

    def _peer(self) -> None:
        rows = []
        for examples, outputs, block in ((8, 10, None), (24, 10, None), (64, 1, None), (64, 10, 8)):
            ours, mine = self._ours(examples, outputs), []
            for implementation in ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS", STRUCTURED):
                if (implementation == "NTK_VECTOR_PRODUCTS" and examples > 8) or (
                    implementation == STRUCTURED and (self.peer_python is None or block)
                ):
                    continue
                mine.append((implementation, self._theirs(implementation, examples, outputs, block)))
            best = min(result["seconds"] for _, result in mine)
            rows.append((f"{examples} examples, {outputs} outputs", "ntk_select", ours, f"{ours['seconds'] / best:.2f} of its best"))
            for implementation, result in mine:
                off = abs(ours["sum"] / result["sum"] - 1)
                words = implementation.lower().replace("_", " ") + (f", blocks of {block}" if block else "")
                rows.append(("", f"neural-tangents, {words}", result, f"{result['seconds'] / ours['seconds']:.1f} x ours; sums differ by {off:.0e}"))
        _print("Compared with neural-tangents", rows)

    def _scaling(self) -> None:
        rows, base = [], None
        for examples, budget in ((64, 2.0), (128, 2.0), (256, 2.0), (256, 1.0)):
            result = self._ours(examples, 10, memory_gb=budget)
            base = base or result
            words = f"time x {result['seconds'] / base['seconds']:.2f}, operations x {result['flops'] / base['flops']:.2f}"
            rows.append((f"{examples} examples, 10 outputs", f"budget {budget} GB", result, words))
        _print("Growth with the examples", rows)

    def _spaces(self) -> None:
        rows = []
        for name in ("resnet50", "densenet121"):
            chosen = self._ours(256, 1, network=name)
            forced = self._ours(256, 1, network=name, space="parameter")
            words = f"{forced['seconds'] / chosen['seconds']:.1f} x faster; operations {forced['flops'] / chosen['flops']:.1f} x fewer"
            rows.append((f"{name}, 32 pixels, 256 examples, 1 output", "cheaper space per layer", chosen, words))
            rows.append(("", "parameter space alone", forced, f"sums differ by {abs(chosen['sum'] / forced['sum'] - 1):.0e}"))
        _print("Cheaper space per layer", rows)

    def _accelerator(self) -> None:
        rows = []
        for name in ("resnet18", "resnet50"):
            for examples, outputs in ((8, 8), (1, 128), (1, 1000)):
                for precision in ("default", "highest"):
                    case = {"network": name, "size": 224, "precision": precision, "square": False}
                    ours = self._ours(examples, outputs, **case)
                    reached = ours["flops"] / ours["seconds"] / 1e12
                    share = "" if self.peak_tflops is None else f", {reached / self.peak_tflops:.0%} of the peak"
                    rows.append(
                        (f"{name}, {examples} x {examples}, {outputs} outputs, {precision}", "ntk_select", ours, f"{reached:.2f} TFLOP/s{share}")
                    )
                    for method in ("neural-tangents",):
                        result = self._ours(examples, outputs, **case, method=method)
                        rows.append(("", method, result, "" if "failed" in result else f"{result['seconds'] / ours['seconds']:.1f} x ours"))
        _print("224 pixels", rows)

    def _before(self) -> None:
        if self.before is None:
            raise SystemExit("The suite 'before' needs an earlier version. Try: --before CHECKOUT")
        rows = []
        cases = [(n, c, {}) for n, c in ((8, 10), (24, 10), (64, 1), (64, 10), (128, 10), (256, 10))]
        cases += [(128, 10, {"network": "embedded"}), (8000, 1, {"network": "given"}), (8, 8, {"network": "resnet18"})]
        cases += [(8, 3, {"network": name}) for name in ("tanh", "relu", "lambda")]
        for examples, outputs, options in cases:
            options |= {"repeats": 30} if options.get("network") in ("tanh", "relu", "lambda") else {}
            now, then = (self._ours(examples, outputs, checkout=checkout, **options) for checkout in (None, self.before))
            name = f"{options.get('network', 'workload')}, {examples} examples, {outputs} outputs"
            for when, result in (("now", now), ("before", then)):
                first = f"first call {result.get('first', 0):.2f} s in {result.get('programs')} programs, later {result.get('again')}"
                rows.append((name if when == "now" else "", when, result, f"{result['seconds'] / then['seconds']:.2f} of before; {first}"))
        _print("Compared with an earlier version", rows)
        for when, checkout in (("now", None), ("before", self.before)):
            print(f"100 functions that capture 25 MB each, {when}: grown by {self._child('leak', checkout=checkout)['grown_bytes'] / 1e6:.0f} MB")

    def _ours(self, examples: int, outputs: int, *, checkout: Path | None = None, **options) -> dict:
        options = {"repeats": self.repeats} | options
        words = [str(word) for key, value in options.items() if value is not None for word in _flag(key, value)]
        return self._child("ours", "--examples", examples, "--outputs", outputs, *words, checkout=checkout)

    def _child(self, *words, checkout: Path | None = None) -> dict:
        # This script measures either version, through what both have.
        return _measured([sys.executable, __file__, *words], path=checkout)

    def _theirs(self, implementation: str, examples: int, outputs: int, block: int | None) -> dict:
        python = self.peer_python if implementation == STRUCTURED else sys.executable
        words = [] if block is None else ["--block", block, "--repeats", 1]
        return _measured([python, HERE / "ntk_peer.py", implementation, examples, outputs, "--repeats", self.repeats, *words])


def _flag(key: str, value) -> list:
    name = key.replace("_", "-")
    return [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else [f"--{name}", value]


def _measured(command: list, path: Path | None = None) -> dict:
    """The JSON output of a command; `path` comes first in its search path for packages."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path.resolve())})
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=HERE, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": last[:60], "seconds": float("nan"), "peak_bytes": 0, "flops": float("nan"), "sum": float("nan")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _print(title: str, rows: list) -> None:
    table = Table("work", "by", "seconds", "GFLOP/s", "peak GB", "of it added", "predicted", "", title=title)
    for work, by, result, words in rows:
        rate = f"{result['flops'] / result['seconds'] / 1e9:.0f}" if "flops" in result and "failed" not in result else ""
        predicted = f"{result['predicted_bytes'] / 1e9:.2f}" if "predicted_bytes" in result else ""
        added = f"{result['added_bytes'] / 1e9:.2f}" if "added_bytes" in result else ""
        seconds = result.get("failed") or f"{result['seconds']:.3f}"
        table.add_row(work, by, seconds, rate, f"{result['peak_bytes'] / 1e9:.2f}", added, predicted, words)
    Console(width=170).print(table)


if __name__ == "__main__":
    child = {"ours": Ours, "leak": Leak}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    tyro.cli(child, args=sys.argv[2:]).run() if child else tyro.cli(Suite).run()
