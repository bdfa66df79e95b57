"""Sketches: cost on top of the gradients, bias, and error compared with its law.

    python scripts/benchmarks/sketch.py                                    # all but the accelerator, about twenty minutes on two cores
    python scripts/benchmarks/sketch.py --suite time --peer-python P/bin/python
    python scripts/benchmarks/sketch.py --suite unbiased --seeds 1000
    python scripts/benchmarks/sketch.py --suite ranking                    # the embedded zoo, 10,000 columns
    python scripts/benchmarks/sketch.py --suite accelerator                # ResNet-50, 224 pixels, 1,000 examples

P is an environment with a CPU build of PyTorch, `pip install --no-deps traker`, numpy, tqdm and scikit-learn; without it these
two libraries are omitted. The workload of the time suite is the gradient of the sum of the outputs of `ntk_workload.network`,
in float32, without compilation; compared calls alternate. Only ratios carry over to another machine.
"""

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import sketch_laws
import tyro
from jax import lax
from ntk_workload import images, network, weights
from rich.console import Console
from rich.table import Table

import ntk_select as ns
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.arguments import read_outputs
from ntk_select.kernels.engine.factors import Stored, factors

HERE = Path(__file__).parent
KINDS = ("countsketch", "srht", "rademacher", "gaussian", "kronecker")


class Gradients:
    """Per-example gradients of the sum of the outputs and nothing else: the reference."""

    def __init__(self, fn, params, x, *, layers=None, outputs="sum", batches=(4, 8, 16, 32)):
        self.structure, values, leaves = analyse(fn, params, x, layers)
        self.cotangents = jnp.asarray(read_outputs(outputs, len(x), None, self.structure.outputs, self.structure.dtype).left)
        self.leaves, self.values = jax.device_put((leaves, values))
        self.stored = tuple(Stored(position, "gradients") for position in range(len(self.structure.leaves)))
        self.x, self.parameters = x, sum(np.prod(leaf.shape) for leaf in self.structure.leaves)
        self.batch, self.consumed_batch = (min(batches, key=partial(self._try, run)) for run in (self.run, self.consumed))

    def _try(self, run, batch: int) -> float:
        run(batch)
        return min(seconds_of(partial(run, batch)) for _ in range(2))

    def of(self, x):
        """Gradients of a batch, one array per leaf."""
        with jax.default_matmul_precision("highest"):
            return self.structure.jit(factors, self.stored)(self.values, self.leaves, jnp.asarray(x), self.cotangents)

    def run(self, batch: int | None = None) -> None:
        """Gradients of all examples, written to memory batch by batch."""
        for first in range(0, len(self.x), batch or self.batch):
            jax.block_until_ready(self.of(self.x[first : first + (batch or self.batch)]))

    def consumed(self, batch: int | None = None) -> None:
        """The same, reduced to the squared norm of each gradient: gradients are not written to memory."""
        for first in range(0, len(self.x), batch or self.consumed_batch):
            with jax.default_matmul_precision("highest"):
                part = jnp.asarray(self.x[first : first + (batch or self.consumed_batch)])
                jax.block_until_ready(self.structure.jit(_norms, self.stored)(self.values, self.leaves, part, self.cotangents))


