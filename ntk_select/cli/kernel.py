"""`ntk-select kernel`: the kernel of one expert on a task, exact or sketched, summarised and saved with its provenance."""

import dataclasses
import json
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ntk_select._runtime.files import write_output
from ntk_select.cli.console import print_json, print_line, print_table, progress_bar, remark, saving
from ntk_select.cli.options import Flag, Json, TaskUri, Zoo, changed, check_writable, command_class, load_expert, repeated, split
from ntk_select.errors import ConfigError, MissingDependencyError, did_you_mean
from ntk_select.tasks.probe_sample import PER_CLASS

DIM = 8192
"""Default number of columns of a sketch."""
SKETCH_OUTPUTS = ("trace", "sum")
SKETCH_OPTIONS = ("--sketch", "--dim", "--blocks", "--sketch-seed", "--compare", "--repeats")
MAX_LAYERS = 40
"""Rows of the table of layers; JSON and the file have all layers."""


@command_class
class Kernel:
    """Compute the kernel of one expert on a task, exact or sketched, summarise it, and save it with its provenance."""

    expert: str
    """The expert, as the zoo names it, or timm:NAME."""
    task: TaskUri
    zoo: Zoo = ("builtin",)
    kind: Literal["ntk", "sketch", "feature"] = "ntk"
    """ntk: inner products of gradients; sketch: the same, estimated from randomly projected gradients; feature: of pre-logits."""
    layers: str = "all"
    """Parameters to differentiate: all, last_conv, or a regular expression over their paths."""
    outputs: Literal["trace", "sum", "diagonal", "full"] = "trace"
    """trace: mean of the kernels of the outputs; sum: kernel of the sum of the outputs; diagonal: one kernel per output; full: all pairs of outputs."""
    per_class: int = PER_CLASS
    """Images per class, at most."""
    seed: int = 0
    """Seed of the probe sample."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of products; the last two allow the device to round float32."""
    memory_gb: float | None = None
    """Memory that the computation may use; by default half of what is free, or most of a GPU's."""
    float64: Flag = False
    """Sum the kernel in float64."""
    by_layer: Flag = False
    """Report the layers separately: their shares of the trace, and their kernels in the file."""
    sketch: tuple[str, ...] = ("countsketch",)
    """With --kind sketch: countsketch, rademacher, gaussian, srht, kronecker or jvp; with --compare several, or all."""
    dim: tuple[str, ...] = ()
    """Columns of the sketch, 8192 by default, or auto; with --compare several, by default 512 2048 8192."""
    blocks: int | None = None
    """Independent parts of the sketch, from which its error is estimated; by default two, or as the kind requires."""
    sketch_seed: int = 0
    """Seed of the projection."""
    compare: Literal["exact"] | None = None
    """exact: compare sketches with the exact kernel instead; errors, time and memory for each kind and dimension."""
    repeats: int = 5
    """With --compare: seeds for each kind and dimension, from --sketch-seed on."""
    plan: Flag = False
    """Print the planned computation and its predicted cost, and stop."""
    out: Path | None = None
    """File for the kernel, ending in .npz, or with --compare for the numbers, ending in .json, with a figure of the same name ending in .png; or a
    folder for kernel.npz (comparison.json) and the figure."""
    json: Json = False

    def run(self) -> int:
        """Computes, prints and saves."""
        import numpy as np

        from ntk_select.data import load_task
        from ntk_select.tasks.probe_sample import probe_sample

        began = time.perf_counter()
        command = _with_file(self)
        _check(command)
        if command.out is not None and not command.plan:
            check_writable(command.out.expanduser().parent)
        task, expert = load_task(command.task), load_expert(command.zoo, command.expert)
        sample = probe_sample(task, per_class=command.per_class, seed=command.seed)
        x = np.asarray(expert.preprocess(sample.images))
        if command.plan:
            return _print_plan(command, expert, x)
        provenance = _provenance(command, expert, task, sample)
        if command.compare is not None:
            return _compare(command, expert, x, sample.labels, provenance)
        return _compute(command, expert, x, sample, provenance, began)


def _with_file(command: Kernel) -> Kernel:
    """The command with a file as --out where it names a folder: one that exists, or a name without an ending."""
    out, name = command.out, _file_name(command)
    if out is None or out.suffix == Path(name).suffix or (out.suffix and not out.expanduser().is_dir()):
        return command
    return dataclasses.replace(command, out=out / name)


