"""`ntk-select kernel`: a kernel is computed, described, drawn and saved with its provenance."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ntk_select._runtime.files import write_atomically
from ntk_select.cli.console import check_writable, print_json, print_line, print_table, progress_bar, remark, split
from ntk_select.cli.expert import load_expert
from ntk_select.cli.kernel_compare import compare_with_exact
from ntk_select.cli.kernel_sketch import check_sketch, only_sketch, sketch_lines, sketched
from ntk_select.data import describe, load_task
from ntk_select.errors import ConfigError, MissingDependencyError, ModelError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.experts.probe import forward, has_pooled_last_conv
from ntk_select.kernels.alignment import feature_kernel
from ntk_select.kernels.engine import ntk, ntk_plan
from ntk_select.kernels.engine.arguments import OUTPUTS, available_memory, check_precision, leaf_names
from ntk_select.kernels.engine.plan import Plan
from ntk_select.kernels.file import SavedKernel
from ntk_select.kernels.gradients import gradient_kernel, of_params
from ntk_select.kernels.plot import heat_map
from ntk_select.models import open_zoo
from ntk_select.tasks.task import probe_sample

if TYPE_CHECKING:
    from ntk_select.cli.kernel import Kernel

KINDS = ("ntk", "sketch", "feature")
MOST_LAYERS = 40  # rows of the table; JSON and the file have all


class Made(NamedTuple):
    """The kernel, the kernels of the layers if they were asked for, how they were made, and the sketch if there is one."""

    kernel: np.ndarray
    layers: dict[str, np.ndarray]
    how: dict[str, Any]
    sketch: np.ndarray | None = None


def run(command: Kernel) -> int:
    """Computes, prints and saves."""
    began = time.perf_counter()
    command = _with_file(command)
    _check_options(command)
    task, expert = load_task(command.task), load_expert(open_zoo, command.zoo, command.expert)
    sample = probe_sample(task, per_class=command.per_class, seed=command.seed)
    if command.out is not None and not command.plan:
        check_writable(command.out.expanduser().parent)
    x = np.asarray(expert.preprocess(sample.images))
    if command.plan:
        return _print_plan(command, expert, x)
    provenance = _provenance(command, expert, task, sample)
    if command.compare is not None:
        _chosen(command, expert)  # refuses layers that are not there
        return compare_with_exact(command, expert, x, sample.labels, provenance)
    kernel, layers, how, rows = _made(command, expert, x)
    made = provenance | how
    saved = SavedKernel(kernel, sample.labels, sample.class_names, sample.indices, made, layers, rows)
    summary = saved.summary()
    files, trouble = [], None
    if command.out is not None:
        try:
            files = [saved.save(command.out), *_draw(command, saved, summary["kernel_label_correlation"])]
        except ConfigError as error:  # of the disk; what the kernel says can still be printed
            trouble = error
    if command.json:
        print_json(summary | {"provenance": made, "files": [str(path) for path in files]})
    else:
        _print(command, summary, made, time.perf_counter() - began, kept=bool(files))
    for path in files:
        remark(f"wrote {path}")
    if trouble is not None:
        remark(f"The kernel could not be saved: {trouble}", "red")
    return 0 if trouble is None else 1


def _file_name(command: Kernel) -> str:
    """Name of the file where a folder is given."""
    return "kernel.npz" if command.compare is None else "comparison.json"


def _with_file(command: Kernel) -> Kernel:
    """The command with a file as --out where it names a folder: one that exists, or a name without an ending."""
    out, name = command.out, _file_name(command)
    if out is None or out.suffix == Path(name).suffix or (out.suffix and not out.expanduser().is_dir()):
        return command
    return dataclasses.replace(command, out=out / name)


def _check_options(command: Kernel) -> None:
    """Refuses before any work what cannot be done."""
    if command.kind not in KINDS:
        raise ConfigError(f"--kind {command.kind}: there is no such kind.{did_you_mean(command.kind, KINDS)}")
    if command.outputs not in OUTPUTS:
        raise ConfigError(f"--outputs {command.outputs} is unknown.{did_you_mean(command.outputs, OUTPUTS)}")
    check_precision(command.precision)
    available_memory(command.memory_gb)
    if command.kind == "sketch":
        check_sketch(command)
    elif only_sketch(command):
        raise ConfigError(f"--kind {command.kind} has no sketch; {', '.join(only_sketch(command))} belong to --kind sketch.")
    foreign = [word for word in command.options() if word.startswith("--") and word not in ("--kind", "--per-class", "--seed")]
    foreign += ["--plan"] * command.plan
    if command.kind == "feature" and foreign:
        raise ConfigError(f"--kind feature differentiates nothing; {', '.join(foreign)} belong to --kind ntk.")
    if command.out is None:
        return
    name = _file_name(command)
    if command.out.suffix != Path(name).suffix:
        raise ConfigError(f"--out {str(command.out)!r} does not end in {Path(name).suffix}. Give a name such as {name}.")
    for path in (command.out, command.out.with_suffix(".png")):
        if path.expanduser().is_dir():
            raise ConfigError(f"--out {str(command.out)!r}: {path.name} is a folder. Give another name.")


def _chosen(command: Kernel, expert: Expert) -> tuple[dict[str, Any], list[str]]:
    """The question as the engine takes it, and the paths that are differentiated: never batch statistics."""
    last = command.layers == "last_conv"
    if last and expert.last_conv is None:
        raise ModelError(f"Expert {expert.name!r} does not say which its last convolution is. Type: --layers all, or a regular expression.")
    chosen = of_params(command.layers, expert.last_conv.path if last else None)
    paths = [name.removeprefix("params/") for name in leaf_names(expert.variables) if chosen(name)]
    if not paths:
        raise ConfigError(f"--layers {command.layers} matches no parameter.{did_you_mean(command.layers, leaf_names(expert.params))}")
    return {"outputs": command.outputs, "layers": chosen, "memory_gb": command.memory_gb, "by_layer": command.by_layer}, paths


def _is_pooled(command: Kernel, expert: Expert) -> bool:
    """Whether one step back serves all outputs at once, at a cost that does not grow with them."""
    usual = command.layers == "last_conv" and command.outputs in ("trace", "sum") and command.precision == "highest"
    return usual and has_pooled_last_conv(expert) and expert.head is not None


def _made(command: Kernel, expert: Expert, x: np.ndarray) -> Made:
    if command.kind == "feature":
        return _features(expert, x)
    return (_sketched if command.kind == "sketch" else _gradients)(command, expert, x)


def _gradients(command: Kernel, expert: Expert, x: np.ndarray) -> Made:
    question, paths = _chosen(command, expert)
    how = {"layers": {"pattern": command.layers, "paths": paths}, "outputs": command.outputs, "precision": command.precision}
    if _is_pooled(command, expert):
        kernel = gradient_kernel(expert, x, outputs=command.outputs)
        return Made(kernel, dict.fromkeys(paths, kernel) if command.by_layer else {}, how | {"accumulate": "float64", "plan": None})
    accumulate = "float64" if command.float64 else None
    how |= {"accumulate": accumulate, "plan": _cost(ntk_plan(expert.apply_fn, expert.variables, x, **question))}
    with progress_bar("kernel") as progress:
        kernel = ntk(expert.apply_fn, expert.variables, x, precision=command.precision, accumulate=accumulate, progress=progress, **question)
    if not command.by_layer:
        return Made(kernel, {}, how)
    layers = {name.removeprefix("params/"): layer for name, layer in kernel.items()}
    return Made(sum(layers.values()), layers, how)


def _features(expert: Expert, x: np.ndarray) -> Made:
    features = forward(expert, x).features
    if features is None:
        raise ModelError(f"Expert {expert.name!r} has no features_fn, which --kind feature needs. Type: --kind ntk")
    how = dict.fromkeys(("layers", "outputs", "plan")) | {"precision": "highest", "accumulate": "float64"}
    return Made(feature_kernel(np.asarray(features)), {}, how)


def _sketched(command: Kernel, expert: Expert, x: np.ndarray) -> Made:
    question, paths = _chosen(command, expert)
    found, which = sketched(command, expert, x, question["layers"], pooled=_is_pooled(command, expert))
    how = {"layers": {"pattern": command.layers, "paths": paths}, "outputs": command.outputs, "precision": command.precision}
    return Made(found.kernel, {}, how | {"accumulate": "float64", "plan": None, "sketch": which}, found.sketch)


def _provenance(command: Kernel, expert: Expert, task, sample) -> dict[str, Any]:
    card, device = expert.card, jax.devices()[0]
    return {
        "expert": expert.name,
        "card": card and {key: getattr(card, key) for key in ("architecture", "source", "sha256", "origin", "licence")},
        "zoo": split(command.zoo),
        "task": describe(task) | {"uri": command.task},
        "probe": {"per_class": command.per_class, "seed": command.seed, "indices": sample.indices.tolist()},
        "kind": command.kind,
        "device": device.platform if device.device_kind == device.platform else f"{device.platform}: {device.device_kind}",
        "versions": {name: version(name) for name in ("ntk-select", "jax", "numpy")},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _draw(command: Kernel, saved: SavedKernel, correlation: float | None) -> list[Path]:
    """Draws the heat map beside the file. Where that fails it says so and goes on: the kernel is safe."""
    path = command.out.expanduser().with_suffix(".png")
    what = "feature kernel" if command.kind == "feature" else f"{command.kind}, {command.outputs}, layers {command.layers}"
    title = f"{command.expert} on {saved.provenance['task']['name']}: {what}"
    title += "" if correlation is None else f"; correlation with the labels {correlation:.3f}"
    of = "features" if command.kind == "feature" else "gradients"
    try:
        write_atomically(path, heat_map(saved.kernel, saved.labels, saved.class_names, title=title, of=of))
    except (MissingDependencyError, OSError) as error:
        remark(f"No figure was written. {error}")
        return []
    return [path]


def _print_plan(command: Kernel, expert: Expert, x: np.ndarray) -> int:
    question, _ = _chosen(command, expert)
    plan = None if _is_pooled(command, expert) else ntk_plan(expert.apply_fn, expert.variables, x, **question)
    if command.json:
        print_json({"plan": plan and _cost(plan)})
        return 0
    print_line(str(plan or "The last convolution is only pooled: forward passes and one step back serve all outputs at once."))
    print_line("Next: " + command.again())
    return 0


def _print(command: Kernel, summary: dict[str, Any], made: dict[str, Any], seconds: float, *, kept: bool) -> None:
    shape, plan, correlation = " x ".join(map(str, summary["shape"])), made["plan"], summary["kernel_label_correlation"]
    print_line(f"{command.kind} of {command.expert} on {made['task']['name']}: {shape}, {summary['dtype']}, in {seconds:.1f} s", style="bold")
    if plan:
        spaces = f"{plan['in_parameter_space']} layers in parameter space, {plan['in_sample_space']} in sample space"
        print_line(f"Plan: {plan['flops']:.2g} operations, {plan['peak_bytes'] / 1e9:.2g} GB at most; {spaces}.")
    print_line(f"The {summary['certified']} is {summary['certificate']['text']}.")
    if command.kind == "sketch":
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
    if not kept:
        print_line("Next, to keep it: " + command.again("--out", "kernel.npz"))
    else:
        print_line(f"Next, in Python: from ntk_select.kernels.file import load_kernel; load_kernel({str(command.out.expanduser())!r})")


def _cost(plan: Plan) -> dict[str, Any]:
    """What a plan predicts, as plain values."""
    spaces = {f"in_{space}_space": sum(leaf.choice.space == space for leaf in plan.leaves) for space in ("parameter", "sample")}
    return {"flops": plan.flops, "peak_bytes": plan.peak_bytes, "memory": plan.memory, "passes": plan.passes, **spaces}