def _norms(structure, stored, values, leaves, x, cotangents):
    return sum((leaf.astype(jnp.float32) ** 2).sum((1, 2, 3)) for leaf in factors(structure, stored, values, leaves, x, cotangents))


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other, `repeats` times; a first round compiles and is not counted."""
    times = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            seconds = seconds_of(run)
            if number:
                times[name].append(seconds)
    return times


@dataclass(frozen=True)
class Suite:
    """Measurements of sketches."""

    suite: Literal["all", "unbiased", "time", "ranking", "accelerator"] = "all"
    """Which suite."""
    dim: int = 8192
    """Columns in the time suite."""
    examples: int = 64
    """Examples in the time suite."""
    repeats: int = 7
    """Rounds behind each median."""
    seeds: int = 400
    """Seeds of the unbiasedness suite."""
    peer_python: Path | None = None
    """A Python with traker and scikit-learn."""
    peer_rows: int = 32
    """Gradient rows that the two libraries and the dense kinds project."""

    def run(self) -> None:
        """Measures and prints the tables."""
        for name in ("unbiased", "time", "ranking") if self.suite == "all" else (self.suite,):
            getattr(self, f"_{name}")()

    def _time(self) -> None:
        params, x = jax.device_put(weights(outputs=10)), images(self.examples)
        gradients = Gradients(network, params, x)
        sketched = {
            kind: partial(ns.sketch, network, params, x, outputs="sum", dim=self.dim, kind=kind) for kind in ("countsketch", "srht", "kronecker")
        }
        times = in_turn({"gradients": gradients.run, "consumed": gradients.consumed, **sketched}, self.repeats)
        ratio = {name: statistics.median(a / b for a, b in zip(times[name], times["gradients"], strict=True)) for name in times}
        spare = {name: statistics.median(a / b for a, b in zip(times[name], times["consumed"], strict=True)) for name in times}
        table = Table(
            "per example",
            "ms",
            "in units of the gradients",
            "of gradients that are not stored",
            title=f"{gradients.parameters:,} parameters, {self.dim} columns",
        )
        words = {
            "gradients": f"per-example gradients, batches of {gradients.batch}",
            "consumed": f"the same, norms only, batches of {gradients.consumed_batch}",
        }
        for name, values in times.items():
            table.add_row(words.get(name, f"ns.sketch, {name}"), _ms(statistics.median(values), len(x)), f"{ratio[name]:.2f}", f"{spare[name]:.2f}")
        self._dense_and_peers(table, gradients, params, statistics.median(times["gradients"]) / len(x), statistics.median(times["consumed"]) / len(x))
        Console(width=160).print(table)

    def _dense_and_peers(self, table: Table, gradients: Gradients, params, base: float, spare: float) -> None:
        """One run each: they take minutes."""
        n = self.peer_rows
        for kind in ("rademacher",):
            few = partial(ns.sketch, network, params, images(n), outputs="sum", dim=self.dim, kind=kind)
            few()
            seconds = seconds_of(few) / n
            table.add_row(f"ns.sketch, {kind}, {n} examples", _ms(seconds), f"{seconds / base:.1f}", f"{seconds / spare:.1f}")
        rows = np.concatenate([np.asarray(leaf).reshape(n, -1) for leaf in gradients.of(images(n))], axis=1)
        if self.peer_python is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "rows.npy", rows)
            for library in ("scikit-learn", "traker"):
                words = [self.peer_python, HERE / "sketch_peer.py", library, Path(folder) / "rows.npy", self.dim]
                done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
                if done.returncode:
                    table.add_row(library, "failed", (done.stderr.strip().splitlines() or [""])[-1][:60], "")
                    continue
                result = json.loads(done.stdout.strip().splitlines()[-1])
                seconds, once = result["seconds"] / n, f", {result['once']:.0f} s once for the matrix" if result["once"] else ""
                words = f"{library} on {n} given gradient rows{once}, {result['added_bytes'] / 1e9:.1f} GB more"
                table.add_row(words, _ms(seconds), f"{seconds / base:.1f} on top", f"{seconds / spare:.1f} on top")

    def _unbiased(self) -> None:
        with jax.enable_x64(True):
            rows = [row for kind in KINDS for row in self._of_kind(kind, 32, blocks=2 if kind == "kronecker" else 1)]
        table = Table(
            "kind", "leaf", "shape", "max |z|", "variance / formula", "z of it", "variance / Gaussian", title=f"{self.seeds} seeds, 32 columns"
        )
        for row in rows:
            table.add_row(*row)
        Console(width=140).print(table)
        bound = _bound(len(rows), 3)
        print(f"Of {len(rows)} leaves: largest |z| of means {max(float(row[3]) for row in rows):.2f} (family bound at 1 %: {bound:.2f}), "
              f"of variances {max(abs(float(row[5])) for row in rows):.2f}.")  # fmt: skip

    def _of_kind(self, kind: str, dim: int, blocks: int):
        params, x = _every_layer(), np.random.default_rng(5).normal(size=(2, 9, 9, 3))
        exact = {name: np.asarray(leaf).reshape(2, -1) for name, leaf in _gradients(params, x).items()}
        found = {name: [] for name in exact}
        for seed in range(self.seeds):
            for name, z in ns.sketch(_layers, params, x, outputs="sum", dim=dim, kind=kind, blocks=blocks, seed=seed, by_layer=True).items():
                found[name].append(z)
        laws = {name: self._law(kind, name, g, dim, blocks, params[name].shape) for name, g in exact.items()}
        for name, g in exact.items():
            samples = np.array([z @ z.T for z in found[name]])
            yield kind, name, "x".join(map(str, params[name].shape)), *self._judged(samples, g, laws[name], dim)
        # Leaves are independent: what they have in common adds nothing but the pairs between them.
        whole = np.concatenate(list(exact.values()), axis=1)
        law = sum(laws.values()) + (sketch_laws.pairs(whole) - sum(map(sketch_laws.pairs, exact.values()))) / dim
        sums = [sum(zs) for zs in zip(*found.values(), strict=True)]
        yield kind, "all of them", str(whole.shape[1]), *self._judged(np.array([z @ z.T for z in sums]), whole, law, dim)

    def _judged(self, samples: np.ndarray, g: np.ndarray, law: np.ndarray, dim: int) -> tuple[str, str, str, str]:
        """Largest |z| of the means, variance in units of the law, its z, variance in units of the Gaussian kind's."""
        off, upper, tiny = samples - g @ g.T, np.triu_indices(len(g)), 1e-9 * np.abs(g @ g.T).max()
        spread = samples.std(0)[upper]
        if spread.max() < tiny:
            assert np.abs(off).max() < tiny
            return "0", "exact", "0", "0"
        z = (off.mean(0)[upper] / np.where(spread > tiny, spread, np.inf) * np.sqrt(self.seeds)).round(2)
        squares = (off**2).sum((1, 2))
        error = squares.std() / np.sqrt(self.seeds)
        return (
            f"{np.abs(z).max():.2f}",
            f"{squares.mean() / law.sum():.3f}",
            f"{(squares.mean() - law.sum()) / error:.2f}",
            f"{squares.mean() / sketch_laws.gaussian(g, dim).sum():.2f}",
        )

    def _law(self, kind: str, name: str, g: np.ndarray, dim: int, blocks: int, shape) -> np.ndarray:
        if kind != "kronecker":
            return getattr(sketch_laws, kind)(g, dim)
        if len(shape) == 1:  # no weight, so no factors: a CountSketch of the width of a block
            return sketch_laws.countsketch(g, dim // blocks) / blocks
        return _grouped(g, dim, blocks, shape, 3 if name == "depthwise" else 1)

    def _ranking(self) -> None:
        from ntk_select.data import load_task
        from ntk_select.models import ZOO

        sample = ns.probe_sample(load_task("digits"), per_class=25)
        table, rows = (
            Table("expert", "exact", "sketched", "95 %", "off by", "holds", title="LGC of the embedded zoo, 10,000 columns, CountSketch"),
            [],
        )
        for name, load in ZOO.items():
            expert = load()
            x = np.asarray(expert.preprocess(sample.images))
            exact, score = ns.lgc(expert, x, sample.labels), ns.lgc(expert, x, sample.labels, sketch=10_000)
            rows.append((exact, score))
            held = "yes" if score.low <= exact <= score.high else "no"
            table.add_row(name, f"{exact:.4f}", f"{score.value:.4f}", f"[{score.low:.4f}, {score.high:.4f}]", f"{abs(score.value - exact):.4f}", held)
        Console(width=140).print(table)
        orders = [np.argsort([-float(pair[side]) for pair in rows]) for side in (0, 1)]
        print(f"largest error {max(abs(score.value - exact) for exact, score in rows):.4f}; "
              f"places that changed in the ranking: {int((orders[0] != orders[1]).sum())} of {len(rows)}")  # fmt: skip

    def _accelerator(self) -> None:
        from ntk_select.models import build, initialise

        module, rng = build("resnet50", num_classes=1000), np.random.default_rng(0)

        def leaf(path, shape):
            if path[-1].key == "kernel":
                return (rng.normal(size=shape.shape) * np.sqrt(2 / np.prod(shape.shape[:-1]))).astype(np.float32)
            return np.full(shape.shape, 0.0 if path[-1].key in ("bias", "mean") else 0.5, np.float32)

        shapes = jax.eval_shape(partial(initialise, module, size=224), jax.random.key(0))
        variables = jax.device_put(jax.tree_util.tree_map_with_path(leaf, shapes))
        x = images(1000, 224)
        gradients = Gradients(module.apply, variables, x[:64], layers="^params/", batches=(8, 16, 32))
        gradients.x = x
        run = partial(ns.sketch, module.apply, variables, x, layers="^params/", outputs="sum", dim=8192)
        times = in_turn({"gradients, norms only": gradients.consumed, "countsketch": run}, 2)
        best = {name: min(values) for name, values in times.items()}
        for name, seconds in best.items():
            print(f"{name}: {seconds:.2f} s for 1,000 examples, {seconds / best['gradients, norms only']:.2f} of the gradients")
        statistics_ = jax.devices()[0].memory_stats() or {}
        print(f"peak memory: {statistics_.get('peak_bytes_in_use', 0) / 1e9:.2f} GB on {jax.devices()[0].device_kind}")


def _every_layer() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        "stem": (7, 7, 3, 6),
        "scale": (6,),
        "bias": (6,),
        "conv3": (3, 3, 6, 6),
        "conv1": (1, 1, 6, 9),
        "depthwise": (3, 3, 3, 9),
        "head": (9, 4),
        "offset": (4,),
    }
    return {name: rng.normal(size=shape) * (2 / max(1, np.prod(shape[:-1]))) ** 0.5 for name, shape in shapes.items()}