def _file_name(command: Kernel) -> str:
    return "kernel.npz" if command.compare is None else "comparison.json"


def _check(command: Kernel) -> None:
    """Raises ConfigError before any computation for options that are invalid or exclude each other."""
    from ntk_select.kernels.engine.arguments import available_memory

    available_memory(command.memory_gb)
    given = [
        option for option in changed(command) if option not in ("--expert", "--task", "--zoo", "--kind", "--per-class", "--seed", "--out", "--json")
    ]
    of_sketch = [option for option in given if option in SKETCH_OPTIONS]
    if command.kind == "sketch":
        _check_sketch(command, given)
    elif of_sketch:
        raise ConfigError(f"{', '.join(of_sketch)} cannot be combined with --kind {command.kind}. Try: --kind sketch")
    elif command.kind == "feature" and given:
        raise ConfigError(f"{', '.join(given)} cannot be combined with --kind feature, which differentiates nothing. Try: --kind ntk")
    if command.out is None:
        return
    name = _file_name(command)
    if command.out.suffix != Path(name).suffix:
        raise ConfigError(f"--out {str(command.out)!r} does not end in {Path(name).suffix}. Try: --out {name}")
    for path in (command.out, command.out.with_suffix(".png")):
        if path.expanduser().is_dir():
            raise ConfigError(f"--out {str(command.out)!r}: {path.name} is a folder. Try: another name")


def _check_sketch(command: Kernel, given: list[str]) -> None:
    from ntk_select.kernels.sketches import Sketch

    if command.plan:
        raise ConfigError("--plan: a sketch needs no plan, it computes the gradients of each image once. Try: --kind ntk, or no --plan")
    if command.float64:
        raise ConfigError("--float64: the kernel of a sketch is always summed in float64. Try: no --float64")
    if command.by_layer:
        raise ConfigError("--by-layer separates the layers of an exact kernel. For a sketch of one layer, try: --layers PATTERN")
    if command.outputs not in SKETCH_OUTPUTS:
        raise ConfigError(
            f"--outputs {command.outputs}: a sketch has one row per image. Try: --outputs trace, or sum; ns.sketch in Python separates outputs."
        )
    kinds, dims = _kinds(command), _dims(command)
    if command.compare is None:
        several = [option for option, values in (("--sketch", kinds), ("--dim", dims)) if len(values) > 1]
        several += ["--repeats"] if "--repeats" in given else []
        if several:
            raise ConfigError(f"Several sketches at once are for comparing. With {', '.join(several)}, try: --compare exact")
        _sketch(command)
        return
    if "auto" in dims:
        raise ConfigError("--dim auto chooses one dimension, and --compare exact needs given ones. Try: --dim 512 2048 8192")
    if command.repeats < 1:
        raise ConfigError(f"--repeats {command.repeats} must be at least 1.")
    for option in ("--precision", "--memory-gb"):
        if option in given:
            raise ConfigError(f"{option}: exact and sketched kernels are compared at full precision and with all free memory. Try: no {option}")
    for kind in kinds:
        for dim in dims:
            Sketch(dim, kind, command.sketch_seed, command.blocks)


def _kinds(command: Kernel) -> list[str]:
    from ntk_select.kernels.sketches.projection import ALL_KINDS

    kinds = list(dict.fromkeys(split(command.sketch)))
    if not kinds:
        raise ConfigError(f"--sketch names no kind.{did_you_mean('', ALL_KINDS)}")
    for kind in kinds if kinds != ["all"] else ():
        if kind not in ALL_KINDS:
            raise ConfigError(f"--sketch {kind}: there is no such sketch.{did_you_mean(kind, (*ALL_KINDS, 'all'))}")
    return list(ALL_KINDS) if kinds == ["all"] else kinds


def _dims(command: Kernel) -> list[int | str]:
    """The dimensions as numbers; "auto" stays a word."""
    from ntk_select.kernels.compare import DIMS

    words = list(dict.fromkeys(split(command.dim)))
    for word in words:
        if word != "auto" and not word.removeprefix("-").isdecimal():
            raise ConfigError(f"--dim {word} must be a whole number, or auto.")
    return [word if word == "auto" else int(word) for word in words] or (list(DIMS) if command.compare else [DIM])


