"""`ntk-select kernel`: the kernel of one expert on a task, exact or sketched, what it says, and where it comes from."""

import dataclasses
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ntk_select.cli.console import Flag, check_writable, command, print_json, print_line, print_table, progress_bar, remarks, split, zoo_option
from ntk_select.cli.expert import load_expert
from ntk_select.cli.kernel_compare import compare_with_exact
from ntk_select.cli.kernel_sketch import check_sketch, only_sketch, sketch_lines, sketched
from ntk_select.engine import ntk, ntk_plan
from ntk_select.engine.inputs import check_precision
from ntk_select.engine.outputs import OUTPUTS
from ntk_select.engine.plan import Plan, available_memory
from ntk_select.engine.selection import leaf_names
from ntk_select.errors import ConfigError, MissingDependencyError, ModelError, did_you_mean
from ntk_select.expert import Expert
from ntk_select.files import write_atomically
from ntk_select.gradients import gradient_kernel, of_params
from ntk_select.kernel_file import SavedKernel
from ntk_select.kernel_plot import heat_map
from ntk_select.kernels import feature_kernel
from ntk_select.plugins import builtin
from ntk_select.probe import forward, has_pooled_last_conv
from ntk_select.task import probe_sample

KINDS = ("ntk", "sketch", "feature")
MOST_LAYERS = 40  # rows of the table; JSON and the file have all


class Made(NamedTuple):
    """The kernel, the kernels of the layers if they were asked for, how they were made, and the sketch if there is one."""

    kernel: np.ndarray
    layers: dict[str, np.ndarray]
    how: dict[str, Any]
    sketch: np.ndarray | None = None