def _layers(p, x):
    conv = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jnp.tanh(conv(x, p["stem"], (2, 2), "SAME") * p["scale"] + p["bias"])
    x = jnp.tanh(conv(x, p["conv3"], (1, 1), "SAME"))
    x = jnp.tanh(conv(x, p["conv1"], (2, 2), "SAME"))
    x = jnp.tanh(conv(x, p["depthwise"], (1, 1), "SAME", feature_group_count=3))
    return x.mean((1, 2)) @ p["head"] + p["offset"]


def _gradients(params, x):
    return jax.vmap(lambda example: jax.grad(lambda p: _layers(p, example[None]).sum())(params))(x)


def _grouped(g: np.ndarray, dim: int, blocks: int, shape, groups: int) -> np.ndarray:
    """The law of Kronecker factors, each group of a convolution with its own."""
    outputs = shape[-1]
    if groups == 1:
        return sketch_laws.kronecker(g, dim, blocks, (g.shape[1] // outputs, outputs))
    own = g.reshape(len(g), -1, groups, outputs // groups).transpose(2, 0, 1, 3).reshape(groups, len(g), -1)
    within = sum(sketch_laws.kronecker(one, dim, blocks, (one.shape[1] // (outputs // groups), outputs // groups)) for one in own)
    return within + (sketch_laws.pairs(g) - sum(map(sketch_laws.pairs, own))) / dim


def _bound(leaves: int, entries: int) -> float:
    from scipy.stats import norm

    return float(norm.isf(0.01 / (2 * leaves * entries)))


def _ms(seconds: float, examples: int = 1) -> str:
    return f"{1000 * seconds / examples:.2f}"


if __name__ == "__main__":
    tyro.cli(Suite).run()