def _sketch(command: Kernel):
    """The sketch, with dimension and blocks as numbers: two blocks where none are given, to estimate the error."""
    from ntk_select.kernels.sketches import Sketch
    from ntk_select.kernels.sketches.projection import decided

    return decided(Sketch(_dims(command)[0], _kinds(command)[0], command.sketch_seed, command.blocks), 2)


def _provenance(command: Kernel, expert, task, sample) -> dict[str, Any]:
    import jax

    from ntk_select.data import describe

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


def _print_plan(command: Kernel, expert, x) -> int:
    from ntk_select.kernels.expert_kernel import kernel_plan, plan_costs

    options = {"layers": command.layers, "outputs": command.outputs, "precision": command.precision}
    plan = kernel_plan(expert, x, memory_gb=command.memory_gb, by_layer=command.by_layer, **options)
    if command.json:
        print_json({"plan": plan and plan_costs(plan)})
        return 0
    print_line(str(plan or "The last convolution is only pooled: forward passes and one backward step serve all outputs at once."))
    print_line("Next: " + repeated(command, without=("--plan", "--out", "--json")))
    return 0


def _compute(command: Kernel, expert, x, sample, provenance: dict[str, Any], began: float) -> int:
    from ntk_select.kernels.expert_kernel import exact_kernel, features_kernel, sketched_kernel
    from ntk_select.kernels.saved_kernel import SavedKernel

    options = {"layers": command.layers, "outputs": command.outputs, "precision": command.precision, "memory_gb": command.memory_gb}
    with progress_bar("kernel") as progress:
        if command.kind == "feature":
            found = features_kernel(expert, x)
        elif command.kind == "sketch":
            found = sketched_kernel(expert, x, _sketch(command), progress=progress, **options)
        else:
            accumulate = "float64" if command.float64 else None
            found = exact_kernel(expert, x, accumulate=accumulate, by_layer=command.by_layer, progress=progress, **options)
    made = provenance | found.how
    saved = SavedKernel(found.kernel, sample.labels, sample.class_names, sample.indices, made, found.layers, found.sketch)
    summary = saved.summary()
    correlation = summary["kernel_label_correlation"]
    files = [] if command.out is None else saving("The kernel", lambda: [saved.save(command.out), *_heat_map(command, saved, correlation)])
    if command.json:
        print_json(summary | {"provenance": made, "files": [str(path) for path in files or ()]})
    else:
        _print(command, summary, made, time.perf_counter() - began, saved=bool(files))
    return 1 if files is None else 0


def _heat_map(command: Kernel, saved, correlation: float | None) -> list[Path]:
    """Draws the heat map next to the file. A failure is reported and does not end the command."""
    from ntk_select.kernels.heat_map import heat_map

    what = "feature kernel" if command.kind == "feature" else f"{command.kind}, {command.outputs}, layers {command.layers}"
    title = f"{command.expert} on {saved.provenance['task']['name']}: {what}"
    title += "" if correlation is None else f"; correlation with the labels {correlation:.3f}"
    of = "features" if command.kind == "feature" else "gradients"
    try:
        image = heat_map(saved.kernel, saved.labels, saved.class_names, title=title, of=of)
        return [write_output(command.out.expanduser().with_suffix(".png"), image)]
    except (MissingDependencyError, ConfigError, OSError) as error:
        remark(f"No figure was written. {error}")
        return []


def _print(command: Kernel, summary: dict[str, Any], made: dict[str, Any], seconds: float, *, saved: bool) -> None:
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
        if len(rows) > MAX_LAYERS:
            rest = sum(list(summary["shares"].values())[MAX_LAYERS - 1 :])
            rows[MAX_LAYERS - 1 :] = [[f"{len(rows) - MAX_LAYERS + 1} others", f"{rest:.2%}"]]
        print_table("Shares of the layers in the trace of the kernel", ["layer", "share"], rows, right=("share",))
    if not saved:
        print_line("Next, to save it: " + repeated(command, "--out", "kernel.npz"))
    else:
        print_line(f"Next, in Python: from ntk_select.kernels.saved_kernel import load_kernel; load_kernel({str(command.out.expanduser())!r})")