@dataclass(frozen=True)
class Kernel:
    """Compute the kernel of one expert on a task, exact or sketched, say what it says, and save it with its provenance."""

    expert: str
    """The expert."""
    task: str
    """The task: digits, fashion_mnist, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the expert is: builtin, folders of experts, or several of them."""
    kind: str = "ntk"
    """ntk: inner products of gradients; sketch: the same, estimated from gradients projected at random; feature: of pre-logits."""
    layers: str = "all"
    """Parameters to differentiate: all, last_conv, or a regular expression over their paths."""
    outputs: str = "trace"
    """trace: mean of the kernels of the outputs; sum: of the sum of the outputs; diagonal: output by output; full: all pairs of outputs."""
    per_class: int = 25
    """Images a class, at most."""
    seed: int = 0
    """Seed of the probe sample."""
    precision: str = "highest"
    """Of products: highest, high or default; the last two round float32 where the device likes to."""
    memory_gb: float | None = None
    """Memory that the computation may take; by default half of what is free, or most of a GPU's."""
    float64: Flag = field(default=False)
    """Sum the kernel in float64."""
    by_layer: Flag = field(default=False)
    """Tell the layers apart: their shares of the trace, and their kernels in the file."""
    sketch: tuple[str, ...] = ("countsketch",)
    """With --kind sketch: countsketch, rademacher, gaussian, srht, kronecker or jvp; with --compare several, or all."""
    dim: tuple[str, ...] = ()
    """Columns of the sketch, 8192 if not given, or auto; with --compare several, 512 2048 8192 if not given."""
    blocks: int | None = None
    """Independent parts of the sketch, which tell its error; two where the kind has no other wish."""
    sketch_seed: int = 0
    """Seed of the projection."""
    compare: str | None = None
    """exact: lay sketches beside the exact kernel instead; errors, time and memory for each kind and dimension."""
    repeats: int = 5
    """With --compare: seeds for each kind and dimension, from --sketch-seed on."""
    plan: Flag = field(default=False)
    """Print what would be done and what it should cost, and stop."""
    out: Path | None = None
    """File for the kernel, ending in .npz, or with --compare for the numbers, ending in .json; a figure ending in .png goes beside it."""
    json: Flag = field(default=False)
    """Print JSON instead of text."""

    def run(self) -> int:
        """Computes, prints and saves."""
        began = time.perf_counter()
        self._check_options()
        task, expert = builtin("load_task")(self.task), load_expert(builtin("open_zoo"), self.zoo, self.expert)
        sample = probe_sample(task, per_class=self.per_class, seed=self.seed)
        if self.out is not None and not self.plan:
            check_writable(self.out.expanduser().parent)
        x = np.asarray(expert.preprocess(sample.images))
        if self.plan:
            return self._print_plan(expert, x)
        provenance = self._provenance(expert, task, sample)
        if self.compare is not None:
            self._chosen(expert)  # refuses layers that are not there
            return compare_with_exact(self, expert, x, sample.labels, provenance)
        kernel, layers, how, rows = {"feature": self._features, "ntk": self._gradients, "sketch": self._sketched}[self.kind](expert, x)
        made = provenance | how
        saved = SavedKernel(kernel, sample.labels, sample.class_names, sample.indices, made, layers, rows)
        summary = saved.summary()
        files = [] if self.out is None else [saved.save(self.out), *self._draw(saved, summary["kernel_label_correlation"])]
        if self.json:
            print_json(summary | {"provenance": made, "files": [str(path) for path in files]})
        else:
            self._print(summary, made, time.perf_counter() - began)
        for path in files:
            remarks().print(f"wrote {path}", markup=False, soft_wrap=True)
        return 0

    def _check_options(self) -> None:
        """Refuses before any work what cannot be done."""
        if self.kind not in KINDS:
            raise ConfigError(f"--kind {self.kind}: there is no such kind.{did_you_mean(self.kind, KINDS)}")
        if self.outputs not in OUTPUTS:
            raise ConfigError(f"--outputs {self.outputs} is unknown.{did_you_mean(self.outputs, OUTPUTS)}")
        check_precision(self.precision)
        available_memory(self.memory_gb)
        if self.kind == "sketch":
            check_sketch(self)
        elif only_sketch(self):
            raise ConfigError(f"--kind {self.kind} has no sketch; {', '.join(only_sketch(self))} belong to --kind sketch.")
        foreign = [word for word in self.options() if word.startswith("--") and word not in ("--kind", "--per-class", "--seed")]
        foreign += ["--plan"] * self.plan
        if self.kind == "feature" and foreign:
            raise ConfigError(f"--kind feature differentiates nothing; {', '.join(foreign)} belong to --kind ntk.")
        if self.out is None:
            return
        name = "kernel.npz" if self.compare is None else "comparison.json"
        if self.out.suffix != Path(name).suffix:
            raise ConfigError(f"--out {str(self.out)!r} does not end in {Path(name).suffix}. Give a name such as {name}.")
        for path in (self.out, self.out.with_suffix(".png")):
            if path.expanduser().is_dir():
                raise ConfigError(f"--out {str(self.out)!r}: {path.name} is a folder. Give another name.")

    def options(self, *without: str) -> list[str]:
        """The options that a repetition must name, beside expert, task and zoo."""
        words = []
        for option in dataclasses.fields(self)[3:]:
            value = getattr(self, option.name)
            if option.name not in ("plan", "out", "json", *without) and value != option.default:
                values = [] if value is True else split(value) if isinstance(value, tuple) else [str(value)]
                words += ["--" + option.name.replace("_", "-"), *values]
        return words

    def again(self, *more: str, without: tuple[str, ...] = ()) -> str:
        """The command to type for the same again, with more options or without some."""
        return command("kernel", "--expert", self.expert, "--task", self.task, *zoo_option(self.zoo), *self.options(*without), *more)

    def _chosen(self, expert: Expert) -> tuple[dict[str, Any], list[str]]:
        """The question as the engine takes it, and the paths that are differentiated: never batch statistics."""
        last = self.layers == "last_conv"
        if last and expert.last_conv is None:
            raise ModelError(f"Expert {expert.name!r} does not say which its last convolution is. Type: --layers all, or a regular expression.")
        chosen = of_params(self.layers, expert.last_conv.path if last else None)
        paths = [name.removeprefix("params/") for name in leaf_names(expert.variables) if chosen(name)]
        if not paths:
            raise ConfigError(f"--layers {self.layers} matches no parameter.{did_you_mean(self.layers, leaf_names(expert.params))}")
        return {"outputs": self.outputs, "layers": chosen, "memory_gb": self.memory_gb, "by_layer": self.by_layer}, paths

    def _is_pooled(self, expert: Expert) -> bool:
        """Whether one step back serves all outputs at once, at a cost that does not grow with them."""
        usual = self.layers == "last_conv" and self.outputs in ("trace", "sum") and self.precision == "highest"
        return usual and has_pooled_last_conv(expert) and expert.head is not None

    def _gradients(self, expert: Expert, x: np.ndarray) -> Made:
        question, paths = self._chosen(expert)
        how = {"layers": {"pattern": self.layers, "paths": paths}, "outputs": self.outputs, "precision": self.precision}
        if self._is_pooled(expert):
            kernel = gradient_kernel(expert, x, outputs=self.outputs)
            return Made(kernel, dict.fromkeys(paths, kernel) if self.by_layer else {}, how | {"accumulate": "float64", "plan": None})
        accumulate = "float64" if self.float64 else None
        how |= {"accumulate": accumulate, "plan": _cost(ntk_plan(expert.apply_fn, expert.variables, x, **question))}
        with progress_bar("kernel") as progress:
            kernel = ntk(expert.apply_fn, expert.variables, x, precision=self.precision, accumulate=accumulate, progress=progress, **question)
        if not self.by_layer:
            return Made(kernel, {}, how)
        layers = {name.removeprefix("params/"): layer for name, layer in kernel.items()}
        return Made(sum(layers.values()), layers, how)

    def _features(self, expert: Expert, x: np.ndarray) -> Made:
        features = forward(expert, x).features
        if features is None:
            raise ModelError(f"Expert {expert.name!r} has no features_fn, which --kind feature needs. Type: --kind ntk")
        how = dict.fromkeys(("layers", "outputs", "plan")) | {"precision": "highest", "accumulate": "float64"}
        return Made(feature_kernel(np.asarray(features)), {}, how)

    def _sketched(self, expert: Expert, x: np.ndarray) -> Made:
        question, paths = self._chosen(expert)
        found, which = sketched(self, expert, x, question["layers"], pooled=self._is_pooled(expert))
        how = {"layers": {"pattern": self.layers, "paths": paths}, "outputs": self.outputs, "precision": self.precision}
        return Made(found.kernel, {}, how | {"accumulate": "float64", "plan": None, "sketch": which}, found.sketch)

    def _provenance(self, expert: Expert, task, sample) -> dict[str, Any]:
        card, device = expert.card, jax.devices()[0]
        return {
            "expert": expert.name,
            "card": card and {key: getattr(card, key) for key in ("architecture", "source", "sha256", "origin", "licence")},
            "zoo": split(self.zoo),
            "task": builtin("describe_task")(task) | {"uri": self.task},
            "probe": {"per_class": self.per_class, "seed": self.seed, "indices": sample.indices.tolist()},
            "kind": self.kind,
            "device": device.platform if device.device_kind == device.platform else f"{device.platform}: {device.device_kind}",
            "versions": {name: version(name) for name in ("ntk-select", "jax", "numpy")},
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _draw(self, saved: SavedKernel, correlation: float | None) -> list[Path]:
        """Draws the heat map beside the file. Where that fails it says so and goes on: the kernel is safe."""
        path = self.out.expanduser().with_suffix(".png")
        what = "feature kernel" if self.kind == "feature" else f"{self.kind}, {self.outputs}, layers {self.layers}"
        title = f"{self.expert} on {saved.provenance['task']['name']}: {what}"
        title += "" if correlation is None else f"; correlation with the labels {correlation:.3f}"
        of = "features" if self.kind == "feature" else "gradients"
        try:
            write_atomically(path, heat_map(saved.kernel, saved.labels, saved.class_names, title=title, of=of))
        except (MissingDependencyError, OSError) as error:
            remarks().print(f"No figure was written. {error}", markup=False, soft_wrap=True)
            return []
        return [path]

    def _print_plan(self, expert: Expert, x: np.ndarray) -> int:
        question, _ = self._chosen(expert)
        plan = None if self._is_pooled(expert) else ntk_plan(expert.apply_fn, expert.variables, x, **question)
        if self.json:
            print_json({"plan": plan and _cost(plan)})
            return 0
        print_line(str(plan or "The last convolution is only pooled: forward passes and one step back serve all outputs at once."))
        print_line("Next: " + self.again())
        return 0

    def _print(self, summary: dict[str, Any], made: dict[str, Any], seconds: float) -> None:
        shape, plan, correlation = " x ".join(map(str, summary["shape"])), made["plan"], summary["kernel_label_correlation"]
        print_line(f"{self.kind} of {self.expert} on {made['task']['name']}: {shape}, {summary['dtype']}, in {seconds:.1f} s", style="bold")
        if plan:
            spaces = f"{plan['in_parameter_space']} layers in parameter space, {plan['in_sample_space']} in sample space"
            print_line(f"Plan: {plan['flops']:.2g} operations, {plan['peak_bytes'] / 1e9:.2g} GB at most; {spaces}.")
        print_line(f"The {summary['certified']} is {summary['certificate']['text']}.")
        if self.kind == "sketch":
            for line in sketch_lines(summary, made["sketch"]):
                print_line(line)
        else:
            print_line("Correlation with the labels: " + ("none, the kernel is constant." if correlation is None else f"{correlation:.4f}."))
        if summary["shares"]:
            rows = [[name, f"{share:.2%}"] for name, share in summary["shares"].items()]
            if len(rows) > MOST_LAYERS:
                rest = sum(list(summary["shares"].values())[MOST_LAYERS - 1 :])
                rows[MOST_LAYERS - 1 :] = [[f"{len(rows) - MOST_LAYERS + 1} others", f"{rest:.2%}"]]
            print_table("Which layers carry the kernel: shares of the trace", ["layer", "share"], rows, right=("share",))
        if self.out is None:
            print_line("Next, to keep it: " + self.again("--out", "kernel.npz"))
        else:
            print_line(f"Next, in Python: from ntk_select.kernel_file import load_kernel; load_kernel({str(self.out.expanduser())!r})")


def _cost(plan: Plan) -> dict[str, Any]:
    """What a plan predicts, as plain values."""
    spaces = {f"in_{space}_space": sum(leaf.choice.space == space for leaf in plan.leaves) for space in ("parameter", "sample")}
    return {"flops": plan.flops, "peak_bytes": plan.peak_bytes, "memory": plan.memory, "passes": plan.passes, **spaces}