def sketch_lines(summary: dict[str, Any], which: dict[str, Any]) -> list[str]:
    """The estimate of the exact kernel by a sketch, in sentences."""
    blocks = f"{which['blocks']} block{'s' if which['blocks'] > 1 else ''}"
    lines = [f"Sketch: {which['kind']}, {which['dim']} columns in {blocks}, seed {which['seed']}, scheme {which['scheme']}."]
    errors = [("predicted by the formula", summary["predicted_error"]), ("measured from the spread of the blocks", summary["measured_error"])]
    known = [f"{value:.4f} {how}" for how, value in errors if value is not None]
    lines.append(f"Relative error of the kernel: {', '.join(known) or 'unknown; more blocks allow an estimate'}.")
    score = summary["score"]
    if score is None:
        return [*lines, "Correlation with the labels: none, the kernel is constant or indistinguishable from sketching noise."]
    interval = f"95 % interval for the exact kernel [{score['low']:.4f}, {score['high']:.4f}]" if score["low"] is not None else None
    return [*lines, f"Correlation with the labels: {score['value']:.4f}, {interval or 'no interval; more blocks allow one'}."]


def _compare(command: Kernel, expert, x, labels, provenance: dict[str, Any]) -> int:
    """Compares sketches with the exact kernel, prints and saves. Returns 1 if some sketch could not be computed."""
    from ntk_select.kernels import comparison_plot
    from ntk_select.kernels.compare import compare
    from ntk_select.kernels.sketches.hashing import SCHEME

    seeds = list(range(command.sketch_seed, command.sketch_seed + command.repeats))
    options = {"kinds": _kinds(command), "dims": _dims(command), "seeds": seeds, "blocks": command.blocks}
    with progress_bar("comparing") as progress:
        found = compare({expert.name: expert}, x, labels, layers=command.layers, outputs=command.outputs, progress=progress, **options)
    made = provenance | {"layers": command.layers, "outputs": command.outputs, "sketch": options | {"scheme": SCHEME}}
    record, files = found.to_dict() | {"provenance": made}, []
    if command.out is not None:
        path = command.out.expanduser()
        files.append(write_output(path, (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()))
        title = f"{command.expert} on {made['task']['name']}: sketched and exact kernel, layers {command.layers}"
        try:
            files.append(write_output(path.with_suffix(".png"), comparison_plot.comparison_figure(found, title=title)))
        except (MissingDependencyError, ConfigError) as error:
            remark(f"No figure was written. {error}")
    if command.json:
        print_json(record | {"files": [str(path) for path in files]})
    else:
        _print_comparison(command, found, made["task"]["name"])
    for path in files:
        remark(f"wrote {path}")
    return 1 if found.left_out else 0


def _print_comparison(command: Kernel, found, task: str) -> None:
    from ntk_select.kernels.comparison import COLUMNS

    (exact,) = found.exact
    columns, rows = found.table()
    if rows:
        seeds = f"{command.repeats} seed{'s' if command.repeats > 1 else ''}"
        title = f"{exact.expert} on {task}: sketched and exact kernel of {exact.images} images, layers {command.layers}, {seeds}"
        print_table(title, columns, rows, right=columns[1:])
        meanings = [f"{column}: {COLUMNS[column].meaning}" for column in columns if COLUMNS[column].meaning]
        print_line(f"Columns, errors as root mean squares over seeds. {'; '.join(meanings)}.")
    peak = "" if exact.peak_bytes is None else f", {exact.peak_bytes / 1e6:.3g} MB at most"
    score = "is undefined" if exact.correlation is None else f"{exact.correlation:.4f}"
    print_line(f"Exact: LGC {score}, in {exact.seconds:.3f} s{peak}; the kernel takes {exact.bytes / 1e6:.3g} MB.")
    print_line(f"Law: sqrt((1 + r) / k), r = (tr K)^2 / |K|^2 = {exact.effective_rank:.2f} of at most {exact.images}.")
    if found.slopes():
        print_line("Error falls with k to the power: " + ", ".join(f"{slope:.2f} ({kind})" for kind, slope in found.slopes().items()) + ".")
    for cell in found.left_out:
        print_line(f"{cell.kind}, {cell.dim} columns: {cell.reason}", style="red")
    if command.out is None:
        print_line("Next, to save it with a figure: " + repeated(command, "--out", "comparison.json"))
        return
    best = ("--sketch", _kinds(command)[0], "--dim", str(max(_dims(command))), "--out", "kernel.npz")
    print_line(
        "Next, one of these kernels itself: " + repeated(command, *best, without=("--sketch", "--dim", "--compare", "--repeats", "--out", "--json"))
    )
